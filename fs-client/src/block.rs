//! Names of blocks, and the arithmetic between bytes and blocks.

use std::ops::Range;

pub(crate) use rampool_protocol::block::BLOCK_SIZE;

/// One state of one file's contents. A file whose contents change as a whole, or behind the
/// mount, gets a new one, and what was cached under the old one is never asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileKey(pub(crate) u64);

/// The number of a block in its file: byte offset / [`BLOCK_SIZE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockIndex(pub(crate) u64);

/// The name of a block in this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockKey {
    pub(crate) file: FileKey,
    pub(crate) index: BlockIndex,
}

/// The blocks that hold a range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first block.
    pub(crate) first: BlockIndex,
    /// How many blocks.
    pub(crate) count: usize,
}

impl BlockIndex {
    /// The block that holds the byte at `offset`.
    pub(crate) fn holding(offset: u64) -> Self {
        Self(offset / BLOCK_SIZE as u64)
    }

    /// The offset of its first byte.
    pub(crate) fn offset(self) -> u64 {
        self.0 * BLOCK_SIZE as u64
    }

    /// The block so many further on.
    pub(crate) fn plus(self, blocks: usize) -> Self {
        Self(self.0 + blocks as u64)
    }
}

impl BlockKey {
    /// Spreads blocks evenly, the same way each time. Nobody outside chooses the keys.
    pub(crate) fn hash(self) -> u64 {
        mix(mix(self.file.0) ^ self.index.0)
    }

    /// Spreads groups evenly.
    pub(crate) fn group_hash(self) -> u64 {
        let (file, group) = self.group();
        mix(mix(file.0) ^ group)
    }

    /// Blocks of one group share a shard and a write epoch: 256 KiB of a file.
    pub(crate) fn group(self) -> (FileKey, u64) {
        (self.file, self.index.0 / 64)
    }
}

impl Span {
    /// The blocks that hold `len` bytes from `offset`; none for no bytes.
    pub(crate) fn of(offset: u64, len: usize) -> Self {
        let first = BlockIndex::holding(offset);
        if len == 0 {
            return Self { first, count: 0 };
        }
        let last = BlockIndex::holding(offset + len as u64 - 1);
        Self { first, count: (last.0 - first.0 + 1) as usize }
    }

    /// Every block of the span.
    pub(crate) fn blocks(self) -> impl ExactSizeIterator<Item = BlockIndex> + Clone {
        (0..self.count).map(move |n| self.first.plus(n))
    }

    /// The keys of its blocks in `file`.
    pub(crate) fn keys(self, file: FileKey) -> impl ExactSizeIterator<Item = BlockKey> + Clone {
        self.blocks().map(move |index| BlockKey { file, index })
    }

    /// Its bytes.
    pub(crate) fn bytes(self) -> Range<u64> {
        self.first.offset()..self.first.plus(self.count).offset()
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_holds_its_bytes_and_no_block_more() {
        assert_eq!(Span::of(0, 0).count, 0);
        assert_eq!(Span::of(4095, 1), Span { first: BlockIndex(0), count: 1 });
        assert_eq!(Span::of(4095, 2), Span { first: BlockIndex(0), count: 2 });
        assert_eq!(Span::of(8192, 4096), Span { first: BlockIndex(2), count: 1 });
        assert_eq!(Span::of(8192, 4097).bytes(), 8192..16384);
    }
}
