//! The application: reads and writes blocks of one file all the time, and knows what each must hold.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::pages::{PAGE_BYTES, PageBuffer};

/// Its threads. Of what each does, one in so many is a write.
const THREADS: u64 = 4;
const WRITE_ONE_IN: u32 = 50;
/// The source itself is read so often, for what it takes.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits().cast_signed();

/// The application at work. Dropping it ends it.
pub(super) struct Application {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// The state that each block is in; locked while it is read or written.
    states: Vec<Mutex<u32>>,
    file: File,
    ends: AtomicBool,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    reads: AtomicU64,
    errors: AtomicU64,
    wrong: AtomicU64,
    longest_us: AtomicU64,
    source_longest_us: AtomicU64,
    complaint: Mutex<Option<String>>,
}

/// What it has seen in a while.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) reads: u64,
    /// Reads and writes that failed.
    pub(super) errors: u64,
    /// Reads that gave other bytes than were written.
    pub(super) wrong: u64,
    pub(super) longest: Duration,
    /// The longest read of the source itself, in the same time.
    pub(super) source_longest: Duration,
    /// The first that was wrong.
    pub(super) complaint: Option<String>,
}

/// Writes the file in its first state.
pub(super) fn prepare(path: &Path, blocks: u32) -> Result<()> {
    let mut bytes = Vec::with_capacity(blocks as usize * PAGE_BYTES);
    let mut block = [0; PAGE_BYTES];
    for number in 0..blocks {
        fill(&mut block, number, 0);
        bytes.extend_from_slice(&block);
    }
    std::fs::write(path, bytes).context("cannot write the application's file")
}

impl Application {
    /// Starts it on the file that [`prepare`] made, by its path on the mount and in the source.
    pub(super) fn start(path: &Path, source: &Path, blocks: u32) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let source = File::options().read(true).custom_flags(DIRECT).open(source)?;
        let states = (0..blocks).map(|_| Mutex::new(0)).collect();
        let (ends, counts) = (AtomicBool::new(false), Counts::default());
        let shared = Arc::new(Shared { states, file, ends, counts });
        let mut threads = Vec::new();
        for seed in 0..THREADS {
            let shared = shared.clone();
            threads.push(std::thread::spawn(move || shared.work(seed)));
        }
        let looks = shared.clone();
        threads.push(std::thread::spawn(move || looks.look(&source)));
        Ok(Self { shared, threads })
    }

    /// What it has seen since it was asked last.
    pub(super) fn seen(&self) -> Seen {
        let counts = &self.shared.counts;
        let take = |count: &AtomicU64| count.swap(0, Relaxed);
        let micros = |count: &AtomicU64| Duration::from_micros(count.swap(0, Relaxed));
        Seen {
            reads: take(&counts.reads),
            errors: take(&counts.errors),
            wrong: take(&counts.wrong),
            longest: micros(&counts.longest_us),
            source_longest: micros(&counts.source_longest_us),
            complaint: counts.complaint.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

impl Application {
    /// Ends it.
    pub(super) fn end(&mut self) {
        self.shared.ends.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn work(&self, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed);
        let (mut block, mut expected) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
        while !self.ends.load(Relaxed) {
            let number = random.random_range(0..self.states.len());
            let offset = (number * PAGE_BYTES) as u64;
            let mut state = self.states[number].lock().unwrap_or_else(PoisonError::into_inner);
            if random.random_range(0..WRITE_ONE_IN) == 0 {
                *state += 1;
                fill(&mut block, number as u32, *state);
                if let Err(error) = self.file.write_all_at(&block, offset) {
                    self.count_error(&format!("writing block {number}: {error}"));
                }
                continue;
            }
            let began = Instant::now();
            let read = self.file.read_exact_at(&mut block, offset);
            let took = began.elapsed().as_micros() as u64;
            self.counts.longest_us.fetch_max(took, Relaxed);
            self.counts.reads.fetch_add(1, Relaxed);
            fill(&mut expected, number as u32, *state);
            match read {
                Err(error) => self.count_error(&format!("reading block {number}: {error}")),
                Ok(()) if block != expected => {
                    self.counts.wrong.fetch_add(1, Relaxed);
                    self.complain(&format!("block {number} is not in its state {}", *state));
                }
                Ok(()) => {}
            }
        }
    }

    /// Reads the source past all caches, now and then.
    fn look(&self, source: &File) {
        let mut random = SmallRng::seed_from_u64(THREADS);
        let mut buffer = PageBuffer::new(PAGE_BYTES);
        while !self.ends.load(Relaxed) {
            let offset = random.random_range(0..self.states.len()) * PAGE_BYTES;
            let began = Instant::now();
            if let Err(error) = source.read_exact_at(buffer.bytes_mut(), offset as u64) {
                self.count_error(&format!("reading the source: {error}"));
            }
            let took = began.elapsed().as_micros() as u64;
            self.counts.source_longest_us.fetch_max(took, Relaxed);
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn count_error(&self, what: &str) {
        self.counts.errors.fetch_add(1, Relaxed);
        self.complain(what);
    }

    fn complain(&self, what: &str) {
        let mut complaint = self.counts.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        complaint.get_or_insert_with(|| what.to_owned());
    }
}

/// What a block holds in a state.
fn fill(block: &mut [u8; PAGE_BYTES], number: u32, state: u32) {
    SmallRng::seed_from_u64(u64::from(number) << 32 | u64::from(state)).fill_bytes(block);
}
