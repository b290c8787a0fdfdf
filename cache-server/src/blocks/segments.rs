//! Segments: how the region is divided, who fills them, and the order in which they are reused.
//!
//! A segment is free, open, or full. A mount has one open segment at most; its blocks go there in
//! order of arrival. No more segments are in use than are allowed at the moment. When those are
//! full, the client that holds the most gives its oldest: so clients that all want room end with
//! equal shares, one that wants less keeps what it has, and nobody loses to one that holds more.

use std::collections::VecDeque;
use std::sync::Arc;

use rampool_protocol::block::BLOCK_SIZE;
use rampool_protocol::control::MountId;
use rampool_protocol::frame::RequestId;

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

    /// The place in the region, in segments.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    /// The slot at `place` within the segment.
    pub(crate) fn slot(self, place: usize) -> SlotId {
        assert!(place < SEGMENT_BLOCKS, "a place within the segment");
        SlotId(self.0 * SEGMENT_BLOCKS as u32 + place as u32)
    }

    /// All slots, in order.
    pub(crate) fn slots(self) -> impl ExactSizeIterator<Item = SlotId> {
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

/// Which segments are free, open and full, and whose.
#[derive(Debug)]
pub(crate) struct Segments {
    /// How many may be in use.
    allowed: usize,
    /// How many of them one client may have.
    client_max: usize,
    /// What each segment is. One that is taken to be opened keeps its state until then.
    states: Box<[State]>,
    /// The first PUT of which blocks came into each when it was opened last.
    first_puts: Box<[RequestId]>,
    /// How many pages of each were taken by the kernel, as far as that is known.
    missing: Box<[u16]>,
    missing_in_all: usize,
    /// Taken from the end.
    free: Vec<SegmentId>,
    holders: Vec<Holder>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Open,
    /// Full, and ours.
    Kept,
    /// Full, and the kernel may take it.
    HandedOver,
}

/// A mount, and what it holds.
#[derive(Debug)]
struct Holder {
    mount: MountId,
    /// The name of the client: all its mounts share its share.
    client: Arc<str>,
    open: Option<Open>,
    /// Oldest first.
    full: VecDeque<SegmentId>,
    /// The last PUT.
    last_put: RequestId,
    /// Its client has left, and all this is to become free.
    left: bool,
}

/// A segment that is being filled, with room for one block at least.
#[derive(Clone, Copy, Debug)]
struct Open {
    segment: SegmentId,
    used: usize,
}

/// Where the next block of a mount may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Into its open segment.
    Open,
    /// Into this segment once it is opened; nothing lies in it.
    Free(SegmentId),
    /// Into this one, its own oldest, once its blocks are evicted.
    Own(SegmentId),
    /// Into this one, another mount's, once its blocks are evicted.
    Other(SegmentId),
    /// Nowhere.
    None,
}

impl Segments {
    /// `total` segments, all free and all allowed.
    pub(crate) fn new(total: usize) -> Self {
        assert!(total > 0, "a region has at least one segment");
        Self {
            allowed: total,
            client_max: total,
            states: vec![State::Free; total].into(),
            first_puts: vec![RequestId(0); total].into(),
            missing: vec![0; total].into(),
            missing_in_all: 0,
            free: (0..total).rev().map(SegmentId::new).collect(),
            holders: Vec::new(),
        }
    }

    /// No more memory than that of so many may be in use from now on; those above are for
    /// [`Self::excess`].
    pub(crate) fn allow(&mut self, segments: usize) {
        self.allowed = segments.min(self.total());
    }

    /// No client may have more than so many from now on.
    pub(crate) fn limit_clients(&mut self, segments: usize) {
        self.client_max = segments.max(1);
    }

    /// A mount of `client` will ask for room. False if it is another client's.
    pub(crate) fn admit(&mut self, mount: MountId, client: &Arc<str>) -> bool {
        match self.holder(mount) {
            Some(n) if self.holders[n].client != *client => false,
            Some(n) => {
                self.holders[n].left = false;
                true
            }
            None => {
                self.holders.push(Holder {
                    mount,
                    client: client.clone(),
                    open: None,
                    full: VecDeque::new(),
                    last_put: RequestId(0),
                    left: false,
                });
                true
            }
        }
    }

