//! Acting as the one who asks: what a user makes belongs to that user.
//!
//! Only the calling thread's identity for file access changes (setfsuid(2), setfsgid(2)), so
//! other requests are not affected. Whether the caller may do it was decided by the kernel
//! before it asked us (`default_permissions`), with the caller's supplementary groups, which we
//! do not know: so the right to pass by permissions is kept.

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::filesystem::{Caller, Result};

/// Does `act` with the caller's user and group as the owner of what it makes.
pub(crate) fn acting_as<T>(caller: Caller, act: impl FnOnce() -> Result<T>) -> Result<T> {
    if caller.uid == 0 && caller.gid == 0 {
        return act();
    }
    let before = capabilities(None)?;
    let _identity = Identity::assume(caller);
    if caller.uid != 0 {
        // The kernel took the file capabilities away with the user. Two are needed: to search
        // and write the directory, and to keep a set-group-id bit that the caller may set.
        let mut kept = capabilities(None)?;
        let needed = CapabilitySet::DAC_OVERRIDE | CapabilitySet::FSETID;
        kept.effective |= before.effective & needed;
        set_capabilities(None, kept)?;
    }
    act()
}

/// The calling thread's identity for file access; root's again when dropped.
struct Identity;

impl Identity {
    fn assume(caller: Caller) -> Self {
        set_file_identity(caller.uid, caller.gid);
        Self
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        // Also gives back the file capabilities (capabilities(7), "Effect of user ID changes").
        set_file_identity(0, 0);
    }
}

fn set_file_identity(uid: u32, gid: u32) {
    // SAFETY: both calls take numbers only, and change the calling thread alone: these are the
    // bare system calls, which glibc does not spread over the process.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}
