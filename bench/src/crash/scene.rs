//! What all threads of a round share, and which errors they may see.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use rustix::io::Errno;

use super::tally::{End, FindingKind, Tally};
use super::world::World;

/// One round's stage.
pub(super) struct Scene<'a> {
    /// The mount.
    pub(super) root: PathBuf,
    pub(super) world: &'a World,
    pub(super) tally: &'a Tally,
    /// The client is about to be killed, or dead: calls may fail.
    dying: AtomicBool,
    /// The round is over.
    over: AtomicBool,
}

/// The result of one operation of a worker.
pub(super) type Step<T> = Result<T, End>;

impl<'a> Scene<'a> {
    /// A round on the mount at `root`.
    pub(super) fn new(root: &Path, world: &'a World, tally: &'a Tally) -> Self {
        let (dying, over) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { root: root.to_owned(), world, tally, dying, over }
    }

    /// From now on calls may fail.
    pub(super) fn expect_death(&self) {
        self.dying.store(true, SeqCst);
    }

    /// Tells the workers to end.
    pub(super) fn end(&self) {
        self.over.store(true, SeqCst);
    }

    /// Whether the workers are to go on.
    pub(super) fn goes_on(&self) -> bool {
        !self.over.load(SeqCst)
    }

    /// What a failed call means: the end of a dead mount, or something that must not be.
    pub(super) fn judge<T>(
        &self,
        result: rustix::io::Result<T>,
        what: impl FnOnce() -> String,
    ) -> Step<T> {
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let dying = self.dying.load(SeqCst);
        if dying && is_dead(error) {
            return Err(End::Dead);
        }
        let when = if dying { "after the client was killed" } else { "on a live mount" };
        let what = format!("{} failed {when}: {error}", what());
        Err(End::found(FindingKind::Failed, what, Vec::new()))
    }

    /// For an error that is none of the usual ones: whether the mount may be dead.
    pub(super) fn may_be_dead(&self) -> bool {
        self.dying.load(SeqCst)
    }
}

/// Whether an error is what a dead mount gives.
pub(super) fn is_dead(error: Errno) -> bool {
    matches!(error, Errno::NOTCONN | Errno::CONNABORTED | Errno::IO)
}
