//! The mounted filesystem: what answers a request, whichever transport brought it.
//!
//! Here are its parts and the words that its operations share. The operations themselves:
//! `read.rs` and `write.rs` show the whole way of a read and of a write, `names.rs` what is done
//! to directories, `attributes.rs` what is said about files.

use std::sync::Arc;

use rustix::io::Errno;

use crate::behind::Behind;
pub(crate) use crate::caller::Caller;
use crate::caller::{Deed, acting_as};
use crate::demand::Demand;
use crate::handles::Handles;
use crate::inodes::{Inode, Inodes, NodeId};
use crate::local::{Flights, LocalCache};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::pins::Pins;
use crate::profile::Profiles;
use crate::remote::Tier;
use crate::rules::Rules;
use crate::source::Source;
// The words in which requests speak of files.
pub(crate) use crate::source::{Durability, EntryKind, NewNode, NewTime, Stat, Timestamp};
use crate::staging::Staging;
use crate::timeouts::LiveTimeouts;
use crate::workers::Workers;

/// Everything that one mount consists of.
pub(crate) struct Filesystem {
    pub(crate) source: Source,
    pub(crate) inodes: Inodes,
    pub(crate) handles: Handles,
    pub(crate) cache: LocalCache,
    pub(crate) flights: Arc<Flights>,
    pub(crate) staging: Staging,
    pub(crate) remote: Arc<Tier>,
    pub(crate) workers: Workers,
    pub(crate) behind: Behind,
    pub(crate) metrics: Metrics,
    pub(crate) demand: Demand,
    pub(crate) memory: Memory,
    pub(crate) pins: Pins,
    pub(crate) profiles: Profiles,
    pub(crate) rules: Rules,
    pub(crate) settings: Settings,
}

/// What does not change while it is mounted.
#[derive(Debug)]
pub(crate) struct Settings {
    /// These do change.
    pub(crate) timeouts: LiveTimeouts,
    /// Reading a file leaves its time of access alone, whatever the source does.
    pub(crate) no_atime: bool,
    /// New files belong to whoever makes them: the daemon runs as root, for all users.
    pub(crate) act_as_caller: bool,
}

/// The result of an operation; the error reaches the application as it is.
pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// An inode that the kernel is told about, with what it needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeEntry {
    pub(crate) id: NodeId,
    pub(crate) generation: u64,
    pub(crate) stat: Stat,
}

impl NodeEntry {
    pub(crate) fn new(inode: &Inode, stat: &Stat) -> Self {
        Self { id: inode.id, generation: inode.generation, stat: *stat }
    }
}

impl Filesystem {
    /// The inode that the kernel means.
    pub(crate) fn inode(&self, id: NodeId) -> Result<Arc<Inode>> {
        self.inodes.by_id(id).ok_or(Errno::STALE)
    }

    /// Does `act` as the caller, where others than the daemon's own user may call.
    pub(crate) fn as_caller<T>(
        &self,
        caller: Caller,
        deed: Deed,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        crate::sync::step();
        if self.settings.act_as_caller { acting_as(caller, deed, act) } else { act() }
    }
}
