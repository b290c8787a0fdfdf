//! The remote tier: memory that servers lend to this mount.
//!
//! Two verbs and no promises: what falls out of the local cache is offered, and may be dropped;
//! what is missing is fetched, and may not be there. A server that is gone, slow, full or lying
//! costs at most the deadline, then the source is read.
//!
//! The tier has one thread of its own, on which all connections live; while it sleeps, readers' threads send their
//! requests themselves. A reader of a few blocks leaves word what is to be done when they have come, and goes on; a reader
//! of many waits, with the deadline, and opens the sealed blocks itself.

mod asker;
mod breaker;
mod drive;
mod hedge;
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
mod worth;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rampool_protocol::block::BLOCK_SIZE;
use rampool_protocol::certs::Identity;
use rampool_protocol::frame::RUN_BLOCKS_USUAL;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::arena::{Block, Empty};
use crate::block::{BlockIndex, BlockKey, FileKey, Span};
use crate::epochs::{Epochs, Seen};
use crate::pace::{Length, PacesReport, SourcePace};
use crate::sync::sync_channel;
pub(crate) use asker::SourceRead;
use asker::{Asker, Deadlines, Told, Waits};
use drive::Drive;
use hedge::Wait;
use keepers::Keepers;
pub(crate) use key_file::KeyFile;
use lent::{Lent, LentTable, ServerIndex};
use members::Members;
pub(crate) use names::Given;
use route::Way;
use saved::State;
pub(crate) use saved::{Left, Note};
use seal::{Run, SealCount, Sealer, Secret};
pub(crate) use server::ServerReport;
use server::{GetAnswer, GetRequest, Server};
use servers::Servers;
use worth::PaysAnywhere;

/// How long a reader that waits for servers does so at least, before it reads the source.
const DEADLINE: Duration = Duration::from_millis(20);

/// For how long servers are asked to keep the blocks of a mount that may come back.
const KEEP_SECONDS: u32 = 600;

/// Servers that one mount can use: the lent table has 8 bits for them.
pub(crate) const SERVERS_MAX: usize = 255;

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
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
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

/// A block that a reader misses, and where to put it.
pub(crate) struct Wanted<'a> {
    key: BlockKey,
    buffer: &'a mut [u8; BLOCK_SIZE],
    /// The buffer holds the block.
    pub(crate) arrived: bool,
}

/// Blocks of a short read that one server holds.
pub(crate) struct Held {
    server: Arc<Server>,
    blocks: Vec<(BlockKey, Lent)>,
    wait: Wait,
    /// The source is to be read as well, only to see what it takes.
    pub(crate) looks: bool,
}

/// Who holds blocks of a long read.
struct Holder {
    index: ServerIndex,
    /// None if it is not to be asked.
    ask: Option<(Arc<Server>, Wait)>,
    /// By their places in the read.
    blocks: Vec<(usize, Lent)>,
}

/// How to get the blocks of a short read.
pub(crate) enum WayTo {
    /// From a server.
    Server(Held),
    /// From the source, which is faster.
    Source,
    /// No server holds all of them.
    Nobody,
}

/// Whoever asked a server for the blocks of a short read.
pub(crate) trait Reader: Send + 'static {
    /// What came of it, on any thread. On the tier's own nothing must be waited for.
    fn told(self, outcome: Outcome);

    /// How to read the source as well, because the server is late.
    fn source_read(&self) -> SourceRead;

    /// The server has had its time, the source has not: who waits for the same blocks is not to wait for that.
    fn given_up(&mut self);
}

