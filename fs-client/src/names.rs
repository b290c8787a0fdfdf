//! What is done to directories: finding, making, opening, renaming, removing, listing.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::caller::{Deed, with_umask};
use crate::filesystem::{Caller, Filesystem, NodeEntry, Result};
use crate::handles::{FileHandle, HandleId};
use crate::inodes::{Inode, NodeId};
use crate::local::Sequence;
use crate::source::{Atime, DirectFile, EntryKind, NewNode, NodeFd, Stat, WrittenFile};

/// Who makes something, and which permissions it shall not have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maker {
    pub(crate) caller: Caller,
    pub(crate) umask: u32,
}

/// A name of something that the kernel knows.
struct Named {
    inode: Arc<Inode>,
    node: NodeFd,
    /// It has no other, so that removing the name removes it.
    only: bool,
}

/// An entry of a directory, as a listing shows it.
pub(crate) struct ListedEntry<'a> {
    pub(crate) id: NodeId,
    /// Where the listing goes on after this entry.
    pub(crate) place: u64,
    pub(crate) file_type: FileType,
    pub(crate) name: &'a CStr,
}

impl Filesystem {
    /// Finds `name` in a directory. Counts as a look-up.
    pub(crate) fn look_up(&self, parent: NodeId, name: &CStr) -> Result<NodeEntry> {
        let parent = self.inode(parent)?;
        let (node, stat) = self.source.look_up(parent.node()?.as_fd(), name)?;
        Ok(self.told(node, &stat).1)
    }

    /// The kernel has forgotten so many look-ups.
    pub(crate) fn forget(&self, id: NodeId, count: u64) {
        // The last descriptor of a removed file frees it on the disk, which may take long.
        if let Some(gone) = self.inodes.forget(id, count) {
            self.workers.run(move || drop(gone));
        }
    }

    /// Makes a directory, a symbolic link, a device, a pipe, a socket or a file. Counts as a
    /// look-up.
    pub(crate) fn make(
        &self,
        parent: NodeId,
        name: &CStr,
        node: NewNode<'_>,
        maker: Maker,
    ) -> Result<NodeEntry> {
        let directory = self.inode(parent)?.node()?;
        self.as_caller(maker.caller, Deed::Make, || {
            with_umask(maker.umask, || self.source.make(directory.as_fd(), name, node))
        })?;
        self.look_up(parent, name)
    }

    /// Creates, or opens, a regular file. Counts as a look-up.
    pub(crate) fn create(
        &self,
        parent: NodeId,
        name: &CStr,
        flags: OFlags,
        mode: u32,
        maker: Maker,
    ) -> Result<(NodeEntry, HandleId)> {
        let directory = self.inode(parent)?.node()?;
        let file = self.as_caller(maker.caller, Deed::Make, || {
            with_umask(maker.umask, || self.source.create(directory.as_fd(), name, flags, mode))
        })?;
        let (node, stat) = self.source.name_of(file.as_fd())?;
        let (inode, entry) = self.told(node, &stat);
        let opened = self.open_created(&inode, flags, file);
        if opened.is_err() {
            // The kernel will not hear of the inode.
            self.inodes.forget(inode.id, 1);
        }
        Ok((entry, opened?))
    }

    /// Opens a regular file, and looks whether its contents are still those that are cached.
    pub(crate) fn open(&self, id: NodeId, flags: OFlags, caller: Caller) -> Result<HandleId> {
        let inode = self.inode(id)?;
        let node = inode.node()?;
        if flags.contains(OFlags::TRUNC) {
            self.change_whole(&inode, caller, || self.source.open_written(node.as_fd(), flags))?;
        }
        inode.contents.revalidate(node.as_fd())?;
        let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        let written = writes
            .then(|| self.source.open_written(node.as_fd(), flags - OFlags::TRUNC))
            .transpose()?;
        let reads = !flags.contains(OFlags::WRONLY);
        let atime = self.atime(flags);
        let direct = reads.then(|| self.source.open_direct(node.as_fd(), atime)).transpose()?;
        Ok(self.add_handle(&inode, node, direct, written))
    }

    /// Closes a file.
    pub(crate) fn release(&self, handle: HandleId) {
        self.handles.remove_file(handle);
    }

    /// Gives a file one more name. Counts as a look-up.
    pub(crate) fn link(&self, id: NodeId, parent: NodeId, name: &CStr) -> Result<NodeEntry> {
        let (inode, directory) = (self.inode(id)?, self.inode(parent)?);
        self.keeping_contents(&inode, || {
            self.source.link(inode.node()?.as_fd(), directory.node()?.as_fd(), name)
        })?;
        self.look_up(parent, name)
    }

    /// Removes a name.
    pub(crate) fn remove(&self, parent: NodeId, name: &CStr, kind: EntryKind) -> Result<()> {
        let directory = self.inode(parent)?.node()?;
        let named = self.named(directory.as_fd(), name);
        self.renaming(named.as_ref(), || self.source.remove(directory.as_fd(), name, kind))?;
        if let Some(named) = named {
            named.gone();
        }
        Ok(())
    }

    /// Renames; flags as in renameat2(2).
    pub(crate) fn rename(
        &self,
        from: (NodeId, &CStr),
        to: (NodeId, &CStr),
        flags: u32,
    ) -> Result<()> {
        let (old, new) = (self.inode(from.0)?.node()?, self.inode(to.0)?.node()?);
        let moved = self.named(old.as_fd(), from.1);
        let replaced = self.named(new.as_fd(), to.1);
        // Both may live on: under a new name, under another one, or in each other's place.
        self.renaming(moved.as_ref(), || {
            self.renaming(replaced.as_ref(), || {
                self.source.rename((old.as_fd(), from.1), (new.as_fd(), to.1), flags)
            })
        })?;
        if let Some(replaced) = replaced
            && flags & RenameFlags::EXCHANGE.bits() == 0
        {
            replaced.gone();
        }
        Ok(())
    }

