//! Who does what a request needs beyond memory: the disk, the network, a slow system call.
//!
//! The thread that took a request also does its slow part, as long as another thread is left to
//! take the next one: a hand-off costs more than the work when little is going on. Past that,
//! the work goes to a pool.

mod pool;

use self::pool::Pool;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// With so many jobs waiting there is no room for one that nobody waits for.
const SPARE_JOBS_MAX: usize = 32;

/// The pool and the seats.
pub(crate) struct Workers {
    pool: Option<Pool>,
    /// How many request threads may still do slow work themselves.
    seats: AtomicUsize,
}

/// A request thread that does slow work itself, until this is dropped.
pub(crate) struct Seat<'a>(&'a AtomicUsize);

impl Workers {
    /// Starts the pool beside `request_threads` threads that take requests.
    ///
    /// # Errors
    /// No more threads can be made.
    pub(crate) fn start(request_threads: usize) -> std::io::Result<Self> {
        let seats = AtomicUsize::new(request_threads.saturating_sub(1));
        Ok(Self { pool: Some(Pool::start()?), seats })
    }

    /// Seats for so many request threads but one, and no pool: what must be handed over gets a thread of its own.
    #[cfg(all(test, feature = "shuttle"))]
    pub(crate) fn seats_only(request_threads: usize) -> Self {
        let seats = AtomicUsize::new(request_threads.saturating_sub(1));
        Self { pool: None, seats }
    }

    /// A seat for the calling request thread, if another thread is left to take requests.
    pub(crate) fn seat(&self) -> Option<Seat<'_>> {
        self.seats
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1))
            .ok()
            .map(|_| Seat(&self.seats))
    }

    /// Does a request's slow work, here if there is a seat, else in the pool, and answers it. The
    /// seat is given up before the answer, upon which the next request may come.
    pub(crate) fn run<T>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        answer: impl FnOnce(T) + Send + 'static,
    ) {
        match self.seat() {
            Some(seat) => {
                let done = work();
                drop(seat);
                answer(done);
            }
            None => self.hand_over(0, move || answer(work())),
        }
    }

    /// Gives the pool a job that a request waits for, and that holds so many bytes of data. Waits where the pool has
    /// no room.
    pub(crate) fn hand_over(&self, bytes: usize, job: impl FnOnce() + Send + 'static) {
        if let Some(pool) = &self.pool {
            pool.take(Box::new(job), bytes);
        }
    }

    /// Gives the pool a job that a request waits for, from a thread that must not wait. The job holds no data, and
    /// leads no flight.
    pub(crate) fn hand_over_at_once(&self, job: impl FnOnce() + Send + 'static) {
        match &self.pool {
            Some(pool) => pool.take_at_once(Box::new(job)),
            // Only the tests of races have no pool.
            #[cfg(feature = "shuttle")]
            None => drop(shuttle::thread::spawn(job)),
            #[cfg(not(feature = "shuttle"))]
            None => {}
        }
    }

    /// Gives the pool a job that nobody waits for, unless it is busy: then the job is dropped.
    pub(crate) fn try_hand_over(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(pool) = &self.pool {
            drop(pool.try_take(Box::new(job), SPARE_JOBS_MAX));
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn the_last_request_thread_never_does_slow_work_itself() {
        let workers = Workers::start(2).unwrap();
        let seat = workers.seat().unwrap();
        assert!(workers.seat().is_none());
        let here = thread::current().id();
        let (done, result) = mpsc::channel();
        workers.run(|| thread::current().id(), move |id| done.send(id).unwrap());
        assert_ne!(result.recv().unwrap(), here);
        drop(seat);
        let (done, result) = mpsc::channel();
        workers.run(|| thread::current().id(), move |id| done.send(id).unwrap());
        assert_eq!(result.recv().unwrap(), here);
    }

    #[test]
    fn the_seat_is_free_again_before_the_answer() {
        let workers = std::sync::Arc::new(Workers::start(2).unwrap());
        let (working, answering) = (workers.clone(), workers.clone());
        let (done, result) = mpsc::channel();
        workers.run(
            move || working.seat().is_some(),
            move |free| done.send((free, answering.seat().is_some())).unwrap(),
        );
        assert_eq!(result.recv().unwrap(), (false, true));
    }
}
