//! What was done and what was found.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Operations that are counted when they are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Write,
    WriteDsync,
    Append,
    SharedAppend,
    MappedStore,
    Truncate,
    Punch,
    Fsync,
    FsyncDirectory,
    Create,
    Unlink,
    Rename,
    Replace,
    Link,
    Read,
}

impl Kind {
    /// Each with the words for it.
    pub(super) const ALL: [(Self, &'static str); 15] = [
        (Self::Write, "write"),
        (Self::WriteDsync, "write, O_DSYNC"),
        (Self::Append, "append"),
        (Self::SharedAppend, "append, several writers"),
        (Self::MappedStore, "mapped store and msync"),
        (Self::Truncate, "truncate"),
        (Self::Punch, "punch a hole"),
        (Self::Fsync, "fsync"),
        (Self::FsyncDirectory, "fsync of a directory"),
        (Self::Create, "create"),
        (Self::Unlink, "unlink"),
        (Self::Rename, "rename"),
        (Self::Replace, "replace (write, fsync, rename)"),
        (Self::Link, "link"),
        (Self::Read, "read, checked"),
    ];
}

/// Counters that all threads share.
#[derive(Default)]
pub(super) struct Tally {
    acknowledged: [AtomicU64; Kind::ALL.len()],
    /// Bytes compared while writers were at work.
    pub(super) live_bytes: AtomicU64,
    /// Bytes compared after the kills.
    pub(super) settled_bytes: AtomicU64,
    /// Reads that could not be judged, because too much happened meanwhile.
    pub(super) unjudged: AtomicU64,
    /// Operations that a kill interrupted.
    pub(super) interrupted: AtomicU64,
    pub(super) client_kills: AtomicU64,
    pub(super) server_kills: AtomicU64,
    /// Blocks that went to the server.
    pub(super) lent_blocks: AtomicU64,
    /// Reads that a server answered.
    pub(super) remote_reads: AtomicU64,
}

impl Tally {
    /// One more operation was acknowledged.
    pub(super) fn count(&self, kind: Kind) {
        self.acknowledged[kind as usize].fetch_add(1, Relaxed);
    }

    /// How many of a kind were.
    pub(super) fn of(&self, kind: Kind) -> u64 {
        self.acknowledged[kind as usize].load(Relaxed)
    }
}

/// Why a thread ends before it is told to.
pub(super) enum End {
    /// The mount is dead, as it should be.
    Dead,
    /// Something is not as it must be.
    Found(Box<Finding>),
}

/// What is not as it must be.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) kind: FindingKind,
    pub(super) what: String,
    /// The operations before it, the newest last.
    pub(super) log: Vec<String>,
}

/// In which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FindingKind {
    /// Something acknowledged is not there after a kill.
    Lost,
    /// A read gave what nobody wrote there.
    Wrong,
    /// A call failed that must not, or not in this way.
    Failed,
}

impl End {
    /// A finding, to be returned.
    pub(super) fn found(kind: FindingKind, what: String, log: Vec<String>) -> Self {
        Self::Found(Box::new(Finding { kind, what, log }))
    }
}

/// A place and what was there, in words.
pub(super) fn wrong_words(name: &str, wrong: &super::change::Wrong) -> String {
    let got = wrong.got.map_or_else(|| "the end of the file".to_owned(), |b| format!("{b:#04x}"));
    let mut expected = wrong.expected.clone();
    expected.dedup();
    let expected = match expected.as_slice() {
        [] => "the end of the file".to_owned(),
        bytes => bytes.iter().map(|b| format!("{b:#04x}")).collect::<Vec<_>>().join(" or "),
    };
    format!("{name}, offset {}: expected {expected}, got {got}", wrong.at)
}
