//! The FUSE transport: decodes what fuser hands over, calls the filesystem, replies.
//!
//! A read is answered by `read.rs`, on this thread when the cache holds it, and on the tier's when a
//! server does. Everything else may wait for the disk, so it is done here only while another thread is
//! left to take requests (see `workers.rs`).

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, FopenFlags, Generation, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::convert::{bare_attr, errno, file_attr, file_type, new_time, no_attr};
use super::parts::{Device, PartsReply};
use crate::actions::call;
use crate::attributes::NewAttributes;
use crate::filesystem::{
    Caller, Durability, EntryKind, Filesystem, NewNode, NodeEntry, Result, Settings, Stat,
};
use crate::handles::HandleId;
use crate::inodes::NodeId;
use crate::names::{Maker, c_name};
use crate::write::{HowToWrite, Place};

/// The filesystem as fuser calls it.
pub(crate) struct FuseFront {
    filesystem: Arc<Filesystem>,
    device: &'static Device,
}

/// How files are opened towards the kernel: past its page cache, with parallel writes, and with
/// no message when a descriptor is closed, since closing writes nothing back.
const OPEN_FLAGS: FopenFlags = FopenFlags::FOPEN_DIRECT_IO
    .union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES)
    .union(FopenFlags::FOPEN_NOFLUSH);

impl FuseFront {
    /// `device` is given the session's descriptor before the session runs.
    pub(crate) fn new(filesystem: Arc<Filesystem>, device: &'static Device) -> Self {
        Self { filesystem, device }
    }

    /// Does something that may wait, here or in the pool, and replies: with what `answer` makes of
    /// it, or with its error.
    fn run<R: Refusal, T: 'static>(
        &self,
        mut reply: R,
        act: impl FnOnce(&Filesystem, &mut R) -> Result<T> + Send + 'static,
        answer: impl FnOnce(&Settings, R, T) + Send + 'static,
    ) {
        let (acting, answering) = (self.filesystem.clone(), self.filesystem.clone());
        self.filesystem.workers.run(
            move || (act(&acting, &mut reply), reply),
            move |(done, reply)| match done {
                Ok(done) => answer(&answering.settings, reply, done),
                Err(error) => reply.refuse(errno(error)),
            },
        );
    }

    /// Replies with an entry that `act` finds or makes.
    fn entry(
        &self,
        name: &OsStr,
        reply: ReplyEntry,
        act: impl FnOnce(&Filesystem, CString) -> Result<NodeEntry> + Send + 'static,
    ) {
        let name = c_name(name);
        let found = move |filesystem: &Filesystem, _: &mut _| match act(filesystem, name?) {
            Ok(entry) => Ok(Some(entry)),
            // The kernel may use it that there is none.
            Err(Errno::NOENT) if !filesystem.settings.timeouts.negative().is_zero() => Ok(None),
            Err(error) => Err(error),
        };
        self.run(reply, found, |settings, reply, entry| match entry {
            Some(entry) => reply.entry_with_ttls(
                &attr_timeout(settings, &entry.stat),
                &settings.timeouts.entry(),
                &file_attr(entry.id, &entry.stat),
                Generation(entry.generation),
            ),
            None => reply.entry(&settings.timeouts.negative(), &no_attr(), Generation(0)),
        });
    }

    /// Replies with attributes that `act` finds or makes.
    fn attr(
        &self,
        ino: INodeNo,
        reply: ReplyAttr,
        act: impl FnOnce(&Filesystem, NodeId) -> Result<Stat> + Send + 'static,
    ) {
        let id = NodeId(ino.0);
        self.run(
            reply,
            move |filesystem, _| act(filesystem, id),
            move |settings, reply, stat| {
                reply.attr(&attr_timeout(settings, &stat), &file_attr(id, &stat));
            },
        );
    }

    /// Replies with nothing but success or failure of `act`.
    fn empty(
        &self,
        reply: ReplyEmpty,
        act: impl FnOnce(&Filesystem) -> Result<()> + Send + 'static,
    ) {
        self.run(reply, |filesystem, _| act(filesystem), |_, reply, ()| reply.ok());
    }
}

/// What a reply of any kind can say.
trait Refusal: Send + 'static {
    fn refuse(self, error: fuser::Errno);
}

macro_rules! refusals {
    ($($reply:ty),*) => {
        $(impl Refusal for $reply {
            fn refuse(self, error: fuser::Errno) {
                self.error(error);
            }
        })*
    };
}

refusals!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyIoctl,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

