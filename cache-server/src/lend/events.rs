//! What the controller did, and why, for the log and the status.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rampool_cli::size::ByteSize;

/// So many are remembered.
const EVENTS_MAX: usize = 32;

/// Something was done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Memory went back to the lender.
    GaveBack {
        /// How much.
        bytes: u64,
        /// What for.
        reason: Reason,
    },
    /// Nothing is lent that could go back, and nothing will be for a while.
    Paused {
        /// What for.
        reason: Reason,
    },
    /// Lending begins again.
    Resumed {
        /// After so long a time without activity.
        quiet: Duration,
    },
    /// The server ends.
    Drains,
}

/// What shows that the lender needs its memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reason {
    /// Pages of files came back that the kernel had dropped.
    Refaults {
        /// Pages.
        per_second: u64,
    },
    /// The kernel looks for pages to drop among those in use.
    Deactivations {
        /// Pages.
        per_second: u64,
    },
    /// Processes take memory, and less is free than the reserve.
    Growth {
        /// Since the last look.
        bytes: u64,
    },
    /// The page cache of others grows, is smaller than what is lent, and less is free than the reserve.
    CacheGrowth {
        /// Since the last look.
        bytes: u64,
    },
    /// Something was written to the swap.
    Swapping,
    /// Somebody waits for memory.
    Stalls {
        /// Of the time.
        per_cent: u64,
    },
}

/// The last ones, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<VecDeque<Event>>);

/// An action at a time.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// When it began.
    pub(crate) at: SystemTime,
    /// When it was done, for the last time if it was done again and again.
    pub(crate) until: SystemTime,
    pub(crate) action: Action,
}

impl Events {
    /// Remembers one. What is given back for the same kind of reason, never a second apart, is one event.
    pub(crate) fn add(&self, action: Action) {
        let mut events = self.0.lock();
        let now = SystemTime::now();
        if let (Some(last), Action::GaveBack { bytes, reason }) = (events.back_mut(), &action)
            && let Action::GaveBack { bytes: before, reason: same } = &mut last.action
            && std::mem::discriminant(same) == std::mem::discriminant(reason)
            && now.duration_since(last.until).is_ok_and(|passed| passed < Duration::from_secs(1))
        {
            last.until = now;
            *before += bytes;
            same.join(*reason);
            return;
        }
        if events.len() == EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(Event { at: now, until: now, action });
    }

    /// Those that are remembered.
    pub(crate) fn list(&self) -> Vec<Event> {
        self.0.lock().iter().cloned().collect()
    }
}

impl Reason {
    /// One reason of two of a kind: the stronger, or their sum where they add up.
    fn join(&mut self, other: Self) {
        match (self, other) {
            (Self::Refaults { per_second }, Self::Refaults { per_second: other })
            | (Self::Deactivations { per_second }, Self::Deactivations { per_second: other }) => {
                *per_second = (*per_second).max(other);
            }
            (Self::Growth { bytes }, Self::Growth { bytes: other })
            | (Self::CacheGrowth { bytes }, Self::CacheGrowth { bytes: other }) => *bytes += other,
            (Self::Stalls { per_cent }, Self::Stalls { per_cent: other }) => {
                *per_cent = (*per_cent).max(other);
            }
            _ => {}
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GaveBack { bytes, reason } => {
                write!(f, "gave back {}: {reason}", ByteSize(*bytes))
            }
            Self::Paused { reason } => write!(f, "lends nothing: {reason}"),
            Self::Resumed { quiet } => write!(f, "lends again after {quiet:?} of quiet"),
            Self::Drains => write!(f, "drains: takes nothing more, and will end"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refaults { per_second } => write!(f, "{per_second} refaults/s"),
            Self::Deactivations { per_second } => write!(f, "{per_second} deactivations/s"),
            Self::Growth { bytes } => {
                write!(f, "processes took {}, and little is free", ByteSize(*bytes))
            }
            Self::CacheGrowth { bytes } => {
                write!(f, "the page cache took {}, and little is free", ByteSize(*bytes))
            }
            Self::Swapping => write!(f, "memory is swapped out"),
            Self::Stalls { per_cent } => {
                write!(f, "somebody waits for memory {per_cent} % of the time")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_back_bit_by_bit_is_one_event() {
        let events = Events::default();
        let refaults = |per_second| Reason::Refaults { per_second };
        events.add(Action::Resumed { quiet: Duration::from_secs(3) });
        events.add(Action::GaveBack { bytes: 32 << 20, reason: refaults(70) });
        events.add(Action::GaveBack { bytes: 64 << 20, reason: refaults(1204) });
        events.add(Action::GaveBack { bytes: 1 << 20, reason: Reason::Swapping });
        let lines: Vec<_> = events.list().iter().map(|event| event.action.to_string()).collect();
        assert_eq!(
            lines,
            [
                "lends again after 3s of quiet",
                "gave back 96 MiB: 1204 refaults/s",
                "gave back 1 MiB: memory is swapped out"
            ]
        );
        (0..100).for_each(|n| events.add(Action::Resumed { quiet: Duration::from_secs(n) }));
        assert_eq!(events.list().len(), EVENTS_MAX);
    }
}
