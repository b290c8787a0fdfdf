//! The index of the local cache, sharded.
//!
//! What holds: a block in the cache is what the source held after the last acknowledged write, or
//! a write is under way that will replace or remove it before it is acknowledged.
//!
//! Locks, in order: a shard, then the arena's free list. Nothing else is taken under a shard, and
//! evicted blocks are handed over after it was let go.

use std::sync::Arc;

use rampool_policy::Kind;

use super::owners::Owners;
use super::shard::{Cached, Shard};

use crate::arena::{Arena, Block, Empty};
use crate::block::{BLOCK_SIZE, BlockIndex, BlockKey, FileKey, Span};
use crate::epochs::{Epochs, Seen};
use crate::sync::Mutex;

/// More shards only spread the blocks thinner: this many threads ask at most.
const SHARDS_MAX: usize = 16;

/// A shard of fewer blocks would evict by chance rather than by use, and what passes through would be most of it.
const SHARD_BLOCKS_MIN: usize = 4096;

/// Room in a shard for blocks that are brought in ahead of sequential readers: four groups.
pub(super) const PASSING_BLOCKS: usize = 256;

/// The blocks that are in memory.
pub(crate) struct LocalCache {
    pub(super) arena: &'static Arena,
    pub(super) policy: Kind,
    pub(super) shards: Box<[Mutex<Shard>]>,
    pub(super) epochs: Arc<Epochs>,
    pub(super) owners: Owners,
    /// Held while the size changes.
    pub(super) resizing: Mutex<()>,
    evicted: Box<dyn Fn(Evicted) + Send + Sync>,
    /// How many slots are kept free, for as many evicted blocks as their taker may hold.
    reserve: Box<dyn Fn() -> usize + Send + Sync>,
}

/// A clean block that fell out of the cache, with all that is needed to lend it.
pub(crate) struct Evicted {
    pub(crate) key: BlockKey,
    pub(crate) block: Block,
    /// The write epoch in which its bytes are the source's.
    pub(crate) seen: Seen,
    /// A sequential stream has passed over it, and nobody else has asked for it.
    pub(crate) streamed: bool,
}

/// How a block is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Random,
    Stream,
}

/// How much memory a cache uses, its index included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    /// It may ever be made so large.
    pub(crate) most: u64,
}

impl From<u64> for Size {
    fn from(bytes: u64) -> Self {
        Self { bytes, most: bytes }
    }
}

/// How many blocks fit, with what the index keeps of them.
pub(super) fn blocks_in(bytes: u64) -> u32 {
    let blocks = bytes / (BLOCK_SIZE + metadata_bytes_per_block()) as u64;
    u32::try_from(blocks).unwrap_or(u32::MAX)
}

/// Bytes that the index keeps for each block beside its 4 KiB, at the worst: those of the policy, the
/// holders' count and the free list (4 each), the owner (9).
pub(crate) const fn metadata_bytes_per_block() -> usize {
    Kind::bytes_a_block::<BlockKey, Cached>() + 4 + 4 + 9
}

impl LocalCache {
    /// A cache of that size; what falls out of it, as `policy` has it, is given
    /// to `evicted`, which must not block, may drop it, and holds as many blocks as `may_hold` says. `epochs`
    /// counts the writes.
    ///
    /// # Errors
    /// Those of mmap(2) and mprotect(2).
    pub(crate) fn new(
        size: Size,
        policy: Kind,
        epochs: Arc<Epochs>,
        may_hold: impl Fn() -> usize + Send + Sync + 'static,
        evicted: impl Fn(Evicted) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let slots = blocks_in(size.bytes);
        let arena = Arena::new(slots, blocks_in(size.most))?;
        let shards = (slots as usize / SHARD_BLOCKS_MIN).clamp(1, SHARDS_MAX);
        let blocks = slots as usize / shards;
        let shard = || Mutex::new(Shard::new(policy.policy(blocks, PASSING_BLOCKS), blocks));
        Ok(Self {
            arena,
            policy,
            shards: (0..shards).map(|_| shard()).collect(),
            epochs,
            owners: Owners::new(arena.slots_max()),
            resizing: Mutex::new(()),
            evicted: Box::new(evicted),
            reserve: Box::new(may_hold),
        })
    }