    /// A mount asks for room no more: all its segments are for [`Self::of_those_who_left`].
    pub(crate) fn dismiss(&mut self, mount: MountId) {
        if let Some(n) = self.holder(mount) {
            self.holders[n].left = true;
        }
    }

    /// A segment of a mount that was dismissed. It counts as free from now on.
    pub(crate) fn of_those_who_left(&mut self) -> Option<SegmentId> {
        self.holders.retain(|holder| !holder.left || holder.held() > 0);
        let n = self.holders.iter().position(|holder| holder.left)?;
        let segment = self.take_from(n)?;
        self.set_free(segment);
        Some(segment)
    }

    /// What `mount` puts from here on belongs to this PUT. Where their numbers do not rise, nobody knows the age of what
    /// it has put before.
    pub(crate) fn begins(&mut self, mount: MountId, put: RequestId) {
        let Some(n) = self.holder(mount) else { return };
        let holder = &mut self.holders[n];
        if put < holder.last_put {
            let open = holder.open.map(|open| open.segment);
            // From the newest on: those before one that is unknown are, too.
            for segment in open.into_iter().chain(holder.full.iter().rev().copied()) {
                if std::mem::replace(&mut self.first_puts[segment.index()], RequestId(0)).0 == 0 {
                    break;
                }
            }
        }
        holder.last_put = put;
    }

    /// The oldest PUT of `mount` of which there may be blocks that were not read since.
    pub(crate) fn oldest_put(&self, mount: MountId) -> RequestId {
        let Some(n) = self.holder(mount) else { return RequestId(0) };
        let holder = &self.holders[n];
        let oldest = holder.full.front().copied().or(holder.open.map(|open| open.segment));
        oldest.map_or(RequestId(holder.last_put.0.saturating_add(1)), |segment| {
            self.first_puts[segment.index()]
        })
    }

    /// Where the next block of `mount` may go. A segment that is returned is out of all lists, and
    /// is to be opened next.
    pub(crate) fn room(&mut self, mount: MountId) -> Room {
        let Some(n) = self.holder(mount) else { return Room::None };
        if self.holders[n].open.is_some() {
            return Room::Open;
        }
        let own = self.held_by_client(n);
        if own < self.client_max
            && self.with_memory() < self.allowed
            && let Some(segment) = self.free.pop()
        {
            return Room::Free(segment);
        }
        let mine = self.holders[n].held();
        let other = self.richest().filter(|_| own < self.client_max);
        let sibling = self.richest_of(&self.holders[n].client.clone());
        // One more than we have is an equal share already: taking it would only begin a circle.
        let giver = match (other, sibling) {
            (Some(other), _) if self.held_by_client(other) > own + 1 => other,
            (_, Some(sibling)) if mine == 0 || self.holders[sibling].held() > mine + 1 => sibling,
            (Some(other), _) if mine == 0 && self.held_by_client(other) > own => other,
            _ if mine > 0 => n,
            _ => return Room::None,
        };
        match self.take_from(giver) {
            Some(segment) if giver == n => Room::Own(segment),
            Some(segment) => Room::Other(segment),
            None => Room::None,
        }
    }

    /// Makes `segment` the open one of `mount`, with blocks in its first `used` places.
    pub(crate) fn open(&mut self, mount: MountId, segment: SegmentId, used: usize) {
        let n = self.holder(mount).expect("room() found it");
        let holder = &mut self.holders[n];
        assert!(holder.open.is_none() && used < SEGMENT_BLOCKS, "one open segment, with room");
        holder.open = Some(Open { segment, used });
        self.first_puts[segment.index()] = holder.last_put;
        self.states[segment.index()] = State::Open;
    }

