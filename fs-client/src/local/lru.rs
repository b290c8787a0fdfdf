//! Least recently used.

use lru::LruCache;

use super::policy::Policy;
use crate::block::BlockKey;

/// Evicts the block that was not used for the longest time.
pub(crate) struct Lru<V> {
    blocks: LruCache<BlockKey, V>,
}

impl<V> Lru<V> {
    pub(crate) fn new() -> Self {
        Self { blocks: LruCache::unbounded() }
    }
}

impl<V: Send> Policy<V> for Lru<V> {
    fn get(&mut self, key: BlockKey) -> Option<&mut V> {
        self.blocks.get_mut(&key)
    }

    fn peek(&self, key: BlockKey) -> Option<&V> {
        self.blocks.peek(&key)
    }

    fn insert(&mut self, key: BlockKey, value: V) -> Option<V> {
        self.blocks.put(key, value)
    }

    fn remove(&mut self, key: BlockKey) -> Option<V> {
        self.blocks.pop(&key)
    }

    fn evict(&mut self) -> Option<(BlockKey, V)> {
        self.blocks.pop_lru()
    }

    fn len(&self) -> usize {
        self.blocks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockIndex, FileKey};

    fn key(n: u64) -> BlockKey {
        BlockKey { file: FileKey(1), index: BlockIndex(n) }
    }

    #[test]
    fn the_longest_unused_goes_first_and_a_peek_is_no_use() {
        let mut policy = Lru::new();
        for n in 0..3 {
            policy.insert(key(n), n);
        }
        policy.get(key(0));
        policy.peek(key(1));
        assert_eq!(policy.evict(), Some((key(1), 1)));
        policy.insert(key(1), 10);
        assert_eq!(policy.evict(), Some((key(2), 2)));
        assert_eq!(policy.insert(key(0), 20), Some(0), "inserted again");
        assert_eq!(policy.evict(), Some((key(1), 10)));
        assert_eq!(policy.evict(), Some((key(0), 20)));
        assert_eq!(policy.evict(), None);
    }
}
