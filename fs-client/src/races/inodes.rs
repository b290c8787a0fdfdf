//! Look-ups against forgets: the kernel's count is never lost.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::world::all_at_once;
use super::{any, check};
use crate::block::FileKey;
use crate::inodes::{Inode, Inodes, NodeId};
use crate::source::{Identity, Source, Stat};

/// Two files that were there before and that nobody changes: of this crate.
const NAMES: [&CStr; 2] = [c"Cargo.toml", c"src/main.rs"];

/// The table, and what the kernel would think of it.
struct Table {
    source: Source,
    inodes: Inodes,
    kernel: Mutex<HashMap<Identity, Known>>,
}

#[derive(Default)]
struct Known {
    /// Look-ups that were told and of which no forget is on its way.
    lookups: u64,
    inode: Option<Arc<Inode>>,
    /// The first key. The files do not change: it stays.
    key: Option<FileKey>,
}

impl Table {
    fn new() -> Arc<Self> {
        let source = Source::open(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        let root = source.root().unwrap();
        let stat = Stat::of(root.as_fd()).unwrap();
        let inodes = Inodes::new(source.nodes(1).unwrap(), root, &stat);
        Arc::new(Self { source, inodes, kernel: Mutex::default() })
    }

    fn look_up(&self, name: &CStr) -> (Arc<Inode>, Identity) {
        let root = self.source.root().unwrap();
        let (node, stat) = self.source.look_up(root.as_fd(), name).unwrap();
        let by_name = match any(2) {
            0 => self
                .inodes
                .find(root.as_fd(), name)
                .and_then(|found| self.inodes.looked_up_by_name(&self.root(), name, found, &stat)),
            _ => None,
        };
        let found = || self.inodes.looked_up(&self.root(), name, node.into(), &stat);
        let inode = by_name.unwrap_or_else(found);
        // Only of those that were open something may be cached.
        inode.open_as(&inode.node().unwrap());
        let now = inode.contents.key();
        {
            let mut kernel = self.kernel.lock().unwrap();
            let known = kernel.entry(stat.identity).or_default();
            if let Some(other) = &known.inode
                && known.lookups > 0
            {
                assert!(Arc::ptr_eq(other, &inode), "two inodes for one file");
            }
            assert_eq!(*known.key.get_or_insert(now), now, "what was cached is not found again");
            known.lookups += 1;
            known.inode = Some(inode.clone());
        }
        self.assert_known(&inode, stat.identity);
        (inode, stat.identity)
    }

    fn root(&self) -> Arc<Inode> {
        self.inodes.by_id(NodeId::ROOT).expect("never forgotten")
    }

    fn forget(&self, inode: &Arc<Inode>, identity: Identity, count: u64) {
        self.assert_known(inode, identity);
        if let Some(known) = self.kernel.lock().unwrap().get_mut(&identity) {
            known.lookups -= count;
        }
        let gone = self.inodes.forget(inode.id, count);
        if let Some(gone) = gone {
            assert!(Arc::ptr_eq(&gone, inode), "another one went");
        }
    }

    fn assert_known(&self, inode: &Arc<Inode>, identity: Identity) {
        let by_id = self.inodes.by_id(inode.id).expect("the kernel knows it");
        assert!(Arc::ptr_eq(&by_id, inode), "another inode by its number");
        let by_identity = self.inodes.by_identity(identity).expect("the kernel knows it");
        assert!(Arc::ptr_eq(&by_identity, inode), "another inode by its identity");
    }

    fn assert_empty(&self) {
        assert_eq!(self.inodes.len(), 1, "the root is left");
        for (identity, known) in &*self.kernel.lock().unwrap() {
            assert!(self.inodes.by_identity(*identity).is_none());
            assert!(known.inode.as_ref().is_none_or(|inode| self.inodes.by_id(inode.id).is_none()));
        }
    }
}

fn race(threads: usize, act: fn(&Table)) {
    let table = Table::new();
    let thread = || {
        let table = table.clone();
        Box::new(move || act(&table)) as Box<dyn FnOnce() + Send>
    };
    all_at_once((0..threads).map(|_| thread()).collect());
    table.assert_empty();
}

#[test]
fn the_count_of_look_ups_is_never_lost() {
    check(|| {
        race(3, |table| {
            for _ in 0..3 {
                let (inode, identity) = table.look_up(NAMES[0]);
                table.forget(&inode, identity, 1);
            }
        });
    });
}

#[test]
fn look_ups_are_forgotten_together() {
    check(|| {
        race(3, |table| {
            for _ in 0..2 {
                let name = NAMES[any(2) as usize];
                let (inode, identity) = table.look_up(name);
                let count = 1 + any(3);
                for _ in 1..count {
                    table.look_up(name);
                }
                table.forget(&inode, identity, count);
            }
        });
    });
}

/// A file may get the inode of one that is gone and that the kernel has yet to forget. The kernel
/// counts by number, so the count goes over to the new one.
#[test]
fn a_number_that_is_used_again_keeps_the_count() {
    check(|| {
        let table = Table::new();
        let root = table.source.root().unwrap();
        let (_, Stat { identity, .. }) = table.source.look_up(root.as_fd(), NAMES[0]).unwrap();
        let known: Arc<Mutex<HashMap<NodeId, u64>>> = Arc::default();
        let thread = || {
            let (table, known) = (table.clone(), known.clone());
            Box::new(move || {
                let root = table.source.root().unwrap();
                for _ in 0..3 {
                    let name = NAMES[any(2) as usize];
                    let (node, stat) = table.source.look_up(root.as_fd(), name).unwrap();
                    let inode = table.inodes.looked_up(
                        &table.root(),
                        name,
                        node.into(),
                        &Stat { identity, ..stat },
                    );
                    *known.lock().unwrap().entry(inode.id).or_default() += 1;
                    // A third file takes the place of the descriptor that is kept.
                    let (node, stat) = table.source.look_up(root.as_fd(), c"src").unwrap();
                    let other = table.inodes.looked_up(&table.root(), c"src", node.into(), &stat);
                    let by_id = table.inodes.by_id(inode.id).expect("the kernel knows it");
                    assert_eq!(by_id.id, inode.id);
                    table.inodes.forget(other.id, 1);
                    *known.lock().unwrap().entry(inode.id).or_default() -= 1;
                    let gone = table.inodes.forget(inode.id, 1);
                    assert!(gone.is_none_or(|gone| gone.id == inode.id));
                }
            }) as Box<dyn FnOnce() + Send>
        };
        all_at_once((0..3).map(|_| thread()).collect());
        table.assert_empty();
    });
}
