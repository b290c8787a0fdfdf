//! The inodes that the kernel knows, by number and by identity.
//!
//! A file is one inode whatever its names. The kernel counts its look-ups of an inode
//! and forgets as many; the count is kept under the lock of the identity's entry, so that a
//! look-up and a forget that cross each other cannot lose it.
//!
//! Locks, in order: an entry of `by_identity`, then an entry of `by_id`, then `forgotten`.

use std::ffi::CStr;
use std::num::NonZeroUsize;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use lru::LruCache;
use rustix::fs::FileType;
use rustix::io::Result;

use crate::behind::ShortWrites;
use crate::block::FileKey;
use crate::contents::Contents;
use crate::source::{Found, Identity, Node, NodeFd, Nodes, Place, Stamp, Stat};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{DashMap, Entry, Mutex};

/// An inode's number on the mount: the source's own, where that is unambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(pub(crate) u64);

impl NodeId {
    /// The root of the mount.
    pub(crate) const ROOT: Self = Self(1);
}

/// A file, directory or other thing that the kernel knows.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) id: NodeId,
    /// Tells it from other files that had the same number while the kernel knew it.
    pub(crate) generation: u64,
    /// The way to it.
    node: Arc<Node>,
    /// How often the kernel has looked it up. Changed under the identity's entry only.
    lookups: AtomicU64,
    /// Something may be cached of it: it was open.
    opened: AtomicBool,
    /// What is cached of it. Of use for regular files only.
    pub(crate) contents: Contents,
    pub(crate) short_writes: ShortWrites,
    pub(crate) file_type: FileType,
    /// Its filesystem tells how many names a file has.
    pub(crate) counts_links: bool,
    /// What is read of it stays in the cache.
    pub(crate) stays_cached: AtomicBool,
    /// Nothing of it is cached.
    pub(crate) is_excluded: AtomicBool,
}

impl Inode {
    /// One that was looked up for the first time.
    fn new(id: NodeId, node: Arc<Node>, stat: &Stat) -> Self {
        Self {
            id,
            generation: 0,
            node,
            lookups: AtomicU64::new(1),
            opened: AtomicBool::new(false),
            contents: Contents::new(stat),
            short_writes: ShortWrites::default(),
            file_type: stat.file_type(),
            counts_links: stat.links > 0,
            stays_cached: AtomicBool::new(false),
            is_excluded: AtomicBool::new(false),
        }
    }

    /// A descriptor that names it.
    ///
    /// # Errors
    /// `STALE` when it was removed, and is not open.
    pub(crate) fn node(&self) -> Result<NodeFd> {
        self.node.fd()
    }

    /// Notes that it is open as `node`, and returns what keeps it so.
    pub(crate) fn open_as(&self, node: &NodeFd) -> NodeFd {
        self.opened.store(true, Ordering::Relaxed);
        self.node.open_as(node)
    }

    /// Whether it is kept although its last name is gone.
    pub(crate) fn is_pinned(&self) -> bool {
        self.node.is_pinned()
    }

    /// Keeps it although its last name is gone, until the kernel forgets it.
    pub(crate) fn pin(&self, node: NodeFd) {
        self.node.pin(node);
    }

    /// Notes that `name` in `directory` is its name.
    pub(crate) fn found_at(&self, directory: &Self, name: &CStr) {
        self.node.found_at(|| directory.place_of(name));
    }

    /// Counts a look-up, which found it at `place`. Under the identity's entry.
    fn count(self: &Arc<Self>, place: impl FnOnce() -> Place) -> Arc<Self> {
        self.node.found_at(place);
        self.lookups.fetch_add(1, Ordering::Relaxed);
        self.clone()
    }

    /// What may be found of it again when the kernel has forgotten it. One without a name is never looked up again.
    fn known_contents(&self) -> Option<Known> {
        if !self.opened.load(Ordering::Relaxed) || self.is_pinned() {
            return None;
        }
        let (key, stamp) = self.contents.stamped()?;
        Some(Known { identity: self.identity(), key, stamp })
    }

    fn identity(&self) -> Identity {
        self.node.identity()
    }

    fn place_of(&self, name: &CStr) -> Place {
        Place { directory: self.node.clone(), name: name.to_owned() }
    }
}

