//! Epochs of writes: how a fill, or a copy on its way to a server, learns that it lost a race.
//!
//! Each group of blocks (see [`BlockKey::group`]) falls on one of a fixed number of stripes, and
//! each stripe counts the writes that began and those that ended. Whoever carries a block from
//! one place to another observes the stripe before reading it, and uses what was read only if no
//! write has begun since. Groups that share a stripe only cost each other a discarded fill.

use crate::block::BlockKey;
use crate::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// Fewer under shuttle, which makes them anew some thousand times.
const STRIPES: usize = if cfg!(feature = "shuttle") { 64 } else { 1 << 14 };

/// The counts of all stripes: 128 KiB.
pub(crate) struct Epochs {
    stripes: Box<[Stripe]>,
}

/// A stripe as it was with no write under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    stripe: u32,
    began: u32,
}

/// A write under way in one stripe. Dropping it ends the write.
pub(crate) struct Writing<'a> {
    stripe: &'a Stripe,
    /// The count of begun writes, this one included.
    ticket: u32,
    began_alone: bool,
}

#[derive(Default)]
struct Stripe {
    began: AtomicU32,
    ended: AtomicU32,
}

impl Epochs {
    pub(crate) fn new() -> Self {
        let stripes = (0..STRIPES).map(|_| Stripe::default()).collect();
        Self { stripes }
    }

    /// Observes the stripe of `key`: none while a write is under way there.
    pub(crate) fn observe(&self, key: BlockKey) -> Option<Seen> {
        let stripe = self.stripe_of(key);
        // Ended first: if the later count of begun writes is equal, none was under way then.
        let ended = self.stripes[stripe as usize].ended.load(SeqCst);
        let began = self.stripes[stripe as usize].began.load(SeqCst);
        (began == ended).then_some(Seen { stripe, began })
    }

    /// Whether no write has begun since `seen` was observed.
    pub(crate) fn unchanged(&self, seen: Seen) -> bool {
        self.stripes[seen.stripe as usize].began.load(SeqCst) == seen.began
    }

    /// Begins a write in the stripe of `key`.
    pub(crate) fn begin(&self, key: BlockKey) -> Writing<'_> {
        let stripe = &self.stripes[self.stripe_of(key) as usize];
        let before = stripe.began.fetch_add(1, SeqCst);
        let began_alone = stripe.ended.load(SeqCst) == before;
        Writing { stripe, ticket: before.wrapping_add(1), began_alone }
    }

    fn stripe_of(&self, key: BlockKey) -> u32 {
        (key.group_hash() as usize % STRIPES) as u32
    }
}

impl Writing<'_> {
    /// Whether no other write was under way in the stripe at any moment since this one began.
    /// Only then is it known whose bytes the source holds. A write that begins later sees that
    /// it is not alone, and removes what this one leaves in the cache.
    pub(crate) fn alone(&self) -> bool {
        self.began_alone && self.stripe.began.load(SeqCst) == self.ticket
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.stripe.ended.fetch_add(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockIndex, FileKey};

    const KEY: BlockKey = BlockKey { file: FileKey(1), index: BlockIndex(0) };

    #[test]
    fn a_fill_that_a_write_overtook_is_known() {
        let epochs = Epochs::new();
        let seen = epochs.observe(KEY).unwrap();
        assert!(epochs.unchanged(seen));
        let writing = epochs.begin(KEY);
        assert!(!epochs.unchanged(seen), "began during the fill");
        assert_eq!(epochs.observe(KEY), None, "a fill that begins during the write");
        drop(writing);
        assert!(!epochs.unchanged(seen), "ended, and the fill is as old as before");
        assert!(epochs.observe(KEY).is_some());
    }

    #[test]
    fn writers_that_overlap_are_not_alone() {
        let epochs = Epochs::new();
        let first = epochs.begin(KEY);
        assert!(first.alone());
        let second = epochs.begin(KEY);
        assert!(!first.alone() && !second.alone());
        drop(first);
        assert!(!second.alone(), "the first may have written after it");
        drop(second);
        assert!(epochs.begin(KEY).alone());
    }
}
