//! The fastest that a FUSE server with our settings can be: one file, answered from memory.
//!
//! It is the bound that a local hit of rampool is measured against, so it asks the kernel for the
//! same things as the real client, and its memory is as large as the file and on huge pages: both
//! sides then pay the same for DRAM. It runs in a process of its own and ends on SIGTERM.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry,
    ReplyOpen, Request, Session,
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The name of the only file.
pub(crate) const FILE_NAME: &str = "data";

const FILE_INODE: INodeNo = INodeNo(2);
const ATTRIBUTES_TTL: Duration = Duration::from_secs(3600);
const MAX_WRITE_BYTES: u32 = 1 << 20;
const MAX_BACKGROUND: u16 = 64;

/// Mounts at `mountpoint` a directory with one file of `bytes` bytes and serves it with `threads`
/// threads until SIGTERM or SIGINT.
pub(crate) fn serve(mountpoint: &Path, bytes: usize, threads: usize) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::FSName("null".to_owned()), MountOption::NoSuid, MountOption::NoDev];
    config.n_threads = Some(threads);
    config.clone_fd = false;
    let filesystem = NullFilesystem { memory: HugeMemory::random(bytes)? };
    let session = Session::new(filesystem, mountpoint, &config)
        .with_context(|| format!("cannot mount the null server at {}", mountpoint.display()))?
        .spawn()?;
    signals.forever().next();
    session.umount_and_join()?;
    Ok(())
}

struct NullFilesystem {
    memory: HugeMemory,
}

impl NullFilesystem {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let directory = inode == INodeNo::ROOT;
        let size = if directory { 0 } else { self.memory.bytes().len() as u64 };
        FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if directory { FileType::Directory } else { FileType::RegularFile },
            perm: if directory { 0o555 } else { 0o444 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for NullFilesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // One by one, because fuser refuses a set as a whole when the kernel lacks one of it.
        for capability in [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_HANDLE_KILLPRIV,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            let _ = config.add_capabilities(capability);
        }
        let _ = config.set_max_write(MAX_WRITE_BYTES);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == FILE_NAME {
            reply.entry(&ATTRIBUTES_TTL, &self.attributes(FILE_INODE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        reply.attr(&ATTRIBUTES_TTL, &self.attributes(inode));
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO
            | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
            | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let memory = self.memory.bytes();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(memory.len());
        let end = start.saturating_add(size as usize).min(memory.len());
        reply.data(&memory[start..end]);
    }
}

/// Anonymous memory on huge pages, where the kernel gives them.
struct HugeMemory {
    start: *mut std::ffi::c_void,
    len: usize,
}

// SAFETY: the mapping is private to this value and never written to once it is made.
unsafe impl Send for HugeMemory {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for HugeMemory {}

impl HugeMemory {
    fn random(len: usize) -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE)
                .with_context(|| format!("cannot get {} MiB of memory", len >> 20))?
        };
        let memory = Self { start, len };
        // SAFETY: the range is the mapping just made; the advice does not change its contents.
        // A kernel without huge pages says no, and small ones serve as well.
        let _ = unsafe { madvise(start, len, Advice::LinuxHugepage) };
        // SAFETY: `len` writable bytes, zeroed by the kernel, that nobody else knows of yet.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), len) };
        SmallRng::seed_from_u64(1).fill_bytes(bytes);
        Ok(memory)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as `self`, and nobody writes to it after `random`.
        unsafe { std::slice::from_raw_parts(self.start.cast::<u8>(), self.len) }
    }
}

impl Drop for HugeMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and `self` was the last that could reach it.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}
