//! What is said about files: attributes, extended attributes, the filesystem's own figures.

use std::ffi::CStr;
use std::os::fd::AsFd as _;

use rustix::io::Errno;

use crate::filesystem::{Caller, Filesystem, Result};
use crate::handles::HandleId;
use crate::inodes::{Inode, NodeId};
use crate::source::{NewTime, Stat};

/// The extended attributes by which POSIX ACLs are kept.
const ACLS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

/// Attributes to change; what is absent stays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewAttributes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) accessed: NewTime,
    pub(crate) modified: NewTime,
}

impl Filesystem {
    /// The attributes, and the moment at which a change behind the mount is noticed.
    pub(crate) fn attributes(&self, id: NodeId) -> Result<Stat> {
        let inode = self.inode(id)?;
        inode.contents.revalidate(inode.node()?.as_fd())
    }

    /// Changes attributes and returns them as they are then.
    pub(crate) fn set_attributes(
        &self,
        id: NodeId,
        open: Option<HandleId>,
        new: &NewAttributes,
        caller: Caller,
    ) -> Result<Stat> {
        let inode = self.inode(id)?;
        let times = !matches!((new.accessed, new.modified), (NewTime::Keep, NewTime::Keep));
        if let Some(size) = new.size {
            let stat = self.truncate(&inode, open, size, caller)?;
            if new.uid.is_none() && new.gid.is_none() && new.mode.is_none() && !times {
                return Ok(stat);
            }
        }
        let (_, stat) = self.keeping_contents(&inode, || {
            let node = inode.node()?;
            let node = node.as_fd();
            // The owner first: that takes away set-user-id bits, which the mode may then set.
            if new.uid.is_some() || new.gid.is_some() {
                self.source.change_owner(node, new.uid, new.gid)?;
            }
            if let Some(mode) = new.mode {
                self.source.change_mode(node, mode & 0o7777)?;
            }
            if times {
                self.source.set_times(node, new.accessed, new.modified)?;
            }
            Ok(())
        })?;
        Ok(stat)
    }

    /// The value of an extended attribute; an empty buffer asks for its length.
    pub(crate) fn get_xattr(&self, id: NodeId, name: &CStr, buffer: &mut [u8]) -> Result<usize> {
        let value = self.source.get_xattr(self.inode(id)?.node()?.as_fd(), name, buffer);
        match value {
            // The kernel asks for ACLs on its own account, where it checks permissions. That the
            // source cannot have any means that there is none.
            Err(Errno::OPNOTSUPP) if ACLS.contains(&name) => Err(Errno::NODATA),
            value => value,
        }
    }

    /// The names of all extended attributes that the caller may see, each ended by a NUL.
    pub(crate) fn list_xattrs(&self, id: NodeId, caller: Caller) -> Result<Vec<u8>> {
        let mut names = self.source.list_xattrs(self.inode(id)?.node()?.as_fd())?;
        if caller.uid != 0 {
            // The source shows these to the daemon, which is root, but not to everybody.
            let shown = names.split_inclusive(|&byte| byte == 0);
            names =
                shown.filter(|name| !name.starts_with(b"trusted.")).flatten().copied().collect();
        }
        Ok(names)
    }

    /// Sets an extended attribute; flags as in setxattr(2).
    pub(crate) fn set_xattr(
        &self,
        id: NodeId,
        name: &CStr,
        value: &[u8],
        flags: u32,
        caller: Caller,
    ) -> Result<()> {
        const SET_GID: u32 = 0o2000;
        let inode = self.inode(id)?;
        self.keeping_contents(&inode, || {
            let node = inode.node()?;
            let node = node.as_fd();
            self.source.set_xattr(node, name, value, flags)?;
            // A new ACL is a new mode, and takes the bit from a group that its giver is not in.
            if name == ACLS[0] && caller.uid != 0 {
                let stat = Stat::of(node)?;
                if stat.mode & SET_GID != 0 && !caller.in_group(stat.gid) {
                    self.source.change_mode(node, stat.mode & 0o7777 & !SET_GID)?;
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Removes an extended attribute.
    pub(crate) fn remove_xattr(&self, id: NodeId, name: &CStr) -> Result<()> {
        let inode = self.inode(id)?;
        self.keeping_contents(&inode, || self.source.remove_xattr(inode.node()?.as_fd(), name))?;
        Ok(())
    }

    /// The figures of the filesystem that holds an inode.
    pub(crate) fn statfs(&self, id: NodeId) -> Result<rustix::fs::StatVfs> {
        self.source.statvfs(self.inode(id)?.node()?.as_fd())
    }

    /// Does something of our own to a file that moves its times but not its contents, so that it
    /// is not taken for a change behind the mount. Returns what the source says afterwards, too.
    pub(crate) fn keeping_contents<T>(
        &self,
        inode: &Inode,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Stat)> {
        let change = inode.contents.begin_change(inode.node()?)?;
        let done = act()?;
        Ok((done, change.end()?))
    }
}
