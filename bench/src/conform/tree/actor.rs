//! Does operations in one directory and says what came of them, in words that can be compared.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path as FsPath, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, XattrFlags,
};
use rustix::io::{Errno, Result};
use rustix::mm::{MapFlags, ProtFlags};

use super::operation::{
    DIRS, FILES, How, Operation, PATHS, Path, Range, Rename, SLOTS, Space, XATTRS,
};

/// One side: a directory, and the files that are open in it.
pub(super) struct Actor {
    root: PathBuf,
    open: [Option<OwnedFd>; SLOTS],
}

/// What came of an operation.
#[derive(PartialEq, Eq)]
pub(super) enum Said {
    Nothing,
    Number(u64),
    Text(String),
    Bytes(Vec<u8>),
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
            Self::Bytes(bytes) => {
                // Runs of what was written are runs of one remainder; zeros are holes.
                let zeros = bytes.iter().filter(|&&byte| byte == 0).count();
                let hash = bytes.iter().fold(17u64, |hash, &byte| {
                    hash.wrapping_mul(1_099_511_628_211).wrapping_add(byte.into())
                });
                write!(f, "{} bytes, {zeros} of them zero, hash {hash:x}", bytes.len())
            }
        }
    }
}

impl Actor {
    /// For a directory that is empty: makes directories and a few files, and opens two of them.
    pub(super) fn new(root: &FsPath) -> Result<Self> {
        let mut actor = Self { root: root.to_owned(), open: Default::default() };
        for dir in DIRS {
            rustix::fs::mkdir(root.join(dir), Mode::from_raw_mode(0o755))?;
        }
        for (slot, file) in FILES.into_iter().enumerate() {
            let flags = OFlags::RDWR | OFlags::CREATE;
            let opened = rustix::fs::open(root.join(file), flags, Mode::from_raw_mode(0o644))?;
            rustix::io::pwrite(&opened, &bytes(30_000 * slot, 1), 0)?;
            if let Some(place) = actor.open.get_mut(slot) {
                *place = Some(opened);
            }
        }
        Ok(actor)
    }