/// Of which state of which file something may be cached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) identity: Identity,
    pub(crate) key: FileKey,
    pub(crate) stamp: Stamp,
}

/// All inodes that the kernel knows.
#[derive(Debug)]
pub(crate) struct Inodes {
    nodes: Arc<Nodes>,
    by_identity: DashMap<Identity, Arc<Inode>>,
    by_id: DashMap<NodeId, Arc<Inode>>,
    /// What was cached of files that the kernel has forgotten since.
    forgotten: Mutex<LruCache<Identity, (FileKey, Stamp)>>,
    root_device: u64,
    next_foreign: AtomicU64,
    /// How many there were when it was last looked, at most.
    most: AtomicUsize,
}

/// Numbers for inodes of other devices below the source, whose own numbers may be taken: above
/// all that filesystems use.
const FOREIGN_FIRST: u64 = 1 << 60;

/// Tables that never held more are not worth shrinking.
const SHRINK_FROM: usize = 20_000;

/// Files whose cached blocks are still found after the kernel forgot them.
const FORGOTTEN_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

impl Inodes {
    /// Knows the root alone.
    pub(crate) fn new(nodes: Arc<Nodes>, root: OwnedFd, stat: &Stat) -> Self {
        let node = Arc::new(nodes.root(root, stat));
        let inodes = Self {
            nodes,
            by_identity: DashMap::new(),
            by_id: DashMap::new(),
            forgotten: Mutex::new(LruCache::new(FORGOTTEN_MAX)),
            root_device: stat.identity.device,
            next_foreign: AtomicU64::new(FOREIGN_FIRST),
            most: AtomicUsize::new(0),
        };
        let root = Arc::new(Inode::new(NodeId::ROOT, node, stat));
        inodes.by_id.insert(NodeId::ROOT, root.clone());
        inodes.by_identity.insert(stat.identity, root);
        inodes
    }

    /// The inode that the kernel means.
    pub(crate) fn by_id(&self, id: NodeId) -> Option<Arc<Inode>> {
        self.by_id.get(&id).map(|inode| inode.clone())
    }

    /// The inode of a file, if the kernel knows it.
    pub(crate) fn by_identity(&self, identity: Identity) -> Option<Arc<Inode>> {
        self.by_identity.get(&identity).map(|inode| inode.clone())
    }

    /// Notes that the kernel was told of what is open as `node`, and returns its inode. It was found
    /// as `name` in `directory`.
    pub(crate) fn looked_up(
        &self,
        directory: &Inode,
        name: &CStr,
        node: NodeFd,
        stat: &Stat,
    ) -> Arc<Inode> {
        // Asks the source: before the entry is locked.
        let found = self.nodes.find_open(node);
        let entry = self.by_identity.entry(stat.identity);
        self.count(entry, found, stat, || directory.place_of(name))
    }

    /// What has `name` in a directory, if no descriptor need be made of it.
    pub(crate) fn find(&self, directory: BorrowedFd<'_>, name: &CStr) -> Option<Found> {
        self.nodes.find(directory, name)
    }

    /// Notes that the kernel was told of what has `name` in `directory`, and returns its inode.
    /// None if another one is known by its identity: only a descriptor can tell whether that is
    /// gone, or the name got another file since `found`.
    pub(crate) fn looked_up_by_name(
        &self,
        directory: &Inode,
        name: &CStr,
        found: Found,
        stat: &Stat,
    ) -> Option<Arc<Inode>> {
        let entry = self.by_identity.entry(stat.identity);
        if let Entry::Occupied(known) = &entry
            && !(known.get().file_type == stat.file_type() && known.get().node.has_handle(&found))
        {
            return None;
        }
        Some(self.count(entry, found, stat, || directory.place_of(name)))
    }

