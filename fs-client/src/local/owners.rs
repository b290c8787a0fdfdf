//! Whose block each slot holds: a short cut for readers of neighbours.
//!
//! Blocks that were brought in sequence lie in neighbouring slots. Whoever has found one looks here
//! whether the next slot holds the next block, and is spared a look-up in the index, whose nodes
//! lie all over the memory.
//!
//! An entry changes only under the lock of the shard that its block falls on, and says what
//! that shard's index says. It is read under the lock of the shard that the wanted block falls
//! on, while another shard may be giving the slot to a block of its own: then it says any block
//! but the wanted one, because it is one word, and only the wanted block's shard writes its name.

use crate::arena::SlotId;
use crate::block::{BlockIndex, BlockKey, FileKey};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::zeroed;

/// The owners of all slots, and whether each was used by way of this table: 9 bytes a slot.
pub(super) struct Owners {
    slots: Box<[AtomicU64]>,
    used: Box<[AtomicBool]>,
}

/// No block goes by this name.
const NOBODY: u64 = 0;

impl Owners {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots: zeroed(slots), used: zeroed(slots) }
    }

    /// Notes that `slot` holds the block `key` from now on.
    pub(super) fn set(&self, slot: SlotId, key: BlockKey) {
        self.used[slot.number()].store(false, Ordering::Relaxed);
        self.slots[slot.number()].store(name(key), Ordering::Release);
    }

    /// Notes that `slot` holds nobody's block from now on.
    pub(super) fn clear(&self, slot: SlotId) {
        self.slots[slot.number()].store(NOBODY, Ordering::Release);
    }

    /// Whether `slot` holds the block `key`, and notes a use if so. Asked under the lock of the
    /// shard of `key`.
    pub(super) fn holds(&self, slot: SlotId, key: BlockKey) -> bool {
        let Some(owner) = self.slots.get(slot.number()) else { return false };
        let name = name(key);
        let holds = name != NOBODY && owner.load(Ordering::Acquire) == name;
        if holds {
            self.used[slot.number()].store(true, Ordering::Relaxed);
        }
        holds
    }

    /// The block that a slot holds, if it goes by a name: for whoever looks it up then.
    pub(super) fn block_in(&self, slot: usize) -> Option<BlockKey> {
        let name = self.slots.get(slot)?.load(Ordering::Acquire);
        let (file, index) = (FileKey(name >> 32), BlockIndex(name & u64::from(u32::MAX)));
        (name != NOBODY).then_some(BlockKey { file, index })
    }

    /// Whether the block in `slot` was used by way of this table since this was last asked.
    pub(super) fn take_used(&self, slot: SlotId) -> bool {
        self.used[slot.number()].swap(false, Ordering::Relaxed)
    }
}

/// A block's name in one word: half of it the file's key, which is never 0, half the block's number. What does not fit
/// (a file beyond 16 TiB, or one more than 2^32 keys) has none, and is looked up in the index.
fn name(key: BlockKey) -> u64 {
    match (u32::try_from(key.file.0), u32::try_from(key.index.0)) {
        (Ok(file), Ok(index)) => u64::from(file) << 32 | u64::from(index),
        _ => NOBODY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Arena;

    #[test]
    fn a_slot_holds_the_block_that_was_set_last_and_none_when_cleared() {
        let arena = Arena::new(2, 2).unwrap();
        let slot = arena.take(1).pop().unwrap().publish().into_slot();
        let owners = Owners::new(2);
        let key = |n| BlockKey { file: FileKey(1), index: BlockIndex(n) };
        assert!(!owners.holds(slot, key(0)));
        owners.set(slot, key(5));
        assert!(!owners.take_used(slot));
        assert!(owners.holds(slot, key(5)) && !owners.holds(slot, key(6)));
        assert!(owners.take_used(slot) && !owners.take_used(slot));
        owners.set(slot, key(6));
        assert!(!owners.holds(slot, key(5)) && owners.holds(slot, key(6)));
        owners.clear(slot);
        assert!(!owners.holds(slot, key(6)));
        assert!(!owners.holds(slot.next().next(), key(6)), "beyond the arena");
        for large in [key(1 << 32), BlockKey { file: FileKey(1 << 32), index: BlockIndex(6) }] {
            owners.set(slot, large);
            assert!(!owners.holds(slot, large) && !owners.holds(slot, key(0)), "without a name");
        }
    }
}
