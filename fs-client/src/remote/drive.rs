//! Connections that can be driven on another thread than the tier's.
//!
//! A request that is handed to the tier's thread waits until that has woken up. Where it sleeps, whoever asks does better to
//! write the request, have QUIC make a packet of it, and send it, all on its own thread: see [`Drive::here`]. The tier's thread wakes
//! up when the answer comes. Where it is awake, it is handed what is to be sent, and sends much at once.
//!
//! QUIC's timers are the tier's thread's business: those that a connection wants while it is driven elsewhere are set
//! at the next tick, with [`Drive::catch_up`].

use std::cell::RefCell;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::runtime::Handle;
use tokio::time::Sleep;

use super::asker::TICK;

thread_local! {
    /// The tasks that were woken here, while this thread is to drive them itself.
    static WOKEN: RefCell<Option<Vec<Arc<Task>>>> = const { RefCell::new(None) };
}

/// What drives the tier's connections.
#[derive(Debug, Default)]
pub(super) struct Drive {
    /// The tier's thread waits for something to happen.
    is_asleep: AtomicBool,
    /// Tasks that were driven on other threads since the last tick.
    driven: Mutex<Vec<Arc<Task>>>,
}

/// quinn's way to the tier's thread.
#[derive(Debug)]
pub(super) struct DrivenRuntime;

/// A task of quinn's.
struct Task {
    /// None when it has ended.
    future: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    /// Has the tier's thread poll it.
    tier: AtomicWaker,
    /// It is in the list of those that were driven elsewhere.
    is_noted: AtomicBool,
}

/// A task as the tier's runtime has it. It ends with the runtime, whoever else knows it: its own wakers do.
struct Spawned(Arc<Task>);

/// A timer that is set by the tier's thread only.
#[derive(Debug)]
struct Timer {
    wanted: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Drive {
    /// The tier's runtime says when its thread goes to sleep, and when it wakes up.
    pub(super) fn watch(self: &Arc<Self>, runtime: &mut tokio::runtime::Builder) {
        let (parks, unparks) = (self.clone(), self.clone());
        runtime.on_thread_park(move || parks.is_asleep.store(true, Relaxed));
        runtime.on_thread_unpark(move || unparks.is_asleep.store(false, Relaxed));
    }

    /// Whether the tier's thread would have to be woken up.
    pub(super) fn is_asleep(&self) -> bool {
        self.is_asleep.load(Relaxed)
    }

    /// Does `act`, then drives those connections that it has given something to do, on this thread. The tier's thread must be
    /// ticking, or be told to.
    pub(super) fn here(&self, act: impl FnOnce()) {
        debug_assert!(WOKEN.with_borrow(Option::is_none), "nobody asks while it asks");
        WOKEN.set(Some(Vec::new()));
        act();
        // From here on tasks are woken as usual: what else there is to do is not this thread's.
        for task in WOKEN.take().into_iter().flatten() {
            task.poll_here(self);
        }
    }

    /// Has the tier's thread look at what was driven elsewhere.
    pub(super) fn catch_up(&self) {
        let driven = std::mem::take(&mut *self.driven.lock());
        for task in driven {
            task.is_noted.store(false, Relaxed);
            task.tier.wake();
        }
    }
}

impl Task {
    /// Polls it; `ready` when it has ended.
    fn poll(
        self: &Arc<Self>,
        future: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    ) -> Poll<()> {
        let Some(running) = future else { return Poll::Ready(()) };
        let waker = Waker::from(self.clone());
        let polled = running.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            *future = None;
        }
        polled
    }

