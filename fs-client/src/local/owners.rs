//! Whose block each slot holds: a short cut for readers of neighbours.
//!
//! Blocks that were brought in sequence lie in neighbouring slots. Whoever has found one looks here
//! whether the next slot holds the next block, and is spared a look-up in the index, whose nodes
//! lie all over the memory.
//!
//! An entry changes only under the lock of the shard that its block falls on, and says what
//! that shard's index says. It is read under the lock of the shard that the wanted block falls
//! on, while another shard may be giving the slot to a block of its own: then it may say anything
//! but the wanted block, see [`Owners::holds`].

use crate::arena::SlotId;
use crate::block::BlockKey;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// An index that no block has: no file is that long.
const NOBODY: u64 = u64::MAX;

/// The owners of all slots, and whether each was used by way of this table: 17 bytes a slot.
pub(super) struct Owners {
    slots: Box<[Owner]>,
    used: Box<[AtomicBool]>,
}

struct Owner {
    file: AtomicU64,
    index: AtomicU64,
}

impl Owners {
    pub(super) fn new(slots: usize) -> Self {
        let nobody = || Owner { file: AtomicU64::new(0), index: AtomicU64::new(NOBODY) };
        Self {
            slots: (0..slots).map(|_| nobody()).collect(),
            used: (0..slots).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Notes that `slot` holds the block `key` from now on.
    pub(super) fn set(&self, slot: SlotId, key: BlockKey) {
        let owner = &self.slots[slot.number()];
        self.used[slot.number()].store(false, Ordering::Relaxed);
        // Nobody's in between, so that no mixture of old and new is taken for an owner.
        owner.index.store(NOBODY, Ordering::Release);
        owner.file.store(key.file.0, Ordering::Release);
        owner.index.store(key.index.0, Ordering::Release);
    }

    /// Notes that `slot` holds nobody's block from now on.
    pub(super) fn clear(&self, slot: SlotId) {
        self.slots[slot.number()].index.store(NOBODY, Ordering::Release);
    }

    /// Whether `slot` holds the block `key`, and notes a use if so. Asked under the lock of the
    /// shard of `key`.
    ///
    /// The index is read before and after the file. A slot that goes from block i of another file
    /// to another block of this one passes through nobody's hands in between: whoever reads the
    /// new file after the old index reads a new index, or nobody's, the second time.
    pub(super) fn holds(&self, slot: SlotId, key: BlockKey) -> bool {
        let Some(owner) = self.slots.get(slot.number()) else { return false };
        let holds = owner.index.load(Ordering::Acquire) == key.index.0
            && owner.file.load(Ordering::Acquire) == key.file.0
            && owner.index.load(Ordering::Acquire) == key.index.0;
        if holds {
            self.used[slot.number()].store(true, Ordering::Relaxed);
        }
        holds
    }

    /// Whether the block in `slot` was used by way of this table since this was last asked.
    pub(super) fn take_used(&self, slot: SlotId) -> bool {
        self.used[slot.number()].swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Arena;
    use crate::block::{BlockIndex, FileKey};

    #[test]
    fn a_slot_holds_the_block_that_was_set_last_and_none_when_cleared() {
        let arena = Arena::new(2).unwrap();
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
    }
}
