//! Which block lies in which slot.
//!
//! A hash table of slot numbers, at least half empty, with linear probing and no tombstones. It has
//! one of two sizes, a small one and the final one, so that an insertion stops once at most, and
//! shortly, to rebuild it. What a slot holds is in arrays beside it. A block is known by 64 bits of a hash keyed with a secret of this process:
//! clients cannot aim for each other's blocks, and where two names do fall together, the seal
//! does not fit and the client sees a miss.
//!
//! The kernel backs it all as it is used. What stands for a segment goes back with the segment, the
//! table when little is left.

use std::io;

use rampool_protocol::block::TAG_SIZE;

use super::segments::{SEGMENT_BLOCKS, SegmentId, SlotId};
use super::zeroed::Zeroed;

/// What a block is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(crate) u64);

/// The authentication tag of a sealed block.
pub(crate) type Tag = [u8; TAG_SIZE];

/// Table places a slot: chains stay short, a lookup costs one or two reads of fingerprints.
const PLACES_PER_SLOT: usize = 2;

/// Places of the small table: half of them are moved when it grows.
const SMALL: usize = 16 * 1024;

/// Maps fingerprints to slots, and slots to what is known of their blocks.
#[derive(Debug)]
pub(crate) struct Index {
    /// A slot's number plus one, or zero for none.
    table: Zeroed<u32>,
    /// How many of the table's places are used.
    places: usize,
    fingerprints: Zeroed<u64>,
    tags: Zeroed<Tag>,
    /// One bit a slot: read since it was stored.
    hits: Zeroed<u64>,
    len: usize,
}

impl Index {
    /// An index for `segments` segments.
    ///
    /// # Errors
    /// When so much address space cannot be had.
    pub(crate) fn new(segments: usize) -> io::Result<Self> {
        let slots = segments * SEGMENT_BLOCKS;
        Ok(Self {
            table: Zeroed::new(slots * PLACES_PER_SLOT)?,
            places: SMALL.min(slots * PLACES_PER_SLOT),
            fingerprints: Zeroed::new(slots)?,
            tags: Zeroed::new(slots)?,
            hits: Zeroed::new(slots.div_ceil(64))?,
            len: 0,
        })
    }

    /// The slot of a block.
    pub(crate) fn find(&self, block: Fingerprint) -> Option<SlotId> {
        match self.table[self.place_of(block)] {
            0 => None,
            number => Some(SlotId::new(number as usize - 1)),
        }
    }

    /// The block in a slot. A slot whose block was replaced or removed has none, whatever
    /// its record says: only the table knows who lives.
    pub(crate) fn block_in(&self, slot: SlotId) -> Option<Fingerprint> {
        let block = Fingerprint(self.fingerprints[slot.index()]);
        (self.find(block) == Some(slot)).then_some(block)
    }

    /// The tag of the block in a slot.
    pub(crate) fn tag(&self, slot: SlotId) -> &Tag {
        &self.tags[slot.index()]
    }

    /// Notes that the block in a slot was read.
    pub(crate) fn mark_hit(&mut self, slot: SlotId) {
        self.hits[slot.index() / 64] |= 1 << (slot.index() % 64);
    }

    /// Whether the block in a slot was read since it came there.
    pub(crate) fn was_hit(&self, slot: SlotId) -> bool {
        self.hits[slot.index() / 64] & (1 << (slot.index() % 64)) != 0
    }

    /// Records a block in a slot in which no block lives. Elsewhere it is forgotten.
    pub(crate) fn insert(&mut self, block: Fingerprint, slot: SlotId, tag: Tag) {
        debug_assert!(self.block_in(slot).is_none_or(|other| other == block));
        if self.len * PLACES_PER_SLOT >= self.places && self.places < self.table.len() {
            self.rebuild(self.table.len());
        }
        let place = self.place_of(block);
        if self.table[place] == 0 {
            self.len += 1;
        }
        self.table[place] = number(slot);
        self.fingerprints[slot.index()] = block.0;
        self.tags[slot.index()] = tag;
        self.hits[slot.index() / 64] &= !(1 << (slot.index() % 64));
    }

    /// Forgets a block.
    pub(crate) fn remove(&mut self, block: Fingerprint) {
        let mut gap = self.place_of(block);
        if self.table[gap] == 0 {
            return;
        }
        self.len -= 1;
        // Whatever the gap would cut off from its home moves into it.
        let mut place = gap;
        loop {
            place = self.next(place);
            let Some(slot) = self.table[place].checked_sub(1) else { break };
            let home = self.home(Fingerprint(self.fingerprints[slot as usize]));
            let reachable =
                if gap < place { gap < home && home <= place } else { gap < home || home <= place };
            if !reachable {
                self.table[gap] = self.table[place];
                gap = place;
            }
        }
        self.table[gap] = 0;
    }

