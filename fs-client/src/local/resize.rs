//! A cache that becomes smaller or larger while it is used.

use std::io::Result;

use super::cache::{LocalCache, PASSING_BLOCKS, blocks_in};
use super::shard::Cached;
use crate::arena::Block;
use crate::block::{BlockIndex, BlockKey, FileKey};

impl LocalCache {
    /// Has the cache use `bytes` from now on, its index included. What does not fit any more is evicted; what lies in
    /// memory that goes is moved. What readers hold of that memory goes when [`Self::settle`] is called after they are done.
    ///
    /// # Errors
    /// There is no memory for more; the size stays.
    pub(crate) fn resize(&self, bytes: u64) -> Result<()> {
        let _resizing = self.resizing.lock();
        let slots = blocks_in(bytes);
        self.arena.limit(slots)?;
        // The limit may be lower: that of the address space.
        let slots = self.arena.slots();
        for over in (0..self.blocks().saturating_sub(slots)).rev() {
            // From each shard in turn.
            let near = BlockKey { file: FileKey(over as u64), index: BlockIndex(0) };
            self.evict_one(near, true);
        }
        let blocks = slots / self.shards.len();
        for shard in &self.shards {
            // Copies wait for no reader: what finds no slot goes.
            shard.lock().renew(
                self.policy.policy(blocks, PASSING_BLOCKS),
                blocks,
                &mut |key, cached| self.moved_below(slots, key, cached),
                &mut |cached| self.owners.take_used(cached.slot),
            );
        }
        self.arena.release();
        Ok(())
    }

    /// Gives memory back that was held when the cache became smaller.
    pub(crate) fn settle(&self) {
        let _resizing = self.resizing.lock();
        self.arena.release();
    }

    /// Where a block is from now on, if it is to be in one of the first `slots`. Under the lock of its shard.
    fn moved_below(&self, slots: usize, key: BlockKey, cached: Cached) -> Option<Cached> {
        if cached.slot.number() < slots {
            return Some(cached);
        }
        let old = Block::from_slot(self.arena, cached.slot);
        let moved = self.arena.take(1).pop().map(|mut empty| {
            empty.bytes_mut().copy_from_slice(&*old);
            Cached { slot: empty.publish().into_slot(), ..cached }
        });
        self.moved(key, moved, Some(cached));
        moved
    }
}
