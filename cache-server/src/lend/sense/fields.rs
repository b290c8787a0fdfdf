//! The formats in which the kernel tells numbers.

use std::time::Duration;

/// The value of a line `name value` (vmstat, memory.stat).
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(' ')?;
        if found == name { value.trim().parse().ok() } else { None }
    })
}

/// The bytes of a line `label:   value kB` (meminfo, smaps).
pub(super) fn kilobytes(text: &str, label: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(label)?.strip_prefix(':')?;
        let kilobytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kilobytes.checked_mul(1 << 10)
    })
}

/// The time for which some task waited for memory: `some avg10=.. total=MICROSECONDS`.
pub(super) fn stalled(pressure: &str) -> Option<Duration> {
    let some = pressure.lines().find(|line| line.starts_with("some "))?;
    let total = some.split(' ').find_map(|part| part.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_whole_names() {
        let text = "pgdeactivate_x 1\npgdeactivate 17\nbroken\npgbad seven\n";
        assert_eq!(field(text, "pgdeactivate"), Some(17));
        assert_eq!(field(text, "pgbad"), None);
        assert_eq!(field(text, "pgde"), None);

        let text = "MemFree:        12 kB\nMemFreeX: 1 kB\nHugePages_Total:  0\n";
        assert_eq!(kilobytes(text, "MemFree"), Some(12 << 10));
        assert_eq!(kilobytes(text, "HugePages_Total"), None, "not in kB");
        assert_eq!(kilobytes(text, "Mem"), None);

        let pressure = "some avg10=0.00 avg60=0.10 avg300=0.00 total=1500\nfull avg10=0 total=9\n";
        assert_eq!(stalled(pressure), Some(Duration::from_micros(1500)));
        assert_eq!(stalled("full total=9\n"), None);
    }
}
