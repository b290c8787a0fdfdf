//! Which state of a file's contents is cached, and how a change behind the mount is noticed.
//!
//! A file's contents go by a [`FileKey`]. Whenever the source's stamp (ctime, mtime, size) is
//! not the one that our own last write left behind, somebody else has changed the file: it gets a
//! new key, and nothing of what was cached is used any more.
//!
//! Own writes are taken out of the comparison: the stamp is compared before the first of several
//! overlapping writes and taken anew after the last. A change by somebody else between those two
//! moments is noticed only if it changed the length; else it goes unnoticed until the file
//! changes again.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::io::Result;

use crate::block::FileKey;
use crate::source::{NodeFd, Stamp, Stat};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// The contents of one file.
#[derive(Debug)]
pub(crate) struct Contents {
    key: AtomicU64,
    size: AtomicU64,
    /// When the source was last asked, in milliseconds of [`now_ms`].
    asked_ms: AtomicU64,
    state: Mutex<State>,
}

/// A change of our own under way. Dropping it ends the change and takes the new stamp.
pub(crate) struct Change<'a> {
    contents: &'a Contents,
    node: NodeFd,
    /// The file's length before.
    pub(crate) size: u64,
    /// Its owner.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    renewed: bool,
    ended: bool,
}

#[derive(Debug)]
struct State {
    /// None when it could not be taken: the next look finds a change.
    stamp: Option<Stamp>,
    /// Own changes under way.
    changes: u32,
}

/// No two states of any file share a key.
static NEXT_KEY: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

impl Contents {
    /// Contents that were never seen before.
    pub(crate) fn new(stat: &Stat) -> Self {
        let contents = Self::known(stat, new_key());
        contents.state.lock().stamp = settled(stat);
        contents
    }

    /// Contents that were seen with this stamp under `key`.
    pub(crate) fn known(stat: &Stat, key: FileKey) -> Self {
        Self {
            key: AtomicU64::new(key.0),
            size: AtomicU64::new(stat.size),
            asked_ms: AtomicU64::new(now_ms()),
            state: Mutex::new(State { stamp: Some(stat.stamp()), changes: 0 }),
        }
    }

    /// The key of the present state.
    pub(crate) fn key(&self) -> FileKey {
        FileKey(self.key.load(Ordering::SeqCst))
    }

    /// Key and length of one state.
    pub(crate) fn state(&self) -> (FileKey, u64) {
        loop {
            let key = self.key();
            let size = self.size();
            if self.key() == key {
                return (key, size);
            }
        }
    }

    /// The file's length, as far as is known.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::SeqCst)
    }

    /// Key and stamp, to be remembered; none if the stamp is not certain.
    pub(crate) fn stamped(&self) -> Option<(FileKey, Stamp)> {
        let state = self.state.lock();
        if state.changes > 0 {
            return None;
        }
        state.stamp.map(|stamp| (self.key(), stamp))
    }

    /// Asks the source what `node` is now, and gives the contents a new key if they were changed
    /// by somebody else.
    pub(crate) fn revalidate(&self, node: BorrowedFd<'_>) -> Result<Stat> {
        // Under the lock, so that no change of our own begins between the question and the
        // comparison.
        let mut state = self.state.lock();
        self.asked_ms.store(now_ms(), Ordering::Relaxed);
        let stat = Stat::of(node)?;
        if state.changes == 0 {
            self.compare(&mut state, &stat);
        }
        Ok(stat)
    }

    /// Asks the source unless it was asked within `timeout`: the kernel does not, for a file that
    /// is held open and read past its cache.
    pub(crate) fn revalidate_after(&self, timeout: Duration, node: BorrowedFd<'_>) -> Result<()> {
        let age_ms = now_ms().saturating_sub(self.asked_ms.load(Ordering::Relaxed));
        if u128::from(age_ms) < timeout.as_millis() {
            Ok(())
        } else {
            self.revalidate(node).map(drop)
        }
    }

    /// Begins a change of our own.
    pub(crate) fn begin_change(&self, node: NodeFd) -> Result<Change<'_>> {
        let mut state = self.state.lock();
        let stat = Stat::of(node.as_fd())?;
        if state.changes == 0 {
            self.compare(&mut state, &stat);
        }
        state.changes += 1;
        let Stat { size, uid, gid, .. } = stat;
        Ok(Change { contents: self, node, size, uid, gid, renewed: false, ended: false })
    }

    /// Gives the contents a new key: they changed in a way that is not worth following.
    pub(crate) fn renew(&self) {
        self.key.store(new_key().0, Ordering::SeqCst);
    }

    /// Notes that the file reaches at least to `end`.
    pub(crate) fn grow(&self, end: u64) {
        self.size.fetch_max(end, Ordering::SeqCst);
    }

    /// The contents are others, `size` bytes long. A reader takes the key, then the size: so the
    /// new key is never found with a size that is too long for it, and whoever found the old key
    /// with a longer size finds another key when he asks again.
    fn replace(&self, size: u64) {
        if size < self.size() {
            self.size.store(size, Ordering::SeqCst);
            self.renew();
        } else {
            self.renew();
            self.size.store(size, Ordering::SeqCst);
        }
    }

    fn compare(&self, state: &mut State, stat: &Stat) {
        if state.stamp != Some(stat.stamp()) {
            state.stamp = settled(stat);
            self.replace(stat.size);
        }
    }
}

