//! Steps two and three: random blocks of the large files, round after round, and a server that is
//! killed in the middle of the last.
//!
//! Each block is compared with its checksum from step one. Between rounds the mount may finish
//! lending what it evicted; that is not measured.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Scene;
use super::blocks::{Place, WorkingSet};
use super::watch::{Queue, watch};
use crate::latency::Latencies;
use crate::pages::{PAGE_BYTES, PageBuffer};
use crate::pool::{Client, Lender};
use crate::status::{ClientStatus, Layers};

/// Rounds in all.
pub(super) const ROUNDS: u64 = 4;
/// Longest of a round but the first.
const ROUND_MAX: Duration = Duration::from_secs(9);
/// Longest after the kill.
const AFTER_KILL_MAX: Duration = Duration::from_secs(8);

/// A round.
pub(super) struct Round {
    pub(super) layers: Layers,
    pub(super) elapsed: Duration,
}

/// What followed the kill.
pub(super) struct Kill {
    /// Reads that ended after it.
    pub(super) reads: u64,
    /// The longest of them.
    pub(super) longest_us: f64,
    /// Reads that were answered by the source after it.
    pub(super) from_source: u64,
    /// Errors that applications saw after it.
    pub(super) errors: u64,
}

/// All rounds.
pub(super) struct Rounds {
    pub(super) rounds: Vec<Round>,
    pub(super) kill: Kill,
    /// From the start of the first round to the kill.
    pub(super) with_server: Layers,
    pub(super) blocks: usize,
}

/// Runs all rounds. The first reads each block once; the others draw as many at random. The first
/// may take `first_max`; what it did not reach is left out of the others, so that they find their
/// blocks lent.
pub(super) fn run(
    mut set: WorkingSet<'_>,
    client: &mut Client,
    lender: &mut Lender,
    first_max: Duration,
    scene: &Scene<'_>,
) -> Result<Rounds> {
    let mut rounds = Vec::new();
    let start = client.settle(scene.stop)?;
    let mut before = start.clone();
    for round in 1..ROUNDS {
        scene.progress.say(format!("random blocks, round {round} of {ROUNDS}"));
        let time_max = if round == 1 { first_max } else { ROUND_MAX };
        let places = if round == 1 { set.shuffled(round) } else { set.draw(set.len(), round) };
        let read = measure(&set, &places, client, time_max, round, scene)?;
        if round == 1 {
            set.keep_first(read.done);
        }
        let after = client.settle(scene.stop)?;
        rounds.push(Round { layers: after.layers_since(&before), elapsed: read.elapsed });
        before = after;
    }
    scene.progress.say("random blocks, last round, with a kill");
    let (last, kill, at_kill) = last_round(&set, client, lender, &before, scene)?;
    rounds.push(last);
    let with_server = at_kill.layers_since(&start);
    Ok(Rounds { rounds, kill, with_server, blocks: set.len() })
}

struct Read {
    done: usize,
    elapsed: Duration,
}

fn measure(
    set: &WorkingSet<'_>,
    places: &[Place],
    client: &mut Client,
    time_max: Duration,
    round: u64,
    scene: &Scene<'_>,
) -> Result<Read> {
    let start = Instant::now();
    let queue = Queue::new(places.len());
    let read = || {
        let mut buffer = PageBuffer::new(PAGE_BYTES);
        while let Some(item) = queue.take() {
            set.read(places[item], &mut buffer, scene.tally);
            queue.finished();
        }
    };
    let tick = || {
        if start.elapsed() > time_max {
            queue.close();
        }
        let share = (queue.done() as f64 / queue.len().max(1) as f64)
            .max(start.elapsed().as_secs_f64() / time_max.as_secs_f64());
        scene.progress.at(super::steps_at(round, share));
        Ok(())
    };
    watch(&queue, client.daemon(), scene.stop, read, || queue.done() as u64, tick)?;
    Ok(Read { done: queue.done(), elapsed: start.elapsed() })
}

/// The round in which the server is killed when half of the blocks are read.
fn last_round(
    set: &WorkingSet<'_>,
    client: &mut Client,
    lender: &mut Lender,
    before: &ClientStatus,
    scene: &Scene<'_>,
) -> Result<(Round, Kill, ClientStatus)> {
    let places = set.draw(set.len(), ROUNDS);
    let start = Instant::now();
    let queue = Queue::new(places.len());
    let killed = AtomicBool::new(false);
    let read = || {
        let mut buffer = PageBuffer::new(PAGE_BYTES);
        let mut after_kill = Latencies::new();
        while let Some(item) = queue.take() {
            let latency = set.read(places[item], &mut buffer, scene.tally);
            if killed.load(Relaxed) {
                after_kill.record(latency);
            }
            queue.finished();
        }
        after_kill
    };
    let asker = client.asker();
    let mut at_kill = None;
    let tick = || {
        let half = queue.done() * 2 >= queue.len() || start.elapsed() > ROUND_MAX / 2;
        match &at_kill {
            None if half => {
                let status = asker.status()?;
                killed.store(true, Relaxed);
                lender.daemon().kill()?;
                at_kill = Some((status, Instant::now(), scene.tally.errors()));
                scene.progress.line("The server was killed.");
            }
            Some((_, when, _)) if when.elapsed() > AFTER_KILL_MAX => queue.close(),
            _ => {}
        }
        let share = queue.done() as f64 / queue.len().max(1) as f64;
        scene.progress.at(super::steps_at(ROUNDS, share));
        Ok(())
    };
    let parts = watch(&queue, client.daemon(), scene.stop, read, || queue.done() as u64, tick)?;
    let elapsed = start.elapsed();
    let (at_kill, _, errors_before) =
        at_kill.context("the last round was over before the server could be killed")?;
    let after = client.status()?;
    let mut latencies = Latencies::new();
    parts.iter().for_each(|part| latencies.add(part));
    let kill = Kill {
        reads: latencies.count(),
        longest_us: latencies.max_us(),
        from_source: after.layers_since(&at_kill).source.reads,
        errors: scene.tally.errors() - errors_before,
    };
    Ok((Round { layers: after.layers_since(before), elapsed }, kill, at_kill))
}
