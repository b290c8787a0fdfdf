//! What is done to directories: finding, making, opening, renaming, removing, listing.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{FileType, RenameFlags};
use rustix::io::Errno;

use crate::caller::{Deed, with_umask};
use crate::filesystem::{Caller, Filesystem, NodeEntry, Result};
use crate::handles::HandleId;
use crate::inodes::{Inode, NodeId};
use crate::source::{EntryKind, NewNode, NodeFd};

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
        let directory = parent.node()?;
        Ok(self.look_up_in(&parent, directory.as_fd(), name)?.1)
    }

    /// The kernel has forgotten so many look-ups.
    pub(crate) fn forget(&self, id: NodeId, count: u64) {
        // The last descriptor of a removed file frees it on the disk, which may take long.
        if let Some(gone) = self.inodes.forget(id, count) {
            self.workers.run(move || drop(gone), |()| {});
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

    /// Gives a file one more name. Counts as a look-up.
    pub(crate) fn link(&self, id: NodeId, parent: NodeId, name: &CStr) -> Result<NodeEntry> {
        let (inode, directory) = (self.inode(id)?, self.inode(parent)?);
        let node = directory.node()?;
        self.keeping_contents(&inode, || {
            self.source.link(inode.node()?.as_fd(), node.as_fd(), name)
        })?;
        Ok(self.look_up_in(&directory, node.as_fd(), name)?.1)
    }

    /// Removes a name.
    pub(crate) fn remove(&self, parent: NodeId, name: &CStr, kind: EntryKind) -> Result<()> {
        let directory = self.inode(parent)?.node()?;
        let named = self.named(directory.as_fd(), name);
        // What ends with its name needs nothing kept.
        let living = named.as_ref().filter(|named| !named.only);
        self.renaming(living, || self.source.remove(directory.as_fd(), name, kind))?;
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
        let (old_parent, new_parent) = (self.inode(from.0)?, self.inode(to.0)?);
        let (old, new) = (old_parent.node()?, new_parent.node()?);
        let moved = self.named(old.as_fd(), from.1);
        let replaced = self.named(new.as_fd(), to.1);
        let exchanged = flags & RenameFlags::EXCHANGE.bits() != 0;
        let living = replaced.as_ref().filter(|replaced| exchanged || !replaced.only);
        self.renaming(moved.as_ref(), || {
            self.renaming(living, || {
                self.source.rename((old.as_fd(), from.1), (new.as_fd(), to.1), flags)
            })
        })?;
        if let Some(moved) = moved {
            moved.inode.found_at(&new_parent, to.1);
        }
        if let Some(replaced) = replaced {
            if exchanged {
                replaced.inode.found_at(&old_parent, from.1);
            } else {
                replaced.gone();
            }
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
        let listed = self.list(handle, place, |listed| {
            // The kernel knows these two already, and does not count them.
            if listed.name == c"." || listed.name == c".." {
                any = true;
                return each(listed, None);
            }
            let found = self.look_up_in(&directory.inode, node.as_fd(), listed.name);
            let (inode, entry) = match found {
                Ok(found) => found,
                // Gone since it was listed.
                Err(Errno::NOENT) => return true,
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            };
            let taken = each(ListedEntry { id: inode.id, ..listed }, Some(entry));
            if !taken {
                self.inodes.forget(inode.id, 1);
            }
            any = true;
            taken
        });
        // What came before an error is shown first; the next call meets it again.
        match listed.err().or(failed) {
            Some(error) if !any => Err(error),
            _ => Ok(()),
        }
    }

    /// Finds `name` in a directory that is open as `node`. Where files have handles, it need not be
    /// opened.
    fn look_up_in(
        &self,
        directory: &Inode,
        node: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<(Arc<Inode>, NodeEntry)> {
        // The handle first: if what it opens has the identity that is asked for afterwards, it was
        // there all the time, and the attributes are its own. No lock is held meanwhile.
        let found = self.inodes.find(node, name);
        let stat = self.source.stat(node, name)?;
        if let Some(found) = found
            && let Some(inode) = self.inodes.looked_up_by_name(directory, name, found, &stat)
        {
            self.rules.apply(&inode, node, name);
            let entry = NodeEntry::new(&inode, &stat);
            return Ok((inode, entry));
        }
        let (found, stat) = self.source.look_up(node, name)?;
        let inode = self.inodes.looked_up(directory, name, found.into(), &stat);
        self.rules.apply(&inode, node, name);
        let entry = NodeEntry::new(&inode, &stat);
        Ok((inode, entry))
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
                self.keeping_contents(&named.inode, act).map(|(done, _)| done)
            }
            _ => act(),
        }
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
