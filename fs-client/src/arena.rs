//! The arena: the memory of the local cache, in slots of one block.
//!
//! A slot is either free, or filled by one owner ([`Empty`]), or published and read by many
//! ([`Block`]); it goes back to the free list when the last reader lets go. Slots are given out
//! in the order in which they came back, so that runs of neighbours stay neighbours in memory
//! and a long read can be answered with one slice.
//!
//! The arena lives as long as the process: blocks are handed between threads without counting
//! references to the arena itself.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::ops::{Deref, Range};
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::block::BLOCK_SIZE;
use crate::sync::atomic::{AtomicU32, Ordering, fence};
use crate::sync::{Mutex, zeroed};

/// Huge pages begin at multiples of this.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Memory for so many blocks, which may become more or fewer.
pub(crate) struct Arena {
    base: NonNull<u8>,
    /// How many hold each slot: 0 is free. For as many as there may ever be.
    holders: Box<[AtomicU32]>,
    free: Mutex<Free>,
}

/// The slots that nobody holds.
struct Free {
    /// Those that may be given out.
    list: VecDeque<u32>,
    /// So many slots may be used: those from this number on are not given out.
    limit: u32,
    /// The slots from this number on never were.
    unused: u32,
    /// At or beyond the limit, and their memory not given back yet.
    retired: Vec<u32>,
    /// The same, and given back.
    released: Vec<u32>,
}

/// A slot that one owner fills.
pub(crate) struct Empty(Block);

/// A published block: read by any number of holders, changed by none.
pub(crate) struct Block {
    arena: &'static Arena,
    slot: SlotId,
}

/// The number of a slot in its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotId(u32);

// SAFETY: the arena's memory is reached through Empty (one owner) and Block (read only) alone.
unsafe impl Send for Arena {}
// SAFETY: as above; the counts are atomic and the free list is locked.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps memory for `slots` blocks, and address space for `slots_max`. Memory becomes resident as it is first used.
    ///
    /// # Errors
    /// Those of mmap(2) and mprotect(2).
    pub(crate) fn new(slots: u32, slots_max: u32) -> std::io::Result<&'static Self> {
        let slots_max = slots_max.max(slots);
        let arena = Self {
            base: map(slots_max as usize * BLOCK_SIZE)?,
            holders: zeroed(slots_max as usize),
            free: Mutex::new(Free {
                list: (0..slots).collect(),
                limit: slots,
                unused: slots,
                retired: Vec::new(),
                released: Vec::new(),
            }),
        };
        arena.open(slots)?;
        Ok(Box::leak(Box::new(arena)))
    }

    /// How many slots may be used.
    pub(crate) fn slots(&self) -> usize {
        self.free.lock().limit as usize
    }

    /// How many there may ever be.
    pub(crate) fn slots_max(&self) -> usize {
        self.holders.len()
    }

    /// How many slots are free.
    pub(crate) fn free(&self) -> usize {
        self.free.lock().list.len()
    }

    /// Has `slots` slots used from now on, [`Self::slots_max`] at most. Those beyond that are still held keep their bytes
    /// until they are let go of.
    ///
    /// # Errors
    /// There is no memory for more.
    pub(crate) fn limit(&self, slots: u32) -> std::io::Result<()> {
        let slots = slots.min(u32::try_from(self.slots_max()).unwrap_or(u32::MAX));
        self.open(slots)?;
        let mut free = self.free.lock();
        free.limit = slots;
        let Free { list, unused, retired, released, .. } = &mut *free;
        retired.extend(list.iter().filter(|slot| **slot >= slots));
        list.retain(|slot| *slot < slots);
        for gone in [retired, released] {
            list.extend(gone.extract_if(.., |slot| *slot < slots));
        }
        list.extend(*unused..slots);
        *unused = slots.max(*unused);
        Ok(())
    }

    /// Gives the memory of slots beyond the limit back to the system. Not to be called while the limit changes.
    pub(crate) fn release(&self) {
        let mut retired = std::mem::take(&mut self.free.lock().retired);
        retired.sort_unstable();
        for run in retired.chunk_by(|a, b| a + 1 == *b) {
            let start = self.address(SlotId(run[0])).cast::<c_void>();
            let bytes = run.len() * BLOCK_SIZE;
            // SAFETY: nobody holds these slots, nor is given them while they are in neither list.
            let given = unsafe { madvise(start.as_ptr(), bytes, Advice::LinuxDontNeed) };
            if let Err(error) = given {
                tracing::warn!(%error, "memory of the cache cannot be given back");
            }
        }
        self.free.lock().released.append(&mut retired);
    }

    /// Lets the first `slots` be written and read.
    #[cfg(not(feature = "shuttle"))]
    fn open(&self, slots: u32) -> std::io::Result<()> {
        use rustix::mm::{MprotectFlags, mprotect};
        let bytes = (slots as usize * BLOCK_SIZE).next_multiple_of(HUGE_PAGE);
        // SAFETY: part of our own mapping, which has a huge page more than the slots need; it only may be used more.
        let opened = unsafe {
            mprotect(self.base.as_ptr().cast(), bytes, MprotectFlags::READ | MprotectFlags::WRITE)
        };
        Ok(opened?)
    }

    #[cfg(feature = "shuttle")]
    fn open(&self, _slots: u32) -> std::io::Result<()> {
        Ok(())
    }

    /// Up to `count` free slots, the longest free first.
    pub(crate) fn take(&'static self, count: usize) -> Vec<Empty> {
        let mut free = self.free.lock();
        let count = count.min(free.list.len());
        free.list
            .drain(..count)
            .map(|slot| {
                self.holders[slot as usize].store(1, Ordering::Relaxed);
                Empty(Block { arena: self, slot: SlotId(slot) })
            })
            .collect()
    }

    fn address(&self, slot: SlotId) -> NonNull<[u8; BLOCK_SIZE]> {
        // SAFETY: slot ids are made by `take` only, so the result lies within the mapping.
        unsafe { self.base.add(slot.0 as usize * BLOCK_SIZE) }.cast()
    }
}

