//! Extended attributes, truncation by name, times and owners: what takes a path or a node.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{
    AtFlags, Gid, Timespec, Timestamps, Uid, XattrFlags, chownat, getxattr, getxattr_query,
    listxattr, listxattr_query, removexattr, setxattr, utimensat,
};
use rustix::io::{Errno, Result};

use super::{Source, Timestamp, proc_path};

/// A time to set.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NewTime {
    Keep,
    Now,
    At(Timestamp),
}

impl Source {
    /// The value of an attribute. An empty buffer asks for its length.
    pub(crate) fn get_xattr(
        &self,
        node: BorrowedFd<'_>,
        name: &CStr,
        buffer: &mut [u8],
    ) -> Result<usize> {
        if buffer.is_empty() {
            getxattr_query(proc_path(node), name)
        } else {
            getxattr(proc_path(node), name, buffer)
        }
    }

    /// The names of all attributes, each ended by a NUL.
    pub(crate) fn list_xattrs(&self, node: BorrowedFd<'_>) -> Result<Vec<u8>> {
        let path = proc_path(node);
        loop {
            let mut names = vec![0; listxattr_query(&path)?];
            if names.is_empty() {
                return Ok(names);
            }
            match listxattr(&path, &mut names[..]) {
                // More since.
                Err(Errno::RANGE) => {}
                Ok(len) => {
                    names.truncate(len);
                    return Ok(names);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sets an attribute; `flags` as in setxattr(2).
    pub(crate) fn set_xattr(
        &self,
        node: BorrowedFd<'_>,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        setxattr(proc_path(node), name, value, XattrFlags::from_bits_retain(flags))
    }

    /// Removes an attribute.
    pub(crate) fn remove_xattr(&self, node: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        removexattr(proc_path(node), name)
    }

    /// Changes the owner, of a symbolic link itself too.
    pub(crate) fn change_owner(
        &self,
        node: BorrowedFd<'_>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<()> {
        let uid = uid.map(Uid::from_raw);
        let gid = gid.map(Gid::from_raw);
        chownat(node, c"", uid, gid, AtFlags::EMPTY_PATH)
    }

    /// Sets the times of access and modification.
    pub(crate) fn set_times(
        &self,
        node: BorrowedFd<'_>,
        accessed: NewTime,
        modified: NewTime,
    ) -> Result<()> {
        let times =
            Timestamps { last_access: timespec(accessed), last_modification: timespec(modified) };
        utimensat(rustix::fs::CWD, proc_path(node), &times, AtFlags::empty())
    }

    /// Cuts or extends a file that is not open for writing.
    pub(crate) fn truncate(&self, node: BorrowedFd<'_>, size: u64) -> Result<()> {
        let file = self.reopen(node, rustix::fs::OFlags::WRONLY)?;
        loop {
            match rustix::fs::ftruncate(&file, size) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }
}

fn timespec(time: NewTime) -> Timespec {
    match time {
        NewTime::Keep => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        NewTime::Now => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        NewTime::At(at) => Timespec { tv_sec: at.seconds, tv_nsec: i64::from(at.nanoseconds) },
    }
}