impl Change<'_> {
    /// The change is not worth following: its end gives the contents a new key.
    pub(crate) fn renew(&mut self) {
        self.renewed = true;
    }

    /// Ends the change, and returns what the source says then.
    pub(crate) fn end(mut self) -> Result<Stat> {
        self.ended = true;
        self.take_stamp()
    }

    fn take_stamp(&self) -> Result<Stat> {
        let mut state = self.contents.state.lock();
        state.changes -= 1;
        let result = Stat::of(self.node.as_fd());
        let stat = result.as_ref().ok();
        match stat {
            // Our own writes have noted how far they reach.
            Some(stat) if self.renewed || stat.size != self.contents.size() => {
                self.contents.replace(stat.size);
            }
            None if self.renewed => self.contents.renew(),
            _ => {}
        }
        if state.changes == 0 {
            state.stamp = stat.map(Stat::stamp);
        }
        result
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // Without a stamp the next look finds a change.
            let _ = self.take_stamp();
        }
    }
}

/// The stamp, unless it is so young that one more change would leave it as it is: clocks of files
/// tick every 1 to 10 ms on kernels before 6.13, and every 2 s on some filesystems. Then the next
/// look takes the file for changed.
fn settled(stat: &Stat) -> Option<Stamp> {
    Some(stat.stamp()).filter(is_settled)
}

/// Whether one more change would give another stamp.
pub(crate) fn is_settled(stamp: &Stamp) -> bool {
    const TICK_OF_SECONDS: Duration = Duration::from_secs(2);
    let changed = stamp.changed;
    let tick = if changed.nanoseconds == 0 { TICK_OF_SECONDS } else { TICK };
    let at = UNIX_EPOCH
        + Duration::new(u64::try_from(changed.seconds).unwrap_or(0), changed.nanoseconds);
    // A source on another machine, whose clock is ahead of ours, cannot be judged.
    let young = SystemTime::now().duration_since(at).is_ok_and(|age| age < tick);
    !young
}

const TICK: Duration = Duration::from_millis(20);

/// Milliseconds since the first call.
fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn new_key() -> FileKey {
    FileKey(NEXT_KEY.fetch_add(1, Ordering::Relaxed))
}

/// The key that the next new state gets.
pub(crate) fn next_key() -> FileKey {
    FileKey(NEXT_KEY.load(Ordering::Relaxed))
}

/// From here on new states get `next` and those after it: what is below was used by an earlier run.
pub(crate) fn continue_keys(next: FileKey) {
    NEXT_KEY.fetch_max(next.0, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// A file that was last changed a while ago.
    fn settled_file() -> (std::fs::File, NodeFd, Contents) {
        let file = tempfile::tempfile().unwrap();
        std::thread::sleep(2 * TICK);
        let node = NodeFd::from(file.try_clone().unwrap());
        let contents = Contents::new(&Stat::of(file.as_fd()).unwrap());
        (file, node, contents)
    }

    #[test]
    fn a_change_within_the_same_tick_as_the_one_before_is_not_missed() {
        let (mut file, node, contents) = settled_file();
        file.write_all(b"first").unwrap();
        contents.revalidate(node.as_fd()).unwrap();
        let key = contents.key();
        // What it would see had the next change left no trace: the same stamp.
        contents.revalidate(node.as_fd()).unwrap();
        assert_ne!(contents.key(), key);
        std::thread::sleep(2 * TICK);
        contents.revalidate(node.as_fd()).unwrap();
        let key = contents.key();
        contents.revalidate(node.as_fd()).unwrap();
        assert_eq!(contents.key(), key, "old enough to be certain");
    }

    #[test]
    fn a_change_by_others_gives_a_new_key_and_an_own_one_does_not() {
        let (mut file, own, contents) = settled_file();
        let key = contents.key();

        let change = contents.begin_change(own.clone()).unwrap();
        file.write_all(b"own").unwrap();
        contents.grow(3);
        drop(change);
        contents.revalidate(own.as_fd()).unwrap();
        assert_eq!((contents.key(), contents.size()), (key, 3));

        file.write_all(b"another's").unwrap();
        contents.revalidate(own.as_fd()).unwrap();
        assert_ne!(contents.key(), key);
        assert_eq!(contents.size(), 12);
    }

    #[test]
    fn a_change_of_length_by_others_during_an_own_one_is_noticed() {
        let (mut file, own, contents) = settled_file();
        let key = contents.key();
        let change = contents.begin_change(own.clone()).unwrap();
        file.write_all(b"another's").unwrap();
        drop(change);
        assert_ne!(contents.key(), key);
        assert_eq!(contents.size(), 9);
    }

    #[test]
    fn a_change_by_others_is_not_hidden_by_an_own_one_that_follows() {
        let (mut file, own, contents) = settled_file();
        let key = contents.key();
        file.write_all(b"another's").unwrap();
        drop(contents.begin_change(own.clone()).unwrap());
        assert_ne!(contents.key(), key);
    }
}
