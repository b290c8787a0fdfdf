//! What hit ratio a cache of another size would have: the miss-ratio curve of a running cache.
//!
//! A block is in the sample when its hash is below a threshold. The reuse distance of a sampled block, which is the
//! number of other sampled blocks that were used since, divided by the part that is sampled, estimates its
//! distance among all blocks; a cache of so many blocks that evicts the least recently used would have had it.
//! When the sample is full its largest hash goes and becomes the threshold. This is SHARDS with a fixed size
//! (Waldspurger, Park, Garthwaite and Ahmad, FAST 2015), with the correction for what the sample has too much or too
//! little of (SHARDS-adj). Memory is 0.4 MiB, whatever is used.

use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// Blocks in the sample at most.
const SAMPLES_MAX: usize = 8192;
/// Places in the order of use before they are numbered anew.
const PLACES: usize = 2 * SAMPLES_MAX;
/// Distances are counted in so many steps an octave.
const STEPS: usize = 16;
const OCTAVES: usize = 40;
/// After so many sampled uses, what was counted so far counts half: a mount lives for months.
const HALVED_AFTER: f64 = (1 << 20) as f64;

/// The curve.
#[derive(Debug)]
pub struct Curve {
    /// Hashes below it are sampled; the whole range is 2^64.
    threshold: u64,
    /// By hash, the place in the order of use.
    places: HashMap<u64, u32, BuildHasherDefault<AsItIs>>,
    by_hash: BinaryHeap<u64>,
    order: Order,
    next_place: u32,
    /// Uses by distance, as many as would have been sampled at the present threshold.
    distances: Vec<f64>,
    /// First uses.
    first: f64,
    /// All uses, sampled or not.
    uses: f64,
}

impl Curve {
    /// Nothing seen yet; at most `part` of all blocks will be sampled, 0 to 1.
    pub fn new(part: f64) -> Self {
        Self {
            threshold: (part * u64::MAX as f64) as u64,
            places: HashMap::with_capacity_and_hasher(SAMPLES_MAX + 1, BuildHasherDefault::new()),
            by_hash: BinaryHeap::with_capacity(SAMPLES_MAX + 1),
            order: Order::new(),
            next_place: 0,
            distances: vec![0.0; STEPS * OCTAVES],
            first: 0.0,
            uses: 0.0,
        }
    }

    /// Hashes from here on are not sampled: [`Curve::note`] need not be called for them.
    pub fn threshold(&self) -> u64 {
        self.threshold
    }

    /// Counts uses, sampled or not.
    pub fn count(&mut self, uses: u64) {
        self.uses += uses as f64;
    }

    /// Notes a use, counted elsewhere, of the block with this hash, which must spread evenly over all 64 bits.
    pub fn note(&mut self, hash: u64) {
        if hash >= self.threshold {
            return;
        }
        if self.uses * self.part() > HALVED_AFTER {
            self.distances.iter_mut().for_each(|count| *count *= 0.5);
            self.first *= 0.5;
            self.uses *= 0.5;
        }
        if self.next_place as usize == PLACES {
            self.number_anew();
        }
        let place = self.next_place;
        self.next_place += 1;
        match self.places.insert(hash, place) {
            Some(before) => {
                let since = self.order.count() - self.order.up_to(before);
                self.order.change(before, -1);
                let distance = f64::from(since) / self.part();
                self.distances[step_of(distance)] += 1.0;
            }
            None => {
                self.first += 1.0;
                self.by_hash.push(hash);
            }
        }
        self.order.change(place, 1);
        if self.places.len() > SAMPLES_MAX {
            self.lower();
        }
    }

    /// The part of all uses that a cache of `blocks` blocks would have had; none before anything was sampled.
    pub fn hit_ratio(&self, blocks: u64) -> Option<f64> {
        let sampled = self.first + self.distances.iter().sum::<f64>();
        if sampled == 0.0 {
            return None;
        }
        // What the sample has too few of are uses of blocks that are used often: their distance is short.
        let expected = self.uses * self.part();
        let hits: f64 = self.distances[..step_of(blocks as f64)].iter().sum();
        Some(((hits + expected - sampled) / expected).clamp(0.0, 1.0))
    }

    /// The part of all blocks that is sampled.
    fn part(&self) -> f64 {
        self.threshold as f64 / u64::MAX as f64
    }

