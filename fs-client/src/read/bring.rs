//! The long way of a miss: blocks are brought from the servers that hold them and from the source, at the same time, while
//! the reader's thread waits.

use std::io::IoSliceMut;
use std::os::fd::AsFd as _;
use std::time::Instant;

use rustix::io::Errno;

use super::{OVER_MAX, State, Want};
use crate::arena::{AlignedBuffer, Block, Empty, scatter};
use crate::block::{BLOCK_SIZE, BlockIndex, BlockKey, FileKey, Span};
use crate::filesystem::Filesystem;
use crate::handles::FileHandle;
use crate::metrics::Layer;
use crate::remote::{OnTheWay, Wanted};

/// How often a reader waits for blocks that others bring, before it reads the source itself.
const ROUNDS: usize = 4;

/// Why blocks could not be brought into the cache.
pub(super) enum Unbrought {
    /// The file is shorter than was thought.
    Shorter,
    /// The cache has no room, or others kept getting in the way.
    NoRoom,
    /// The source says so.
    Failed(Errno),
}

/// Blocks that are in the cache now.
pub(super) struct Brought {
    pub(super) blocks: Vec<Block>,
    /// From how far the slowest came.
    pub(super) layer: Layer,
    /// How many servers gave, and the source.
    pub(super) remote: usize,
    pub(super) source: usize,
}

/// A block to be read from the source, and where to.
pub(super) type Missing<'a> = (BlockIndex, &'a mut Empty);

