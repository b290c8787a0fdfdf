//! A server as request threads see it: whether it can be asked, and how.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use rampool_protocol::block::{RemoteKey, SealedBlock};
use rampool_protocol::control::{Lending, Standing};
use rampool_protocol::frame::{self, Header};
use serde::Serialize;
use tokio::sync::mpsc;

use super::asker::Asker;
use super::breaker::{Breaker, Failure};
use super::drive::Drive;
use super::hedge::{Budget, Wait};
use super::holding::{Holding, Stay};
use super::lent::ServerIndex;
use super::line::Line;
use super::placement::Candidate;
use super::route::{self, Route, Way};
use super::seal::SealCount;
use super::{ServerAddress, UseServers, sender::PutFrame};
use crate::pace::{AnswersReport, Length, Paces, SourcePace, Usual};

/// Requests that wait to be put on the wire; a further one is a miss at once.
const GETS_MAX: usize = 1024;

/// Frames of blocks that wait to be put on the wire; the blocks of a further one are dropped.
const PUTS_MAX: usize = 16;

/// What a server holds whose connection was lost is not lent to another for so long: it may be back.
const EXPECTED: Duration = Duration::from_secs(60);

/// More than any machine lends (1 TiB): what a server says beyond that would draw all blocks to it.
const CAPACITY_MAX: u64 = 1 << 40;

/// One server, connected or not.
pub(super) struct Server {
    pub(super) address: ServerAddress,
    name: u64,
    gets: mpsc::Sender<GetRequest>,
    puts: mpsc::Sender<PutFrame>,
    connected: AtomicBool,
    /// Where requests are written, while it is connected.
    line: Mutex<Option<Arc<Line>>>,
    /// Since when the connection is missing.
    missing_since: Mutex<Instant>,
    pausing: AtomicBool,
    capacity_bytes: AtomicU64,
    /// Which run of the server was last connected to.
    instance: Mutex<Option<u64>>,
    /// What was sealed up to this one went to an earlier run, and is gone.
    gone_through: AtomicU64,
    holding: Mutex<Holding>,
    judgement: Mutex<Judgement>,
    /// What other servers say about it.
    standing: Mutex<Option<Standing>>,
    last_error: Mutex<Option<String>>,
}

/// The other ends of a server's queues, for its connection.
pub(super) struct Inbox {
    pub(super) gets: mpsc::Receiver<GetRequest>,
    pub(super) puts: mpsc::Receiver<PutFrame>,
}

/// Blocks that a reader waits for. Dropping it tells the reader that they do not come.
pub(super) struct GetRequest {
    pub(super) keys: Vec<RemoteKey>,
    pub(super) asker: Asker,
    /// Since when it is the answer to all of a read, whose time is of interest.
    pub(super) began: Option<Instant>,
}

/// The body of a `Got` frame.
pub(super) struct GetAnswer {
    pub(super) header: Header,
    pub(super) body: Bytes,
}

/// What its answers say about it.
struct Judgement {
    breaker: Breaker,
    paces: Paces,
    /// By the length of what is read.
    routes: [Route; 3],
    budget: Budget,
}

/// A server, as `rampool status` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct ServerReport {
    pub(crate) address: String,
    pub(crate) state: &'static str,
    pub(crate) capacity_bytes: u64,
    /// Blocks of this mount believed to be there, estimated.
    pub(crate) lent_blocks: usize,
    /// What it takes to answer a short request, in microseconds; none before there were enough.
    pub(crate) answers_us: Option<AnswersReport>,
    pub(crate) last_error: Option<String>,
}

impl Server {
    /// A server that holds nothing of what was sealed up to `last`.
    pub(super) fn new(address: ServerAddress, last: SealCount) -> (Self, Inbox) {
        let (gets, get_inbox) = mpsc::channel(GETS_MAX);
        let (puts, put_inbox) = mpsc::channel(PUTS_MAX);
        let mut hasher = DefaultHasher::new();
        address.found.hash(&mut hasher);
        let server = Self {
            address,
            name: hasher.finish(),
            gets,
            puts,
            connected: AtomicBool::new(false),
            line: Mutex::new(None),
            missing_since: Mutex::new(Instant::now()),
            pausing: AtomicBool::new(false),
            capacity_bytes: AtomicU64::new(0),
            instance: Mutex::new(None),
            gone_through: AtomicU64::new(last.0),
            holding: Mutex::default(),
            judgement: Mutex::new(Judgement::new(Instant::now())),
            standing: Mutex::new(None),
            last_error: Mutex::new(None),
        };
        (server, Inbox { gets: get_inbox, puts: put_inbox })
    }

    /// A server whose run `instance` may hold what an earlier run of the mount lent.
    pub(super) fn known(address: ServerAddress, instance: u64) -> (Self, Inbox) {
        let (server, inbox) = Self::new(address, SealCount(0));
        *server.instance.lock() = Some(instance);
        (server, inbox)
    }

