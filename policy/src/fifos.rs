//! Two queues, and a memory of what has left: a small one that new blocks pass through, and a main one for those that
//! were worth it. A hit only marks the block; blocks move when room is needed.
//!
//! That is S3-FIFO (Yang et al., SOSP 2023): a block that is used twice in the small queue goes to the main one, and
//! so does a block that comes back soon after it has left the small one. It stands scans well, but in a loop over
//! more than fits every block comes back, drives out another, and is driven out before its turn.
//!
//! With a gate it stands loops as well. A block that comes back is let into the main queue only if it was away for
//! less time than the block that would have to leave is unused, which is the test of LIRS (Jiang and Zhang,
//! SIGMETRICS 2002) on time stamps instead of a stack; time is counted in blocks that came. And as there, the main
//! queue is filled first. Of a loop the part that fits then stays.

use std::hash::{BuildHasher as _, Hash};

use foldhash::quality::FixedState;
use hashbrown::HashTable;

use crate::Policy;
use crate::ghosts::Ghosts;

/// Blocks that one eviction moves at most: it must stay short when all are in use.
const MOVES_MAX: usize = 64;
/// Uses that are counted.
const USES_MAX: u8 = 3;
/// Uses in the small queue that are worth the main one: the first may belong to what brought the block.
const USES_WORTH: u8 = 2;

const NONE: u32 = u32::MAX;

/// What is left open by S3-FIFO, or different with the gate.
#[derive(Clone, Copy, Debug)]
struct Parts {
    /// The small queue's part of all blocks, in per cent.
    small_per_cent: usize,
    /// What has left is remembered, in per cent of all blocks.
    ghosts_per_cent: usize,
    /// Whether there is a gate, and the main queue is filled first.
    gate: bool,
}

const S3_FIFO: Parts = Parts { small_per_cent: 10, ghosts_per_cent: 90, gate: false };
/// Measured on the traces that docs/performance.md lists: a smaller queue loses scans, a larger one loops.
const GATED: Parts = Parts { small_per_cent: 3, ghosts_per_cent: 300, gate: true };

/// S3-FIFO, with or without a gate.
#[derive(Debug)]
pub struct Fifos<K, V> {
    parts: Parts,
    /// The small queue is at least so long, unless that is more than a quarter of all.
    passing: usize,
    nodes: Vec<Node<K, V>>,
    /// The first free node.
    free: u32,
    index: HashTable<u32>,
    /// The same in each run, so that replays can be repeated; nobody outside chooses the keys.
    hasher: FixedState,
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
    /// Blocks that came so far; around the end it begins again.
    now: u32,
    /// Something had to leave.
    was_full: bool,
}

/// A block, or a free place.
#[derive(Debug)]
struct Node<K, V> {
    key: K,
    value: V,
    previous: u32,
    next: u32,
    used_at: u32,
    /// Since it was put at the front.
    uses: u8,
    in_main: bool,
}

/// Newest first.
#[derive(Clone, Copy, Debug)]
struct Queue {
    first: u32,
    last: u32,
    len: usize,
}

impl<K: Copy + Eq + Hash, V: Copy> Fifos<K, V> {
    /// Bytes for each block at the worst: a node; the index with a control byte an entry, at the lowest load after
    /// it has grown; the ghosts.
    pub const BYTES_A_BLOCK: usize = size_of::<Node<K, V>>()
        + (size_of::<u32>() + 1) * 16 / 7
        + Ghosts::BYTES * GATED.ghosts_per_cent / 100;

    /// Without a gate, for so many blocks, with room for so many that only pass through.
    pub fn s3_fifo(blocks: usize, passing: usize) -> Self {
        Self::new(S3_FIFO, blocks, passing)
    }

    /// The same with a gate.
    pub fn gated(blocks: usize, passing: usize) -> Self {
        Self::new(GATED, blocks, passing)
    }

    fn new(parts: Parts, blocks: usize, passing: usize) -> Self {
        Self {
            parts,
            passing,
            nodes: Vec::with_capacity(blocks),
            free: NONE,
            index: HashTable::with_capacity(blocks),
            hasher: FixedState::default(),
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            ghosts: Ghosts::new(blocks * parts.ghosts_per_cent / 100),
            now: 0,
            was_full: false,
        }
    }

