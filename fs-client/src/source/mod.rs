//! The source: the directory that is mounted, as the kernel offers it.
//!
//! Everything is reached from a descriptor of the root that was opened before the mount, by
//! calls relative to descriptors, never by path. So the mount may cover its own source, and a
//! rename underneath changes nothing about a file that is known.

mod attributes;
mod file;
mod handle;
mod names;
mod node;
mod stat;

pub(crate) use attributes::NewTime;
pub(crate) use file::{Atime, DirectFile, Durability, Got, LONG_WRITE_MIN, Way, WrittenFile};
pub(crate) use names::{EntryKind, NewNode};
pub(crate) use node::{Found, Node, NodeFd, Nodes, Place};
pub(crate) use stat::{Identity, Stamp, Stat, Timestamp};

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, Result};

/// The mounted directory.
#[derive(Debug)]
pub(crate) struct Source {
    root: OwnedFd,
    /// `/proc/self/fd`: the way from a descriptor that only names a file (O_PATH) to one that
    /// opens it.
    descriptors: OwnedFd,
    covered: Option<Covered>,
}

/// The directory that the mount covers, should it lie inside the source. Looking it up by name
/// would lead into the mount, whose requests we answer ourselves.
#[derive(Debug)]
struct Covered {
    parent: Identity,
    name: CString,
    directory: OwnedFd,
}

impl Source {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// `NOTDIR`, `NOENT`, `ACCESS`: as open(2) has them.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty())?;
        let descriptors = openat(CWD, c"/proc/self/fd", flags, Mode::empty())?;
        let source = Self { root, descriptors, covered: None };
        // Searching it must be allowed, or every look-up would fail.
        rustix::fs::accessat(
            &source.root,
            c".",
            rustix::fs::Access::READ_OK | rustix::fs::Access::EXEC_OK,
            rustix::fs::AtFlags::EACCESS,
        )?;
        Ok(source)
    }

    /// Remembers the directory at `mountpoint`, which is about to be mounted over.
    pub(crate) fn cover(&mut self, mountpoint: &Path) -> Result<()> {
        use std::os::unix::ffi::OsStrExt as _;
        // The root directory has no name.
        let Some(name) = mountpoint.file_name() else { return Ok(()) };
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, mountpoint, flags, Mode::empty())?;
        let parent = openat(&directory, c"..", flags, Mode::empty())?;
        let parent = Stat::of(parent.as_fd())?.identity;
        self.covered = Some(Covered { parent, name, directory });
        Ok(())
    }

    /// A descriptor of its own for the root.
    pub(crate) fn root(&self) -> Result<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(&self.root, 3)
    }

    /// The table by which nodes are found again; it keeps `recent_max` descriptors at most.
    pub(crate) fn nodes(&self, recent_max: usize) -> Result<Arc<Nodes>> {
        let readable = self.open_directory(self.root.as_fd())?;
        Ok(Nodes::new(readable, recent_max))
    }

    /// What statvfs(3) says of the filesystem that holds `node`.
    pub(crate) fn statvfs(&self, node: BorrowedFd<'_>) -> Result<rustix::fs::StatVfs> {
        rustix::fs::fstatvfs(node)
    }

    /// Opens what `node` names. `flags` are those of open(2); creation is not possible here.
    pub(crate) fn reopen(&self, node: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
        let flags = (flags | OFlags::CLOEXEC) - OFlags::NOFOLLOW - OFlags::CREATE - OFlags::EXCL;
        openat(&self.descriptors, number(node), flags, Mode::empty())
    }

    /// The covered directory, if `name` in `directory` is its name.
    fn covered(&self, directory: BorrowedFd<'_>, name: &CStr) -> Option<BorrowedFd<'_>> {
        let covered = self.covered.as_ref().filter(|covered| covered.name.as_c_str() == name)?;
        let here = Stat::of(directory).ok()?.identity;
        (here == covered.parent).then(|| covered.directory.as_fd())
    }

    /// The directory in which descriptors have names, and the name of `node` in it.
    fn by_number(&self, node: BorrowedFd<'_>) -> (BorrowedFd<'_>, CString) {
        (self.descriptors.as_fd(), number(node))
    }
}

/// A descriptor's name in `/proc/self/fd`.
fn number(node: BorrowedFd<'_>) -> CString {
    CString::new(node.as_raw_fd().to_string()).expect("digits hold no NUL")
}

/// The path of a descriptor, for the calls that take nothing else.
fn proc_path(node: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", node.as_raw_fd())).expect("digits hold no NUL")
}

/// Whether an error says that a call or flag is not there, rather than that it failed.
fn unsupported(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)
}
