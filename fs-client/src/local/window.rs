//! A write as the cache sees it: begun before the source is written, ended after the cache holds
//! what the source holds.
//!
//! While it is open, fills of its blocks are thrown away. Closing it without an update removes
//! the blocks, so that a failed or half done write leaves nothing behind.

use crate::block::{BLOCK_SIZE, BlockKey, FileKey, Span};

use super::cache::{LocalCache, Use};
use crate::epochs::Writing;

/// A write under way to some bytes of a file.
pub(crate) struct WriteWindow<'a> {
    cache: &'a LocalCache,
    file: FileKey,
    span: Span,
    /// One for each group of the span, in order.
    epochs: Vec<Writing<'a>>,
    first_group: u64,
    updated: bool,
}

impl LocalCache {
    /// Opens a window over the blocks of `span`.
    pub(crate) fn begin_write(&self, file: FileKey, span: Span) -> WriteWindow<'_> {
        let mut epochs = Vec::with_capacity(1);
        let mut last_group = None;
        for key in span.keys(file) {
            if last_group != Some(key.group()) {
                last_group = Some(key.group());
                epochs.push(self.epochs.begin(key));
            }
        }
        let first_group = BlockKey { file, index: span.first }.group().1;
        WriteWindow { cache: self, file, span, epochs, first_group, updated: false }
    }
}

impl WriteWindow<'_> {
    /// Brings the cache to what the source holds after `data` was written whole at `offset` of a
    /// file that was `size` bytes long, then ends the write. Blocks whose bytes are not known for
    /// certain are removed.
    pub(crate) fn update(mut self, offset: u64, data: &[u8], size: u64) {
        self.updated = true;
        for key in self.span.keys(self.file) {
            let block_start = key.index.offset();
            let from = offset.max(block_start);
            let to = (offset + data.len() as u64).min(block_start + BLOCK_SIZE as u64);
            if from >= to {
                self.cache.remove(key);
                continue;
            }
            let bytes = &data[(from - offset) as usize..(to - offset) as usize];
            let at = (from - block_start) as usize;
            // Behind its end a file is zeros.
            let new = block_start >= size;
            if !self.alone(key) || !self.put(key, at, bytes, new) {
                self.cache.remove(key);
            }
        }
    }

    /// Puts the block as it is after `bytes` were written at byte `at` of it, which was zeros
    /// before if it is `new`. False if that is not known, or there is no room.
    fn put(&self, key: BlockKey, at: usize, bytes: &[u8], new: bool) -> bool {
        let whole = bytes.len() == BLOCK_SIZE;
        let before = if whole { None } else { self.cache.get(key, Use::Random) };
        if !whole && !new && before.is_none() {
            return false;
        }
        let Some(mut empty) = self.cache.room(key, 1).pop() else { return false };
        match before {
            Some(before) => empty.bytes_mut().copy_from_slice(&*before),
            None if whole => {}
            None => empty.bytes_mut().fill(0),
        }
        empty.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        // Asked again under the index's lock: a writer that began meanwhile may have removed the
        // block already, and will not come back for ours.
        self.cache.replace_if(key, empty.publish(), || self.alone(key));
        true
    }

    /// Whether this is the only write to the group of `key`: then nobody else changes or fills
    /// its blocks until the window closes, but for evictions.
    fn alone(&self, key: BlockKey) -> bool {
        self.epochs[(key.group().1 - self.first_group) as usize].alone()
    }
}

