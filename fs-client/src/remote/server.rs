//! A server as request threads see it: whether it can be asked, and how.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use rampool_protocol::block::{RemoteKey, SealedBlock};
use rampool_protocol::control::Lending;
use rampool_protocol::frame::{self, Header};
use serde::Serialize;
use tokio::sync::mpsc;

use super::asker::Asker;
use super::lent::ServerIndex;
use super::placement::Candidate;
use super::seal::SealCount;
use super::{ServerAddress, sender::PutFrame};

/// Requests that wait to be put on the wire; a further one is a miss at once.
const GETS_MAX: usize = 1024;

/// Frames of blocks that wait to be put on the wire; the blocks of a further one are dropped.
const PUTS_MAX: usize = 16;

/// So many answers in a row that did not come in time, and the server is left alone for a while.
const STRIKES_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// One server, connected or not.
pub(super) struct Server {
    pub(super) address: ServerAddress,
    name: u64,
    gets: mpsc::Sender<GetRequest>,
    puts: mpsc::Sender<PutFrame>,
    connected: AtomicBool,
    pausing: AtomicBool,
    capacity_bytes: AtomicU64,
    /// Which run of the server was last connected to.
    instance: Mutex<Option<u64>>,
    /// What was sealed up to this one went to an earlier run, and is gone.
    gone_through: AtomicU64,
    patience: Mutex<Patience>,
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
}

/// The body of a `Got` frame.
pub(super) struct GetAnswer {
    pub(super) header: Header,
    pub(super) body: Bytes,
}

#[derive(Default)]
struct Patience {
    strikes: u32,
    resume: Option<Instant>,
}

/// A server, as `rampool status` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct ServerReport {
    pub(crate) address: String,
    pub(crate) state: &'static str,
    pub(crate) capacity_bytes: u64,
    pub(crate) last_error: Option<String>,
}

impl Server {
    pub(super) fn new(address: &ServerAddress) -> (Self, Inbox) {
        let (gets, get_inbox) = mpsc::channel(GETS_MAX);
        let (puts, put_inbox) = mpsc::channel(PUTS_MAX);
        let mut hasher = DefaultHasher::new();
        address.found.hash(&mut hasher);
        let server = Self {
            address: address.clone(),
            name: hasher.finish(),
            gets,
            puts,
            connected: AtomicBool::new(false),
            pausing: AtomicBool::new(false),
            capacity_bytes: AtomicU64::new(0),
            instance: Mutex::new(None),
            gone_through: AtomicU64::new(0),
            patience: Mutex::new(Patience::default()),
            last_error: Mutex::new(None),
        };
        (server, Inbox { gets: get_inbox, puts: put_inbox })
    }

    /// Whether there is a point in asking.
    pub(super) fn may_be_asked(&self) -> bool {
        self.connected.load(Relaxed) && self.patience.lock().lasts(Instant::now())
    }

    /// A place for a request; none if there is no point in asking, or too many wait to ask.
    pub(super) fn place(&self) -> Option<mpsc::Permit<'_, GetRequest>> {
        if self.may_be_asked() { self.gets.try_reserve().ok() } else { None }
    }

    /// Hands over a frame of blocks to be sent, or gives it back if too many wait.
    pub(super) fn put(&self, frame: PutFrame) -> Result<(), PutFrame> {
        self.puts.try_send(frame).map_err(mpsc::error::TrySendError::into_inner)
    }

    /// An answer came in time.
    pub(super) fn answered(&self) {
        let mut patience = self.patience.lock();
        if patience.strikes > 0 {
            *patience = Patience::default();
        }
    }

    /// An answer did not come in time.
    pub(super) fn timed_out(&self) {
        self.patience.lock().strike(Instant::now());
    }

    pub(super) fn candidate(&self, index: ServerIndex) -> Candidate {
        let takes = self.connected.load(Relaxed) && !self.pausing.load(Relaxed);
        let weight = if takes { self.capacity_bytes.load(Relaxed) } else { 0 };
        Candidate { index, name: self.name, weight }
    }

    /// Whether what was sealed with `count` may still be there.
    pub(super) fn may_hold(&self, count: SealCount) -> bool {
        count.0 > self.gone_through.load(Relaxed)
    }

    /// The connection stands, to the server's run `instance`; `last` is the last sealing so far.
    pub(super) fn connected(&self, lending: Lending, instance: u64, last: SealCount) {
        if self.instance.lock().replace(instance) != Some(instance) {
            self.gone_through.store(last.0, Relaxed);
        }
        self.lends(lending);
        *self.patience.lock() = Patience::default();
        *self.last_error.lock() = None;
        self.connected.store(true, Relaxed);
    }

    /// Whether the connection stands.
    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// What it lends has changed.
    pub(super) fn lends(&self, lending: Lending) {
        self.capacity_bytes.store(lending.capacity_bytes, Relaxed);
        self.pausing.store(lending.pausing, Relaxed);
    }

    /// The connection is gone, or could not be made. Says whether that is news.
    pub(super) fn disconnected(&self, reason: &str) -> bool {
        let was = self.connected.swap(false, Relaxed);
        let before = self.last_error.lock().replace(reason.to_owned());
        was || before.as_deref() != Some(reason)
    }

    pub(super) fn report(&self) -> ServerReport {
        let state = if !self.connected.load(Relaxed) {
            "not connected"
        } else if !self.patience.lock().lasts(Instant::now()) {
            "not answering"
        } else if self.pausing.load(Relaxed) {
            "pausing"
        } else {
            "connected"
        };
        ServerReport {
            address: self.address.given.clone(),
            state,
            capacity_bytes: self.capacity_bytes.load(Relaxed),
            last_error: self.last_error.lock().clone(),
        }
    }
}

impl Drop for GetRequest {
    fn drop(&mut self) {
        self.asker.tell(None);
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

impl Patience {
    /// Whether the server may be asked. After a pause one strike is enough for the next.
    fn lasts(&self, now: Instant) -> bool {
        self.resume.is_none_or(|resume| now >= resume)
    }

    fn strike(&mut self, now: Instant) {
        self.strikes += 1;
        if self.strikes >= STRIKES_MAX {
            self.resume = Some(now + PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_answer_is_left_alone_for_a_while() {
        let start = Instant::now();
        let mut patience = Patience::default();
        patience.strike(start);
        patience.strike(start);
        assert!(patience.lasts(start));
        patience.strike(start);
        assert!(!patience.lasts(start) && patience.lasts(start + PAUSE));
        patience.strike(start + PAUSE);
        assert!(!patience.lasts(start + PAUSE), "the first after a pause is enough");
    }
}
