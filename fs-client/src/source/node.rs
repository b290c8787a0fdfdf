//! Nodes: how a file is held on to without holding it open.
//!
//! A descriptor for each file that the kernel knows would soon be more than a process may have.
//! So a file is kept by its handle (name_to_handle_at(2)): some bytes by which the source finds it
//! again whatever its names are by now, and which fit no other file that gets its inode number
//! later. Descriptors are made from it when they are needed, and the most recent are kept.
//!
//! Handles take CAP_DAC_READ_SEARCH, and a filesystem that has them. Without, and for other
//! mounts below the source, the descriptor is held.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use lru::LruCache;
use parking_lot::Mutex;
use rustix::io::{Errno, Result};

/// How the nodes of a source are found again.
#[derive(Debug)]
pub(crate) struct Nodes {
    /// None where handles cannot be used.
    root: Option<Root>,
    recent: Mutex<LruCache<NodeNumber, NodeFd>>,
    recent_max: usize,
    next: AtomicU64,
}

/// Tells nodes apart, in the order in which they were met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct NodeNumber(u64);

/// A file, directory or other thing of the source.
#[derive(Debug)]
pub(crate) struct Node {
    nodes: Arc<Nodes>,
    number: NodeNumber,
    anchor: Anchor,
    current: Mutex<Current>,
}

/// The descriptor of a node that is kept by its handle.
#[derive(Debug)]
enum Current {
    /// There while anybody has it.
    Shared(Weak<OwnedFd>),
    /// There as long as the node: without it the file would vanish.
    Pinned(NodeFd),
}

/// A descriptor that names a node without opening it (O_PATH). Holding it keeps a file that was
/// removed from vanishing.
#[derive(Clone, Debug)]
pub(crate) struct NodeFd(Arc<OwnedFd>);

#[derive(Debug)]
enum Anchor {
    Held(NodeFd),
    Handle(Handle),
}

/// The mount on which handles are opened.
#[derive(Debug)]
struct Root {
    directory: OwnedFd,
    mount: MountNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MountNumber(libc::c_int);

#[derive(Debug, PartialEq, Eq)]
struct Handle {
    kind: libc::c_int,
    bytes: Box<[u8]>,
}

/// The longest handle that the kernel makes (MAX_HANDLE_SZ).
const HANDLE_BYTES_MAX: usize = 128;

/// `struct file_handle` of fcntl.h, with room for any handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: libc::c_uint,
    handle_type: libc::c_int,
    f_handle: [u8; HANDLE_BYTES_MAX],
}

impl Nodes {
    /// Tries handles on `root`, a directory opened for reading. At most `recent_max` descriptors
    /// are kept for nodes that nobody is using.
    pub(crate) fn new(root: OwnedFd, recent_max: usize) -> Arc<Self> {
        let usable = handle_of(root.as_fd()).and_then(|(handle, mount)| {
            let root = Root { directory: root, mount };
            root.open(&handle)?;
            Ok(root)
        });
        if let Err(error) = &usable {
            tracing::debug!(%error, "no file handles: each known file holds a descriptor");
        }
        let recent = Mutex::new(LruCache::unbounded());
        Arc::new(Self { root: usable.ok(), recent, recent_max, next: AtomicU64::new(0) })
    }

