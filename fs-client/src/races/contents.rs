//! Changes by others against changes of our own: no key outlives a change that was not ours.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};

use super::world::{all_at_once, memfd, settle, touch};
use super::{any, check};
use crate::block::FileKey;
use crate::contents::Contents;
use crate::source::{NodeFd, Stat};

/// A file that is changed by us and by others.
struct Changed {
    file: File,
    contents: Contents,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Own changes under way.
    own: u32,
    /// How often others have changed it.
    others: u64,
    /// Keys of states that somebody else has put an end to, where that is to be noticed.
    over: Vec<FileKey>,
}

const LEN: u64 = 4096;

impl Changed {
    fn new() -> Arc<Self> {
        let file = memfd();
        file.set_len(LEN).unwrap();
        let contents = Contents::new(&Stat::of(file.as_fd()).unwrap());
        settle(&contents, &file);
        Arc::new(Self { file, contents, seen: Mutex::default() })
    }

    /// Writes as our mount does.
    fn change(&self) {
        self.seen.lock().unwrap().own += 1;
        let node = NodeFd::from(self.file.try_clone().unwrap());
        let change = self.contents.begin_change(node).unwrap();
        let at = any(1024);
        self.file.write_all_at(b"own", at).unwrap();
        self.contents.grow(at + 3);
        drop(change);
        self.seen.lock().unwrap().own -= 1;
    }

    /// Writes as others do. To be noticed unless it falls between the looks of an own change.
    fn change_behind(&self) {
        let key = self.contents.key();
        let mut seen = self.seen.lock().unwrap();
        seen.others += 1;
        // A key that was given up meanwhile is over just as well.
        if seen.own == 0 {
            seen.over.push(key);
        }
        self.file.write_all_at(b"another's", 0).unwrap();
        touch(&self.file, seen.others);
    }

    /// Changes the length as others do, to one that it never had. To be noticed in any case.
    fn resize_behind(&self) {
        let (key, longer) = (self.contents.key(), any(2) == 0);
        let mut seen = self.seen.lock().unwrap();
        seen.others += 1;
        seen.over.push(key);
        let len = if longer { LEN + seen.others } else { LEN - seen.others };
        self.file.set_len(len).unwrap();
        touch(&self.file, seen.others);
    }

    /// Looks as a reader does: what was over before it looked is over.
    fn look(&self) {
        let over = self.seen.lock().unwrap().over.clone();
        self.contents.revalidate(self.file.as_fd()).unwrap();
        let key = self.contents.key();
        assert!(!over.contains(&key), "{key:?} is still used");
    }
}

type Act = fn(&Changed);

fn race(changed: &Arc<Changed>, threads: &[&[Act]]) {
    let thread = |acts: &[Act]| {
        let (changed, acts) = (changed.clone(), acts.to_vec());
        Box::new(move || acts.iter().for_each(|act| act(&changed))) as Box<dyn FnOnce() + Send>
    };
    all_at_once(threads.iter().map(|acts| thread(acts)).collect());
    changed.look();
    assert_eq!(changed.contents.size(), changed.file.metadata().unwrap().len());
}

#[test]
fn own_changes_that_overlap_keep_the_key() {
    check(|| {
        let (own, look): (Act, Act) = (Changed::change, Changed::look);
        let changed = Changed::new();
        let key = changed.contents.key();
        race(&changed, &[&[own, own], &[own, look], &[look, look, own]]);
        assert_eq!(changed.contents.key(), key);
    });
}

#[test]
fn a_change_by_others_outside_of_own_ones_is_noticed() {
    check(|| {
        let (own, behind, look): (Act, Act, Act) =
            (Changed::change, Changed::change_behind, Changed::look);
        race(&Changed::new(), &[&[own, own], &[own, look], &[behind, behind], &[look, look]]);
    });
}

#[test]
fn a_change_of_length_by_others_is_noticed_whenever_it_comes() {
    check(|| {
        let (own, resize): (Act, Act) = (Changed::change, Changed::resize_behind);
        race(&Changed::new(), &[&[own, own], &[own, own], &[resize, resize]]);
    });
}
