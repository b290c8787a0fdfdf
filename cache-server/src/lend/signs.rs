//! What a domain shows between two samples, and how much of it is more than nothing to speak of.

use std::time::Duration;

use super::sense::Reading;

/// Refaults and deactivations a second that are nothing to speak of.
const PAGES_PER_SECOND: f64 = 32.0;
/// As many more may come at once.
const PAGES_BURST: f64 = 16.0;
/// What others use may grow by so many bytes a second, and so many at once.
const GROWTH_PER_SECOND: f64 = 8.0 * MIB;
const GROWTH_BURST: f64 = 4.0 * MIB;
/// The part of the time in which somebody may wait for memory, and how many seconds more at once.
const STALL_PER_SECOND: f64 = 0.1;
const STALL_BURST: f64 = 0.01;
/// A cgroup's page cache can be told with this delay, in seconds: the kernel sums its counters up when it
/// sees fit, at least every two seconds (`FLUSH_TIME` in mm/memcontrol.c). What is free is always true.
const COUNTED_LATE: f64 = 2.0;

const MIB: f64 = (1 << 20) as f64;

/// How much of each there was lately.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signs {
    refaults: Bucket,
    deactivated: Bucket,
    processes: Bucket,
    cache: Bucket,
    stalled: Bucket,
    others: Others,
}

/// What others use besides the page cache, in bytes. Where the page cache shrinks and is not yet seen to,
/// this seems to fall, and to rise when it is: the level holds on meanwhile.
#[derive(Clone, Copy, Debug, Default)]
struct Others {
    level: Option<f64>,
    /// Seconds for which the level has held on.
    held: f64,
}

/// What was more than nothing to speak of, since the last sample.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    /// Pages.
    pub(super) refaults: Option<f64>,
    /// Pages.
    pub(super) deactivated: Option<f64>,
    /// Bytes that others use more besides the page cache.
    pub(super) processes: Option<f64>,
    /// Bytes that the page cache has more.
    pub(super) cache: Option<f64>,
    /// Seconds.
    pub(super) stalled: Option<f64>,
    /// Whether anything was.
    pub(super) swapped: bool,
}

/// Fills with what happens, drains at the rate that is nothing to speak of.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(f64);

impl Signs {
    /// What a domain shows `seconds` after it was seen last. Of each reading, `own` is what our process
    /// used then.
    pub(super) fn observe(
        &mut self,
        (then, own_then): (&Reading, u64),
        (now, own): (&Reading, u64),
        seconds: f64,
    ) -> Shown {
        let pages =
            |bucket: &mut Bucket, more| bucket.add(more, PAGES_PER_SECOND * seconds, PAGES_BURST);
        let bytes =
            |bucket: &mut Bucket, more| bucket.add(more, GROWTH_PER_SECOND * seconds, GROWTH_BURST);
        let seconds_of = |stalled: Option<Duration>| stalled.map(|stalled| stalled.as_secs_f64());
        let count = |count: Option<u64>| count.map(|count| count as f64);
        self.others.level.get_or_insert(others(then, own_then));
        let grown = self.others.grown(others(now, own), now.file != then.file, seconds);
        Shown {
            refaults: pages(&mut self.refaults, rise(count(then.refaults), count(now.refaults))),
            deactivated: pages(
                &mut self.deactivated,
                rise(count(then.deactivated), count(now.deactivated)),
            ),
            processes: bytes(&mut self.processes, grown),
            cache: bytes(&mut self.cache, now.file as f64 - then.file as f64),
            stalled: self.stalled.add(
                rise(seconds_of(then.stalled), seconds_of(now.stalled)),
                STALL_PER_SECOND * seconds,
                STALL_BURST,
            ),
            swapped: rise(count(then.swapped), count(now.swapped)) > 0.0,
        }
    }
}