    /// Does it.
    pub(super) fn act(&mut self, operation: &Operation) -> Result<Said> {
        use Operation as Op;
        let nothing = |result: Result<()>| result.map(|()| Said::Nothing);
        match *operation {
            Op::Open { path, how, mode, slot } => {
                // A file stays open where opening another fails, so that there is one most often.
                self.open[slot] = Some(self.open(path, how, mode)?);
                Ok(Said::Nothing)
            }
            Op::Close { slot } => {
                self.open[slot] = None;
                Ok(Said::Nothing)
            }
            Op::Write { slot, range, fill } => {
                number(rustix::io::pwrite(self.file(slot)?, &bytes(range.len, fill), range.offset))
            }
            Op::Append { path, len, fill } => {
                let file = rustix::fs::open(
                    self.path(path),
                    OFlags::WRONLY | OFlags::APPEND,
                    Mode::empty(),
                )?;
                number(rustix::io::write(file, &bytes(len, fill)))
            }
            Op::Read { slot, range } => read(self.file(slot)?, range),
            Op::ReadWhole { path } => {
                let file = rustix::fs::open(self.path(path), OFlags::RDONLY, Mode::empty())?;
                read(&file, Range { offset: 0, len: 2 << 20 })
            }
            Op::WriteMapped { slot, range, fill } => {
                nothing(write_mapped(self.file(slot)?, range, fill))
            }
            Op::ReadMapped { slot } => read_mapped(self.file(slot)?),
            Op::TruncateOpen { slot, len } => nothing(rustix::fs::ftruncate(self.file(slot)?, len)),
            Op::Truncate { path, len } => {
                let file = rustix::fs::open(self.path(path), OFlags::WRONLY, Mode::empty())?;
                nothing(rustix::fs::ftruncate(file, len))
            }
            Op::Space { slot, what, range } => {
                let (file, len) = (self.file(slot)?, range.len as u64);
                nothing(rustix::fs::fallocate(file, space(what), range.offset, len))
            }
            Op::Copy { from, to, range, offset } => {
                copy(self.file(from)?, self.file(to)?, range, offset)
            }
            Op::Sync { slot } => nothing(rustix::fs::fsync(self.file(slot)?)),
            Op::StatOpen { slot } => {
                Ok(Said::Text(describe(&rustix::fs::fstat(self.file(slot)?)?)))
            }
            Op::Rename { from, to, how } => {
                let flags = match how {
                    Rename::Plain => RenameFlags::empty(),
                    Rename::Exchange => RenameFlags::EXCHANGE,
                    Rename::NoReplace => RenameFlags::NOREPLACE,
                };
                nothing(rustix::fs::renameat_with(CWD, self.path(from), CWD, self.path(to), flags))
            }
            Op::Link { from, to } => nothing(rustix::fs::link(self.path(from), self.path(to))),
            Op::Unlink { path } => nothing(rustix::fs::unlink(self.path(path))),
            Op::MakeDir { path, mode } => {
                nothing(rustix::fs::mkdir(self.path(path), Mode::from_raw_mode(mode)))
            }
            Op::RemoveDir { path } => nothing(rustix::fs::rmdir(self.path(path))),
            Op::Symlink { target, path } => {
                nothing(rustix::fs::symlink(PATHS[target.0], self.path(path)))
            }
            Op::ReadLink { path } => {
                let target = rustix::fs::readlink(self.path(path), Vec::new())?;
                Ok(Said::Text(target.to_string_lossy().into_owned()))
            }
            Op::List { path } => self.list(path),
            Op::Stat { path } => Ok(Said::Text(describe(&rustix::fs::lstat(self.path(path))?))),
            Op::ChangeMode { path, mode } => {
                nothing(rustix::fs::chmod(self.path(path), Mode::from_raw_mode(mode)))
            }
            Op::SetTimes { path, seconds } => {
                let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
                let times = Timestamps { last_access: time, last_modification: time };
                nothing(rustix::fs::utimensat(
                    CWD,
                    self.path(path),
                    &times,
                    AtFlags::SYMLINK_NOFOLLOW,
                ))
            }
            Op::SetXattr { path, name, len } => {
                let value = bytes(len, 7);
                nothing(rustix::fs::lsetxattr(
                    self.path(path),
                    XATTRS[name],
                    &value,
                    XattrFlags::empty(),
                ))
            }
            Op::GetXattr { path, name } => {
                let mut value = vec![0; 512];
                let len =
                    rustix::fs::lgetxattr(self.path(path), XATTRS[name], value.as_mut_slice())?;
                value.truncate(len);
                Ok(Said::Bytes(value))
            }
            Op::ListXattrs { path } => {
                let mut names = vec![0; 4096];
                let len = rustix::fs::llistxattr(self.path(path), names.as_mut_slice())?;
                let mut names: Vec<_> = names[..len].split(|&byte| byte == 0).collect();
                names.sort_unstable();
                Ok(Said::Bytes(names.concat()))
            }
            Op::RemoveXattr { path, name } => {
                nothing(rustix::fs::lremovexattr(self.path(path), XATTRS[name]))
            }
            Op::Remount => {
                self.open = Default::default();
                Ok(Said::Nothing)
            }
        }
    }

    /// What the open files are and hold.
    pub(super) fn open_files(
        &self,
    ) -> impl Iterator<Item = Option<(Result<String>, Result<Said>)>> {
        self.open.iter().map(|file| {
            let file = file.as_ref()?;
            let whole = read(file, Range { offset: 0, len: 2 << 20 });
            Some((rustix::fs::fstat(file).map(|stat| describe(&stat)), whole))
        })
    }

    fn path(&self, path: Path) -> PathBuf {
        self.root.join(PATHS[path.0])
    }

    fn file(&self, slot: usize) -> Result<&OwnedFd> {
        self.open[slot].as_ref().ok_or(Errno::BADF)
    }

