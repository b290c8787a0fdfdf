//! The table of owners, read under one shard's lock while another shard changes it: see
//! `crate::races`.

use std::sync::Arc;

use super::owners::Owners;
use crate::arena::{Arena, SlotId};
use crate::block::{BlockIndex, BlockKey, FileKey};
use crate::races::check_all;

fn key(file: u64, index: u64) -> BlockKey {
    BlockKey { file: FileKey(file), index: BlockIndex(index) }
}

fn slot() -> SlotId {
    let arena = Arena::new(1, 1).expect("memory");
    arena.take(1).pop().expect("a slot").publish().into_slot()
}

#[test]
fn no_mixture_of_two_owners_is_taken_for_a_third() {
    check_all(|| {
        let (owners, slot) = (Arc::new(Owners::new(1)), slot());
        owners.set(slot, key(2, 5));
        let theirs = owners.clone();
        // Other shards' blocks, one after the other: one of the number that is looked for, one of
        // the file that is. Nobody's in between, by `clear` or by `set` alone.
        let others = shuttle::thread::spawn(move || {
            theirs.set(slot, key(1, 7));
            theirs.set(slot, key(2, 5));
            theirs.clear(slot);
            theirs.set(slot, key(1, 7));
        });
        assert!(!owners.holds(slot, key(1, 5)));
        others.join().unwrap();
    });
}
