//! Open files and directories, by the numbers that the kernel holds.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;
use parking_lot::Mutex;

use crate::inodes::Inode;
use crate::local::Sequence;
use crate::source::{Atime, DirectFile, NodeFd, WrittenFile};

/// The number of an open file or directory. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HandleId(pub(crate) u64);

/// An open regular file.
#[derive(Debug)]
pub(crate) struct FileHandle {
    pub(crate) inode: Arc<Inode>,
    /// The descriptor by which it was opened, for whatever does not care how.
    pub(crate) node: NodeFd,
    /// By which the inode is found as long as it is open, should its name be gone.
    _anchor: NodeFd,
    /// Present if it was opened for reading: what that does to the time of access.
    pub(crate) reads: Option<Atime>,
    /// Opened by the first read that needs it, if not before.
    pub(crate) direct: OnceLock<DirectFile>,
    /// Present if it was opened for writing.
    pub(crate) written: Option<WrittenFile>,
    pub(crate) sequence: Sequence,
}

impl FileHandle {
    /// Whether nothing of its file is cached.
    pub(crate) fn is_excluded(&self) -> bool {
        self.inode.is_excluded.load(Ordering::Relaxed)
    }

    /// One that is opened for writing, and for reading too if it says what that does.
    pub(crate) fn written(inode: Arc<Inode>, reads: Option<Atime>, file: WrittenFile) -> Self {
        let node = file.node();
        Self::new(inode, node, reads, OnceLock::new(), Some(file))
    }

    /// One that is only read.
    pub(crate) fn read(inode: Arc<Inode>, atime: Atime, file: DirectFile) -> Self {
        let node = file.node();
        Self::new(inode, node, Some(atime), OnceLock::from(file), None)
    }

    fn new(
        inode: Arc<Inode>,
        node: NodeFd,
        reads: Option<Atime>,
        direct: OnceLock<DirectFile>,
        written: Option<WrittenFile>,
    ) -> Self {
        let anchor = inode.open_as(&node);
        Self { inode, node, _anchor: anchor, reads, direct, written, sequence: Sequence::default() }
    }
}

/// An open directory. Listings move its position, so one goes on at a time.
#[derive(Debug)]
pub(crate) struct DirectoryHandle {
    pub(crate) inode: Arc<Inode>,
    stream: Mutex<OwnedFd>,
}

impl DirectoryHandle {
    /// Does something with the stream, alone.
    pub(crate) fn with_stream<T>(&self, each: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        each(self.stream.lock().as_fd())
    }
}

/// All that is open.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    files: DashMap<HandleId, Arc<FileHandle>>,
    directories: DashMap<HandleId, Arc<DirectoryHandle>>,
    next: AtomicU64,
}

impl Handles {
    pub(crate) fn add_file(&self, file: FileHandle) -> HandleId {
        let id = self.next_id();
        self.files.insert(id, Arc::new(file));
        id
    }

    pub(crate) fn add_directory(&self, inode: Arc<Inode>, stream: OwnedFd) -> HandleId {
        let id = self.next_id();
        let directory = DirectoryHandle { inode, stream: Mutex::new(stream) };
        self.directories.insert(id, Arc::new(directory));
        id
    }

    pub(crate) fn file(&self, id: HandleId) -> Option<Arc<FileHandle>> {
        self.files.get(&id).map(|file| file.clone())
    }

    pub(crate) fn directory(&self, id: HandleId) -> Option<Arc<DirectoryHandle>> {
        self.directories.get(&id).map(|directory| directory.clone())
    }

    pub(crate) fn remove_file(&self, id: HandleId) {
        self.files.remove(&id);
    }

    pub(crate) fn remove_directory(&self, id: HandleId) {
        self.directories.remove(&id);
    }

    fn next_id(&self) -> HandleId {
        HandleId(self.next.fetch_add(1, Ordering::Relaxed) + 1)
    }
}