impl Free {
    /// Takes back a slot that nobody holds any more.
    fn push(&mut self, slot: u32) {
        if slot < self.limit {
            self.list.push_back(slot);
        } else {
            self.retired.push(slot);
        }
    }
}

/// New address space, which begins at a huge page and has room for one more.
#[cfg(not(feature = "shuttle"))]
fn map(bytes: usize) -> std::io::Result<NonNull<u8>> {
    // SAFETY: a new anonymous mapping, which touches no memory of ours.
    let start = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            bytes.next_multiple_of(HUGE_PAGE) + HUGE_PAGE,
            ProtFlags::empty(),
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )?
    };
    let aligned = start.map_addr(|addr| addr.next_multiple_of(HUGE_PAGE));
    // Huge pages make copies to and from the kernel cheaper; without them all still works.
    // SAFETY: the advice changes no contents, and the range lies within the mapping.
    let _ = unsafe { madvise(aligned, bytes, Advice::LinuxHugepage) };
    Ok(NonNull::new(aligned.cast()).expect("mmap never returns null"))
}

/// The same memory each time: under shuttle thousands of arenas are made and leaked, one after the
/// other on a thread of the system, and none is used once the next is made.
#[cfg(feature = "shuttle")]
fn map(bytes: usize) -> std::io::Result<NonNull<u8>> {
    const BYTES_MAX: usize = 1 << 20;
    thread_local! {
        static MEMORY: AlignedBuffer =
            AlignedBuffer::new(BYTES_MAX / BLOCK_SIZE).expect("memory for the tests");
    }
    assert!(bytes <= BYTES_MAX, "more than a test of races needs");
    Ok(MEMORY.with(|memory| memory.base))
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("slots", &self.slots()).finish_non_exhaustive()
    }
}

impl Empty {
    /// The bytes to fill. They hold whatever the slot held before.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8; BLOCK_SIZE] {
        // SAFETY: an Empty is the only holder of its slot.
        unsafe { self.0.arena.address(self.0.slot).as_mut() }
    }

    /// Makes it readable by many and changeable by none.
    pub(crate) fn publish(self) -> Block {
        self.0
    }
}

/// The slots as buffers for one scattered read; neighbours in memory become one buffer.
pub(crate) fn scatter<'a>(slots: impl IntoIterator<Item = &'a mut Empty>) -> Vec<IoSliceMut<'a>> {
    let mut buffers: Vec<(NonNull<u8>, usize)> = Vec::new();
    for slot in slots {
        let start = slot.0.arena.address(slot.0.slot).cast::<u8>();
        match buffers.last_mut() {
            // SAFETY: the result is at most one past the end of memory held by `slots`.
            Some((base, len)) if unsafe { base.add(*len) } == start => *len += BLOCK_SIZE,
            _ => buffers.push((start, BLOCK_SIZE)),
        }
    }
    buffers
        .into_iter()
        .map(|(base, len)| {
            // SAFETY: the range is made of neighbouring slots of one arena, each held by one of `slots`,
            // which stay borrowed as long as the buffers live.
            IoSliceMut::new(unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), len) })
        })
        .collect()
}