    fn poll_here(self: Arc<Self>, drive: &Drive) {
        let Some(mut future) = self.future.try_lock() else {
            // Another thread has begun before: it may have missed what is new.
            return self.tier.wake();
        };
        let ended = self.poll(&mut future).is_ready();
        drop(future);
        if ended {
            self.tier.wake();
        } else if !self.is_noted.swap(true, Relaxed) {
            drive.driven.lock().push(self.clone());
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let future = self.0.future.lock().take();
        drop(future);
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let taken = WOKEN.with_borrow_mut(|woken| match woken {
            Some(woken) => {
                woken.push(self.clone());
                true
            }
            None => false,
        });
        if !taken {
            self.tier.wake();
        }
    }
}

impl Runtime for DrivenRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Timer { wanted: at, sleep: None })
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let future = Mutex::new(Some(future));
        let (tier, is_noted) = (AtomicWaker::new(), AtomicBool::new(false));
        let task = Spawned(Arc::new(Task { future, tier, is_noted }));
        tokio::spawn(std::future::poll_fn(move |context| {
            let Spawned(task) = &task;
            task.tier.register(context.waker());
            task.poll(&mut task.future.lock())
        }));
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }
}

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.wanted = at;
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Handle::try_current().is_err() {
            // To set it here would wake up the tier's thread, which is worth it only where a tick is too late.
            if self.wanted < Instant::now() + TICK {
                context.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        let wanted = self.wanted.into();
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(wanted)));
        if sleep.deadline() != wanted {
            sleep.as_mut().reset(wanted);
        }
        Future::poll(sleep.as_mut(), context)
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Task")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex as StdMutex;
    use std::sync::atomic::AtomicUsize;
    use std::thread::{self, ThreadId};
    use std::time::Duration;

    /// A task that notes on which threads it was polled.
    #[derive(Clone, Default)]
    struct Noted {
        polls: Arc<StdMutex<Vec<ThreadId>>>,
        waker: Arc<StdMutex<Option<Waker>>>,
        ends: Arc<AtomicBool>,
    }

    impl Future for Noted {
        type Output = ();

        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            *self.waker.lock().unwrap() = Some(context.waker().clone());
            self.polls.lock().unwrap().push(thread::current().id());
            if self.ends.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    impl Noted {
        fn wake(&self) {
            let waker = self.waker.lock().unwrap().take();
            waker.unwrap().wake();
        }

        fn polls(&self) -> Vec<ThreadId> {
            self.polls.lock().unwrap().clone()
        }

        fn wait_for_polls(&self, count: usize) {
            for _ in 0..2_000 {
                if self.polls().len() >= count {
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
            panic!("{:?}", self.polls());
        }
    }

    /// A runtime on a thread of its own, with one task; what is sent to it, it awaits.
    fn driven(noted: &Noted) -> (Arc<Drive>, ThreadId, tokio::sync::mpsc::Sender<()>) {
        let drive = Arc::new(Drive::default());
        let (stop, mut stopped) = tokio::sync::mpsc::channel(1);
        let (theirs, task) = (drive.clone(), noted.clone());
        let thread = thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            theirs.watch(&mut builder);
            builder.enable_all().build().unwrap().block_on(async {
                DrivenRuntime.spawn(Box::pin(task));
                while stopped.recv().await.is_some() {
                    theirs.catch_up();
                }
            });
        });
        noted.wait_for_polls(1);
        wait_until_asleep(&drive);
        (drive, thread.thread().id(), stop)
    }

    fn wait_until_asleep(drive: &Drive) {
        for _ in 0..5_000 {
            if drive.is_asleep() {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("it does not go to sleep");
    }

    #[test]
    fn who_gives_a_task_something_to_do_drives_it() {
        let noted = Noted::default();
        let (drive, tier, tick) = driven(&noted);
        let here = thread::current().id();
        drive.here(|| noted.wake());
        assert_eq!(noted.polls(), [tier, here]);
        noted.wake();
        noted.wait_for_polls(3);
        assert_eq!(noted.polls(), [tier, here, tier], "woken as usual");
        wait_until_asleep(&drive);
        tick.blocking_send(()).unwrap();
        noted.wait_for_polls(4);
        assert_eq!(noted.polls()[3], tier, "it was driven elsewhere meanwhile");
        wait_until_asleep(&drive);
        noted.ends.store(true, Relaxed);
        drive.here(|| noted.wake());
        assert_eq!(noted.polls(), [tier, here, tier, tier, here]);
    }

    #[test]
    fn a_timer_that_is_set_elsewhere_rings_after_the_next_tick() {
        /// A task with a timer of 20 ms, which is reset at each poll but those on the tier's thread.
        struct Timed(Pin<Box<dyn AsyncTimer>>, Arc<AtomicUsize>, Noted, Instant);
        impl Future for Timed {
            type Output = ();

            fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
                let _ = Pin::new(&mut self.2).poll(context);
                if Handle::try_current().is_err() {
                    let soon = self.3 + Duration::from_millis(20);
                    self.0.as_mut().reset(soon);
                }
                if self.0.as_mut().poll(context).is_ready() {
                    self.1.fetch_add(1, Relaxed);
                    return Poll::Ready(());
                }
                Poll::Pending
            }
        }
        let drive = Arc::new(Drive::default());
        let (noted, rang) = (Noted::default(), Arc::new(AtomicUsize::new(0)));
        let (task, counter, theirs) = (noted.clone(), rang.clone(), drive.clone());
        let tier = thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            theirs.watch(&mut builder);
            builder.enable_all().build().unwrap().block_on(async {
                let now = Instant::now();
                let timer = DrivenRuntime.new_timer(now + Duration::from_secs(3600));
                DrivenRuntime.spawn(Box::pin(Timed(timer, counter.clone(), task, now)));
                for _ in 0..1_000 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    theirs.catch_up();
                    if counter.load(Relaxed) > 0 {
                        return;
                    }
                }
            });
        });
        noted.wait_for_polls(1);
        wait_until_asleep(&drive);
        drive.here(|| noted.wake());
        tier.join().unwrap();
        assert_eq!(rang.load(Relaxed), 1);
    }
}
