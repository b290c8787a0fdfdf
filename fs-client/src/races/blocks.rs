//! What is cached against what the source holds: fills, writes, truncation, eviction.
//!
//! In each: a read that begins after a write was acknowledged finds it, and when all is over, every
//! cached block is what the source holds.

use std::sync::Arc;

use rustix::fs::{SealFlags, fcntl_add_seals};

use super::world::{Size, World, all_at_once, memfd};
use super::{any, check};
use crate::actions::call::Deed;
use crate::block::BLOCK_SIZE;
use crate::handles::HandleId;

const BLOCK: u64 = BLOCK_SIZE as u64;

type Act = fn(&World, HandleId);

/// Each thread does its acts one after the other, through a handle of its own.
fn race(world: &Arc<World>, threads: &[&[Act]]) {
    let thread = |acts: &[Act]| {
        let (world, handle, acts) = (world.clone(), world.open(), acts.to_vec());
        Box::new(move || {
            for act in acts {
                act(&world, handle);
            }
        }) as Box<dyn FnOnce() + Send>
    };
    all_at_once(threads.iter().map(|acts| thread(acts)).collect());
    world.assert_settled();
}

/// What is cached when the race begins.
fn warm(world: &World) {
    if any(2) == 0 {
        world.read_anything(world.open());
    }
}

fn read(world: &World, handle: HandleId) {
    world.read_anything(handle);
}

fn write(world: &World, handle: HandleId) {
    world.write_anything(handle);
}

/// A part of a block, which is written into the cached one.
fn write_part(world: &World, handle: HandleId) {
    let from = any(3) * 1024;
    world.write(handle, from..from + 1024);
}

fn write_first_block(world: &World, handle: HandleId) {
    world.write(handle, 0..BLOCK);
}

fn read_first_block(world: &World, handle: HandleId) {
    world.read(handle, 0..BLOCK);
}

fn cut(world: &World, handle: HandleId) {
    world.truncate(handle, any(3) * 1024);
}

fn punch(world: &World, handle: HandleId) {
    world.punch(handle, world.any_range());
}

fn append(world: &World, handle: HandleId) {
    world.append(handle, 1024);
}

fn append_block(world: &World, handle: HandleId) {
    world.append(handle, BLOCK_SIZE);
}

fn write_behind(world: &World, _: HandleId) {
    world.write_behind(world.any_range());
}

fn make_smaller(world: &World, _: HandleId) {
    world.resize(2);
}

fn make_larger(world: &World, _: HandleId) {
    world.resize(6);
}

fn pin(world: &World, handle: HandleId) {
    world.act(handle, Deed::Pin);
}

fn unpin(world: &World, handle: HandleId) {
    world.act(handle, Deed::Unpin);
}

fn drop_cached(world: &World, handle: HandleId) {
    world.act(handle, Deed::Drop);
}

#[test]
fn a_cache_whose_size_changes() {
    check(|| {
        let world = World::new(Size { blocks: 4, slots: 6 });
        warm(&world);
        race(&world, &[&[make_smaller, make_larger], &[read, read], &[write, read]]);
    });
}

#[test]
fn a_cache_that_becomes_smaller_while_blocks_are_lent() {
    check(|| {
        let world = World::with_server(Size { blocks: 4, slots: 6 }, 2);
        warm(&world);
        race(&world, &[&[make_smaller], &[read, read], &[write, read]]);
    });
}

#[test]
fn files_that_are_pinned_let_go_and_dropped() {
    check(|| {
        let world = World::new(Size { blocks: 3, slots: 8 });
        race(&world, &[&[pin, unpin], &[write, drop_cached], &[read, pin, write_part, unpin]]);
    });
}

#[test]
fn a_pinned_file_in_a_cache_that_becomes_smaller() {
    check(|| {
        let world = World::new(Size { blocks: 3, slots: 6 });
        race(&world, &[&[pin, unpin], &[make_smaller, read], &[write, read]]);
        world.act(world.open(), Deed::Unpin);
    });
}

#[test]
fn fills_and_a_writer() {
    check(|| {
        let world = World::new(Size { blocks: 2, slots: 16 });
        warm(&world);
        race(&world, &[&[read, read], &[read, read], &[write, write]]);
    });
}

#[test]
fn one_block_read_and_written() {
    check(|| {
        let world = World::new(Size { blocks: 1, slots: 16 });
        race(&world, &[&[read_first_block, read_first_block], &[write_first_block]]);
    });
}

#[test]
fn writers_that_overlap() {
    check(|| {
        let world = World::new(Size { blocks: 1, slots: 16 });
        warm(&world);
        race(&world, &[&[write_first_block, read], &[write_part, write_part], &[write, read]]);
    });
}

#[test]
fn writers_that_overlap_and_a_small_cache() {
    check(|| {
        let world = World::new(Size { blocks: 3, slots: 2 });
        warm(&world);
        race(&world, &[&[write, read], &[write, write], &[read, read, read]]);
    });
}