    /// Takes the next place of the open segment. The segment is returned, too, when that was its
    /// last place: it counts as full from now on.
    pub(crate) fn take_slot(&mut self, mount: MountId) -> (SlotId, Option<SegmentId>) {
        let n = self.holder(mount).expect("room() found it");
        let holder = &mut self.holders[n];
        let open = holder.open.as_mut().expect("room() came first");
        let slot = open.segment.slot(open.used);
        open.used += 1;
        if open.used < SEGMENT_BLOCKS {
            return (slot, None);
        }
        let filled = open.segment;
        holder.open = None;
        holder.full.push_back(filled);
        self.states[filled.index()] = State::Kept;
        (slot, Some(filled))
    }

    /// A segment that is to be given up, since more are in use than are allowed: the oldest of the
    /// client that holds the most. It counts as free from now on.
    pub(crate) fn excess(&mut self) -> Option<SegmentId> {
        if !self.is_over() {
            return None;
        }
        let segment = self.take_from(self.richest()?)?;
        self.set_free(segment);
        Some(segment)
    }

    /// A full segment in which no block lives any more becomes free.
    pub(crate) fn emptied(&mut self, segment: SegmentId) {
        for holder in &mut self.holders {
            if let Some(place) = holder.full.iter().position(|&full| full == segment) {
                holder.full.remove(place);
                self.set_free(segment);
                return;
            }
        }
    }

    /// So many pages of a full segment are not there any more.
    pub(crate) fn set_missing(&mut self, segment: SegmentId, pages: usize) {
        let missing = &mut self.missing[segment.index()];
        self.missing_in_all = self.missing_in_all - usize::from(*missing) + pages;
        *missing = u16::try_from(pages).expect("a segment has 512 pages");
    }

    /// Whether a segment is full.
    pub(crate) fn is_full(&self, segment: SegmentId) -> bool {
        matches!(self.states[segment.index()], State::Kept | State::HandedOver)
    }

    /// Whether a segment is full, and the kernel may take it.
    pub(crate) fn is_handed_over(&self, segment: SegmentId) -> bool {
        self.states[segment.index()] == State::HandedOver
    }

    /// The kernel may take a full segment from now on, or not any more.
    pub(crate) fn set_handed_over(&mut self, segment: SegmentId, handed_over: bool) {
        assert!(self.is_full(segment), "only full segments are handed over");
        self.states[segment.index()] = if handed_over { State::HandedOver } else { State::Kept };
    }

    /// How many are full, and handed over.
    pub(crate) fn handed_over(&self) -> usize {
        self.states.iter().filter(|&&state| state == State::HandedOver).count()
    }

    /// All segments.
    pub(crate) fn total(&self) -> usize {
        self.states.len()
    }

    /// How many may be in use.
    pub(crate) fn allowed(&self) -> usize {
        self.allowed
    }

    /// How many are open or full.
    pub(crate) fn in_use(&self) -> usize {
        self.total() - self.free.len()
    }

    /// Pages of full segments that the kernel took, as far as that is known.
    pub(crate) fn missing(&self) -> usize {
        self.missing_in_all
    }

    /// How many segments there is memory for in those that are in use.
    fn with_memory(&self) -> usize {
        self.in_use() - self.missing_in_all / SEGMENT_BLOCKS
    }

    /// How many are full.
    pub(crate) fn full(&self) -> usize {
        self.holders.iter().map(|holder| holder.full.len()).sum()
    }

    /// How many a mount holds.
    pub(crate) fn held(&self, mount: MountId) -> usize {
        self.holder(mount).map_or(0, |n| self.holders[n].held())
    }

    /// Memory that the records take.
    pub(crate) fn bytes(&self) -> usize {
        let full: usize = self.holders.iter().map(|holder| holder.full.capacity()).sum();
        size_of::<Self>()
            + size_of_val(&*self.states)
            + size_of_val(&*self.first_puts)
            + size_of_val(&*self.missing)
            + (self.free.capacity() + full) * size_of::<SegmentId>()
            + self.holders.capacity() * size_of::<Holder>()
    }

    fn holder(&self, mount: MountId) -> Option<usize> {
        self.holders.iter().position(|holder| holder.mount == mount)
    }

    /// What the client of a holder holds in all.
    fn held_by_client(&self, n: usize) -> usize {
        let client = &self.holders[n].client;
        self.holders.iter().filter(|other| other.client == *client).map(Holder::held).sum()
    }

