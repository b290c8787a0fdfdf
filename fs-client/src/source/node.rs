//! Nodes: how a file is held on to without holding it open.
//!
//! A descriptor for each file that the kernel knows would soon be more than a process may have.
//! So a file is kept by its handle, and is opened when that is needed for the first time. The most
//! recent descriptors are kept.
//!
//! Handles take CAP_DAC_READ_SEARCH, and a filesystem that has them. Without, and for other
//! mounts below the source, a file is kept by its place: its directory, and its name there when it
//! was last looked up. When somebody else has moved it since, it is lost until it is looked up
//! again, which the kernel does by itself.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{FileType, Mode, OFlags, openat};
use rustix::io::{Errno, Result};

use super::handle::{Handle, HandleMount};
use super::stat::{Identity, Stat};

/// How the nodes of a source are found again.
#[derive(Debug)]
pub(crate) struct Nodes {
    /// None where handles cannot be used.
    handles: Option<HandleMount>,
    recent: Mutex<LruCache<NodeNumber, NodeFd>>,
    recent_max: usize,
    next: AtomicU64,
    began: Instant,
    /// When a handle was refused last, in milliseconds since `began`.
    refused_ms: AtomicU64,
}

/// Tells nodes apart, in the order in which they were met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct NodeNumber(u64);

/// A file, directory or other thing of the source.
#[derive(Debug)]
pub(crate) struct Node {
    nodes: Arc<Nodes>,
    number: NodeNumber,
    identity: Identity,
    file_type: FileType,
    anchor: Anchor,
    current: Mutex<Current>,
}

/// The descriptor of a node, if it has one.
#[derive(Debug)]
enum Current {
    /// There while anybody has it.
    Shared(Weak<OwnedFd>),
    /// There as long as the node: without it the file would vanish.
    Pinned(NodeFd),
}

/// A shared descriptor of a node: most only name it (O_PATH). Holding it keeps a file that was removed
/// from vanishing.
#[derive(Clone, Debug)]
pub(crate) struct NodeFd(Arc<OwnedFd>);

#[derive(Debug)]
enum Anchor {
    /// The root itself.
    Held(NodeFd),
    Handle(Handle),
    Place(Mutex<Place>),
}

/// What a look-up found, and how it will be found again.
#[derive(Debug)]
pub(crate) struct Found {
    handle: Option<Handle>,
    /// It is on the mount on which handles are opened.
    here: bool,
    /// There if it had to be opened to be found.
    pub(crate) fd: Option<NodeFd>,
}

/// Where a node was when it was last looked up.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) directory: Arc<Node>,
    pub(crate) name: CString,
}

/// How long nothing is left to handles after one was refused.
const REFUSED_MS: u64 = 1000;

/// More directories inside each other than a path can name (PATH_MAX): two that seem to be inside
/// each other were moved by somebody else.
const DEPTH_MAX: usize = 4096;

impl Nodes {
    /// Tries handles on `root`, a directory opened for reading. At most `recent_max` descriptors
    /// are kept for nodes that nobody is using.
    pub(crate) fn new(root: OwnedFd, recent_max: usize) -> Arc<Self> {
        Self::with_handles(root, recent_max, true)
    }

    fn with_handles(root: OwnedFd, recent_max: usize, wanted: bool) -> Arc<Self> {
        let handles = HandleMount::new(root);
        if let Err(error) = &handles {
            tracing::debug!(%error, "no file handles: files are kept by their places");
        }
        let recent = Mutex::new(LruCache::unbounded());
        Arc::new(Self {
            handles: handles.ok().filter(|_| wanted),
            recent,
            recent_max,
            next: AtomicU64::new(0),
            began: Instant::now(),
            refused_ms: AtomicU64::new(0),
        })
    }

    /// The root, which stays open.
    pub(crate) fn root(self: &Arc<Self>, fd: OwnedFd, stat: &Stat) -> Node {
        let fd = NodeFd::from(fd);
        let current = Current::Shared(Arc::downgrade(&fd.0));
        self.new_node(stat, Anchor::Held(fd), current)
    }

