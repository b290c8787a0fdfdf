//! What the source says about a file.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, fstat, statat};
use rustix::io::Result;

/// Which file it is, whatever its names: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// Tells two states of a file's contents apart, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) changed: Timestamp,
    modified: Timestamp,
    size: u64,
}

impl Stamp {
    /// All of it, as numbers.
    pub(crate) fn to_words(self) -> [u64; 5] {
        let Self { changed, modified, size } = self;
        let words = |time: Timestamp| [time.seconds.cast_unsigned(), time.nanoseconds.into()];
        let ([a, b], [c, d]) = (words(changed), words(modified));
        [a, b, c, d, size]
    }

    /// The one that these numbers are.
    pub(crate) fn from_words([a, b, c, d, size]: [u64; 5]) -> Self {
        let time = |seconds: u64, nanoseconds: u64| Timestamp {
            seconds: seconds.cast_signed(),
            nanoseconds: nanoseconds as u32,
        };
        Self { changed: time(a, b), modified: time(c, d), size }
    }
}

/// A moment, as the source keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// The attributes of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) identity: Identity,
    /// Type and permissions, as in `st_mode`.
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The device that a device node stands for.
    pub(crate) rdev: u64,
    pub(crate) size: u64,
    /// In units of 512 bytes.
    pub(crate) blocks: u64,
    pub(crate) block_size: u32,
    pub(crate) accessed: Timestamp,
    pub(crate) modified: Timestamp,
    pub(crate) changed: Timestamp,
}

impl Stat {
    /// Asks the source.
    pub(crate) fn of(node: BorrowedFd<'_>) -> Result<Self> {
        Ok(Self::from_raw(&fstat(node)?))
    }

    /// Asks the source what `name` in `directory` is. Symbolic links are not followed.
    pub(crate) fn at(directory: BorrowedFd<'_>, name: &CStr) -> Result<Self> {
        Ok(Self::from_raw(&statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    fn from_raw(stat: &rustix::fs::Stat) -> Self {
        let time = |seconds, nanoseconds: u64| Timestamp {
            seconds,
            nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
        };
        Self {
            identity: Identity { device: stat.st_dev, inode: stat.st_ino },
            mode: stat.st_mode,
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            block_size: u32::try_from(stat.st_blksize).unwrap_or(4096),
            accessed: time(stat.st_atime, stat.st_atime_nsec),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// What kind of file it is.
    pub(crate) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// What changes when the contents do.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { changed: self.changed, modified: self.modified, size: self.size }
    }
}
