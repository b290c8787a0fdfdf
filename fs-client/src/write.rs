//! The way of a write, and of everything else that changes what a file holds.
//!
//! The source first: what it acknowledged is acknowledged. Then the cache: the blocks are brought
//! to what the source holds, or removed. A server's copies are forgotten before the write is
//! acknowledged. A write that failed or came out short leaves no block in the cache.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::block::Span;
use crate::caller::Deed;
use crate::filesystem::{Caller, Filesystem, Result};
use crate::handles::{FileHandle, HandleId};
use crate::inodes::Inode;
use crate::source::{Durability, LONG_WRITE_MIN, Stat};

/// What a write asks for besides its data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HowToWrite {
    pub(crate) place: Place,
    pub(crate) durability: Durability,
}

/// Where a write goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    At(u64),
    /// Pages of a mapping, which the kernel brings in its own time.
    Mapped(u64),
    /// Behind the last byte, wherever that is by then.
    End,
}

/// What became of a write.
pub(crate) struct Written {
    bytes: usize,
    /// The bytes are where the cache thinks they are.
    in_place: bool,
}

impl Written {
    pub(crate) fn certain(bytes: usize) -> Self {
        Self { bytes, in_place: true }
    }
}

impl Filesystem {
    /// Writes `data` as `how` says, and returns how much of it the source took.
    pub(crate) fn write(
        &self,
        handle: HandleId,
        data: &[u8],
        how: &HowToWrite,
        caller: Caller,
    ) -> Result<usize> {
        let handle = self.handles.file(handle).ok_or(Errno::BADF)?;
        let file = handle.written.as_ref().ok_or(Errno::BADF)?;
        let change = handle.inode.contents.begin_change(handle.node.clone())?;
        if data.len() < LONG_WRITE_MIN {
            self.behind.note(&handle.inode, Instant::now());
        }
        let whose = match how.place {
            // The kernel writes a mapping back in its own name. What it may use of the disk is the
            // owner's.
            Place::Mapped(_) => (Caller { uid: change.uid, gid: change.gid, pid: 0 }, Deed::Flush),
            _ => (caller, Deed::Change),
        };
        match how.place {
            Place::At(offset) | Place::Mapped(offset) => {
                let write = || Ok(Written::certain(file.write_at(data, offset, how.durability)?));
                self.write_blocks(&handle, (offset, change.size), data, whose, write)
            }
            // Where the source's own end is: the kernel's idea of it may be old when somebody
            // else appends too.
            Place::End => {
                let offset = change.size;
                let write = || {
                    let bytes = file.append(data, how.durability)?;
                    let in_place = Stat::of(file.fd())?.size == offset + bytes as u64;
                    Ok(Written { bytes, in_place })
                };
                self.write_blocks(&handle, (offset, offset), data, whose, write)
            }
        }
    }

    /// Writes through `write`, which takes all of `data` or less, at an offset of a file that is
    /// so long before.
    pub(crate) fn write_blocks(
        &self,
        handle: &FileHandle,
        (offset, size): (u64, u64),
        data: &[u8],
        (caller, deed): (Caller, Deed),
        write: impl FnOnce() -> Result<Written>,
    ) -> Result<usize> {
        let contents = &handle.inode.contents;
        let span = Span::of(offset, data.len());
        let file = contents.key();
        let window = self.cache.begin_write(file, span);
        self.remote.forget(file, span);
        // Asked again now that no other write to these blocks can come and go unseen: what one
        // left between the former end and the new one is not zeros.
        let extends = offset + data.len() as u64 > size;
        let size = match extends.then(|| Stat::of(handle.node.as_fd())) {
            Some(Ok(stat)) => size.max(stat.size),
            Some(Err(_)) => u64::MAX,
            None => size,
        };
        let written = self.as_caller(caller, deed, write);
        match &written {
            Ok(written) if !written.in_place => {
                // Somebody else appended at the same time, and nobody knows whose bytes are where.
                contents.renew();
                return Ok(written.bytes);
            }
            Ok(written) => {
                if written.bytes == data.len() && !handle.is_excluded() {
                    window.update(offset, data, size);
                    self.keep_if_pinned(&handle.inode, span.keys(file));
                } else {
                    drop(window);
                }
                // Last: who sees the new end finds the new bytes before it.
                contents.grow(offset + written.bytes as u64);
            }
            // The source may have taken some of it all the same.
            Err(_) => drop(window),
        }
        // The contents may have got a new key in the middle; what was read under it meanwhile
        // may be older than this write.
        let mut key = file;
        while contents.key() != key {
            key = contents.key();
            // Forgotten within the window: who looks after it must not find the servers' old copies.
            let window = self.cache.begin_write(key, span);
            self.remote.forget(key, span);
            drop(window);
        }
        Ok(written?.bytes)
    }