    /// What has `name` in `directory`, if it can be found again without having been open. To be asked
    /// for before the attributes: a handle that opens what has the identity of these opens what had
    /// them, since a file and one that gets its number do not exist at the same time.
    pub(crate) fn find(&self, directory: BorrowedFd<'_>, name: &CStr) -> Option<Found> {
        if self.refused_lately() {
            return None;
        }
        let (handle, here) = self.handles.as_ref()?.handle_at(directory, name)?;
        here.then_some(Found { handle: Some(handle), here, fd: None })
    }

    /// What is open as `fd`.
    pub(crate) fn find_open(&self, fd: NodeFd) -> Found {
        let handle = self.handles.as_ref().and_then(|handles| handles.handle_of(fd.as_fd()));
        let here = handle.as_ref().is_some_and(|&(_, here)| here);
        Found { handle: handle.map(|(handle, _)| handle), here, fd: Some(fd) }
    }

    /// A handle was refused: files are being replaced behind us, or the filesystem has some that no
    /// handle opens. The kernel will look the name up again, once; so that this must not fail
    /// again, what is looked up is opened at once for a while.
    fn refused(&self) -> Errno {
        self.refused_ms.store(self.now_ms(), Ordering::Relaxed);
        Errno::STALE
    }

    fn refused_lately(&self) -> bool {
        let at = self.refused_ms.load(Ordering::Relaxed);
        at != 0 && self.now_ms() < at + REFUSED_MS
    }

    /// Never zero.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX / 2) + 1
    }

    /// A way back to what was found at `place`.
    pub(crate) fn node(
        self: &Arc<Self>,
        found: Found,
        stat: &Stat,
        place: impl FnOnce() -> Place,
    ) -> Node {
        let anchor = match found.handle {
            Some(handle) if found.here => Anchor::Handle(handle),
            _ => Anchor::Place(Mutex::new(place())),
        };
        let current = found.fd.as_ref().map_or_else(Weak::new, |fd| Arc::downgrade(&fd.0));
        let node = self.new_node(stat, anchor, Current::Shared(current));
        if let Some(fd) = found.fd {
            self.keep(node.number, fd);
        }
        node
    }

    fn new_node(self: &Arc<Self>, stat: &Stat, anchor: Anchor, current: Current) -> Node {
        Node {
            nodes: self.clone(),
            number: NodeNumber(self.next.fetch_add(1, Ordering::Relaxed)),
            identity: stat.identity,
            file_type: stat.file_type(),
            anchor,
            current: Mutex::new(current),
        }
    }

    #[cfg(test)]
    pub(crate) fn forget_recent(&self) {
        self.recent.lock().clear();
    }

    /// Keeps a descriptor for a while, in place of the one that was kept the longest.
    fn keep(&self, number: NodeNumber, fd: NodeFd) {
        let mut recent = self.recent.lock();
        let oldest = (recent.len() >= self.recent_max).then(|| recent.pop_lru());
        recent.put(number, fd);
        drop(recent);
        // Closed here, without the lock.
        drop(oldest);
    }
}

impl Node {
    /// Which file it is.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// A descriptor for the node.
    ///
    /// # Errors
    /// `STALE` when it was removed and nobody held on to it, or was moved by somebody else.
    pub(crate) fn fd(&self) -> Result<NodeFd> {
        if let Some(fd) = self.fd_at_once()? {
            return Ok(fd);
        }
        // Up to the first directory that needs no other, and down again from there.
        let (mut path, mut at) = (Vec::new(), self.place());
        let mut fd = loop {
            let Some(Place { directory, name }) = at else { return Err(Errno::STALE) };
            let found = directory.fd_at_once()?;
            at = directory.place();
            path.push((directory, name));
            match found {
                Some(fd) => break fd,
                None if path.len() == DEPTH_MAX => return Err(Errno::STALE),
                None => {}
            }
        };
        while let Some((_, name)) = path.pop() {
            let below = path.last().map_or(self, |(directory, _)| directory);
            fd = below.open_in(fd.as_fd(), &name)?;
        }
        Ok(fd)
    }

    /// A descriptor, unless it takes one of the directory.
    fn fd_at_once(&self) -> Result<Option<NodeFd>> {
        if let Anchor::Held(fd) = &self.anchor {
            return Ok(Some(fd.clone()));
        }
        let mut current = self.current.lock();
        if let Some(fd) = current.get() {
            return Ok(Some(fd));
        }
        let Anchor::Handle(handle) = &self.anchor else { return Ok(None) };
        let handles = self.nodes.handles.as_ref().ok_or(Errno::STALE)?;
        let opened = handles.open(handle).and_then(|fd| self.checked(fd));
        let fd = match opened {
            Err(Errno::STALE) => return Err(self.nodes.refused()),
            opened => opened?,
        };
        *current = Current::Shared(Arc::downgrade(&fd.0));
        drop(current);
        self.nodes.keep(self.number, fd.clone());
        Ok(Some(fd))
    }

