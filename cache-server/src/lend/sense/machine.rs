//! What the kernel says of the whole machine's memory.

use std::fs;
use std::io;

use super::fields::{field, kilobytes, stalled};
use super::{PAGE, Reading};

const MEMINFO: &str = "/proc/meminfo";
const VMSTAT: &str = "/proc/vmstat";
const ZONEINFO: &str = "/proc/zoneinfo";
const PRESSURE: &str = "/proc/pressure/memory";

/// All memory of the machine.
pub(super) fn total() -> io::Result<u64> {
    kilobytes(&fs::read_to_string(MEMINFO)?, "MemTotal")
        .ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))
}

/// Memory that nobody uses, found in a microsecond.
pub(super) fn free() -> u64 {
    let info = rustix::system::sysinfo();
    info.freeram * u64::from(info.mem_unit)
}

/// Up to this much is made free by the kernel when it begins to look for memory: the sum of all zones'
/// lines `high PAGES`.
fn high_watermarks(zoneinfo: &str) -> u64 {
    let lines = zoneinfo.lines().filter_map(|line| line.trim().strip_prefix("high "));
    lines.filter_map(|pages| pages.trim().parse::<u64>().ok()).sum::<u64>() * PAGE
}

/// Whether the kernel ages pages by generations (MGLRU): it then hardly deactivates any.
pub(super) fn ages_by_generations() -> bool {
    let enabled = fs::read_to_string("/sys/kernel/mm/lru_gen/enabled").unwrap_or_default();
    !matches!(enabled.trim(), "" | "0" | "0x0000" | "n" | "N")
}

/// Memory of this process that no file stands behind, lent memory included.
pub(super) fn own() -> io::Result<u64> {
    // Pages: size, resident, those of them that are shared or of files, ...
    let statm = fs::read_to_string("/proc/self/statm")?;
    let mut pages = statm.split(' ').skip(1).map_while(|field| field.parse::<u64>().ok());
    match (pages.next(), pages.next()) {
        (Some(resident), Some(shared)) => Ok(resident.saturating_sub(shared) * PAGE),
        _ => Err(io::Error::other("/proc/self/statm is not as it should be")),
    }
}

/// All that is told. What this kernel does not have is none.
///
/// # Errors
/// When there is no /proc, or one without the sizes that every kernel tells.
pub(super) fn reading() -> io::Result<Reading> {
    let vmstat = fs::read_to_string(VMSTAT).unwrap_or_default();
    let pressure = fs::read_to_string(PRESSURE).unwrap_or_default();
    let zoneinfo = fs::read_to_string(ZONEINFO).unwrap_or_default();
    parse(&fs::read_to_string(MEMINFO)?, &vmstat, &pressure, &zoneinfo)
        .ok_or_else(|| io::Error::other("/proc/meminfo lacks MemTotal or MemFree"))
}

fn parse(meminfo: &str, vmstat: &str, pressure: &str, zoneinfo: &str) -> Option<Reading> {
    let size = |label| kilobytes(meminfo, label);
    let shared = size("Shmem").unwrap_or(0);
    let cached = size("Cached").unwrap_or(0) + size("Buffers").unwrap_or(0);
    Some(Reading {
        limit: size("MemTotal")?,
        free: size("MemFree")?,
        kept_free: high_watermarks(zoneinfo),
        file: cached.saturating_sub(shared),
        // Before Linux 5.9 there was one number for file and anonymous pages.
        refaults: field(vmstat, "workingset_refault_file")
            .or_else(|| field(vmstat, "workingset_refault")),
        deactivated: field(vmstat, "pgdeactivate"),
        swapped: field(vmstat, "pswpout").map(|pages| pages * PAGE),
        stalled: stalled(pressure),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MEMINFO: &str = "MemTotal: 100 kB\nMemFree: 30 kB\nBuffers: 2 kB\nCached: 12 kB\n\
                           SwapCached: 9 kB\nShmem: 2 kB\n";

    #[test]
    fn what_a_kernel_does_not_tell_is_none() {
        let vmstat = "workingset_refault_file 7\npgdeactivate 8\npswpout 2\n";
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        let zones = "Node 0, zone DMA\n  pages free 9\n        boost 0\n        high     3\n        \
                     Node 0, zone Normal\n        high     4\n              high:  99\n";
        let full = parse(MEMINFO, vmstat, pressure, zones).unwrap();
        let expected = Reading {
            limit: 100 << 10,
            free: 30 << 10,
            kept_free: 7 * 4096,
            file: 12 << 10,
            refaults: Some(7),
            deactivated: Some(8),
            swapped: Some(8192),
            stalled: Some(Duration::from_micros(5)),
        };
        assert_eq!(full, expected);
        let old = parse(MEMINFO, "workingset_refault 3\n", "", "").unwrap();
        assert_eq!((old.refaults, old.deactivated, old.stalled), (Some(3), None, None));
        assert_eq!(parse("MemFree: 1 kB\n", vmstat, pressure, ""), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let reading = reading().unwrap();
        assert_eq!(reading.limit, total().unwrap());
        assert!(reading.free <= reading.limit && reading.refaults.is_some());
        assert!(free() <= reading.limit);
    }
}
