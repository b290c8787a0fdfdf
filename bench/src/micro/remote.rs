//! Remote hits beside a bare exchange over QUIC.
//!
//! The mount's cache holds an eighth of the file, a server holds the rest. The file is read in one
//! random order again and again, so that a block comes round only after all others have: nearly
//! every read is a remote hit.

use anyhow::Result;
use rampool_cli::size::ByteSize;
use serde::Serialize;

use super::busy::{self, Busy};
use super::{Bench, FILE, FILE_BYTES};
use crate::latency::{Latencies, median};
use crate::pool::{Client, Lender};
use crate::quic_echo::{Echo, Shape};
use crate::reads::{Places, shuffled_offsets};
use crate::status::{Layers, ServerStatus};

const CACHE: ByteSize = ByteSize::mib(32);
const LEND: ByteSize = ByteSize::mib(1024);
const BLOCKS_PER_ROUND: usize = 4000;
/// Passes over the file, at most, until it is lent.
const PASSES_MAX: usize = 4;
/// The share of remote hits in a pass that is enough.
const REMOTE_SHARE_ENOUGH: f64 = 0.8;

/// Medians over the rounds, in microseconds.
#[derive(Serialize)]
pub(crate) struct Remote {
    pub(crate) null_p50_us: f64,
    /// 4 KiB each way.
    pub(crate) echo_p50_us: f64,
    pub(crate) echo_p99_us: f64,
    /// As long as a GET and its answer.
    pub(crate) get_p50_us: f64,
    pub(crate) get_p99_us: f64,
    /// Of remote hits, as the application sees them. NaN when there were hardly any.
    pub(crate) remote_p50_us: f64,
    pub(crate) remote_p99_us: f64,
    /// Of remote hits, as the client counts them from inside.
    pub(crate) inside_p50_us: Option<f64>,
    /// `remote_p50_us` over the sum of null server and echo, the median of the rounds.
    pub(crate) ratio: f64,
    /// The part of the reads that were remote hits, 0 to 1.
    pub(crate) remote_share: f64,
}

/// Measures with a server and a mount of its own.
pub(super) fn measure(bench: &mut Bench<'_>) -> Result<(Remote, Busy, ServerStatus)> {
    let keys = (&bench.pool.server_keys, &bench.pool.client_keys);
    let shapes = [Shape::ECHO, Shape::GET, Shape::LONG_GET];
    let echo = Echo::start(keys.0, keys.1, &shapes, bench.stop)?;
    let mut lender = bench.pool.lend(LEND, bench.stop)?;
    let mut client = bench.mount("remote", Some(lender.address), CACHE)?;
    let offsets = shuffled_offsets(FILE_BYTES, 6);
    lend_out(bench, &mut client, &offsets)?;

    let each = BLOCKS_PER_ROUND.min(offsets.len() / bench.rounds as usize);
    let mut rounds = Vec::new();
    let before = client.status()?;
    for slice in offsets.chunks_exact(each).take(bench.rounds as usize) {
        rounds.push(round(bench, &echo, &mut lender, &mut client, slice)?);
    }
    let layers = client.status()?.layers_since(&before);
    let over = |of: &dyn Fn(&Round) -> f64| median(&rounds.iter().map(of).collect::<Vec<_>>());
    let remote = Remote {
        null_p50_us: over(&|round| round.null.quantile_us(0.5)),
        echo_p50_us: over(&|round| round.echo.quantile_us(0.5)),
        echo_p99_us: over(&|round| round.echo.quantile_us(0.99)),
        get_p50_us: over(&|round| round.get.quantile_us(0.5)),
        get_p99_us: over(&|round| round.get.quantile_us(0.99)),
        remote_p50_us: over(&|round| round.remote_us(0.5)),
        remote_p99_us: over(&|round| round.remote_us(0.99)),
        inside_p50_us: layers.remote.buckets.quantile_us(0.5),
        ratio: over(&|round| {
            round.remote_us(0.5) / (round.null.quantile_us(0.5) + round.echo.quantile_us(0.5))
        }),
        remote_share: layers.share(&layers.remote),
    };
    let rest = &offsets[each * bench.rounds as usize..];
    let busy = busy::measure(bench, &echo, &mut lender, &mut client, rest)?;
    Ok((remote, busy, lender.status()?))
}

struct Round {
    null: Latencies,
    echo: Latencies,
    get: Latencies,
    reads: Latencies,
    layers: Layers,
}

impl Round {
    /// The quantile of the remote hits among the application's reads. The application cannot tell
    /// who answered, but local hits are the fastest and the source the slowest of a mixture that
    /// is nearly all remote.
    fn remote_us(&self, quantile: f64) -> f64 {
        let remote = self.layers.share(&self.layers.remote);
        if remote < 0.5 {
            return f64::NAN;
        }
        self.reads.quantile_us(self.layers.share(&self.layers.local) + remote * quantile)
    }
}

fn round(
    bench: &mut Bench<'_>,
    echo: &Echo,
    lender: &mut Lender,
    client: &mut Client,
    offsets: &[u64],
) -> Result<Round> {
    let random = bench.random();
    let null = bench.null(1, random)?.latencies;

    bench.progress.say("echo over QUIC");
    let cpus = bench.placement.cpus(1);
    cpus.hold_process(echo.server().pid());
    cpus.hold_process(lender.daemon().pid());
    let exchanges = echo.measure(0, bench.measured, cpus, bench.stop)?;
    let get = echo.measure(busy::GET, bench.measured, cpus, bench.stop)?;
    bench.progress.step();

    bench.progress.say("remote hits");
    let before = client.status()?;
    let reads = bench.client(client, FILE, 1, Places::List(offsets))?.latencies;
    let layers = client.status()?.layers_since(&before);
    bench.progress.step();
    Ok(Round { null, echo: exchanges, get, reads, layers })
}

/// Reads the file until most of it is answered by the server.
fn lend_out(bench: &Bench<'_>, client: &mut Client, offsets: &[u64]) -> Result<()> {
    bench.progress.say("lends the file to a server");
    for _ in 0..PASSES_MAX {
        let before = client.status()?;
        bench.client(client, FILE, 4, Places::List(offsets))?;
        let layers = client.settle(bench.stop)?.layers_since(&before);
        if layers.share(&layers.remote) > REMOTE_SHARE_ENOUGH {
            break;
        }
    }
    bench.progress.step();
    Ok(())
}
