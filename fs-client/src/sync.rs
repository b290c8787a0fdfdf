//! The locks and atomics of what threads race for.
//!
//! They are parking_lot's, dashmap's and the standard library's. With the feature `shuttle` they
//! are shuttle's, which decides at each of them which thread goes on; the tests in `races/` are
//! built that way.
//!
//! Shuttle's threads are one thread of the system. So no lock of any other kind may be held where
//! one of these is used: that thread would wait for itself.

#[cfg(not(feature = "shuttle"))]
pub(crate) use dashmap::{DashMap, mapref::entry::Entry};
#[cfg(not(feature = "shuttle"))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::{
    atomic,
    mpsc::{Receiver, RecvTimeoutError, sync_channel},
};

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::sync::atomic;
#[cfg(feature = "shuttle")]
pub(crate) use shuttle_dashmap::{DashMap, Entry};
#[cfg(feature = "shuttle")]
pub(crate) use shuttled::{Condvar, Mutex, MutexGuard, Receiver, sync_channel};
#[cfg(feature = "shuttle")]
pub(crate) use std::sync::mpsc::RecvTimeoutError;

/// So many atomics of 0. Those that are never touched take no memory.
#[cfg(not(feature = "shuttle"))]
pub(crate) fn zeroed<T: zerocopy::FromZeros>(count: usize) -> Box<[T]> {
    use zerocopy::FromZeros as _;
    <[T]>::new_box_zeroed_with_elems(count)
        .unwrap_or_else(|_| std::alloc::handle_alloc_error(std::alloc::Layout::new::<T>()))
}

/// The same, of shuttle's.
#[cfg(feature = "shuttle")]
pub(crate) fn zeroed<T: Default>(count: usize) -> Box<[T]> {
    (0..count).map(|_| T::default()).collect()
}

/// Just before the source is called. Under shuttle somebody else may go on here.
#[inline]
pub(crate) fn step() {
    #[cfg(feature = "shuttle")]
    atomic::AtomicBool::new(false).load(atomic::Ordering::SeqCst);
}

/// Shuttle's locks and channels, called as parking_lot's and the standard library's are.
#[cfg(feature = "shuttle")]
mod shuttled {
    use std::ops::{Deref, DerefMut};
    use std::time::Duration;

    use shuttle::rand::Rng as _;
    use shuttle::sync;
    use shuttle::sync::mpsc;

    const POISONED: &str = "a test whose threads panic has failed already";

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(sync::Condvar);

    /// Holds none only while it waits.
    pub(crate) struct MutexGuard<'a, T>(Option<sync::MutexGuard<'a, T>>);

    #[derive(Debug)]
    pub(crate) struct Sender<T>(mpsc::SyncSender<T>);

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(mpsc::Receiver<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().expect(POISONED)))
        }
    }

    impl Condvar {
        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            if let Some(held) = guard.0.take() {
                guard.0 = Some(self.0.wait(held).expect(POISONED));
            }
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    pub(crate) fn sync_channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = mpsc::sync_channel(capacity);
        (Sender(sender), Receiver(receiver))
    }

    impl<T> Sender<T> {
        pub(crate) fn send(&self, value: T) -> Result<(), mpsc::SendError<T>> {
            self.0.send(value)
        }
    }

    impl<T> Receiver<T> {
        /// Time does not pass here: now and then it has.
        pub(crate) fn recv_timeout(&self, _: Duration) -> Result<T, super::RecvTimeoutError> {
            if shuttle::rand::thread_rng().gen_ratio(1, 8) {
                return Err(super::RecvTimeoutError::Timeout);
            }
            self.0.recv().map_err(|_| super::RecvTimeoutError::Disconnected)
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_deref().expect("held")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_deref_mut().expect("held")
        }
    }
}
