//! The thread that follows the machine: looks, has it decided, and has the store do it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::warn;

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
        let mut controller = match &self.lender.mode {
            Mode::Auto(auto) => Some((auto, Controller::new(auto.policy.clone()))),
            Mode::Fixed(_) => None,
        };
        let mut sampled: Option<Instant> = None;
        let mut holds = false;
        let mut blind = false;
        loop {
            let due = sampled.is_none_or(|sampled| sampled.elapsed() >= SAMPLE_EVERY);
            let urgent = || match (&controller, &*self.lender.last.lock()) {
                (Some((auto, controller)), Some((sample, _))) => {
                    let mut free = auto.senses.free(&sample.domains).enumerate();
                    free.any(|(n, free)| free.is_some_and(|free| controller.is_urgent(n, free)))
                }
                _ => false,
            };
            if due || urgent() {
                if due {
                    self.clean_up();
                }
                sampled = Some(Instant::now());
                if let Some((auto, controller)) = &mut controller {
                    match self.follow(auto, controller) {
                        Ok(held) => (holds, blind) = (held > 0, false),
                        Err(error) => {
                            if !blind {
                                warn!("cannot see how much memory there is: {error}");
                            }
                            blind = true;
                        }
                    }
                }
            }
            let pause = if holds { LOOK_EVERY } else { SAMPLE_EVERY };
            match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
    }

    /// One sample, and what follows from it. Returns how many bytes were lent before.
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
        let held = sample.held;
        let decision = controller.decide(&sample);
        let allowed = usize::try_from(decision.allowed).unwrap_or(usize::MAX) / SEGMENT_BYTES;
        self.service.state().store.allow(allowed);
        while self.service.state().store.give_back(SEGMENTS_AT_ONCE) == SEGMENTS_AT_ONCE {}
        self.service.state().store.keep(decision.pushing);
        while !self.service.state().store.change(SEGMENTS_AT_ONCE) {}
        self.lender.publish(&decision);
        if let Some(action) = &decision.action {
            self.lender.note(action.clone());
        }
        *self.lender.last.lock() = Some((sample, decision));
        Ok(held)
    }

    /// Forgets clients that have left, and what the kernel took.
    fn clean_up(&self) {
        let total = {
            let mut state = self.service.state();
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
