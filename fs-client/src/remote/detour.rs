//! For a moment all servers are gone round: then nobody looks for who holds what, which costs a reader more than a fast
//! source's answer does.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What was decided for one read holds for others for so long: little beside the pauses after which servers are probed.
const HOLDS: Duration = Duration::from_millis(1);

/// Until when no server is asked by short reads.
pub(super) struct Detour {
    started: Instant,
    /// In nanoseconds after that.
    until: AtomicU64,
}

impl Detour {
    pub(super) fn new(now: Instant) -> Self {
        Self { started: now, until: AtomicU64::new(0) }
    }

    /// All servers were found to be gone round.
    pub(super) fn begins(&self, now: Instant) {
        self.until.store(self.nanos(now + HOLDS), Relaxed);
    }

    /// Whether that still holds.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.nanos(now) < self.until.load(Relaxed)
    }

    fn nanos(&self, at: Instant) -> u64 {
        // 584 years are enough.
        at.saturating_duration_since(self.started).as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_for_a_moment() {
        let start = Instant::now();
        let detour = Detour::new(start);
        assert!(!detour.holds(start));
        let now = start + Duration::from_secs(3600);
        detour.begins(now);
        assert!(detour.holds(now) && detour.holds(now + HOLDS / 2));
        assert!(!detour.holds(now + HOLDS));
        detour.begins(now + HOLDS);
        assert!(detour.holds(now + HOLDS));
    }
}
