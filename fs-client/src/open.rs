//! Opening files: for reading past the page cache, for writing, or both.

use std::ffi::CStr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::caller::{Deed, with_umask};
use crate::filesystem::{Filesystem, NodeEntry, Result};
use crate::handles::{FileHandle, HandleId};
use crate::inodes::{Inode, NodeId};
use crate::names::Maker;
use crate::source::{Atime, DirectFile, NodeFd, Stat, Way, WrittenFile};
use crate::sync::atomic::Ordering;

impl Filesystem {
    /// Creates, or opens, a regular file. Counts as a look-up.
    pub(crate) fn create(
        &self,
        parent: NodeId,
        name: &CStr,
        flags: OFlags,
        mode: u32,
        maker: Maker,
    ) -> Result<(NodeEntry, HandleId)> {
        let parent = self.inode(parent)?;
        let directory = parent.node()?;
        let file = self.as_caller(maker.caller, Deed::Make, || {
            with_umask(maker.umask, || self.source.create(directory.as_fd(), name, mode))
        });
        let file = match file {
            // Made by somebody else since the kernel looked. On this error it looks again, finds
            // the file, and checks whether the caller may open it.
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => return Err(Errno::STALE),
            made => NodeFd::from(made?),
        };
        let stat = Stat::of(file.as_fd())?;
        let inode = self.inodes.looked_up(&parent, name, file.clone(), &stat);
        self.rules.apply(&inode, directory.as_fd(), name);
        let entry = NodeEntry::new(&inode, &stat);
        let opened = self.open_created(&inode, flags, file);
        if opened.is_err() {
            // The kernel will not hear of the inode.
            self.inodes.forget(inode.id, 1);
        }
        Ok((entry, opened?))
    }

    /// Opens a regular file, and looks whether its contents are still those that are cached.
    pub(crate) fn open(&self, id: NodeId, flags: OFlags) -> Result<HandleId> {
        let inode = self.inode(id)?;
        let node = inode.node()?;
        let stat = inode.contents.revalidate(node.as_fd())?;
        if stat.links == 0 && inode.counts_links && !inode.is_pinned() {
            // Removed or replaced by somebody else. On this error the kernel looks its name up
            // again, however long it may keep names, and opens what has the name now.
            return Err(Errno::STALE);
        }
        let reads = self.reads(flags);
        if writes(flags) {
            let written = self.source.open_written(node.as_fd(), flags, way(&inode))?;
            return Ok(self.handles.add_file(FileHandle::written(inode, reads, written)));
        }
        // Whoever only reads is to hear of errors now.
        let atime = reads.ok_or(Errno::BADF)?;
        let direct = self.source.open_direct(node.as_fd(), atime, way(&inode))?;
        Ok(self.handles.add_file(FileHandle::read(inode, atime, direct)))
    }

    /// Closes a file.
    pub(crate) fn release(&self, handle: HandleId) {
        self.handles.remove_file(handle);
    }

    /// The descriptor for reads.
    ///
    /// # Errors
    /// `BADF` if the file was not opened for reading; those of open(2).
    pub(crate) fn direct<'h>(&self, handle: &'h FileHandle) -> Result<&'h DirectFile> {
        if let Some(direct) = handle.direct.get() {
            return Ok(direct);
        }
        let atime = handle.reads.ok_or(Errno::BADF)?;
        let direct = self.open_to_read(&handle.inode, &handle.node, atime)?;
        Ok(handle.direct.get_or_init(|| direct))
    }

    /// A handle for a file that was just created.
    fn open_created(&self, inode: &Arc<Inode>, flags: OFlags, file: NodeFd) -> Result<HandleId> {
        let reads = self.reads(flags);
        let handle = if writes(flags) {
            FileHandle::written(inode.clone(), reads, WrittenFile::new(file, way(inode)))
        } else {
            let atime = reads.ok_or(Errno::BADF)?;
            let direct = self.open_to_read(inode, &file, atime)?;
            FileHandle::read(inode.clone(), atime, direct)
        };
        Ok(self.handles.add_file(handle))
    }

    /// Opens what is open as `file` once more, for reads.
    fn open_to_read(&self, inode: &Inode, file: &NodeFd, atime: Atime) -> Result<DirectFile> {
        match self.source.open_direct(file.as_fd(), atime, way(inode)) {
            // The new file's mode may deny what the one who creates it was given.
            Err(Errno::ACCESS) => Ok(DirectFile::buffered(file.clone(), way(inode))),
            opened => opened,
        }
    }

    /// What reading a file that was opened with `flags` does to its time of access; none if it
    /// may not be read.
    fn reads(&self, flags: OFlags) -> Option<Atime> {
        if flags.contains(OFlags::WRONLY) {
            None
        } else if self.settings.no_atime || flags.contains(OFlags::NOATIME) {
            Some(Atime::Kept)
        } else {
            Some(Atime::AsSource)
        }
    }
}

/// Past the page cache, unless it holds what was just written, which would have to be brought to the
/// disk before it can be read from there; or unless it is the only cache that the file shall have.
fn way(inode: &Inode) -> Way {
    if inode.is_excluded.load(Ordering::Relaxed) {
        Way::Usual
    } else if inode.short_writes.are_recent(Instant::now()) {
        Way::Through
    } else {
        Way::Past
    }
}

fn writes(flags: OFlags) -> bool {
    flags.intersects(OFlags::WRONLY | OFlags::RDWR)
}