impl fuser::Filesystem for FuseFront {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        super::session::negotiate(config);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let parent = NodeId(parent.0);
        self.entry(name, reply, move |filesystem, name| filesystem.look_up(parent, &name));
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.filesystem.forget(NodeId(ino.0), nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.attr(ino, reply, Filesystem::attributes);
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let caller = caller(req);
        let open = fh.map(handle);
        let (accessed, modified) = (new_time(atime), new_time(mtime));
        let new = NewAttributes { mode, uid, gid, size, accessed, modified };
        self.attr(ino, reply, move |filesystem, id| {
            filesystem.set_attributes(id, open, &new, caller)
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.run(
            reply,
            move |filesystem, _| filesystem.read_link(NodeId(ino.0)),
            |_, reply, target| reply.data(&target),
        );
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (parent, maker) = (NodeId(parent.0), Maker { caller: caller(req), umask });
        let node = NewNode::Other { mode, device: u64::from(rdev) };
        self.entry(name, reply, move |filesystem, name| {
            filesystem.make(parent, &name, node, maker)
        });
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (parent, maker) = (NodeId(parent.0), Maker { caller: caller(req), umask });
        self.entry(name, reply, move |filesystem, name| {
            filesystem.make(parent, &name, NewNode::Directory { mode }, maker)
        });
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = match c_name(target.as_os_str()) {
            Ok(target) => target,
            Err(error) => return reply.error(errno(error)),
        };
        // A symbolic link has no permissions of its own.
        let (parent, maker) = (NodeId(parent.0), Maker { caller: caller(req), umask: 0 });
        self.entry(link_name, reply, move |filesystem, name| {
            filesystem.make(parent, &name, NewNode::Symlink { target: &target }, maker)
        });
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (id, parent) = (NodeId(ino.0), NodeId(newparent.0));
        self.entry(newname, reply, move |filesystem, name| filesystem.link(id, parent, &name));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = c_name(name);
        self.empty(reply, move |filesystem| {
            filesystem.remove(NodeId(parent.0), &name?, EntryKind::File)
        });
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = c_name(name);
        self.empty(reply, move |filesystem| {
            filesystem.remove(NodeId(parent.0), &name?, EntryKind::Directory)
        });
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, newname) = (c_name(name), c_name(newname));
        self.empty(reply, move |filesystem| {
            let (from, to) = (NodeId(parent.0), NodeId(newparent.0));
            filesystem.rename((from, &name?), (to, &newname?), flags.bits())
        });
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let flags = open_flags(flags.0);
        self.run(
            reply,
            move |filesystem, _| filesystem.open(NodeId(ino.0), flags),
            |_, reply, handle| reply.opened(FileHandle(handle.0), OPEN_FLAGS),
        );
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, maker) = (c_name(name), Maker { caller: caller(req), umask });
        self.run(
            reply,
            move |filesystem, _| {
                filesystem.create(NodeId(parent.0), &name?, open_flags(flags), mode, maker)
            },
            |settings, reply, (entry, opened)| {
                reply.created(
                    &common_timeout(settings, &entry.stat),
                    &file_attr(entry.id, &entry.stat),
                    Generation(entry.generation),
                    FileHandle(opened.0),
                    OPEN_FLAGS,
                );
            },
        );
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let reply = PartsReply::new(reply, req.unique(), self.device);
        self.filesystem.read(handle(fh), offset, size as usize, reply);
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (fh, caller) = (handle(fh), caller(req));
        let flags = open_flags(flags.0);
        // Pages of a mapping that are written back have their place, whoever appends.
        let mapped = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let place = if mapped {
            Place::Mapped(offset)
        } else if flags.contains(OFlags::APPEND) {
            Place::End
        } else {
            Place::At(offset)
        };
        let how = HowToWrite { place, durability: Durability::from_flags(flags) };
        let answer = move |result: Result<usize>, reply: ReplyWrite| match result {
            Ok(written) => reply.written(u32::try_from(written).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(error)),
        };
        // The data is lent to us for this call: it is copied only where it must leave the thread.
        if let Some(seat) = self.filesystem.workers.seat() {
            let result = self.filesystem.write(fh, data, &how, caller);
            // Upon the answer the next request may come.
            drop(seat);
            answer(result, reply);
        } else {
            let (filesystem, data) = (self.filesystem.clone(), data.to_vec());
            self.filesystem.workers.hand_over(data.len(), move || {
                answer(filesystem.write(fh, &data, &how, caller), reply);
            });
        }
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.empty(reply, move |filesystem| filesystem.sync(handle(fh), datasync));
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // Nobody waits for it, and closing writes nothing.
        self.filesystem.release(handle(fh));
        reply.ok();
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.run(
            reply,
            move |filesystem, _| filesystem.open_directory(NodeId(ino.0)),
            |_, reply, opened| reply.opened(FileHandle(opened.0), FopenFlags::empty()),
        );
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.run(
            reply,
            move |filesystem, reply| {
                filesystem.list(handle(fh), offset, |entry| {
                    let name = OsStr::from_bytes(entry.name.to_bytes());
                    !reply.add(INodeNo(entry.id.0), entry.place, file_type(entry.file_type), name)
                })
            },
            |_, reply, ()| reply.ok(),
        );
    }

