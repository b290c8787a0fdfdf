//! Who waits for an answer, and until when.
//!
//! An asker is told once: by the server's answer, by whoever has read the source meanwhile because the answer was
//! late, or that there is none. Whoever comes first tells it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::hedge::Wait;
use super::server::{GetAnswer, Server};
use crate::arena::Empty;
use crate::sync::{Mutex, MutexGuard};

/// What an asker is told.
pub(super) enum Told {
    /// A server's answer.
    Answer(GetAnswer),
    /// The blocks, which the source gave.
    Source(Vec<Empty>),
    /// Nothing comes.
    Nothing,
}

/// Does what is to be done when it is told.
pub(super) trait Waits: Send {
    /// On the thread that tells it. Says whether it was of use.
    fn told(self: Box<Self>, told: Told) -> bool;

    /// The answer is late: how to read the source as well, if that can be done.
    fn source_read(&self) -> Option<SourceRead>;

    /// The server has had its time, and the source is being read: who waits for the same must not wait for that.
    fn given_up(&mut self);
}

/// Has the source read what is asked for, on another thread.
pub(crate) type SourceRead = Box<dyn FnOnce(Hedge) + Send>;

/// Who waits.
#[derive(Clone)]
pub(super) struct Asker(Arc<Mutex<Waiting>>);

struct Waiting {
    /// None when it was told.
    waits: Option<Box<dyn Waits>>,
    /// The server has answered, or its connection is lost.
    is_answered: bool,
    /// The server may still answer in time.
    expects_server: bool,
    /// The source is being read as well.
    expects_source: bool,
}

/// The second way to what an asker waits for. Dropping it says that nothing comes this way.
pub(crate) struct Hedge(Asker);

impl Asker {
    pub(super) fn new(waits: impl Waits + 'static) -> Self {
        let waits: Option<Box<dyn Waits>> = Some(Box::new(waits));
        let (is_answered, expects_server, expects_source) = (false, true, false);
        Self(Arc::new(Mutex::new(Waiting { waits, is_answered, expects_server, expects_source })))
    }

    /// Tells it what its server answered, or that the server does not. False if that is of no use any more.
    pub(super) fn answer(&self, answer: Option<GetAnswer>) -> bool {
        let mut waiting = self.0.lock();
        waiting.is_answered = true;
        let Some(answer) = answer else {
            let waits = waiting.server_gives_nothing();
            drop(waiting);
            return waits.is_some_and(|waits| waits.told(Told::Nothing));
        };
        let waits = waiting.waits.take();
        drop(waiting);
        waits.is_some_and(|waits| waits.told(Told::Answer(answer)))
    }

    /// Has the source read as well.
    pub(super) fn hedge(&self) {
        let mut waiting = self.0.lock();
        let read = waiting.waits.as_ref().and_then(|waits| waits.source_read());
        waiting.expects_source = read.is_some();
        drop(waiting);
        if let Some(read) = read {
            read(Hedge(self.clone()));
        }
    }

    /// Its time is over. True if the server has not answered.
    pub(super) fn expire(&self) -> bool {
        let mut waiting = self.0.lock();
        let is_late = !waiting.is_answered;
        let waits = waiting.server_gives_nothing();
        drop(waiting);
        if let Some(waits) = waits {
            waits.told(Told::Nothing);
        }
        is_late
    }

    fn is_answered(&self) -> bool {
        self.0.lock().is_answered
    }
}

impl Waiting {
    /// Who is to be told so, unless the source may still give it.
    fn server_gives_nothing(&mut self) -> Option<Box<dyn Waits>> {
        self.expects_server = false;
        if !self.expects_source {
            return self.waits.take();
        }
        if let Some(waits) = &mut self.waits {
            waits.given_up();
        }
        None
    }
}

impl Hedge {
    /// The source has given the blocks.
    pub(crate) fn tell(self, slots: Vec<Empty>) {
        let waits = self.0.0.lock().waits.take();
        if let Some(waits) = waits {
            waits.told(Told::Source(slots));
        }
    }
}

impl Drop for Hedge {
    fn drop(&mut self) {
        let mut waiting = self.0.0.lock();
        waiting.expects_source = false;
        let waits = if waiting.expects_server { None } else { waiting.waits.take() };
        drop(waiting);
        if let Some(waits) = waits {
            waits.told(Told::Nothing);
        }
    }
}

/// Those who wait without a thread are looked at so often: what is late by less costs less than a timer each.
pub(super) const TICK: Duration = Duration::from_millis(2);
/// Ticks that lie ahead at most.
const TICKS: usize = 64;
/// After so many ticks for nobody there are no more until somebody waits again. To begin with them wakes a thread up,
/// which costs a reader more than some ticks cost.
const TICKS_FOR_NOBODY: u32 = 25;

/// Those who wait without a thread, in a ring of ticks.
pub(super) struct Deadlines {
    ring: Mutex<Ring>,
    begun: Notify,
}

struct Ring {
    /// Somebody looks at it at each tick.
    is_ticking: bool,
    started: Instant,
    /// Ticks that are over.
    passed: u64,
    ticks: [Vec<Due>; TICKS],
    waiting: usize,
}

