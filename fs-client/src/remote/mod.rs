//! The remote tier: memory that servers lend to this mount.
//!
//! Two verbs and no promises: what falls out of the local cache is offered, and may be dropped;
//! what is missing is fetched, and may not be there. A server that is gone, slow, full or lying
//! costs at most the deadline, then the source is read.
//!
//! The tier has one thread of its own, on which all connections live. A reader of a few blocks hands it
//! what is to be done when they have come, and goes on; a reader of many waits, with the deadline, and opens
//! the sealed blocks itself.

mod asker;
mod lent;
mod link;
mod placement;
#[cfg(test)]
#[cfg(feature = "shuttle")]
pub(crate) mod races;
mod seal;
mod sender;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rampool_protocol::block::BLOCK_SIZE;
use rampool_protocol::certs::Identity;
use rampool_protocol::frame::RUN_BLOCKS_MAX;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::arena::{Block, Empty};
use crate::block::{BlockIndex, BlockKey, FileKey, Span};
use crate::epochs::{Epochs, Seen};
use crate::sync::sync_channel;
use asker::{Asker, Deadlines};
use lent::{Lent, LentTable, ServerIndex};
use seal::{SealCount, Sealer};
pub(crate) use server::ServerReport;
use server::{GetAnswer, GetRequest, Server};

/// How long a reader waits for servers before it reads the source; what no thread waits for, a tick longer.
const DEADLINE: Duration = Duration::from_millis(20);

/// Servers that one mount can use: the lent table has 8 bits for them.
pub(crate) const SERVERS_MAX: usize = 255;

/// The memory that others lend us.
pub(crate) struct Tier {
    shared: Arc<Shared>,
    offers: Option<mpsc::Sender<Offer>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// A clean block on its way to a server.
pub(crate) struct Offer {
    pub(crate) key: BlockKey,
    pub(crate) block: Block,
    /// The write epoch in which its bytes are the source's.
    pub(crate) seen: Seen,
}

/// A block that a reader misses, and where to put it.
pub(crate) struct Wanted<'a> {
    key: BlockKey,
    buffer: &'a mut [u8; BLOCK_SIZE],
    /// The buffer holds the block.
    pub(crate) arrived: bool,
}

/// Blocks that one server holds.
pub(crate) struct Held {
    server: Arc<Server>,
    blocks: Vec<(BlockKey, Lent)>,
}

/// A server's address as it was given, and as it was found.
#[derive(Clone, Debug)]
pub(crate) struct ServerAddress {
    pub(crate) given: String,
    pub(crate) found: SocketAddr,
}

/// What all parts of the tier use.
struct Shared {
    sealer: Sealer,
    lent: LentTable,
    servers: Vec<Arc<Server>>,
    epochs: Arc<Epochs>,
    deadlines: Deadlines,
    /// How many blocks were sealed.
    seals: AtomicU64,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
    rejected: AtomicU64,
    timeouts: AtomicU64,
    late: AtomicU64,
    unauthentic: AtomicU64,
}

/// The tier, as `rampool status` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct TierReport {
    sent_blocks: u64,
    dropped_blocks: u64,
    rejected_blocks: u64,
    lent_blocks: usize,
    queued_blocks: usize,
    timeouts: u64,
    late_answers: u64,
    unauthentic_blocks: u64,
    servers: Vec<ServerReport>,
}

impl Tier {
    /// A tier without servers, which takes and gives nothing.
    pub(crate) fn none(epochs: Arc<Epochs>) -> Self {
        let shared = Shared {
            sealer: Sealer::new(),
            lent: LentTable::new(0),
            servers: Vec::new(),
            epochs,
            deadlines: Deadlines::default(),
            seals: AtomicU64::new(0),
            counts: Counts::default(),
        };
        let (stop, _) = watch::channel(true);
        Self { shared: Arc::new(shared), offers: None, stop, thread: None }
    }