    fn readdirplus(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.run(
            reply,
            move |filesystem, reply| {
                let settings = &filesystem.settings;
                filesystem.list_with_attributes(handle(fh), offset, |entry, found| {
                    let name = OsStr::from_bytes(entry.name.to_bytes());
                    let (attr, generation, ttl) = match found {
                        Some(NodeEntry { id, generation, stat }) => {
                            (file_attr(id, &stat), generation, common_timeout(settings, &stat))
                        }
                        None => (bare_attr(entry.id, entry.file_type), 0, Duration::ZERO),
                    };
                    !reply.add(attr.ino, entry.place, name, &ttl, &attr, Generation(generation))
                })
            },
            |_, reply, ()| reply.ok(),
        );
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.filesystem.release_directory(handle(fh));
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.empty(reply, move |filesystem| filesystem.sync_directory(handle(fh), datasync));
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.run(
            reply,
            move |filesystem, _| filesystem.statfs(NodeId(ino.0)),
            |_, reply, fs| {
                reply.statfs(
                    fs.f_blocks,
                    fs.f_bfree,
                    fs.f_bavail,
                    fs.f_files,
                    fs.f_ffree,
                    u32::try_from(fs.f_bsize).unwrap_or(4096),
                    u32::try_from(fs.f_namemax).unwrap_or(255),
                    u32::try_from(fs.f_frsize).unwrap_or(4096),
                );
            },
        );
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value, caller) = (c_name(name), value.to_vec(), caller(req));
        self.empty(reply, move |filesystem| {
            filesystem.set_xattr(NodeId(ino.0), &name?, &value, flags.cast_unsigned(), caller)
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = c_name(name);
        self.run(
            reply,
            move |filesystem, _| {
                let mut value = vec![0; size as usize];
                let len = filesystem.get_xattr(NodeId(ino.0), &name?, &mut value)?;
                value.truncate(len);
                Ok((len, value))
            },
            move |_, reply, (len, value)| match size {
                0 => reply.size(u32::try_from(len).unwrap_or(u32::MAX)),
                _ => reply.data(&value),
            },
        );
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let caller = caller(req);
        self.run(
            reply,
            move |filesystem, _| {
                let names = filesystem.list_xattrs(NodeId(ino.0), caller)?;
                let fits = size == 0 || names.len() <= size as usize;
                if fits { Ok(names) } else { Err(Errno::RANGE) }
            },
            move |_, reply, names| match size {
                0 => reply.size(u32::try_from(names.len()).unwrap_or(u32::MAX)),
                _ => reply.data(&names),
            },
        );
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = c_name(name);
        self.empty(reply, move |filesystem| filesystem.remove_xattr(NodeId(ino.0), &name?));
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let caller = caller(req);
        self.empty(reply, move |filesystem| {
            filesystem.allocate(handle(fh), mode.cast_unsigned(), offset, length, caller)
        });
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.run(
            reply,
            move |filesystem, _| {
                // The kernel asks for nothing but these two.
                let hole = whence == libc::SEEK_HOLE;
                let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
                filesystem.seek(handle(fh), offset, hole)
            },
            |_, reply, place| reply.offset(i64::try_from(place).unwrap_or(i64::MAX)),
        );
    }

    fn ioctl(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let Some((deed, bytes)) = call::received(cmd, in_data) else {
            return reply.error(errno(Errno::NOTTY));
        };
        let caller = caller(req);
        self.run(
            reply,
            move |filesystem, _| filesystem.act(handle(fh), deed, bytes, caller),
            |_, reply, done| reply.ioctl(0, call::answer(done).as_ref()),
        );
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let caller = caller(req);
        self.run(
            reply,
            move |filesystem, _| {
                // The answer has 32 bits; the application goes on with the rest.
                let len = len.min(1 << 30) as usize;
                let (from, to) = ((handle(fh_in), offset_in), (handle(fh_out), offset_out));
                filesystem.copy_range(from, to, len, caller)
            },
            |_, reply, copied| reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
        );
    }
}

/// How long the kernel may use these attributes. A write takes set-user-id bits away, which the
/// kernel does not hear of: with them, not at all.
fn attr_timeout(settings: &Settings, stat: &Stat) -> Duration {
    const SET_IDS: u32 = 0o6000;
    if stat.mode & SET_IDS != 0 && stat.file_type() == FileType::RegularFile {
        Duration::ZERO
    } else {
        settings.timeouts.attr()
    }
}

/// For the replies in which fuser takes one time for both the name and the attributes.
fn common_timeout(settings: &Settings, stat: &Stat) -> Duration {
    attr_timeout(settings, stat).min(settings.timeouts.entry())
}

fn handle(fh: FileHandle) -> HandleId {
    HandleId(fh.0)
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

fn open_flags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags.cast_unsigned())
}
