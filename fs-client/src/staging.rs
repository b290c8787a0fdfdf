//! Long reads of a slow source go into memory in one piece, and are copied.
//!
//! A disk takes so many pieces of memory for one request ([`PIECES_MAX`]); the slots of a cache that was used at random
//! lie apart, and a read into more of them becomes two. Where a disk's requests are counted, as in most clouds, that
//! halves what it gives. A copy costs a tenth of a millisecond for each MiB, which a slow source does not notice.

use std::io::IoSliceMut;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::Mutex;

use crate::arena::{AlignedBuffer, HUGE_PAGE};
use crate::block::BLOCK_SIZE;
use crate::filesystem::Result;
use crate::source::{DirectFile, Got};

/// `max_segments` of NVMe, virtio, SCSI and loop devices: 126 to 254.
const PIECES_MAX: usize = 126;

/// A source is slow that takes more nanoseconds than this for a KiB of a long read: 500 MB a second.
const SLOW: u64 = 2_000;

/// Reads that are staged at once, each in a buffer of 2 MiB. Those beyond go straight to their slots.
const BUFFERS_MAX: usize = 4;

/// Where long reads wait to be copied.
#[derive(Default)]
pub(crate) struct Staging {
    buffers: Mutex<Buffers>,
    /// What long reads have taken lately, in nanoseconds for a KiB of all that are under way at the same time.
    long_reads: AtomicU64,
    under_way: AtomicU64,
}

#[derive(Default)]
struct Buffers {
    made: usize,
    free: Vec<AlignedBuffer>,
}

impl Staging {
    /// Reads into `buffers`, whole blocks each, from `offset`, as [`DirectFile::read_blocks`] does.
    pub(crate) fn read(
        &self,
        file: &DirectFile,
        buffers: &mut [IoSliceMut<'_>],
        offset: u64,
    ) -> Result<Got> {
        let bytes: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if bytes < PIECES_MAX * BLOCK_SIZE {
            return file.read_blocks(buffers, offset);
        }
        let is_slow = self.long_reads.load(Relaxed) > SLOW;
        let staged = (is_slow && buffers.len() > PIECES_MAX).then(|| self.take(bytes)).flatten();
        let began = Instant::now();
        let readers = self.under_way.fetch_add(1, Relaxed) + 1;
        let got = match staged {
            None => file.read_blocks(buffers, offset),
            Some(mut staged) => {
                let whole = &mut staged.bytes_mut()[..bytes];
                let got = file.read_blocks(&mut [IoSliceMut::new(whole)], offset);
                let mut rest = &whole[..];
                for buffer in buffers {
                    let these = rest.split_off(..buffer.len()).expect("as long as all of them");
                    buffer.copy_from_slice(these);
                }
                self.buffers.lock().free.push(staged);
                got
            }
        };
        self.under_way.fetch_sub(1, Relaxed);
        if let Ok(Got { bytes: 1.., is_stored: true }) = got {
            let took = began.elapsed().as_nanos() as u64 / (bytes as u64 >> 10) / readers;
            let before = self.long_reads.load(Relaxed);
            // Of two that come at the same time one is lost, which is no harm.
            self.long_reads.store(before - before / 8 + took / 8, Relaxed);
        }
        got
    }

    /// A buffer for so many bytes, if one is free or may be made.
    fn take(&self, bytes: usize) -> Option<AlignedBuffer> {
        let mut buffers = self.buffers.lock();
        if bytes > HUGE_PAGE {
            return None;
        }
        if let Some(buffer) = buffers.free.pop() {
            return Some(buffer);
        }
        if buffers.made == BUFFERS_MAX {
            return None;
        }
        let made = AlignedBuffer::huge().ok()?;
        buffers.made += 1;
        Some(made)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::source::{Atime, Source, Way};

    #[test]
    fn what_is_staged_is_what_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..300 * BLOCK_SIZE as u32 + 77).map(|n| (n / 7) as u8).collect();
        std::fs::write(directory.path().join("file"), &bytes).unwrap();
        let source = Source::open(directory.path()).unwrap();
        let (node, _) = source.look_up(source.root().unwrap().as_fd(), c"file").unwrap();
        let file = source.open_direct(node.as_fd(), Atime::AsSource, Way::Past).unwrap();
        let staging = Staging::default();
        let mut made = Vec::new();
        for (lasts, offset) in [(0, 0), (SLOW, 0), (9 * SLOW, 0), (9 * SLOW, 60 * BLOCK_SIZE)] {
            staging.long_reads.store(lasts, Relaxed);
            let mut memory = AlignedBuffer::new(256).unwrap();
            memory.bytes_mut().fill(1);
            let mut buffers: Vec<_> =
                memory.bytes_mut().chunks_mut(BLOCK_SIZE).map(IoSliceMut::new).collect();
            let got = staging.read(&file, &mut buffers, offset as u64).unwrap();
            let len = (bytes.len() - offset).min(256 * BLOCK_SIZE);
            assert_eq!(got.bytes, len);
            let found = memory.bytes_mut();
            assert_eq!(found[..len], bytes[offset..][..len]);
            assert!(found[len..].iter().all(|&byte| byte == 0), "zeros behind the end");
            made.push(staging.buffers.lock().made);
        }
        assert_eq!(made, [0, 0, 1, 1]);
    }
}