    /// Where a symbolic link points.
    pub(crate) fn read_link(&self, id: NodeId) -> Result<Vec<u8>> {
        self.source.read_link(self.inode(id)?.node()?.as_fd())
    }

    /// Opens a directory.
    pub(crate) fn open_directory(&self, id: NodeId) -> Result<HandleId> {
        let inode = self.inode(id)?;
        let stream = self.source.open_directory(inode.node()?.as_fd())?;
        Ok(self.handles.add_directory(inode, stream))
    }

    /// Closes a directory.
    pub(crate) fn release_directory(&self, handle: HandleId) {
        self.handles.remove_directory(handle);
    }

    /// Lists a directory from `place` on, until `each` returns false.
    pub(crate) fn list(
        &self,
        handle: HandleId,
        place: u64,
        mut each: impl FnMut(ListedEntry<'_>) -> bool,
    ) -> Result<()> {
        let directory = self.handles.directory(handle).ok_or(Errno::BADF)?;
        directory.with_stream(|stream| {
            self.source.list(stream, place, |inode, place, file_type, name| {
                let id = self.inodes.id_in_listing(&directory.inode, inode);
                each(ListedEntry { id, place, file_type, name })
            })
        })
    }

    /// Lists a directory with what a look-up of each entry would tell. An entry counts as a
    /// look-up if `each` took it.
    pub(crate) fn list_with_attributes(
        &self,
        handle: HandleId,
        place: u64,
        mut each: impl FnMut(ListedEntry<'_>, Option<NodeEntry>) -> bool,
    ) -> Result<()> {
        let directory = self.handles.directory(handle).ok_or(Errno::BADF)?;
        let node = directory.inode.node()?;
        let (mut any, mut failed) = (false, None);
        self.list(handle, place, |listed| {
            // The kernel knows these two already, and does not count them.
            if listed.name == c"." || listed.name == c".." {
                any = true;
                return each(listed, None);
            }
            let (node, stat) = match self.source.look_up(node.as_fd(), listed.name) {
                Ok(found) => found,
                // Gone since it was listed.
                Err(Errno::NOENT) => return true,
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            };
            let (inode, entry) = self.told(node, &stat);
            let taken = each(ListedEntry { id: inode.id, ..listed }, Some(entry));
            if !taken {
                self.inodes.forget(inode.id, 1);
            }
            any = true;
            taken
        })?;
        match failed {
            // What came before it is shown first; the next call meets it again.
            Some(error) if !any => Err(error),
            _ => Ok(()),
        }
    }

    /// Notes that the kernel is told of an inode.
    fn told(&self, node: OwnedFd, stat: &Stat) -> (Arc<Inode>, NodeEntry) {
        let inode = self.inodes.looked_up(node, stat);
        let entry = NodeEntry { id: inode.id, generation: inode.generation, stat: *stat };
        (inode, entry)
    }

    /// What the kernel knows of that which has a name.
    fn named(&self, directory: BorrowedFd<'_>, name: &CStr) -> Option<Named> {
        let stat = self.source.stat(directory, name).ok()?;
        let inode = self.inodes.by_identity(stat.identity)?;
        let node = inode.node().ok()?;
        let only = stat.links == 1 || stat.file_type() == FileType::Directory;
        Some(Named { inode, node, only })
    }

    /// Does something to a name. That moves the times of its file, but not its contents.
    fn renaming<T>(&self, named: Option<&Named>, act: impl FnOnce() -> Result<T>) -> Result<T> {
        match named {
            Some(named) if named.inode.file_type == FileType::RegularFile => {
                self.keeping_contents(&named.inode, act)
            }
            _ => act(),
        }
    }

    /// A handle for a file that was just created, or found to exist and emptied if `flags` said so.
    fn open_created(&self, inode: &Arc<Inode>, flags: OFlags, file: OwnedFd) -> Result<HandleId> {
        if flags.contains(OFlags::TRUNC) {
            inode.contents.renew();
        }
        let node = inode.node()?;
        inode.contents.revalidate(node.as_fd())?;
        let reads = !flags.contains(OFlags::WRONLY);
        let direct = match self.source.open_direct(node.as_fd(), self.atime(flags)) {
            _ if !reads => None,
            Ok(direct) => Some(direct),
            // The new file's mode may deny what the one who creates it was given.
            Err(Errno::ACCESS) => Some(DirectFile::buffered(rustix::io::dup(&file)?)),
            Err(error) => return Err(error),
        };
        let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        Ok(self.add_handle(inode, node, direct, writes.then(|| WrittenFile::new(file))))
    }

    /// What reading a file that was opened with `flags` does to its time of access.
    fn atime(&self, flags: OFlags) -> Atime {
        if self.settings.no_atime || flags.contains(OFlags::NOATIME) {
            Atime::Kept
        } else {
            Atime::AsSource
        }
    }

    fn add_handle(
        &self,
        inode: &Arc<Inode>,
        node: NodeFd,
        direct: Option<DirectFile>,
        written: Option<WrittenFile>,
    ) -> HandleId {
        let (inode, sequence) = (inode.clone(), Sequence::default());
        self.handles.add_file(FileHandle { inode, node, direct, written, sequence })
    }
}

impl Named {
    /// The name was removed. Who holds on to the file without having it open can still use it.
    fn gone(self) {
        if self.only {
            self.inode.pin(self.node);
        }
    }
}

/// A name as the source's calls take it.
pub(crate) fn c_name(name: &std::ffi::OsStr) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt as _;
    CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)
}
