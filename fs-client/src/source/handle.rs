//! Handles: some bytes by which a filesystem finds a file again (name_to_handle_at(2)), whatever
//! its names are by now, and which fit no other file that gets its inode number later.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::{Errno, Result};

/// The handle of a file, of use on its own filesystem only.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Handle {
    kind: libc::c_int,
    bytes: Box<[u8]>,
}

/// A mount on which files are opened by their handles.
#[derive(Debug)]
pub(super) struct HandleMount {
    /// A directory on it, opened for reading.
    directory: OwnedFd,
    number: MountNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MountNumber(libc::c_int);

/// The longest handle that the kernel makes (MAX_HANDLE_SZ).
const HANDLE_BYTES_MAX: usize = 128;

/// `struct file_handle` of fcntl.h, with room for any handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: libc::c_uint,
    handle_type: libc::c_int,
    f_handle: [u8; HANDLE_BYTES_MAX],
}

impl HandleMount {
    /// The mount of `directory`.
    ///
    /// # Errors
    /// `OPNOTSUPP` if its filesystem has no handles, `PERM` if we may not open them.
    pub(super) fn new(directory: OwnedFd) -> Result<Self> {
        // By its handle, FUSE finds only what its kernel side still has in memory.
        const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;
        if rustix::fs::fstatfs(&directory)?.f_type as u64 == FUSE_SUPER_MAGIC {
            return Err(Errno::OPNOTSUPP);
        }
        let (handle, number) = handle_at(directory.as_fd(), c"")?;
        let mount = Self { directory, number };
        mount.open(&handle)?;
        Ok(mount)
    }

    /// The handle of what `fd` names, and whether that is on this mount.
    pub(super) fn handle_of(&self, fd: BorrowedFd<'_>) -> Option<(Handle, bool)> {
        self.handle_at(fd, c"")
    }

    /// The handle of `name` in `directory`, and whether that is on this mount. Symbolic links are not
    /// followed.
    pub(super) fn handle_at(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
    ) -> Option<(Handle, bool)> {
        let (handle, mount) = handle_at(directory, name).ok()?;
        Some((handle, mount == self.number))
    }

    /// A descriptor that names the file.
    ///
    /// # Errors
    /// `STALE` when it was removed, and nobody holds on to it.
    pub(super) fn open(&self, handle: &Handle) -> Result<OwnedFd> {
        let mut raw = RawHandle {
            handle_bytes: handle.bytes.len() as libc::c_uint,
            handle_type: handle.kind,
            f_handle: [0; HANDLE_BYTES_MAX],
        };
        raw.f_handle[..handle.bytes.len()].copy_from_slice(&handle.bytes);
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        // SAFETY: `raw` has the layout of a file_handle, with as many bytes behind its head as it
        // says, and outlives the call.
        let fd = unsafe {
            libc::open_by_handle_at(self.directory.as_raw_fd(), (&raw mut raw).cast(), flags)
        };
        if fd < 0 {
            return Err(match last_error() {
                // ext4 says so of a number that is being given to a new file.
                Errno::NOMEM => Errno::STALE,
                error => error,
            });
        }
        // SAFETY: a new descriptor that nobody else knows of.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// The handle of `name` in `directory`, or of the directory itself if the name is empty, and the
/// mount that it is on.
fn handle_at(directory: BorrowedFd<'_>, name: &CStr) -> Result<(Handle, MountNumber)> {
    let mut raw = RawHandle {
        handle_bytes: HANDLE_BYTES_MAX as libc::c_uint,
        handle_type: 0,
        f_handle: [0; HANDLE_BYTES_MAX],
    };
    let mut mount = 0;
    // SAFETY: `raw` has the layout of a file_handle with room for as many bytes as it says; the
    // name ends with a NUL, and may be empty, which the flag allows; all outlive the call.
    let done = unsafe {
        libc::name_to_handle_at(
            directory.as_raw_fd(),
            name.as_ptr(),
            (&raw mut raw).cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if done < 0 {
        return Err(last_error());
    }
    let len = (raw.handle_bytes as usize).min(HANDLE_BYTES_MAX);
    let handle = Handle { kind: raw.handle_type, bytes: raw.f_handle[..len].into() };
    Ok((handle, MountNumber(mount)))
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
