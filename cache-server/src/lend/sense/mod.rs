//! What the kernel says about memory: the machine's, that of the cgroups that this process runs in,
//! and what stands behind a mapping of ours.
//!
//! With `rampool_cli::cgroup` the only place that reads /proc and cgroups.

mod cgroup;
mod fields;
mod machine;

use std::fs;
use std::io;
use std::time::Duration;

use rampool_cli::size::ByteSize;
use serde::{Deserialize, Serialize};

use rampool_cli::cgroup::Cgroup;

/// Bytes of what counters count.
pub(crate) const PAGE: u64 = 4096;

/// What the kernel says of a domain: a bound on memory within which we live beside others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reading {
    /// The most memory that it may use, in bytes.
    pub(crate) limit: u64,
    /// Memory that nobody uses, in bytes.
    pub(crate) free: u64,
    /// What the kernel itself does not let become less, in bytes.
    pub(crate) kept_free: u64,
    /// The page cache, in bytes.
    pub(crate) file: u64,
    /// Pages of files that were read again after the kernel had dropped them, since boot.
    pub(crate) refaults: Option<u64>,
    /// Pages that the kernel has begun to call inactive, since boot.
    pub(crate) deactivated: Option<u64>,
    /// Bytes written to swap, since boot.
    pub(crate) swapped: Option<u64>,
    /// Time for which some task waited for memory, since boot.
    pub(crate) stalled: Option<Duration>,
}

/// The domains of this process: the machine, and each memory cgroup around it.
#[derive(Debug)]
pub(crate) struct Senses {
    cgroups: Vec<Cgroup>,
}

impl Senses {
    /// Finds the domains.
    pub(crate) fn new() -> Self {
        Self { cgroups: Cgroup::own() }
    }

    /// What they are called: the machine first, then the cgroups, our own first.
    pub(crate) fn names(&self) -> Vec<String> {
        let cgroups = self.cgroups.iter().map(|cgroup| format!("cgroup {cgroup}"));
        std::iter::once("machine".to_owned()).chain(cgroups).collect()
    }

    /// All of them now, in the order of [`Self::names`]. A cgroup without a limit is none: what bounds
    /// it is above.
    ///
    /// # Errors
    /// When the machine itself cannot be read.
    pub(crate) fn read(&self) -> io::Result<Vec<Option<Reading>>> {
        let machine = machine::reading()?;
        let most = machine.limit;
        let cgroups = self.cgroups.iter().map(|cgroup| {
            let limit = cgroup.limit().filter(|&limit| limit < most)?;
            let reading = cgroup::reading(cgroup, limit).ok()?;
            // What a cgroup of version 1 does not count, the machine counts for all.
            Some(Reading {
                refaults: reading.refaults.or(machine.refaults),
                deactivated: reading.deactivated.or(machine.deactivated),
                swapped: reading.swapped.or(machine.swapped),
                stalled: reading.stalled.or(machine.stalled),
                ..reading
            })
        });
        Ok(std::iter::once(Some(machine.clone())).chain(cgroups).collect())
    }

    /// What is free in each of `domains`, which were read earlier: cheap enough for every few
    /// milliseconds.
    pub(crate) fn free(&self, domains: &[Option<Reading>]) -> impl Iterator<Item = Option<u64>> {
        let cgroups = self.cgroups.iter().zip(domains.iter().skip(1)).map(|(cgroup, reading)| {
            let limit = reading.as_ref()?.limit;
            Some(limit.saturating_sub(cgroup.usage().ok()?))
        });
        std::iter::once(Some(machine::free())).chain(cgroups)
    }
}

/// The signals by name, and whether the kernel has them, in the machine's reading.
pub(crate) fn signals(domains: &[Option<Reading>]) -> Vec<(&'static str, bool)> {
    let machine = domains.first().and_then(Option::as_ref);
    let has = |signal: fn(&Reading) -> bool| machine.is_some_and(signal);
    vec![
        ("free memory", machine.is_some()),
        ("memory cgroups", domains.len() > 1),
        ("refaults", has(|reading| reading.refaults.is_some())),
        (
            "deactivations",
            has(|reading| reading.deactivated.is_some()) && !machine::ages_by_generations(),
        ),
        ("stalls", has(|reading| reading.stalled.is_some())),
        ("swapping", has(|reading| reading.swapped.is_some())),
    ]
}

/// Memory of this process that no file stands behind, lent memory included, in bytes.
///
/// # Errors
/// When /proc cannot be read.
pub(crate) fn own_memory() -> io::Result<u64> {
    machine::own()
}

/// All memory of this machine.
///
/// # Errors
/// When /proc cannot be read, or says something else than Linux does.
pub(crate) fn machine_memory() -> io::Result<ByteSize> {
    machine::total().map(ByteSize)
}

/// Memory that stands behind the mappings within `extent` (first address, length).
///
/// # Errors
/// When /proc cannot be read.
pub(crate) fn resident(extent: (usize, usize)) -> io::Result<ByteSize> {
    Ok(resident_in(&fs::read_to_string("/proc/self/smaps")?, extent))
}

/// `smaps` lists mappings, each a line that begins with its addresses and lines about it.
fn resident_in(smaps: &str, (start, len): (usize, usize)) -> ByteSize {
    let mut within = false;
    let mut bytes = 0;
    for line in smaps.lines() {
        if let Some((from, to)) = addresses(line) {
            within = start <= from && to <= start + len;
        } else if within && let Some(rss) = fields::kilobytes(line, "Rss") {
            bytes += rss;
        }
    }
    ByteSize(bytes)
}

fn addresses(line: &str) -> Option<(usize, usize)> {
    let (from, to) = line.split_whitespace().next()?.split_once('-')?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory() {
        assert!(machine_memory().unwrap() > ByteSize::mib(16));
        let senses = Senses::new();
        let domains = senses.read().unwrap();
        assert_eq!(domains.len(), senses.names().len());
        for (free, reading) in senses.free(&domains).zip(&domains) {
            assert_eq!(free.is_some(), reading.is_some());
        }
    }

    #[test]
    fn only_the_mappings_within_are_counted() {
        let smaps = "1000-3000 rw-p 00000000 00:00 0\nSize: 8 kB\nRss:    4 kB\nVmFlags: rd\n\
                     3000-5000 rw-p 00000000 00:00 0\nRss:    8 kB\n\
                     9000-a000 r--p 00000000 00:00 0   [heap]\nRss:    16 kB\n";
        assert_eq!(resident_in(smaps, (0x1000, 0x4000)), ByteSize(12 << 10));
        assert_eq!(resident_in(smaps, (0x3000, 0x2000)), ByteSize(8 << 10));
        assert_eq!(resident_in(smaps, (0xb000, 0x1000)), ByteSize(0));
    }
}