/// Something to be looked at.
struct Due {
    asker: Asker,
    server: Arc<Server>,
    /// How much longer it may take after this; none if this is the deadline.
    left: Option<Duration>,
}

impl Deadlines {
    pub(super) fn new(now: Instant) -> Self {
        let ticks = std::array::from_fn(|_| Vec::new());
        let ring = Ring { is_ticking: false, started: now, passed: 0, ticks, waiting: 0 };
        Self { ring: Mutex::new(ring), begun: Notify::new() }
    }

    /// Looks after `asker`, who has asked `server` at `now`.
    pub(super) fn add(&self, asker: Asker, server: Arc<Server>, wait: Wait, now: Instant) {
        let left = (wait.hedge < wait.deadline).then(|| wait.deadline - wait.hedge);
        let mut ring = self.ring.lock();
        ring.add(Due { asker, server, left }, now, now + wait.hedge);
        self.begin(ring);
    }

    /// Has the ticks go on for a while.
    pub(super) fn tick(&self) {
        self.begin(self.ring.lock());
    }

    fn begin(&self, mut ring: MutexGuard<'_, Ring>) {
        let was_ticking = std::mem::replace(&mut ring.is_ticking, true);
        drop(ring);
        if !was_ticking {
            self.begun.notify_one();
        }
    }

    /// How many are looked after, answered or not.
    pub(super) fn waiting(&self) -> usize {
        self.ring.lock().waiting
    }

    /// Looks at them for ever. `late` is called for each whose server has not answered in time, `each` at each tick.
    pub(super) async fn keep(&self, late: impl Fn(&Server), each: impl Fn()) {
        let mut for_nobody = 0;
        loop {
            each();
            let waiting = self.look(Instant::now(), &late);
            for_nobody = if waiting > 0 { 0 } else { for_nobody + 1 };
            if for_nobody > TICKS_FOR_NOBODY && self.ring.lock().stop() {
                // Whoever saw it tick meanwhile has not said that it is to begin.
                each();
                for_nobody = 0;
                self.begun.notified().await;
            }
            let before = Instant::now();
            tokio::time::sleep(TICK).await;
            // This thread did not get a CPU: answers that have come meanwhile are not late, and come first.
            if before.elapsed() > 3 * TICK {
                tokio::time::sleep(TICK).await;
            }
        }
    }

    /// Looks at those whose time has come, and says how many are left.
    fn look(&self, now: Instant, late: &impl Fn(&Server)) -> usize {
        let due = self.ring.lock().take(now);
        for Due { asker, server, left } in due {
            if asker.is_answered() {
                continue;
            }
            match left {
                Some(left) => {
                    if server.may_hedge() {
                        asker.hedge();
                    }
                    self.ring.lock().add(Due { asker, server, left: None }, now, now + left);
                }
                None => {
                    if asker.expire() {
                        late(&server);
                    }
                }
            }
        }
        self.ring.lock().waiting
    }
}

impl Ring {
    /// No more ticks, if nobody waits.
    fn stop(&mut self) -> bool {
        self.is_ticking = self.waiting > 0;
        !self.is_ticking
    }

    fn add(&mut self, due: Due, now: Instant, at: Instant) {
        if self.waiting == 0 {
            // Nobody has looked at the time meanwhile.
            self.passed = self.passed.max(self.over(now));
        }
        let tick = self.over(at) + 1;
        let tick = tick.clamp(self.passed + 1, self.passed + TICKS as u64 - 1);
        self.ticks[tick as usize % TICKS].push(due);
        self.waiting += 1;
    }

    /// How many ticks are over at `now`.
    fn over(&self, now: Instant) -> u64 {
        (now.saturating_duration_since(self.started).as_nanos() / TICK.as_nanos()) as u64
    }

