//! Open files of the source: one way to read, past the page cache, and one to write.

use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, ReadWriteFlags, Result, preadv, preadv2, pwritev, pwritev2};

use super::{NodeFd, Source, proc_path, unsupported};
use crate::arena::AlignedBuffer;
use crate::block::BLOCK_SIZE;

/// `RWF_DONTCACHE` (Linux 6.14): pages that were not in the page cache before leave it, written ones when
/// they are on the disk.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// A write of so many bytes starts on its way to the disk at once. Shorter ones are left to the
/// kernel to collect: one by one they would be slow, and those that follow would find their pages
/// gone.
pub(crate) const LONG_WRITE_MIN: usize = 64 * 1024;

/// The most that one system call moves: the kernel allows 1,024 buffers a call.
const BUFFERS_MAX: usize = 1024;

/// A file opened to be read in whole blocks.
#[derive(Debug)]
pub(crate) struct DirectFile {
    file: NodeFd,
    way: Way,
    /// Opened when reads past the page cache turned out to be refused.
    through: OnceLock<NodeFd>,
    atime: Atime,
    /// The source has noted an access through this descriptor.
    accessed: AtomicBool,
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Past the page cache (O_DIRECT).
    Past,
    /// Through it: pages that were just written would have to be brought to the disk first.
    Through,
    /// As anybody does: the kernel reads ahead, and keeps what it likes.
    Usual,
}

/// What a read has given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Got {
    /// Fewer than asked for only at the end of the file.
    pub(crate) bytes: usize,
    /// All of it came from where the source stores it. False also where nobody knows.
    pub(crate) is_stored: bool,
}

/// What reading does to a file's time of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atime {
    /// What the source's own mount options say.
    AsSource,
    /// Nothing.
    Kept,
}

/// What must be on the disk before a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Nothing: the kernel has it.
    None,
    /// The data, and what is needed to find it (O_DSYNC).
    Data,
    /// The data and all attributes (O_SYNC).
    All,
}

/// A file opened to be written.
#[derive(Debug)]
pub(crate) struct WrittenFile {
    file: NodeFd,
    /// False once the source has refused `RWF_DONTCACHE`, or where the kernel may keep what is written.
    dontcache: AtomicBool,
}

