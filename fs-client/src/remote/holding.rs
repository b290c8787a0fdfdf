//! What a server still holds, as far as can be told from here.
//!
//! A server evicts in the order in which blocks came, and says how far it has come. What is older is gone, but for blocks
//! that were asked for: those it puts behind the newest once, as if they had come anew ("second chance", as in the CLOCK
//! algorithm). It does not say which; but as the server turns over all that it holds once in the time in which as many
//! sealings pass as lie between its oldest and its newest, it can be worked out how long a block stays that is asked for:
//! until its turn comes, and for one turn more. To be wrong costs a question in vain, or a read of the source.
//!
//! That is not all the truth. Of what goes at once (2 MiB), half is kept at most; what goes to make room for another client, or
//! back to the server's own machine, gets no second chance.

use super::seal::SealCount;

/// How long a block stays where it was lent to, as one byte: 0 until its turn comes, 255 until it is missed, else until a moment on
/// the server's clock of turns, in eighths, which goes round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stay(pub(super) u8);

/// Moments on the clock.
const MOMENTS: u64 = 254;
const EIGHTHS: f64 = 8.0;

/// A block stays for so many eighths of a turn at most. What would stay for longer has been gone for long.
const STAYS_MAX: u64 = 2 * 8;

/// Turns are not all of the same length: so much longer a block is believed to be there.
const MARGIN: u64 = 2;

/// From which sealing to which a server holds what it was sent. Before it has said so it may hold everything.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holding {
    oldest: SealCount,
    newest: SealCount,
    /// How often it has turned over what it holds, since it was first known.
    turns: f64,
}

impl Stay {
    /// It was not asked for.
    pub(super) const ONE_TURN: Self = Self(0);
    /// Nobody knows for how long.
    pub(super) const UNTIL_MISSED: Self = Self(255);
}

impl Holding {
    /// Of what it was sent, up to `newest`, it has evicted what is older than `oldest`; 0 if it does not know.
    pub(super) fn told(&mut self, oldest: SealCount, newest: SealCount) {
        let sealed = newest.0.saturating_sub(self.newest.0);
        let turn = newest.0.saturating_sub(oldest.0);
        if self.newest.0 > 0 && turn > 0 {
            self.turns += sealed as f64 / turn as f64;
        }
        (self.oldest, self.newest) = (oldest, newest);
    }

    /// Whether a block that was sealed with `count` may be there.
    pub(super) fn may_hold(&self, count: SealCount, stay: Stay) -> bool {
        match stay {
            _ if self.oldest.0 == 0 => true,
            Stay::ONE_TURN => count >= self.oldest,
            Stay::UNTIL_MISSED => true,
            Stay(moment) => self.until(moment).is_some(),
        }
    }

    /// How long a block stays that was sealed with `count`, and is asked for now.
    pub(super) fn asked(&self, count: SealCount, stay: Stay) -> Stay {
        let turn = self.newest.0.saturating_sub(self.oldest.0);
        if self.oldest.0 == 0 || turn == 0 {
            return Stay::UNTIL_MISSED;
        }
        match stay {
            Stay::ONE_TURN => {
                let left = count.0.saturating_sub(self.oldest.0) as f64 / turn as f64;
                self.moment(left.min(1.0) + 1.0)
            }
            // Somewhere in its turn.
            Stay::UNTIL_MISSED => self.moment(2.0),
            Stay(moment) => match self.until(moment) {
                // It was asked for in this turn already.
                Some(left) if left > EIGHTHS as u64 => stay,
                left => self.moment(left.unwrap_or(0) as f64 / EIGHTHS + 1.0),
            },
        }
    }

    /// The moment after so many turns.
    fn moment(&self, after: f64) -> Stay {
        Stay((self.eighths(after) % MOMENTS) as u8 + 1)
    }

    /// How many eighths of a turn are left until a moment, of which some may be over; none if it is past.
    fn until(&self, moment: u8) -> Option<u64> {
        let moment = u64::from(moment).saturating_sub(1);
        let left = (moment + MARGIN + MOMENTS - self.eighths(0.0) % MOMENTS) % MOMENTS;
        (left <= STAYS_MAX + MARGIN).then(|| left.saturating_sub(MARGIN))
    }

    fn eighths(&self, after: f64) -> u64 {
        ((self.turns + after) * EIGHTHS) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, VecDeque};

    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    /// Blocks that go at once.
    const SEGMENT: usize = 32;

    /// A server, and what a client believes of it.
    struct Played {
        random: SmallRng,
        segments: VecDeque<Segment>,
        room: usize,
        sealed: u64,
        holding: Holding,
        believed: HashMap<u64, Stay>,
    }

