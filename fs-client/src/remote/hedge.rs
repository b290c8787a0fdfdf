//! When a server's answer is not waited for any longer.
//!
//! Late, the source is read as well, and the first answer counts (Dean and Barroso, "The Tail at Scale", CACM 2013). A budget
//! keeps that from doubling the source's load where all answers are late. At the deadline the server is given up.

use std::time::Duration;

use crate::pace::Usual;

/// Nobody looks at the time more often.
const HEDGE_MIN: Duration = super::asker::TICK;

/// Bounds of the deadline; the first is that before anything is known. A shorter one would blame servers for what a busy
/// machine of our own takes to look at their answers, and what is late is read from the source long before.
const DEADLINE_MIN: Duration = Duration::from_millis(20);
const DEADLINE_MAX: Duration = Duration::from_millis(100);

/// One request in so many may be made twice, and so many at once after a quiet time.
const EVERY: u32 = 20;
const SAVED_MAX: u32 = 16;

/// How long a request is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// Then the source is read as well.
    pub(super) hedge: Duration,
    /// Then only the source counts.
    pub(super) deadline: Duration,
}

impl Wait {
    /// By what the server's and the source's answers usually take.
    pub(super) fn of(server: Option<Usual>, source: Option<Usual>) -> Self {
        let Some(server) = server else {
            return Self { hedge: DEADLINE_MIN, deadline: DEADLINE_MIN };
        };
        // There is no point in giving up a server sooner than the source would answer.
        let max =
            source.map_or(DEADLINE_MIN, |source| source.mean.clamp(DEADLINE_MIN, DEADLINE_MAX));
        let deadline = (4 * server.last.p99).clamp(DEADLINE_MIN, max);
        Self { hedge: server.last.p95.clamp(HEDGE_MIN, deadline), deadline }
    }
}

/// How many requests may be made twice.
#[derive(Debug)]
pub(super) struct Budget {
    /// In parts of a request.
    saved: u32,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { saved: SAVED_MAX * EVERY }
    }

    /// A request was made.
    pub(super) fn earn(&mut self) {
        self.saved = (self.saved + 1).min(SAVED_MAX * EVERY);
    }

    /// Whether one may be made twice.
    pub(super) fn spend(&mut self) -> bool {
        let left = self.saved.checked_sub(EVERY);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::Window;
    use std::time::Instant;

    const MS: Duration = Duration::from_millis(1);

    fn usual(mean: Duration, p95: Duration, p99: Duration) -> Option<Usual> {
        let now = Instant::now();
        let last = Window { mean, p95, p99, from: now, as_of: now };
        Some(Usual { mean, from: now, last, so_far: None })
    }

    #[test]
    fn the_deadline_follows_what_is_usual_within_its_bounds() {
        let wait = |hedge, deadline| Wait { hedge, deadline };
        let ssd = usual(MS / 3, MS, MS);
        let disk = usual(60 * MS, 90 * MS, 95 * MS);
        // Nothing is known of the server.
        assert_eq!(Wait::of(None, disk), wait(20 * MS, 20 * MS));
        // A fast one is not looked at more often than anybody looks.
        assert_eq!(Wait::of(usual(MS / 10, MS / 5, MS / 2), disk), wait(2 * MS, 20 * MS));
        // One that takes its time gets it, as long as the source would not be faster.
        let far = usual(5 * MS, 8 * MS, 12 * MS);
        assert_eq!(Wait::of(far, disk), wait(8 * MS, 48 * MS));
        assert_eq!(Wait::of(far, ssd), wait(8 * MS, 20 * MS));
        let further = usual(40 * MS, 80 * MS, 90 * MS);
        assert_eq!(Wait::of(further, usual(900 * MS, 990 * MS, 999 * MS)), wait(80 * MS, 100 * MS));
    }

    #[test]
    fn one_request_in_twenty_is_made_twice_where_all_are_late() {
        let mut budget = Budget::new();
        let mut twice = 0;
        for _ in 0..10_000 {
            budget.earn();
            twice += u32::from(budget.spend());
        }
        let part = 10_000 / EVERY;
        assert!((part..=part + SAVED_MAX).contains(&twice), "{twice}");
        // A quiet time saves no more than the first.
        (0..10_000).for_each(|_| budget.earn());
        assert_eq!((0..100).filter(|_| budget.spend()).count(), SAVED_MAX as usize);
    }
}
