//! Single flight: a block is brought once, however many ask, and nobody waits for ever.
//!
//! That a reader who joined sees what was acknowledged before it asked is looked at by each read in
//! `blocks.rs`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use shuttle::thread;

use super::world::{Size, World, all_at_once};
use super::{any, check};
use crate::block::{BLOCK_SIZE, BlockIndex, FileKey};
use crate::local::Flights;

const BLOCK: u64 = BLOCK_SIZE as u64;

#[test]
fn no_block_is_brought_by_two_at_a_time() {
    check(|| {
        let flights = Arc::new(Flights::default());
        let bringing = Arc::new(Mutex::new(HashSet::new()));
        let reader = || {
            let (flights, bringing) = (flights.clone(), bringing.clone());
            Box::new(move || {
                for _ in 0..3 {
                    let first = any(3);
                    let blocks: Vec<_> = (first..first + 1 + any(3)).map(BlockIndex).collect();
                    let claim = flights.claim(FileKey(1), &blocks);
                    for &index in claim.led() {
                        assert!(bringing.lock().unwrap().insert(index), "{index:?} twice");
                    }
                    thread::yield_now();
                    for index in claim.led() {
                        bringing.lock().unwrap().remove(index);
                    }
                    claim.wait_for_others();
                }
            }) as Box<dyn FnOnce() + Send>
        };
        all_at_once((0..3).map(|_| reader()).collect());
        let claim = flights.claim(FileKey(1), &(0..6).map(BlockIndex).collect::<Vec<_>>());
        assert_eq!(claim.led().len(), 6, "all have landed");
    });
}

#[test]
fn readers_of_the_same_blocks_read_the_source_once() {
    check(|| {
        let world = World::new(Size { blocks: 3, slots: 16 });
        let reader = |blocks: std::ops::Range<u64>| {
            let (world, handle) = (world.clone(), world.open());
            Box::new(move || world.read(handle, blocks.start * BLOCK..blocks.end * BLOCK))
                as Box<dyn FnOnce() + Send>
        };
        all_at_once(vec![reader(0..2), reader(1..3), reader(0..3)]);
        assert_eq!(world.blocks_from_source(), 3);
        world.assert_settled();
    });
}
