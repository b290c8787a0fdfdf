//! Look-ups against forgets: the kernel's count is never lost.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::{Arc, LazyLock, Mutex};

use super::world::{all_at_once, memfd};
use super::{any, check};
use crate::block::FileKey;
use crate::inodes::{Inode, Inodes};
use crate::source::{Identity, Source, Stat};

/// The files that are looked up; never changed, so one directory serves all rounds.
static DIRECTORY: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    for name in NAMES {
        File::create(directory.path().join(name.to_str().unwrap())).unwrap();
    }
    directory
});

const NAMES: [&CStr; 2] = [c"a", c"b"];

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
        let source = Source::open(DIRECTORY.path()).unwrap();
        let root = source.root().unwrap();
        let stat = Stat::of(root.as_fd()).unwrap();
        let inodes = Inodes::new(source.nodes(1).unwrap(), root, &stat);
        Arc::new(Self { source, inodes, kernel: Mutex::default() })
    }

    fn look_up(&self, name: &CStr) -> (Arc<Inode>, Identity) {
        let root = self.source.root().unwrap();
        let (node, stat) = self.source.look_up(root.as_fd(), name).unwrap();
        let inode = self.inodes.looked_up(node, &stat);
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

/// A new file may get the number of one that is gone.
#[test]
fn a_number_that_is_used_again_is_another_file() {
    check(|| {
        let table = Table::new();
        let (old, identity) = table.look_up(NAMES[0]);
        let key = old.contents.key();
        let forgets = {
            let table = table.clone();
            Box::new(move || table.forget(&old, identity, 1)) as Box<dyn FnOnce() + Send>
        };
        let looks_up_another = {
            let table = table.clone();
            Box::new(move || {
                let (_, _) = table.look_up(NAMES[1]);
            }) as Box<dyn FnOnce() + Send>
        };
        all_at_once(vec![forgets, looks_up_another]);
        let file = memfd();
        file.set_len(1).unwrap();
        let stat = Stat { identity, ..Stat::of(file.as_fd()).unwrap() };
        let new = table.inodes.looked_up(file.into(), &stat);
        assert_ne!(new.contents.key(), key);
        assert_eq!(
            table.inodes.by_id(new.id).map(|found| found.contents.key()),
            Some(new.contents.key())
        );
    });
}