    /// Forgets all blocks of a segment, says how many there were, and gives back the memory of what
    /// was known of them.
    pub(crate) fn clear(&mut self, segment: SegmentId) -> usize {
        let before = self.len;
        for slot in segment.slots() {
            if let Some(block) = self.block_in(slot) {
                self.remove(block);
            }
        }
        let slots = segment.slot(0).index()..segment.slot(SEGMENT_BLOCKS - 1).index() + 1;
        self.fingerprints.clear(slots.clone());
        self.tags.clear(slots);
        if self.places > SMALL && self.len < SMALL / PLACES_PER_SLOT / 4 {
            self.rebuild(SMALL);
        }
        before - self.len
    }

    /// Forgets the blocks of a segment that `present`, by place, says are gone. Says how many it
    /// forgot, and how many are left.
    pub(crate) fn retain(&mut self, segment: SegmentId, present: &[bool]) -> (usize, usize) {
        let (mut gone, mut left) = (0, 0);
        for (slot, present) in segment.slots().zip(present) {
            match self.block_in(slot) {
                Some(block) if !present => {
                    self.remove(block);
                    gone += 1;
                }
                Some(_) => left += 1,
                None => {}
            }
        }
        (gone, left)
    }

    /// How many blocks are known.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Memory that the index takes when all of it is in use.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(&*self.table)
            + size_of_val(&*self.fingerprints)
            + size_of_val(&*self.tags)
            + size_of_val(&*self.hits)
    }

    /// Memory behind the index, in bytes.
    #[cfg(test)]
    pub(super) fn resident(&self) -> usize {
        self.table.resident()
            + self.fingerprints.resident()
            + self.tags.resident()
            + self.hits.resident()
    }

    /// The place where the block is, or the empty one where it would go. There always is one:
    /// the table has more places than there are slots.
    fn place_of(&self, block: Fingerprint) -> usize {
        let mut place = self.home(block);
        while let Some(slot) = self.table[place].checked_sub(1) {
            if self.fingerprints[slot as usize] == block.0 {
                return place;
            }
            place = self.next(place);
        }
        place
    }

    /// Uses the first `places` of the table from now on.
    fn rebuild(&mut self, places: usize) {
        let known: Vec<u32> =
            self.table[..self.places].iter().copied().filter(|&number| number != 0).collect();
        self.table.clear(0..self.places);
        self.places = places;
        for number in known {
            let place = self.place_of(Fingerprint(self.fingerprints[number as usize - 1]));
            self.table[place] = number;
        }
    }

    /// Fingerprints are evenly spread over 64 bits; this spreads them evenly over the table.
    fn home(&self, block: Fingerprint) -> usize {
        ((u128::from(block.0) * self.places as u128) >> 64) as usize
    }

    fn next(&self, place: usize) -> usize {
        if place + 1 == self.places { 0 } else { place + 1 }
    }
}

fn number(slot: SlotId) -> u32 {
    u32::try_from(slot.index() + 1).expect("the number of segments leaves one number out")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u64),
        Remove(u64),
        Hit(u64),
    }

    /// Fingerprints that crowd at both ends of the table, so that chains are long and wrap.
    fn fingerprint() -> impl Strategy<Value = u64> {
        prop_oneof![0..12u64, (0..12u64).prop_map(|low| u64::MAX - low), any::<u64>()]
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map(ops in prop::collection::vec(
            prop_oneof![
                4 => fingerprint().prop_map(Op::Insert),
                3 => fingerprint().prop_map(Op::Remove),
                1 => fingerprint().prop_map(Op::Hit),
            ], 0..200)
        ) {
            const SLOTS: usize = 64;
            let mut index = Index::new(1).unwrap();
            index.places = 2 * SLOTS;
            let mut model: HashMap<u64, (usize, bool)> = HashMap::new();
            for (step, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Insert(key) => {
                        let taken: Vec<_> = model.values().map(|(slot, _)| *slot).collect();
                        let Some(slot) = (0..SLOTS).find(|s| !taken.contains(s)) else { continue };
                        index.insert(Fingerprint(key), SlotId::new(slot), [step as u8; 16]);
                        prop_assert_eq!(index.tag(SlotId::new(slot)), &[step as u8; 16]);
                        model.insert(key, (slot, false));
                    }
                    Op::Remove(key) => {
                        index.remove(Fingerprint(key));
                        model.remove(&key);
                    }
                    Op::Hit(key) => if let Some((slot, hit)) = model.get_mut(&key) {
                        index.mark_hit(SlotId::new(*slot));
                        *hit = true;
                    },
                }
                prop_assert_eq!(index.len(), model.len());
                for (&key, &(slot, hit)) in &model {
                    let slot = SlotId::new(slot);
                    prop_assert_eq!(index.find(Fingerprint(key)), Some(slot));
                    prop_assert_eq!(index.block_in(slot), Some(Fingerprint(key)));
                    prop_assert_eq!(index.was_hit(slot), hit);
                }
                for slot in (0..SLOTS).filter(|s| model.values().all(|(taken, _)| taken != s)) {
                    prop_assert_eq!(index.block_in(SlotId::new(slot)), None);
                }
            }
        }
    }
}