#[test]
fn a_cache_that_is_smaller_than_a_read() {
    check(|| {
        let world = World::new(Size { blocks: 4, slots: 3 });
        race(&world, &[&[read, read, read], &[read, read], &[write, read]]);
    });
}

#[test]
fn streams_and_a_writer() {
    check(|| {
        let world = World::new(Size { blocks: 4, slots: 4 });
        let stream: Act = |world, handle| {
            for block in 0..4 {
                world.read(handle, block * BLOCK..(block + 1) * BLOCK);
            }
        };
        race(&world, &[&[stream, stream], &[stream], &[write, write]]);
    });
}

#[test]
fn holes_and_writes() {
    check(|| {
        let world = World::new(Size { blocks: 2, slots: 16 });
        warm(&world);
        race(&world, &[&[punch, read], &[write, read], &[read, read]]);
    });
}

#[test]
fn a_file_that_is_cut_while_it_is_written() {
    check(|| {
        let world = World::new(Size { blocks: 2, slots: 16 });
        warm(&world);
        race(&world, &[&[cut, read], &[write, read], &[read, read]]);
    });
}

#[test]
fn appends_and_truncation() {
    check(|| {
        let world = World::new(Size { blocks: 1, slots: 16 });
        warm(&world);
        // Nobody reads: where what was cut off had been cannot be told afterwards.
        race(&world, &[&[append, append], &[append, append], &[cut, append]]);
    });
}

#[test]
fn appends_and_readers() {
    check(|| {
        let world = World::new(Size { blocks: 1, slots: 16 });
        warm(&world);
        let read: Act = |world, handle| world.read(handle, BLOCK..2 * BLOCK);
        race(&world, &[&[append, append], &[append, append], &[read, read, read]]);
    });
}

#[test]
fn one_append_after_another() {
    check(|| {
        let world = World::new(Size { blocks: 1, slots: 16 });
        let read: Act = |world, handle| world.read(handle, BLOCK..2 * BLOCK);
        race(&world, &[&[append_block], &[append_block, read]]);
    });
}

#[test]
fn changes_behind_the_mount_between_writes() {
    check(|| {
        let world = World::new(Size { blocks: 2, slots: 16 });
        warm(&world);
        race(&world, &[&[write, read, write], &[read, read], &[write_behind, write_behind]]);
    });
}

#[test]
fn changes_behind_the_mount() {
    check(|| {
        let world = World::new(Size { blocks: 2, slots: 16 });
        warm(&world);
        race(&world, &[&[read, read], &[read, read], &[write_behind, write_behind]]);
    });
}

#[test]
fn writes_that_come_out_short() {
    check(|| {
        // The source takes of a write what lies below the file's end.
        let file = memfd();
        let world = World::of(file.try_clone().unwrap(), Size { blocks: 2, slots: 16 });
        fcntl_add_seals(&file, SealFlags::GROW).unwrap();
        warm(&world);
        let beyond: Act = |world, handle| world.write(handle, BLOCK..3 * BLOCK);
        let part: Act = |world, handle| world.write(handle, BLOCK + 1024..2 * BLOCK);
        race(&world, &[&[beyond, read], &[read, part], &[read, read]]);
    });
}

#[test]
fn lent_blocks_and_writes() {
    check(|| {
        let world = World::with_server(Size { blocks: 3, slots: 3 }, 2);
        race(&world, &[&[read, read, read], &[write, write], &[read, write, read]]);
    });
}

#[test]
fn a_block_lent_under_a_new_key_while_it_is_written_under_the_old_one() {
    check(|| {
        let world = World::with_server(Size { blocks: 3, slots: 2 }, 1);
        let write: Act = |world, handle| world.write_while_the_key_changes(handle);
        // Another handle each time, or the reader is one in sequence.
        let others: Act = |world, _| {
            world.read(world.open(), BLOCK..2 * BLOCK);
            world.read(world.open(), 2 * BLOCK..3 * BLOCK);
        };
        let first: Act = |world, _| world.read(world.open(), 0..BLOCK);
        race(&world, &[&[write], &[first, others, first, others, first]]);
    });
}

#[test]
fn one_block_lent_and_written() {
    check(|| {
        let world = World::with_server(Size { blocks: 2, slots: 2 }, 1);
        let second: Act = |world, handle| world.read(handle, BLOCK..2 * BLOCK);
        race(
            &world,
            &[&[read_first_block, second, read_first_block, second], &[write_part, write_part]],
        );
    });
}

#[test]
fn lent_blocks_and_a_file_that_is_cut() {
    check(|| {
        let world = World::with_server(Size { blocks: 2, slots: 2 }, 1);
        race(&world, &[&[read, read, read], &[cut, write], &[write, read]]);
    });
}
