//! The lent memory itself: one reserved region, page by page.
//!
//! The kernel may take a page that was handed over at any moment, also while it is being read,
//! so no reference into the region is ever made: pages are copied in and out by address. A page
//! that was taken reads as zeros until it is written again.
//!
//! Nearly all `unsafe` of the server is here and in `zeroed`.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rampool_protocol::block::BLOCK_SIZE;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::segments::{SEGMENT_BLOCKS, SEGMENT_BYTES, SegmentId, SlotId};

/// Ciphertext begins with this many zero bytes once in 2^128 blocks; a page that was taken
/// always does.
const WITNESS_BYTES: usize = 16;

/// Address space for a number of segments. Memory stands behind those pages only that were
/// written and not taken.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    segments: usize,
    huge_pages: bool,
    lazily_freeable: AtomicBool,
}

/// Whether a page still held what was written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// It is all there.
    Present,
    /// The kernel took it.
    Taken,
}

// SAFETY: the region is plain memory that only this value knows of; any thread may own it.
unsafe impl Send for Region {}

impl Region {
    /// Reserves address space, aligned to huge pages.
    ///
    /// # Errors
    /// Those of mmap(2), where the machine allows no such reservation.
    pub(crate) fn reserve(segments: usize) -> io::Result<Self> {
        let bytes = segments * SEGMENT_BYTES;
        // One segment more, so that an aligned start lies within; what is over is unmapped.
        let mapped_bytes = bytes + SEGMENT_BYTES;
        // SAFETY: a fresh private mapping at an address of the kernel's choice.
        let mapped = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                mapped_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let mapped = mapped.cast::<u8>();
        let before = mapped.align_offset(SEGMENT_BYTES);
        let base = mapped.wrapping_add(before);
        for (start, len) in
            [(mapped, before), (base.wrapping_add(bytes), mapped_bytes - before - bytes)]
        {
            if len > 0 {
                // SAFETY: both ends of our own mapping, outside of the region that is kept.
                unsafe { rustix::mm::munmap(start.cast(), len)? };
            }
        }
        let base = NonNull::new(base).expect("mmap succeeded, and not at address zero");
        let region = base.as_ptr().cast();
        // SAFETY: all advices apply to our own mapping, in which nothing lies yet. The page that
        // is written, and dropped again, makes later pieces of the mapping alike to the kernel
        // (they share an anon_vma), so that it joins what `open` and `hand_over` divide; else
        // every segment would remain a mapping of its own, of which a process may have 65,530.
        let (huge, lazy) = unsafe {
            base.write_volatile(1);
            rustix::mm::madvise(region, BLOCK_SIZE, Advice::LinuxDontNeed)?;
            let huge = rustix::mm::madvise(region, bytes, Advice::LinuxHugepage);
            let _ = rustix::mm::madvise(region, bytes, Advice::LinuxNoHugepage);
            (huge, rustix::mm::madvise(region, bytes, Advice::LinuxFree))
        };
        Ok(Self {
            base,
            segments,
            huge_pages: huge.is_ok(),
            lazily_freeable: AtomicBool::new(lazy.is_ok()),
        })
    }

    /// Whether the kernel was willing to use huge pages.
    pub(crate) fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Whether the kernel has accepted every segment that was handed over.
    pub(crate) fn lazily_freeable(&self) -> bool {
        self.lazily_freeable.load(Ordering::Relaxed)
    }

    /// First address and length, to find the region among the process's mappings.
    pub(crate) fn extent(&self) -> (usize, usize) {
        (self.base.as_ptr().addr(), self.segments * SEGMENT_BYTES)
    }

    /// Fills a page, which thereby is ordinary memory.
    pub(crate) fn write(&mut self, slot: SlotId, data: &[u8; BLOCK_SIZE]) {
        let page = self.page(slot);
        // SAFETY: `page` is within our mapping and writable, `data` is no part of it.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), page, BLOCK_SIZE) };
    }

