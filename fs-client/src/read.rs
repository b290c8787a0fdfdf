//! The way of a read.
//!
//! 1. All of it is in the local cache: answered here, on the thread that took the request.
//! 2. A few missing blocks that one server holds: it is asked, and the answer is passed on when it
//!    comes (`read/fetch.rs`).
//! 3. Else the missing blocks are brought in: from the servers that hold them, and what they
//!    cannot give, from the source (`read/bring.rs`). One reader brings a block, others who miss it wait.
//! 4. Where the cache has no room, the source is read past it.
//!
//! A sequential reader has the blocks that follow brought in ahead of it.

mod bring;
mod fetch;
mod warm;

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use crate::arena::{AlignedBuffer, Block, gather};
use crate::block::{BLOCK_SIZE, FileKey, Span};
use crate::filesystem::{Filesystem, Result};
use crate::handles::{FileHandle, HandleId};
use crate::local::Use;
use crate::metrics::Layer;
use crate::workers::Seat;
use bring::{Brought, Unbrought};

/// Takes the answer to a read, on whatever thread it is ready.
pub(crate) trait ReadReply: Send + 'static {
    /// The bytes, in parts that follow each other. At most [`PARTS_MAX`].
    fn parts(self, parts: &[IoSlice<'_>]);
    fn error(self, errno: Errno);
}

/// The most parts of an answer: the blocks of 1 MiB that does not begin with a block.
pub(crate) const PARTS_MAX: usize = 257;

/// So many blocks in a row that are here already are read once more with those round them: on any disk that takes less than a
/// further read.
pub(crate) const OVER_MAX: u64 = 16;

/// A read that the cache alone could not answer.
struct Miss {
    handle: Arc<FileHandle>,
    offset: u64,
    len: usize,
    began: Instant,
    state: State,
    /// The blocks from its start that were in the cache.
    found: Vec<Block>,
    want: Want,
}

/// How blocks are wanted.
#[derive(Clone, Copy)]
struct Want {
    how: Use,
    /// Whether servers are to be asked: not if one was, in vain, nor if the source is faster.
    ask: bool,
    /// Since when they are wanted of the source: what it takes is measured from here.
    since: Instant,
}

/// The state of a file's contents that is read.
#[derive(Clone, Copy)]
struct State {
    file: FileKey,
    /// Its length. Where the source gives less, it has been cut since.
    size: u64,
}

impl Filesystem {
    /// Answers a read of `len` bytes at `offset`.
    pub(crate) fn read(
        self: &Arc<Self>,
        handle: HandleId,
        offset: u64,
        len: usize,
        reply: impl ReadReply,
    ) {
        let began = Instant::now();
        let Some(handle) = self.handles.file(handle) else { return reply.error(Errno::BADF) };
        let (state, len) = match self.readable(&handle, offset, len) {
            Ok(readable) => readable,
            Err(error) => return reply.error(error),
        };
        if len == 0 {
            return reply.parts(&[]);
        }
        if handle.is_excluded() {
            return self.read_excluded(handle, offset, len, began, reply);
        }
        let window = self.memory.readahead_blocks();
        let ahead = handle.sequence.note(offset, len, state.size, window);

        let span = Span::of(offset, len);
        if ahead.how == Use::Random {
            self.demand.note(state.file, span);
        }
        let mut found = Vec::with_capacity(span.count);
        self.cache.get_leading(state.file, span, ahead.how, &mut found);
        if found.len() == span.count {
            self.note_access(&handle);
            answer(reply, &found, offset, len);
            self.metrics.count_read(Layer::Local, began.elapsed());
            self.metrics.count_bytes(Layer::Local, len);
            self.profiles.note(&handle, Layer::Local, len);
            if let Some(span) = ahead.bring {
                self.bring_ahead(&handle, span);
            }
            return;
        }

        handle.sequence.missed();
        if let Some(span) = ahead.bring {
            self.bring_ahead(&handle, span);
        }
        let want = Want { how: ahead.how, ask: true, since: began };
        let miss = Miss { handle, offset, len, began, state, found, want };
        let Err((miss, reply)) = self.fetch(miss, reply) else { return };
        match self.workers.seat() {
            Some(seat) => self.serve_miss(miss, Some(seat), reply),
            None => {
                let this = self.clone();
                self.workers.hand_over(0, move || this.serve_miss(miss, None, reply));
            }
        }
    }

    /// How many of `len` bytes at `offset` there are, and in which state of the contents.
    fn readable(&self, handle: &FileHandle, offset: u64, len: usize) -> Result<(State, usize)> {
        if handle.reads.is_none() {
            return Err(Errno::BADF);
        }
        let contents = &handle.inode.contents;
        let node = handle.node.as_fd();
        if offset.saturating_add(len as u64) > contents.size() {
            // Somebody else may have made it longer.
            contents.revalidate(node)?;
        } else {
            contents.revalidate_after(self.settings.timeouts.attr(), node)?;
        }
        let (file, size) = contents.state();
        let left = size.saturating_sub(offset);
        let state = State { file, size };
        Ok((state, len.min(usize::try_from(left).unwrap_or(usize::MAX))))
    }

    /// What came from a cache, the source has not seen being read.
    fn note_access(&self, handle: &FileHandle) {
        if let Ok(file) = self.direct(handle) {
            file.note_access(handle.inode.contents.size());
        }
    }

    /// Brings what is missing and answers. The seat is given up before the answer, upon which the
    /// next request may come.
    fn serve_miss(&self, miss: Miss, seat: Option<Seat<'_>>, reply: impl ReadReply) {
        let Miss { handle, offset, mut len, began, state, found, want } = miss;
        let span = Span::of(offset, len);
        let cached_bytes = found.len() * BLOCK_SIZE;
        let layer = match self.bring(&handle, state, span, found, want) {
            Ok(Brought { blocks, layer, .. }) => {
                self.note_access(&handle);
                drop(seat);
                answer(reply, &blocks, offset, len);
                layer
            }
            Err(Unbrought::Failed(error)) => return reply.error(error),
            Err(reason) => {
                if matches!(reason, Unbrought::Shorter) {
                    len = match self.readable(&handle, offset, len) {
                        Ok((_, len)) => len,
                        Err(error) => return reply.error(error),
                    };
                }
                if !self.read_past_cache(&handle, offset, len, reply) {
                    return;
                }
                self.metrics.count_bytes(Layer::Source, len);
                Layer::Source
            }
        };
        self.metrics.count_bytes(Layer::Local, cached_bytes.min(len));
        self.metrics.count_read(layer, began.elapsed());
        self.profiles.note(&handle, layer, len);
    }

    /// Answers a read of a file of which nothing is cached here: the kernel may, as for any other filesystem.
    fn read_excluded(
        self: &Arc<Self>,
        handle: Arc<FileHandle>,
        offset: u64,
        len: usize,
        began: Instant,
        reply: impl ReadReply,
    ) {
        let this = self.clone();
        let read = move || {
            if this.read_past_cache(&handle, offset, len, reply) {
                this.metrics.count_read(Layer::Source, began.elapsed());
                this.metrics.count_bytes(Layer::Source, len);
                this.profiles.note(&handle, Layer::Source, len);
            }
        };
        match self.workers.seat() {
            Some(_seat) => read(),
            None => self.workers.hand_over(0, read),
        }
    }

    /// Answers from the source without keeping anything. Whether it could be read.
    fn read_past_cache(
        &self,
        handle: &FileHandle,
        offset: u64,
        len: usize,
        reply: impl ReadReply,
    ) -> bool {
        let span = Span::of(offset, len);
        let result = (|| {
            let file = self.direct(handle)?;
            let mut buffer = AlignedBuffer::new(span.count).map_err(|_| Errno::NOMEM)?;
            let start = span.bytes().start;
            let whole = &mut buffer.bytes_mut()[..span.count * BLOCK_SIZE];
            let got = file.read_blocks(&mut [IoSliceMut::new(whole)], start)?;
            let from = (offset - start) as usize;
            Ok((buffer, from, got.bytes.clamp(from, from + len)))
        })();
        match result {
            Ok((mut buffer, from, to)) => {
                reply.parts(&[IoSlice::new(&buffer.bytes_mut()[from..to])]);
                true
            }
            Err(error) => {
                reply.error(error);
                false
            }
        }
    }

    /// Has the pool bring in blocks that a sequential reader will ask for next.
    fn bring_ahead(self: &Arc<Self>, handle: &Arc<FileHandle>, span: Span) {
        let (this, handle) = (self.clone(), handle.clone());
        self.workers.try_hand_over(move || {
            let (file, size) = handle.inode.contents.state();
            let state = State { file, size };
            // Nobody waits for it; a reader that comes for it meets the error itself.
            let want = Want { how: Use::Stream, ask: true, since: Instant::now() };
            let brought = this.bring(&handle, state, span, Vec::new(), want);
            if let Ok(Brought { layer: Layer::Local, .. }) = brought {
                handle.sequence.all_here();
            }
        });
    }
}

/// Replies with `len` bytes from `offset`, which lie in `blocks`, straight from their slots.
fn answer(reply: impl ReadReply, blocks: &[Block], offset: u64, len: usize) {
    let skip = (offset % BLOCK_SIZE as u64) as usize;
    if let [block] = blocks {
        return reply.parts(&[IoSlice::new(&block[skip..skip + len])]);
    }
    let parts = gather(blocks, skip..skip + len);
    reply.parts(&parts);
}