    fn find(&self, key: K) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.index.find(hash, |&n| self.nodes[n as usize].key == key).copied()
    }

    fn small_len_max(&self) -> usize {
        let len = self.small.len + self.main.len;
        (len * self.parts.small_per_cent / 100).max(self.passing.min(len / 4)).max(1)
    }

    /// Whether a block that comes goes to the main queue at once.
    fn is_worth(&mut self, hash: u64) -> bool {
        let back = self.ghosts.take(hash);
        if !self.parts.gate {
            return back.is_some();
        }
        if !self.was_full && self.small.len >= self.small_len_max() {
            return true;
        }
        let Some(used_at) = back else { return false };
        if self.main.last == NONE {
            return true;
        }
        self.give_chances(&mut |_| false);
        let oldest = &self.nodes[self.main.last as usize];
        self.now.wrapping_sub(used_at) < self.now.wrapping_sub(oldest.used_at)
    }

    /// Moves what is in use from the end of the main queue to its front.
    fn give_chances(&mut self, used: &mut dyn FnMut(V) -> bool) {
        for _ in 0..MOVES_MAX.min(self.main.len) {
            let n = self.main.last;
            if self.note_used(n, used) == 0 {
                return;
            }
            self.nodes[n as usize].uses -= 1;
            self.main.remove(&mut self.nodes, n);
            self.main.push(&mut self.nodes, n);
        }
    }

    /// The uses of a node, with those that `used` knows of.
    fn note_used(&mut self, n: u32, used: &mut dyn FnMut(V) -> bool) -> u8 {
        let node = &mut self.nodes[n as usize];
        if used(node.value) {
            node.uses = (node.uses + 1).min(USES_MAX);
            node.used_at = self.now;
        }
        node.uses
    }

    /// Takes a node out of its queue and the index.
    fn take(&mut self, n: u32) -> (K, V) {
        let queue = if self.nodes[n as usize].in_main { &mut self.main } else { &mut self.small };
        queue.remove(&mut self.nodes, n);
        let node = &mut self.nodes[n as usize];
        node.next = self.free;
        self.free = n;
        let (key, value) = (node.key, node.value);
        if let Ok(entry) = self.index.find_entry(self.hasher.hash_one(key), |&found| found == n) {
            entry.remove();
        }
        (key, value)
    }
}

impl<K: Copy + Eq + Hash + Send, V: Copy + Send> Policy<K, V> for Fifos<K, V> {
    fn get(&mut self, key: K) -> Option<V> {
        let n = self.find(key)?;
        let node = &mut self.nodes[n as usize];
        node.uses = (node.uses + 1).min(USES_MAX);
        node.used_at = self.now;
        Some(node.value)
    }

    fn peek(&self, key: K) -> Option<V> {
        self.find(key).map(|n| self.nodes[n as usize].value)
    }

    fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(n) = self.find(key) {
            let node = &mut self.nodes[n as usize];
            node.used_at = self.now;
            return Some(std::mem::replace(&mut node.value, value));
        }
        self.now = self.now.wrapping_add(1);
        let hash = self.hasher.hash_one(key);
        let in_main = self.is_worth(hash);
        let node =
            Node { key, value, previous: NONE, next: NONE, used_at: self.now, uses: 0, in_main };
        let n = match self.free {
            NONE => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
            n => {
                self.free = self.nodes[n as usize].next;
                self.nodes[n as usize] = node;
                n
            }
        };
        let queue = if in_main { &mut self.main } else { &mut self.small };
        queue.push(&mut self.nodes, n);
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        self.index.insert_unique(hash, n, |&n| hasher.hash_one(nodes[n as usize].key));
        None
    }

    fn remove(&mut self, key: K) -> Option<V> {
        let n = self.find(key)?;
        Some(self.take(n).1)
    }

    fn evict(&mut self, used: &mut dyn FnMut(V) -> bool) -> Option<(K, V)> {
        self.was_full = true;
        let mut moves = 0;
        while self.small.len > 0 && (self.small.len >= self.small_len_max() || self.main.len == 0) {
            let n = self.small.last;
            if self.note_used(n, used) < USES_WORTH || moves == MOVES_MAX {
                let used_at = self.nodes[n as usize].used_at;
                let (key, value) = self.take(n);
                self.ghosts.insert(self.hasher.hash_one(key), used_at, self.now);
                return Some((key, value));
            }
            moves += 1;
            self.small.remove(&mut self.nodes, n);
            let node = &mut self.nodes[n as usize];
            (node.uses, node.in_main) = (0, true);
            self.main.push(&mut self.nodes, n);
        }
        self.give_chances(used);
        (self.main.len > 0).then(|| self.take(self.main.last))
    }

    fn len(&self) -> usize {
        self.small.len + self.main.len
    }
}

