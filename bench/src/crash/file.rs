//! A file as it must be: what was acknowledged, what is under way, and what happened before.
//!
//! One writer owns a file; any number of readers look at it meanwhile.

use std::collections::VecDeque;
use std::fmt::Write as _;

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::change::{Change, View, Wrong};

/// Changes that a reader may miss and still be checked.
const RECENT_MAX: usize = 32;
/// What is kept to explain a finding.
const LOG_MAX: usize = 24;

/// The model of one file, whatever its names.
pub(super) struct File {
    inner: Mutex<Inner>,
}

struct Inner {
    bytes: Vec<u8>,
    pending: Option<Change>,
    /// The last acknowledged changes; the newest last.
    recent: VecDeque<Change>,
    /// All acknowledged changes.
    done: u64,
    /// Not compared since it last changed.
    touched: bool,
    log: VecDeque<String>,
}

/// What a reader noted before it read.
pub(super) struct Before {
    view: View,
    wanted: u64,
    done: u64,
}

impl File {
    /// A file that holds `bytes`.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        let (recent, log) = (VecDeque::new(), VecDeque::new());
        let inner = Inner { bytes, pending: None, recent, done: 0, touched: true, log };
        Self { inner: Mutex::new(inner) }
    }

    /// Its length, as acknowledged.
    pub(super) fn len(&self) -> u64 {
        self.lock().bytes.len() as u64
    }

    /// A change begins. `how` is the system call, for the log.
    pub(super) fn begin(&self, how: &str, change: Change) {
        let mut inner = self.lock();
        inner.note(how, &change);
        debug_assert!(inner.pending.is_none(), "one writer owns a file");
        inner.pending = Some(change);
        inner.touched = true;
    }

    /// The change that was under way is acknowledged.
    pub(super) fn acknowledge(&self) {
        let mut inner = self.lock();
        let Some(change) = inner.pending.take() else { return };
        change.apply(&mut inner.bytes);
        if inner.recent.len() == RECENT_MAX {
            inner.recent.pop_front();
        }
        inner.recent.push_back(change);
        inner.done += 1;
        inner.say(" acknowledged");
    }

    /// To be called before a read.
    pub(super) fn before_read(&self, at: u64, wanted: u64) -> Before {
        let inner = self.lock();
        let length = inner.bytes.len() as u64;
        let (start, end) =
            (at.min(length) as usize, at.saturating_add(wanted).min(length) as usize);
        let bytes = inner.bytes[start..end].to_vec();
        Before { view: View { at, bytes, length }, wanted, done: inner.done }
    }

    /// Checks what was read. None when too much happened meanwhile to tell.
    pub(super) fn after_read(&self, before: &Before, got: &[u8]) -> Option<Result<(), Wrong>> {
        let inner = self.lock();
        let missed = (inner.done - before.done) as usize;
        let skip = inner.recent.len().checked_sub(missed)?;
        let meanwhile = inner.recent.iter().skip(skip).chain(&inner.pending);
        let changes: Vec<_> = meanwhile.cloned().collect();
        drop(inner);
        Some(before.view.check(before.wanted, &changes, got))
    }

    /// Compares with `got`, the whole file, when nothing is under way any more. A change that was
    /// interrupted is from now on as it was found.
    pub(super) fn settle(&self, got: &[u8]) -> Result<(), Wrong> {
        let mut inner = self.lock();
        let length = inner.bytes.len() as u64;
        let view = View { at: 0, bytes: std::mem::take(&mut inner.bytes), length };
        let changes: Vec<_> = inner.pending.iter().cloned().collect();
        let checked = view.check(u64::MAX, &changes, got);
        inner.bytes = view.bytes;
        checked?;
        if inner.pending.take().is_some() {
            inner.bytes.clear();
            inner.bytes.extend_from_slice(got);
            inner.recent.clear();
            inner.say(" interrupted by the kill");
        }
        Ok(())
    }

    /// Whether it changed since it was last asked here.
    pub(super) fn take_touched(&self) -> bool {
        std::mem::take(&mut self.lock().touched)
    }

    /// The last operations, the newest last.
    pub(super) fn log(&self) -> Vec<String> {
        self.lock().log.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note(&mut self, how: &str, change: &Change) {
        let mut line = format!("{how} ");
        let _ = match change {
            Change::Write { at, data } => write!(line, "{} bytes at {at}", data.len()),
            Change::Length(length) => write!(line, "to {length} bytes"),
            Change::Punch { at, len } => write!(line, "{len} bytes at {at}"),
        };
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }

    fn say(&mut self, what: &str) {
        if let Some(line) = self.log.back_mut() {
            line.push(':');
            line.push_str(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(at: u64, data: &[u8]) -> Change {
        Change::Write { at, data: data.into() }
    }

    #[test]
    fn a_reader_sees_what_was_or_what_came_meanwhile() {
        let file = File::new(b"aaaa".to_vec());
        let before = file.before_read(1, 2);
        file.begin("pwrite", write(0, b"bbbb"));
        assert_eq!(file.after_read(&before, b"ab"), Some(Ok(())));
        file.acknowledge();
        assert_eq!(file.after_read(&before, b"ba"), Some(Ok(())));
        assert!(file.after_read(&before, b"cc").unwrap().is_err());
        let later = file.before_read(1, 2);
        assert!(file.after_read(&later, b"ab").unwrap().is_err(), "the old bytes are gone");
    }

    #[test]
    fn a_reader_that_missed_too_much_is_not_judged() {
        let file = File::new(b"a".to_vec());
        let before = file.before_read(0, 1);
        for _ in 0..=RECENT_MAX {
            file.begin("pwrite", write(0, b"b"));
            file.acknowledge();
        }
        assert!(file.after_read(&before, b"x").is_none());
    }

    #[test]
    fn an_interrupted_change_is_what_was_found_and_an_acknowledged_one_must_be_there() {
        let file = File::new(b"aaaa".to_vec());
        file.begin("pwrite", write(0, b"bb"));
        assert_eq!(file.settle(b"baaa"), Ok(()));
        assert!(file.settle(b"bbaa").is_err(), "it was found otherwise before");
        file.begin("pwrite", write(2, b"cc"));
        file.acknowledge();
        let wrong = file.settle(b"baaa").unwrap_err();
        assert_eq!((wrong.at, wrong.got), (2, Some(b'a')));
        assert!(file.log().last().unwrap().contains("2 bytes at 2: acknowledged"));
        assert!(file.settle(b"bacc!").is_err(), "nothing was appended");
    }
}
