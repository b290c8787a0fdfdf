//! The way of a read.
//!
//! 1. All of it is in the local cache: answered here, on the thread that took the request.
//! 2. A few missing blocks that one server holds: it is asked, and the answer is passed on when it
//!    comes (`read/fetch.rs`).
//! 3. Else the missing blocks are brought in: from the servers that hold them, and what they
//!    cannot give, from the source. One reader brings a block, others who miss it wait.
//! 4. Where the cache has no room, the source is read past it.
//!
//! A sequential reader has the blocks that follow brought in ahead of it.

mod fetch;

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use crate::arena::{AlignedBuffer, Block, Empty, gather, scatter};
use crate::block::{BLOCK_SIZE, BlockIndex, BlockKey, FileKey, Span, runs};
use crate::filesystem::{Filesystem, Result};
use crate::handles::{FileHandle, HandleId};
use crate::local::Use;
use crate::metrics::Layer;
use crate::remote::Wanted;
use crate::workers::Seat;

/// Takes the answer to a read, on whatever thread it is ready.
pub(crate) trait ReadReply: Send + 'static {
    /// The bytes, in parts that follow each other. At most [`PARTS_MAX`].
    fn parts(self, parts: &[IoSlice<'_>]);
    fn error(self, errno: Errno);
}

/// The most parts of an answer: the blocks of 1 MiB that does not begin with a block.
pub(crate) const PARTS_MAX: usize = 257;

/// How often a reader waits for blocks that others bring, before it reads the source itself.
const ROUNDS: usize = 4;

/// So many blocks in a row that are here already are read once more with those round them: on any disk that takes less than a
/// further read.
pub(crate) const OVER_MAX: u64 = 16;

/// A read that the cache alone could not answer.
struct Miss {
    handle: Arc<FileHandle>,
    offset: u64,
    len: usize,
    began: Instant,
    state: State,
    /// The blocks from its start that were in the cache.
    found: Vec<Block>,
    want: Want,
}

/// How blocks are wanted.
#[derive(Clone, Copy)]
struct Want {
    how: Use,
    /// Whether servers are to be asked: not if one was, in vain, nor if the source is faster.
    ask: bool,
    /// Since when they are wanted of the source: what it takes is measured from here.
    since: Instant,
}

/// The state of a file's contents that is read.
#[derive(Clone, Copy)]
struct State {
    file: FileKey,
    /// Its length. Where the source gives less, it has been cut since.
    size: u64,
}

/// Why blocks could not be brought into the cache.
enum Unbrought {
    /// The file is shorter than was thought.
    Shorter,
    /// The cache has no room, or others kept getting in the way.
    NoRoom,
    /// The source says so.
    Failed(Errno),
}

impl Filesystem {
    /// Answers a read of `len` bytes at `offset`.
    pub(crate) fn read(
        self: &Arc<Self>,
        handle: HandleId,
        offset: u64,
        len: usize,
        reply: impl ReadReply,
    ) {
        let began = Instant::now();
        let Some(handle) = self.handles.file(handle) else { return reply.error(Errno::BADF) };
        let (state, len) = match self.readable(&handle, offset, len) {
            Ok(readable) => readable,
            Err(error) => return reply.error(error),
        };
        if len == 0 {
            return reply.parts(&[]);
        }
        let window = self.settings.readahead_blocks;
        let ahead = handle.sequence.note(offset, len, state.size, window);

        let span = Span::of(offset, len);
        if ahead.how == Use::Random {
            self.demand.note(state.file, span);
        }
        let mut found = Vec::with_capacity(span.count);
        self.cache.get_leading(state.file, span, ahead.how, &mut found);
        if found.len() == span.count {
            self.note_access(&handle);
            answer(reply, &found, offset, len);
            self.metrics.count_read(Layer::Local, began.elapsed());
            self.metrics.count_bytes(Layer::Local, len);
            if let Some(span) = ahead.bring {
                self.bring_ahead(&handle, span);
            }
            return;
        }

        handle.sequence.missed();
        if let Some(span) = ahead.bring {
            self.bring_ahead(&handle, span);
        }
        let want = Want { how: ahead.how, ask: true, since: began };
        let miss = Miss { handle, offset, len, began, state, found, want };
        let Err((miss, reply)) = self.fetch(miss, reply) else { return };
        match self.workers.seat() {
            Some(seat) => self.serve_miss(miss, Some(seat), reply),
            None => {
                let this = self.clone();
                self.workers.hand_over(0, move || this.serve_miss(miss, None, reply));
            }
        }
    }

    /// How many of `len` bytes at `offset` there are, and in which state of the contents.
    fn readable(&self, handle: &FileHandle, offset: u64, len: usize) -> Result<(State, usize)> {
        if handle.reads.is_none() {
            return Err(Errno::BADF);
        }
        let contents = &handle.inode.contents;
        let node = handle.node.as_fd();
        if offset.saturating_add(len as u64) > contents.size() {
            // Somebody else may have made it longer.
            contents.revalidate(node)?;
        } else {
            contents.revalidate_after(self.settings.timeouts.attr(), node)?;
        }
        let (file, size) = contents.state();
        let left = size.saturating_sub(offset);
        let state = State { file, size };
        Ok((state, len.min(usize::try_from(left).unwrap_or(usize::MAX))))
    }

    /// What came from a cache, the source has not seen being read.
    fn note_access(&self, handle: &FileHandle) {
        if let Ok(file) = self.direct(handle) {
            file.note_access(handle.inode.contents.size());
        }
    }

    /// Brings what is missing and answers. The seat is given up before the answer, upon which the
    /// next request may come.
    fn serve_miss(&self, miss: Miss, seat: Option<Seat<'_>>, reply: impl ReadReply) {
        let Miss { handle, offset, mut len, began, state, found, want } = miss;
        let span = Span::of(offset, len);
        let cached_bytes = found.len() * BLOCK_SIZE;
        let layer = match self.bring(&handle, state, span, found, want) {
            Ok((blocks, layer)) => {
                self.note_access(&handle);
                drop(seat);
                answer(reply, &blocks, offset, len);
                layer
            }
            Err(Unbrought::Failed(error)) => return reply.error(error),
            Err(reason) => {
                if matches!(reason, Unbrought::Shorter) {
                    len = match self.readable(&handle, offset, len) {
                        Ok((_, len)) => len,
                        Err(error) => return reply.error(error),
                    };
                }
                self.read_past_cache(&handle, offset, len, reply);
                self.metrics.count_bytes(Layer::Source, len);
                Layer::Source
            }
        };
        self.metrics.count_bytes(Layer::Local, cached_bytes.min(len));
        self.metrics.count_read(layer, began.elapsed());
    }

    /// Brings the blocks of `span` into the cache, `found` being those from its start that are
    /// there already as part of `state`, and says from how far the slowest came.
    fn bring(
        &self,
        handle: &FileHandle,
        mut state: State,
        span: Span,
        found: Vec<Block>,
        mut want: Want,
    ) -> std::result::Result<(Vec<Block>, Layer), Unbrought> {
        let contents = &handle.inode.contents;
        let mut layer = Layer::Local;
        // Blocks that were read from the source: as it is now, and perhaps not as it was.
        let mut fresh = 0;
        let mut blocks: Vec<Option<Block>> = found.into_iter().map(Some).collect();
        blocks.resize_with(span.count, || None);
        for _ in 0..ROUNDS {
            let now = contents.key();
            if now != state.file {
                // Old and new blocks are not mixed in one answer.
                state.file = now;
                fresh = 0;
                blocks.fill(None);
            }
            let file = now;
            let mut missing = Vec::with_capacity(span.count);
            for (place, index) in blocks.iter_mut().zip(span.blocks()) {
                if place.is_none() {
                    *place = self.cache.get(BlockKey { file, index }, want.how);
                }
                if place.is_none() {
                    missing.push(index);
                }
            }
            if missing.is_empty() {
                // New blocks must not lie beside old ones in an answer, nor in the cache.
                if fresh > 0 {
                    contents.revalidate(handle.node.as_fd()).map_err(Unbrought::Failed)?;
                    if contents.key() != file {
                        continue;
                    }
                }
                // In a new state the blocks may end before the answer would.
                if contents.size() < state.size {
                    return Err(Unbrought::Shorter);
                }
                return Ok((blocks.into_iter().flatten().collect(), layer));
            }
            let claim = self.flights.claim(file, &missing);
            // What landed since it was looked for needs no second flight.
            let here = |&&index: &&BlockIndex| self.cache.contains(BlockKey { file, index });
            let led: Vec<_> = claim.led().iter().filter(|index| !here(index)).copied().collect();
            if !led.is_empty() {
                let (brought, from_source) = self.bring_led(handle, state, &led, want)?;
                layer = layer.max(if from_source > 0 { Layer::Source } else { Layer::Remote });
                fresh += from_source;
                for (&index, block) in led.iter().zip(brought) {
                    blocks[(index.0 - span.first.0) as usize] = Some(block);
                }
            } else {
                // Brought by somebody else just now, from beyond the cache.
                layer = layer.max(Layer::Source);
            }
            claim.wait_for_others();
            // Who waited for a flight that brought nothing does not wait for a server as well.
            want = Want { ask: false, since: Instant::now(), ..want };
        }
        // Others keep getting in the way: the source is read for all of it.
        Err(Unbrought::NoRoom)
    }

    /// Brings blocks that nobody else is bringing: in sorted order, and in that order returned.
    /// Says how many of them the source gave.
    fn bring_led(
        &self,
        handle: &FileHandle,
        state: State,
        led: &[BlockIndex],
        Want { how, ask, mut since }: Want,
    ) -> std::result::Result<(Vec<Block>, usize), Unbrought> {
        let key = |index: BlockIndex| BlockKey { file: state.file, index };
        // Before anything is read: what a write overtakes from here on is not cached.
        let seen: Vec<_> = led.iter().map(|&index| self.cache.observe(key(index))).collect();
        let mut slots = self.cache.room(key(led[0]), led.len());
        if slots.len() < led.len() {
            return Err(Unbrought::NoRoom);
        }

        let arrived = match ask {
            true => self.ask_servers(state.file, led, &mut slots),
            false => vec![false; led.len()],
        };
        if ask {
            since = Instant::now();
        }
        // What has arrived is read over, too, where that is little. Mostly nothing has.
        let (mut late, mut missing, mut here) = (led, slots, Vec::new());
        let mut others = Vec::new();
        if arrived.contains(&true) {
            let all = std::mem::take(&mut missing);
            for ((&index, slot), &has_arrived) in led.iter().zip(all).zip(&arrived) {
                if has_arrived {
                    here.push(slot);
                } else {
                    others.push(index);
                    missing.push(slot);
                }
            }
            late = &others;
        }
        let (from_source, mut counts) = (late.len(), true);
        let mut at = 0;
        while at < late.len() {
            let count = at_once(&late[at..]);
            let (part, slots) = (&late[at..at + count], &mut missing[at..at + count]);
            counts &= self.read_source(handle, state.size, part, slots)?;
            self.metrics.count_bytes(Layer::Source, count * BLOCK_SIZE);
            at += count;
        }
        // In how many pieces it was read is the source's business: a server would have given all of it at once.
        if counts && from_source == led.len() {
            self.remote.source_took(led.len(), since);
        }

        let (mut here, mut missing) = (here.into_iter(), missing.into_iter());
        let in_order = arrived.iter().map(|&has_arrived| {
            let slot = if has_arrived { here.next() } else { missing.next() };
            slot.expect("a slot for each block").publish()
        });
        let blocks: Vec<Block> = in_order.collect();
        for ((&index, block), seen) in led.iter().zip(&blocks).zip(seen) {
            if let Some(seen) = seen {
                self.cache.insert(key(index), block.clone(), seen, how);
            }
        }
        Ok((blocks, from_source))
    }

    /// Fills those slots whose blocks a server gives in time, and says which.
    fn ask_servers(&self, file: FileKey, led: &[BlockIndex], slots: &mut [Empty]) -> Vec<bool> {
        let mut wanted: Vec<Wanted<'_>> = led
            .iter()
            .zip(slots)
            .map(|(&index, slot)| Wanted::new(BlockKey { file, index }, slot.bytes_mut()))
            .collect();
        self.remote.fetch(&mut wanted);
        let arrived: Vec<bool> = wanted.iter().map(|wanted| wanted.arrived).collect();
        let hits = arrived.iter().filter(|&&here| here).count();
        self.metrics.count_bytes(Layer::Remote, hits * BLOCK_SIZE);
        arrived
    }

    /// Reads blocks of the source, and over those between them. Says whether what that took says anything about the source:
    /// not if they lie in the kernel's page cache.
    fn read_source(
        &self,
        handle: &FileHandle,
        size: u64,
        led: &[BlockIndex],
        slots: &mut [Empty],
    ) -> std::result::Result<bool, Unbrought> {
        let file = self.direct(handle).map_err(Unbrought::Failed)?;
        let (first, last) = (led[0], led[led.len() - 1]);
        let bytes = Span { first, count: (last.0 - first.0 + 1) as usize }.bytes();
        let between = (bytes.end - bytes.start) as usize / BLOCK_SIZE - led.len();
        let mut over = match between {
            0 => None,
            _ => Some(AlignedBuffer::new(between).map_err(|_| Unbrought::NoRoom)?),
        };
        let over = over.as_mut().map_or(&mut [][..], AlignedBuffer::bytes_mut);
        let mut buffers = buffers_for(led, slots, over);
        let got = file.read_blocks(&mut buffers, bytes.start).map_err(Unbrought::Failed)?;
        let expected = size.min(bytes.end).saturating_sub(bytes.start);
        // Zeros must stand for what lies beyond the end, not for what was cut off.
        if (got.bytes as u64) < expected {
            return Err(Unbrought::Shorter);
        }
        Ok(got.is_stored)
    }

    /// Answers from the source without keeping anything.
    fn read_past_cache(&self, handle: &FileHandle, offset: u64, len: usize, reply: impl ReadReply) {
        let span = Span::of(offset, len);
        let result = (|| {
            let file = self.direct(handle)?;
            let mut buffer = AlignedBuffer::new(span.count).map_err(|_| Errno::NOMEM)?;
            let start = span.bytes().start;
            let whole = &mut buffer.bytes_mut()[..span.count * BLOCK_SIZE];
            let got = file.read_blocks(&mut [IoSliceMut::new(whole)], start)?;
            let from = (offset - start) as usize;
            Ok((buffer, from, got.bytes.clamp(from, from + len)))
        })();
        match result {
            Ok((mut buffer, from, to)) => {
                reply.parts(&[IoSlice::new(&buffer.bytes_mut()[from..to])]);
            }
            Err(error) => reply.error(error),
        }
    }

    /// Has the pool bring in blocks that a sequential reader will ask for next.
    fn bring_ahead(self: &Arc<Self>, handle: &Arc<FileHandle>, span: Span) {
        let (this, handle) = (self.clone(), handle.clone());
        self.workers.try_hand_over(move || {
            let (file, size) = handle.inode.contents.state();
            let state = State { file, size };
            // Nobody waits for it; a reader that comes for it meets the error itself.
            let want = Want { how: Use::Stream, ask: true, since: Instant::now() };
            let brought = this.bring(&handle, state, span, Vec::new(), want);
            if let Ok((_, Layer::Local)) = brought {
                handle.sequence.all_here();
            }
        });
    }
}

/// How many of these blocks, from the first on, the source is asked for at once.
fn at_once(led: &[BlockIndex]) -> usize {
    let is_near = |pair: &&[BlockIndex]| pair[1].0 - pair[0].0 <= OVER_MAX + 1;
    1 + led.windows(2).take_while(is_near).count()
}

/// Where the blocks from the first to the last of `led` go: those into `slots`, the others into `over`.
fn buffers_for<'a>(
    led: &[BlockIndex],
    mut slots: &'a mut [Empty],
    mut over: &'a mut [u8],
) -> Vec<IoSliceMut<'a>> {
    let mut buffers = Vec::new();
    let mut next = led[0];
    for run in runs(led) {
        let between = (run.first.0 - next.0) as usize * BLOCK_SIZE;
        if let Some(others) = over.split_off_mut(..between).filter(|others| !others.is_empty()) {
            buffers.push(IoSliceMut::new(others));
        }
        let here = slots.split_off_mut(..run.count).expect("a slot for each block");
        buffers.extend(scatter(here));
        next = run.first.plus(run.count);
    }
    buffers
}

