//! The store: puts blocks into segments, gets them out, evicts whole segments.
//!
//! What holds: a GET finds exactly what was put last under its name, or nothing; no more
//! memory is used than is allowed; eviction goes through the segments in order of their age
//! and moves at most half of one, so that a PUT costs a bounded amount of work.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::Arc;

use rampool_protocol::block::{BLOCK_SIZE, PutEntry, RemoteKey};
use rampool_protocol::control::MountId;
use rampool_protocol::frame::RequestId;

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
    /// Where the search for pages that the kernel took goes on, in segments.
    swept: usize,
    /// Whether full segments are kept from the kernel.
    keeps: bool,
    /// Where the change to that goes on, in segments; none when it is done.
    changed: Option<usize>,
    vanished: u64,
    evicted: u64,
    given_back: u64,
    second_chances: u64,
}

/// How the store is doing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreFacts {
    pub(crate) segments_total: usize,
    pub(crate) segments_allowed: usize,
    pub(crate) segments_in_use: usize,
    pub(crate) segments_full: usize,
    /// Those of the full ones that the kernel may take.
    pub(crate) segments_handed_over: usize,
    /// Pages of full segments that the kernel took, as far as that is known.
    pub(crate) pages_missing: usize,
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
    /// Blocks that the kernel took.
    pub(crate) vanished: u64,
    /// Blocks that had to go to make room.
    pub(crate) evicted: u64,
    /// Blocks that went when their memory was given back.
    pub(crate) given_back: u64,
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
            index: Index::new(segments)?,
            segments: Segments::new(segments),
            names: RandomState::new(),
            swept: 0,
            keeps: false,
            changed: None,
            vanished: 0,
            evicted: 0,
            given_back: 0,
            second_chances: 0,
        })
    }

    /// Appends tag and data of a block to `out`, or finds that it is not here.
    pub(crate) fn get(&mut self, mount: MountId, key: &RemoteKey, out: &mut Vec<u8>) -> bool {
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

    /// A mount of `client` will put blocks. False if it is another client's.
    pub(crate) fn admit(&mut self, mount: MountId, client: &Arc<str>) -> bool {
        self.segments.admit(mount, client)
    }

    /// A mount will neither put nor get any more: its memory goes back with [`Self::tidy`].
    pub(crate) fn dismiss(&mut self, mount: MountId) {
        self.segments.dismiss(mount);
    }

    /// Gives back at most `segments` segments of mounts that were dismissed. True when there are no more.
    pub(crate) fn tidy(&mut self, segments: usize) -> bool {
        for _ in 0..segments {
            let Some(segment) = self.segments.of_those_who_left() else { return true };
            self.release(segment);
        }
        false
    }

    /// What the mount puts from here on belongs to this PUT.
    pub(crate) fn begins(&mut self, mount: MountId, put: RequestId) {
        self.segments.begins(mount, put);
    }

    /// The oldest PUT of the mount of which there may be blocks that were not read since.
    pub(crate) fn oldest_put(&self, mount: MountId) -> RequestId {
        self.segments.oldest_put(mount)
    }

    /// Keeps a block, in place of an older one of the same name. False if there is no room, or if
    /// the mount was not admitted; an older one is gone then, too.
    pub(crate) fn put(&mut self, mount: MountId, entry: &PutEntry) -> bool {
        let block = self.fingerprint(mount, &entry.key);
        let room = loop {
            match self.segments.room(mount) {
                // To fill what the kernel took of an old segment would be lending more than is allowed.
                Room::Own(segment) | Room::Other(segment) if self.segments.is_over() => {
                    self.segments.set_free(segment);
                    self.release(segment);
                }
                room => break room,
            }
        };
        match room {
            Room::Open => {}
            Room::Free(segment) | Room::Own(segment) | Room::Other(segment) => {
                self.memory.open(segment);
                let kept = match room {
                    Room::Own(_) => self.evict(segment, SECOND_CHANCES_MAX),
                    Room::Other(_) => self.evict(segment, 0),
                    _ => 0,
                };
                self.segments.open(mount, segment, kept);
            }
            Room::None => {
                self.index.remove(block);
                return false;
            }
        }
        let (slot, filled) = self.segments.take_slot(mount);
        self.memory.write(slot, &entry.block.data);
        self.index.insert(block, slot, entry.block.tag);
        if let Some(segment) = filled
            && !self.keeps
        {
            self.memory.hand_over(segment);
            self.segments.set_handed_over(segment, true);
        }
        true
    }

    /// Allows so many segments to be in use from now on. What is above is given back by
    /// [`Self::give_back`].
    pub(crate) fn allow(&mut self, segments: usize) {
        self.segments.allow(segments);
    }

    /// Allows one client no more than so many bytes, in whole segments.
    pub(crate) fn limit_clients(&mut self, bytes: u64) {
        let segments = bytes / super::SEGMENT_BYTES as u64;
        self.segments.limit_clients(usize::try_from(segments).unwrap_or(usize::MAX));
    }

    /// Gives back the memory of at most `segments` segments of those that are in use beyond what is
    /// allowed. Returns how many there were.
    pub(crate) fn give_back(&mut self, segments: usize) -> usize {
        for done in 0..segments {
            let Some(segment) = self.segments.excess() else { return done };
            self.release(segment);
        }
        segments
    }

    /// Whether full segments are to be kept from the kernel, or handed over to it. Segments that are
    /// full already follow with [`Self::change`].
    pub(crate) fn keep(&mut self, keeps: bool) {
        if self.keeps != keeps {
            self.keeps = keeps;
            self.changed = Some(0);
        }
    }

    /// Keeps, or hands over, at most `segments` full segments that are not yet. True when all are.
    pub(crate) fn change(&mut self, segments: usize) -> bool {
        let Some(mut next) = self.changed else { return true };
        let mut done = 0;
        while done < segments && next < self.segments.total() {
            let segment = SegmentId::new(next);
            next += 1;
            let handed_over = self.segments.is_handed_over(segment);
            if self.segments.is_full(segment) && handed_over == self.keeps {
                if self.keeps {
                    let missing = self.memory.keep(segment);
                    self.segments.set_missing(segment, missing);
                } else {
                    self.memory.hand_over(segment);
                }
                self.segments.set_handed_over(segment, !handed_over);
                done += 1;
            }
        }
        self.changed = Some(next).filter(|&next| next < self.segments.total());
        self.changed.is_none()
    }

    /// Looks through at most `segments` segments for pages that the kernel took, and forgets their
    /// blocks. Returns how many it found.
    pub(crate) fn sweep(&mut self, segments: usize) -> usize {
        let mut found = 0;
        // Pages that were never handed over may be in the swap.
        for _ in 0..if self.memory.lazily_freeable() { segments } else { 0 } {
            let segment = SegmentId::new(self.swept);
            self.swept = (self.swept + 1) % self.segments.total();
            if !self.segments.is_handed_over(segment) {
                continue;
            }
            let Ok(present) = self.memory.present(segment) else { break };
            if present.iter().all(|&present| present) {
                continue;
            }
            let (gone, left) = self.index.retain(segment, &present);
            found += gone;
            if left == 0 {
                self.segments.emptied(segment);
                self.release(segment);
            } else {
                let missing = present.iter().filter(|&&present| !present).count();
                self.segments.set_missing(segment, missing);
            }
        }
        self.vanished += found as u64;
        found
    }

    /// Memory that a mount may be using.
    pub(crate) fn held(&self, mount: MountId) -> usize {
        self.segments.held(mount) * super::SEGMENT_BYTES
    }

    /// How the store is doing.
    pub(crate) fn facts(&self) -> StoreFacts {
        StoreFacts {
            segments_total: self.segments.total(),
            segments_allowed: self.segments.allowed(),
            segments_in_use: self.segments.in_use(),
            segments_full: self.segments.full(),
            segments_handed_over: self.segments.handed_over(),
            pages_missing: self.segments.missing(),
            blocks: self.index.len(),
            index_bytes: self.index_bytes(),
            blocks_max: self.segments.total() * SEGMENT_BLOCKS,
            huge_pages: self.memory.huge_pages(),
            lazily_freeable: self.memory.lazily_freeable(),
            extent: self.memory.extent(),
            vanished: self.vanished,
            evicted: self.evicted,
            given_back: self.given_back,
            second_chances: self.second_chances,
        }
    }

    /// Gives back a segment that is in no list but that of the free ones.
    fn release(&mut self, segment: SegmentId) {
        self.memory.release(segment);
        self.given_back += self.index.clear(segment) as u64;
    }

    /// Empties a segment, but for at most `chances` blocks that were read since they came there: those
    /// are pushed together at its beginning. Says how many.
    fn evict(&mut self, segment: SegmentId, chances: usize) -> usize {
        let mut kept = 0;
        for slot in segment.slots() {
            let Some(block) = self.index.block_in(slot) else { continue };
            if !self.index.was_hit(slot) || kept == chances {
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
