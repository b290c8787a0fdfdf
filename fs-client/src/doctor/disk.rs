//! How fast the source is.

use std::fs;
use std::io::IoSliceMut;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::preadv;

use super::{Finding, in_words, percentile};
use crate::arena::AlignedBuffer;
use crate::block::BLOCK_SIZE;

/// It is read for so long, or so often.
const TIME: Duration = Duration::from_secs(1);
const READS: usize = 500;

/// The search for a large file ends after so many entries.
const ENTRIES_MAX: usize = 20_000;

/// A file with fewer blocks tells little.
const BLOCKS_MIN: u64 = 256;

/// Reads the disk under `source`, and compares it with what servers take to answer.
pub(super) fn look(source: &Path, servers: Option<Duration>) -> Finding {
    let what = format!("source {}", source.display());
    if let Err(error) = fs::read_dir(source) {
        return Finding::bad(what, error.to_string(), "give a directory that can be read");
    }
    let Some((path, blocks)) = largest(source).filter(|&(_, blocks)| blocks >= BLOCKS_MIN) else {
        let found = "there is no file of 1 MiB in it to be read";
        return Finding::good(what, found);
    };
    let times = match read(&path, blocks) {
        Ok(times) => times,
        Err(error) => {
            return Finding::warning(
                what,
                format!("{} cannot be read past the page cache: {error}", path.display()),
                "it is read through the page cache then, which holds everything a second time",
            );
        }
    };
    let usual = percentile(&times, 50);
    let late = percentile(&times, 99);
    let found =
        format!("4 KiB at random take {}, 99 of 100 at most {}", in_words(usual), in_words(late));
    match servers {
        Some(servers) if servers < usual => {
            let times = usual.as_secs_f64() / servers.as_secs_f64().max(1e-6);
            Finding::good(what, format!("{found}; a server answers in {times:.1} times less"))
        }
        Some(_) => Finding::warning(
            what,
            format!("{found}; no server answers sooner"),
            "servers are not asked while that is so: give the mount more --cache-size instead",
        ),
        None => Finding::good(what, found),
    }
}

/// The largest file, and its whole blocks.
fn largest(source: &Path) -> Option<(PathBuf, u64)> {
    let device = fs::metadata(source).ok()?.dev();
    let mut directories = vec![source.to_owned()];
    let mut entries = 0;
    let mut largest = None;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            entries += 1;
            if entries > ENTRIES_MAX {
                return largest;
            }
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() && found.dev() == device {
                directories.push(entry.path());
            }
            let blocks = found.len() / BLOCK_SIZE as u64;
            if found.is_file() && largest.as_ref().is_none_or(|&(_, most)| blocks > most) {
                largest = Some((entry.path(), blocks));
            }
        }
    }
    largest
}

/// What reads at random take, in order.
fn read(path: &Path, blocks: u64) -> std::io::Result<Vec<Duration>> {
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::NOATIME | OFlags::CLOEXEC;
    // Only the owner may leave the time of access alone.
    let file = openat(CWD, path, flags, Mode::empty())
        .or_else(|_| openat(CWD, path, flags - OFlags::NOATIME, Mode::empty()))?;
    let mut buffer = AlignedBuffer::new(1)?;
    let mut times = Vec::with_capacity(READS);
    let began = Instant::now();
    while times.len() < READS && began.elapsed() < TIME {
        let offset = rand::random_range(0..blocks) * BLOCK_SIZE as u64;
        let before = Instant::now();
        preadv(file.as_fd(), &mut [IoSliceMut::new(buffer.bytes_mut())], offset)?;
        times.push(before.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}
