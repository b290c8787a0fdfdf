//! The thread that follows the machine: looks, has it decided, and has the store do it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{trace, warn};

use super::decide::{Controller, Sample};
use super::sense;
use super::{Auto, Lender, Mode};
use crate::accept::Clients;
use crate::blocks::{PAGE_BYTES, SEGMENT_BYTES};
use crate::serve::Service;

/// The time between two samples, unless something happens.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// The time between two looks at what is free, while something is lent. A process that takes
/// memory as fast as it can takes 20 MiB in it: a part of the reserve.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Segments that are given back, or looked through, with the store's lock held: about 1 ms.
const SEGMENTS_AT_ONCE: usize = 8;
/// Of the thread, as nice(1) has it: it works little, and seldom.
const PRIORITY: i32 = -10;
/// Segments that are kept, or handed over, between two looks: about 5 ms.
const CHANGES_AT_ONCE: usize = 64;
/// Memory of ours that the kernel takes between two looks when it is in need, in bytes.
const TAKEN: u64 = 8 << 20;
/// All segments are looked through in so many samples.
const SWEEP_SAMPLES: usize = 20;

/// The running thread. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Follower {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread works with.
struct Work {
    lender: Arc<Lender>,
    service: Arc<Service>,
    clients: Arc<Clients>,
    began: Instant,
}

impl Follower {
    /// Starts it.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub(crate) fn start(
        lender: Arc<Lender>,
        service: Arc<Service>,
        clients: Arc<Clients>,
    ) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let work = Work { lender, service, clients, began: Instant::now() };
        let thread =
            thread::Builder::new().name("lender".to_owned()).spawn(move || work.run(&stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Work {
    fn run(&self, stopped: &mpsc::Receiver<()>) {
        // Whoever waits for memory must not wait for this thread to get a CPU. Where that is not allowed,
        // it goes without.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), PRIORITY);
        let mut controller = match &self.lender.mode {
            Mode::Auto(auto) => Some((auto, Controller::new(auto.policy.lock().clone()))),
            Mode::Fixed(_) => None,
        };
        let mut sampled: Option<Instant> = None;
        let mut cleaned = Instant::now();
        let mut own = 0;
        let mut blind = false;
        loop {
            if cleaned.elapsed() >= SAMPLE_EVERY {
                cleaned = Instant::now();
                self.clean_up();
            }
            let due = sampled.is_none_or(|sampled| sampled.elapsed() >= SAMPLE_EVERY);
            if let Some((auto, controller)) = &mut controller
                && (due || self.is_urgent(auto, controller, own))
            {
                sampled = Some(Instant::now());
                let followed = self.follow(auto, controller);
                if let (Err(error), false) = (&followed, blind) {
                    warn!("cannot see how much memory there is: {error}");
                }
                (own, blind) = (followed.as_ref().map_or(own, |own| *own), followed.is_err());
            }
            let more = !self.service.state().store.change(CHANGES_AT_ONCE);
            let pause = if more || self.holds() { LOOK_EVERY } else { SAMPLE_EVERY };
            match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
    }

    /// Whether something happens that cannot wait: free memory falls, or the kernel takes ours.
    fn is_urgent(&self, auto: &Auto, controller: &Controller, own: u64) -> bool {
        let taken = |now: u64| now + TAKEN < own;
        if sense::own_memory().is_ok_and(taken) {
            return true;
        }
        let last = self.lender.last.lock();
        let Some((sample, _)) = &*last else { return true };
        let mut free = auto.senses.free(&sample.domains).enumerate();
        free.any(|(n, free)| free.is_some_and(|free| controller.is_urgent(n, free)))
    }

    /// Whether anything is lent.
    fn holds(&self) -> bool {
        self.lender.last.lock().as_ref().is_some_and(|(sample, _)| sample.held > 0)
    }

    /// One sample, and what follows from it. Returns how much memory is ours then.
    fn follow(&self, auto: &Auto, controller: &mut Controller) -> io::Result<u64> {
        let domains = auto.senses.read()?;
        let facts = self.service.state().store.facts();
        let bytes = |segments: usize| {
            (segments * SEGMENT_BYTES).saturating_sub(facts.pages_missing * PAGE_BYTES) as u64
        };
        let sample = Sample {
            at: self.began.elapsed(),
            held: bytes(facts.segments_in_use),
            own: sense::own_memory()?,
            domains,
        };
        if tracing::enabled!(tracing::Level::TRACE) {
            trace!("sample {}", serde_json::to_string(&sample).unwrap_or_default());
        }
        controller.change(&auto.policy.lock());
        let decision = controller.decide(&sample);
        // Whole segments: what the kernel took of those that are lent may have left an odd number of bytes.
        let allowed = decision.allowed.div_ceil(SEGMENT_BYTES as u64);
        let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
        self.service.state().store.allow(allowed);
        while self.service.state().store.give_back(SEGMENTS_AT_ONCE) == SEGMENTS_AT_ONCE {}
        self.service.state().store.keep(decision.pushing);
        self.lender.publish(&decision);
        if let Some(action) = &decision.action {
            self.lender.note(action.clone());
        }
        *self.lender.last.lock() = Some((sample, decision));
        sense::own_memory()
    }

    /// Forgets clients that have left, and what the kernel took.
    fn clean_up(&self) {
        let total = {
            let mut state = self.service.state();
            state.store.tidy(SEGMENTS_AT_ONCE);
            // Under the lock: a client that comes back meanwhile is admitted after this, or was seen.
            for mount in self.clients.gone(Instant::now()) {
                state.store.dismiss(mount);
            }
            state.store.facts().segments_total
        };
        for _ in 0..total.div_ceil(SWEEP_SAMPLES * SEGMENTS_AT_ONCE) {
            self.service.state().store.sweep(SEGMENTS_AT_ONCE);
        }
    }
}
