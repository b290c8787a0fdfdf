//! Local hits beside a FUSE server that answers from memory.

use anyhow::Result;
use serde::Serialize;

use super::{Bench, FILE, FILE_BYTES};
use crate::latency::{Measured, median};
use crate::pool::Client;
use crate::reads::{Places, shuffled_offsets};

/// How many loads there are.
pub(super) const ROWS: usize = 4;

const SCATTERED: &str = "scattered";
const SCATTERED_BYTES: u64 = 128 << 20;

/// One load, served by both.
#[derive(Serialize)]
pub(crate) struct Hits {
    /// The load in words.
    pub(crate) load: &'static str,
    /// What `null` and `local` count.
    pub(crate) unit: &'static str,
    /// By the null server.
    pub(crate) null: f64,
    /// By rampool's local cache.
    pub(crate) local: f64,
    /// `local` over `null`, the median of the rounds.
    pub(crate) ratio: f64,
    /// Latencies in microseconds.
    pub(crate) null_p50_us: f64,
    pub(crate) null_p99_us: f64,
    pub(crate) local_p50_us: f64,
    pub(crate) local_p99_us: f64,
    /// The part of rampool's reads that really were local hits, 0 to 1.
    pub(crate) local_share: f64,
}

/// One of the loads that both are put under.
struct Row {
    load: &'static str,
    unit: &'static str,
    file: &'static str,
    jobs: usize,
    places: Places<'static>,
}

/// Measures all loads. `client` has a cache that holds both files.
pub(super) fn measure(bench: &mut Bench<'_>, client: &mut Client) -> Result<Vec<Hits>> {
    fill(bench, client)?;
    let (random, sequential) = (bench.random(), bench.sequential());
    let row = |load, unit, file, jobs, places| Row { load, unit, file, jobs, places };
    let rows = [
        row("4 KiB random, 1 job", "reads/s", FILE, 1, random),
        row("4 KiB random, 4 jobs", "reads/s", FILE, 4, random),
        row("1 MiB sequential", "MB/s", FILE, 1, sequential),
        row("  of blocks cached in random order", "MB/s", SCATTERED, 1, sequential),
    ];
    let mut rounds: [Vec<Round>; ROWS] = Default::default();
    let before = client.status()?;
    for round in 0..bench.rounds {
        for (Row { load, file, jobs, places, .. }, rounds) in rows.iter().zip(&mut rounds) {
            bench.progress.say(format!("local hits: {load}"));
            // Who goes first changes from round to round, so that neither always follows.
            let (null, local) = if round % 2 == 0 {
                let null = bench.null(*jobs, *places)?;
                (null, bench.client(client, file, *jobs, *places)?)
            } else {
                let local = bench.client(client, file, *jobs, *places)?;
                (bench.null(*jobs, *places)?, local)
            };
            rounds.push(Round { null, local });
            bench.progress.step();
        }
    }
    let layers = client.status()?.layers_since(&before);
    let local_share = layers.share(&layers.local);
    let result = rows.into_iter().zip(rounds).map(|(Row { load, unit, places, .. }, rounds)| {
        let speed = |measured: &Measured| match places {
            Places::Sequential { .. } => measured.megabytes_per_second(),
            _ => measured.iops(),
        };
        let over = |of: &dyn Fn(&Round) -> f64| median(&rounds.iter().map(of).collect::<Vec<_>>());
        Hits {
            load,
            unit,
            null: over(&|round| speed(&round.null)),
            local: over(&|round| speed(&round.local)),
            ratio: over(&|round| speed(&round.local) / speed(&round.null)),
            null_p50_us: over(&|round| round.null.latencies.quantile_us(0.5)),
            null_p99_us: over(&|round| round.null.latencies.quantile_us(0.99)),
            local_p50_us: over(&|round| round.local.latencies.quantile_us(0.5)),
            local_p99_us: over(&|round| round.local.latencies.quantile_us(0.99)),
            local_share,
        }
    });
    Ok(result.collect())
}

struct Round {
    null: Measured,
    local: Measured,
}

/// Brings both files into the cache: one as a stream, which leaves neighbours side by side, and
/// one at random.
fn fill(bench: &Bench<'_>, client: &mut Client) -> Result<()> {
    bench.progress.say("fills the local cache");
    bench.client(client, FILE, 1, Places::Whole)?;
    // What of a stream was kept out of the cache is brought in after all.
    bench.client(client, FILE, 4, Places::List(&shuffled_offsets(FILE_BYTES, 2)))?;
    let source = format!("source/{SCATTERED}");
    bench.pool.scratch().random_file(&source, SCATTERED_BYTES, 7)?;
    bench.client(client, SCATTERED, 4, Places::List(&shuffled_offsets(SCATTERED_BYTES, 8)))?;
    bench.progress.step();
    Ok(())
}