impl Drop for WriteWindow<'_> {
    fn drop(&mut self) {
        if !self.updated {
            for key in self.span.keys(self.file) {
                self.cache.remove(key);
            }
        }
        // The epochs end after this, when the cache is right again.
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use rampool_policy::Kind;

    use super::*;
    use crate::block::BlockIndex;
    use crate::epochs::Epochs;

    const FILE: FileKey = FileKey(1);

    /// A file that reaches beyond all that is written.
    const LONG: u64 = 1 << 40;

    fn cache() -> LocalCache {
        LocalCache::new((1 << 20).into(), Kind::default(), Arc::new(Epochs::new()), || 0, drop)
            .unwrap()
    }

    fn key(n: u64) -> BlockKey {
        BlockKey { file: FILE, index: BlockIndex(n) }
    }

    fn fill(cache: &LocalCache, n: u64, byte: u8) {
        let seen = cache.observe(key(n)).unwrap();
        let mut empty = cache.room(key(n), 1).pop().unwrap();
        empty.bytes_mut().fill(byte);
        cache.insert(key(n), empty.publish(), seen, Use::Random);
    }

    #[test]
    fn a_write_replaces_what_readers_will_see_and_not_what_they_hold() {
        let cache = cache();
        fill(&cache, 0, 1);
        let held = cache.get(key(0), Use::Random).unwrap();
        cache.begin_write(FILE, Span::of(10, 5)).update(10, &[2; 5], LONG);
        let now = cache.get(key(0), Use::Random).unwrap();
        assert_eq!((held[10], now[9], now[10], now[14], now[15]), (1, 1, 2, 2, 1));
    }

    #[test]
    fn a_whole_block_is_cached_by_its_write_and_a_part_of_an_unknown_one_is_not() {
        let cache = cache();
        cache.begin_write(FILE, Span::of(0, 4096 + 10)).update(0, &[3; 4096 + 10], LONG);
        assert_eq!(cache.get(key(0), Use::Random).unwrap()[4095], 3);
        assert!(cache.get(key(1), Use::Random).is_none());
    }

    #[test]
    fn a_part_of_a_block_behind_the_end_is_cached_with_zeros_round_it() {
        let cache = cache();
        cache.begin_write(FILE, Span::of(4096 + 5, 10)).update(4096 + 5, &[3; 10], 4096);
        let block = cache.get(key(1), Use::Random).unwrap();
        assert_eq!((block[4], block[5], block[14], block[15]), (0, 3, 3, 0));
        cache.begin_write(FILE, Span::of(8192, 10)).update(8192, &[4; 10], 8193);
        assert!(cache.get(key(2), Use::Random).is_none(), "a byte of it is not known");
    }

    #[test]
    fn a_write_that_failed_leaves_no_block() {
        let cache = cache();
        fill(&cache, 0, 1);
        drop(cache.begin_write(FILE, Span::of(0, 10)));
        assert!(cache.get(key(0), Use::Random).is_none());
    }

    #[test]
    fn a_fill_that_began_before_or_during_a_write_is_thrown_away() {
        let cache = cache();
        let seen = cache.observe(key(0)).unwrap();
        let window = cache.begin_write(FILE, Span::of(0, 10));
        assert!(cache.observe(key(0)).is_none());
        window.update(0, &[9; 10], LONG);
        let empty = cache.room(key(0), 1).pop().unwrap();
        cache.insert(key(0), empty.publish(), seen, Use::Random);
        assert!(cache.get(key(0), Use::Random).is_none());
    }

    #[test]
    fn writers_that_overlap_leave_nothing_that_could_be_wrong() {
        let cache = cache();
        let first = cache.begin_write(FILE, Span::of(0, 4096));
        let second = cache.begin_write(FILE, Span::of(0, 4096));
        second.update(0, &[2; 4096], LONG);
        first.update(0, &[1; 4096], LONG);
        assert!(cache.get(key(0), Use::Random).is_none());
    }

    #[test]
    fn what_is_evicted_is_handed_over_and_its_slot_comes_back() {
        const HELD_MAX: usize = 2;
        let gone = Arc::new(Mutex::new(Vec::new()));
        let sink = gone.clone();
        let cache = LocalCache::new(
            (64 * 4220).into(),
            Kind::Lru,
            Arc::new(Epochs::new()),
            || HELD_MAX,
            move |evicted| {
                sink.lock().unwrap().push((evicted.key, evicted.block[0]));
            },
        )
        .unwrap();
        let capacity = cache.capacity_blocks() as u64;
        for n in 0..capacity + 3 {
            fill(&cache, n, n as u8);
        }
        let gone = gone.lock().unwrap();
        let reserve = HELD_MAX as u64;
        let expected: Vec<_> = (0..3 + reserve).map(|n| (key(n), n as u8)).collect();
        assert_eq!(*gone, expected);
        assert_eq!(cache.blocks() as u64, capacity - reserve);
    }

    #[test]
    fn a_stream_finds_what_the_index_holds_and_nothing_else() {
        let cache = LocalCache::new(
            (64 * 4220).into(),
            Kind::default(),
            Arc::new(Epochs::new()),
            || 0,
            drop,
        )
        .unwrap();
        let read = |from: u64, count: usize| {
            let mut found = Vec::new();
            let span = Span { first: BlockIndex(from), count };
            cache.get_leading(FILE, span, Use::Stream, &mut found);
            found.iter().map(|block| block[0]).collect::<Vec<_>>()
        };
        for n in 0..20 {
            fill(&cache, n, n as u8);
        }
        assert_eq!(read(3, 10), (3..13).collect::<Vec<u8>>());
        // A block that moved elsewhere, and one that went.
        cache.begin_write(FILE, Span::of(5 * 4096, 4096)).update(5 * 4096, &[99; 4096], LONG);
        assert_eq!(read(3, 5), [3, 4, 99, 6, 7]);
        drop(cache.begin_write(FILE, Span::of(6 * 4096, 4096)));
        assert_eq!(read(3, 5), [3, 4, 99]);
        // The same slots, given to blocks of the same numbers of another file.
        for n in 100..100 + cache.capacity_blocks() as u64 {
            fill(&cache, n, n as u8);
        }
        assert_eq!(read(0, 20), [0; 0]);
        assert_eq!(read(110, 3), [110, 111, 112]);
    }
}