    /// The block, if it is here; a use.
    pub(crate) fn get(&self, key: BlockKey, use_: Use) -> Option<Block> {
        self.share(&mut self.shard(key).lock(), key, use_)
    }

    /// Looks up a span: the blocks from its start that are here, up to the first that is not. A
    /// stream is first looked for in neighbouring slots.
    pub(crate) fn get_leading(&self, file: FileKey, span: Span, use_: Use, found: &mut Vec<Block>) {
        let mut keys = span.keys(file).peekable();
        while let Some(&first) = keys.peek() {
            let mut shard = self.shard(first).lock();
            while let Some(key) = keys.next_if(|key| key.group() == first.group()) {
                let near = found.last().map(|block| block.slot().next());
                let block = match near.filter(|_| use_ == Use::Stream) {
                    Some(slot) if self.owners.holds(slot, key) => {
                        Some(Block::share(self.arena, slot))
                    }
                    _ => self.share(&mut shard, key, use_),
                };
                match block {
                    Some(block) => found.push(block),
                    None => return,
                }
            }
        }
    }

    /// Whether the block is here; not a use.
    pub(crate) fn contains(&self, key: BlockKey) -> bool {
        self.shard(key).lock().peek(key).is_some()
    }

    /// Whether the block is here, and then, whether it is pinned; not a use.
    pub(crate) fn holds(&self, key: BlockKey) -> Option<bool> {
        let shard = self.shard(key).lock();
        shard.peek(key).map(|_| shard.is_pinned(key))
    }

    /// Observes the write epoch of `key`, before its bytes are read from somewhere.
    pub(crate) fn observe(&self, key: BlockKey) -> Option<Seen> {
        self.epochs.observe(key)
    }

    /// Up to `count` slots to fill, for blocks round `near`; evicts as much as that takes. Fewer
    /// come back when the rest of the cache is being read or sent at this moment.
    pub(crate) fn room(&self, near: BlockKey, count: usize) -> Vec<Empty> {
        // A victim that is handed over keeps its slot for a while: the reserve stands in for it.
        let wanted = count + (self.reserve)();
        for _ in 0..wanted.saturating_sub(self.arena.free()).min(2 * count) {
            if !self.evict_one(near, true) {
                break;
            }
        }
        let mut empty = self.arena.take(count);
        // Readers may hold victims too. Try on, but not through the whole cache.
        let mut tries = 4 * (count - empty.len());
        while empty.len() < count && tries > 0 && self.evict_one(near, false) {
            tries -= 1;
            empty.extend(self.arena.take(count - empty.len()));
        }
        empty
    }

    /// Puts a block that was read elsewhere into the cache, unless a write to it has begun since
    /// `seen` was observed.
    pub(crate) fn insert(&self, key: BlockKey, block: Block, seen: Seen, use_: Use) {
        let mut shard = self.shard(key).lock();
        // Checked under the lock: a write that begins later finds the block here, and replaces it.
        if self.epochs.unchanged(seen) {
            let streamed = use_ == Use::Stream;
            let cached = Cached { slot: block.into_slot(), streamed };
            let replaced = shard.insert(key, cached);
            self.moved(key, Some(cached), replaced);
            drop(shard);
            self.release(replaced);
        }
    }

    /// How many blocks are here.
    pub(crate) fn blocks(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// How many of them are pinned.
    pub(crate) fn pinned_blocks(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().pinned()).sum()
    }

    /// Takes blocks that are here for worth keeping, as if they had been used again and again.
    pub(crate) fn prefer(&self, keys: impl Iterator<Item = BlockKey>) {
        /// As many as any policy wants to see.
        const USES: usize = 2;
        for key in keys {
            let mut shard = self.shard(key).lock();
            (0..USES).for_each(|_| drop(self.share(&mut shard, key, Use::Random)));
        }
    }

