//! Many remote hits at a time, and long reads from a server, beside bare QUIC with the same frames.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Pid;
use serde::Serialize;

use super::{Bench, FILE};
use crate::latency::median;
use crate::pages::PAGE_BYTES;
use crate::pool::{Client, Lender};
use crate::quic_echo::{Echo, Shape};
use crate::reads::Places;

/// Reads, and requests of the bare exchange, that are outstanding.
const OUTSTANDING: usize = 64;
/// Long requests of the bare exchange that are outstanding: as many megabytes as readahead asks for.
const LONG_OUTSTANDING: usize = 2;

/// The stream of the echo for each shape.
pub(super) const GET: usize = 1;
pub(super) const LONG_GET: usize = 2;

/// Medians over the rounds.
#[derive(Serialize)]
pub(crate) struct Busy {
    /// 4 KiB with 64 outstanding, a second.
    pub(crate) echo_per_second: f64,
    pub(crate) remote_per_second: f64,
    pub(crate) ratio: f64,
    /// What the client's process spends on a remote hit, and what a bare client does.
    pub(crate) echo_cpu_us: f64,
    pub(crate) client_cpu_us: f64,
    /// Sequential reads of 1 MiB from a server, in millions of bytes a second.
    pub(crate) long_echo: f64,
    pub(crate) long_remote: f64,
    pub(crate) long_ratio: f64,
}

#[derive(Clone, Copy)]
struct Round {
    echo: f64,
    remote: f64,
    echo_cpu_us: f64,
    client_cpu_us: f64,
    long_echo: f64,
    long_remote: f64,
}

/// Measures a mount of which nearly all lies on a server; `offsets` are those that it has read the longest ago.
pub(super) fn measure(
    bench: &Bench<'_>,
    echo: &Echo,
    lender: &mut Lender,
    client: &mut Client,
    offsets: &[u64],
) -> Result<Busy> {
    let cpus = bench.placement.cpus(OUTSTANDING);
    cpus.hold_process(echo.server().pid());
    cpus.hold_process(lender.daemon().pid());
    let each = offsets.len() / bench.rounds as usize;
    let mut rounds = Vec::new();
    for slice in offsets.chunks_exact(each).take(bench.rounds as usize) {
        bench.progress.say("many remote hits");
        let bare = echo.measure_many(GET, OUTSTANDING, bench.measured, cpus, bench.stop)?;
        let (before, spent) = (client.status()?, cpu_time(client.daemon().pid())?);
        let reads = bench.client(client, FILE, OUTSTANDING, Places::List(slice))?;
        let spent = cpu_time(client.daemon().pid())?.saturating_sub(spent);
        let hits = client.status()?.layers_since(&before).remote.reads as f64;

        bench.progress.say("long reads from a server");
        let long =
            echo.measure_many(LONG_GET, LONG_OUTSTANDING, bench.measured, cpus, bench.stop)?;
        let long_reads = bench.client(client, FILE, 1, bench.sequential())?;
        bench.progress.step();
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        rounds.push(Round {
            echo: bare.per_second(),
            remote: hits / reads.elapsed.as_secs_f64(),
            echo_cpu_us: micros(bare.cpu) / bare.exchanges as f64,
            client_cpu_us: micros(spent) / hits,
            long_echo: long.per_second() * (Shape::LONG_BLOCKS * PAGE_BYTES) as f64 / 1e6,
            long_remote: long_reads.megabytes_per_second(),
        });
    }
    let over = |of: &dyn Fn(&Round) -> f64| median(&rounds.iter().map(of).collect::<Vec<_>>());
    Ok(Busy {
        echo_per_second: over(&|round| round.echo),
        remote_per_second: over(&|round| round.remote),
        ratio: over(&|round| round.remote / round.echo),
        echo_cpu_us: over(&|round| round.echo_cpu_us),
        client_cpu_us: over(&|round| round.client_cpu_us),
        long_echo: over(&|round| round.long_echo),
        long_remote: over(&|round| round.long_remote),
        long_ratio: over(&|round| round.long_remote / round.long_echo),
    })
}

/// What a process has spent so far, in user mode and in the kernel (proc(5), stat).
fn cpu_time(process: Pid) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()))?;
    // The name may hold blanks, and ends with the last parenthesis.
    let (_, fields) = stat.rsplit_once(')').context("no such process")?;
    let ticks = |n: usize| fields.split_whitespace().nth(n)?.parse::<u64>().ok();
    let ticks = ticks(11).zip(ticks(12)).map(|(user, system)| user + system);
    let ticks = ticks.context("the kernel tells no times")?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}