    /// Of the client that holds the most, the mount that holds the most.
    fn richest(&self) -> Option<usize> {
        (0..self.holders.len())
            .filter(|&n| self.holders[n].held() > 0)
            .max_by_key(|&n| (self.held_by_client(n), self.holders[n].held()))
    }

    fn richest_of(&self, client: &Arc<str>) -> Option<usize> {
        (0..self.holders.len())
            .filter(|&n| self.holders[n].client == *client && self.holders[n].held() > 0)
            .max_by_key(|&n| self.holders[n].held())
    }

    /// The oldest segment of a holder; the open one if it has no other.
    fn take_from(&mut self, n: usize) -> Option<SegmentId> {
        let holder = &mut self.holders[n];
        let segment =
            holder.full.pop_front().or_else(|| holder.open.take().map(|open| open.segment))?;
        self.set_missing(segment, 0);
        Some(segment)
    }

    /// Whether there is memory for more segments in those that are in use than is allowed.
    pub(crate) fn is_over(&self) -> bool {
        self.with_memory() > self.allowed
    }

    /// A segment that [`Self::room`] has returned is free instead.
    pub(crate) fn set_free(&mut self, segment: SegmentId) {
        self.set_missing(segment, 0);
        self.states[segment.index()] = State::Free;
        self.free.push(segment);
    }
}

