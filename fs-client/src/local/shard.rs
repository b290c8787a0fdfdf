//! A part of the index: the blocks that a policy may give up, and those that are pinned.

use std::collections::BTreeMap;

use rampool_policy::Policy;

use crate::arena::SlotId;
use crate::block::{BlockIndex, BlockKey, FileKey};

/// The index's hold on a slot.
#[derive(Clone, Copy)]
pub(super) struct Cached {
    pub(super) slot: SlotId,
    /// Brought by a sequential stream and not used otherwise since: not worth lending.
    pub(super) streamed: bool,
}

/// The blocks of some groups.
pub(super) struct Shard {
    policy: Box<dyn Policy<BlockKey, Cached>>,
    /// In order, so that a file's are found without looking at all.
    pinned: BTreeMap<BlockKey, Cached>,
    pinned_max: usize,
}

/// Of a shard's blocks so many quarters can be pinned: the rest is for everything else that is read.
const PINNED_QUARTERS: usize = 3;

impl Shard {
    /// An empty one, for so many blocks.
    pub(super) fn new(policy: Box<dyn Policy<BlockKey, Cached>>, blocks: usize) -> Self {
        Self { policy, pinned: BTreeMap::new(), pinned_max: blocks / 4 * PINNED_QUARTERS }
    }

    /// Finds a block and notes a use.
    pub(super) fn get(&mut self, key: BlockKey) -> Option<Cached> {
        self.policy.get(key).or_else(|| self.get_pinned(key))
    }

    /// Finds a block and notes nothing.
    pub(super) fn peek(&self, key: BlockKey) -> Option<Cached> {
        self.policy.peek(key).or_else(|| self.get_pinned(key))
    }

    /// Puts a block here, and returns what it replaces. One that is pinned stays so.
    pub(super) fn insert(&mut self, key: BlockKey, cached: Cached) -> Option<Cached> {
        match self.pinned.get_mut(&key) {
            Some(pinned) => Some(std::mem::replace(pinned, cached)),
            None => self.policy.insert(key, cached),
        }
    }

    /// Takes a block away.
    pub(super) fn remove(&mut self, key: BlockKey) -> Option<Cached> {
        self.policy.remove(key).or_else(|| self.pinned.remove(&key))
    }

    /// Gives up the block that is worth least, of those that are not pinned.
    pub(super) fn evict(
        &mut self,
        used: &mut dyn FnMut(Cached) -> bool,
    ) -> Option<(BlockKey, Cached)> {
        self.policy.evict(used)
    }

    /// How many blocks are here.
    pub(super) fn len(&self) -> usize {
        self.policy.len() + self.pinned.len()
    }

    /// How many of them are pinned.
    pub(super) fn pinned(&self) -> usize {
        self.pinned.len()
    }

    /// Whether a block is pinned.
    pub(super) fn is_pinned(&self, key: BlockKey) -> bool {
        self.pinned.contains_key(&key)
    }

    /// Pins a block that is here. False if it is not, or no more can be pinned.
    pub(super) fn pin(&mut self, key: BlockKey) -> bool {
        if self.pinned.contains_key(&key) {
            return true;
        }
        if self.pinned.len() >= self.pinned_max {
            return false;
        }
        let Some(cached) = self.policy.remove(key) else { return false };
        self.pinned.insert(key, cached);
        true
    }

    /// Leaves the pinned blocks of a file to the policy again.
    pub(super) fn unpin(&mut self, file: FileKey) {
        let [first, last] = [0, u64::MAX].map(|index| BlockKey { file, index: BlockIndex(index) });
        for (key, cached) in self.pinned.extract_if(first..=last, |_, _| true) {
            self.policy.insert(key, cached);
        }
    }

    /// Goes on with another policy, for so many blocks, which is given the blocks in the order in which the old one would
    /// have given them up. `keep` says of each where it is from now on, and of none that it goes.
    pub(super) fn renew(
        &mut self,
        policy: Box<dyn Policy<BlockKey, Cached>>,
        blocks: usize,
        keep: &mut dyn FnMut(BlockKey, Cached) -> Option<Cached>,
        used: &mut dyn FnMut(Cached) -> bool,
    ) {
        let mut old = std::mem::replace(self, Self::new(policy, blocks));
        while let Some((key, cached)) = old.policy.evict(used) {
            if let Some(cached) = keep(key, cached) {
                self.policy.insert(key, cached);
            }
        }
        for (key, cached) in old.pinned {
            let Some(cached) = keep(key, cached) else { continue };
            if self.pinned.len() < self.pinned_max {
                self.pinned.insert(key, cached);
            } else {
                self.policy.insert(key, cached);
            }
        }
    }

    fn get_pinned(&self, key: BlockKey) -> Option<Cached> {
        // Nothing is pinned mostly, and most of what is looked for is here.
        if self.pinned.is_empty() { None } else { self.pinned.get(&key).copied() }
    }
}