    /// Appends a page to `out`. When it was taken, also half-way through, nothing is appended.
    pub(crate) fn read(&self, slot: SlotId, out: &mut Vec<u8>) -> Page {
        let page = self.page(slot);
        out.reserve(BLOCK_SIZE);
        let spare = out.spare_capacity_mut();
        debug_assert!(spare.len() >= BLOCK_SIZE);
        // SAFETY: `page` is within our mapping and readable; BLOCK_SIZE bytes of `spare` were
        // reserved; the two do not overlap.
        unsafe { ptr::copy_nonoverlapping(page, spare.as_mut_ptr().cast(), BLOCK_SIZE) };
        // Looked at after the copy: a page that still is there now was there all the time.
        if self.witness(page) == Page::Taken {
            self.forget(page);
            return Page::Taken;
        }
        // SAFETY: the copy above initialised so many bytes.
        unsafe { out.set_len(out.len() + BLOCK_SIZE) };
        Page::Present
    }

    /// Copies a page over another one.
    pub(crate) fn copy(&mut self, from: SlotId, to: SlotId) -> Page {
        let (from, to) = (self.page(from), self.page(to));
        // SAFETY: both pages are within our mapping; `copy` allows them to be the same.
        unsafe { ptr::copy(from, to, BLOCK_SIZE) };
        let page = self.witness(from);
        if page == Page::Taken {
            self.forget(from);
        }
        page
    }

    /// Prepares a segment for being filled: with a huge page, where the kernel has one.
    pub(crate) fn open(&self, segment: SegmentId) {
        if self.huge_pages {
            // Small pages do as well.
            let _ = self.advise(segment, Advice::LinuxHugepage);
        }
    }

    /// Lets the kernel take the pages of a segment whenever it needs memory.
    ///
    /// From now on it must not gather them into huge pages: khugepaged makes ordinary memory of
    /// what it gathers, and puts memory behind pages that were taken.
    pub(crate) fn hand_over(&self, segment: SegmentId) {
        if self.huge_pages {
            let _ = self.advise(segment, Advice::LinuxNoHugepage);
        }
        if self.advise(segment, Advice::LinuxFree).is_err() {
            self.lazily_freeable.store(false, Ordering::Relaxed);
        }
    }

    /// Makes ordinary memory again of the pages of a segment that was handed over, where the kernel has
    /// not taken them. Returns how many it has.
    pub(crate) fn keep(&mut self, segment: SegmentId) -> usize {
        // Even to look at a page that was taken would put a page of zeros there.
        let present = self.present(segment).unwrap_or([true; SEGMENT_BLOCKS]);
        for (slot, _) in segment.slots().zip(present).filter(|(_, present)| *present) {
            // SAFETY: the page is within our mapping, writable, and aligned for more than a u64; no
            // reference to it exists.
            let word = unsafe { AtomicU64::from_ptr(self.page(slot).cast()) };
            // A page becomes ordinary by being written to, also with what it holds. Should the kernel take
            // it between the two steps, nothing but zeros is written.
            let value = word.load(Ordering::Relaxed);
            let _ = word.compare_exchange(value, value, Ordering::Relaxed, Ordering::Relaxed);
        }
        present.iter().filter(|&&present| !present).count()
    }

    /// Gives the memory of a segment back to the kernel.
    pub(crate) fn release(&mut self, segment: SegmentId) {
        // It fails for locked memory only, which this is not.
        let _ = self.advise(segment, Advice::LinuxDontNeed);
    }

    /// Which pages of a segment the kernel has not taken.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn present(&self, segment: SegmentId) -> io::Result<[bool; SEGMENT_BLOCKS]> {
        let mut pages = [0; SEGMENT_BLOCKS];
        let start = self.page(segment.slot(0));
        // SAFETY: a whole segment of our own mapping, and room for one byte for each of its pages.
        let done = unsafe { libc::mincore(start.cast(), SEGMENT_BYTES, pages.as_mut_ptr()) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(pages.map(|page: u8| page & 1 != 0))
    }

    /// Takes a page away as the kernel would.
    #[cfg(test)]
    pub(crate) fn take(&mut self, slot: SlotId) {
        // SAFETY: a whole page of our own mapping.
        unsafe {
            rustix::mm::madvise(self.page(slot).cast(), BLOCK_SIZE, Advice::LinuxDontNeed)
                .expect("a page of ours can be dropped");
        }
    }

