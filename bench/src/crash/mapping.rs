//! Stores into a mapped file that fail with an error instead of SIGBUS.
//!
//! When the mount dies, touching a page that is not there any more is a signal. So this process
//! never touches the mapping: the kernel copies for it, from a file in memory, and says EFAULT.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{Result, pread, pwrite};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

/// The alignment of mappings.
const PAGE_BYTES: u64 = 4096;

/// Where data waits to be copied into mappings.
pub(super) struct Desk(OwnedFd);

struct Mapping {
    start: *mut std::ffi::c_void,
    len: usize,
}

impl Desk {
    /// An empty one.
    pub(super) fn new() -> Result<Self> {
        Ok(Self(memfd_create(c"rampool-bench-crash", MemfdFlags::CLOEXEC)?))
    }

    /// Stores `data` at `at` of `file` through a shared mapping, and waits for msync(2). All of it
    /// must lie within the file.
    ///
    /// # Errors
    /// `FAULT` when a page is not there.
    pub(super) fn store(&self, file: impl AsFd, at: u64, data: &[u8]) -> Result<()> {
        pwrite(&self.0, data, 0)?;
        let from = at / PAGE_BYTES * PAGE_BYTES;
        let skip = (at - from) as usize;
        let len = skip + data.len();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, file.as_fd(), from)?
        };
        let mapping = Mapping { start, len };
        // SAFETY: the bytes lie within the mapping, which outlives the slice, and nothing but the
        // kernel reads or writes them: they need not be initialized, nor be there at all.
        let target = unsafe {
            let first = mapping.start.cast::<std::mem::MaybeUninit<u8>>().add(skip);
            std::slice::from_raw_parts_mut(first, data.len())
        };
        let mut done = 0;
        while done < data.len() {
            let (stored, _) = pread(&self.0, &mut target[done..], done as u64)?;
            if stored.is_empty() {
                return Err(rustix::io::Errno::FAULT);
            }
            done += stored.len();
        }
        // SAFETY: the range is the mapping.
        unsafe { msync(mapping.start, mapping.len, MsyncFlags::SYNC) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_arrives_in_the_file_and_a_missing_page_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10_000).unwrap();
        let desk = Desk::new().unwrap();
        desk.store(&file, 4095, b"abc").unwrap();
        let mut got = [0; 5];
        pread(&file, &mut got, 4094).unwrap();
        assert_eq!(&got, b"\0abc\0");
        assert_eq!(desk.store(&file, 40_000, b"x").unwrap_err(), rustix::io::Errno::FAULT);
    }
}
