//! PostgreSQL with pgbench: its own transactions, like TPC-B, or their selects only.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow};
use rustix::process::Signal;

use super::files::large_files;
use super::fio::read_once;
use super::{Task, Told, Work};
use crate::postgres::{Cluster, need};
use crate::suite::figures::{Figures, Hole, Latency};
use crate::tool::Ended;

/// Of the database for each step of `--scale`, with its index.
const SCALE_BYTES: u64 = 15 << 20;
const CLIENTS: &str = "8";
/// The filesystem is to do the caching.
const SETTINGS: [&str; 4] =
    ["shared_buffers=16MB", "max_wal_size=256MB", "huge_pages=off", "autovacuum=off"];
/// Shared buffers, and the processes of the clients. Measured with eight of them: 45 MiB.
pub(super) const OWN_MEMORY: u64 = 48 << 20;

/// The workload.
pub(super) struct Pgbench {
    pub(super) selects_only: bool,
}

impl Work for Pgbench {
    fn prepare(&self, task: &Task<'_>, dir: &Path) -> Result<(), Hole> {
        for program in ["initdb", "pgbench"] {
            need(program).find().map_err(|_| Hole::NotInstalled("postgresql".to_owned()))?;
        }
        // Not within the row's memory, nor through its mount.
        let cluster = cluster(task, dir, &|_| Ok(()))?;
        done(&cluster.init()?)?;
        let server = cluster.start()?;
        let scale = (task.bytes / SCALE_BYTES).max(1).to_string();
        done(&cluster.client("pgbench", &["-i", "-q", "-s", &scale, "postgres"])?)?;
        cluster.stop(server, Signal::INT)?;
        Ok(())
    }

    /// Chance would leave some of it out for long.
    fn warm(&self, task: &Task<'_>) -> Result<(), Hole> {
        read_once(task, &large_files(&task.dir)?)
    }

    fn work(&self, task: &Task<'_>, seconds: u32) -> Result<Told, Hole> {
        let enter = |command: &mut Command| task.place.enter(command);
        let cluster = cluster(task, &task.dir, &enter)?;
        let server = cluster.start()?;
        let log = cluster.aside().join(&task.name);
        let (prefix, seconds) = (format!("--log-prefix={}", log.display()), seconds.to_string());
        let mut arguments = vec!["-n", "-c", CLIENTS, "-j", "2", "-T", &seconds, "-l", &prefix];
        if self.selects_only {
            arguments.push("-S");
        }
        arguments.push("postgres");
        let ended = cluster.client("pgbench", &arguments)?;
        cluster.stop(server, Signal::INT)?;
        done(&ended)?;
        let per_second = transactions(&ended.output)?;
        let latency = latency(cluster.aside(), &task.name)?;
        // The last argument but one is a path of this run.
        arguments.retain(|argument| *argument != prefix && *argument != "-l");
        let commands = vec![
            format!("postgres -c {}", SETTINGS.join(" -c ")),
            format!("pgbench {}", arguments.join(" ")),
        ];
        Ok(Told { figures: Figures { per_second, latency, ..Figures::default() }, commands })
    }
}

fn cluster<'a>(
    task: &'a Task<'_>,
    dir: &Path,
    enter: &'a dyn Fn(&mut Command) -> Result<()>,
) -> Result<Cluster<'a>> {
    // A short name: the path of a socket has 107 bytes at most.
    let aside = task.scene.pool.scratch().join("pg");
    Cluster::new(dir.join("pgdata"), aside, &SETTINGS, enter, task.scene.stop)
}

fn done(ended: &Ended) -> Result<()> {
    ended.result().map_err(|why| anyhow!("PostgreSQL: {why}"))
}

/// "tps = 1234.5 (without initial connection time)".
fn transactions(printed: &str) -> Result<f64> {
    let line = printed.lines().find_map(|line| line.strip_prefix("tps = "));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.context("pgbench told no figure")
}

/// From logs of a line for each transaction, of which the third field is its microseconds. Removes them.
fn latency(dir: &Path, name: &str) -> Result<Option<Latency>> {
    let mut times: Vec<f64> = Vec::new();
    for entry in std::fs::read_dir(dir).context("pgbench's logs are gone")?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(name) {
            let text = std::fs::read_to_string(entry.path())?;
            let us = |line: &str| line.split(' ').nth(2)?.parse::<f64>().ok();
            times.extend(text.lines().filter_map(us));
            std::fs::remove_file(entry.path())?;
        }
    }
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    Ok((!times.is_empty()).then(|| Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_prints_is_understood() {
        let text = "latency average = 0.5 ms\ntps = 1234.5 (without initial connection time)\n";
        assert_eq!(transactions(text).unwrap(), 1234.5);
        assert!(transactions("nothing").is_err());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("run.1"), "0 1 100 0 1 2\n0 2 300 0 1 2\n").unwrap();
        std::fs::write(dir.path().join("run.1.1"), "0 1 200 0 1 2\n").unwrap();
        assert_eq!(latency(dir.path(), "run").unwrap().unwrap().p50, 200.0);
        assert!(latency(dir.path(), "run").unwrap().is_none(), "they are removed");
    }
}