/// What came of asking.
pub(crate) enum Outcome {
    /// The server gave the blocks.
    Server(Vec<Empty>),
    /// The source gave them first.
    Source(Vec<Empty>),
    /// Nobody did.
    Nothing,
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

/// What all parts of the tier use.
struct Shared {
    use_servers: UseServers,
    sealer: Sealer,
    /// For how long servers are asked to keep our blocks when we are gone.
    keep_seconds: u32,
    lent: LentTable,
    servers: Servers,
    members: Members,
    epochs: Arc<Epochs>,
    source: SourcePace,
    pays_anywhere: PaysAnywhere,
    deadlines: Deadlines,
    drive: Arc<Drive>,
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
    hedged: AtomicU64,
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
    /// Short reads for which servers were asked, and that nobody has answered.
    waiting_reads: usize,
    timeouts: u64,
    late_answers: u64,
    /// Reads for which the source was asked as well, because a server was late.
    hedged_reads: u64,
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
        Self { shared: Arc::new(shared), offers: None, stop, thread: None, key_file: None }
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
        let endpoints = link::Endpoints::new(identity.client_config());
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
        let (offers, thread) = (Some(offers), Some(thread));
        Ok((Self { shared, offers, stop, thread, key_file }, left))
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
            lent.count <= last && shared.servers.may_hold(lent)
        };
        let entries = shared.lent.entries();
        let entries = entries.map(|part| part.into_iter().filter(is_known).collect());
        saved::save(&key_file.state_path(), &key_file.secret.signing_key(), &state, entries)
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
        if offers.try_send(offer).is_err() {
            self.shared.counts.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Fills the buffers of those blocks that servers give before the deadline.
    pub(crate) fn fetch(&self, wanted: &mut [Wanted<'_>]) {
        let shared = &*self.shared;
        let began = Instant::now();
        // All servers at once, then the answers one after the other.
        let mut asked = Vec::new();
        let mut deadline = DEADLINE;
        for Holder { ask, blocks: theirs, .. } in shared.holders(wanted, began) {
            let Some((server, wait)) = ask else { continue };
            deadline = deadline.max(wait.deadline);
            let mut requests = Vec::new();
            let first = asked.len();
            // While the first are opened the others come.
            for run in theirs.chunks(RUN_BLOCKS_USUAL) {
                let keys = run.iter().map(|&(n, _)| shared.sealer.remote_key(wanted[n].key));
                let (tell, told) = sync_channel(1);
                // Without an answer it lets go of its end, which tells us as well.
                let asker = Asker::new(Passed(move |answer| tell.send(answer).is_ok()));
                requests.push(GetRequest { keys: keys.collect(), asker, began: None });
                asked.push((server.clone(), run.to_vec(), told));
            }
            if !server.ask(requests.into_iter(), &shared.drive) {
                // Too many others ask, which is nobody's fault.
                asked.truncate(first);
            }
        }
        if asked.is_empty() {
            return;
        }
        shared.deadlines.tick();
        let mut asked = asked.into_iter().peekable();
        let (mut of_server, mut is_measured) = (0, true);
        while let Some((server, run, told)) = asked.next() {
            let left = deadline.saturating_sub(began.elapsed());
            let answer = told.recv_timeout(left);
            of_server += run.len();
            match answer {
                Ok(answer) => shared.open(&server, wanted, &run, &answer),
                Err(_) => {
                    // A connection that is lost says nothing about how long answers take.
                    is_measured &= began.elapsed() >= deadline;
                    shared.gave_up(&server);
                }
            }
            if asked.peek().is_none_or(|(next, ..)| !Arc::ptr_eq(next, &server)) {
                // All that was asked of it at once; what it takes at least, if it did not come in time.
                if is_measured {
                    server.answered(of_server, began.elapsed(), Instant::now());
                }
                (of_server, is_measured) = (0, true);
            }
        }
    }

    /// How to get the blocks of a short read.
    pub(crate) fn way_to(&self, file: FileKey, blocks: &[BlockIndex]) -> WayTo {
        let mut holder = None;
        let mut held = Vec::with_capacity(blocks.len());
        for &index in blocks {
            let key = BlockKey { file, index };
            let Some(lent) = self.shared.lent(key) else { return WayTo::Nobody };
            if *holder.get_or_insert(lent.server) != lent.server {
                return WayTo::Nobody;
            }
            held.push((key, lent));
        }
        let Some(holder) = holder else { return WayTo::Nobody };
        let Some(server) = self.shared.servers.get(holder) else { return WayTo::Nobody };
        let (source, use_servers) = (&self.shared.source, self.shared.use_servers);
        match server.way(Length::Short, source, use_servers, Instant::now()) {
            None => WayTo::Nobody,
            Some((Way::Round, _)) => WayTo::Source,
            Some((way, wait)) => {
                let looks = way == Way::AskAndLook;
                WayTo::Server(Held { server, blocks: held, wait, looks })
            }
        }
    }

    /// Asks for blocks to be put into `slots`, one for each. Who asks is told, on any thread, when they have come, the
    /// source was faster, the deadline is over, or at once if too many wait to ask.
    pub(crate) fn fetch_for(&self, held: Held, slots: Vec<Empty>, reader: impl Reader) {
        let Held { server, blocks, wait, .. } = held;
        let began = Instant::now();
        let keys = blocks.iter().map(|(key, _)| self.shared.sealer.remote_key(*key)).collect();
        let shared = self.shared.clone();
        let asker = Asker::new(Asked { shared, server: server.clone(), blocks, slots, reader });
        let request = GetRequest { keys, asker: asker.clone(), began: Some(began) };
        if server.ask([request].into_iter(), &self.shared.drive) {
            self.shared.deadlines.add(asker, server, wait, began);
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
            waiting_reads: self.shared.deadlines.waiting(),
            timeouts: counts.timeouts.load(Relaxed),
            late_answers: counts.late.load(Relaxed),
            hedged_reads: counts.hedged.load(Relaxed),
            unauthentic_blocks: counts.unauthentic.load(Relaxed),
            source_us: self.shared.source.report(Instant::now()),
            servers: self.shared.servers.all().map(|(_, server)| server.report()).collect(),
        }
    }
}

impl Shared {
    /// With what an earlier run of the mount has left, if there is a key file; and the notes that were left with it.
    fn restored(
        use_servers: UseServers,
        table_bytes: usize,
        epochs: Arc<Epochs>,
        key_file: Option<&KeyFile>,
    ) -> (Self, Left) {
        let secret = key_file.map_or_else(Secret::random, |file| file.secret.clone());
        let kept = key_file.and_then(|file| {
            let path = file.state_path();
            let kept = saved::read(&path, &secret.signing_key());
            if let Err(error) = &kept
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(
                    "nothing is found again of what was lent: {}: {error}",
                    path.display()
                );
            }
            kept.ok()
        });
        let (last, mut runs) = match &kept {
            Some((state, _)) => (state.last, state.runs.clone()),
            None => (SealCount(0), Vec::new()),
        };
        let surplus = (runs.len() + 1).saturating_sub(saved::RUNS_MAX);
        runs.drain(..surplus);
        runs.push(Run::after(last));
        let mut shared = Self::new(use_servers, Sealer::new(&secret, &runs), table_bytes, epochs);
        shared.keep_seconds = if key_file.is_some() { KEEP_SECONDS } else { 0 };
        shared.seals = AtomicU64::new(last.0);
        let Some((State { servers, left, .. }, entries)) = kept else {
            return (shared, Left::default());
        };
        shared.servers.remember(servers);
        for entry in entries.filter(|&entry| lent::unpack(entry).count >= runs[0].from) {
            shared.lent.restore(entry);
        }
        tracing::info!("{} blocks were lent and may be found again", shared.lent.len());
        (shared, left)
    }

    fn new(
        use_servers: UseServers,
        sealer: Sealer,
        table_bytes: usize,
        epochs: Arc<Epochs>,
    ) -> Self {
        Self {
            use_servers,
            sealer,
            keep_seconds: 0,
            lent: LentTable::new(table_bytes),
            servers: Servers::default(),
            members: Members::default(),
            epochs,
            source: SourcePace::default(),
            pays_anywhere: PaysAnywhere::new(),
            deadlines: Deadlines::new(Instant::now()),
            drive: Arc::default(),
            seals: AtomicU64::new(0),
            counts: Counts::default(),
        }
    }

    /// What the tier's thread does, until told to stop. The tasks of connections end with its runtime.
    async fn run(
        self: &Arc<Self>,
        mut keepers: Keepers,
        queue: mpsc::Receiver<Offer>,
        mut stop: watch::Receiver<bool>,
    ) {
        tokio::select! {
            () = sender::run(self, queue) => {}
            () = self.deadlines.keep(|server| self.gave_up(server), || self.drive.catch_up()) => {}
            () = self.keep_noting_what_pays() => {}
            () = keepers.run() => {}
            _ = stop.wait_for(|&stop| stop) => {}
        }
        keepers.end().await;
    }

    /// Where a block is lent to, unless that server was started anew since.
    fn lent(&self, key: BlockKey) -> Option<Lent> {
        let lent = self.lent.get(key)?;
        if self.servers.may_hold(lent) {
            return Some(lent);
        }
        self.lent.forget_this(key, lent);
        None
    }

    /// Who holds which blocks of a long read. Where nobody is to be asked, not all of them are looked for.
    fn holders(&self, wanted: &[Wanted<'_>], now: Instant) -> Vec<Holder> {
        let length = Length::of(wanted.len());
        let mut holders: Vec<Holder> = Vec::new();
        for (n, wanted) in wanted.iter().enumerate() {
            let Some(lent) = self.lent(wanted.key) else { continue };
            let known = holders.iter().position(|holder| holder.index == lent.server);
            let place = known.unwrap_or_else(|| {
                let ask = self.servers.get(lent.server).and_then(|server| {
                    // Where the source is to be looked at, it is read this time.
                    match server.way(length, &self.source, self.use_servers, now) {
                        Some((Way::Ask, wait)) => Some((server, wait)),
                        _ => None,
                    }
                });
                holders.push(Holder { index: lent.server, ask, blocks: Vec::new() });
                holders.len() - 1
            });
            holders[place].blocks.push((n, lent));
            let nobody = holders.iter().all(|holder| holder.ask.is_none());
            if nobody && holders.len() == self.servers.all().count() {
                break;
            }
        }
        holders
    }

    /// Whether a server has a block already. What one has that is not coming back soon is lent to another.
    fn is_held(&self, key: BlockKey) -> bool {
        let now = Instant::now();
        self.lent(key).is_some_and(|lent| {
            let server = self.servers.get(lent.server);
            server.is_some_and(|server| server.is_expected(now))
        })
    }

    /// A server did not answer in time.
    fn gave_up(&self, server: &Server) {
        server.failed(Instant::now());
        self.counts.timeouts.fetch_add(1, Relaxed);
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
    fn open(
        &self,
        server: &Server,
        wanted: &mut [Wanted<'_>],
        run: &[(usize, Lent)],
        answer: &GetAnswer,
    ) {
        let Some(blocks) = answer.blocks(run.len()) else {
            return server.failed(Instant::now());
        };
        let mut is_genuine = true;
        for (&(n, lent), block) in run.iter().zip(blocks) {
            let wanted = &mut wanted[n];
            let Some(block) = block else {
                self.lent.forget_this(wanted.key, lent);
                continue;
            };
            wanted.arrived = self.sealer.open(wanted.key, lent.count, block, wanted.buffer);
            if !wanted.arrived {
                self.counts.unauthentic.fetch_add(1, Relaxed);
                // Where it has been written and sent anew since, the server is not to blame.
                is_genuine &= !self.lent.forget_this(wanted.key, lent);
            }
        }
        match is_genuine {
            true => server.succeeded(Instant::now()),
            false => server.failed(Instant::now()),
        }
    }

    /// Servers that can take blocks now.
    fn candidates(&self) -> Vec<placement::Candidate> {
        self.servers.all().map(|(index, server)| server.candidate(index)).collect()
    }
}

/// Who has asked a server for the blocks of a short read.
struct Asked<R> {
    shared: Arc<Shared>,
    server: Arc<Server>,
    blocks: Vec<(BlockKey, Lent)>,
    slots: Vec<Empty>,
    reader: R,
}

impl<R: Reader> Waits for Asked<R> {
    fn told(self: Box<Self>, told: Told) -> bool {
        let Self { shared, server, blocks, mut slots, reader } = *self;
        let outcome = match told {
            Told::Answer(answer) => {
                let wanted = blocks.iter().zip(&mut slots);
                let mut wanted: Vec<_> =
                    wanted.map(|((key, _), slot)| Wanted::new(*key, slot.bytes_mut())).collect();
                let run: Vec<_> = blocks.iter().map(|&(_, lent)| lent).enumerate().collect();
                shared.open(&server, &mut wanted, &run, &answer);
                match wanted.iter().all(|wanted| wanted.arrived) {
                    true => Outcome::Server(slots),
                    false => Outcome::Nothing,
                }
            }
            Told::Source(slots) => Outcome::Source(slots),
            Told::Nothing => Outcome::Nothing,
        };
        reader.told(outcome);
        true
    }

    fn source_read(&self) -> Option<SourceRead> {
        self.shared.counts.hedged.fetch_add(1, Relaxed);
        Some(self.reader.source_read())
    }

    fn given_up(&mut self) {
        self.reader.given_up();
    }
}

/// Passes an answer on to a reader who waits. Without one it is told as well, because this goes.
struct Passed<F>(F);

impl<F: FnOnce(GetAnswer) -> bool + Send> Waits for Passed<F> {
    fn told(self: Box<Self>, told: Told) -> bool {
        match told {
            Told::Answer(answer) => (self.0)(answer),
            Told::Source(_) | Told::Nothing => false,
        }
    }

    fn source_read(&self) -> Option<SourceRead> {
        None
    }

    fn given_up(&mut self) {}
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
