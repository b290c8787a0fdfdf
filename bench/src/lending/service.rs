//! A lender at work: Redis with its own benchmark, while the client uses all that is lent.
//!
//! Redis and its benchmark have one CPU, the server that lends and the client share the others: what is
//! shown is what memory costs, not that two machines are played by one.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::owner::Order;
use super::stage::{Cast, Layout, Stage, Way};
use crate::binaries::output;
use crate::daemon::Daemon;
use crate::placement::Cpus;

/// Requests of each kind.
const REQUESTS: u32 = 1_000_000;
/// Keys, and how long a value is: a third of a gigabyte is written.
const KEYS: u32 = 300_000;
const VALUE_BYTES: u32 = 1024;

/// What the benchmark said of its two kinds of requests.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Service {
    pub(super) sets: Requests,
    pub(super) gets: Requests,
}

/// Of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Requests {
    pub(super) per_second: f64,
    pub(super) p99_ms: f64,
}

/// Whether the programs are here.
pub(super) fn is_here() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    has("redis-server") && has("redis-benchmark") && has("taskset")
}

/// Runs it once.
pub(super) fn run(stage: &Stage<'_>, way: Way, layout: Layout) -> Result<Service> {
    let mut cast = stage.begin(way, layout)?;
    cast.leave_first_cpu();
    stage.say(way, "Redis works on the lender");
    let socket = stage.pool.scratch().join("redis.sock");
    let mut command = pinned("redis-server");
    command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(&socket);
    cast.place_owner(&mut command)?;
    let mut redis = Daemon::start("redis-server", command)?;
    redis.wait_until(stage.stop, |_| socket.exists().then_some(()))?;
    cast.fill()?;
    let client = cast.client_reads(0, 4096, u64::from(stage.disk_iops) / 2, Order::Random)?;
    if let Some(others) = Cpus::all_but_first() {
        others.hold_process(client.pid());
    }
    std::thread::sleep(Duration::from_secs(1));
    let sets = benchmark(&cast, &socket, "set")?;
    let gets = benchmark(&cast, &socket, "get")?;
    let _ = std::fs::remove_file(&socket);
    Ok(Service { sets, gets })
}

fn benchmark(cast: &Cast<'_>, socket: &PathBuf, kind: &str) -> Result<Requests> {
    let mut command = pinned("redis-benchmark");
    command.arg("-s").arg(socket).args(["-t", kind, "--csv"]).stdin(Stdio::null());
    for (flag, value) in [("-n", REQUESTS), ("-r", KEYS), ("-d", VALUE_BYTES)] {
        command.args([flag, &value.to_string()]);
    }
    cast.place_owner(&mut command)?;
    let text = output(command)?;
    parse(&text).with_context(|| format!("redis-benchmark said '{}'", text.trim()))
}

fn pinned(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0", program]);
    command
}

/// A line of names and a line of values, both in quotes.
fn parse(csv: &str) -> Result<Requests> {
    let mut lines = csv.lines().filter(|line| line.starts_with('"'));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { bail!("too few lines") };
    let split = |line: &str| -> Vec<String> {
        line.split(',').map(|field| field.trim_matches('"').to_owned()).collect()
    };
    let (names, values) = (split(names), split(values));
    let value = |name: &str| -> Result<f64> {
        let place = names.iter().position(|found| found == name);
        let text = place.and_then(|place| values.get(place)).context("a column is missing")?;
        Ok(text.parse()?)
    };
    Ok(Requests { per_second: value("rps")?, p99_ms: value("p99_latency_ms")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_benchmarks_table_is_understood() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                   \"p99_latency_ms\",\"max_latency_ms\"\n\
                   \"SET\",\"81234.5\",\"0.1\",\"0.0\",\"0.1\",\"0.2\",\"0.311\",\"4.0\"\n";
        assert_eq!(parse(csv).unwrap(), Requests { per_second: 81234.5, p99_ms: 0.311 });
        assert!(parse("nonsense").is_err());
    }
}
