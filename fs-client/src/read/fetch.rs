//! The short way of a miss: a short read whose missing blocks one server holds.
//!
//! Nobody waits. The thread that took the request asks the server and takes the next request; when the blocks
//! come, the tier's thread puts them into the cache and answers the reader. A thread that waited would have to be
//! woken first, which costs more than the answer. If they are late, the pool reads the source as well, and the first to have
//! the blocks answers; if they do not come, the pool reads the source.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;

use super::bring::Missing;
use super::{Miss, ReadReply, State, Want, answer};
use crate::arena::{Block, Empty};
use crate::block::{BLOCK_SIZE, BlockIndex, BlockKey, Span};
use crate::epochs::Seen;
use crate::filesystem::Filesystem;
use crate::handles::FileHandle;
use crate::local::{Claim, Use};
use crate::metrics::Layer;
use crate::pace::SHORT_BLOCKS;
use crate::remote::{Held, Outcome, Reader, SourceRead, WayTo};

/// A read whose missing blocks are on their way. A longer one would keep the tier's thread too long from others, and its
/// reader waits for the wire rather than for a thread.
struct Fetch<R> {
    filesystem: Arc<Filesystem>,
    miss: Miss,
    reply: R,
    /// The read's blocks, but for those that come.
    blocks: Vec<Option<Block>>,
    missing: Vec<BlockIndex>,
    /// None when it was given up.
    claim: Option<Claim>,
    /// From before it was looked up who holds them: what a write overtakes from then on is not cached.
    seen: Vec<Option<Seen>>,
}

/// What is decided about a miss before anybody is asked.
struct Plan {
    held: Held,
    slots: Vec<Empty>,
    blocks: Vec<Option<Block>>,
    missing: Vec<BlockIndex>,
    claim: Claim,
    seen: Vec<Option<Seen>>,
}

impl Filesystem {
    /// Asks for what a read misses, if that is a few blocks that one server holds and nobody else is bringing. Gives
    /// back what takes the long way.
    pub(super) fn fetch<R: ReadReply>(
        self: &Arc<Self>,
        mut miss: Miss,
        reply: R,
    ) -> Result<(), (Miss, R)> {
        let Some(plan) = self.plan(&mut miss) else { return Err((miss, reply)) };
        let Plan { held, slots, blocks, missing, claim, seen } = plan;
        self.note_access(&miss.handle);
        if held.looks {
            self.look(&miss, &missing);
        }
        let filesystem = self.clone();
        let claim = Some(claim);
        let fetch = Fetch { filesystem, miss, reply, blocks, missing, claim, seen };
        self.remote.fetch_for(held, slots, fetch);
        Ok(())
    }

    fn plan(&self, miss: &mut Miss) -> Option<Plan> {
        let file = miss.state.file;
        let span = Span::of(miss.offset, miss.len);
        if miss.want.how == Use::Stream || span.count > SHORT_BLOCKS {
            return None;
        }
        let mut blocks: Vec<_> = miss.found.iter().cloned().map(Some).collect();
        let behind = span.blocks().skip(blocks.len());
        blocks.extend(behind.map(|index| self.cache.get(BlockKey { file, index }, miss.want.how)));
        let missing = span.blocks().zip(&blocks).filter(|(_, block)| block.is_none());
        let missing: Vec<BlockIndex> = missing.map(|(index, _)| index).collect();
        if missing.is_empty() {
            return None;
        }
        let keys = || missing.iter().map(|&index| BlockKey { file, index });
        // First of all: what is known to be lent from here on is as it was then.
        let seen = keys().map(|key| self.cache.observe(key)).collect();
        let held = match self.remote.way_to(file, &missing) {
            WayTo::Server(held) => held,
            WayTo::Source => {
                miss.want.ask = false;
                return None;
            }
            WayTo::Nobody => return None,
        };
        let claim = self.flights.claim(file, &missing);
        // Others bring some of them, or have just done so.
        if claim.led().len() < missing.len() || keys().any(|key| self.cache.contains(key)) {
            return None;
        }
        let slots = self.cache.room(BlockKey { file, index: missing[0] }, missing.len());
        let is_room = slots.len() == missing.len();
        is_room.then_some(Plan { held, slots, blocks, missing, claim, seen })
    }

    /// Reads blocks that a server brings from the source as well, only to see what it takes.
    fn look(self: &Arc<Self>, miss: &Miss, missing: &[BlockIndex]) {
        let beside = Beside::new(self, miss, missing);
        self.workers.try_hand_over(move || drop(beside.read()));
    }

