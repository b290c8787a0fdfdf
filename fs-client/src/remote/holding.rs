//! What a server still holds, as far as can be told from here.
//!
//! A server evicts in the order in which blocks came, and says how far it has come. What is older is gone, but for blocks
//! that were asked for: those it keeps on, once, as if they had come anew ("second chance", as in the CLOCK algorithm).
//! When that was is not said, but it can be worked out: the order turns round once for every so many sealings as lie between
//! the oldest that it keeps and the newest. To be wrong costs a question in vain, or a read of the source.

use super::lent::Chances;
use super::seal::SealCount;

/// From which sealing to which a server keeps what it was sent. Before it has said so it may keep everything.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holding {
    pub(super) oldest: SealCount,
    pub(super) newest: SealCount,
}

impl Holding {
    /// Whether a block that was sealed with `count` may be kept.
    pub(super) fn may_hold(self, count: SealCount, chances: Chances) -> bool {
        let until = count.0.saturating_add(self.turn().saturating_mul(chances.0.into()));
        self.oldest.0 <= until
    }

    /// The chances of a block that is there and is asked for now: those that it has used, and one more.
    pub(super) fn chances(self, count: SealCount) -> Chances {
        let used = self.newest.0.saturating_sub(count.0) / self.turn().max(1);
        Chances(u8::try_from(used + 1).unwrap_or(u8::MAX))
    }

    fn turn(self) -> u64 {
        self.newest.0.saturating_sub(self.oldest.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server of ten places. Block 3 is asked for at the times that are given; how long it is kept there, and believed to be kept here.
    fn held_until(asked: &[u64]) -> [u64; 2] {
        const PLACES: u64 = 10;
        let count = SealCount(3);
        let (mut place, mut hit, mut gone) = (count.0, false, None);
        let (mut chances, mut believed) = (Chances(0), None);
        for newest in count.0..100 {
            let kept = Holding {
                oldest: SealCount(newest.saturating_sub(PLACES)),
                newest: SealCount(newest),
            };
            if place < kept.oldest.0 && gone.is_none() {
                (place, gone) = if hit { (newest, None) } else { (place, Some(newest)) };
                hit = false;
            }
            if !kept.may_hold(count, chances) {
                believed.get_or_insert(newest);
            }
            if asked.contains(&newest) && gone.is_none() {
                hit = true;
                chances = kept.chances(count);
            }
        }
        [gone.unwrap(), believed.unwrap()]
    }

    #[test]
    fn what_was_asked_for_is_kept_for_another_turn() {
        for (asked, until) in
            [(&[][..], 14), (&[5], 25), (&[5, 12], 25), (&[5, 18], 36), (&[12, 23, 30], 47)]
        {
            let [kept, believed] = held_until(asked);
            assert_eq!(kept, until);
            assert!(believed.abs_diff(kept) <= 3, "{asked:?}: {believed}, and in truth {kept}");
        }
    }

    #[test]
    fn before_anything_is_known_all_may_be_there() {
        assert!(Holding::default().may_hold(SealCount(1), Chances(0)));
        let no_end = Holding { oldest: SealCount(u64::MAX), newest: SealCount(0) };
        assert!(!no_end.may_hold(SealCount(1), no_end.chances(SealCount(1))));
    }
}
