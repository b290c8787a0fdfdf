//! Mounting where something waits for it: on an automount point of systemd or of automount(8).
//!
//! Whoever looks at such a directory waits until it is mounted over, and we would wait for ourselves. So it is not looked at: the
//! mount is made elsewhere and put there by its descriptor.

use std::fs;
use std::io::Result;
use std::path::{Path, PathBuf};

use rampool_cli::status::directory;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};

/// A directory of our own on which a mount is made, to be moved from there. Dropping it takes away what is there.
#[derive(Debug)]
pub(crate) struct Stage(PathBuf);

impl Stage {
    /// A new one.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub(crate) fn new() -> Result<Self> {
        let place = directory(rustix::process::geteuid().as_raw());
        fs::create_dir_all(&place)?;
        let path = place.join(format!("stage-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where to mount.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Puts what is mounted here over `mountpoint` instead, which is not looked into.
    ///
    /// # Errors
    /// Those of open_tree(2) and move_mount(2): it takes CAP_SYS_ADMIN.
    pub(crate) fn put_over(self, mountpoint: &Path) -> Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, &self.0, flags)?;
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(&tree, "", CWD, mountpoint, empty)?)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What was mounted over another place stays there.
        let _ = unmount(&self.0, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        let _ = fs::remove_dir(&self.0);
    }
}