    /// Counts a look-up of what was found at `place`: an inode that is known, or a new one.
    fn count(
        &self,
        entry: Entry<'_, Identity, Arc<Inode>>,
        found: Found,
        stat: &Stat,
        place: impl FnOnce() -> Place,
    ) -> Arc<Inode> {
        match entry {
            Entry::Occupied(known)
                if known.get().file_type == stat.file_type() && known.get().node.is(&found) =>
            {
                if let Some(fd) = found.fd {
                    known.get().node.adopt(fd);
                }
                known.get().count(place)
            }
            // Another file has got the inode of one that is gone, which the kernel has yet to
            // forget. It counts by number: what it will forget of the old one is the new one's.
            Entry::Occupied(mut known) => {
                let old = known.get();
                let node = Arc::new(self.nodes.node(found, stat, place));
                let inode = Arc::new(Inode {
                    generation: old.generation + 1,
                    lookups: AtomicU64::new(old.lookups.load(Ordering::Relaxed) + 1),
                    ..Inode::new(old.id, node, stat)
                });
                self.by_id.insert(inode.id, inode.clone());
                known.insert(inode.clone());
                inode
            }
            Entry::Vacant(vacant) => {
                let remembered = self.forgotten.lock().pop(&stat.identity);
                let (opened, contents) = match remembered {
                    Some((key, stamp)) if stamp == stat.stamp() => {
                        (true, Contents::known(stat, key))
                    }
                    _ => (false, Contents::new(stat)),
                };
                let node = Arc::new(self.nodes.node(found, stat, place));
                let inode = Arc::new(Inode {
                    opened: AtomicBool::new(opened),
                    contents,
                    ..Inode::new(self.id_for(stat.identity), node, stat)
                });
                self.by_id.insert(inode.id, inode.clone());
                vacant.insert(inode.clone());
                inode
            }
        }
    }