/// Some of the bytes of the blocks, one after the other; neighbours in memory become one part.
pub(crate) fn gather(blocks: &[Block], range: Range<usize>) -> Vec<IoSlice<'_>> {
    let mut parts: Vec<(NonNull<u8>, usize)> = Vec::new();
    for (n, block) in blocks.iter().enumerate() {
        let start = n * BLOCK_SIZE;
        let from = range.start.clamp(start, start + BLOCK_SIZE) - start;
        let to = range.end.clamp(start, start + BLOCK_SIZE) - start;
        if from >= to {
            continue;
        }
        let bytes = NonNull::from(&block[from..to]).cast::<u8>();
        match parts.last_mut() {
            // SAFETY: the result is at most one past the end of memory held by `blocks`.
            Some((base, len)) if unsafe { base.add(*len) } == bytes => *len += to - from,
            _ => parts.push((bytes, to - from)),
        }
    }
    parts
        .into_iter()
        .map(|(base, len)| {
            // SAFETY: neighbouring slots of the arena's one mapping, all held by `blocks`, which
            // are published and so unchanged, and stay borrowed as long as the parts live.
            IoSlice::new(unsafe { std::slice::from_raw_parts(base.as_ptr(), len) })
        })
        .collect()
}

impl SlotId {
    /// Its place in the arena, counted from 0.
    pub(crate) fn number(self) -> usize {
        self.0 as usize
    }

    /// The slot behind it in memory; there may be none.
    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Block {
    /// Which slot it is in.
    pub(crate) fn slot(&self) -> SlotId {
        self.slot
    }

    /// Gives up the guard but not the hold: the index keeps only the slot's number.
    pub(crate) fn into_slot(self) -> SlotId {
        let slot = self.slot;
        std::mem::forget(self);
        slot
    }

    /// Takes back a hold that [`Block::into_slot`] gave up. Each number may be taken back once.
    pub(crate) fn from_slot(arena: &'static Arena, slot: SlotId) -> Self {
        debug_assert!(arena.holders[slot.0 as usize].load(Ordering::Relaxed) > 0);
        Self { arena, slot }
    }

    /// One more hold on a slot that the index holds, while the index is locked.
    pub(crate) fn share(arena: &'static Arena, slot: SlotId) -> Self {
        arena.holders[slot.0 as usize].fetch_add(1, Ordering::Relaxed);
        Self { arena, slot }
    }
}

impl Deref for Block {
    type Target = [u8; BLOCK_SIZE];

    fn deref(&self) -> &[u8; BLOCK_SIZE] {
        // SAFETY: published, so nobody changes it while a Block holds it.
        unsafe { self.arena.address(self.slot).as_ref() }
    }
}

impl Clone for Block {
    fn clone(&self) -> Self {
        Self::share(self.arena, self.slot)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let holders = &self.arena.holders[self.slot.0 as usize];
        if holders.fetch_sub(1, Ordering::Release) == 1 {
            // What other holders read happened before the next owner writes.
            fence(Ordering::Acquire);
            self.arena.free.lock().push(self.slot.0);
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        unreachable!("an arena is leaked when it is made and lives as long as the process");
    }
}

/// Bytes that do not come from the arena, aligned for direct I/O.
pub(crate) struct AlignedBuffer {
    base: NonNull<u8>,
    len: usize,
}

impl AlignedBuffer {
    /// Zeroed memory of `blocks` blocks.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(crate) fn new(blocks: usize) -> std::io::Result<Self> {
        let len = blocks.max(1) * BLOCK_SIZE;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new anonymous mapping, which touches no memory of ours.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), len, protection, flags)? };
        Ok(Self { base: NonNull::new(base.cast()).expect("mmap never returns null"), len })
    }

    /// Zeroed memory of one huge page, if the kernel has one: then it is in one piece for a device, too.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(crate) fn huge() -> std::io::Result<Self> {
        let mut around = Self::new(2 * HUGE_PAGE / BLOCK_SIZE)?;
        let start = around.base.as_ptr().map_addr(|addr| addr.next_multiple_of(HUGE_PAGE));
        // SAFETY: the first multiple of a huge page's size lies in the first half of two of them.
        let before = unsafe { start.offset_from_unsigned(around.base.as_ptr()) };
        let behind = around.len - before - HUGE_PAGE;
        // SAFETY: what lies before and behind the huge page belongs to this mapping, and nobody has a slice of it.
        unsafe {
            if before > 0 {
                munmap(around.base.as_ptr().cast::<c_void>(), before)?;
            }
            around.base = NonNull::new(start).expect("mmap never returns null");
            around.len = HUGE_PAGE + behind;
            if behind > 0 {
                munmap(start.add(HUGE_PAGE).cast::<c_void>(), behind)?;
            }
            around.len = HUGE_PAGE;
            // Without it all still works.
            let _ = madvise(start.cast::<c_void>(), HUGE_PAGE, Advice::LinuxHugepage);
        }
        Ok(around)
    }

    /// The bytes, to be filled.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is ours alone and `len` long.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

