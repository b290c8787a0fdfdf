//! Local hits beside a FUSE server that answers from memory.

use anyhow::Result;
use serde::Serialize;

use super::Bench;
use crate::latency::{Measured, median};
use crate::pool::Client;
use crate::reads::{Places, shuffled_offsets};

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

/// Measures the three loads. `client` has a cache that holds the file.
pub(super) fn measure(bench: &mut Bench<'_>, client: &mut Client) -> Result<Vec<Hits>> {
    fill(bench, client)?;
    let loads = [
        ("4 KiB random, 1 job", "reads/s", 1, bench.random()),
        ("4 KiB random, 4 jobs", "reads/s", 4, bench.random()),
        ("1 MiB sequential", "MB/s", 1, bench.sequential()),
    ];
    let mut rounds: [Vec<Round>; 3] = Default::default();
    let before = client.status()?;
    for round in 0..bench.rounds {
        for ((name, _, jobs, places), rounds) in loads.into_iter().zip(&mut rounds) {
            bench.progress.say(format!("local hits: {name}"));
            // Who goes first changes from round to round, so that neither always follows.
            let (null, local) = if round % 2 == 0 {
                let null = bench.null(jobs, places)?;
                (null, bench.client(client, jobs, places)?)
            } else {
                let local = bench.client(client, jobs, places)?;
                (bench.null(jobs, places)?, local)
            };
            rounds.push(Round { null, local });
            bench.progress.step();
        }
    }
    let layers = client.status()?.layers_since(&before);
    let local_share = layers.share(&layers.local);
    let result = loads.into_iter().zip(rounds).map(|((load, unit, _, places), rounds)| {
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

/// Brings the whole file into the cache: at random, since a stream may be kept out of it.
fn fill(bench: &Bench<'_>, client: &mut Client) -> Result<()> {
    bench.progress.say("fills the local cache");
    let offsets = shuffled_offsets(super::FILE_BYTES, 2);
    bench.client(client, 4, Places::List(&offsets))?;
    bench.progress.step();
    Ok(())
}
