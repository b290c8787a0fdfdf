//! Segments: how the region is divided, and the order in which segments are filled and reused.
//!
//! A segment is free, open, or full. One at most is open; blocks go there in order of arrival.
//! Full segments are evicted oldest first, and the evicted one becomes the open one.

use std::collections::VecDeque;

use rampool_protocol::block::BLOCK_SIZE;

/// Bytes in a segment: a huge page, so that handing it over is one cheap call.
pub(crate) const SEGMENT_BYTES: usize = 2 << 20;
/// Blocks in a segment, each on a page of its own.
pub(crate) const SEGMENT_BLOCKS: usize = SEGMENT_BYTES / BLOCK_SIZE;

/// A segment of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentId(u32);

/// A page of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotId(u32);

impl SegmentId {
    /// The segment at `index`.
    pub(crate) fn new(index: usize) -> Self {
        assert!(index < SEGMENTS_MAX, "the number of segments is checked when it is chosen");
        Self(index as u32)
    }

    /// The slot at `place` within the segment.
    pub(crate) fn slot(self, place: usize) -> SlotId {
        assert!(place < SEGMENT_BLOCKS, "a place within the segment");
        SlotId(self.0 * SEGMENT_BLOCKS as u32 + place as u32)
    }

    /// All slots, in order.
    pub(crate) fn slots(self) -> impl Iterator<Item = SlotId> {
        (0..SEGMENT_BLOCKS).map(move |place| self.slot(place))
    }
}

impl SlotId {
    /// The slot at `index` in the region.
    pub(crate) fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("a region has less than 2^32 pages"))
    }

    /// The place in the region, in pages.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The most segments there can be: slots are numbered in 32 bits, one number is left out.
pub(crate) const SEGMENTS_MAX: usize = u32::MAX as usize / SEGMENT_BLOCKS;

/// Which segments are free, open and full.
#[derive(Debug)]
pub(crate) struct Segments {
    total: usize,
    /// Never used yet; taken from the end.
    free: Vec<SegmentId>,
    /// Oldest first.
    full: VecDeque<SegmentId>,
    open: Option<Open>,
}

/// The segment that is being filled, with room for one block at least.
#[derive(Clone, Copy, Debug)]
struct Open {
    segment: SegmentId,
    used: usize,
}

/// Where the next block may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Into the open segment.
    Open,
    /// Into this segment once it is opened; nothing lies in it.
    Free(SegmentId),
    /// Into this one, the oldest, once its blocks are evicted.
    Oldest(SegmentId),
}

impl Segments {
    /// `total` segments, all free.
    pub(crate) fn new(total: usize) -> Self {
        assert!(total > 0, "a region has at least one segment");
        Self {
            total,
            free: (0..total).rev().map(SegmentId::new).collect(),
            full: VecDeque::with_capacity(total),
            open: None,
        }
    }

    /// Where the next block may go. A free or oldest segment is taken out by this call and is
    /// to be opened next.
    pub(crate) fn room(&mut self) -> Room {
        if self.open.is_some() {
            Room::Open
        } else if let Some(segment) = self.free.pop() {
            Room::Free(segment)
        } else {
            let oldest = self.full.pop_front();
            Room::Oldest(oldest.expect("a segment that is neither free nor open is full"))
        }
    }

    /// Makes `segment` the open one, with blocks in its first `used` places.
    pub(crate) fn open(&mut self, segment: SegmentId, used: usize) {
        assert!(self.open.is_none() && used < SEGMENT_BLOCKS, "one open segment, with room");
        self.open = Some(Open { segment, used });
    }

    /// Takes the next place of the open segment. The segment is returned, too, when that was its
    /// last place: it counts as full from now on.
    pub(crate) fn take_slot(&mut self) -> (SlotId, Option<SegmentId>) {
        let open = self.open.as_mut().expect("room() came first");
        let slot = open.segment.slot(open.used);
        open.used += 1;
        if open.used < SEGMENT_BLOCKS {
            return (slot, None);
        }
        let filled = open.segment;
        self.open = None;
        self.full.push_back(filled);
        (slot, Some(filled))
    }

    /// All segments.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Segments that were never used.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Segments that are full.
    pub(crate) fn full(&self) -> usize {
        self.full.len()
    }

    /// Memory that the records take.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + (self.free.capacity() + self.full.capacity()) * size_of::<SegmentId>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_filled_one_by_one_and_reused_oldest_first() {
        let mut segments = Segments::new(2);
        for expected in [
            Room::Free(SegmentId(0)),
            Room::Free(SegmentId(1)),
            Room::Oldest(SegmentId(0)),
            Room::Oldest(SegmentId(1)),
        ] {
            let room = segments.room();
            assert_eq!(room, expected);
            let (Room::Free(segment) | Room::Oldest(segment)) = room else { unreachable!() };
            segments.open(segment, 500);
            for place in 500..512 {
                assert_eq!(segments.room(), Room::Open);
                let filled = (place == 511).then_some(segment);
                assert_eq!(segments.take_slot(), (segment.slot(place), filled));
            }
        }
        assert_eq!((segments.total(), segments.free(), segments.full()), (2, 0, 2));
    }
}