    /// What was opened, if it is this node. A name may have got another file between the moments at
    /// which its handle and its attributes were asked for, or since it was looked up; by its place,
    /// that file may have the inode of the one before, and be a pipe, on which opening waits.
    fn checked(&self, fd: OwnedFd) -> Result<NodeFd> {
        let stat = Stat::of(fd.as_fd())?;
        let same = stat.identity == self.identity && stat.file_type() == self.file_type;
        if same { Ok(fd.into()) } else { Err(Errno::STALE) }
    }

    fn place(&self) -> Option<Place> {
        match &self.anchor {
            Anchor::Place(place) => Some(place.lock().clone()),
            _ => None,
        }
    }

    /// Opens it as `name` in `directory`, if it is still there.
    fn open_in(&self, directory: BorrowedFd<'_>, name: &CStr) -> Result<NodeFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat(directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(Errno::STALE),
            opened => self.checked(opened?)?,
        };
        // Somebody else may have been as fast: all use the same one.
        let mut current = self.current.lock();
        if let Some(fd) = current.get() {
            return Ok(fd);
        }
        *current = Current::Shared(Arc::downgrade(&fd.0));
        drop(current);
        self.nodes.keep(self.number, fd.clone());
        Ok(fd)
    }

    /// Whether a descriptor is open, so that its inode cannot have been given to another file.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.anchor, Anchor::Held(_)) || self.current.lock().get().is_some()
    }

    /// Whether it is kept although its last name is gone.
    pub(crate) fn is_pinned(&self) -> bool {
        matches!(*self.current.lock(), Current::Pinned(_))
    }

    /// Notes that it is open as `fd`. Returns the descriptor that is the node's as long as somebody
    /// holds it: this one, unless another open file's is it already.
    pub(crate) fn open_as(&self, fd: &NodeFd) -> NodeFd {
        // One that is kept for later is not needed now. Closed here, without the locks.
        let kept = self.nodes.recent.lock().pop(&self.number);
        let mut current = self.current.lock();
        match &mut *current {
            Current::Pinned(fd) => fd.clone(),
            Current::Shared(shared) => match shared.upgrade() {
                Some(other) if kept.as_ref().is_none_or(|kept| !Arc::ptr_eq(&kept.0, &other)) => {
                    NodeFd(other)
                }
                _ => {
                    *shared = Arc::downgrade(&fd.0);
                    fd.clone()
                }
            },
        }
    }

    /// Keeps a descriptor that was made to find it, unless it has one.
    pub(crate) fn adopt(&self, fd: NodeFd) {
        let mut current = self.current.lock();
        if current.get().is_none() {
            *current = Current::Shared(Arc::downgrade(&fd.0));
            drop(current);
            self.nodes.keep(self.number, fd);
        }
    }

    /// Whether it is kept by the handle that was found.
    pub(crate) fn has_handle(&self, found: &Found) -> bool {
        matches!(&self.anchor, Anchor::Handle(handle) if found.handle.as_ref() == Some(handle))
    }

    /// Notes that it was found at `place`.
    pub(crate) fn found_at(&self, place: impl FnOnce() -> Place) {
        if let Anchor::Place(known) = &self.anchor {
            let before = std::mem::replace(&mut *known.lock(), place());
            // May be the last that knows its directory: dropped without the lock.
            drop(before);
        }
    }

    /// Whether what was found, whose device and inode are the node's, is the same file, and not one
    /// that was given the inode of a removed one.
    pub(crate) fn is(&self, found: &Found) -> bool {
        match &self.anchor {
            Anchor::Held(_) | Anchor::Place(_) => true,
            Anchor::Handle(_) => self.has_handle(found) || self.is_open(),
        }
    }

    /// Keeps the file, whose last name is gone, for as long as the node is known: somebody may be
    /// in that directory, or hold the file without having opened it.
    pub(crate) fn pin(&self, fd: NodeFd) {
        *self.current.lock() = Current::Pinned(fd);
    }
}

