//! A source that fails: the error reaches the application as it is, and the cache holds nothing
//! that the source does not.
//!
//! The source is a small FUSE filesystem with one file, which fails when it is told to.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};

use crate::support::{Mounted, noise};

const FILE: INodeNo = INodeNo(2);
const LEN: usize = 100_000;

/// What goes wrong, until something else is said.
#[derive(Clone, Copy, Debug, Default)]
enum Fault {
    #[default]
    None,
    Reads(i32),
    Writes(i32),
    /// Takes so many bytes of each write.
    ShortWrites(usize),
    Syncs(i32),
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    fault: Fault,
    changed: Option<SystemTime>,
}

#[derive(Clone, Default)]
struct Broken(Arc<Mutex<State>>);

impl Broken {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn fail(&self, fault: Fault) {
        self.state().fault = fault;
    }

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let state = self.state();
        let directory = inode == INodeNo::ROOT;
        let at = state.changed.unwrap_or(SystemTime::UNIX_EPOCH);
        FileAttr {
            ino: inode,
            size: if directory { 0 } else { state.bytes.len() as u64 },
            blocks: 0,
            atime: at,
            mtime: at,
            ctime: at,
            crtime: at,
            kind: if directory { FileType::Directory } else { FileType::RegularFile },
            perm: if directory { 0o755 } else { 0o644 },
            nlink: 1,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Broken {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "f" {
            reply.entry(&Duration::ZERO, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.state();
        if let Fault::Reads(errno) = state.fault {
            return reply.error(Errno::from_i32(errno));
        }
        let start = state.bytes.len().min(offset as usize);
        let end = state.bytes.len().min(start + size as usize);
        reply.data(&state.bytes[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.state();
        let taken = match state.fault {
            Fault::Writes(errno) => return reply.error(Errno::from_i32(errno)),
            Fault::ShortWrites(bytes) => data.len().min(bytes),
            _ => data.len(),
        };
        let (start, end) = (offset as usize, offset as usize + taken);
        let len = state.bytes.len().max(end);
        state.bytes.resize(len, 0);
        state.bytes[start..end].copy_from_slice(&data[..taken]);
        state.changed = Some(SystemTime::now());
        // Once only: whoever asks for the rest is given an error, as a full disk does it.
        if taken < data.len() {
            state.fault = Fault::Writes(libc::ENOSPC);
        }
        reply.written(taken as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.state().fault {
            Fault::Syncs(errno) => reply.error(Errno::from_i32(errno)),
            _ => reply.ok(),
        }
    }
}

/// The source, and a mount of it.
struct Place {
    mounted: Mounted,
    broken: Broken,
    _session: BackgroundSession,
}

impl Place {
    fn new() -> Self {
        let mut mounted = Mounted::prepare();
        let broken = Broken::default();
        broken.state().bytes = noise(1, LEN);
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("broken".to_owned())];
        let session = Session::new(broken.clone(), &mounted.source, &config).unwrap();
        let session = session.spawn().unwrap();
        mounted.mount(&[]);
        Self { mounted, broken, _session: session }
    }

    fn open(&self) -> File {
        File::options().read(true).write(true).open(self.mounted.path("f")).unwrap()
    }

    /// What is read through the mount is what the source holds.
    fn check(&self) {
        self.broken.fail(Fault::None);
        let there = self.broken.state().bytes.clone();
        assert!(fs::read(self.mounted.path("f")).unwrap() == there);
    }
}

#[test]
fn a_write_that_fails_says_why_and_leaves_nothing() {
    let mut place = Place::new();
    for errno in [libc::ENOSPC, libc::EIO, libc::EDQUOT, libc::EFBIG, libc::EROFS] {
        place.check();
        let file = place.open();
        place.broken.fail(Fault::Writes(errno));
        let error = file.write_at(&[9; 10_000], 5000).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(errno));
        drop(file);
        place.check();
    }
    place.mounted.unmount();
}

#[test]
fn a_short_write_is_told_as_such_and_only_what_was_taken_is_there() {
    let mut place = Place::new();
    for taken in [1, 4096, 5000, 9999] {
        place.check();
        let file = place.open();
        place.broken.fail(Fault::ShortWrites(taken));
        assert_eq!(file.write_at(&[9; 10_000], 4000).unwrap(), taken);
        drop(file);
        place.check();
    }
    place.mounted.unmount();
}

#[test]
fn a_failing_disk_fails_reads_and_syncs_and_what_comes_after_is_right() {
    let mut place = Place::new();
    let file = place.open();
    let mut buffer = [0; 8192];
    place.broken.fail(Fault::Reads(libc::EIO));
    for offset in [0, 50_000, 0] {
        let error = file.read_at(&mut buffer, offset).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    place.broken.fail(Fault::Syncs(libc::EIO));
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(libc::EIO));
    drop(file);
    place.check();
    place.mounted.unmount();
}