impl Queue {
    const EMPTY: Self = Self { first: NONE, last: NONE, len: 0 };

    fn push<K, V>(&mut self, nodes: &mut [Node<K, V>], n: u32) {
        (nodes[n as usize].previous, nodes[n as usize].next) = (NONE, self.first);
        match self.first {
            NONE => self.last = n,
            first => nodes[first as usize].previous = n,
        }
        self.first = n;
        self.len += 1;
    }

    fn remove<K, V>(&mut self, nodes: &mut [Node<K, V>], n: u32) {
        let (previous, next) = (nodes[n as usize].previous, nodes[n as usize].next);
        match previous {
            NONE => self.first = next,
            previous => nodes[previous as usize].next = next,
        }
        match next {
            NONE => self.last = previous,
            next => nodes[next as usize].previous = previous,
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hits of a cache of `blocks` blocks.
    fn hits(policy: &mut Fifos<u64, ()>, blocks: usize, uses: impl Iterator<Item = u64>) -> usize {
        uses.filter(|&block| {
            if policy.get(block).is_some() {
                return true;
            }
            if policy.len() >= blocks {
                policy.evict(&mut |()| false).expect("it is full");
            }
            policy.insert(block, ());
            false
        })
        .count()
    }

    #[test]
    fn of_a_loop_the_part_that_fits_stays() {
        let uses = || (0..100_000).map(|n| n % 1000);
        let gated = hits(&mut Fifos::gated(500, 0), 500, uses());
        assert!(gated > 46_000, "{gated} of at most 50,000");
        let s3_fifo = hits(&mut Fifos::s3_fifo(500, 0), 500, uses());
        assert!(s3_fifo < gated, "{s3_fifo}");
    }

    #[test]
    fn a_scan_drives_nothing_out_that_is_in_use() {
        for mut policy in [Fifos::gated(1000, 0), Fifos::s3_fifo(1000, 0)] {
            // 700 blocks in use, and after each round 2,000 that are used once.
            let round = |n: u64| (0..700).chain(1_000_000 * (n + 1)..1_000_000 * (n + 1) + 2_000);
            hits(&mut policy, 1000, (0..3).flat_map(|_| 0..700));
            let hits = hits(&mut policy, 1000, (0..20).flat_map(round));
            assert!(hits > 20 * 600, "{hits}");
        }
    }

    #[test]
    fn what_only_passes_through_has_its_room_until_it_is_used() {
        for mut policy in [Fifos::gated(4096, 256), Fifos::s3_fifo(4096, 256)] {
            // Worth keeping, all of it, and none of it is what comes then.
            hits(&mut policy, 4096, (0..10).flat_map(|_| 0..4000));
            (10_000..20_000).for_each(|n| {
                policy.insert(n, ());
                policy.evict(&mut |()| false);
            });
            assert!((19_800..20_000).all(|n| policy.peek(n).is_some()));
        }
    }

    #[test]
    fn new_work_takes_the_place_of_old() {
        let mut policy = Fifos::gated(1000, 0);
        hits(&mut policy, 1000, (0..50_000).map(|n| n % 900));
        let after = hits(&mut policy, 1000, (0..50_000).map(|n| 10_000 + n % 900));
        assert!(after > 40_000, "{after}");
    }

    #[test]
    fn uses_that_were_not_seen_count_when_asked_for() {
        let mut policy = Fifos::gated(100, 0);
        (0..100).for_each(|n| assert_eq!(policy.insert(n, n), None));
        let mut kept = 0;
        for _ in 0..90 {
            let (key, _) = policy.evict(&mut |value| value == 50).unwrap();
            kept += usize::from(key != 50);
        }
        assert_eq!(kept, 90);
    }

    #[test]
    fn a_removed_block_is_gone_and_its_place_is_used_again() {
        let mut policy = Fifos::gated(10, 0);
        (0..10).for_each(|n| assert_eq!(policy.insert(n, n * 10), None));
        assert_eq!((policy.remove(3), policy.remove(3), policy.peek(3)), (Some(30), None, None));
        assert_eq!(policy.insert(4, 41), Some(40));
        assert_eq!((policy.insert(11, 110), policy.len(), policy.nodes.len()), (None, 10, 10));
        let mut left: Vec<_> =
            std::iter::from_fn(|| policy.evict(&mut |_| false)).map(|(key, _)| key).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 1, 2, 4, 5, 6, 7, 8, 9, 11]);
        assert!(policy.is_empty());
    }
}
