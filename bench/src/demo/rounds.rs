//! Steps two and three: random blocks of the large files, round after round, and a server that is
//! killed in the middle of the last.
//!
//! Each block is compared with its checksum from step one. Between rounds the mount may finish
//! lending what it evicted; that is not measured.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::seq::IndexedRandom as _;
use rand::{SeedableRng as _, rngs::SmallRng};

use super::source::Source;
use super::tally::Tally;
use super::watch::{Queue, watch};
use super::whole::{Whole, checksum};
use crate::latency::Latencies;
use crate::pages::{PAGE_BYTES, PageBuffer};
use crate::pool::{Client, Lender};
use crate::progress::Progress;
use crate::reads::shuffle;
use crate::status::{ClientStatus, Layers};
use crate::stop::Stop;

/// Rounds in all.
pub(super) const ROUNDS: u64 = 4;
/// Longest of a round but the first.
const ROUND_MAX: Duration = Duration::from_secs(9);
/// Longest after the kill.
const AFTER_KILL_MAX: Duration = Duration::from_secs(8);

/// One block of one of the large files.
#[derive(Clone, Copy)]
struct Place {
    file: u32,
    block: u32,
}

/// The blocks to read, and what they must hold.
pub(super) struct WorkingSet<'a> {
    files: Vec<File>,
    names: Vec<&'a std::path::Path>,
    checksums: &'a [Vec<u64>],
    places: Vec<Place>,
}

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

impl<'a> WorkingSet<'a> {
    /// All blocks that step one has seen, opened through the mount.
    pub(super) fn new(source: &'a Source, whole: &'a Whole, client: &Client) -> Result<Self> {
        let mut set = Self {
            files: Vec::new(),
            names: Vec::new(),
            checksums: &whole.checksums,
            places: Vec::new(),
        };
        for (index, checksums) in whole.checksums.iter().enumerate() {
            let name = source.files[index].path.as_path();
            let file = File::open(client.path().join(name))
                .with_context(|| format!("cannot open {} through the mount", name.display()))?;
            set.files.push(file);
            set.names.push(name);
            let (file, blocks) = (u32::try_from(index)?, u32::try_from(checksums.len())?);
            set.places.extend((0..blocks).map(|block| Place { file, block }));
        }
        Ok(set)
    }

    /// So many blocks drawn at random, any of them any number of times.
    fn draw(&self, count: usize, seed: u64) -> Vec<Place> {
        let mut rng = SmallRng::seed_from_u64(seed);
        (0..count).filter_map(|_| self.places.choose(&mut rng).copied()).collect()
    }

    /// Reads and compares one block.
    fn read(&self, place: Place, buffer: &mut PageBuffer, tally: &Tally) -> Duration {
        let (file, block) = (place.file as usize, place.block as usize);
        let offset = u64::from(place.block) * PAGE_BYTES as u64;
        let before = Instant::now();
        let read = self.files[file].read_at(buffer.bytes_mut(), offset);
        let latency = before.elapsed();
        match read {
            Ok(PAGE_BYTES) => {
                tally.compared(PAGE_BYTES);
                if checksum(buffer.bytes()) != self.checksums[file][block] {
                    tally.mismatch(|| {
                        format!("{} differs in the 4 KiB at {offset}", self.names[file].display())
                    });
                }
            }
            Ok(short) => tally.mismatch(|| {
                format!("{} gave {short} bytes at {offset}", self.names[file].display())
            }),
            Err(error) => {
                tally.error(|| format!("{} at {offset}: {error}", self.names[file].display()));
            }
        }
        latency
    }
}

/// Runs all rounds. The first reads each block once; the others draw as many at random. The first
/// may take `first_max`; what it did not reach is left out of the others, so that they find their
/// blocks lent.
pub(super) fn run(
    mut set: WorkingSet<'_>,
    client: &mut Client,
    lender: &mut Lender,
    first_max: Duration,
    tally: &Tally,
    progress: &Progress,
    stop: &Stop,
) -> Result<Rounds> {
    let mut rounds = Vec::new();
    let start = client.settle(stop)?;
    let mut before = start.clone();
    for round in 1..ROUNDS {
        progress.say(format!("random blocks, round {round} of {ROUNDS}"));
        let time_max = if round == 1 { first_max } else { ROUND_MAX };
        let places = if round == 1 {
            shuffle(&mut set.places, round);
            set.places.clone()
        } else {
            set.draw(set.places.len(), round)
        };
        let read = measure(&set, &places, client, time_max, tally, progress, round, stop)?;
        if round == 1 {
            set.places.truncate(read.done);
        }
        let after = client.settle(stop)?;
        rounds.push(Round { layers: after.layers_since(&before), elapsed: read.elapsed });
        before = after;
    }
    progress.say("random blocks, last round, with a kill");
    let (last, kill, at_kill) = last_round(&set, client, lender, &before, tally, progress, stop)?;
    rounds.push(last);
    let with_server = at_kill.layers_since(&start);
    Ok(Rounds { rounds, kill, with_server, blocks: set.places.len() })
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
    tally: &Tally,
    progress: &Progress,
    round: u64,
    stop: &Stop,
) -> Result<Read> {
    let start = Instant::now();
    let queue = Queue::new(places.len());
    let read = || {
        let mut buffer = PageBuffer::new(PAGE_BYTES);
        while let Some(item) = queue.take() {
            set.read(places[item], &mut buffer, tally);
            queue.finished();
        }
    };
    let tick = || {
        if start.elapsed() > time_max {
            queue.close();
        }
        let share = (queue.done() as f64 / queue.len().max(1) as f64)
            .max(start.elapsed().as_secs_f64() / time_max.as_secs_f64());
        progress.at(super::steps_at(round, share));
        Ok(())
    };
    watch(&queue, client.daemon(), stop, read, || queue.done() as u64, tick)?;
    Ok(Read { done: queue.done(), elapsed: start.elapsed() })
}

/// The round in which the server is killed when half of the blocks are read.
fn last_round(
    set: &WorkingSet<'_>,
    client: &mut Client,
    lender: &mut Lender,
    before: &ClientStatus,
    tally: &Tally,
    progress: &Progress,
    stop: &Stop,
) -> Result<(Round, Kill, ClientStatus)> {
    let places = set.draw(set.places.len(), ROUNDS);
    let start = Instant::now();
    let queue = Queue::new(places.len());
    let killed = AtomicBool::new(false);
    let read = || {
        let mut buffer = PageBuffer::new(PAGE_BYTES);
        let mut after_kill = Latencies::new();
        while let Some(item) = queue.take() {
            let latency = set.read(places[item], &mut buffer, tally);
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
                at_kill = Some((status, Instant::now(), tally.errors()));
                progress.line("The server was killed.");
            }
            Some((_, when, _)) if when.elapsed() > AFTER_KILL_MAX => queue.close(),
            _ => {}
        }
        let share = queue.done() as f64 / queue.len().max(1) as f64;
        progress.at(super::steps_at(ROUNDS, share));
        Ok(())
    };
    let parts = watch(&queue, client.daemon(), stop, read, || queue.done() as u64, tick)?;
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
        errors: tally.errors() - errors_before,
    };
    Ok((Round { layers: after.layers_since(before), elapsed }, kill, at_kill))
}
