//! A trace, replayed through a policy, through the best that could be done, and through two tiers.

use std::collections::BinaryHeap;
use std::num::NonZero;

use lru::LruCache;
use rampool_policy::{Kind, Policy};

use super::trace::Trace;

/// How many uses found their block in a cache of `blocks` blocks.
pub(crate) fn hits(trace: &Trace, kind: Kind, blocks: usize) -> u64 {
    let mut cache = Cache::new(kind, blocks);
    trace.uses.iter().filter(|&&block| cache.uses(block, |_| {})).count() as u64
}

/// Hits of the textbook's least recently used, which published figures can be held against: the policy of that name
/// is an approximation.
pub(crate) fn lru_hits(trace: &Trace, blocks: NonZero<usize>) -> u64 {
    let mut cache = LruCache::new(blocks);
    trace.uses.iter().filter(|&&block| cache.put(block, ()).is_some()).count() as u64
}

/// The most hits that any policy could have that takes in whatever is used: it evicts what is used again last
/// (Belady, 1966).
pub(crate) fn most_hits(trace: &Trace, blocks: usize) -> u64 {
    const NEVER: u32 = u32::MAX;
    let mut next_use = vec![NEVER; trace.uses.len()];
    let mut seen = vec![NEVER; trace.distinct];
    for (n, &block) in trace.uses.iter().enumerate().rev() {
        next_use[n] = seen[block as usize];
        seen[block as usize] = n as u32;
    }
    // Of each block that is there, its next use; the heap holds old ones as well.
    let mut cached: Vec<Option<u32>> = vec![None; trace.distinct];
    let mut by_next_use = BinaryHeap::new();
    let (mut hits, mut held) = (0, 0);
    for (&block, &next) in trace.uses.iter().zip(&next_use) {
        if cached[block as usize].is_some() {
            hits += 1;
        } else {
            while held >= blocks {
                let Some((next, victim)) = by_next_use.pop() else { break };
                if cached[victim as usize] == Some(next) {
                    cached[victim as usize] = None;
                    held -= 1;
                }
            }
            held += 1;
        }
        cached[block as usize] = Some(next);
        by_next_use.push((next, block));
    }
    hits
}

/// Hits in a local cache, and in what was lent, of `remote` blocks: as a server keeps it, in order of arrival, with
/// a second chance for what was read.
pub(crate) fn tiers(trace: &Trace, kind: Kind, local: usize, remote: usize) -> (u64, u64) {
    let mut cache = Cache::new(kind, local);
    let mut lent = Cache::new(Kind::Lru, remote);
    let (mut local_hits, mut remote_hits) = (0, 0);
    for &block in &trace.uses {
        let mut evicted = None;
        if cache.uses(block, |victim| evicted = Some(victim)) {
            local_hits += 1;
        } else if lent.finds(block) {
            remote_hits += 1;
        }
        // What is there already need not be sent again.
        if let Some(victim) = evicted.filter(|&victim| !lent.has(victim)) {
            lent.uses(victim, |_| {});
        }
    }
    (local_hits, remote_hits)
}

/// A policy with a limit.
struct Cache {
    policy: Box<dyn Policy<u32, ()>>,
    blocks: usize,
}

impl Cache {
    fn new(kind: Kind, blocks: usize) -> Self {
        Self { policy: kind.policy(blocks, 0), blocks }
    }

    /// Whether `block` was there; it is afterwards. Says what had to go for it.
    fn uses(&mut self, block: u32, mut evicted: impl FnMut(u32)) -> bool {
        if self.finds(block) {
            return true;
        }
        while self.policy.len() >= self.blocks {
            let Some((victim, ())) = self.policy.evict(&mut |()| false) else { break };
            evicted(victim);
        }
        self.policy.insert(block, ());
        false
    }

    /// Whether it is there; a use.
    fn finds(&mut self, block: u32) -> bool {
        self.policy.get(block).is_some()
    }

    /// Whether it is there; no use.
    fn has(&self, block: u32) -> bool {
        self.policy.peek(block).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(uses: &[u32]) -> Trace {
        let distinct = uses.iter().max().map_or(0, |most| *most as usize + 1);
        Trace { name: "t".to_owned(), uses: uses.to_vec(), distinct }
    }

    #[test]
    fn nobody_beats_the_optimum_and_a_loop_defeats_the_least_recently_used() {
        let uses: Vec<u32> = (0..1000).map(|n| n % 100).collect();
        let trace = trace(&uses);
        assert_eq!(hits(&trace, Kind::Lru, 99), 0);
        // By hand: 2 takes the place of 1, and 1 that of 0, which is not used again.
        assert_eq!(most_hits(&self::trace(&[0, 1, 2, 0, 1, 2]), 2), 2);
        let most = most_hits(&trace, 50);
        for kind in Kind::ALL {
            assert!(hits(&trace, kind, 50) <= most, "{kind}");
            assert_eq!(hits(&trace, kind, 100), 900, "{kind}: all of it fits");
        }
    }

    /// Hits of 1,024, 2,048, ... 524,288 pages of 512 bytes on the trace P12, as others count them who repeat "ARC: A
    /// Self-Tuning, Low Overhead Replacement Cache" (FAST 2003); within a hundredth of a per cent of its table.
    #[test]
    #[ignore = "needs RAMPOOL_TRACES, a directory with arc-P12.lis.zst, and a minute"]
    fn published_hits_are_found_again() {
        const HITS: [u64; 10] = [
            539_564, 638_154, 741_237, 821_758, 936_757, 1_179_069, 1_906_176, 3_859_015,
            6_487_504, 8_046_177,
        ];
        let dir = std::env::var_os("RAMPOOL_TRACES").expect("RAMPOOL_TRACES");
        let path = std::path::Path::new(&dir).join("arc-P12.lis.zst");
        let trace = Trace::read(&path, 512).unwrap();
        assert_eq!((trace.uses.len(), trace.distinct), (13_208_930, 3_153_310));
        let sizes = (10..20).map(|power| NonZero::new(1 << power).unwrap());
        assert_eq!(sizes.map(|blocks| lru_hits(&trace, blocks)).collect::<Vec<_>>(), HITS);
    }

    #[test]
    fn what_falls_out_of_the_one_is_found_in_the_other() {
        let uses: Vec<u32> = (0..1000).map(|n| n % 100).collect();
        let (local, remote) = tiers(&trace(&uses), Kind::Lru, 10, 100);
        assert_eq!((local, remote), (0, 900));
        let (_, remote) = tiers(&trace(&uses), Kind::Lru, 10, 50);
        assert!(remote < 900);
    }
}