impl Current {
    fn get(&self) -> Option<NodeFd> {
        match self {
            Self::Shared(fd) => fd.upgrade().map(NodeFd),
            Self::Pinned(fd) => Some(fd.clone()),
        }
    }
}

impl From<OwnedFd> for NodeFd {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}

#[cfg(test)]
impl From<std::fs::File> for NodeFd {
    fn from(file: std::fs::File) -> Self {
        Self(Arc::new(file.into()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A removed file gives its space back only when no descriptor is left.
        let kept = self.nodes.recent.lock().pop(&self.number);
        // Closed here, without the lock.
        drop(kept);
    }
}

impl AsFd for NodeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    /// A directory with 20 files, known by the names 0 to 19.
    struct Tree {
        dir: tempfile::TempDir,
        source: Source,
        nodes: Arc<Nodes>,
        root: Arc<Node>,
    }

    impl Tree {
        /// None where handles are wanted, and cannot be had.
        fn new(handles: bool) -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            for n in 0..20 {
                std::fs::write(dir.path().join(n.to_string()), "x").unwrap();
            }
            let source = Source::open(dir.path()).unwrap();
            let root = source.root().unwrap();
            let readable = source.open_directory(root.as_fd()).unwrap();
            let nodes = Nodes::with_handles(readable, 3, handles);
            let stat = Stat::of(root.as_fd()).unwrap();
            let root = Arc::new(nodes.root(root, &stat));
            (nodes.handles.is_some() == handles).then_some(Self { dir, source, nodes, root })
        }

        fn node(&self, name: &str) -> Node {
            let name = CString::new(name).unwrap();
            let root = self.root.fd().unwrap();
            let (fd, stat) = self.source.look_up(root.as_fd(), &name).unwrap();
            let place = Place { directory: self.root.clone(), name };
            self.nodes.node(self.nodes.find_open(fd.into()), &stat, || place)
        }

        /// Without opening it; none without handles.
        fn find(&self, name: &str) -> Option<Found> {
            let name = CString::new(name).unwrap();
            self.nodes.find(self.root.fd().unwrap().as_fd(), &name)
        }

        fn all(&self) -> Vec<Node> {
            (0..20).map(|n: i32| self.node(&n.to_string())).collect()
        }

        fn rename(&self, from: &str, to: &str) {
            std::fs::rename(self.dir.path().join(from), self.dir.path().join(to)).unwrap();
        }

        fn remove(&self, name: &str) {
            std::fs::remove_file(self.dir.path().join(name)).unwrap();
        }
    }

    fn identity(node: &Node) -> Identity {
        Stat::of(node.fd().unwrap().as_fd()).unwrap().identity
    }

    #[test]
    fn a_node_is_found_again_after_its_descriptor_was_closed() {
        for tree in [Tree::new(true), Tree::new(false)].into_iter().flatten() {
            let known: Vec<_> =
                tree.all().into_iter().map(|node| (identity(&node), node)).collect();
            for (before, node) in &known {
                assert_eq!(identity(node), *before);
            }
            assert!(tree.nodes.recent.lock().len() <= 3);

            let held = known[5].1.fd().unwrap();
            tree.remove("5");
            tree.remove("6");
            for (_, node) in &known[8..] {
                node.fd().unwrap();
            }
            assert!(known[5].1.fd().is_ok(), "removed, but somebody holds on to it");
            drop(held);
            assert_eq!(known[6].1.fd().unwrap_err(), Errno::STALE);

            let last = known[19].1.fd().unwrap();
            let descriptor = Arc::downgrade(&last.0);
            drop(last);
            assert!(descriptor.upgrade().is_some(), "kept for the next who asks");
            drop(known);
            assert!(descriptor.upgrade().is_none(), "but not longer than the node is known");
        }
    }

    #[test]
    fn by_its_handle_a_node_is_found_under_another_name_and_told_from_one_with_its_inode() {
        let Some(tree) = Tree::new(true) else { return };
        let known = tree.all();
        let first = identity(&known[0]);
        known[19].fd().unwrap();
        tree.rename("0", "elsewhere");
        assert_eq!(identity(&known[0]), first);

        let gone = &known[1];
        tree.remove("1");
        for node in &known[2..] {
            node.fd().unwrap();
        }
        std::fs::write(tree.dir.path().join("new"), "y").unwrap();
        let new = tree.node("new");
        let found = tree.find("new").unwrap();
        assert!(!gone.is(&found) && !gone.has_handle(&found));
        tree.nodes.forget_recent();
        assert!(new.is(&found) && !new.is_open());
    }

