//! Least recently used, with a second chance instead of moves.
//!
//! Moving a block to the front of the list touches the memory of four others, which costs more
//! than finding it. So a hit only marks the block, and the move is made when the block comes up
//! for eviction: as the kernel does it with its pages.

use std::hash::Hash;

use lru::LruCache;

use crate::Policy;

/// Blocks in use that one eviction moves at most: it must stay short when all are in use.
const CHANCES_MAX: usize = 64;

/// Evicts the block that was not used for the longest time.
pub struct Lru<K, V> {
    blocks: LruCache<K, Placed<V>>,
}

struct Placed<V> {
    value: V,
    /// Used since it was last placed at the front.
    used: bool,
}

impl<K: Hash + Eq, V> Lru<K, V> {
    /// Bytes for each block at the worst: the list node, in an allocation of its own whose size is rounded up; the
    /// hash table's two pointers and control byte an entry, at the lowest load after it has grown.
    pub(crate) const BYTES_A_BLOCK: usize =
        (size_of::<K>() + size_of::<Placed<V>>() + 16).next_multiple_of(16) + 17 * 16 / 7;

    /// An empty one.
    pub fn new() -> Self {
        Self { blocks: LruCache::unbounded() }
    }
}

impl<K: Hash + Eq, V> Default for Lru<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Copy + Eq + Hash + Send, V: Copy + Send> Policy<K, V> for Lru<K, V> {
    fn get(&mut self, key: K) -> Option<V> {
        let placed = self.blocks.peek_mut(&key)?;
        placed.used = true;
        Some(placed.value)
    }

    fn peek(&self, key: K) -> Option<V> {
        self.blocks.peek(&key).map(|placed| placed.value)
    }

    fn insert(&mut self, key: K, value: V) -> Option<V> {
        let placed = Placed { value, used: false };
        self.blocks.put(key, placed).map(|placed| placed.value)
    }

    fn remove(&mut self, key: K) -> Option<V> {
        self.blocks.pop(&key).map(|placed| placed.value)
    }

    fn evict(&mut self, used: &mut dyn FnMut(V) -> bool) -> Option<(K, V)> {
        for _ in 0..CHANCES_MAX {
            let (&key, placed) = self.blocks.peek_lru()?;
            // Asked first: the answer is taken back by asking.
            if !used(placed.value) && !placed.used {
                break;
            }
            if let Some(placed) = self.blocks.get_mut(&key) {
                placed.used = false;
            }
        }
        self.blocks.pop_lru().map(|(key, placed)| (key, placed.value))
    }

    fn len(&self) -> usize {
        self.blocks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_in_use_outlives_those_that_are_not() {
        let mut policy = Lru::new();
        for n in 0..100 {
            policy.insert(n, n);
        }
        for n in 100..1_000 {
            policy.get(0);
            policy.insert(n, n);
            assert_ne!(policy.evict(&mut |_| false).unwrap().0, 0);
        }
    }

    #[test]
    fn the_longest_unused_goes_first_and_a_peek_is_no_use() {
        let mut policy = Lru::new();
        for n in 0..3 {
            policy.insert(n, n);
        }
        policy.get(0);
        policy.peek(1);
        assert_eq!(policy.evict(&mut |_| false), Some((1, 1)));
        policy.insert(1, 10);
        assert_eq!(policy.evict(&mut |_| false), Some((2, 2)));
        assert_eq!(policy.insert(0, 20), Some(0), "inserted again");
        assert_eq!(policy.evict(&mut |_| false), Some((1, 10)));
        assert_eq!(policy.evict(&mut |_| false), Some((0, 20)));
        assert_eq!(policy.evict(&mut |_| false), None);
    }
}
