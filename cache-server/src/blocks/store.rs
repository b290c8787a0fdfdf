//! The store: puts blocks into segments, gets them out, evicts whole segments.
//!
//! What holds: a GET finds exactly what was put last under its name, or nothing; no more
//! memory is used than was reserved; eviction goes through the segments in order of their age
//! and moves at most half of one, so that a PUT costs a bounded amount of work.

use std::hash::{BuildHasher as _, RandomState};
use std::io;

use bytes::BytesMut;
use rampool_protocol::block::{BLOCK_SIZE, PutEntry, RemoteKey};
use rampool_protocol::control::MountId;

use super::index::{Fingerprint, Index};
use super::memory::{Page, Region};
use super::segments::{Room, SEGMENT_BLOCKS, SegmentId, Segments, SlotId};

/// The most blocks of an evicted segment that get a second chance: the rest of it is room for
/// new ones, so eviction never runs in a circle.
const SECOND_CHANCES_MAX: usize = SEGMENT_BLOCKS / 2;

/// Sealed blocks in lent memory.
#[derive(Debug)]
pub(crate) struct Store {
    memory: Region,
    index: Index,
    segments: Segments,
    names: RandomState,
    vanished: u64,
    evicted: u64,
    second_chances: u64,
}

/// How the store is doing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreFacts {
    pub(crate) segments_total: usize,
    pub(crate) segments_free: usize,
    pub(crate) segments_full: usize,
    /// Blocks that a GET would look for in their page.
    pub(crate) blocks: usize,
    /// Memory of index and records when all slots are in use; the only memory that is not
    /// given to the kernel to take.
    pub(crate) index_bytes: usize,
    /// All slots there are.
    pub(crate) blocks_max: usize,
    pub(crate) huge_pages: bool,
    pub(crate) lazily_freeable: bool,
    /// First address and length of the region.
    pub(crate) extent: (usize, usize),
    /// Blocks that the kernel had taken when they were looked for.
    pub(crate) vanished: u64,
    /// Blocks that had to go to make room.
    pub(crate) evicted: u64,
    /// Blocks that were moved to the open segment instead.
    pub(crate) second_chances: u64,
}

impl Store {
    /// An empty store of `segments` segments.
    ///
    /// # Errors
    /// When so much address space cannot be reserved.
    pub(crate) fn new(segments: usize) -> io::Result<Self> {
        Ok(Self {
            memory: Region::reserve(segments)?,
            index: Index::new(segments * SEGMENT_BLOCKS),
            segments: Segments::new(segments),
            names: RandomState::new(),
            vanished: 0,
            evicted: 0,
            second_chances: 0,
        })
    }

    /// Appends tag and data of a block to `out`, or finds that it is not here.
    pub(crate) fn get(&mut self, mount: MountId, key: &RemoteKey, out: &mut BytesMut) -> bool {
        let block = self.fingerprint(mount, key);
        let Some(slot) = self.index.find(block) else { return false };
        let before = out.len();
        out.extend_from_slice(self.index.tag(slot));
        if self.memory.read(slot, out) == Page::Taken {
            out.truncate(before);
            self.index.remove(block);
            self.vanished += 1;
            return false;
        }
        self.index.mark_hit(slot);
        true
    }

    /// Keeps a block, in place of an older one of the same name.
    pub(crate) fn put(&mut self, mount: MountId, entry: &PutEntry) {
        let block = self.fingerprint(mount, &entry.key);
        match self.segments.room() {
            Room::Open => {}
            Room::Free(segment) => {
                self.memory.open(segment);
                self.segments.open(segment, 0);
            }
            Room::Oldest(segment) => {
                self.memory.open(segment);
                let kept = self.evict(segment);
                self.segments.open(segment, kept);
            }
        }
        let (slot, filled) = self.segments.take_slot();
        self.memory.write(slot, &entry.block.data);
        self.index.insert(block, slot, entry.block.tag);
        if let Some(segment) = filled {
            self.memory.hand_over(segment);
        }
    }

    /// How the store is doing.
    pub(crate) fn facts(&self) -> StoreFacts {
        StoreFacts {
            segments_total: self.segments.total(),
            segments_free: self.segments.free(),
            segments_full: self.segments.full(),
            blocks: self.index.len(),
            index_bytes: self.index_bytes(),
            blocks_max: self.segments.total() * SEGMENT_BLOCKS,
            huge_pages: self.memory.huge_pages(),
            lazily_freeable: self.memory.lazily_freeable(),
            extent: self.memory.extent(),
            vanished: self.vanished,
            evicted: self.evicted,
            second_chances: self.second_chances,
        }
    }

    /// Empties a segment, but for blocks that were read since they came there: those are pushed
    /// together at its beginning. Says how many.
    fn evict(&mut self, segment: SegmentId) -> usize {
        let mut kept = 0;
        for slot in segment.slots() {
            let Some(block) = self.index.block_in(slot) else { continue };
            if !self.index.was_hit(slot) || kept == SECOND_CHANCES_MAX {
                self.index.remove(block);
                self.evicted += 1;
            } else if self.relocate(block, slot, segment.slot(kept)) {
                self.second_chances += 1;
                kept += 1;
            } else {
                self.index.remove(block);
                self.vanished += 1;
            }
        }
        kept
    }

    /// Moves a block within the segment that is being evicted, to a slot that is dead or its
    /// own. It must be read again to be moved another time. False when the kernel took it.
    fn relocate(&mut self, block: Fingerprint, from: SlotId, to: SlotId) -> bool {
        if self.memory.copy(from, to) == Page::Taken {
            return false;
        }
        let tag = *self.index.tag(from);
        self.index.insert(block, to, tag);
        true
    }

    /// Real bytes of all that is kept besides the blocks.
    fn index_bytes(&self) -> usize {
        self.index.bytes() + self.segments.bytes()
    }

    fn fingerprint(&self, mount: MountId, key: &RemoteKey) -> Fingerprint {
        Fingerprint(self.names.hash_one((mount, key)))
    }
}

const _: () = assert!(SEGMENT_BLOCKS * BLOCK_SIZE == super::segments::SEGMENT_BYTES);

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
