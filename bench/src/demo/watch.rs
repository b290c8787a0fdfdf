//! Readers on threads of their own, watched from the main thread.
//!
//! A read through a mount whose daemon hangs never returns, and a thread in it cannot be joined.
//! The watcher therefore ends the daemon when nothing moves any more: the kernel then fails every
//! read of its mount, and the threads come back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::daemon::Daemon;
use crate::stop::Stop;

/// Threads that read.
pub(super) const READERS: usize = 4;

const TICK: Duration = Duration::from_millis(20);
/// No read may take longer, whatever happens to servers: then the mount hangs.
const STALL_MAX: Duration = Duration::from_secs(30);
/// The same once we were asked to end.
const STALL_MAX_ENDING: Duration = Duration::from_secs(3);

/// Work items that readers take one after the other.
pub(super) struct Queue {
    next: AtomicUsize,
    done: AtomicUsize,
    len: usize,
    closed: AtomicBool,
}

impl Queue {
    /// Items 0 to `len`.
    pub(super) fn new(len: usize) -> Self {
        Self {
            next: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            len,
            closed: AtomicBool::new(false),
        }
    }

    /// The next item; none when all are taken or it is time to end.
    pub(super) fn take(&self) -> Option<usize> {
        if self.closed.load(Relaxed) {
            return None;
        }
        let item = self.next.fetch_add(1, Relaxed);
        (item < self.len).then_some(item)
    }

    /// An item is done.
    pub(super) fn finished(&self) {
        self.done.fetch_add(1, Relaxed);
    }

    /// How many are done.
    pub(super) fn done(&self) -> usize {
        self.done.load(Relaxed)
    }

    /// No further item is given out.
    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// Runs `read` on each of the reader threads and `tick` on this one until all items of `queue` are
/// done. `progress` tells how far things are, in any unit: when it stands still for too long, the
/// mount's daemon is ended.
pub(super) fn watch<T: Send>(
    queue: &Queue,
    daemon: &mut Daemon,
    stop: &Stop,
    read: impl Fn() -> T + Sync,
    progress: impl Fn() -> u64,
    mut tick: impl FnMut() -> Result<()>,
) -> Result<Vec<T>> {
    let mut outcome = Ok(());
    let results = thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(&read)).collect();
        let mut last = (progress(), Instant::now());
        while readers.iter().any(|reader| !reader.is_finished()) {
            thread::sleep(TICK);
            if stop.requested() {
                queue.close();
            } else if outcome.is_ok() {
                outcome = tick();
                if outcome.is_err() {
                    queue.close();
                }
            }
            let now = progress();
            if now != last.0 {
                last = (now, Instant::now());
            }
            let patience = if stop.requested() { STALL_MAX_ENDING } else { STALL_MAX };
            if last.1.elapsed() > patience {
                queue.close();
                let _ = daemon.kill();
                if outcome.is_ok() {
                    outcome = stalled(patience);
                }
                last.1 = Instant::now();
            }
        }
        readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader does not panic"))
            .collect::<Vec<_>>()
    });
    stop.check()?;
    outcome?;
    Ok(results)
}

fn stalled(patience: Duration) -> Result<()> {
    bail!("the mount answered nothing for {} s and was ended", patience.as_secs());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_given_out_once_until_the_queue_is_closed() {
        let queue = Queue::new(3);
        assert_eq!([queue.take(), queue.take()], [Some(0), Some(1)]);
        queue.finished();
        assert_eq!((queue.done(), queue.len()), (1, 3));
        queue.close();
        assert_eq!(queue.take(), None);
        let queue = Queue::new(1);
        assert_eq!([queue.take(), queue.take()], [Some(0), None]);
    }
}