impl Source {
    /// Opens a regular file for reads of whole blocks. Past the page cache, if the source can do
    /// that, and if `way` does not say that the page cache is needed.
    pub(crate) fn open_direct(
        &self,
        node: BorrowedFd<'_>,
        atime: Atime,
        way: Way,
    ) -> Result<DirectFile> {
        let read = match atime {
            Atime::AsSource => OFlags::RDONLY,
            Atime::Kept => OFlags::RDONLY | OFlags::NOATIME,
        };
        let opened = match way {
            Way::Past => self.reopen(node, read | OFlags::DIRECT),
            Way::Through | Way::Usual => self.reopen(node, read),
        };
        match opened {
            Ok(file) => Ok(DirectFile::new(file.into(), atime, way)),
            // Only the owner may ask for it; the mount's option cannot.
            Err(Errno::PERM) if atime == Atime::Kept => {
                self.open_direct(node, Atime::AsSource, way)
            }
            Err(error) if unsupported(error) && way == Way::Past => {
                self.open_direct(node, atime, Way::Through)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a regular file for writing. Each write says for itself whether it appends and how
    /// durable it is to be.
    pub(crate) fn open_written(
        &self,
        node: BorrowedFd<'_>,
        flags: OFlags,
        way: Way,
    ) -> Result<WrittenFile> {
        let mode = if flags.contains(OFlags::RDWR) { OFlags::RDWR } else { OFlags::WRONLY };
        let file = match self.reopen(node, mode) {
            // A file that may only be appended to (chattr +a).
            Err(Errno::PERM) if flags.contains(OFlags::APPEND) => {
                self.reopen(node, mode | OFlags::APPEND)?
            }
            opened => opened?,
        };
        Ok(WrittenFile::new(file.into(), way))
    }

    /// Lets go of the clean pages that the kernel keeps of a file.
    pub(crate) fn drop_pages(&self, node: BorrowedFd<'_>) {
        // Fails for who may not read it; then the kernel must find them by itself.
        if let Ok(file) = self.reopen(node, OFlags::RDONLY) {
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }
}

impl DirectFile {
    /// Wraps a descriptor that reads through the page cache.
    pub(crate) fn buffered(file: NodeFd, way: Way) -> Self {
        let way = if way == Way::Past { Way::Through } else { way };
        Self::new(file, Atime::AsSource, way)
    }

    fn new(file: NodeFd, atime: Atime, way: Way) -> Self {
        if way == Way::Through {
            bring_nothing_ahead(&file);
        }
        Self { file, way, through: OnceLock::new(), atime, accessed: AtomicBool::new(false) }
    }

    /// Has the source note that the file, `size` bytes long, was read, should it not have seen a
    /// read of it since it was opened. It decides what becomes of it.
    pub(crate) fn note_access(&self, size: u64) {
        thread_local! {
            /// Where nothing is read to.
            static NOWHERE: RefCell<Option<AlignedBuffer>> = const { RefCell::new(None) };
        }
        // Looked at first: nobody writes to it on the way of a hit.
        if self.atime == Atime::Kept
            || self.accessed.load(Ordering::Relaxed)
            || self.accessed.swap(true, Ordering::Relaxed)
        {
            return;
        }
        NOWHERE.with_borrow_mut(|buffer| {
            if buffer.is_none() {
                *buffer = AlignedBuffer::new(1).ok();
            }
            let Some(buffer) = buffer else { return };
            // A read behind the end brings nothing from the disk, and counts as an access.
            let end = size.next_multiple_of(BLOCK_SIZE as u64);
            let _ = preadv(&self.file, &mut [IoSliceMut::new(buffer.bytes_mut())], end);
        });
    }

    /// Reads into `buffers`, whole blocks each, from `offset`, a multiple of the block size.
    /// What lies beyond the end of the file is zeroed.
    pub(crate) fn read_blocks(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<Got> {
        self.accessed.store(true, Ordering::Relaxed);
        crate::sync::step();
        let wanted: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let mut all = Got { bytes: 0, is_stored: true };
        while all.bytes < wanted {
            let mut rest = remaining(buffers, all.bytes);
            let got = match self.read_once(&mut rest, offset + all.bytes as u64) {
                Ok(Got { bytes: 0, .. }) => break,
                Ok(got) => got,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            all.bytes += got.bytes;
            all.is_stored &= got.is_stored;
            // A part of a block is the end of the file; a further direct read would be unaligned.
            if !all.bytes.is_multiple_of(BLOCK_SIZE) {
                break;
            }
        }
        for mut buffer in remaining(buffers, all.bytes) {
            buffer.fill(0);
        }
        Ok(all)
    }

    pub(crate) fn node(&self) -> NodeFd {
        self.file.clone()
    }

    fn read_once(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<Got> {
        match (self.way, self.through.get()) {
            (Way::Past, None) => match preadv(&self.file, buffers, offset) {
                // Some files cannot be read so, and some disks want more than a block's alignment.
                Err(error) if unsupported(error) => {
                    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                    let through = openat(CWD, proc_path(self.file.as_fd()), flags, Mode::empty())?;
                    let through = self.through.get_or_init(|| {
                        let through = through.into();
                        bring_nothing_ahead(&through);
                        through
                    });
                    read_through(through, buffers, offset)
                }
                result => result.map(|bytes| Got { bytes, is_stored: true }),
            },
            (Way::Past, Some(through)) => read_through(through, buffers, offset),
            (Way::Through, _) => read_through(&self.file, buffers, offset),
            (Way::Usual, _) => {
                preadv(&self.file, buffers, offset).map(|bytes| Got { bytes, is_stored: false })
            }
        }
    }
}

/// Keeps the kernel from reading ahead, which we do. What it has read ahead it would say to have waited for.
fn bring_nothing_ahead(file: &NodeFd) {
    // Where that is refused, reads are as right.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random);
}

/// Reads through the page cache, and leaves nothing there that was not there before (Linux 6.14).
fn read_through(file: &NodeFd, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<Got> {
    /// What a source has refused, the others are not asked for either.
    static REFUSES_DONTCACHE: AtomicBool = AtomicBool::new(false);
    static REFUSES_NOWAIT: AtomicBool = AtomicBool::new(false);
    let dontcache = !REFUSES_DONTCACHE.load(Ordering::Relaxed);
    let flags = if dontcache { DONTCACHE } else { ReadWriteFlags::empty() };
    let mut is_stored = false;
    // What the page cache has is there without waiting.
    if !REFUSES_NOWAIT.load(Ordering::Relaxed) {
        match preadv2(file, buffers, offset, flags | ReadWriteFlags::NOWAIT) {
            Err(Errno::AGAIN) => is_stored = true,
            // One of the two flags is refused: which, the next call says.
            Err(error) if unsupported(error) => {}
            result => return result.map(|bytes| Got { bytes, is_stored }),
        }
    }
    if dontcache {
        match preadv2(file, buffers, offset, flags) {
            Err(error) if unsupported(error) => REFUSES_DONTCACHE.store(true, Ordering::Relaxed),
            result => {
                REFUSES_NOWAIT.fetch_or(!is_stored, Ordering::Relaxed);
                return result.map(|bytes| Got { bytes, is_stored });
            }
        }
    }
    let bytes = preadv(file, buffers, offset)?;
    REFUSES_NOWAIT.fetch_or(!dontcache && !is_stored, Ordering::Relaxed);
    Ok(Got { bytes, is_stored })
}

impl WrittenFile {
    /// Wraps a descriptor that was opened for writing. By the usual way the kernel keeps what was written.
    pub(crate) fn new(file: NodeFd, way: Way) -> Self {
        Self { file, dontcache: AtomicBool::new(way != Way::Usual) }
    }

    /// Writes `data` at `offset` and returns how much of it the source took.
    pub(crate) fn write_at(
        &self,
        data: &[u8],
        offset: u64,
        durability: Durability,
    ) -> Result<usize> {
        let flags = durability.flags();
        let mut done = 0;
        while done < data.len() {
            match self.write_once(&data[done..], offset + done as u64, flags) {
                Ok(0) => break,
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(error) if done == 0 => return Err(error),
                // What was written stays written; the next call meets the error itself.
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Writes `data` at the end of the file, wherever that is by now, in one piece.
    pub(crate) fn append(&self, data: &[u8], durability: Durability) -> Result<usize> {
        let flags = durability.flags() | ReadWriteFlags::APPEND;
        loop {
            match self.write_once(data, 0, flags) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }

    pub(crate) fn node(&self) -> NodeFd {
        self.file.clone()
    }

    /// For calls that want a descriptor: fallocate, ftruncate, copy_file_range.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn write_once(&self, data: &[u8], offset: u64, flags: ReadWriteFlags) -> Result<usize> {
        let long = data.len() >= LONG_WRITE_MIN;
        let data = [IoSlice::new(data)];
        if long && self.dontcache.load(Ordering::Relaxed) {
            match pwritev2(&self.file, &data, offset, flags | DONTCACHE) {
                Err(error) if unsupported(error) => self.dontcache.store(false, Ordering::Relaxed),
                result => return result,
            }
        }
        if flags.is_empty() {
            pwritev(&self.file, &data, offset)
        } else {
            pwritev2(&self.file, &data, offset, flags)
        }
    }
}

impl Durability {
    /// As the flags of an open file, or of a single write, have it.
    pub(crate) fn from_flags(flags: OFlags) -> Self {
        // O_SYNC holds the bit of O_DSYNC.
        if flags.contains(OFlags::SYNC) {
            Self::All
        } else if flags.contains(OFlags::DSYNC) {
            Self::Data
        } else {
            Self::None
        }
    }

    fn flags(self) -> ReadWriteFlags {
        match self {
            Self::None => ReadWriteFlags::empty(),
            Self::Data => ReadWriteFlags::DSYNC,
            Self::All => ReadWriteFlags::SYNC,
        }
    }
}

/// The part of `buffers` after the first `done` bytes, at most what one call takes.
fn remaining<'a>(buffers: &'a mut [IoSliceMut<'_>], mut done: usize) -> Vec<IoSliceMut<'a>> {
    let mut rest = Vec::with_capacity(buffers.len().min(BUFFERS_MAX));
    for buffer in buffers {
        if done >= buffer.len() {
            done -= buffer.len();
            continue;
        }
        if rest.len() == BUFFERS_MAX {
            break;
        }
        rest.push(IoSliceMut::new(&mut buffer[done..]));
        done = 0;
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_past_the_end_says_how_much_there_was_and_zeroes_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), vec![5; 5000]).unwrap();
        let source = Source::open(dir.path()).unwrap();
        let root = source.root().unwrap();
        let (node, _) = source.look_up(root.as_fd(), c"f").unwrap();
        let file = source.open_direct(node.as_fd(), Atime::AsSource, Way::Past).unwrap();
        let mut buffer = AlignedBuffer::new(3).unwrap();
        buffer.bytes_mut().fill(9);
        let got = file.read_blocks(&mut [IoSliceMut::new(buffer.bytes_mut())], 0).unwrap();
        assert_eq!(got.bytes, 5000);
        assert!(buffer.bytes_mut()[..5000].iter().all(|&byte| byte == 5));
        assert!(buffer.bytes_mut()[5000..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn what_the_page_cache_gives_is_told_from_what_is_stored() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, vec![5; 8 * BLOCK_SIZE]).unwrap();
        std::fs::File::open(&path).unwrap().sync_all().unwrap();
        let source = Source::open(dir.path()).unwrap();
        let root = source.root().unwrap();
        let (node, _) = source.look_up(root.as_fd(), c"f").unwrap();
        let mut buffer = AlignedBuffer::new(8).unwrap();
        source.drop_pages(node.as_fd());
        let file = std::fs::File::open(&path).unwrap();
        let mut probe = [IoSliceMut::new(buffer.bytes_mut())];
        let without_waiting = preadv2(&file, &mut probe, 0, ReadWriteFlags::NOWAIT);
        if without_waiting != Err(Errno::AGAIN) {
            return eprintln!("not tested: here nothing is stored elsewhere, or nobody can tell");
        }
        std::fs::write(&path, vec![5; 8 * BLOCK_SIZE]).unwrap();
        let mut read = |way| {
            let file = source.open_direct(node.as_fd(), Atime::AsSource, way).unwrap();
            file.read_blocks(&mut [IoSliceMut::new(buffer.bytes_mut())], 0).unwrap()
        };
        let bytes = 8 * BLOCK_SIZE;
        assert_eq!(read(Way::Through), Got { bytes, is_stored: false }, "just written");
        file.sync_all().unwrap();
        source.drop_pages(node.as_fd());
        assert_eq!(read(Way::Through), Got { bytes, is_stored: true });
        assert_eq!(read(Way::Past), Got { bytes, is_stored: true });
    }

    #[test]
    fn what_remains_begins_in_the_middle_of_a_buffer() {
        let (mut a, mut b) = ([1u8; 4], [2u8; 4]);
        let mut buffers = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
        let lengths = |buffers: &mut [IoSliceMut<'_>], done| {
            remaining(buffers, done).iter().map(|rest| rest.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&mut buffers, 0), [4, 4]);
        assert_eq!(lengths(&mut buffers, 5), [3]);
        assert!(lengths(&mut buffers, 8).is_empty());
    }
}
