//! Cold misses beside O_DIRECT reads of the source.
//!
//! Both read blocks of the same file in one random order, each block once and by one side only:
//! what the disk or its host has just read must not be read again by the other side.

use anyhow::Result;
use serde::Serialize;

use super::{Bench, CACHE, FILE, FILE_BYTES};
use crate::latency::median;
use crate::reads::{self, Load, Open, Places, shuffled_offsets};

/// Blocks that each side reads in a round, where the file is large enough for all rounds.
const BLOCKS_PER_ROUND: usize = 4000;

/// Medians over the rounds, in microseconds.
#[derive(Serialize)]
pub(crate) struct Cold {
    pub(crate) null_p50_us: f64,
    pub(crate) direct_p50_us: f64,
    pub(crate) direct_p99_us: f64,
    pub(crate) cold_p50_us: f64,
    pub(crate) cold_p99_us: f64,
    /// What a cold miss costs beyond the null server's answer and the disk's.
    pub(crate) excess_us: f64,
    /// The part of the reads that really came from the source, 0 to 1.
    pub(crate) source_share: f64,
}

/// Measures on a fresh mount without a server.
pub(super) fn measure(bench: &mut Bench<'_>) -> Result<Cold> {
    bench.progress.say("cold misses");
    let mut client = bench.mount("cold", None, CACHE)?;
    let offsets = shuffled_offsets(FILE_BYTES, 3);
    let each = BLOCKS_PER_ROUND.min(offsets.len() / 2 / bench.rounds as usize);
    let mut slices = offsets.chunks_exact(each);
    let mut next = || Places::List(slices.next().expect("there are two for each round"));

    let cpus = bench.placement.cpus(1);
    let before = client.status()?;
    let mut rounds = Vec::new();
    for _ in 0..bench.rounds {
        let random = bench.random();
        let null = bench.null(1, random)?;
        let load = Load { jobs: 1, places: next(), open: Open::Direct, cpus };
        let direct = reads::run(&bench.file, load, bench.stop)?;
        let cold = bench.client(&mut client, FILE, 1, next())?;
        rounds.push([null.latencies, direct.latencies, cold.latencies]);
        bench.progress.step();
    }
    let layers = client.status()?.layers_since(&before);
    let p = |side: usize, quantile: f64| {
        median(&rounds.iter().map(|round| round[side].quantile_us(quantile)).collect::<Vec<_>>())
    };
    let excess = rounds.iter().map(|round| {
        let [null, direct, cold] = round.each_ref().map(|side| side.quantile_us(0.5));
        cold - null - direct
    });
    Ok(Cold {
        null_p50_us: p(0, 0.5),
        direct_p50_us: p(1, 0.5),
        direct_p99_us: p(1, 0.99),
        cold_p50_us: p(2, 0.5),
        cold_p99_us: p(2, 0.99),
        excess_us: median(&excess.collect::<Vec<_>>()),
        source_share: layers.share(&layers.source),
    })
}