/// Replies with `len` bytes from `offset`, which lie in `blocks`, straight from their slots.
fn answer(reply: impl ReadReply, blocks: &[Block], offset: u64, len: usize) {
    let skip = (offset % BLOCK_SIZE as u64) as usize;
    if let [block] = blocks {
        return reply.parts(&[IoSlice::new(&block[skip..skip + len])]);
    }
    let parts = gather(blocks, skip..skip + len);
    reply.parts(&parts);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(numbers: &[u64]) -> Vec<BlockIndex> {
        numbers.iter().map(|&number| BlockIndex(number)).collect()
    }

    #[test]
    fn the_source_is_read_over_blocks_that_are_here() {
        assert_eq!(at_once(&blocks(&[7])), 1);
        assert_eq!(at_once(&blocks(&[7, 8, 10, 27, 45, 46])), 4, "16 between, then 17");
    }

    #[test]
    fn each_block_goes_where_it_belongs() {
        let arena = crate::arena::Arena::new(8).unwrap();
        let mut slots = arena.take(4);
        let mut over = vec![0; 4 * BLOCK_SIZE];
        let mut buffers = buffers_for(&blocks(&[5, 6, 8, 12]), &mut slots, &mut over);
        let lengths: Vec<usize> = buffers.iter().map(|buffer| buffer.len() / BLOCK_SIZE).collect();
        assert_eq!(lengths, [2, 1, 1, 3, 1]);
        // Each block is filled with its number.
        let mut number = 5;
        for buffer in &mut buffers {
            for block in buffer.chunks_mut(BLOCK_SIZE) {
                block.fill(number);
                number += 1;
            }
        }
        drop(buffers);
        let found: Vec<u8> = slots.iter_mut().map(|slot| slot.bytes_mut()[0]).collect();
        assert_eq!(found, [5, 6, 8, 12]);
    }
}
