//! Blocks that have left: which, and when they were used last.

/// Of a bucket, which is a line of the processor's cache.
const PER_BUCKET: usize = 8;

/// A table of fixed size. Each hash has a bucket, in which the oldest goes for the newest; two blocks whose hashes
/// agree in 32 bits and in the bucket are taken for each other, which does no harm but for a wrong guess.
#[derive(Debug)]
pub(crate) struct Ghosts {
    buckets: Box<[Bucket]>,
}

#[repr(align(64))]
#[derive(Clone, Copy, Debug, Default)]
struct Bucket([Ghost; PER_BUCKET]);

/// All zeros is none.
#[derive(Clone, Copy, Debug, Default)]
struct Ghost {
    mark: u32,
    used_at: u32,
}

impl Ghosts {
    /// Bytes of each.
    pub(crate) const BYTES: usize = size_of::<Ghost>();

    /// For so many.
    pub(crate) fn new(count: usize) -> Self {
        Self { buckets: vec![Bucket::default(); count.div_ceil(PER_BUCKET).max(1)].into() }
    }

    /// Remembers a block.
    pub(crate) fn insert(&mut self, hash: u64, used_at: u32, now: u32) {
        let mark = mark(hash);
        let bucket = self.bucket(hash);
        let age = |ghost: &Ghost| match ghost.mark {
            0 => u64::MAX,
            _ => u64::from(now.wrapping_sub(ghost.used_at)),
        };
        // Its own place if it has one, else the emptiest.
        let place = match bucket.iter_mut().position(|ghost| ghost.mark == mark) {
            Some(place) => place,
            None => (0..PER_BUCKET).max_by_key(|&n| age(&bucket[n])).unwrap_or(0),
        };
        bucket[place] = Ghost { mark, used_at };
    }

    /// When a block was used last, if it is remembered; it is not any more.
    pub(crate) fn take(&mut self, hash: u64) -> Option<u32> {
        let mark = mark(hash);
        let ghost = self.bucket(hash).iter_mut().find(|ghost| ghost.mark == mark)?;
        Some(std::mem::take(ghost).used_at)
    }

    fn bucket(&mut self, hash: u64) -> &mut [Ghost; PER_BUCKET] {
        // The upper half of the hash, scaled to the number of buckets.
        let place = ((hash >> 32) * self.buckets.len() as u64) >> 32;
        &mut self.buckets[place as usize].0
    }
}

/// Never 0.
fn mark(hash: u64) -> u32 {
    hash as u32 | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered_once_each() {
        let mut ghosts = Ghosts::new(1000);
        let hash = |n: u32| u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for n in 0..10_000 {
            ghosts.insert(hash(n), n, n);
        }
        let known = (9_500..10_000).filter(|&n| ghosts.take(hash(n)) == Some(n)).count();
        assert!(known > 450, "{known} of 500");
        assert_eq!(ghosts.take(hash(9_999)), None, "taken before");
        let old = (0..8_000).filter(|&n| ghosts.take(hash(n)).is_some()).count();
        assert!(old < 100, "{old}");
    }
}
