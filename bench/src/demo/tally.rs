//! What readers have seen so far, counted by all of them at once: bytes, differences, errors.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Counts that only grow.
#[derive(Default)]
pub(super) struct Tally {
    compared_bytes: AtomicU64,
    mismatches: AtomicU64,
    errors: AtomicU64,
    first: Mutex<Option<String>>,
}

impl Tally {
    /// So many bytes were compared, equal or not.
    pub(super) fn compared(&self, bytes: usize) {
        self.compared_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Something read through the mount was not what the source holds.
    pub(super) fn mismatch(&self, what: impl FnOnce() -> String) {
        self.mismatches.fetch_add(1, Relaxed);
        self.note(what);
    }

    /// The mount gave an error where there should be none.
    pub(super) fn error(&self, what: impl FnOnce() -> String) {
        self.errors.fetch_add(1, Relaxed);
        self.note(what);
    }

    /// Bytes compared.
    pub(super) fn compared_bytes(&self) -> u64 {
        self.compared_bytes.load(Relaxed)
    }

    /// Differences found.
    pub(super) fn mismatches(&self) -> u64 {
        self.mismatches.load(Relaxed)
    }

    /// Errors of the mount.
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// The first difference or error in words.
    pub(super) fn first(&self) -> Option<String> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, what: impl FnOnce() -> String) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(what);
    }
}
