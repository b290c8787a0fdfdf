//! The remote tier: memory that servers lend to this mount.
//!
//! Two verbs and no promises: what falls out of the local cache is offered, and may be dropped;
//! what is missing is fetched, and may not be there. A server that is gone, slow, full or lying
//! costs at most the deadline, then the source is read.
//!
//! The tier has one thread of its own, on which all connections live; while it sleeps, readers' threads send their
//! requests themselves.

mod asker;
mod breaker;
mod detour;
mod drive;
mod fetch;
mod hedge;
mod holding;
mod keepers;
mod key_file;
mod lent;
mod line;
mod link;
mod members;
mod names;
mod placement;
#[cfg(test)]
#[cfg(feature = "shuttle")]
pub(crate) mod races;
mod route;
mod saved;
mod seal;
mod sender;
mod server;
mod servers;
mod shared;
mod worth;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Instant, UNIX_EPOCH};

use parking_lot::Mutex;
use rampool_protocol::certs::{Credentials, Identity};
use rampool_protocol::frame::RUN_BLOCKS_USUAL;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::arena::Block;
use crate::block::{BlockKey, FileKey, Span};
use crate::epochs::{Epochs, Seen};
use crate::pace::PacesReport;
pub(crate) use asker::SourceRead;
pub(crate) use fetch::{Held, OnTheWay, Outcome, Reader, Wanted, WayTo};
use keepers::Keepers;
pub(crate) use key_file::KeyFile;
pub(crate) use names::Given;
use saved::State;
pub(crate) use saved::{Left, Note};
use seal::{Run, SealCount, Sealer, Secret};
pub(crate) use server::ServerReport;
use shared::Shared;

/// Servers that one mount can use: the lent table has 8 bits for them.
pub(crate) const SERVERS_MAX: usize = 255;

/// Where little is lent, only to measure, the queue is hardly used: up to this part of it.
const SAMPLES_SHARE: usize = 8;

/// When servers are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum UseServers {
    /// Where they were measured faster than the source
    Auto,
    /// Whatever they take
    Always,
}

/// The memory that others lend us.
pub(crate) struct Tier {
    shared: Arc<Shared>,
    offers: Option<mpsc::Sender<Offer>>,
    /// So many of them may wait.
    queue_max: AtomicUsize,
    stop: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    credentials: Option<watch::Sender<Credentials>>,
    key_file: Option<KeyFile>,
}

/// A clean block on its way to a server.
pub(crate) struct Offer {
    pub(crate) key: BlockKey,
    pub(crate) block: Block,
    /// The write epoch in which its bytes are the source's.
    pub(crate) seen: Seen,
    /// A sequential stream has passed over it, and nobody else has asked for it.
    pub(crate) streamed: bool,
}

/// A server's address, and as what it is shown.
#[derive(Clone, Debug)]
struct ServerAddress {
    shown: String,
    found: SocketAddr,
}

/// What the tier may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Blocks that wait to be sent.
    pub(crate) queue_max: usize,
    /// For remembering what was lent.
    pub(crate) table_bytes: usize,
}

/// The tier, as `rampool status` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct TierReport {
    sent_blocks: u64,
    dropped_blocks: u64,
    rejected_blocks: u64,
    lent_blocks: usize,
    queued_blocks: usize,
    /// Short reads for which servers were asked, and that nobody has answered.
    waiting_reads: usize,
    timeouts: u64,
    late_answers: u64,
    /// Reads for which the source was asked as well, because a server was late.
    hedged_reads: u64,
    /// Blocks that a server was asked for and did not have any more.
    missed_blocks: u64,
    unauthentic_blocks: u64,
    /// What it takes to read the source.
    source_us: PacesReport,
    servers: Vec<ServerReport>,
}