impl Holder {
    fn held(&self) -> usize {
        self.full.len() + usize::from(self.open.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: MountId = MountId([1; 16]);
    const TWO: MountId = MountId([2; 16]);
    const THREE: MountId = MountId([3; 16]);

    /// Three mounts, the last two of one client.
    fn segments(total: usize) -> Segments {
        let mut segments = Segments::new(total);
        for (mount, client) in [(ONE, "one"), (TWO, "two"), (THREE, "two")] {
            segments.admit(mount, &client.into());
        }
        segments
    }

    /// Fills what is open, and one segment more. Says where there was room.
    fn fill(segments: &mut Segments, mount: MountId) -> Room {
        loop {
            let room = segments.room(mount);
            match room {
                Room::None => return room,
                Room::Open => while segments.take_slot(mount).1.is_none() {},
                Room::Free(segment) | Room::Own(segment) | Room::Other(segment) => {
                    segments.open(mount, segment, SEGMENT_BLOCKS - 2);
                    assert_eq!(segments.room(mount), Room::Open);
                    assert_eq!(segments.take_slot(mount), (segment.slot(510), None));
                    assert_eq!(segments.take_slot(mount), (segment.slot(511), Some(segment)));
                    return room;
                }
            }
        }
    }

    fn fill_times(segments: &mut Segments, mount: MountId, times: usize) {
        for _ in 0..times {
            fill(segments, mount);
        }
    }

    #[test]
    fn what_is_kept_begins_with_the_oldest_segment() {
        let mut segments = segments(2);
        let mut kept = |put: u64| {
            segments.begins(ONE, RequestId(put));
            fill(&mut segments, ONE);
            segments.oldest_put(ONE).0
        };
        assert_eq!([5, 6, 7, 8].map(&mut kept), [5, 5, 6, 7]);
        assert_eq!([3, 4, 5].map(&mut kept), [0, 3, 4], "nobody knows how old those before 3 are");
        assert_eq!(segments.oldest_put(TWO), RequestId(1), "it has nothing");
    }

    #[test]
    fn a_mount_alone_has_all_of_them_and_reuses_its_oldest() {
        let mut segments = segments(2);
        for room in [
            Room::Free(SegmentId(0)),
            Room::Free(SegmentId(1)),
            Room::Own(SegmentId(0)),
            Room::Own(SegmentId(1)),
        ] {
            assert_eq!(fill(&mut segments, ONE), room);
        }
        assert_eq!((segments.in_use(), segments.full()), (2, 2));
    }

    #[test]
    fn who_comes_later_gets_an_equal_share_and_clients_count_not_mounts() {
        let mut segments = segments(8);
        fill_times(&mut segments, ONE, 20);
        fill_times(&mut segments, TWO, 20);
        assert_eq!((segments.held(ONE), segments.held(TWO)), (4, 4));
        for mount in [THREE, ONE, TWO].repeat(20) {
            fill(&mut segments, mount);
        }
        assert_eq!(segments.held(ONE), 4);
        assert_eq!(segments.held(TWO) + segments.held(THREE), 4);
        assert!(
            segments.held(TWO).abs_diff(segments.held(THREE)) <= 1,
            "mounts of one client share, too"
        );
        assert!(!segments.admit(ONE, &"two".into()), "it is another client's");
        // What one leaves, the others may have.
        segments.dismiss(ONE);
        assert_eq!(std::iter::from_fn(|| segments.of_those_who_left()).count(), 4);
        fill_times(&mut segments, TWO, 20);
        assert_eq!(segments.held(TWO) + segments.held(THREE), 8);
        assert_eq!(fill(&mut segments, ONE), Room::None, "it is not known any more");
    }

    #[test]
    fn a_client_stays_below_its_limit_though_there_is_room() {
        let mut segments = segments(8);
        segments.limit_clients(3);
        for mount in [ONE, TWO, THREE].repeat(5) {
            assert_ne!(fill(&mut segments, mount), Room::None);
        }
        assert_eq!(segments.held(ONE), 3);
        assert_eq!(segments.held(TWO) + segments.held(THREE), 3);
    }

    #[test]
    fn what_is_in_use_beyond_what_is_allowed_comes_from_who_holds_the_most() {
        let mut segments = segments(8);
        fill_times(&mut segments, ONE, 6);
        fill_times(&mut segments, TWO, 2);
        segments.allow(3);
        assert_eq!(fill(&mut segments, TWO), Room::Other(SegmentId(0)), "no more than before");
        let given: Vec<_> = std::iter::from_fn(|| segments.excess()).collect();
        assert_eq!(given.len(), 5);
        assert_eq!((segments.held(ONE), segments.held(TWO)), (2, 1));
        segments.allow(0);
        assert_eq!(std::iter::from_fn(|| segments.excess()).count(), 3);
        assert_eq!(fill(&mut segments, ONE), Room::None);
        segments.allow(8);
        assert!(matches!(fill(&mut segments, ONE), Room::Free(_)));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Fill(u8),
        Allow(usize),
        Excess,
        Emptied(usize),
        Dismiss(u8),
    }

    proptest! {
        #[test]
        fn every_segment_is_in_one_place(ops in prop::collection::vec(
            prop_oneof![
                8 => (1..4u8).prop_map(Op::Fill),
                1 => (0..12usize).prop_map(Op::Allow),
                2 => Just(Op::Excess),
                1 => (0..10usize).prop_map(Op::Emptied),
                1 => (1..4u8).prop_map(Op::Dismiss),
            ], 0..200)
        ) {
            let mut segments = segments(10);
            for op in ops {
                let before = segments.in_use();
                match op {
                    Op::Fill(mount) => {
                        let mount = MountId([mount; 16]);
                        let held = segments.held(mount);
                        fill(&mut segments, mount);
                        prop_assert!(segments.in_use() <= before.max(segments.allowed()));
                        prop_assert!(segments.held(mount) >= held.min(1));
                    }
                    Op::Allow(allowed) => segments.allow(allowed),
                    Op::Excess => {
                        let given = segments.excess().is_some();
                        prop_assert_eq!(given, before > segments.allowed());
                    }
                    Op::Emptied(n) => segments.emptied(SegmentId::new(n)),
                    Op::Dismiss(mount) => {
                        let mount = MountId([mount; 16]);
                        segments.dismiss(mount);
                        while segments.of_those_who_left().is_some() {}
                        segments.admit(mount, &(if mount == ONE { "one" } else { "two" }).into());
                    }
                }
                let held: usize = [ONE, TWO, THREE].iter().map(|&mount| segments.held(mount)).sum();
                prop_assert_eq!(held, segments.in_use());
                let full = (0..10).filter(|&n| segments.is_full(SegmentId::new(n))).count();
                prop_assert_eq!(full, segments.full());
            }
        }
    }
}
