//! What is done to the cached blocks of single files: brought in ahead of need, kept, dropped. `actions/` asks for it, file
//! by file.

use std::collections::HashMap;
use std::sync::Arc;

use rustix::io::Errno;

use crate::actions::call::{Deed, Done};
use crate::block::{BLOCK_SIZE, BlockKey, FileKey, Span};
use crate::filesystem::{Caller, Filesystem, Result};
use crate::handles::HandleId;
use crate::inodes::{Inode, NodeId};
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;

/// The files whose blocks stay in the cache.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<HashMap<NodeId, Pin>>);

#[derive(Debug)]
struct Pin {
    inode: Arc<Inode>,
    /// The state of which blocks stay. Only of this one are any pinned.
    key: FileKey,
}

impl Filesystem {
    /// Does to an open file what somebody asked for.
    ///
    /// # Errors
    /// `PERM` where it concerns what others have in the cache, and they did not mount; those of the source.
    pub(crate) fn act(
        &self,
        handle: HandleId,
        deed: Deed,
        (offset, len): (u64, usize),
        caller: Caller,
    ) -> Result<Done> {
        let mounts = [0, rustix::process::geteuid().as_raw()].contains(&caller.uid);
        if !matches!(deed, Deed::Warm | Deed::Look) && !mounts {
            return Err(Errno::PERM);
        }
        let handle = self.handles.file(handle).ok_or(Errno::BADF)?;
        match deed {
            Deed::Warm | Deed::Pin if handle.is_excluded() => Err(Errno::NOTSUP),
            Deed::Warm => self.warm(&handle, offset, len),
            Deed::Look => self.whereabouts(&handle, offset, len),
            Deed::Pin => {
                self.pin(&handle.inode);
                let done = self.warm(&handle, offset, len)?;
                let key = handle.inode.contents.key();
                let span = Span::of(offset, done.bytes as usize);
                let pinned = self.keep(&handle.inode, span.keys(key));
                Ok(Done { bytes: done.bytes.min((pinned * BLOCK_SIZE) as u64), ..done })
            }
            Deed::Unpin => {
                self.unpin(handle.inode.id);
                Ok(Done::default())
            }
            Deed::Drop => {
                self.unpin(handle.inode.id);
                let contents = &handle.inode.contents;
                let (key, size) = contents.state();
                // Under a new key nothing of it is found any more, with servers neither.
                contents.renew();
                self.cache.forget(key, size);
                Ok(Done::default())
            }
        }
    }

    /// Keeps what was just cached of a file that is pinned.
    pub(crate) fn keep_if_pinned(&self, inode: &Inode, keys: impl Iterator<Item = BlockKey>) {
        if inode.stays_cached.load(Ordering::Relaxed) {
            self.keep(inode, keys);
        }
    }

    /// Lets go of pinned blocks that nobody can ask for any more: of files that have changed, and of those that are gone.
    /// `turn` rises from one time to the next.
    pub(crate) fn tidy_pins(&self, turn: usize) {
        /// The source is asked after so many files at a time whether they are still there.
        const ASKED: usize = 64;
        let mut gone = Vec::new();
        let mut pins = self.pins.0.lock();
        let turns = pins.len().div_ceil(ASKED).max(1);
        for (n, (&id, pin)) in pins.iter_mut().enumerate() {
            let key = pin.inode.contents.key();
            if key != pin.key {
                self.cache.unpin(pin.key);
                pin.key = key;
            }
            let is_asked = n / ASKED == turn % turns;
            if pin.inode.is_pinned() || is_asked && pin.inode.node().is_err() {
                gone.push(id);
            }
        }
        drop(pins);
        gone.into_iter().for_each(|id| self.unpin(id));
    }

    /// Keeps those of the blocks that are here, if the file is still pinned, and says how many.
    fn keep(&self, inode: &Inode, keys: impl Iterator<Item = BlockKey>) -> usize {
        // Held all the while: who lets go of the file lets go of all these, or comes before.
        let mut pins = self.pins.0.lock();
        let Some(pin) = pins.get_mut(&inode.id) else { return 0 };
        let mut kept = 0;
        for key in keys {
            if key.file != pin.key {
                if key.file != pin.inode.contents.key() {
                    continue;
                }
                self.cache.unpin(pin.key);
                pin.key = key.file;
            }
            kept += usize::from(self.cache.pin(key));
        }
        kept
    }

    fn pin(&self, inode: &Arc<Inode>) {
        let mut pins = self.pins.0.lock();
        pins.entry(inode.id).or_insert_with(|| {
            self.inodes.hold(inode);
            inode.stays_cached.store(true, Ordering::Relaxed);
            Pin { inode: inode.clone(), key: inode.contents.key() }
        });
    }

    fn unpin(&self, id: NodeId) {
        let mut pins = self.pins.0.lock();
        let Some(Pin { inode, key }) = pins.remove(&id) else { return };
        inode.stays_cached.store(false, Ordering::Relaxed);
        self.cache.unpin(key);
        drop(pins);
        self.forget(id, 1);
    }
}