impl Tier {
    /// A tier without servers, which takes and gives nothing.
    pub(crate) fn none(epochs: Arc<Epochs>) -> Self {
        let sealer = Sealer::new(&Secret::random(), &[Run::after(SealCount(0))]);
        let shared = Shared::new(UseServers::Auto, sealer, 0, epochs);
        let (stop, _) = watch::channel(true);
        Self {
            shared: Arc::new(shared),
            offers: None,
            queue_max: AtomicUsize::new(0),
            stop,
            thread: Mutex::default(),
            credentials: None,
            key_file: None,
        }
    }

    /// Starts the tier's thread, which connects to the servers that are given, and to those that they tell of, and stays
    /// connected.
    ///
    /// # Errors
    /// No thread, runtime or socket could be made.
    pub(crate) fn start(
        given: Vec<Given>,
        use_servers: UseServers,
        identity: &Identity,
        epochs: Arc<Epochs>,
        Limits { queue_max, table_bytes }: Limits,
        key_file: Option<KeyFile>,
    ) -> std::io::Result<(Self, Left)> {
        let (shared, left) = Shared::restored(use_servers, table_bytes, epochs, key_file.as_ref());
        let shared = Arc::new(shared);
        let (offers, queue) = mpsc::channel(queue_max.max(1));
        let (stop, stopped) = watch::channel(false);
        let (credentials, current) = watch::channel(identity.credentials());
        let endpoints = link::Endpoints::new(current);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        shared.drive.watch(&mut runtime);
        let runtime = runtime.enable_all().build()?;
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("remote".to_owned()).spawn(move || {
            runtime.block_on(theirs.run(
                Keepers::new(theirs.clone(), endpoints, given),
                queue,
                stopped,
            ));
            // A name that is being looked up is not waited for.
            runtime.shutdown_background();
        })?;
        let (offers, thread, credentials) =
            (Some(offers), Mutex::new(Some(thread)), Some(credentials));
        let queue_max = AtomicUsize::new(queue_max);
        Ok((Self { shared, offers, queue_max, stop, thread, credentials, key_file }, left))
    }

    /// When the mount's certificate expires, in seconds since 1970.
    pub(crate) fn certificate_expires(&self) -> Option<u64> {
        let expires = self.credentials.as_ref()?.borrow().expires;
        expires.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
    }

    /// Connections are made with these from here on, and those end whose server's certificate was revoked.
    pub(crate) fn connects_with(&self, new: Credentials) {
        if let Some(credentials) = &self.credentials {
            credentials.send_replace(new);
        }
    }

    /// Whether there is a key file: then [`Self::save`] is of use.
    pub(crate) fn is_kept(&self) -> bool {
        self.key_file.is_some()
    }

