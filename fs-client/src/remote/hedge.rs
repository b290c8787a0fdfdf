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
        let deadline = (4 * server.p99).clamp(DEADLINE_MIN, max);
        Self { hedge: server.p95.clamp(HEDGE_MIN, deadline), deadline }
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