    /// Reading a page that was taken has put one of zeros there, which would count as present.
    fn forget(&self, page: *mut u8) {
        // SAFETY: a whole page of our own mapping, which holds zeros.
        let _ = unsafe { rustix::mm::madvise(page.cast(), BLOCK_SIZE, Advice::LinuxDontNeed) };
    }

    fn advise(&self, segment: SegmentId, advice: Advice) -> rustix::io::Result<()> {
        let start = self.page(segment.slot(0));
        // SAFETY: a whole segment of our own mapping; none of the advices given here does more
        // than turn pages into zeros some time, which is what `read` looks for.
        unsafe { rustix::mm::madvise(start.cast(), SEGMENT_BYTES, advice) }
    }

    fn page(&self, slot: SlotId) -> *mut u8 {
        let offset = slot.index() * BLOCK_SIZE;
        assert!(offset < self.segments * SEGMENT_BYTES, "a slot of this region");
        self.base.as_ptr().wrapping_add(offset)
    }

    fn witness(&self, page: *const u8) -> Page {
        // SAFETY: `page` comes from `page()` and is readable; volatile, for the kernel may have
        // changed it since the last look.
        let bytes = unsafe { page.cast::<[u8; WITNESS_BYTES]>().read_volatile() };
        if bytes == [0; WITNESS_BYTES] { Page::Taken } else { Page::Present }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: our own mapping; nothing refers to it any more. An error leaves it mapped.
        let _ =
            unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.segments * SEGMENT_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_written_until_it_is_taken() {
        let mut region = Region::reserve(2).unwrap();
        assert_eq!(region.extent().0 % SEGMENT_BYTES, 0);
        let segment = SegmentId::new(1);
        for place in [0, 511] {
            region.write(segment.slot(place), &[place as u8 | 1; BLOCK_SIZE]);
        }
        region.hand_over(segment);
        let mut out = Vec::new();
        assert_eq!(region.read(segment.slot(0), &mut out), Page::Present);
        assert_eq!(out, &[1; BLOCK_SIZE][..]);
        assert_eq!(region.copy(segment.slot(511), segment.slot(3)), Page::Present);

        region.take(segment.slot(0));
        assert_eq!(region.read(segment.slot(0), &mut out), Page::Taken);
        assert_eq!(out.len(), BLOCK_SIZE, "nothing of a taken page is handed out");
        assert!(
            !region.present(segment).unwrap()[0],
            "having been looked at, it is still not there"
        );
        assert_eq!(
            region.keep(segment),
            SEGMENT_BLOCKS - 2,
            "all but two were never written, or taken"
        );
        assert!(!region.present(segment).unwrap()[0]);
        assert_eq!(region.read(segment.slot(3), &mut out), Page::Present);
        assert_eq!(&out[BLOCK_SIZE..], &[255; BLOCK_SIZE][..]);
        assert!(region.lazily_freeable());
    }

    #[test]
    fn what_was_handed_over_is_one_mapping_that_nobody_gathers_into_huge_pages() {
        const SEGMENTS: usize = 32;
        let mut region = Region::reserve(SEGMENTS).unwrap();
        for segment in (0..SEGMENTS).chain(0..5).map(SegmentId::new) {
            region.open(segment);
            segment.slots().for_each(|slot| region.write(slot, &[1; BLOCK_SIZE]));
            region.hand_over(segment);
        }
        region.open(SegmentId::new(5));
        let flags = mapping_flags(region.extent());
        assert_eq!(flags.len(), 3, "before the open segment, it, and after it: {flags:?}");
        if region.huge_pages() {
            for (flags, advice) in flags.iter().zip([" nh", " hg", " nh"]) {
                assert!(flags.contains(advice), "{advice}: {flags:?}");
            }
        }
    }

    fn mapping_flags((start, len): (usize, usize)) -> Vec<String> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut within, mut flags) = (false, Vec::new());
        for line in smaps.lines() {
            let addresses = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((from, _)) = addresses {
                let from = usize::from_str_radix(from, 16).unwrap();
                within = (start..start + len).contains(&from);
            } else if within && line.starts_with("VmFlags:") {
                flags.push(line.to_owned());
            }
        }
        flags
    }
}