    /// A way back to what `fd` names.
    pub(crate) fn node(self: &Arc<Self>, fd: OwnedFd) -> Node {
        let fd = NodeFd(Arc::new(fd));
        let handle = self.root.as_ref().and_then(|root| {
            let (handle, mount) = handle_of(fd.as_fd()).ok()?;
            (mount == root.mount).then_some(handle)
        });
        let number = NodeNumber(self.next.fetch_add(1, Ordering::Relaxed));
        let current = Mutex::new(Current::Shared(Arc::downgrade(&fd.0)));
        let anchor = match handle {
            Some(handle) => {
                self.keep(number, fd);
                Anchor::Handle(handle)
            }
            None => Anchor::Held(fd),
        };
        Node { nodes: self.clone(), number, anchor, current }
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
    /// A descriptor for the node.
    ///
    /// # Errors
    /// `STALE` when it was removed and nobody held on to it.
    pub(crate) fn fd(&self) -> Result<NodeFd> {
        let handle = match &self.anchor {
            Anchor::Held(fd) => return Ok(fd.clone()),
            Anchor::Handle(handle) => handle,
        };
        let mut current = self.current.lock();
        if let Some(fd) = current.get() {
            return Ok(fd);
        }
        let root = self.nodes.root.as_ref().ok_or(Errno::STALE)?;
        let fd = NodeFd(Arc::new(root.open(handle)?));
        *current = Current::Shared(Arc::downgrade(&fd.0));
        drop(current);
        self.nodes.keep(self.number, fd.clone());
        Ok(fd)
    }

    /// Whether `fd`, whose device and inode are the node's, names the same file, and not one that
    /// was given the inode of a removed one.
    pub(crate) fn is(&self, fd: BorrowedFd<'_>) -> bool {
        let handle = match &self.anchor {
            Anchor::Held(_) => return true,
            Anchor::Handle(handle) => handle,
        };
        // While a descriptor is open the inode is not given to another file.
        if self.current.lock().get().is_some() {
            return true;
        }
        handle_of(fd).is_ok_and(|(other, _)| other == *handle)
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

impl Root {
    fn open(&self, handle: &Handle) -> Result<OwnedFd> {
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
            return Err(last_error());
        }
        // SAFETY: a new descriptor that nobody else knows of.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// The handle of what `fd` names, and the mount that it is on.
fn handle_of(fd: BorrowedFd<'_>) -> Result<(Handle, MountNumber)> {
    let mut raw = RawHandle {
        handle_bytes: HANDLE_BYTES_MAX as libc::c_uint,
        handle_type: 0,
        f_handle: [0; HANDLE_BYTES_MAX],
    };
    let mut mount = 0;
    // SAFETY: `raw` has the layout of a file_handle with room for as many bytes as it says; the
    // name is empty, which the flag allows; all outlive the call.
    let done = unsafe {
        libc::name_to_handle_at(
            fd.as_raw_fd(),
            c"".as_ptr(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Source, Stat};

    #[test]
    fn a_node_is_found_again_after_its_descriptor_was_closed_and_its_name_changed() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..20 {
            std::fs::write(dir.path().join(n.to_string()), "x").unwrap();
        }
        let source = Source::open(dir.path()).unwrap();
        let root = source.root().unwrap();
        let nodes = source.nodes(3).unwrap();
        let known: Vec<_> = (0..20)
            .map(|n: i32| {
                let name = std::ffi::CString::new(n.to_string()).unwrap();
                let (fd, stat) = source.look_up(root.as_fd(), &name).unwrap();
                (nodes.node(fd), stat.identity)
            })
            .collect();
        std::fs::rename(dir.path().join("0"), dir.path().join("elsewhere")).unwrap();
        for (node, identity) in &known {
            let fd = node.fd().unwrap();
            assert_eq!(Stat::of(fd.as_fd()).unwrap().identity, *identity);
        }
        if nodes.root.is_none() {
            // An ordinary user, or a filesystem without handles: all are held.
            return;
        }
        assert!(nodes.recent.lock().len() <= 3);

        let held = known[5].0.fd().unwrap();
        for n in [5, 6] {
            std::fs::remove_file(dir.path().join(n.to_string())).unwrap();
        }
        for (node, _) in &known[8..] {
            node.fd().unwrap();
        }
        assert!(known[5].0.fd().is_ok(), "removed, but somebody holds on to it");
        drop(held);
        assert_eq!(known[6].0.fd().unwrap_err(), Errno::STALE);

        let last = known[19].0.fd().unwrap();
        let descriptor = Arc::downgrade(&last.0);
        drop(last);
        assert!(descriptor.upgrade().is_some(), "kept for the next who asks");
        drop(known);
        assert!(descriptor.upgrade().is_none(), "but not longer than the node is known");
    }
}
