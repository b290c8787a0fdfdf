//! The short way of a miss: a few blocks that one server holds.
//!
//! Nobody waits. The thread that took the request asks the server and takes the next request; when the blocks
//! come, the tier's thread puts them into the cache and answers the reader. A thread that waited would have to be
//! woken first, which costs more than the answer. If they do not come, the pool reads the source.

use std::sync::Arc;

use super::{Miss, ReadReply, answer};
use crate::arena::{Block, Empty};
use crate::block::{BLOCK_SIZE, BlockIndex, BlockKey, Span};
use crate::epochs::Seen;
use crate::filesystem::Filesystem;
use crate::local::{Claim, Use};
use crate::metrics::Layer;
use crate::remote::Held;

/// More blocks keep the tier's thread too long from others, and a reader of more waits for the wire rather than
/// for a thread.
const BLOCKS_MAX: usize = 8;

/// What is known of the blocks while they are on their way.
struct Fetch {
    /// The read's blocks, but for those that come.
    blocks: Vec<Option<Block>>,
    missing: Vec<BlockIndex>,
    claim: Claim,
    /// From before it was looked up who holds them: what a write overtakes from then on is not cached.
    seen: Vec<Option<Seen>>,
}

impl Filesystem {
    /// Asks for what a read misses, if that is a few blocks that one server holds and nobody else is bringing. Gives
    /// back what takes the long way.
    pub(super) fn fetch<R: ReadReply>(
        self: &Arc<Self>,
        miss: Miss,
        reply: R,
    ) -> Result<(), (Miss, R)> {
        let Some((fetch, held, slots)) = self.plan(&miss) else { return Err((miss, reply)) };
        self.note_access(&miss.handle);
        let this = self.clone();
        self.remote.fetch_then(held, slots, move |slots| match slots {
            Some(slots) => this.land(miss, reply, fetch, slots),
            None => {
                // Lands the flight: nobody is to wait for it while its reader waits for the pool.
                drop(fetch);
                this.read_source_instead(miss, reply);
            }
        });
        Ok(())
    }

    fn plan(&self, miss: &Miss) -> Option<(Fetch, Held, Vec<Empty>)> {
        let file = miss.state.file;
        let span = Span::of(miss.offset, miss.len);
        if miss.how == Use::Stream || span.count > BLOCKS_MAX {
            return None;
        }
        let mut blocks: Vec<_> = miss.found.iter().cloned().map(Some).collect();
        let behind = span.blocks().skip(blocks.len());
        blocks.extend(behind.map(|index| self.cache.get(BlockKey { file, index }, miss.how)));
        let missing = span.blocks().zip(&blocks).filter(|(_, block)| block.is_none());
        let missing: Vec<BlockIndex> = missing.map(|(index, _)| index).collect();
        if missing.is_empty() {
            return None;
        }
        let keys = || missing.iter().map(|&index| BlockKey { file, index });
        // First of all: what is known to be lent from here on is as it was then.
        let seen = keys().map(|key| self.cache.observe(key)).collect();
        let held = self.remote.held_by_one(file, &missing)?;
        let claim = self.flights.claim(file, &missing);
        // Others bring some of them, or have just done so.
        if claim.led().len() < missing.len() || keys().any(|key| self.cache.contains(key)) {
            return None;
        }
        let slots = self.cache.room(BlockKey { file, index: missing[0] }, missing.len());
        let fetch = Fetch { blocks, missing, claim, seen };
        (slots.len() == fetch.missing.len()).then_some((fetch, held, slots))
    }

    /// Puts what has come into the cache and answers.
    fn land<R: ReadReply>(self: &Arc<Self>, miss: Miss, reply: R, fetch: Fetch, slots: Vec<Empty>) {
        let Fetch { mut blocks, missing, claim, seen } = fetch;
        let brought = missing.len();
        let (file, first) = (miss.state.file, Span::of(miss.offset, miss.len).first);
        for ((index, slot), seen) in missing.into_iter().zip(slots).zip(seen) {
            let block = slot.publish();
            if let Some(seen) = seen {
                self.cache.insert(BlockKey { file, index }, block.clone(), seen, miss.how);
            }
            blocks[(index.0 - first.0) as usize] = Some(block);
        }
        drop(claim);
        let contents = &miss.handle.inode.contents;
        if contents.key() != file || contents.size() < miss.state.size {
            return self.read_source_instead(miss, reply);
        }
        let blocks: Vec<Block> = blocks.into_iter().flatten().collect();
        let Miss { offset, len, began, .. } = miss;
        // Let go of before the answer, upon which the reader may close it: the last to do so closes the source's file,
        // which may wait, and must not be this thread.
        drop(miss);
        answer(reply, &blocks, offset, len);
        let cached = (blocks.len() - brought) * BLOCK_SIZE;
        self.metrics.count_bytes(Layer::Local, cached.min(len));
        self.metrics.count_bytes(Layer::Remote, brought * BLOCK_SIZE);
        self.metrics.count_read(Layer::Remote, began.elapsed());
    }

    fn read_source_instead<R: ReadReply>(self: &Arc<Self>, miss: Miss, reply: R) {
        let this = self.clone();
        let miss = Miss { ask: false, ..miss };
        self.workers.hand_over_at_once(move || this.serve_miss(miss, None, reply));
    }
}