    /// Those whose time has come.
    fn take(&mut self, now: Instant) -> Vec<Due> {
        let over = self.over(now);
        let mut due = Vec::new();
        while self.passed < over {
            self.passed += 1;
            due.append(&mut self.ticks[self.passed as usize % TICKS]);
            // Ticks in which nobody waits are not gone through one by one.
            if due.len() == self.waiting {
                self.passed = over;
            }
        }
        self.waiting -= due.len();
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::ServerAddress;
    use crate::remote::seal::SealCount;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    /// Counts how often it was told, and how often a second way was asked for.
    #[derive(Clone, Default)]
    struct Counter(Arc<[AtomicUsize; 3]>);

    impl Waits for Counter {
        fn told(self: Box<Self>, told: Told) -> bool {
            self.0[if matches!(told, Told::Source(_)) { 1 } else { 0 }].fetch_add(1, Relaxed);
            true
        }

        fn source_read(&self) -> Option<SourceRead> {
            self.0[2].fetch_add(1, Relaxed);
            Some(Box::new(|hedge| hedge.tell(Vec::new())))
        }

        fn given_up(&mut self) {}
    }

    impl Counter {
        fn counts(&self) -> [usize; 3] {
            [0, 1, 2].map(|n| self.0[n].load(Relaxed))
        }
    }

    fn server() -> Arc<Server> {
        let found = ([127, 0, 0, 1], 1).into();
        Arc::new(Server::new(ServerAddress { shown: "here".to_owned(), found }, SealCount(0)).0)
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn an_asker_is_told_once() {
        let counter = Counter::default();
        let asker = Asker::new(counter.clone());
        assert!(asker.answer(None) && !asker.answer(None));
        asker.hedge();
        assert!(!asker.expire(), "it was answered");
        assert_eq!(counter.counts(), [1, 0, 0]);
    }

    #[test]
    fn what_is_late_is_read_twice_and_given_up_at_its_deadline() {
        let start = Instant::now();
        let deadlines = Deadlines::new(start);
        let given_up = AtomicUsize::new(0);
        let late = |_: &Server| {
            given_up.fetch_add(1, Relaxed);
        };
        let counters = [Counter::default(), Counter::default()];
        let waits = [(4 * MS, 20 * MS), (10 * MS, 10 * MS)];
        for (counter, (hedge, deadline)) in counters.iter().zip(waits) {
            let asker = Asker::new(counter.clone());
            deadlines.add(asker, server(), Wait { hedge, deadline }, start);
        }
        assert_eq!(deadlines.look(start + 3 * MS, &late), 2);
        assert_eq!(deadlines.look(start + 7 * MS, &late), 2);
        assert_eq!(counters[0].counts(), [0, 1, 1], "the second way was faster");
        assert_eq!(counters[1].counts(), [0, 0, 0]);
        assert_eq!(deadlines.look(start + 14 * MS, &late), 1);
        assert_eq!(counters[1].counts(), [1, 0, 0], "nothing comes");
        assert_eq!(deadlines.look(start + 40 * MS, &late), 0);
        assert_eq!((counters[0].counts(), given_up.into_inner()), ([0, 1, 1], 2));
    }

    /// Its source takes its time: whoever has the hedge ends it.
    struct Slow(Arc<Mutex<(Vec<&'static str>, Option<Hedge>)>>);

    impl Waits for Slow {
        fn told(self: Box<Self>, told: Told) -> bool {
            self.0.lock().0.push(match told {
                Told::Answer(_) => "answer",
                Told::Source(_) => "source",
                Told::Nothing => "nothing",
            });
            true
        }

        fn source_read(&self) -> Option<SourceRead> {
            let seen = self.0.clone();
            Some(Box::new(move |hedge| seen.lock().1 = Some(hedge)))
        }

        fn given_up(&mut self) {
            self.0.lock().0.push("given up");
        }
    }

    #[test]
    fn one_way_that_fails_leaves_the_other() {
        let slow = || {
            let seen = Arc::new(Mutex::new((Vec::new(), None)));
            let asker = Asker::new(Slow(seen.clone()));
            asker.hedge();
            let hedge = seen.lock().1.take().unwrap();
            (asker, hedge, move || seen.lock().0.clone())
        };
        let (asker, hedge, seen) = slow();
        assert!(asker.expire());
        assert_eq!(seen(), ["given up"], "the source may still give it");
        hedge.tell(Vec::new());
        assert_eq!(seen(), ["given up", "source"]);

        let (asker, hedge, seen) = slow();
        asker.answer(None);
        drop(hedge);
        assert_eq!(seen(), ["given up", "nothing"]);
        assert!(!asker.expire());

        let (asker, hedge, seen) = slow();
        drop(hedge);
        assert_eq!(seen(), [""; 0], "the server may still answer");
        assert!(asker.expire());
        assert_eq!(seen(), ["nothing"]);
    }

    #[test]
    fn after_a_quiet_time_the_next_one_has_its_time() {
        let start = Instant::now();
        let deadlines = Deadlines::new(start);
        let late = |_: &Server| ();
        let wait = Wait { hedge: 20 * MS, deadline: 20 * MS };
        for quiet in [0, 1, 7, 3600] {
            let now = start + quiet * Duration::from_secs(1);
            let counter = Counter::default();
            deadlines.add(Asker::new(counter.clone()), server(), wait, now);
            assert_eq!(deadlines.look(now + 18 * MS, &late), 1);
            assert_eq!(counter.counts(), [0, 0, 0]);
            assert_eq!(deadlines.look(now + 24 * MS, &late), 0);
            assert_eq!(counter.counts(), [1, 0, 0]);
        }
    }

    #[test]
    fn the_ring_goes_round() {
        let start = Instant::now();
        let deadlines = Deadlines::new(start);
        let late = |_: &Server| ();
        for round in 0..1000 {
            let now = start + round * 7 * MS;
            let counter = Counter::default();
            let wait = Wait { hedge: 90 * MS, deadline: 90 * MS };
            deadlines.add(Asker::new(counter.clone()), server(), wait, now);
            assert!(deadlines.look(now, &late) <= 14);
            assert_eq!(counter.counts(), [0, 0, 0]);
            if round % 100 == 99 {
                assert_eq!(deadlines.look(now + 95 * MS, &late), 0);
                assert_eq!(counter.counts(), [1, 0, 0]);
            }
        }
    }
}
