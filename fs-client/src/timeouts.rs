//! How long what the source said may be used without asking it again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Timeouts as they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// Of attributes and contents.
    pub(crate) attr: Duration,
    /// Of names: the kernel's.
    pub(crate) entry: Duration,
    /// Of names that were not there: the kernel's.
    pub(crate) negative: Duration,
}

/// Timeouts of a mount, which may change while it is used.
#[derive(Debug)]
pub(crate) struct LiveTimeouts {
    attr_ns: AtomicU64,
    entry_ns: AtomicU64,
    negative_ns: AtomicU64,
}

impl LiveTimeouts {
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        let [attr_ns, entry_ns, negative_ns] = in_ns(timeouts).map(AtomicU64::new);
        Self { attr_ns, entry_ns, negative_ns }
    }

    /// Changes them. What the kernel knows already, it uses for as long as it was told.
    pub(crate) fn set(&self, timeouts: Timeouts) {
        let [attr, entry, negative] = in_ns(timeouts);
        self.attr_ns.store(attr, Relaxed);
        self.entry_ns.store(entry, Relaxed);
        self.negative_ns.store(negative, Relaxed);
    }

    pub(crate) fn attr(&self) -> Duration {
        Duration::from_nanos(self.attr_ns.load(Relaxed))
    }

    pub(crate) fn entry(&self) -> Duration {
        Duration::from_nanos(self.entry_ns.load(Relaxed))
    }

    pub(crate) fn negative(&self) -> Duration {
        Duration::from_nanos(self.negative_ns.load(Relaxed))
    }
}

fn in_ns(Timeouts { attr, entry, negative }: Timeouts) -> [u64; 3] {
    [attr, entry, negative].map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
