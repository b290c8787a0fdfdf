//! From the queue of offered blocks to frames for servers.

use std::sync::atomic::Ordering::Relaxed;

use bytes::{Bytes, BytesMut};
use rampool_protocol::block::PutEntry;
use rampool_protocol::frame::{HEADER_SIZE, Header, RUN_BLOCKS_USUAL, RequestId};
use tokio::sync::mpsc;
use zerocopy::FromBytes as _;

use super::lent::{Lent, ServerIndex};
use super::placement;
use super::{Offer, Shared};
use crate::block::BlockKey;
use crate::epochs::Seen;

/// Sealed blocks for one server, one at least, and what must be known of them when it answers.
pub(super) struct PutFrame {
    entries: BytesMut,
    pub(super) blocks: Vec<SentBlock>,
}

/// A block that was sent, until the server says what became of it.
pub(super) struct SentBlock {
    key: BlockKey,
    lent: Lent,
    seen: Seen,
}

/// Where few blocks are offered, others are waited for so long: nobody is in a hurry, and a frame of one block costs both
/// sides as much as one of many.
#[cfg(not(feature = "shuttle"))]
const GATHER: std::time::Duration = std::time::Duration::from_millis(50);

/// Seals what is offered and gives it to the servers, until the queue is closed.
pub(super) async fn run(shared: &Shared, mut queue: mpsc::Receiver<Offer>) {
    let mut offers = Vec::with_capacity(RUN_BLOCKS_USUAL);
    while queue.recv_many(&mut offers, RUN_BLOCKS_USUAL).await > 0 {
        if offers.len() < RUN_BLOCKS_USUAL {
            gather(shared).await;
            let more = std::iter::from_fn(|| queue.try_recv().ok());
            let room = RUN_BLOCKS_USUAL - offers.len();
            offers.extend(more.take(room));
        }
        let candidates = shared.candidates();
        let mut frames: Vec<(ServerIndex, PutFrame)> = Vec::new();
        for offer in offers.drain(..) {
            // Changed, or sent already, since it was offered.
            if !shared.epochs.unchanged(offer.seen) || shared.is_held(offer.key) {
                continue;
            }
            let Some(server) = placement::choose(offer.key.hash(), &candidates) else {
                shared.counts.dropped.fetch_add(1, Relaxed);
                continue;
            };
            if !shared.is_worth_sending(server, offer.key, offer.streamed) {
                continue;
            }
            let place = match frames.iter().position(|(index, _)| *index == server) {
                Some(place) => place,
                None => {
                    frames.push((server, PutFrame::new()));
                    frames.len() - 1
                }
            };
            frames[place].1.add(shared, server, &offer);
        }
        for (server, frame) in frames {
            let blocks = frame.blocks.len() as u64;
            let server = shared.servers.get(server);
            if server.is_none_or(|server| server.put(frame).is_err()) {
                shared.counts.dropped.fetch_add(blocks, Relaxed);
            }
        }
        // Sealing keeps this thread busy: let answers to readers through.
        tokio::task::yield_now().await;
    }
}

/// Waits until a frame can be filled, but not for long.
async fn gather(shared: &Shared) {
    #[cfg(not(feature = "shuttle"))]
    let _ = tokio::time::timeout(GATHER, shared.many_offers.notified()).await;
    #[cfg(feature = "shuttle")]
    {
        let _ = &shared.many_offers;
        shuttle::future::yield_now().await;
    }
}

impl PutFrame {
    fn new() -> Self {
        let entries =
            BytesMut::with_capacity(HEADER_SIZE + RUN_BLOCKS_USUAL * size_of::<PutEntry>());
        let mut frame = Self { entries, blocks: Vec::with_capacity(RUN_BLOCKS_USUAL) };
        frame.entries.resize(HEADER_SIZE, 0);
        frame
    }

    fn add(&mut self, shared: &Shared, server: ServerIndex, offer: &Offer) {
        let count = shared.next_seal();
        let start = self.entries.len();
        self.entries.resize(start + size_of::<PutEntry>(), 0);
        let entry = PutEntry::mut_from_bytes(&mut self.entries[start..])
            .expect("the slice is as long as an entry, which has no alignment");
        entry.key = shared.sealer.remote_key(offer.key);
        shared.sealer.seal(offer.key, count, &offer.block, &mut entry.block);
        self.blocks.push(SentBlock {
            key: offer.key,
            lent: Lent { server, count },
            seen: offer.seen,
        });
    }

    /// The frame as it goes on the wire, its number, which is that of its first sealing, and the blocks in it.
    pub(super) fn into_wire(mut self) -> (Bytes, RequestId, Vec<SentBlock>) {
        let request = RequestId(self.blocks[0].lent.count.0);
        let header = Header::put(request, self.blocks.len());
        self.entries[..HEADER_SIZE].copy_from_slice(&header.to_bytes());
        (self.entries.freeze(), request, self.blocks)
    }
}

impl SentBlock {
    /// The server has it: from now on it may be asked for, unless it was written meanwhile.
    pub(super) fn stored(&self, shared: &Shared) {
        shared.lent.insert_if(self.key, self.lent, || shared.epochs.unchanged(self.seen));
    }
}
