//! What is done to the cached blocks of single files: brought in ahead of need, kept, dropped. `actions/` asks for it, file
//! by file.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::io::Errno;

use crate::actions::call::{Deed, Done};
use crate::block::{BLOCK_SIZE, BlockKey, FileKey, Span};
use crate::filesystem::{Caller, Filesystem, Result};
use crate::handles::HandleId;
use crate::inodes::{Inode, NodeId};
use crate::source::Stat;
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;

/// The files whose blocks stay in the cache, whatever their names: at most as many as the cache has blocks.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<HashMap<NodeId, Pin>>);

#[derive(Debug)]
struct Pin {
    inode: Arc<Inode>,
    /// The state of which blocks stay. Only of this one are any pinned.
    key: FileKey,
    /// Something was kept of it.
    has_kept: bool,
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
                self.pin(&handle.inode)?;
                let done = self.warm(&handle, offset, len);
                let key = handle.inode.contents.key();
                let span = Span::of(offset, done.map_or(0, |done| done.bytes as usize));
                let pinned = self.keep(&handle.inode, span.keys(key));
                if pinned == 0 && len > 0 {
                    // There is no place, or it cannot be read.
                    self.unpin_if(&handle.inode, |pin| !pin.has_kept);
                }
                let done = done?;
                Ok(Done { bytes: done.bytes.min((pinned * BLOCK_SIZE) as u64), ..done })
            }
            Deed::Unpin => {
                self.unpin(&handle.inode);
                Ok(Done::default())
            }
            Deed::Drop => {
                self.unpin(&handle.inode);
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

    /// Lets go of pinned blocks that nobody can ask for any more: of files that have changed, that are gone, or that are
    /// excluded by now. `turn` rises from one time to the next.
    pub(crate) fn tidy_pins(&self, turn: usize) {
        /// The source is asked after so many files at a time whether they are still there.
        const ASKED: usize = 256;
        let mut pins = self.pins.0.lock();
        let mut pinned = Vec::with_capacity(pins.len());
        for pin in pins.values_mut() {
            let key = pin.inode.contents.key();
            if key != pin.key {
                self.cache.unpin(pin.key);
                pin.key = key;
            }
            pinned.push(pin.inode.clone());
        }
        // The source may take its time, and nobody is to wait for it.
        drop(pins);
        let turns = pinned.len().div_ceil(ASKED).max(1);
        for (n, inode) in pinned.iter().enumerate() {
            let is_asked = n / ASKED == turn % turns;
            let is_excluded = inode.is_excluded.load(Ordering::Relaxed);
            if is_excluded || inode.is_pinned() || is_asked && is_gone(inode) {
                self.unpin(inode);
            }
        }
    }

    /// Keeps those of the blocks that are here, if the file is still pinned, and says how many.
    fn keep(&self, inode: &Inode, keys: impl Iterator<Item = BlockKey>) -> usize {
        // Held all the while: who lets go of the file lets go of all these, or comes before.
        let mut pins = self.pins.0.lock();
        let Some(pin) = pins.get_mut(&inode.id) else { return 0 };
        if !std::ptr::eq(&raw const *pin.inode, inode) {
            return 0;
        }
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
        pin.has_kept |= kept > 0;
        kept
    }

    /// Has a file's blocks stay.
    ///
    /// # Errors
    /// `NOSPC` where so many files are pinned already.
    fn pin(&self, inode: &Arc<Inode>) -> Result<()> {
        let mut pins = self.pins.0.lock();
        match pins.get(&inode.id) {
            Some(pin) if Arc::ptr_eq(&pin.inode, inode) => return Ok(()),
            // A file that had the number before. The hold is this one's now, as are all look-ups.
            Some(old) => {
                old.inode.stays_cached.store(false, Ordering::Relaxed);
                self.cache.unpin(old.key);
            }
            None if pins.len() >= self.cache.capacity_blocks() => return Err(Errno::NOSPC),
            None => self.inodes.hold(inode),
        }
        inode.stays_cached.store(true, Ordering::Relaxed);
        let key = inode.contents.key();
        pins.insert(inode.id, Pin { inode: inode.clone(), key, has_kept: false });
        Ok(())
    }

    fn unpin(&self, inode: &Inode) {
        self.unpin_if(inode, |_| true);
    }

    fn unpin_if(&self, inode: &Inode, wanted: impl Fn(&Pin) -> bool) {
        let mut pins = self.pins.0.lock();
        let Some(pin) = pins.get(&inode.id) else { return };
        if !std::ptr::eq(&raw const *pin.inode, inode) || !wanted(pin) {
            return;
        }
        inode.stays_cached.store(false, Ordering::Relaxed);
        self.cache.unpin(pin.key);
        pins.remove(&inode.id);
        drop(pins);
        self.forget(inode.id, 1);
    }
}

/// Whether nobody can open it any more. Where the source does not say, it is not.
fn is_gone(inode: &Inode) -> bool {
    match inode.node().and_then(|node| Stat::of(node.as_fd())) {
        Ok(stat) => stat.links == 0 && inode.counts_links,
        Err(error) => [Errno::STALE, Errno::NOENT].contains(&error),
    }
}
