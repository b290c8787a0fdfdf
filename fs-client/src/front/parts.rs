//! A reply in several parts.
//!
//! fuser writes a reply from one slice. A long read lies in many slots of the arena, and copying
//! them together first costs more than everything else about it; the kernel takes them as
//! they are, with one gathering write (writev(2)). So that one reply is written here, in the
//! form that the kernel's fuse_dev_write expects: a header of 16 bytes, then the data
//! (`struct fuse_out_header` in linux/fuse.h).

use std::io::IoSlice;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use fuser::{ReplyData, RequestId};
use rustix::io::Errno;

use super::convert::errno;
use crate::read::{PARTS_MAX, ReadReply};

/// The descriptor through which the session talks to the kernel.
#[derive(Debug, Default)]
pub(crate) struct Device(OnceLock<OwnedFd>);

/// Replies to one read.
pub(super) struct PartsReply {
    reply: ReplyData,
    request: RequestId,
    device: &'static Device,
}

const HEADER_BYTES: usize = 16;

impl Device {
    /// One that lives as long as the process, and costs a reply no count of its holders.
    pub(crate) fn new() -> &'static Self {
        Box::leak(Box::default())
    }

    /// Takes a copy of the session's descriptor.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn set(&self, session: BorrowedFd<'_>) -> std::io::Result<()> {
        // Set once, before the session runs.
        let _ = self.0.set(session.try_clone_to_owned()?);
        Ok(())
    }
}

impl PartsReply {
    pub(super) fn new(reply: ReplyData, request: RequestId, device: &'static Device) -> Self {
        Self { reply, request, device }
    }
}

impl ReadReply for PartsReply {
    fn parts(self, parts: &[IoSlice<'_>]) {
        let device = match (parts, self.device.0.get()) {
            ([], _) => return self.reply.data(&[]),
            ([part], _) => return self.reply.data(part),
            (_, Some(device)) => device,
            (_, None) => return self.reply.data(&joined(parts)),
        };
        let header = header(self.request, parts);
        let mut all = Vec::with_capacity(1 + PARTS_MAX);
        all.push(IoSlice::new(&header));
        all.extend_from_slice(parts);
        if let Err(error) = rustix::io::writev(device, &all) {
            // The reader was interrupted, or the mount is gone: nobody waits for the answer.
            tracing::debug!(%error, "a reply was not taken");
        }
        // fuser would answer a second time when its reply is dropped. All that it holds is a
        // count of the references to the session's descriptor, which lives as long as we do.
        std::mem::forget(self.reply);
    }

    fn error(self, error: Errno) {
        self.reply.error(errno(error));
    }
}

fn joined(parts: &[IoSlice<'_>]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.iter().copied()).collect()
}

/// The header of a successful reply: length, error, request.
fn header(request: RequestId, parts: &[IoSlice<'_>]) -> [u8; HEADER_BYTES] {
    let data: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(HEADER_BYTES + data).expect("a read is at most 1 MiB");
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&length.to_ne_bytes());
    header[8..].copy_from_slice(&request.0.to_ne_bytes());
    header
}
