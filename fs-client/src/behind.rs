//! Written pages are not left in the kernel's page cache, which would hold what our cache holds.
//!
//! Long writes leave it by themselves (see `source/file.rs`). Short ones stay until the kernel has
//! written them to the disk in its own time: thrown out at once, each would be an access to the
//! disk of its own, and the next write to the same page would have to read it back. So files with
//! short writes wait here until their pages are clean, and are let go of then.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::inodes::Inode;

/// How long written pages stay dirty at most: the kernel's defaults for their age and for how
/// often it looks (vm.dirty_expire_centisecs, vm.dirty_writeback_centisecs), and some for the disk.
const CLEAN_AFTER: Duration = Duration::from_secs(40);

/// Files that wait at most: of more, the kernel must let go by itself.
const FILES_MAX: usize = 65_536;

/// A file that goes on being written is noted so often.
const NOTE_EVERY: Duration = Duration::from_secs(30);

/// When a file was noted last.
#[derive(Debug, Default)]
pub(crate) struct ShortWrites(Mutex<Option<Instant>>);

/// Files with short writes, by the time of the write.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    files: Mutex<VecDeque<(Instant, Weak<Inode>)>>,
}

impl ShortWrites {
    /// Whether the kernel may have pages of the file at `now` that are not on the disk yet.
    pub(crate) fn are_recent(&self, now: Instant) -> bool {
        self.0.lock().is_some_and(|at| now.duration_since(at) < NOTE_EVERY + CLEAN_AFTER)
    }

    /// Whether it is time to note the file once more.
    fn note(&self, now: Instant) -> bool {
        let mut noted = self.0.lock();
        let due = noted.is_none_or(|at| now.duration_since(at) >= NOTE_EVERY);
        if due {
            *noted = Some(now);
        }
        due
    }
}

impl Behind {
    /// Notes that a file is written at `now`. Not one that is excluded, which the page cache may keep.
    pub(crate) fn note(&self, inode: &Arc<Inode>, now: Instant) {
        if inode.is_excluded.load(Relaxed) || !inode.short_writes.note(now) {
            return;
        }
        let mut files = self.files.lock();
        if files.len() < FILES_MAX {
            files.push_back((now, Arc::downgrade(inode)));
        }
    }

    /// The next file whose pages are clean at `now`. None that the kernel has forgotten: it keeps
    /// what it was told of as long as it has memory.
    pub(crate) fn next(&self, now: Instant) -> Option<Arc<Inode>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inodes::tests::{look_up, tree};

    #[test]
    fn a_file_waits_until_its_pages_are_clean_unless_it_is_forgotten() {
        let (_dir, source, inodes) = tree();
        let inode = look_up(&source, &inodes, c"a");
        let (behind, now) = (Behind::default(), Instant::now());
        behind.note(&inode, now);
        behind.note(&inode, now + CLEAN_AFTER);
        assert!(behind.next(now).is_none());
        assert_eq!(behind.next(now + CLEAN_AFTER).unwrap().id, inode.id);
        assert!(behind.next(now + CLEAN_AFTER).is_none());
        inodes.forget(inode.id, 1);
        drop(inode);
        assert!(behind.next(now + 2 * CLEAN_AFTER).is_none());
    }
}
