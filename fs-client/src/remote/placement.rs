//! Which server gets a block: weighted rendezvous hashing.
//!
//! Every server gets a score from the block's key and its own name, scaled by what it lends; the
//! highest wins. When a server comes or goes, only the blocks that it wins or had won move
//! (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", SPAA 2005).

use super::lent::ServerIndex;
use crate::block::mix;

/// A server that may be chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) index: ServerIndex,
    /// Tells servers apart, the same each time: a hash of the address.
    pub(super) name: u64,
    /// How much it lends.
    pub(super) weight: u64,
}

/// The server for the block whose key hashes to `block`; none if nobody lends anything.
pub(super) fn choose(block: u64, candidates: &[Candidate]) -> Option<ServerIndex> {
    candidates
        .iter()
        .filter(|candidate| candidate.weight > 0)
        .map(|candidate| (score(block, candidate), candidate.index))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, index)| index)
}

/// -weight / ln(u), with u uniform in (0, 1).
fn score(block: u64, candidate: &Candidate) -> f64 {
    let uniform = ((mix(block ^ candidate.name) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -(candidate.weight as f64) / uniform.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(n: u8, weight: u64) -> Candidate {
        Candidate { index: ServerIndex(n), name: mix(u64::from(n) + 1), weight }
    }

    #[test]
    fn blocks_are_shared_out_by_weight() {
        let servers = [candidate(0, 1 << 30), candidate(1, 3 << 30), candidate(2, 0)];
        let mut count = [0; 3];
        for block in 0..40_000 {
            count[usize::from(choose(mix(block), &servers).unwrap().0)] += 1;
        }
        assert_eq!(count[2], 0);
        assert!((9_500..10_500).contains(&count[0]), "{count:?}");
    }

    #[test]
    fn only_the_blocks_of_a_server_that_left_move() {
        let all = [candidate(0, 5), candidate(1, 5), candidate(2, 5)];
        for block in 0..2_000 {
            let before = choose(mix(block), &all).unwrap();
            let after = choose(mix(block), &all[..2]).unwrap();
            assert!(before == after || before == ServerIndex(2));
        }
        assert_eq!(choose(1, &[]), None);
    }
}