    /// Keeps a block that is here whatever else is read, until its file is unpinned or its bytes are not the source's any
    /// more. False if it is not here, or no more can be pinned.
    pub(crate) fn pin(&self, key: BlockKey) -> bool {
        self.shard(key).lock().pin(key)
    }

    /// Lets go of the pinned blocks of a file: they leave as others do.
    pub(crate) fn unpin(&self, file: FileKey) {
        self.shards.iter().for_each(|shard| shard.lock().unpin(file));
    }

    /// Removes the blocks of a file that is not longer than `size` bytes.
    pub(crate) fn forget(&self, file: FileKey, size: u64) {
        let blocks = size.div_ceil(BLOCK_SIZE as u64);
        if blocks <= self.arena.slots() as u64 {
            (0..blocks).for_each(|index| self.remove(BlockKey { file, index: BlockIndex(index) }));
        } else {
            let owned = (0..self.arena.slots()).filter_map(|slot| self.owners.block_in(slot));
            owned.filter(|key| key.file == file).for_each(|key| self.remove(key));
        }
    }

    /// How many blocks there is memory for.
    pub(crate) fn capacity_blocks(&self) -> usize {
        self.arena.slots()
    }

    /// Puts what a write left behind in place of the cached block, if `still` says so while
    /// nobody can change the index; else removes what is there.
    pub(super) fn replace_if(&self, key: BlockKey, block: Block, still: impl FnOnce() -> bool) {
        let mut shard = self.shard(key).lock();
        let (cached, replaced) = if still() {
            let cached = Cached { slot: block.into_slot(), streamed: false };
            (Some(cached), shard.insert(key, cached))
        } else {
            (None, shard.remove(key))
        };
        self.moved(key, cached, replaced);
        drop(shard);
        self.release(replaced);
    }

    /// Removes a block whose bytes are not the source's any more.
    pub(super) fn remove(&self, key: BlockKey) {
        let mut shard = self.shard(key).lock();
        let removed = shard.remove(key);
        self.moved(key, None, removed);
        drop(shard);
        self.release(removed);
    }

    fn share(&self, shard: &mut Shard, key: BlockKey, use_: Use) -> Option<Block> {
        let cached = shard.get(key)?;
        if cached.streamed && use_ == Use::Random {
            shard.insert(key, Cached { streamed: false, ..cached });
        }
        Some(Block::share(self.arena, cached.slot))
    }

    /// Evicts from the shard of `near`, or from the next that holds anything, and hands the
    /// victim over or drops it.
    pub(super) fn evict_one(&self, near: BlockKey, hand_over: bool) -> bool {
        let start = self.shard_number(near);
        for n in 0..self.shards.len() {
            let victim = {
                let mut shard = self.shards[(start + n) % self.shards.len()].lock();
                // Observed under the lock: a write that has ended has replaced the block already.
                let victim = shard.evict(&mut |cached| self.owners.take_used(cached.slot));
                victim.map(|(key, cached)| {
                    self.moved(key, None, Some(cached));
                    (key, cached, self.epochs.observe(key))
                })
            };
            let Some((key, cached, seen)) = victim else { continue };
            let block = Block::from_slot(self.arena, cached.slot);
            if let Some(seen) = seen
                && hand_over
            {
                (self.evicted)(Evicted { key, block, seen, streamed: cached.streamed });
            }
            return true;
        }
        false
    }

    /// Notes, under the shard's lock, where the block `key` is now and where it was.
    pub(super) fn moved(&self, key: BlockKey, to: Option<Cached>, from: Option<Cached>) {
        if let Some(from) = from {
            self.owners.clear(from.slot);
        }
        if let Some(to) = to {
            self.owners.set(to.slot, key);
        }
    }

    fn release(&self, cached: Option<Cached>) {
        drop(cached.map(|cached| Block::from_slot(self.arena, cached.slot)));
    }

    fn shard(&self, key: BlockKey) -> &Mutex<Shard> {
        &self.shards[self.shard_number(key)]
    }

    fn shard_number(&self, key: BlockKey) -> usize {
        key.group_hash() as usize % self.shards.len()
    }
}
