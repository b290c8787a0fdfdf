//! Keeps CPUs from sleeping while something is measured.
//!
//! A virtual CPU that has nothing to do is taken away by its host, and giving it back takes tens of microseconds:
//! as long as a read from a lender. Hosts that care poll for a while instead (KVM's halt_poll_ns, idle=poll). On
//! those that do not, a thread of the lowest class on each CPU does the same: it runs where nothing else wants to,
//! and makes way at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};

use crate::placement::Cpus;

/// CPUs that do not sleep, until it is dropped.
pub(crate) struct Awake {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    /// Every CPU that this process may use.
    ///
    /// # Errors
    /// When a thread cannot be started or given the lowest class.
    pub(crate) fn all() -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let mut awake = Self { over: over.clone(), threads: Vec::new() };
        for cpu in Cpus::each() {
            let over = over.clone();
            let (told, hears) = std::sync::mpsc::channel();
            let poll = move || {
                cpu.hold_this_thread();
                let lowest = run_when_idle();
                let ran = lowest.is_ok();
                let _ = told.send(lowest);
                while ran && !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            let thread = std::thread::Builder::new().name("awake".to_owned()).spawn(poll);
            awake.threads.push(thread.context("cannot start a thread")?);
            hears.recv()?.context("the kernel has no class of threads below all others")?;
        }
        Ok(awake)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Puts the calling thread into the class that runs where nothing else wants to.
fn run_when_idle() -> std::io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the structure is whole and read only; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_begin_and_end() {
        let awake = Awake::all().unwrap();
        assert_eq!(awake.threads.len(), Cpus::each().count());
        drop(awake);
    }
}