impl Others {
    /// By how much it is more, or less, than before; `counted` says that the page cache was counted anew.
    fn grown(&mut self, now: f64, counted: bool, seconds: f64) -> f64 {
        let grown = now - self.level.unwrap_or(now);
        self.held += seconds;
        if grown <= 0.0 && !counted && self.held <= COUNTED_LATE {
            return 0.0;
        }
        *self = Self { level: Some(now), held: 0.0 };
        grown
    }
}

impl Bucket {
    /// The amount, if with what was there before it is more than nothing to speak of. The bucket is empty
    /// then.
    fn add(&mut self, amount: f64, drained: f64, burst: f64) -> Option<f64> {
        self.0 = (self.0 + amount - drained).max(0.0);
        if self.0 < burst {
            return None;
        }
        self.0 = 0.0;
        Some(amount)
    }
}

/// What others use besides the page cache, when we use `own`.
fn others(domain: &Reading, own: u64) -> f64 {
    domain.limit as f64 - domain.free as f64 - domain.file as f64 - own as f64
}

fn rise(before: Option<f64>, now: Option<f64>) -> f64 {
    match (before, now) {
        (Some(before), Some(now)) => (now - before).max(0.0),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_trickles_is_nothing_and_what_comes_at_once_or_goes_on_is_something() {
        let mut signs = Signs::default();
        let reading = |refaults| Reading { refaults: Some(refaults), ..Reading::default() };
        let mut before = reading(0);
        let mut shown = |refaults: u64| {
            let now = reading(before.refaults.unwrap() + refaults);
            let shown = signs.observe((&before, 0), (&now, 0), 0.1);
            before = now;
            shown.refaults
        };
        assert!((0..100).all(|_| shown(3).is_none()), "thirty a second");
        assert_eq!(shown(100), Some(100.0));
        let fired = (0..100).filter(|_| shown(6).is_some()).count();
        assert!((10..30).contains(&fired), "sixty a second: {fired}");
    }

    #[test]
    fn what_we_use_ourselves_and_the_page_cache_are_not_growth_of_others() {
        let mut signs = Signs::default();
        let reading = |free, file| Reading { limit: 1 << 30, free, file, ..Reading::default() };
        let (then, now) = (reading(1 << 29, 0), reading(1 << 27, 1 << 27));
        let shown = signs.observe((&then, 0), (&now, 1 << 28), 0.1);
        assert_eq!((shown.processes, shown.cache), (None, Some(f64::from(1 << 27))));
        let shown = signs.observe((&then, 0), (&now, 0), 0.1);
        assert_eq!(shown.processes, Some(f64::from(1 << 28)));
        assert_eq!(Reading::default().stalled, None);
    }

    #[test]
    fn a_page_cache_that_is_counted_late_is_not_growth_of_others() {
        let mib = |mib: u64| mib << 20;
        let reading = |free, file| Reading {
            limit: mib(2048),
            free: mib(free),
            file: mib(file),
            ..Reading::default()
        };
        // Seen on Linux 6.18: our memory pushes out page cache, which is counted half a second late.
        let seen = [(2, 463, 1576), (2, 446, 1596), (2, 446, 1628), (1, 446, 1669), (3, 355, 1683)];
        let mut signs = Signs::default();
        for pair in seen.windows(2) {
            let [(free, file, own), (free_now, file_now, own_now)] = *pair else { unreachable!() };
            let (then, now) = (reading(free, file), reading(free_now, file_now));
            let shown = signs.observe((&then, mib(own)), (&now, mib(own_now)), 0.1);
            assert_eq!(shown.processes, None, "{own_now}");
        }
        // What is freed and taken again is growth, when it is no longer a matter of counting.
        let (low, high) = (reading(500, 355), reading(100, 355));
        for _ in 0..30 {
            signs.observe((&low, mib(1000)), (&low, mib(1000)), 0.1);
        }
        let shown = signs.observe((&low, mib(1000)), (&high, mib(1000)), 0.1);
        assert_eq!(shown.processes, Some(mib(400) as f64));
    }
}
