//! Written pages are not left in the kernel's page cache, which would hold what our cache holds.
//!
//! Long writes leave it by themselves (see `source/file.rs`). Short ones stay until the kernel has
//! written them to the disk in its own time: thrown out at once, each would be an access to the
//! disk of its own, and the next write to the same page would have to read it back. So files with
//! short writes wait here until their pages are clean, and are let go of then.

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::filesystem::Filesystem;
use crate::inodes::Inode;

/// How long written pages stay dirty at most: the kernel's defaults for their age and for how
/// often it looks (vm.dirty_expire_centisecs, vm.dirty_writeback_centisecs), and some for the disk.
const CLEAN_AFTER: Duration = Duration::from_secs(40);

/// How often files that were written are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Files that wait at most: of more, the kernel must let go by itself.
const FILES_MAX: usize = 65_536;

/// Files with short writes, by the time of the write.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    files: Mutex<VecDeque<(Instant, Weak<Inode>)>>,
}

/// The thread that lets go of pages. Ends when this is dropped.
pub(crate) struct LettingGo {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Behind {
    /// Notes that a file was written at `now`.
    pub(crate) fn note(&self, inode: &Arc<Inode>, now: Instant) {
        let mut files = self.files.lock();
        if files.len() < FILES_MAX {
            files.push_back((now, Arc::downgrade(inode)));
        }
    }

    /// The next file whose pages are clean at `now`. None that the kernel has forgotten: it keeps
    /// what it was told of as long as it has memory.
    fn next(&self, now: Instant) -> Option<Arc<Inode>> {
        let mut files = self.files.lock();
        while files.front().is_some_and(|(at, _)| now.duration_since(*at) >= CLEAN_AFTER) {
            let inode = files.pop_front().and_then(|(_, inode)| inode.upgrade());
            if inode.is_some() {
                return inode;
            }
        }
        None
    }
}

impl LettingGo {
    /// Starts the thread.
    ///
    /// # Errors
    /// No more threads can be made.
    pub(crate) fn start(filesystem: Arc<Filesystem>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("behind".to_owned()).spawn(move || {
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                while let Some(inode) = filesystem.behind.next(Instant::now()) {
                    // A file that is gone has no pages.
                    if let Ok(node) = inode.node() {
                        filesystem.source.drop_pages(node.as_fd());
                    }
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for LettingGo {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
