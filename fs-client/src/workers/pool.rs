//! The threads that do what may wait.
//!
//! The thread that went to sleep last is woken first: with little to do few threads work, whose stacks and caches
//! are warm. A thread without work sleeps at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle, Thread};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Threads: how many requests can be at the disk or the network at once, besides those that the request threads do
/// themselves.
const THREADS: usize = 32;

/// Jobs that wait for a thread.
const JOBS_MAX: usize = 128;

/// Bytes of data that jobs hold, waiting or being done: sixteen of the longest writes.
const BYTES_MAX: usize = 16 << 20;

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// Ends its threads when it is dropped, once all jobs are done.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// A job is done.
    room: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(Job, usize)>,
    /// Threads that sleep, the last one to do so last.
    idle: Vec<Thread>,
    /// Of all jobs that are not done.
    bytes: usize,
    closed: bool,
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// No more threads can be made.
    pub(super) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), room: Condvar::new() });
        let threads = (0..THREADS)
            .map(|n| {
                let shared = shared.clone();
                thread::Builder::new().name(format!("worker-{n}")).spawn(move || shared.work())
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self { shared, threads })
    }

    /// Takes a job that holds so many bytes of data; waits until there is room for it.
    pub(super) fn take(&self, job: Job, bytes: usize) {
        let mut state = self.shared.state.lock();
        while state.jobs.len() >= JOBS_MAX || state.bytes > 0 && state.bytes + bytes > BYTES_MAX {
            self.shared.room.wait(&mut state);
        }
        add(state, job, bytes);
    }

    /// Takes a job without data, however many wait.
    pub(super) fn take_at_once(&self, job: Job) {
        add(self.shared.state.lock(), job, 0);
    }

    /// Takes a job without data unless `jobs_max` wait already; gives it back then.
    pub(super) fn try_take(&self, job: Job, jobs_max: usize) -> Result<(), Job> {
        let state = self.shared.state.lock();
        if state.jobs.len() >= jobs_max {
            return Err(job);
        }
        add(state, job, 0);
        Ok(())
    }
}

/// Adds a job and wakes a thread for it, which finds the lock free.
fn add(mut state: MutexGuard<'_, State>, job: Job, bytes: usize) {
    state.bytes += bytes;
    state.jobs.push_back((job, bytes));
    let idle = state.idle.pop();
    drop(state);
    if let Some(idle) = idle {
        idle.unpark();
    }
}

impl Shared {
    /// One thread's life.
    fn work(&self) {
        let this = thread::current();
        let mut state = self.state.lock();
        loop {
            if let Some((job, bytes)) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.state.lock();
                state.bytes -= bytes;
                // Those who wait, wait for different things.
                self.room.notify_all();
            } else if state.closed {
                return;
            } else {
                state.idle.push(this.clone());
                drop(state);
                thread::park();
                state = self.state.lock();
                // It may wake by itself, and stand there still.
                state.idle.retain(|thread| thread.id() != this.id());
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        state.idle.drain(..).for_each(|thread| thread.unpark());
        drop(state);
        let this = thread::current().id();
        for thread in self.threads.drain(..) {
            // The last holder may be a job: its thread cannot wait for itself.
            if thread.thread().id() != this {
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn every_job_is_done_before_the_end() {
        let pool = Pool::start().unwrap();
        let (done, results) = channel();
        for n in 0..1000 {
            let done = done.clone();
            pool.take(Box::new(move || done.send(n).unwrap()), 0);
        }
        drop((pool, done));
        let mut results: Vec<i32> = results.iter().collect();
        results.sort_unstable();
        assert_eq!(results, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn data_beyond_the_limit_waits_until_a_job_is_done() {
        let pool = Arc::new(Pool::start().unwrap());
        let (go, waits) = channel::<()>();
        pool.take(Box::new(move || waits.recv().unwrap()), BYTES_MAX);
        let (taken, took) = channel();
        let taker = {
            let pool = pool.clone();
            thread::spawn(move || {
                pool.take(Box::new(|| {}), 1);
                taken.send(()).unwrap();
            })
        };
        assert!(took.recv_timeout(Duration::from_millis(50)).is_err(), "there is no room");
        go.send(()).unwrap();
        took.recv().unwrap();
        taker.join().unwrap();
    }

    #[test]
    fn a_job_is_given_back_where_too_many_wait() {
        let pool = Pool::start().unwrap();
        assert!(pool.try_take(Box::new(|| {}), 0).is_err());
        assert!(pool.try_take(Box::new(|| {}), 1000).is_ok());
    }
}