    /// How a reader of blocks that it holds gets them, by what its answers and the source's usually take. None if it may
    /// not be asked.
    pub(super) fn way(
        &self,
        length: Length,
        source_pace: &SourcePace,
        use_servers: UseServers,
        now: Instant,
    ) -> Option<(Way, Wait)> {
        if !self.connected.load(Relaxed) {
            return None;
        }
        let source = source_pace.usual(length, now);
        let mut judgement = self.judgement.lock();
        let usual = judgement.paces.usual(length, now);
        let way = match use_servers {
            UseServers::Auto => {
                let route = &mut judgement.routes[length as usize];
                let went_round = route.goes_round();
                let way = route.choose(usual, source, now);
                if route.goes_round() != went_round {
                    source_pace.begin_anew(length);
                    judgement.paces.begin_anew(length);
                    let mean = |usual: Option<Usual>| usual.map(|usual| usual.mean);
                    tracing::debug!(
                        server = self.address.shown,
                        ?length,
                        it_takes = ?mean(usual),
                        the_source_takes = ?mean(source),
                        "{}",
                        if went_round { "asked again" } else { "gone round" }
                    );
                }
                way
            }
            UseServers::Always => Way::Ask,
        };
        if way != Way::Round {
            if !judgement.breaker.lets_pass(now) {
                return None;
            }
            judgement.budget.earn();
        }
        Some((way, Wait::of(usual, source)))
    }

    /// Whether no read of a length asks it: it is gone round, or not there.
    pub(super) fn is_gone_round(&self, length: Length) -> bool {
        !self.connected.load(Relaxed) || self.judgement.lock().routes[length as usize].goes_round()
    }

    /// Whether it is worth lending to: what streams pass over where its long reads are faster than the source's, other
    /// blocks while short reads do not go round it.
    pub(super) fn pays(&self, streamed: bool, source: &SourcePace) -> bool {
        let now = Instant::now();
        let mut judgement = self.judgement.lock();
        if !streamed {
            return judgement.routes[Length::Short as usize].pays(now);
        }
        let usual = judgement.paces.usual(Length::Long, now);
        let usual = usual.zip(source.usual(Length::Long, now));
        usual.is_some_and(|(server, source)| route::is_faster(server, source))
    }

    /// Asks it for blocks: on this thread while the tier's own sleeps. False if too many wait to ask; those who ask are
    /// told then, as whenever nothing comes.
    pub(super) fn ask(
        &self,
        requests: impl ExactSizeIterator<Item = GetRequest>,
        drive: &Drive,
    ) -> bool {
        let line = if drive.is_asleep() { self.line.lock().clone() } else { None };
        if let Some(line) = line {
            drive.here(|| requests.for_each(|request| line.ask(request)));
            return true;
        }
        let Ok(places) = self.gets.try_reserve_many(requests.len()) else { return false };
        places.zip(requests).for_each(|(place, request)| place.send(request));
        true
    }

    /// Whether what it was asked for may be read from the source as well.
    pub(super) fn may_hedge(&self) -> bool {
        self.judgement.lock().budget.spend()
    }

    /// Hands over a frame of blocks to be sent, or gives it back if too many wait.
    pub(super) fn put(&self, frame: PutFrame) -> Result<(), PutFrame> {
        self.puts.try_send(frame).map_err(mpsc::error::TrySendError::into_inner)
    }

    /// It has answered a request for so many blocks, in time or not.
    pub(super) fn answered(&self, blocks: usize, took: Duration, now: Instant) {
        self.judgement.lock().paces.note(blocks, took, now);
    }

    /// It answered in time, with what we sealed.
    pub(super) fn succeeded(&self, now: Instant) {
        self.judgement.lock().breaker.succeeded(now);
    }

    /// It did not answer in time, or not with what we sealed.
    pub(super) fn failed(&self, failure: Failure, now: Instant) {
        if self.judgement.lock().breaker.failed(failure, now) {
            tracing::warn!(
                server = self.address.shown,
                "it does not answer as it should; left alone for a while"
            );
        }
    }

    pub(super) fn candidate(&self, index: ServerIndex) -> Candidate {
        let takes = self.connected.load(Relaxed)
            && !self.pausing.load(Relaxed)
            && !self.judgement.lock().breaker.is_open(Instant::now());
        let weight = if takes { self.capacity_bytes.load(Relaxed) } else { 0 };
        Candidate { index, name: self.name, weight }
    }

    /// Whether what was sealed with `count` may still be there, if it stays for so long.
    pub(super) fn may_hold(&self, count: SealCount, stay: Stay) -> bool {
        count.0 > self.gone_through.load(Relaxed) && self.holding.lock().may_hold(count, stay)
    }