impl Filesystem {
    /// Brings the blocks of `span` into the cache, `found` being those from its start that are
    /// there already as part of `state`.
    pub(super) fn bring(
        &self,
        handle: &FileHandle,
        mut state: State,
        span: Span,
        found: Vec<Block>,
        mut want: Want,
    ) -> std::result::Result<Brought, Unbrought> {
        let contents = &handle.inode.contents;
        let mut layer = Layer::Local;
        // Blocks that were read from the source: as it is now, and perhaps not as it was.
        let mut fresh = 0;
        let mut remote = 0;
        let mut blocks: Vec<Option<Block>> = found.into_iter().map(Some).collect();
        blocks.resize_with(span.count, || None);
        for _ in 0..ROUNDS {
            let now = contents.key();
            if now != state.file {
                // Old and new blocks are not mixed in one answer.
                state.file = now;
                (fresh, remote) = (0, 0);
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
                let blocks = blocks.into_iter().flatten().collect();
                return Ok(Brought { blocks, layer, remote, source: fresh });
            }
            let claim = self.flights.claim(file, &missing);
            // What landed since it was looked for needs no second flight.
            let here = |&&index: &&BlockIndex| self.cache.contains(BlockKey { file, index });
            let led: Vec<_> = claim.led().iter().filter(|index| !here(index)).copied().collect();
            if !led.is_empty() {
                let (brought, from_source) = self.bring_led(handle, state, &led, want)?;
                layer = layer.max(if from_source > 0 { Layer::Source } else { Layer::Remote });
                fresh += from_source;
                remote += led.len() - from_source;
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

        let mut asked = None;
        if ask {
            let keys: Vec<BlockKey> = led.iter().map(|&index| key(index)).collect();
            asked = self.remote.ask(&keys);
            since = Instant::now();
        }
        let mut from_source = 0;
        let mut read = |slots: &mut [Empty], is_missing: &dyn Fn(usize) -> bool| {
            let blocks = led.iter().copied().zip(slots).enumerate();
            let mut missing: Vec<Missing<'_>> =
                blocks.filter(|(n, _)| is_missing(*n)).map(|(_, block)| block).collect();
            let is_stored = self.read_source(handle, state.size, &mut missing)?;
            from_source += missing.len();
            self.metrics.count_bytes(Layer::Source, missing.len() * BLOCK_SIZE);
            Ok::<bool, Unbrought>(is_stored)
        };
        match asked {
            // In how many pieces it is read is the source's business: a server would have given all of it at once.
            None => {
                if read(&mut slots, &|_| true)? {
                    self.remote.source_took(led.len(), since);
                }
            }
            Some(asked) => {
                // What nobody brings, while servers answer.
                let comes = asked.blocks(led.len());
                read(&mut slots, &|n| !comes[n])?;
                let arrived = self.collect(asked, state.file, led, &mut slots);
                read(&mut slots, &|n| comes[n] && !arrived[n])?;
            }
        }

        let blocks: Vec<Block> = slots.into_iter().map(Empty::publish).collect();
        for ((&index, block), seen) in led.iter().zip(&blocks).zip(seen) {
            if let Some(seen) = seen {
                self.cache.insert(key(index), block.clone(), seen, how);
            }
        }
        self.keep_if_pinned(&handle.inode, led.iter().map(|&index| key(index)));
        Ok((blocks, from_source))
    }

    /// Fills those slots whose blocks a server gives in time, and says which.
    fn collect(
        &self,
        asked: OnTheWay,
        file: FileKey,
        led: &[BlockIndex],
        slots: &mut [Empty],
    ) -> Vec<bool> {
        let keys = led.iter().map(|&index| BlockKey { file, index });
        let mut wanted: Vec<Wanted<'_>> =
            keys.zip(slots).map(|(key, slot)| Wanted::new(key, slot.bytes_mut())).collect();
        self.remote.collect(asked, &mut wanted);
        let arrived: Vec<bool> = wanted.iter().map(|wanted| wanted.arrived).collect();
        let hits = arrived.iter().filter(|&&here| here).count();
        self.metrics.count_bytes(Layer::Remote, hits * BLOCK_SIZE);
        arrived
    }

    /// Reads blocks of the source, in sorted order, and over those between them that are few. Says whether what that took says
    /// anything about the source: not if they lie in the kernel's page cache.
    pub(super) fn read_source(
        &self,
        handle: &FileHandle,
        size: u64,
        missing: &mut [Missing<'_>],
    ) -> std::result::Result<bool, Unbrought> {
        let mut is_stored = true;
        let near = |a: &Missing<'_>, b: &Missing<'_>| is_near(a.0, b.0);
        for part in missing.chunk_by_mut(near) {
            is_stored &= self.read_at_once(handle, size, part)?;
        }
        Ok(is_stored)
    }

    fn read_at_once(
        &self,
        handle: &FileHandle,
        size: u64,
        part: &mut [Missing<'_>],
    ) -> std::result::Result<bool, Unbrought> {
        let file = self.direct(handle).map_err(Unbrought::Failed)?;
        let (first, last) = (part[0].0, part[part.len() - 1].0);
        let bytes = Span { first, count: (last.0 - first.0 + 1) as usize }.bytes();
        let between = (bytes.end - bytes.start) as usize / BLOCK_SIZE - part.len();
        let mut over = match between {
            0 => None,
            _ => Some(AlignedBuffer::new(between).map_err(|_| Unbrought::NoRoom)?),
        };
        let over = over.as_mut().map_or(&mut [][..], AlignedBuffer::bytes_mut);
        let mut buffers = buffers_for(part, over);
        let got = self.staging.read(file, &mut buffers, bytes.start).map_err(Unbrought::Failed)?;
        let expected = size.min(bytes.end).saturating_sub(bytes.start);
        // Zeros must stand for what lies beyond the end, not for what was cut off.
        if (got.bytes as u64) < expected {
            return Err(Unbrought::Shorter);
        }
        Ok(got.is_stored)
    }
}

/// Whether two blocks are read of the source at once, with those between them.
fn is_near(a: BlockIndex, b: BlockIndex) -> bool {
    b.0 - a.0 <= OVER_MAX + 1
}

/// Where the blocks from the first to the last of `part` go: those into their slots, the others into `over`.
fn buffers_for<'a>(part: &'a mut [Missing<'_>], mut over: &'a mut [u8]) -> Vec<IoSliceMut<'a>> {
    let mut buffers = Vec::new();
    let mut next = part[0].0;
    for run in part.chunk_by_mut(|a, b| a.0.0 + 1 == b.0.0) {
        let (first, count) = (run[0].0, run.len());
        let between = (first.0 - next.0) as usize * BLOCK_SIZE;
        if let Some(others) = over.split_off_mut(..between).filter(|others| !others.is_empty()) {
            buffers.push(IoSliceMut::new(others));
        }
        buffers.extend(scatter(run.iter_mut().map(|(_, slot)| &mut **slot)));
        next = first.plus(count);
    }
    buffers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_read_over_blocks_that_are_here() {
        let blocks = [7, 8, 10, 27, 45, 46].map(BlockIndex);
        let parts: Vec<usize> = blocks.chunk_by(|&a, &b| is_near(a, b)).map(<[_]>::len).collect();
        assert_eq!(parts, [4, 2], "16 between, then 17");
    }

    #[test]
    fn each_block_goes_where_it_belongs() {
        let arena = crate::arena::Arena::new(8, 8).unwrap();
        let mut slots = arena.take(4);
        let mut over = vec![0; 4 * BLOCK_SIZE];
        let mut part: Vec<Missing<'_>> =
            [5, 6, 8, 12].map(BlockIndex).into_iter().zip(&mut slots).collect();
        let mut buffers = buffers_for(&mut part, &mut over);
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
