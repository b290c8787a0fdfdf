//! Acting as the one who asks: what a user makes belongs to that user and has that user's mask,
//! and what a user writes is held to that user's quota.
//!
//! Only the calling thread changes its identity for file access (setfsuid(2), setfsgid(2)), its
//! capabilities and its mask, so other requests are not affected. Whether the caller may do it was
//! decided by the kernel before it asked us (`default_permissions`), with the caller's
//! supplementary groups, which we do not know: so the right to pass by permissions is kept.

use std::cell::Cell;
use std::sync::OnceLock;

use rustix::fs::Mode;
use rustix::process::umask;
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, capabilities, set_capabilities, unshare_unsafe,
};

use crate::filesystem::Result;

/// Who asks, as the kernel says it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The thread; 0 if it is in another process namespace.
    pub(crate) pid: u32,
}

/// What is done on the caller's behalf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A new name. The kernel has already taken away a set-group-id bit that the caller may not
    /// give, so the source must not look again.
    Make,
    /// Pages of a mapping: nothing is taken away, since who stored them may be the owner.
    Flush,
    /// A change of what a file holds: the source takes set-user-id bits away, as it does for
    /// everybody who has no right to keep them.
    Change,
}

impl Caller {
    /// Whether the caller is a member of a group.
    pub(crate) fn in_group(self, group: u32) -> bool {
        self.gid == group || (self.pid != 0 && supplementary_groups(self.pid).contains(&group))
    }
}

impl Deed {
    /// What the thread may do besides what the caller may.
    fn rights(self) -> CapabilitySet {
        match self {
            Self::Make | Self::Flush => CapabilitySet::DAC_OVERRIDE | CapabilitySet::FSETID,
            Self::Change => CapabilitySet::DAC_OVERRIDE,
        }
    }
}

/// Whether this process may act as others: a container may have taken that right away.
pub(crate) fn may_act() -> bool {
    const NOBODY: u32 = 65_534;
    set_file_identity(NOBODY, NOBODY);
    // SAFETY: as in `set_file_identity`; an id that nobody can have changes nothing, and both
    // return the present one.
    let now = unsafe { (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)) };
    set_file_identity(0, 0);
    [now.0, now.1].iter().all(|&id| id.cast_unsigned() == NOBODY)
}

/// Does `act` with the caller's user and group.
pub(crate) fn acting_as<T>(
    caller: Caller,
    deed: Deed,
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if caller.uid == 0 && caller.gid == 0 {
        return act();
    }
    let own = own_capabilities()?;
    let _identity = Identity::assume(caller, own);
    if caller.uid != 0 {
        // Those for files have gone with the user. The one that passes by quotas and reserves
        // has not.
        let lost = file_capabilities() | CapabilitySet::SYS_RESOURCE;
        let kept = own.effective & (lost.complement() | deed.rights());
        set_capabilities(None, CapabilitySets { effective: kept, ..own })?;
    }
    act()
}

/// Does `act` with a mask for new files. The source applies it, because where a directory has a
/// default ACL, no mask is applied.
pub(crate) fn with_umask<T>(mask: u32, act: impl FnOnce() -> T) -> T {
    thread_local! {
        /// The mask of this thread, once it has one of its own.
        static MASK: Cell<Option<u32>> = const { Cell::new(None) };
    }
    MASK.with(|own| {
        if own.get().is_none() {
            // SAFETY: separates the thread's mask, root and directory from those of the other
            // threads, which share no descriptors less for it.
            let separated = unsafe { unshare_unsafe(UnshareFlags::FS) };
            // Needs no right. Should it fail, all threads keep the process's mask of 0.
            if let Err(error) = separated {
                tracing::warn!(%error, "new files are made without a mask");
                return;
            }
        }
        if own.get() != Some(mask) {
            umask(Mode::from_raw_mode(mask));
            own.set(Some(mask));
        }
    });
    act()
}

/// The calling thread's identity for file access; the daemon's own again when dropped.
struct Identity {
    own: CapabilitySets,
}

impl Identity {
    fn assume(caller: Caller, own: CapabilitySets) -> Self {
        set_file_identity(caller.uid, caller.gid);
        Self { own }
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        set_file_identity(0, 0);
        if let Err(error) = set_capabilities(None, self.own) {
            // The thread's permitted set never changes, so it may take this back at any time.
            tracing::error!(%error, "cannot take back the daemon's own capabilities");
        }
    }
}

/// What the daemon may do, while it acts for nobody.
fn own_capabilities() -> Result<CapabilitySets> {
    static OWN: OnceLock<CapabilitySets> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(*own);
    }
    let own = capabilities(None)?;
    Ok(*OWN.get_or_init(|| own))
}

/// Those that setfsuid(2) takes away from a user other than root (capabilities(7)).
fn file_capabilities() -> CapabilitySet {
    CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::LINUX_IMMUTABLE
        | CapabilitySet::MKNOD
        | CapabilitySet::MAC_OVERRIDE
}

fn supplementary_groups(pid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

fn set_file_identity(uid: u32, gid: u32) {
    // SAFETY: both calls take numbers only, and change the calling thread alone: these are the
    // bare system calls, which glibc does not spread over the process.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}