    /// Keeps an inode known though the kernel may forget it, until [`Self::forget`] is told of one look-up.
    pub(crate) fn hold(&self, inode: &Inode) {
        if let Entry::Occupied(known) = self.by_identity.entry(inode.identity()) {
            known.get().lookups.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that the kernel has forgotten `count` look-ups of `id`. Returns the inode if those
    /// were the last.
    pub(crate) fn forget(&self, id: NodeId, count: u64) -> Option<Arc<Inode>> {
        if id == NodeId::ROOT {
            return None;
        }
        let identity = self.by_id(id)?.identity();
        let Entry::Occupied(known) = self.by_identity.entry(identity) else { return None };
        // The one that has the number by now.
        let inode = known.get().clone();
        let left = inode.lookups.load(Ordering::Relaxed).saturating_sub(count);
        inode.lookups.store(left, Ordering::Relaxed);
        if left > 0 {
            return None;
        }
        if let Some(known) = inode.known_contents() {
            self.remember(known);
        }
        // Last, and with it the lock: whoever looks the file up from now on makes a new inode,
        // which must not be removed here.
        self.by_id.remove(&id);
        known.remove();
        Some(inode)
    }

    /// Of which states something may be found: of those that the kernel knows, and of those that it knew.
    /// As many as [`Self::remember`] takes, those last that are to be forgotten last.
    pub(crate) fn known_contents(&self) -> Vec<Known> {
        let known = self.by_identity.iter().filter_map(|inode| inode.known_contents());
        let known: Vec<Known> = known.collect();
        let forgotten = self.forgotten.lock();
        let forgotten =
            forgotten.iter().rev().map(|(&identity, &(key, stamp))| Known { identity, key, stamp });
        let mut all: Vec<Known> = forgotten.chain(known).collect();
        all.drain(..all.len().saturating_sub(FORGOTTEN_MAX.get()));
        all
    }

    /// Notes what is to be found when the kernel asks for a file that it does not know.
    pub(crate) fn remember(&self, Known { identity, key, stamp }: Known) {
        self.forgotten.lock().put(identity, (key, stamp));
    }

    /// The number that a directory entry of the root's device shows.
    pub(crate) fn id_in_listing(&self, directory: &Inode, inode: u64) -> NodeId {
        let identity = Identity { device: directory.identity().device, inode };
        match self.by_identity.get(&identity) {
            Some(known) => known.id,
            None => NodeId(inode),
        }
    }

    /// Gives back the memory of the tables, should most of what they once held be forgotten.
    /// Returns whether it was so.
    pub(crate) fn shrink(&self) -> bool {
        let now = self.len();
        let most = self.most.fetch_max(now, Ordering::Relaxed).max(now);
        if most < SHRINK_FROM || now > most / 2 {
            return false;
        }
        self.by_id.shrink_to_fit();
        self.by_identity.shrink_to_fit();
        self.most.store(now, Ordering::Relaxed);
        true
    }

    /// How many inodes there are.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    fn id_for(&self, identity: Identity) -> NodeId {
        let own = identity.device == self.root_device
            && identity.inode > NodeId::ROOT.0
            && identity.inode < FOREIGN_FIRST;
        if own {
            NodeId(identity.inode)
        } else {
            NodeId(self.next_foreign.fetch_add(1, Ordering::Relaxed))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::source::Source;

    pub(crate) fn tree() -> (tempfile::TempDir, Source, Inodes) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "a").unwrap();
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        let source = Source::open(dir.path()).unwrap();
        let root = source.root().unwrap();
        let stat = Stat::of(root.as_fd()).unwrap();
        let inodes = Inodes::new(source.nodes(100).unwrap(), root, &stat);
        (dir, source, inodes)
    }

    pub(crate) fn look_up(source: &Source, inodes: &Inodes, name: &std::ffi::CStr) -> Arc<Inode> {
        let root = inodes.by_id(NodeId::ROOT).unwrap();
        let (node, stat) = source.look_up(root.node().unwrap().as_fd(), name).unwrap();
        inodes.looked_up(&root, name, node.into(), &stat)
    }

    #[test]
    fn a_file_is_one_inode_under_all_its_names_and_gone_when_all_look_ups_are() {
        let (_dir, source, inodes) = tree();
        let a = look_up(&source, &inodes, c"a");
        let b = look_up(&source, &inodes, c"b");
        assert_eq!(a.id, b.id);
        inodes.forget(a.id, 1);
        assert!(inodes.by_id(a.id).is_some());
        inodes.forget(a.id, 1);
        assert!(inodes.by_id(a.id).is_none());
        assert_eq!(inodes.len(), 1);
    }

    #[test]
    fn what_is_cached_of_a_forgotten_file_is_found_again_unless_it_changed() {
        let (dir, source, inodes) = tree();
        // Younger, it would be taken for changed: see `contents.rs`.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let first = look_up(&source, &inodes, c"a");
        first.open_as(&first.node().unwrap());
        inodes.forget(first.id, 1);
        let second = look_up(&source, &inodes, c"b");
        assert_eq!(first.contents.key(), second.contents.key());
        inodes.forget(second.id, 1);
        let third = look_up(&source, &inodes, c"a");
        assert_eq!(first.contents.key(), third.contents.key(), "though it was not open since");
        inodes.forget(third.id, 1);
        std::fs::write(dir.path().join("a"), "changed").unwrap();
        let changed = look_up(&source, &inodes, c"a");
        assert_ne!(first.contents.key(), changed.contents.key());
    }

    #[test]
    fn a_file_that_got_the_inode_of_one_that_the_kernel_knows_is_another() {
        let (dir, source, inodes) = tree();
        let old = look_up(&source, &inodes, c"a");
        std::fs::remove_file(dir.path().join("a")).unwrap();
        std::fs::remove_file(dir.path().join("b")).unwrap();
        // What may hold it open.
        inodes.nodes.forget_recent();
        for n in 0..1000 {
            let name = std::ffi::CString::new(format!("new{n}")).unwrap();
            std::fs::write(dir.path().join(name.to_str().unwrap()), "new").unwrap();
            let new = look_up(&source, &inodes, &name);
            if new.identity() != old.identity() {
                continue;
            }
            // The kernel knows both by one number, and forgets each once.
            assert_eq!((new.id, new.generation), (old.id, old.generation + 1));
            assert_eq!(Stat::of(new.node().unwrap().as_fd()).unwrap().size, 3);
            assert!(inodes.forget(new.id, 1).is_none());
            assert!(inodes.by_id(new.id).is_some());
            assert!(inodes.forget(new.id, 1).is_some());
            return;
        }
        // A filesystem that does not give inodes again (tmpfs, btrfs) has no such trouble.
    }

    #[test]
    fn the_root_is_never_forgotten() {
        let (_dir, _source, inodes) = tree();
        inodes.forget(NodeId::ROOT, 100);
        assert!(inodes.by_id(NodeId::ROOT).is_some());
    }
}
