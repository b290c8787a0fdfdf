//! What the kernel says about memory: the machine's, and what stands behind a mapping of ours.
//!
//! The only place that reads /proc.

use std::fs;
use std::io;

use rampool_protocol::size::ByteSize;

/// All memory of this machine.
///
/// # Errors
/// When /proc cannot be read, or says something else than Linux does.
pub(crate) fn machine_memory() -> io::Result<ByteSize> {
    let text = fs::read_to_string("/proc/meminfo")?;
    text.lines()
        .find_map(|line| kilobytes(line, "MemTotal:"))
        .ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))
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
        } else if within && let Some(rss) = kilobytes(line, "Rss:") {
            bytes += rss.bytes();
        }
    }
    ByteSize(bytes)
}

fn addresses(line: &str) -> Option<(usize, usize)> {
    let (from, to) = line.split_whitespace().next()?.split_once('-')?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

/// The value of a line such as `Rss:     12 kB`.
fn kilobytes(line: &str, label: &str) -> Option<ByteSize> {
    let value = line.strip_prefix(label)?.trim().strip_suffix("kB")?.trim();
    Some(ByteSize(value.parse::<u64>().ok()? << 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory() {
        assert!(machine_memory().unwrap() > ByteSize::mib(16));
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