    /// Starts the tier's thread, which connects to `servers` and stays connected. At most
    /// `queue_max` blocks wait to be sent; `table_bytes` is what is spent on remembering what
    /// was lent.
    ///
    /// # Errors
    /// No thread, runtime or socket could be made.
    pub(crate) fn start(
        servers: &[ServerAddress],
        identity: &Identity,
        epochs: Arc<Epochs>,
        queue_max: usize,
        table_bytes: usize,
    ) -> std::io::Result<Self> {
        debug_assert!(servers.len() <= SERVERS_MAX, "checked where the options are read");
        let mut inboxes = Vec::with_capacity(servers.len());
        let servers = servers
            .iter()
            .map(|address| {
                let (server, inbox) = Server::new(address);
                inboxes.push(inbox);
                Arc::new(server)
            })
            .collect();
        let shared = Arc::new(Shared {
            sealer: Sealer::new(),
            lent: LentTable::new(table_bytes),
            servers,
            epochs,
            deadlines: Deadlines::default(),
            seals: AtomicU64::new(0),
            counts: Counts::default(),
        });
        let (offers, queue) = mpsc::channel(queue_max.max(1));
        let (stop, stopped) = watch::channel(false);
        let endpoints = link::Endpoints::new(identity.client_config());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("remote".to_owned()).spawn(move || {
            runtime.block_on(link::run(theirs, endpoints, inboxes, queue, stopped));
        })?;
        Ok(Self { shared, offers: Some(offers), stop, thread: Some(thread) })
    }

