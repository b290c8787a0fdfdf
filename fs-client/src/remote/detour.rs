//! For a moment all servers are gone round by reads of a length: then nobody looks for who holds what, which is felt beside a
//! source that answers fast.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::pace::Length;

/// What was decided for one read holds for others for so long: little beside the pauses after which servers are probed.
const HOLDS: Duration = Duration::from_millis(1);

/// Until when no server is asked.
pub(super) struct Detour {
    started: Instant,
    /// In nanoseconds after that, for reads of each length.
    until: [AtomicU64; 3],
}

impl Detour {
    pub(super) fn new(now: Instant) -> Self {
        Self { started: now, until: Default::default() }
    }

    /// All servers were found to be gone round.
    pub(super) fn begins(&self, length: Length, now: Instant) {
        self.until[length as usize].store(self.nanos(now + HOLDS), Relaxed);
    }

    /// Whether that still holds.
    pub(super) fn holds(&self, length: Length, now: Instant) -> bool {
        self.nanos(now) < self.until[length as usize].load(Relaxed)
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
        let holds = |at| [Length::Short, Length::Long].map(|length| detour.holds(length, at));
        assert_eq!(holds(start), [false, false]);
        let now = start + Duration::from_secs(3600);
        detour.begins(Length::Long, now);
        assert_eq!([holds(now), holds(now + HOLDS / 2)], [[false, true]; 2]);
        assert_eq!(holds(now + HOLDS), [false, false]);
        detour.begins(Length::Long, now + HOLDS);
        assert_eq!(holds(now + HOLDS), [false, true]);
    }
}