    fn read_source_instead<R: ReadReply>(self: &Arc<Self>, miss: Miss, reply: R) {
        let this = self.clone();
        // What the server has taken is not the source's doing.
        let want = Want { ask: false, since: Instant::now(), ..miss.want };
        let miss = Miss { want, ..miss };
        self.workers.hand_over_at_once(move || this.serve_miss(miss, None, reply));
    }
}

impl<R: ReadReply> Reader for Fetch<R> {
    fn told(self, outcome: Outcome) {
        match outcome {
            Outcome::Server(slots) => self.land(slots, Layer::Remote),
            Outcome::Source(slots) => self.land(slots, Layer::Source),
            Outcome::Nothing => {
                let Self { filesystem, miss, reply, claim, .. } = self;
                // Lands the flight: nobody is to wait for it while its reader waits for the pool.
                drop(claim);
                filesystem.read_source_instead(miss, reply);
            }
        }
    }

    fn source_read(&self) -> SourceRead {
        let beside = Beside::new(&self.filesystem, &self.miss, &self.missing);
        let filesystem = self.filesystem.clone();
        Box::new(move |hedge| {
            filesystem.workers.hand_over_at_once(move || {
                if let Some(slots) = beside.read() {
                    hedge.tell(slots);
                }
            });
        })
    }

    fn given_up(&mut self) {
        self.claim = None;
    }
}

impl<R: ReadReply> Fetch<R> {
    /// Puts what has come into the cache and answers.
    fn land(self, slots: Vec<Empty>, layer: Layer) {
        let Self { filesystem, miss, reply, mut blocks, missing, claim, seen } = self;
        let brought = missing.len();
        let (file, first) = (miss.state.file, Span::of(miss.offset, miss.len).first);
        for ((index, slot), seen) in missing.into_iter().zip(slots).zip(seen) {
            let block = slot.publish();
            if let Some(seen) = seen {
                filesystem.cache.insert(
                    BlockKey { file, index },
                    block.clone(),
                    seen,
                    miss.want.how,
                );
            }
            blocks[(index.0 - first.0) as usize] = Some(block);
        }
        drop(claim);
        let span = Span::of(miss.offset, miss.len);
        filesystem.keep_if_pinned(&miss.handle.inode, span.keys(file));
        let contents = &miss.handle.inode.contents;
        // What the source gave is as it is now, and must not lie beside older blocks. A server's is known to be of the
        // state that was asked for, and the tier's thread must not wait.
        let is_sure =
            layer == Layer::Remote || contents.revalidate(miss.handle.node.as_fd()).is_ok();
        if !is_sure || contents.key() != file || contents.size() < miss.state.size {
            return filesystem.read_source_instead(miss, reply);
        }
        let blocks: Vec<Block> = blocks.into_iter().flatten().collect();
        let Miss { offset, len, began, .. } = miss;
        filesystem.profiles.note(&miss.handle, layer, len);
        // Let go of before the answer, upon which the reader may close it: the last to do so closes the source's file,
        // which may wait, and must not be this thread.
        drop(miss);
        answer(reply, &blocks, offset, len);
        let cached = (blocks.len() - brought) * BLOCK_SIZE;
        let metrics = &filesystem.metrics;
        metrics.count_bytes(Layer::Local, cached.min(len));
        metrics.count_bytes(layer, brought * BLOCK_SIZE);
        metrics.count_read(layer, began.elapsed());
    }
}

/// Blocks to be read from the source beside a server's answer.
struct Beside {
    filesystem: Arc<Filesystem>,
    handle: Arc<FileHandle>,
    state: State,
    missing: Vec<BlockIndex>,
    since: Instant,
}

impl Beside {
    fn new(filesystem: &Arc<Filesystem>, miss: &Miss, missing: &[BlockIndex]) -> Self {
        Self {
            filesystem: filesystem.clone(),
            handle: miss.handle.clone(),
            state: miss.state,
            missing: missing.to_vec(),
            since: Instant::now(),
        }
    }

    /// The blocks, if there is room for them and the source gives them all.
    fn read(self) -> Option<Vec<Empty>> {
        let Self { filesystem, handle, state, missing, since } = self;
        let key = BlockKey { file: state.file, index: missing[0] };
        let mut slots = filesystem.cache.room(key, missing.len());
        if slots.len() < missing.len() {
            return None;
        }
        let mut all: Vec<Missing<'_>> = missing.iter().copied().zip(&mut slots).collect();
        if filesystem.read_source(&handle, state.size, &mut all).ok()? {
            filesystem.remote.source_took(missing.len(), since);
        }
        Some(slots)
    }
}
