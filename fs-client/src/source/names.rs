//! Names: everything that is done to a directory of the source.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, SeekFrom, linkat, mkdirat, mknodat,
    openat, readlinkat, renameat_with, seek, symlinkat, unlinkat,
};
use rustix::io::Result;

use super::stat::Stat;
use super::{Source, proc_path};

/// What to make under a new name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NewNode<'a> {
    Directory {
        mode: u32,
    },
    Symlink {
        target: &'a CStr,
    },
    /// A regular file, a device, a pipe or a socket, as mknod(2) makes them.
    Other {
        mode: u32,
        device: u64,
    },
}

/// What to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
}

impl Source {
    /// Finds `name` in `directory`: a descriptor that names it, and what it is. Symbolic links
    /// are found, not followed.
    pub(crate) fn look_up(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<(OwnedFd, Stat)> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = match self.covered(directory, name) {
            Some(covered) => rustix::io::fcntl_dupfd_cloexec(covered, 3)?,
            None => openat(directory, name, flags, Mode::empty())?,
        };
        let stat = Stat::of(node.as_fd())?;
        Ok((node, stat))
    }

    /// What `name` in `directory` is. Symbolic links are not followed.
    pub(crate) fn stat(&self, directory: BorrowedFd<'_>, name: &CStr) -> Result<Stat> {
        match self.covered(directory, name) {
            Some(covered) => Stat::of(covered),
            None => Stat::at(directory, name),
        }
    }

    /// Creates a regular file and opens it for reading and writing.
    ///
    /// # Errors
    /// `EXIST`: one that is there already is never opened, since nobody has looked whether the
    /// caller may.
    pub(crate) fn create(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        mode: u32,
    ) -> Result<OwnedFd> {
        let new = OFlags::CREATE | OFlags::EXCL;
        let flags = new | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(directory, name, flags, Mode::from_raw_mode(mode))
    }

    /// Makes anything but an open file.
    pub(crate) fn make(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        node: NewNode<'_>,
    ) -> Result<()> {
        match node {
            NewNode::Directory { mode } => mkdirat(directory, name, Mode::from_raw_mode(mode)),
            NewNode::Symlink { target } => symlinkat(target, directory, name),
            NewNode::Other { mode, device } => {
                let kind = FileType::from_raw_mode(mode);
                mknodat(directory, name, kind, Mode::from_raw_mode(mode & 0o7777), device)
            }
        }
    }

    /// Gives `node` one more name.
    pub(crate) fn link(
        &self,
        node: BorrowedFd<'_>,
        directory: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<()> {
        let (numbers, number) = self.by_number(node);
        linkat(numbers, number, directory, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Removes a name.
    pub(crate) fn remove(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        kind: EntryKind,
    ) -> Result<()> {
        let flags = match kind {
            EntryKind::File => AtFlags::empty(),
            EntryKind::Directory => AtFlags::REMOVEDIR,
        };
        unlinkat(directory, name, flags)
    }

    /// Renames, with the flags of renameat2(2).
    pub(crate) fn rename(
        &self,
        from: (BorrowedFd<'_>, &CStr),
        to: (BorrowedFd<'_>, &CStr),
        flags: u32,
    ) -> Result<()> {
        let flags = RenameFlags::from_bits_retain(flags);
        renameat_with(from.0, from.1, to.0, to.1, flags)
    }

    /// Where a symbolic link points.
    pub(crate) fn read_link(&self, node: BorrowedFd<'_>) -> Result<Vec<u8>> {
        Ok(readlinkat(node, c"", Vec::new())?.into_bytes())
    }

    /// Opens a directory for listing.
    pub(crate) fn open_directory(&self, node: BorrowedFd<'_>) -> Result<OwnedFd> {
        self.reopen(node, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Lists `directory` from the place `from` (0 is the start), until `each` returns false.
    /// `each` is given the inode, the place after the entry, its type and its name.
    pub(crate) fn list(
        &self,
        directory: BorrowedFd<'_>,
        from: u64,
        mut each: impl FnMut(u64, u64, FileType, &CStr) -> bool,
    ) -> Result<()> {
        seek(directory, SeekFrom::Start(from))?;
        let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
        let mut entries = RawDir::new(directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let place = entry.next_entry_cookie();
            if !each(entry.ino(), place, entry.file_type(), entry.file_name()) {
                break;
            }
        }
        Ok(())
    }

    /// Changes permissions. Works on whatever `node` names but a symbolic link.
    pub(crate) fn change_mode(&self, node: BorrowedFd<'_>, mode: u32) -> Result<()> {
        let mode = Mode::from_raw_mode(mode);
        rustix::fs::chmodat(rustix::fs::CWD, proc_path(node), mode, AtFlags::empty())
    }
}
