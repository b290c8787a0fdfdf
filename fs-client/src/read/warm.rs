//! Blocks that are brought into the cache because somebody says that they will be read.

use std::time::Instant;

use super::bring::{Brought, Unbrought};
use super::{State, Want};
use crate::actions::call::{Done, LEN_MAX};
use crate::block::{BLOCK_SIZE, Span};
use crate::filesystem::{Filesystem, Result};
use crate::handles::FileHandle;
use crate::local::Use;

impl Filesystem {
    /// Where the blocks of `len` bytes at `offset` are.
    pub(crate) fn whereabouts(&self, handle: &FileHandle, offset: u64, len: usize) -> Result<Done> {
        let (State { file, .. }, len) = self.readable(handle, offset, len.min(LEN_MAX))?;
        let mut done = Done::default();
        if len == 0 {
            return Ok(done);
        }
        let end = offset + len as u64;
        for key in Span::of(offset, len).keys(file) {
            let start = key.index.offset();
            let bytes = end.min(start + BLOCK_SIZE as u64) - offset.max(start);
            match self.cache.holds(key) {
                Some(pinned) => {
                    done.bytes += bytes;
                    done.pinned += if pinned { bytes } else { 0 };
                }
                None if self.remote.has_lent(key) => done.remote += bytes,
                None => {}
            }
        }
        Ok(done)
    }

    /// Brings in what there is of `len` bytes at `offset`, as blocks that were worth it.
    pub(crate) fn warm(&self, handle: &FileHandle, offset: u64, len: usize) -> Result<Done> {
        let (State { file, size }, len) = self.readable(handle, offset, len.min(LEN_MAX))?;
        if len == 0 {
            return Ok(Done::default());
        }
        let span = Span::of(offset, len);
        let want = Want { how: Use::Random, ask: true, since: Instant::now() };
        match self.bring(handle, State { file, size }, span, Vec::new(), want) {
            Ok(Brought { remote, source, .. }) => {
                self.cache.prefer(span.keys(handle.inode.contents.key()));
                let bytes = |blocks: usize| ((blocks * BLOCK_SIZE) as u64).min(len as u64);
                Ok(Done {
                    bytes: len as u64,
                    remote: bytes(remote),
                    source: bytes(source),
                    pinned: 0,
                })
            }
            Err(Unbrought::Failed(error)) => Err(error),
            // Shorter than it was, or there is no room at this moment: none of it is sure to be there.
            Err(_) => Ok(Done::default()),
        }
    }
}