    /// Cuts or extends a file to `size` bytes.
    pub(crate) fn truncate(
        &self,
        inode: &Inode,
        open: Option<HandleId>,
        size: u64,
        caller: Caller,
    ) -> Result<Stat> {
        let open = open.and_then(|id| self.handles.file(id));
        let change = self.change_whole(inode, caller, || {
            match open.as_deref().and_then(|open| open.written.as_ref()) {
                Some(file) => rustix::fs::ftruncate(file.fd(), size),
                None => self.source.truncate(inode.node()?.as_fd(), size),
            }
        });
        change.map(|(_, stat)| stat)
    }

    /// fallocate(2): reserves, punches, zeroes, collapses, inserts.
    pub(crate) fn allocate(
        &self,
        handle: HandleId,
        mode: u32,
        offset: u64,
        len: u64,
        caller: Caller,
    ) -> Result<()> {
        let handle = self.handles.file(handle).ok_or(Errno::BADF)?;
        let file = handle.written.as_ref().ok_or(Errno::BADF)?;
        let mode = FallocateFlags::from_bits_retain(mode);
        self.change_whole(&handle.inode, caller, || {
            rustix::fs::fallocate(file.fd(), mode, offset, len)
        })?;
        Ok(())
    }

    /// copy_file_range(2) between two open files of the mount.
    pub(crate) fn copy_range(
        &self,
        from: (HandleId, u64),
        to: (HandleId, u64),
        len: usize,
        caller: Caller,
    ) -> Result<usize> {
        let source = self.handles.file(from.0).ok_or(Errno::BADF)?;
        let target = self.handles.file(to.0).ok_or(Errno::BADF)?;
        if source.reads.is_none() {
            return Err(Errno::BADF);
        }
        // Not through the descriptor for direct reads, which takes whole blocks only.
        let read = match self.source.reopen(source.node.as_fd(), OFlags::RDONLY) {
            Ok(read) => read.into(),
            // Its mode was changed since it was opened, for reading and writing.
            Err(Errno::ACCESS) if source.written.is_some() => source.node.clone(),
            Err(error) => return Err(error),
        };
        let file = target.written.as_ref().ok_or(Errno::BADF)?;
        let (mut read_at, mut write_at) = (from.1, to.1);
        let (copied, _) = self.change_whole(&target.inode, caller, || {
            rustix::fs::copy_file_range(
                &read,
                Some(&mut read_at),
                file.fd(),
                Some(&mut write_at),
                len,
            )
        })?;
        // Read and written through the page cache, unless the source shares the blocks.
        let now = Instant::now();
        self.behind.note(&source.inode, now);
        self.behind.note(&target.inode, now);
        Ok(copied)
    }

    /// Brings a file to the disk, with or without its metadata.
    pub(crate) fn sync(&self, handle: HandleId, data_only: bool) -> Result<()> {
        let handle = self.handles.file(handle).ok_or(Errno::BADF)?;
        sync_fd(handle.node.as_fd(), data_only)
    }

    /// Brings a directory to the disk.
    pub(crate) fn sync_directory(&self, handle: HandleId, data_only: bool) -> Result<()> {
        let handle = self.handles.directory(handle).ok_or(Errno::BADF)?;
        handle.with_stream(|stream| sync_fd(stream, data_only))
    }

    /// Changes a file in a way that is not followed block by block: it gets a new key. Returns what
    /// the source says afterwards, too.
    pub(crate) fn change_whole<T>(
        &self,
        inode: &Inode,
        caller: Caller,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Stat)> {
        // Its end takes the new size and stamp from the source.
        let mut change = inode.contents.begin_change(inode.node()?)?;
        let result = self.as_caller(caller, Deed::Change, act);
        // Also after an error, which may have come half way.
        change.renew();
        let stat = change.end()?;
        Ok((result?, stat))
    }

    /// Where the next data or hole is, as lseek(2) says it.
    pub(crate) fn seek(&self, handle: HandleId, offset: u64, hole: bool) -> Result<u64> {
        let handle = self.handles.file(handle).ok_or(Errno::BADF)?;
        let whence = if hole {
            rustix::fs::SeekFrom::Hole(offset)
        } else {
            rustix::fs::SeekFrom::Data(offset)
        };
        rustix::fs::seek(&handle.node, whence)
    }
}

fn sync_fd(fd: BorrowedFd<'_>, data_only: bool) -> Result<()> {
    if data_only { rustix::fs::fdatasync(fd) } else { rustix::fs::fsync(fd) }
}
