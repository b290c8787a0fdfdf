//! Who waits for an answer, and until when.
//!
//! An asker is told once: with the answer, or that there is none, be it that the deadline is over or that the
//! connection is lost. Whoever comes first tells it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::DEADLINE;
use super::server::GetAnswer;
use crate::sync::Mutex;

/// Deadlines are looked at so often at most: one that is over a little later costs less than a timer each.
const TICK: Duration = Duration::from_millis(5);

/// Takes the answer, and says whether it was of use.
type Then = Box<dyn FnOnce(Option<GetAnswer>) -> bool + Send>;

/// Who waits.
#[derive(Clone)]
pub(super) struct Asker(Arc<Mutex<Option<Then>>>);

impl Asker {
    /// One that does `then` with the answer, on the thread that tells it.
    pub(super) fn new(then: impl FnOnce(Option<GetAnswer>) -> bool + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(then)))))
    }

    /// Tells it. False if the answer is of no use any more.
    pub(super) fn tell(&self, answer: Option<GetAnswer>) -> bool {
        let then = self.0.lock().take();
        then.is_some_and(|then| then(answer))
    }
}

/// Those who wait without a thread, in the order of their deadlines.
#[derive(Default)]
pub(super) struct Deadlines {
    waiting: Mutex<VecDeque<(Instant, Asker)>>,
    begun: Notify,
}

impl Deadlines {
    /// Tells `asker` at its deadline that there is no answer.
    pub(super) fn add(&self, asker: Asker) {
        let deadline = Instant::now() + DEADLINE;
        let mut waiting = self.waiting.lock();
        waiting.push_back((deadline, asker));
        let first = waiting.len() == 1;
        drop(waiting);
        if first {
            self.begun.notify_one();
        }
    }

    /// Looks at them for ever.
    pub(super) async fn keep(&self) {
        loop {
            match self.expire(Instant::now()) {
                None => self.begun.notified().await,
                Some(left) => tokio::time::sleep(left.max(TICK)).await,
            }
        }
    }

    /// Tells those whose deadline is over, and says how long the next one has left.
    fn expire(&self, now: Instant) -> Option<Duration> {
        let mut waiting = self.waiting.lock();
        let late = waiting.iter().take_while(|(deadline, _)| *deadline <= now).count();
        let late: Vec<Asker> = waiting.drain(..late).map(|(_, asker)| asker).collect();
        let left = waiting.front().map(|(deadline, _)| *deadline - now);
        drop(waiting);
        for asker in late {
            asker.tell(None);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn an_asker_is_told_once_and_at_its_deadline_at_the_latest() {
        let told = Arc::new(AtomicUsize::new(0));
        let asker = || {
            let told = told.clone();
            Asker::new(move |answer| {
                assert!(answer.is_none());
                told.fetch_add(1, Ordering::Relaxed);
                true
            })
        };
        let deadlines = Deadlines::default();
        let (early, late) = (asker(), asker());
        deadlines.add(early.clone());
        deadlines.add(late.clone());
        assert!(early.tell(None) && !early.tell(None));
        let now = Instant::now();
        assert!(deadlines.expire(now).is_some_and(|left| left <= DEADLINE));
        assert_eq!(told.load(Ordering::Relaxed), 1);
        assert_eq!(deadlines.expire(now + DEADLINE + TICK), None);
        assert_eq!(told.load(Ordering::Relaxed), 2);
        assert!(!late.tell(None), "it was told at its deadline");
    }
}