    /// Leaves out the largest hash.
    fn lower(&mut self) {
        let Some(largest) = self.by_hash.pop() else { return };
        if let Some(place) = self.places.remove(&largest) {
            self.order.change(place, -1);
        }
        let before = self.part();
        self.threshold = largest;
        let less = self.part() / before;
        self.distances.iter_mut().for_each(|count| *count *= less);
        self.first *= less;
    }

    /// Numbers the places from 0 without gaps.
    fn number_anew(&mut self) {
        let mut by_place: Vec<(u32, u64)> =
            self.places.iter().map(|(&hash, &place)| (place, hash)).collect();
        by_place.sort_unstable();
        self.order = Order::new();
        for (new, (_, hash)) in by_place.iter().enumerate() {
            self.places.insert(*hash, new as u32);
            self.order.change(new as u32, 1);
        }
        self.next_place = by_place.len() as u32;
    }
}

/// The step that a distance is counted in.
fn step_of(distance: f64) -> usize {
    let step = (distance + 1.0).log2() * STEPS as f64;
    (step as usize).min(STEPS * OCTAVES - 1)
}

/// How many places up to each are taken: a binary indexed tree (Fenwick, 1994).
#[derive(Debug)]
struct Order(Vec<u32>);

impl Order {
    fn new() -> Self {
        Self(vec![0; PLACES + 1])
    }

    fn change(&mut self, place: u32, by: i32) {
        let mut n = place as usize + 1;
        while n <= PLACES {
            self.0[n] = self.0[n].wrapping_add_signed(by);
            n += n & n.wrapping_neg();
        }
    }

    /// Taken places up to and with this one.
    fn up_to(&self, place: u32) -> u32 {
        let mut n = place as usize + 1;
        let mut sum = 0;
        while n > 0 {
            sum += self.0[n];
            n &= n - 1;
        }
        sum
    }

    fn count(&self) -> u32 {
        self.up_to(PLACES as u32 - 1)
    }
}

/// Keys are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }

    fn write_u64(&mut self, hash: u64) {
        // The table looks at the highest bits and the lowest; those of the sample all begin with zeros.
        self.0 = hash.rotate_left(32) ^ hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(block: u64) -> u64 {
        // Of splitmix64.
        let x = block.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Blocks of which low numbers are used more often, with a scan now and then.
    fn uses() -> impl Iterator<Item = u64> {
        let blocks: u64 = 200_000;
        (0..3_000_000_u64).map(move |n| match n % 500_000 {
            scan @ 0..100_000 => blocks + scan,
            _ => {
                let even = hash(n) as f64 / u64::MAX as f64;
                (even.powi(2) * blocks as f64) as u64
            }
        })
    }

    #[test]
    fn the_curve_is_that_of_a_cache_of_each_size() {
        let mut curve = Curve::new(1.0);
        let mut count = 0;
        for block in uses() {
            curve.count(1);
            curve.note(hash(block));
            count += 1;
        }
        for blocks in [5_000, 20_000, 60_000, 150_000, 400_000] {
            let mut lru = lru::LruCache::new(std::num::NonZero::new(blocks).unwrap());
            let hits = uses().filter(|&block| lru.put(block, ()).is_some()).count();
            let exact = hits as f64 / f64::from(count);
            let estimated = curve.hit_ratio(blocks as u64).unwrap();
            assert!((exact - estimated).abs() < 0.02, "{blocks}: {exact} and {estimated}");
        }
        assert!(curve.places.len() <= SAMPLES_MAX);
    }

    #[test]
    fn a_small_set_is_sampled_whole_and_exact() {
        let mut curve = Curve::new(1.0);
        assert_eq!(curve.hit_ratio(1), None);
        for n in 0..100_000_u64 {
            curve.count(1);
            curve.note(hash(n % 1000));
        }
        assert_eq!(curve.hit_ratio(500), Some(0.0), "a loop defeats the least recently used");
        assert!(curve.hit_ratio(1100).unwrap() > 0.98);
    }

    #[test]
    fn what_was_long_ago_counts_less() {
        let mut curve = Curve::new(1.0);
        let mut use_of = |block: u64| {
            curve.count(1);
            curve.note(hash(block));
        };
        // A loop over 2000 blocks, and then, three times as long, one over 500.
        (0..1_000_000).for_each(|n| use_of(n % 2000));
        (0..3_000_000).for_each(|n| use_of(n % 500));
        let recent = curve.hit_ratio(600).unwrap();
        assert!(recent > 0.85, "{recent}");
    }
}