    /// Requests are served from here on: what the run before has left is not to be used again.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn begins(&self) -> std::io::Result<()> {
        let Some(key_file) = &self.key_file else { return Ok(()) };
        match std::fs::remove_file(key_file.state_path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes down where the blocks are, and `notes`, for the next run of this mount. The notes must have been taken
    /// before: what is written after that is forgotten here.
    ///
    /// # Errors
    /// The file beside the key file cannot be written.
    pub(crate) fn save(
        &self,
        notes: Vec<Note>,
        next_key: impl FnOnce() -> u64,
    ) -> std::io::Result<usize> {
        let Some(key_file) = &self.key_file else { return Ok(0) };
        let shared = &self.shared;
        // The table may grow while it is written: what is in it then was sealed up to this one, or is lost.
        let last = shared.last_seal();
        let state = State {
            last,
            runs: shared.sealer.runs().collect(),
            servers: shared.servers.to_remember(),
            // After the last sealing: those that were sealed have smaller keys.
            left: Left { next_key: next_key(), notes },
        };
        let is_known = |entry: &lent::RawEntry| {
            let lent = lent::unpack(*entry);
            lent.count <= last && shared.servers.may_hold(lent, lent::stay(*entry))
        };
        let entries = shared.lent.entries();
        let entries = entries.map(|part| part.into_iter().filter(is_known).collect());
        saved::save(&key_file.state_path(), &key_file.secret.signing_key(), &state, entries)
    }

    /// Says goodbye to the servers, which take back at once what they lent, unless it is to be found again, and ends the tier's
    /// thread. From here on nothing is lent or found.
    pub(crate) fn end(&self) {
        self.stop.send_replace(true);
        // The last holder may be a reader's answer: the tier's own thread cannot wait for itself.
        let own = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        if let Some(thread) = self.thread.lock().take().filter(|thread| !own(thread)) {
            let _ = thread.join();
        }
    }

    /// Offers a block that fell out of the local cache. Never waits: what finds no place in the
    /// queue is dropped. What a server has already need not be sent.
    pub(crate) fn offer(&self, offer: Offer) {
        let Some(offers) = &self.offers else { return };
        // Before anything is spent on it.
        let is_worth = self.shared.is_worth_offering(offer.key, offer.streamed);
        if !is_worth || self.shared.is_held(offer.key) {
            return;
        }
        let is_full = queued(offers) >= self.queue_max.load(Relaxed);
        if is_full || offers.try_send(offer).is_err() {
            self.shared.counts.dropped.fetch_add(1, Relaxed);
        }
        if queued(offers) >= RUN_BLOCKS_USUAL {
            self.shared.many_offers.notify_one();
        }
    }

    /// Has at most so many blocks wait to be sent, up to as many as it was started with.
    pub(crate) fn limit_queue(&self, blocks: usize) {
        let most = self.offers.as_ref().map_or(0, mpsc::Sender::max_capacity);
        self.queue_max.store(blocks.min(most), Relaxed);
    }

    /// How many offered blocks it may hold at once, at most or soon.
    pub(crate) fn may_hold(&self) -> usize {
        let queue_max = self.queue_max.load(Relaxed);
        match self.shared.pays() {
            true => queue_max,
            false => queue_max / SAMPLES_SHARE,
        }
    }

    /// Forgets the servers' copies of blocks that change: from here on nobody asks for them.
    pub(crate) fn forget(&self, file: FileKey, span: Span) {
        if self.offers.is_some() {
            for key in span.keys(file) {
                self.shared.lent.forget(key);
            }
        }
    }

    /// The source has given so many blocks, asked for at `began`: what servers are measured against.
    pub(crate) fn source_took(&self, blocks: usize, began: Instant) {
        if self.offers.is_some() {
            self.shared.source.note(blocks, began);
        }
    }

    /// Whether a block is lent, as far as is known.
    pub(crate) fn has_lent(&self, key: BlockKey) -> bool {
        self.shared.lent(key).is_some()
    }

    /// What the tier has done so far.
    pub(crate) fn report(&self) -> TierReport {
        let counts = &self.shared.counts;
        let queued = self.offers.as_ref().map_or(0, queued);
        let by_server = self.shared.lent.by_server();
        let servers = self.shared.servers.all();
        let servers = servers.map(|(index, server)| server.report(by_server[usize::from(index.0)]));
        TierReport {
            sent_blocks: counts.sent.load(Relaxed),
            dropped_blocks: counts.dropped.load(Relaxed),
            rejected_blocks: counts.rejected.load(Relaxed),
            lent_blocks: self.shared.lent.len(),
            queued_blocks: queued,
            waiting_reads: self.shared.deadlines.waiting(),
            timeouts: counts.timeouts.load(Relaxed),
            late_answers: counts.late.load(Relaxed),
            hedged_reads: counts.hedged.load(Relaxed),
            missed_blocks: counts.missed.load(Relaxed),
            unauthentic_blocks: counts.unauthentic.load(Relaxed),
            source_us: self.shared.source.report(Instant::now()),
            servers: servers.collect(),
        }
    }
}

/// How many blocks wait to be sent.
fn queued(offers: &mpsc::Sender<Offer>) -> usize {
    offers.max_capacity() - offers.capacity()
}

impl Drop for Tier {
    fn drop(&mut self) {
        self.end();
    }
}