// SAFETY: the mapping is reached through its one owner alone.
unsafe impl Send for AlignedBuffer {}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no slice of it outlives the buffer.
        let _ = unsafe { munmap(self.base.as_ptr().cast::<c_void>(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_when_the_last_holder_lets_go() {
        let arena = Arena::new(4, 4).unwrap();
        let mut empty = arena.take(1).pop().unwrap();
        empty.bytes_mut().fill(7);
        let block = empty.publish();
        let again = Block::share(arena, block.slot);
        assert_eq!(arena.free(), 3);
        drop(block);
        assert_eq!((arena.free(), again[4095]), (3, 7));
        drop(again);
        assert_eq!(arena.free(), 4);
    }

    #[test]
    fn slots_taken_together_are_one_buffer_and_one_part() {
        let arena = Arena::new(8, 8).unwrap();
        let mut slots = arena.take(3);
        assert_eq!(scatter(&mut slots).iter().map(|b| b.len()).collect::<Vec<_>>(), [3 * 4096]);
        let apart = slots.remove(1);
        assert_eq!(scatter(&mut slots).len(), 2);
        let blocks: Vec<_> = slots.into_iter().map(Empty::publish).collect();
        let lengths = |parts: Vec<IoSlice<'_>>| parts.iter().map(|p| p.len()).collect::<Vec<_>>();
        assert_eq!(lengths(gather(&blocks, 0..8192)), [4096, 4096]);
        assert_eq!(lengths(gather(&blocks, 10..4100)), [4086, 4]);
        drop(apart);
        drop(blocks);
        let all: Vec<_> = arena.take(5).into_iter().map(Empty::publish).collect();
        assert_eq!(lengths(gather(&all, 1..4 * 4096)), [4 * 4096 - 1], "never used, in order");
    }

    #[test]
    fn no_more_is_given_than_there_is() {
        let arena = Arena::new(2, 2).unwrap();
        let held = arena.take(5);
        assert_eq!(held.len(), 2);
        assert!(arena.take(1).is_empty());
    }

    #[test]
    fn slots_beyond_the_limit_are_not_given_out_and_come_back_once() {
        let arena = Arena::new(6, 8).unwrap();
        let mut held: Vec<_> = arena.take(6).into_iter().map(Empty::publish).collect();
        arena.limit(3).unwrap();
        let (late, early) = (held.split_off(4), held.split_off(3));
        drop(early);
        arena.release();
        assert_eq!((arena.free(), arena.slots()), (0, 3));
        drop(held);
        assert_eq!(arena.free(), 3);
        // One comes back to where it may be used again, one beyond.
        arena.limit(5).unwrap();
        drop(late);
        let numbers = |slots: &[Empty]| {
            let mut numbers: Vec<_> = slots.iter().map(|empty| empty.0.slot.0).collect();
            numbers.sort_unstable();
            numbers
        };
        let all = arena.take(9);
        assert_eq!(numbers(&all), [0, 1, 2, 3, 4]);
        arena.limit(8).unwrap();
        let mut more = arena.take(9);
        assert_eq!(numbers(&more), [5, 6, 7]);
        more.iter_mut().for_each(|empty| empty.bytes_mut().fill(1));
        arena.limit(100).unwrap();
        assert_eq!(arena.slots(), 8, "there is address space for no more");
    }
}
