//! What is done now and then while a mount is served: written pages leave the kernel's cache, and
//! memory that nobody uses any more goes back to the system.

use std::convert::Infallible;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use crate::filesystem::Filesystem;

/// How often it is looked whether there is anything to do.
const EVERY: Duration = Duration::from_secs(5);

/// How long its end is waited for.
const END_WITHIN: Duration = Duration::from_secs(2);

/// The thread that does it. Ends when this is dropped.
pub(crate) struct Upkeep {
    stop: Option<Sender<Infallible>>,
    end: Receiver<Infallible>,
}

impl Upkeep {
    /// Starts the thread.
    ///
    /// # Errors
    /// No more threads can be made.
    pub(crate) fn start(filesystem: Arc<Filesystem>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let (ended, end) = channel();
        std::thread::Builder::new().name("upkeep".to_owned()).spawn(move || {
            // Dropped at the end, and last: the one who waits for that sees it.
            let _ended = ended;
            let filesystem = filesystem;
            let mut turn = 0;
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let_go_of_pages(&filesystem, &stopped);
                filesystem.tidy_pins(turn);
                turn += 1;
                filesystem.cache.settle();
                if filesystem.inodes.shrink() {
                    give_back();
                }
            }
        })?;
        Ok(Self { stop: Some(stop), end })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Not for ever: a source that hangs must not keep the process.
        let _ = self.end.recv_timeout(END_WITHIN);
    }
}

fn let_go_of_pages(filesystem: &Filesystem, stopped: &Receiver<Infallible>) {
    while stopped.try_recv() == Err(TryRecvError::Empty)
        && let Some(inode) = filesystem.behind.next(Instant::now())
    {
        // It may have been excluded meanwhile. A file that is gone has no pages.
        if !inode.is_excluded.load(Relaxed)
            && let Ok(node) = inode.node()
        {
            filesystem.source.drop_pages(node.as_fd());
        }
    }
}

/// Gives the pages between what is still in use back to the system, which the allocator keeps.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and touches nothing but the allocator's own free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has the allocator take large pieces from the system and give them back, rather than keep them: a copy of a long
/// write lives for one write, and what it leaves behind would be memory beyond the cache's.
pub(crate) fn return_large_memory() {
    #[cfg(target_env = "gnu")]
    {
        const LARGE: libc::c_int = 256 << 10;
        // SAFETY: sets a number of the allocator; without it all still works.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        }
    }
}
