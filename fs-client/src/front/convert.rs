//! From our words to fuser's and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, INodeNo, TimeOrNow};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::filesystem::{NewTime, Stat, Timestamp};
use crate::inodes::NodeId;

/// The one place where an error gets the number that the application sees.
pub(super) fn errno(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.raw_os_error())
}

pub(super) fn file_attr(id: NodeId, stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(id.0),
        size: stat.size,
        blocks: stat.blocks,
        atime: system_time(stat.accessed),
        mtime: system_time(stat.modified),
        ctime: system_time(stat.changed),
        crtime: UNIX_EPOCH,
        kind: file_type(stat.file_type()),
        perm: (stat.mode & 0o7777) as u16,
        nlink: stat.links,
        uid: stat.uid,
        gid: stat.gid,
        rdev: u32::try_from(stat.rdev).unwrap_or(0),
        blksize: stat.block_size,
        flags: 0,
    }
}

/// What a listing shows of a directory itself and of its parent, which the kernel knows.
pub(super) fn bare_attr(id: NodeId, kind: FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(id.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// What stands for a name that is not there: number 0 (`fuse_lookup` in the kernel).
pub(super) fn no_attr() -> FileAttr {
    bare_attr(NodeId(0), FileType::RegularFile)
}

pub(super) fn file_type(kind: FileType) -> fuser::FileType {
    match kind {
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::CharacterDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        // A listing that does not say is corrected by the look-up that follows.
        FileType::RegularFile | FileType::Unknown => fuser::FileType::RegularFile,
    }
}

pub(super) fn new_time(time: Option<TimeOrNow>) -> NewTime {
    match time {
        None => NewTime::Keep,
        Some(TimeOrNow::Now) => NewTime::Now,
        Some(TimeOrNow::SpecificTime(at)) => NewTime::At(timestamp(at)),
    }
}

/// A moment as the standard library has it.
fn system_time(at: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(at.seconds.unsigned_abs());
    let whole = if at.seconds < 0 {
        UNIX_EPOCH.checked_sub(seconds)
    } else {
        UNIX_EPOCH.checked_add(seconds)
    };
    let moment =
        whole.and_then(|whole| whole.checked_add(Duration::from_nanos(at.nanoseconds.into())));
    moment.unwrap_or(UNIX_EPOCH)
}

/// A moment as fuser 0.18 understood it from the kernel. Before 1970 it takes the nanoseconds away
/// with the seconds, where the kernel counts them forwards from a whole second.
fn timestamp(at: SystemTime) -> Timestamp {
    let (sign, distance) = match at.duration_since(UNIX_EPOCH) {
        Ok(after) => (1, after),
        Err(before) => (-1, before.duration()),
    };
    let seconds = sign * i64::try_from(distance.as_secs()).unwrap_or(i64::MAX);
    Timestamp { seconds, nanoseconds: distance.subsec_nanos() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_1970_are_right_in_both_directions() {
        let half = Duration::from_millis(500);
        let second = Duration::from_secs(1);
        for (seconds, nanoseconds, moment) in [
            (0, 0, UNIX_EPOCH),
            (1, 500_000_000, UNIX_EPOCH + second + half),
            (-1, 0, UNIX_EPOCH - second),
            (-1, 500_000_000, UNIX_EPOCH - half),
            (-2, 500_000_000, UNIX_EPOCH - second - half),
        ] {
            assert_eq!(system_time(Timestamp { seconds, nanoseconds }), moment);
        }
        // As fuser makes it of -1 s and 0.5 s.
        let understood = UNIX_EPOCH - Duration::new(1, 500_000_000);
        assert_eq!(timestamp(understood), Timestamp { seconds: -1, nanoseconds: 500_000_000 });
    }
}