    #[derive(Default)]
    struct Segment {
        /// When the first came that was not kept on.
        first: u64,
        /// Which, and whether it was asked for since it came there.
        blocks: Vec<(u64, bool)>,
    }

    /// How often it was asked for what is there, for what is not, and was not asked for what is.
    #[derive(Debug, Default)]
    struct Asked {
        hits: u32,
        in_vain: u32,
        forgotten: u32,
    }

    impl Played {
        fn new(room: usize) -> Self {
            let (random, segments) = (SmallRng::seed_from_u64(7), VecDeque::new());
            let (holding, believed) = (Holding::default(), HashMap::new());
            Self { random, segments, room, sealed: 0, holding, believed }
        }

        fn put(&mut self) {
            self.sealed += 1;
            if self.segments.back().is_none_or(|open| open.blocks.len() == SEGMENT) {
                let mut open = Segment { first: self.sealed, blocks: Vec::new() };
                while self.segments.len() >= self.room {
                    let old = self.segments.pop_front().unwrap();
                    let kept = old.blocks.into_iter().filter(|&(_, hit)| hit).take(SEGMENT / 2);
                    // Only the one that is filled anew keeps any.
                    open.blocks = kept.map(|(block, _)| (block, false)).collect();
                }
                self.segments.push_back(open);
            }
            self.segments.back_mut().unwrap().blocks.push((self.sealed, false));
            self.believed.insert(self.sealed, Stay::ONE_TURN);
            let oldest = SealCount(self.segments[0].first);
            self.holding.told(oldest, SealCount(self.sealed));
        }

        /// Puts so many, and asks for one of the last so many after each.
        fn play(&mut self, puts: u32, among: u64) -> Asked {
            let mut asked = Asked::default();
            for _ in 0..puts {
                self.put();
                let wanted = self.sealed - self.random.random_range(0..among.min(self.sealed));
                let all = self.segments.iter_mut().flat_map(|segment| &mut segment.blocks);
                let there = all.into_iter().find(|(block, _)| *block == wanted);
                let count = SealCount(wanted);
                let stay = self.believed.get(&wanted).copied();
                match stay.filter(|&stay| self.holding.may_hold(count, stay)) {
                    None => {
                        self.believed.remove(&wanted);
                        asked.forgotten += u32::from(there.is_some());
                    }
                    Some(stay) => match there {
                        Some((_, hit)) => {
                            asked.hits += 1;
                            *hit = true;
                            self.believed.insert(wanted, self.holding.asked(count, stay));
                        }
                        None => {
                            asked.in_vain += 1;
                            self.believed.remove(&wanted);
                        }
                    },
                }
            }
            asked
        }
    }

    #[test]
    fn little_is_asked_for_in_vain_and_little_forgotten() {
        for (room, among) in [(8, 1_000), (64, 8_000), (64, 3_000), (8, 300)] {
            let mut played = Played::new(room);
            played.play(20_000, among);
            let asked = played.play(20_000, among);
            let all = f64::from(asked.hits);
            assert!(f64::from(asked.forgotten) < 0.03 * all, "{room} {among}: {asked:?}");
            assert!(f64::from(asked.in_vain) < 0.10 * all, "{room} {among}: {asked:?}");
        }
    }

    #[test]
    fn a_server_may_hold_less_and_more_than_before() {
        let mut played = Played::new(64);
        played.play(20_000, 3_000);
        for room in [40, 80, 20, 64] {
            played.room = room;
            let asked = played.play(20_000, 3_000);
            let all = f64::from(asked.hits);
            assert!(f64::from(asked.forgotten) < 0.05 * all, "{room}: {asked:?}");
            assert!(f64::from(asked.in_vain) < 0.20 * all, "{room}: {asked:?}");
        }
    }

    #[test]
    fn while_nothing_is_known_all_may_be_there() {
        let mut holding = Holding::default();
        let count = SealCount(1);
        let asked = holding.asked(count, Stay::ONE_TURN);
        assert_eq!(asked, Stay::UNTIL_MISSED);
        assert!(holding.may_hold(count, Stay::ONE_TURN));
        holding.told(SealCount(500), SealCount(900));
        assert!(!holding.may_hold(count, Stay::ONE_TURN) && holding.may_hold(count, asked));
        let again = holding.asked(count, asked);
        assert!(again != asked && holding.may_hold(count, again));
        holding.told(SealCount(1900), SealCount(2300));
        assert!(!holding.may_hold(count, again), "three turns later");
        holding.told(SealCount(0), SealCount(2301));
        assert!(holding.may_hold(count, again), "it does not know any more");
    }
}