    /// How long what was sealed with `count` stays there, when it is asked for.
    pub(super) fn asked_for(&self, count: SealCount, stay: Stay) -> Stay {
        self.holding.lock().asked(count, stay)
    }

    /// Of what it was sent, up to `newest`, it has evicted what is older than `oldest`.
    pub(super) fn holds(&self, oldest: SealCount, newest: SealCount) {
        self.holding.lock().told(oldest, newest);
    }

    /// Requests are written to `line` from here on.
    pub(super) fn listens(&self, line: Arc<Line>) {
        let former = self.line.lock().replace(line);
        // Whoever has asked there is told, and not under the lock.
        drop(former);
    }

    /// The connection stands, to the server's run `instance`; `last` is the last sealing so far.
    pub(super) fn connected(&self, lending: Lending, instance: u64, last: SealCount) {
        if self.instance.lock().replace(instance) != Some(instance) {
            self.gone_through.store(last.0, Relaxed);
            *self.holding.lock() = Holding::default();
        }
        self.lends(lending);
        *self.judgement.lock() = Judgement::new(Instant::now());
        *self.last_error.lock() = None;
        self.connected.store(true, Relaxed);
    }

    /// Whether the connection stands.
    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// Since when the connection is missing; none if it stands.
    pub(super) fn missing_since(&self) -> Option<Instant> {
        (!self.is_connected()).then(|| *self.missing_since.lock())
    }

    /// Whether it is there, or was a short time ago.
    pub(super) fn is_expected(&self, now: Instant) -> bool {
        self.missing_since().is_none_or(|since| now.saturating_duration_since(since) < EXPECTED)
    }

    /// Whether the connection stands, to its run `instance`.
    pub(super) fn is_run(&self, instance: u64) -> bool {
        self.is_connected() && *self.instance.lock() == Some(instance)
    }

    /// Which run of it was last connected to.
    pub(super) fn instance(&self) -> Option<u64> {
        *self.instance.lock()
    }

    /// What other servers say about it.
    pub(super) fn stands(&self, standing: Option<Standing>) {
        *self.standing.lock() = standing;
    }

    /// What it lends has changed.
    pub(super) fn lends(&self, lending: Lending) {
        let capacity = lending.capacity_bytes.min(CAPACITY_MAX);
        // Said once, and again when it has said something else meanwhile.
        let before = self.capacity_bytes.swap(capacity, Relaxed);
        if lending.capacity_bytes > CAPACITY_MAX && before != CAPACITY_MAX {
            let bytes = lending.capacity_bytes;
            tracing::warn!(server = self.address.shown, bytes, "no machine lends so much");
        }
        self.pausing.store(lending.pausing, Relaxed);
    }

    /// The connection is gone, or could not be made. Says whether that is news.
    pub(super) fn disconnected(&self, reason: &str) -> bool {
        let was = self.connected.swap(false, Relaxed);
        let line = self.line.lock().take();
        drop(line);
        if was {
            *self.missing_since.lock() = Instant::now();
        }
        let before = self.last_error.lock().replace(reason.to_owned());
        was || before.as_deref() != Some(reason)
    }

    pub(super) fn report(&self, lent_blocks: usize) -> ServerReport {
        let now = Instant::now();
        let mut judgement = self.judgement.lock();
        let is_open = judgement.breaker.is_open(now);
        let goes_round = judgement.routes[Length::Short as usize].goes_round();
        let usual = judgement.paces.usual(Length::Short, now);
        drop(judgement);
        let state = if !self.connected.load(Relaxed) {
            match *self.standing.lock() {
                Some(Standing::Suspected) => "suspected",
                Some(Standing::Gone) => "gone",
                _ => "not connected",
            }
        } else if is_open {
            "not answering"
        } else if goes_round {
            "slower than the source"
        } else if self.pausing.load(Relaxed) {
            "pausing"
        } else {
            "connected"
        };
        ServerReport {
            address: self.address.shown.clone(),
            state,
            lent_blocks,
            capacity_bytes: self.capacity_bytes.load(Relaxed),
            answers_us: usual.map(AnswersReport::of),
            last_error: self.last_error.lock().clone(),
        }
    }
}

impl Drop for GetRequest {
    fn drop(&mut self) {
        self.asker.answer(None);
    }
}

impl GetAnswer {
    /// The blocks in the order in which they were asked for; none if the answer does not fit the
    /// request.
    pub(super) fn blocks(
        &self,
        asked: usize,
    ) -> Option<impl Iterator<Item = Option<&SealedBlock>>> {
        if self.header.count != asked {
            return None;
        }
        frame::got_body(self.header, &self.body).ok()
    }
}

impl Judgement {
    fn new(now: Instant) -> Self {
        Self {
            breaker: Breaker::new(),
            paces: Paces::default(),
            routes: std::array::from_fn(|_| Route::new(now)),
            budget: Budget::new(),
        }
    }
}
