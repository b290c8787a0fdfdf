//! What the kernel says of the whole machine's memory.

use std::fs;
use std::io;

use super::fields::{field, kilobytes, stalled};
use super::{PAGE, Reading};

const MEMINFO: &str = "/proc/meminfo";
const VMSTAT: &str = "/proc/vmstat";
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
    parse(&fs::read_to_string(MEMINFO)?, &vmstat, &pressure)
        .ok_or_else(|| io::Error::other("/proc/meminfo lacks MemTotal or MemFree"))
}

fn parse(meminfo: &str, vmstat: &str, pressure: &str) -> Option<Reading> {
    let size = |label| kilobytes(meminfo, label);
    let shared = size("Shmem").unwrap_or(0);
    let cached = size("Cached").unwrap_or(0) + size("Buffers").unwrap_or(0);
    Some(Reading {
        limit: size("MemTotal")?,
        free: size("MemFree")?,
        file: cached.saturating_sub(shared),
        anon: size("AnonPages").unwrap_or(0) + shared,
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
                           SwapCached: 9 kB\nAnonPages: 17 kB\nShmem: 2 kB\n";

    #[test]
    fn what_a_kernel_does_not_tell_is_none() {
        let vmstat = "workingset_refault_file 7\npgdeactivate 8\npswpout 2\n";
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        let full = parse(MEMINFO, vmstat, pressure).unwrap();
        let expected = Reading {
            limit: 100 << 10,
            free: 30 << 10,
            file: 12 << 10,
            anon: 19 << 10,
            refaults: Some(7),
            deactivated: Some(8),
            swapped: Some(8192),
            stalled: Some(Duration::from_micros(5)),
        };
        assert_eq!(full, expected);
        let old = parse(MEMINFO, "workingset_refault 3\n", "").unwrap();
        assert_eq!((old.refaults, old.deactivated, old.stalled), (Some(3), None, None));
        assert_eq!(parse("MemFree: 1 kB\n", vmstat, pressure), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let reading = reading().unwrap();
        assert_eq!(reading.limit, total().unwrap());
        assert!(reading.free <= reading.limit && reading.refaults.is_some());
        assert!(free() <= reading.limit);
    }
}
