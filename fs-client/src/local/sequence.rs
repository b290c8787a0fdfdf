//! Sequential readers: who they are, and how far ahead of them to read.
//!
//! The kernel reads nothing ahead of a file that it does not cache, so the client does. One
//! reader of one open file is followed; the window doubles as it goes on and starts anew when it
//! jumps. A reader of what is here already needs nothing ahead: once a whole window turns out to
//! be in the cache, no other is looked at until a read misses.

use super::cache::Use;
use crate::block::{BLOCK_SIZE, BlockIndex, Span};
use crate::sync::Mutex;

const WINDOW_BLOCKS_MIN: usize = 32;

/// What is known of the reader of an open file.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    state: Mutex<State>,
}

/// What to do besides answering a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// Whether the read belongs to a sequential stream.
    pub(crate) how: Use,
    /// Blocks to bring in now, before they are asked for.
    pub(crate) bring: Option<Span>,
}

#[derive(Debug, Default)]
struct State {
    /// Where the next read begins if it goes on from the last.
    next: u64,
    /// How many bytes were read in sequence.
    streak: u64,
    /// The end of what was brought in ahead.
    brought: BlockIndex,
    window: usize,
    /// The last window was in the cache as a whole, and no read has missed since.
    warm: bool,
}

impl Sequence {
    /// Takes note of a read of `len` bytes at `offset` of a file of `size` bytes. At most
    /// `window_max` blocks are brought in ahead of the reader.
    pub(crate) fn note(&self, offset: u64, len: usize, size: u64, window_max: usize) -> Ahead {
        let mut state = self.state.lock();
        let end = offset + len as u64;
        if offset != state.next {
            *state = State { next: end, ..State::default() };
            return Ahead { how: Use::Random, bring: None };
        }
        state.next = end;
        state.streak += len as u64;
        // The first read of a file begins at 0 and is no sequence yet.
        if state.streak <= len as u64 || window_max == 0 {
            return Ahead { how: Use::Random, bring: None };
        }
        if state.warm {
            return Ahead { how: Use::Stream, bring: None };
        }

        let here = BlockIndex(end.div_ceil(BLOCK_SIZE as u64));
        let file_end = size.div_ceil(BLOCK_SIZE as u64);
        let ahead = state.brought.0.saturating_sub(here.0) as usize;
        // The next window is asked for when the reader comes to the last one: what brings it always has something
        // to do, as long as it is slower than the reader.
        if ahead > state.window || here.0 >= file_end {
            return Ahead { how: Use::Stream, bring: None };
        }
        let read_blocks = len.div_ceil(BLOCK_SIZE);
        state.window =
            (state.window * 2).max(WINDOW_BLOCKS_MIN).max(2 * read_blocks).min(window_max);
        let first = BlockIndex(state.brought.0.max(here.0));
        let count = (file_end.saturating_sub(first.0) as usize).min(state.window);
        state.brought = first.plus(count);
        Ahead { how: Use::Stream, bring: (count > 0).then_some(Span { first, count }) }
    }

    /// A window that was to be brought in was in the cache already. Looking the next ones up
    /// too would cost a reader of cached blocks as much as its reads.
    pub(crate) fn all_here(&self) {
        self.state.lock().warm = true;
    }

    /// A read missed: what follows it may be missing too.
    pub(crate) fn missed(&self) {
        self.state.lock().warm = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 30;

    #[test]
    fn random_reads_bring_nothing() {
        let sequence = Sequence::default();
        for offset in [0, 8192, 4096, 1 << 20, 0, 12288] {
            let ahead = sequence.note(offset, 4096, SIZE, 256);
            assert_eq!(ahead, Ahead { how: Use::Random, bring: None }, "{offset}");
        }
    }

    #[test]
    fn a_stream_has_every_block_brought_once_and_in_time() {
        let sequence = Sequence::default();
        let mut brought = 2;
        for n in 0..10_000u64 {
            let ahead = sequence.note(n * 4096, 4096, SIZE, 256);
            if let Some(span) = ahead.bring {
                assert_eq!(span.first.0, brought, "neither twice nor with a gap");
                assert!(span.count <= 256);
                brought = span.first.plus(span.count).0;
            }
            // Once the window has its length, the one that is read and the next.
            let ahead = if n < 1_000 { 1 } else { 256 };
            assert!(n == 0 || brought > n + ahead, "block {n} was read before it was brought");
        }
    }

    #[test]
    fn a_stream_of_cached_blocks_brings_nothing_until_it_misses() {
        let sequence = Sequence::default();
        let note = |n: u64| sequence.note(n * 4096, 4096, SIZE, 256);
        note(0);
        assert!(note(1).bring.is_some(), "not known yet");
        sequence.all_here();
        for n in 2..1_000 {
            assert_eq!(note(n), Ahead { how: Use::Stream, bring: None });
        }
        sequence.missed();
        assert_eq!(note(1_000).bring.unwrap().first, BlockIndex(1_001));
        sequence.all_here();
        note(0);
        note(1);
        assert!(note(2).bring.is_some(), "another place is another stream");
    }

    #[test]
    fn nothing_is_brought_beyond_the_end() {
        let sequence = Sequence::default();
        let size = 10 * 4096 + 5;
        let mut brought = 0;
        for n in 0..11u64 {
            brought += sequence.note(n * 4096, 4096, size, 256).bring.map_or(0, |span| span.count);
        }
        assert_eq!(brought, 9, "blocks 2 to 10");
    }
}
