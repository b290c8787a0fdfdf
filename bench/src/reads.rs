//! Plain pread(2) loops: the application that is measured with.
//!
//! Each job is a thread with its own descriptor and its own page-aligned buffer. Only the system
//! call is timed; choosing the next place and counting are outside.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use rustix::fs::OFlags;

use crate::latency::{Latencies, Measured};
use crate::pages::{PAGE_BYTES, PageBuffer};
use crate::placement::Cpus;
use crate::stop::Stop;

/// What to read, and how.
#[derive(Clone, Copy)]
pub(crate) struct Load<'a> {
    /// Threads.
    pub(crate) jobs: usize,
    /// Where each read goes.
    pub(crate) places: Places<'a>,
    /// How the file is opened.
    pub(crate) open: Open,
    /// Where the threads run.
    pub(crate) cpus: Cpus,
}

/// Where the reads go.
#[derive(Clone, Copy)]
pub(crate) enum Places<'a> {
    /// 4 KiB at random, for so long after a warm-up.
    Random { warm_up: Duration, measured: Duration },
    /// 1 MiB after 1 MiB from the start, round and round, for so long after a warm-up.
    Sequential { warm_up: Duration, measured: Duration },
    /// 1 MiB after 1 MiB from the start to the end, once.
    Whole,
    /// 4 KiB at each of these offsets, once, in this order, shared out among the jobs.
    List(&'a [u64]),
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Open {
    /// As any application does.
    Plain,
    /// Past the kernel's page cache.
    Direct,
}

const SEQUENTIAL_BYTES: usize = 1 << 20;

/// Reads the file at `path` and measures.
pub(crate) fn run(path: &Path, load: Load<'_>, stop: &Stop) -> Result<Measured> {
    let len = path.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
    if len < SEQUENTIAL_BYTES as u64 {
        bail!("{} is too small to measure with", path.display());
    }
    let barrier = Barrier::new(load.jobs);
    let failed = AtomicBool::new(false);
    let parts = thread::scope(|scope| {
        let jobs: Vec<_> = (0..load.jobs)
            .map(|index| {
                let (barrier, failed) = (&barrier, &failed);
                scope.spawn(move || {
                    load.cpus.hold_this_thread();
                    let job = open(path, load.open).map(|file| Job {
                        file,
                        len,
                        index,
                        places: share(load.places, index, load.jobs),
                    });
                    barrier.wait();
                    let result = job.and_then(|job| job.run(stop, failed));
                    if result.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    result
                })
            })
            .collect();
        jobs.into_iter()
            .map(|job| job.join().expect("a job does not panic"))
            .collect::<Vec<Result<Measured>>>()
    });
    stop.check()?;
    let mut whole = Measured { bytes: 0, elapsed: Duration::ZERO, latencies: Latencies::new() };
    for part in parts {
        let part = part.with_context(|| format!("while reading {}", path.display()))?;
        whole.bytes += part.bytes;
        whole.elapsed = whole.elapsed.max(part.elapsed);
        whole.latencies.add(&part.latencies);
    }
    Ok(whole)
}

/// The offsets of all whole blocks of a file of `bytes` bytes in random order.
pub(crate) fn shuffled_offsets(bytes: u64, seed: u64) -> Vec<u64> {
    let page = PAGE_BYTES as u64;
    let mut offsets: Vec<u64> = (0..bytes / page).map(|block| block * page).collect();
    shuffle(&mut offsets, seed);
    offsets
}

/// Puts `items` into a random order that `seed` decides.
pub(crate) fn shuffle<T>(items: &mut [T], seed: u64) {
    use rand::seq::SliceRandom as _;
    items.shuffle(&mut SmallRng::seed_from_u64(seed));
}

/// Opens the file at `path` for reading.
pub(crate) fn open(path: &Path, how: Open) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    if how == Open::Direct {
        options.custom_flags(OFlags::DIRECT.bits() as i32);
    }
    options.open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn share(places: Places<'_>, index: usize, jobs: usize) -> Places<'_> {
    let Places::List(all) = places else { return places };
    let each = all.len().div_ceil(jobs);
    let start = (index * each).min(all.len());
    Places::List(&all[start..(start + each).min(all.len())])
}

struct Job<'a> {
    file: File,
    len: u64,
    index: usize,
    places: Places<'a>,
}

impl Job<'_> {
    fn run(&self, stop: &Stop, failed: &AtomicBool) -> Result<Measured> {
        let cancelled = || stop.requested() || failed.load(Ordering::Relaxed);
        match self.places {
            Places::Random { warm_up, measured } => {
                // Another seed each time: a round must not repeat the one before it.
                let mut rng: SmallRng = rand::make_rng();
                let blocks = self.len / PAGE_BYTES as u64;
                self.timed(PAGE_BYTES, warm_up, measured, cancelled, || {
                    rng.random_range(0..blocks) * PAGE_BYTES as u64
                })
            }
            Places::Sequential { warm_up, measured } => {
                let step = SEQUENTIAL_BYTES as u64;
                let runs = self.len / step;
                let mut next = self.index as u64;
                self.timed(SEQUENTIAL_BYTES, warm_up, measured, cancelled, || {
                    next += 1;
                    (next - 1) % runs * step
                })
            }
            Places::Whole => {
                let step = SEQUENTIAL_BYTES as u64;
                self.each(SEQUENTIAL_BYTES, (0..self.len / step).map(|run| run * step), cancelled)
            }
            Places::List(offsets) => self.each(PAGE_BYTES, offsets.iter().copied(), cancelled),
        }
    }

    fn each(
        &self,
        bytes: usize,
        offsets: impl Iterator<Item = u64>,
        cancelled: impl Fn() -> bool,
    ) -> Result<Measured> {
        let mut reader = Reader::new(&self.file, bytes);
        let start = Instant::now();
        for offset in offsets {
            if cancelled() {
                break;
            }
            reader.read(offset)?;
        }
        Ok(reader.finish(start.elapsed()))
    }

    fn timed(
        &self,
        bytes: usize,
        warm_up: Duration,
        measured: Duration,
        cancelled: impl Fn() -> bool,
        mut next: impl FnMut() -> u64,
    ) -> Result<Measured> {
        let mut reader = Reader::new(&self.file, bytes);
        let start = Instant::now();
        while start.elapsed() < warm_up && !cancelled() {
            reader.read(next())?;
        }
        let mut reader = Reader { latencies: Latencies::new(), bytes: 0, ..reader };
        let start = Instant::now();
        let mut now = start;
        while now.duration_since(start) < measured && !cancelled() {
            now = reader.read(next())?;
        }
        Ok(reader.finish(now.duration_since(start)))
    }
}

