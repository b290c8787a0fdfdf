//! How much memory is lent, right now.
//!
//! A thread looks at the machine ([`sense`]), decides what may be lent ([`decide`]) and has the store
//! do it; clients and the status are told. It also does what the store needs from time to time:
//! forgetting what the kernel took, and the blocks of clients that have left.

mod decide;
mod events;
mod follow;
mod limits;
pub(crate) mod sense;
mod signs;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rampool_protocol::control::Lending;
use tokio::sync::watch;
use tracing::debug;

use self::decide::{Decision, Sample};
use self::events::{Action, Events};
use self::sense::Senses;
pub(crate) use events::Event;
pub(crate) use follow::Follower;
pub(crate) use limits::{Detector, Limit, Policy, Share};

/// Knows how much is lent, and tells whoever wants to know.
#[derive(Debug)]
pub(crate) struct Lender {
    mode: Mode,
    lending: watch::Sender<Lending>,
    draining: AtomicBool,
    events: Events,
    /// What was decided last, and on what.
    last: Mutex<Option<(Sample, Decision)>>,
}

#[derive(Debug)]
enum Mode {
    /// All of the limit, all the time. The kernel may take it.
    Fixed(Limit),
    /// What the machine can spare.
    Auto(Auto),
}

#[derive(Debug)]
struct Auto {
    policy: Mutex<Policy>,
    senses: Senses,
    /// Whether each signal is there, by name.
    signals: Vec<(&'static str, bool)>,
}

/// What the status shows of it.
#[derive(Debug)]
pub(crate) struct LenderFacts {
    pub(crate) auto: bool,
    pub(crate) allowed: u64,
    pub(crate) capacity: u64,
    pub(crate) pausing: bool,
    pub(crate) draining: bool,
    pub(crate) domains: Vec<DomainFacts>,
    pub(crate) signals: Vec<(&'static str, bool)>,
    pub(crate) events: Vec<Event>,
}

/// A bound on memory around this process.
#[derive(Debug)]
pub(crate) struct DomainFacts {
    pub(crate) name: String,
    pub(crate) limit: u64,
    pub(crate) free: u64,
    /// What is to be free.
    pub(crate) reserve: u64,
}

impl Lender {
    /// Lends all of `limit` all the time.
    pub(crate) fn fixed(limit: Limit) -> Arc<Self> {
        Self::new(Mode::Fixed(limit), limit.size().bytes())
    }

    /// Lends what the machine can spare.
    ///
    /// # Errors
    /// When nothing can be learnt about the machine's memory.
    pub(crate) fn auto(policy: Policy) -> io::Result<Arc<Self>> {
        let senses = Senses::new();
        let signals = sense::signals(&senses.read()?);
        Ok(Self::new(Mode::Auto(Auto { policy: Mutex::new(policy), senses, signals }), 0))
    }

    fn new(mode: Mode, capacity_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            mode,
            lending: watch::Sender::new(Lending { capacity_bytes, pausing: false }),
            draining: AtomicBool::new(false),
            events: Events::default(),
            last: Mutex::new(None),
        })
    }

    /// What is lent now, and each change of it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Lending> {
        self.lending.subscribe()
    }

    /// Decides by another policy from now on. It cannot lend more than there is room for.
    pub(crate) fn change(&self, policy: Policy) {
        if let Mode::Auto(auto) = &self.mode {
            *auto.policy.lock() = policy;
        }
    }

    /// Takes nothing more from now on, and tells the clients.
    pub(crate) fn drain(&self) {
        if !self.draining.swap(true, Ordering::Relaxed) {
            self.note(Action::Drains);
            self.lending.send_replace(Lending { capacity_bytes: 0, pausing: true });
        }
    }

    /// One line for the log: what is lent, and what it is decided by.
    pub(crate) fn describe(&self) -> String {
        match &self.mode {
            Mode::Fixed(limit) => format!("lends {}", limit.size()),
            Mode::Auto(auto) => {
                let names = |there: bool| {
                    let of_it = auto.signals.iter().filter(|signal| signal.1 == there);
                    of_it.map(|signal| signal.0).collect::<Vec<_>>().join(", ")
                };
                let most = rampool_cli::size::ByteSize(auto.policy.lock().lend_max);
                let lacks = match names(false) {
                    lacks if lacks.is_empty() => lacks,
                    lacks => format!("; not here: {lacks}"),
                };
                format!("lends up to {most} of what is idle; watches {}{lacks}", names(true))
            }
        }
    }

    /// What the status shows.
    pub(crate) fn facts(&self) -> LenderFacts {
        let lending = *self.lending.borrow();
        let draining = self.draining.load(Ordering::Relaxed);
        let events = self.events.list();
        let last = self.last.lock();
        let facts = LenderFacts {
            auto: matches!(self.mode, Mode::Auto(_)),
            allowed: lending.capacity_bytes,
            capacity: lending.capacity_bytes,
            pausing: lending.pausing,
            draining,
            domains: Vec::new(),
            signals: Vec::new(),
            events,
        };
        let (Mode::Auto(auto), Some((sample, decision))) = (&self.mode, &*last) else {
            return facts;
        };
        let policy = auto.policy.lock().clone();
        let named = auto.senses.names().into_iter().zip(&sample.domains);
        let domains = named.filter_map(|(name, reading)| {
            let reading = reading.as_ref()?;
            let (limit, free, reserve) = (reading.limit, reading.free, policy.reserve(reading));
            Some(DomainFacts { name, limit, free, reserve })
        });
        LenderFacts {
            allowed: decision.allowed,
            domains: domains.collect(),
            signals: auto.signals.clone(),
            ..facts
        }
    }

    /// Tells the clients what was decided, where that matters to them.
    fn publish(&self, decision: &Decision) {
        let capacity_bytes = decision.capacity;
        self.lending.send_if_modified(|lending| {
            // Asked here, where nobody else can tell: draining has the last word.
            if self.draining.load(Ordering::Relaxed) {
                return false;
            }
            // It is a weight: small differences would only move blocks from server to server.
            let differs =
                capacity_bytes.abs_diff(lending.capacity_bytes) > lending.capacity_bytes / 8;
            if !differs && lending.pausing == decision.pausing {
                return false;
            }
            *lending = Lending { capacity_bytes, pausing: decision.pausing };
            true
        });
    }

    fn note(&self, action: Action) {
        debug!("{action}");
        self.events.add(action);
    }
}
