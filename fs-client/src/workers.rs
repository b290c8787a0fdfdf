//! Who does what a request needs beyond memory: the disk, the network, a slow system call.
//!
//! The thread that took a request also does its slow part, as long as another thread is left to
//! take the next one: a hand-off costs more than the work when little is going on. Past that,
//! the work goes to a pool.

use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, TrySendError, bounded};

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::spawn;

/// Threads of the pool: how many requests can be at the disk or the network at once, besides
/// those that the request threads do themselves.
const POOL_THREADS: usize = 32;

/// Jobs that wait for a thread of the pool, each of which may hold a write of 1 MiB. A request
/// thread that finds no place waits.
const QUEUE_MAX: usize = 128;

/// The pool and the seats. Its channel looks again for a moment before a thread sleeps, which is
/// worth a tenth of the remote hits, with one reader as with sixteen: waking a thread costs more.
#[derive(Debug)]
pub(crate) struct Workers {
    queue: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    /// How many request threads may still do slow work themselves.
    seats: AtomicUsize,
}

type Job = Box<dyn FnOnce() + Send>;

/// A request thread that does slow work itself, until this is dropped.
pub(crate) struct Seat<'a>(&'a AtomicUsize);

impl Workers {
    /// Starts the pool beside `request_threads` threads that take requests.
    ///
    /// # Errors
    /// No more threads can be made.
    pub(crate) fn start(request_threads: usize) -> std::io::Result<Self> {
        let (queue, jobs) = bounded::<Job>(QUEUE_MAX);
        let threads = (0..POOL_THREADS)
            .map(|n| {
                let jobs = jobs.clone();
                thread::Builder::new().name(format!("worker-{n}")).spawn(move || {
                    for job in jobs {
                        job();
                    }
                })
            })
            .collect::<std::io::Result<_>>()?;
        let seats = AtomicUsize::new(request_threads.saturating_sub(1));
        Ok(Self { queue: Some(queue), threads, seats })
    }

    /// Seats for so many request threads but one, and no pool: nothing can be handed over.
    #[cfg(all(test, feature = "shuttle"))]
    pub(crate) fn seats_only(request_threads: usize) -> Self {
        let seats = AtomicUsize::new(request_threads.saturating_sub(1));
        Self { queue: None, threads: Vec::new(), seats }
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
            None => self.hand_over(Box::new(move || answer(work()))),
        }
    }

    /// Gives the pool a job that a request waits for.
    pub(crate) fn hand_over(&self, job: Job) {
        // Fails only when the pool is gone, and it goes with the last request.
        if let Some(queue) = &self.queue {
            let _ = queue.send(job);
        }
    }

    /// The same from a thread that must not wait: where the pool has no place, a thread of its own does the job.
    pub(crate) fn hand_over_at_once(&self, job: Job) {
        let left = match &self.queue {
            Some(queue) => queue.try_send(job).err().map(TrySendError::into_inner),
            None => Some(job),
        };
        if let Some(job) = left
            && let Err(error) = spawn(job)
        {
            // The job is gone, and its request is answered with EIO.
            tracing::warn!(%error, "no thread for a request");
        }
    }

    /// Gives the pool a job that nobody waits for, unless it is busy: then the job is dropped.
    pub(crate) fn try_hand_over(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(queue) = &self.queue
            && queue.len() < POOL_THREADS
        {
            let _ = queue.try_send(Box::new(job));
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        drop(self.queue.take());
        let this = thread::current().id();
        for thread in self.threads.drain(..) {
            // The last holder may be a job: its thread cannot wait for itself.
            if thread.thread().id() != this {
                let _ = thread.join();
            }
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