    fn open(&self, path: Path, how: How, mode: u32) -> Result<OwnedFd> {
        let flags = match how {
            How::Read => OFlags::RDONLY,
            How::ReadWrite => OFlags::RDWR,
            How::Append => OFlags::RDWR | OFlags::APPEND,
            How::Truncate => OFlags::RDWR | OFlags::TRUNC,
            How::Create { exclusive: true } => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            How::Create { exclusive: false } => OFlags::RDWR | OFlags::CREATE,
        };
        rustix::fs::open(self.path(path), flags, Mode::from_raw_mode(mode))
    }

    /// Names with their types, sorted.
    fn list(&self, path: Path) -> Result<Said> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = rustix::fs::open(self.path(path), flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(dir)? {
            let entry = entry?;
            names.push(format!("{} {:?}", entry.file_name().to_string_lossy(), entry.file_type()));
        }
        names.sort();
        Ok(Said::Text(names.join(", ")))
    }
}

/// What can be known of a file and must be the same everywhere. Times of now are not.
fn describe(stat: &Stat) -> String {
    const LONG_AGO: i64 = 1_500_000_000;
    let modified = if stat.st_mtime < LONG_AGO { stat.st_mtime } else { 0 };
    format!(
        "mode {:o}, {} links, {} bytes, modified {modified}",
        stat.st_mode, stat.st_nlink, stat.st_size
    )
}

fn number(result: Result<usize>) -> Result<Said> {
    result.map(|number| Said::Number(number as u64))
}

/// Bytes of which each tells where it belongs, none of them zero.
fn bytes(len: usize, fill: u8) -> Vec<u8> {
    (0..len).map(|at| ((at / 7 + usize::from(fill)) % 255 + 1) as u8).collect()
}

/// Reads until the range or the file ends.
fn read(file: &OwnedFd, range: Range) -> Result<Said> {
    let mut bytes = vec![0; range.len];
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pread(file, &mut bytes[done..], range.offset + done as u64)? {
            0 => break,
            more => done += more,
        }
    }
    bytes.truncate(done);
    Ok(Said::Bytes(bytes))
}

fn copy(from: &OwnedFd, to: &OwnedFd, range: Range, mut offset: u64) -> Result<Said> {
    let mut start = range.offset;
    number(rustix::fs::copy_file_range(from, Some(&mut start), to, Some(&mut offset), range.len))
}

fn space(what: Space) -> FallocateFlags {
    match what {
        Space::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        Space::Zero => FallocateFlags::ZERO_RANGE,
        Space::Allocate => FallocateFlags::empty(),
        Space::AllocateBeyondEnd => FallocateFlags::KEEP_SIZE,
    }
}

/// Writes through a mapping, as far as the file goes.
fn write_mapped(file: &OwnedFd, range: Range, fill: u8) -> Result<()> {
    mapped(file, ProtFlags::READ | ProtFlags::WRITE, |memory| {
        let start = usize::try_from(range.offset).unwrap_or(usize::MAX).min(memory.len());
        let end = start.saturating_add(range.len).min(memory.len());
        memory[start..end].copy_from_slice(&bytes(end - start, fill));
    })
}

fn read_mapped(file: &OwnedFd) -> Result<Said> {
    let mut bytes = Vec::new();
    mapped(file, ProtFlags::READ, |memory| bytes.extend_from_slice(memory))?;
    Ok(Said::Bytes(bytes))
}

/// Shows `act` the whole file as memory, shared with whoever else has it open.
fn mapped(file: &OwnedFd, protection: ProtFlags, act: impl FnOnce(&mut [u8])) -> Result<()> {
    let len = rustix::fs::fstat(file)?.st_size as usize;
    if len == 0 {
        return Ok(());
    }
    // SAFETY: a new mapping at a place of the kernel's choice. The file is in a directory of our
    // own and nobody else changes its length while we are here.
    let start = unsafe {
        rustix::mm::mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, file, 0)?
    };
    // SAFETY: the mapping is `len` bytes, readable, and not seen by anybody else in this process.
    // Where it is not writable, `act` only reads.
    act(unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), len) });
    // SAFETY: it was mapped above, and the slice is gone.
    unsafe { rustix::mm::munmap(start, len) }
}