    /// Offers a block that fell out of the local cache. Never waits: what finds no place in the
    /// queue is dropped. What a server has already need not be sent.
    pub(crate) fn offer(&self, offer: Offer) {
        let Some(offers) = &self.offers else { return };
        if self.shared.lent(offer.key).is_some() {
            return;
        }
        if offers.try_send(offer).is_err() {
            self.shared.counts.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Fills the buffers of those blocks that servers give before the deadline.
    pub(crate) fn fetch(&self, wanted: &mut [Wanted<'_>]) {
        let shared = &*self.shared;
        let found: Vec<(usize, Lent)> = wanted
            .iter()
            .enumerate()
            .filter_map(|(n, wanted)| Some((n, shared.lent(wanted.key)?)))
            .collect();
        if found.is_empty() {
            return;
        }
        let deadline = Instant::now() + DEADLINE;
        // All servers at once, then the answers one after the other.
        let mut asked = Vec::new();
        for (n, server) in shared.servers.iter().enumerate() {
            let theirs: Vec<(usize, Lent)> =
                found.iter().filter(|(_, lent)| usize::from(lent.server.0) == n).copied().collect();
            for run in theirs.chunks(RUN_BLOCKS_MAX) {
                let Some(place) = server.place() else { break };
                let keys = run.iter().map(|&(n, _)| shared.sealer.remote_key(wanted[n].key));
                let (tell, told) = sync_channel(1);
                // Without an answer it lets go of its end, which tells us as well.
                let asker =
                    Asker::new(move |answer| answer.is_some_and(|it| tell.send(it).is_ok()));
                place.send(GetRequest { keys: keys.collect(), asker });
                asked.push((server, run.to_vec(), told));
            }
        }
        for (server, run, told) in asked {
            let answer = told.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok();
            shared.note(server, answer.is_some());
            if let Some(answer) = answer {
                shared.open(wanted, &run, &answer);
            }
        }
    }

    /// The server that holds all of `blocks`, if one does that can be asked.
    pub(crate) fn held_by_one(&self, file: FileKey, blocks: &[BlockIndex]) -> Option<Held> {
        let mut server = None;
        let mut held = Vec::with_capacity(blocks.len());
        for &index in blocks {
            let key = BlockKey { file, index };
            let lent = self.shared.lent(key)?;
            if *server.get_or_insert(lent.server) != lent.server {
                return None;
            }
            held.push((key, lent));
        }
        let server = self.shared.servers[usize::from(server?.0)].clone();
        server.may_be_asked().then_some(Held { server, blocks: held })
    }

    /// Asks for blocks to be put into `slots`, one for each, and does `then` with them when they have all come; with
    /// none of them when the deadline is over, or one is not there. It is done on the tier's thread, or here and at
    /// once if there is no point in asking, and must not wait for anything.
    pub(crate) fn fetch_then(
        &self,
        Held { server, blocks }: Held,
        mut slots: Vec<Empty>,
        then: impl FnOnce(Option<Vec<Empty>>) + Send + 'static,
    ) {
        let Some(place) = server.place() else { return then(None) };
        let keys = blocks.iter().map(|(key, _)| self.shared.sealer.remote_key(*key)).collect();
        let (shared, asked) = (self.shared.clone(), server.clone());
        let asker = Asker::new(move |answer| {
            shared.note(&asked, answer.is_some());
            let of_use = answer.is_some();
            let opened = answer.is_some_and(|answer| {
                let wanted = blocks.iter().zip(&mut slots);
                let mut wanted: Vec<_> =
                    wanted.map(|((key, _), slot)| Wanted::new(*key, slot.bytes_mut())).collect();
                let run: Vec<_> = blocks.iter().map(|&(_, lent)| lent).enumerate().collect();
                shared.open(&mut wanted, &run, &answer);
                wanted.iter().all(|wanted| wanted.arrived)
            });
            then(opened.then_some(slots));
            of_use
        });
        place.send(GetRequest { keys, asker: asker.clone() });
        self.shared.deadlines.add(asker);
    }

    /// Forgets the servers' copies of blocks that change: from here on nobody asks for them.
    pub(crate) fn forget(&self, file: FileKey, span: Span) {
        if self.offers.is_some() {
            for key in span.keys(file) {
                self.shared.lent.forget(key);
            }
        }
    }

    /// Whether a block is lent, as far as is known.
    #[cfg(all(test, feature = "shuttle"))]
    pub(crate) fn has_lent(&self, key: BlockKey) -> bool {
        self.shared.lent(key).is_some()
    }

    /// What the tier has done so far.
    pub(crate) fn report(&self) -> TierReport {
        let counts = &self.shared.counts;
        let queued =
            self.offers.as_ref().map_or(0, |offers| offers.max_capacity() - offers.capacity());
        TierReport {
            sent_blocks: counts.sent.load(Relaxed),
            dropped_blocks: counts.dropped.load(Relaxed),
            rejected_blocks: counts.rejected.load(Relaxed),
            lent_blocks: self.shared.lent.len(),
            queued_blocks: queued,
            timeouts: counts.timeouts.load(Relaxed),
            late_answers: counts.late.load(Relaxed),
            unauthentic_blocks: counts.unauthentic.load(Relaxed),
            servers: self.shared.servers.iter().map(|server| server.report()).collect(),
        }
    }
}

impl Shared {
    /// Where a block is lent to, unless that server was started anew since.
    fn lent(&self, key: BlockKey) -> Option<Lent> {
        let lent = self.lent.get(key)?;
        if self.servers[usize::from(lent.server.0)].may_hold(lent.count) {
            return Some(lent);
        }
        self.lent.forget_this(key, lent);
        None
    }

    /// Notes whether a server answered in time.
    fn note(&self, server: &Server, answered: bool) {
        if answered {
            server.answered();
        } else {
            server.timed_out();
            self.counts.timeouts.fetch_add(1, Relaxed);
        }
    }

    /// The number of the next sealing.
    fn next_seal(&self) -> SealCount {
        SealCount(self.seals.fetch_add(1, Relaxed) + 1)
    }

    /// The number of the last.
    fn last_seal(&self) -> SealCount {
        SealCount(self.seals.load(Relaxed))
    }

    /// Opens what a server answered into the readers' buffers.
    fn open(&self, wanted: &mut [Wanted<'_>], run: &[(usize, Lent)], answer: &GetAnswer) {
        let Some(blocks) = answer.blocks(run.len()) else { return };
        for (&(n, lent), block) in run.iter().zip(blocks) {
            let wanted = &mut wanted[n];
            let Some(block) = block else {
                self.lent.forget_this(wanted.key, lent);
                continue;
            };
            wanted.arrived = self.sealer.open(wanted.key, lent.count, block, wanted.buffer);
            if !wanted.arrived {
                self.counts.unauthentic.fetch_add(1, Relaxed);
                self.lent.forget_this(wanted.key, lent);
            }
        }
    }

    /// Servers that can take blocks now.
    fn candidates(&self) -> Vec<placement::Candidate> {
        self.servers
            .iter()
            .enumerate()
            .map(|(n, server)| server.candidate(ServerIndex(n as u8)))
            .collect()
    }
}

impl<'a> Wanted<'a> {
    /// Wants the block `key` in `buffer`, whose bytes mean nothing until it has arrived.
    pub(crate) fn new(key: BlockKey, buffer: &'a mut [u8; BLOCK_SIZE]) -> Self {
        Self { key, buffer, arrived: false }
    }
}

impl Drop for Tier {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        // The last holder may be a reader's answer: the tier's own thread cannot wait for itself.
        let own = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(|thread| !own(thread)) {
            let _ = thread.join();
        }
    }
}