struct Reader<'a> {
    file: &'a File,
    buffer: PageBuffer,
    bytes: u64,
    latencies: Latencies,
}

impl<'a> Reader<'a> {
    fn new(file: &'a File, bytes: usize) -> Self {
        Self { file, buffer: PageBuffer::new(bytes), bytes: 0, latencies: Latencies::new() }
    }

    /// Reads one buffer at `offset` and says when it was done.
    fn read(&mut self, offset: u64) -> Result<Instant> {
        let buffer = self.buffer.bytes_mut();
        let before = Instant::now();
        let read = self.file.read_at(buffer, offset);
        let after = Instant::now();
        let read = read.with_context(|| format!("the read at offset {offset} failed"))?;
        if read != buffer.len() {
            bail!("the read at offset {offset} gave {read} of {} bytes", buffer.len());
        }
        self.bytes += read as u64;
        self.latencies.record(after.duration_since(before));
        Ok(after)
    }

    fn finish(self, elapsed: Duration) -> Measured {
        Measured { bytes: self.bytes, elapsed, latencies: self.latencies }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_shared_out_without_loss_or_overlap() {
        let offsets = shuffled_offsets(10 * 4096 + 17, 3);
        assert_eq!(offsets.len(), 10);
        for jobs in [1, 3, 4, 16] {
            let mut all = Vec::new();
            for index in 0..jobs {
                let Places::List(part) = share(Places::List(&offsets), index, jobs) else {
                    panic!("a list stays a list");
                };
                all.extend_from_slice(part);
            }
            assert_eq!(all, offsets, "{jobs} jobs");
        }
    }
}
