//! What more memory would be worth: the miss-ratio curve of what is read.
//!
//! Of the blocks that are read in no order a part is sampled, by hash; see [`Curve`]. What a sequential stream passes
//! over is brought in ahead of it, whatever the size of a cache, and does not count.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use rampool_policy::Curve;

use crate::block::{BlockKey, FileKey, Span};

/// At most this part of the blocks is sampled, which keeps most reads from the lock. In a small working set a smaller
/// part would say little: with a thousand samples it is wrong by 3 %.
const PART_MAX: f64 = 0.25;

/// The curve, and what keeps most reads from its lock.
pub(crate) struct Demand {
    threshold: AtomicU64,
    /// Uses that the curve has not been told of.
    uses: AtomicU64,
    curve: Mutex<Curve>,
}

impl Demand {
    /// Nothing was read yet.
    pub(crate) fn new() -> Self {
        let curve = Curve::new(PART_MAX);
        Self {
            threshold: AtomicU64::new(curve.threshold()),
            uses: AtomicU64::new(0),
            curve: Mutex::new(curve),
        }
    }

    /// Notes that the blocks of `span` were asked for.
    pub(crate) fn note(&self, file: FileKey, span: Span) {
        self.uses.fetch_add(span.count as u64, Relaxed);
        let threshold = self.threshold.load(Relaxed);
        let mut sampled = span.keys(file).map(BlockKey::hash).filter(|&hash| hash < threshold);
        let Some(first) = sampled.next() else { return };
        let mut curve = self.curve.lock();
        curve.count(self.uses.swap(0, Relaxed));
        curve.note(first);
        sampled.for_each(|hash| curve.note(hash));
        self.threshold.store(curve.threshold(), Relaxed);
    }

    /// The part of these reads that a cache of so many blocks would answer, the least recently used going first;
    /// none before there were enough of them.
    pub(crate) fn hit_ratio(&self, blocks: u64) -> Option<f64> {
        self.curve.lock().hit_ratio(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BLOCK_SIZE;

    #[test]
    fn a_loop_is_answered_by_a_cache_that_holds_it() {
        let demand = Demand::new();
        assert_eq!(demand.hit_ratio(1 << 40), None);
        let blocks = 100_000;
        for n in 0..4 * blocks {
            demand.note(FileKey(7), Span::of((n % blocks) * BLOCK_SIZE as u64, BLOCK_SIZE));
        }
        let at = |blocks| demand.hit_ratio(blocks).unwrap();
        assert!(at(blocks / 2) < 0.02 && (at(blocks * 2) - 0.75).abs() < 0.02);
    }
}