    #[test]
    fn a_node_that_was_never_open_is_opened_later_unless_its_name_had_got_another_file() {
        let Some(tree) = Tree::new(true) else { return };
        let stat = |name| Stat::of(tree.node(name).fd().unwrap().as_fd()).unwrap();
        let (first, second) = (stat("0"), stat("1"));
        let place = || unreachable!("it has a handle");
        let node = tree.nodes.node(tree.find("0").unwrap(), &first, place);
        assert!(!node.is_open());
        assert_eq!(identity(&node), first.identity);
        assert!(node.is_open());
        // Its attributes were asked for, then it was replaced, then its handle was asked for.
        let pipe = Stat { mode: 0o10644, ..first };
        let mixed = [second, pipe].map(|other| (tree.find("0").unwrap(), other));
        for (found, other) in mixed {
            let node = tree.nodes.node(found, &other, place);
            assert_eq!(node.fd().unwrap_err(), Errno::STALE);
        }
        assert!(Tree::new(false).unwrap().find("0").is_none());
    }

    #[test]
    fn a_handle_does_not_open_what_got_the_inode_of_its_file() {
        let Some(tree) = Tree::new(true) else { return };
        let (found, old) = (tree.find("0").unwrap(), identity(&tree.node("0")));
        tree.nodes.forget_recent();
        tree.remove("0");
        for n in 0..1000 {
            let name = format!("new{n}");
            std::fs::write(tree.dir.path().join(&name), "secret").unwrap();
            let stat = Stat::at(tree.root.fd().unwrap().as_fd(), &CString::new(name).unwrap());
            let stat = stat.unwrap();
            if stat.identity == old {
                let node = tree.nodes.node(found, &stat, || unreachable!("it has a handle"));
                assert_eq!(node.fd().unwrap_err(), Errno::STALE);
                assert!(tree.find("1").is_none(), "what is looked up next is opened at once");
                return;
            }
        }
        // A filesystem that does not give inodes again (tmpfs, btrfs) has no such trouble.
    }

    #[test]
    fn by_its_place_a_node_is_lost_when_it_moves_until_it_is_looked_up() {
        let tree = Tree::new(false).unwrap();
        let known = tree.all();
        let first = identity(&known[0]);
        for node in &known[10..] {
            node.fd().unwrap();
        }
        tree.rename("0", "elsewhere");
        assert_eq!(known[0].fd().unwrap_err(), Errno::STALE);
        known[0].found_at(|| Place { directory: tree.root.clone(), name: c"elsewhere".into() });
        assert_eq!(identity(&known[0]), first);
        tree.rename("1", "elsewhere");
        for node in &known[10..] {
            node.fd().unwrap();
        }
        assert_eq!(known[0].fd().unwrap_err(), Errno::STALE, "another file in its place");
    }

    #[test]
    fn directories_that_seem_to_be_inside_each_other_are_not_followed_for_ever() {
        let tree = Tree::new(false).unwrap();
        let [a, b] = ["0", "1"].map(|name| Arc::new(tree.node(name)));
        a.found_at(|| Place { directory: b.clone(), name: c"0".into() });
        b.found_at(|| Place { directory: a.clone(), name: c"1".into() });
        for node in ["2", "3", "4", "5"] {
            tree.node(node).fd().unwrap();
        }
        tree.nodes.forget_recent();
        assert_eq!(a.fd().unwrap_err(), Errno::STALE);
        // The ring would never be dropped.
        a.found_at(|| Place { directory: tree.root.clone(), name: c"0".into() });
    }

    #[test]
    fn a_pinned_node_outlives_its_name() {
        for tree in [Tree::new(true), Tree::new(false)].into_iter().flatten() {
            let known = tree.all();
            let (kept, lost) = (&known[0], &known[1]);
            kept.pin(kept.fd().unwrap());
            tree.remove("0");
            tree.remove("1");
            for node in &known[2..] {
                node.fd().unwrap();
            }
            assert!(kept.fd().is_ok());
            assert_eq!(lost.fd().unwrap_err(), Errno::STALE);
        }
    }
}
