//! Step one: every file is read whole through the mount and compared with the source.
//!
//! The source is read past the page cache (O_DIRECT), through its own path and never through the
//! mount. Of the large files a checksum of each block is kept, for the rounds that follow.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Scene;
use super::source::Source;
use super::tally::Tally;
use super::watch::{Queue, watch};
use crate::daemon::Daemon;
use crate::pages::{PAGE_BYTES, PageBuffer};
use crate::reads::{Open, open};
use crate::stop::Stop;

const CHUNK_BYTES: usize = 1 << 20;

/// What step one found.
pub(super) struct Whole {
    pub(super) files: usize,
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
    /// Files that the source itself does not let us read.
    pub(super) unreadable: usize,
    /// For each large file the checksums of its whole blocks; empty when it was not reached.
    pub(super) checksums: Vec<Vec<u64>>,
}

/// Compares the files of `source` with those at `mountpoint`, the large ones first, until
/// `time_max`.
pub(super) fn compare(
    source: &Source,
    mountpoint: &Path,
    daemon: &mut Daemon,
    time_max: Duration,
    scene: &Scene<'_>,
) -> Result<Whole> {
    let Scene { tally, progress, stop } = *scene;
    let start = Instant::now();
    let queue = Queue::new(source.files.len());
    let checksums: Vec<Mutex<Vec<u64>>> = (0..source.large).map(|_| Mutex::default()).collect();
    let read = || {
        let mut comparer = Comparer::new(source, mountpoint, tally, stop);
        let mut unreadable = 0;
        while let Some(index) = queue.take() {
            match comparer.compare(index) {
                Some(sums) => {
                    if let Some(kept) = checksums.get(index) {
                        *kept.lock().expect("no reader panics") = sums;
                    }
                }
                None => unreadable += 1,
            }
            queue.finished();
        }
        unreadable
    };
    let unreadable = watch(
        &queue,
        daemon,
        stop,
        read,
        || tally.compared_bytes() + queue.done() as u64,
        || {
            if start.elapsed() > time_max {
                queue.close();
            }
            let share = (queue.done() as f64 / queue.len() as f64)
                .max(start.elapsed().as_secs_f64() / time_max.as_secs_f64());
            progress.at((share * super::STEPS_WHOLE as f64) as u64);
            Ok(())
        },
    )?;
    let unreadable = unreadable.into_iter().sum();
    Ok(Whole {
        files: queue.done() - unreadable,
        bytes: tally.compared_bytes(),
        elapsed: start.elapsed(),
        unreadable,
        checksums: checksums
            .into_iter()
            .map(|sums| sums.into_inner().expect("no reader panics"))
            .collect(),
    })
}

/// The checksum of a block.
pub(super) fn checksum(block: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(block);
    hasher.finish()
}

/// One reader with its two buffers.
struct Comparer<'a> {
    source: &'a Source,
    mountpoint: &'a Path,
    tally: &'a Tally,
    stop: &'a Stop,
    through: PageBuffer,
    direct: PageBuffer,
}

impl<'a> Comparer<'a> {
    fn new(source: &'a Source, mountpoint: &'a Path, tally: &'a Tally, stop: &'a Stop) -> Self {
        let (through, direct) = (PageBuffer::new(CHUNK_BYTES), PageBuffer::new(CHUNK_BYTES));
        Self { source, mountpoint, tally, stop, through, direct }
    }

    /// Compares one file and gives the checksums of its whole blocks as the source has them; none
    /// when the source cannot be read.
    fn compare(&mut self, index: usize) -> Option<Vec<u64>> {
        let path = &self.source.files[index].path;
        let of_source = open_past_cache(&self.source.root.join(path)).ok()?;
        let mut sums = Vec::new();
        let of_mount = match File::open(self.mountpoint.join(path)) {
            Ok(file) => file,
            Err(error) => {
                self.tally.error(|| format!("open {}: {error}", path.display()));
                return Some(sums);
            }
        };
        let mut offset = 0;
        loop {
            let want = read_full(&of_source, self.direct.bytes_mut(), offset).ok()?;
            let got = match read_full(&of_mount, self.through.bytes_mut(), offset) {
                Ok(got) => got,
                Err(error) => {
                    self.tally.error(|| format!("{} at {offset}: {error}", path.display()));
                    return Some(sums);
                }
            };
            let (want, got) = (&self.direct.bytes()[..want], &self.through.bytes()[..got]);
            self.tally.compared(want.len());
            if want != got {
                let from = offset + first_difference(want, got) as u64;
                self.tally.mismatch(|| format!("{} differs from byte {from}", path.display()));
            }
            if index < self.source.large {
                sums.extend(want.chunks_exact(PAGE_BYTES).map(checksum));
            }
            offset += want.len() as u64;
            if want.len() < CHUNK_BYTES || self.stop.requested() {
                return Some(sums);
            }
        }
    }
}

/// Past the page cache if the filesystem can, else after dropping what the cache holds.
fn open_past_cache(path: &Path) -> Result<File> {
    open(path, Open::Direct).or_else(|_| {
        let file = open(path, Open::Plain)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        Ok(file)
    })
}

/// Reads until `buffer` is full or the file ends.
fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // The end of the file; O_DIRECT refuses to be asked for more from an odd place.
        if !filled.is_multiple_of(PAGE_BYTES) {
            break;
        }
    }
    Ok(filled)
}

fn first_difference(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found_also_in_length() {
        assert_eq!(first_difference(b"abc", b"abd"), 2);
        assert_eq!(first_difference(b"abc", b"ab"), 2);
        assert_eq!(first_difference(b"", b"ab"), 0);
    }

    #[test]
    fn files_are_read_whole_whatever_their_length() {
        let dir = tempfile::tempdir().unwrap();
        for len in [0, 1, 4095, 4096, 4097, 100_000] {
            let path = dir.path().join(len.to_string());
            let contents: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            std::fs::write(&path, &contents).unwrap();
            let mut buffer = PageBuffer::new(128 << 10);
            let file = open_past_cache(&path).unwrap();
            let read = read_full(&file, buffer.bytes_mut(), 0).unwrap();
            assert_eq!(buffer.bytes()[..read], contents, "{len}");
        }
    }
}
