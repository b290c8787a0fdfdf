//! The store against a naive model, and its promises at full capacity.

use std::collections::HashMap;

use super::*;
use proptest::prelude::*;
use rampool_protocol::block::SealedBlock;

const MOUNT: MountId = MountId([1; 16]);
const OTHER: MountId = MountId([2; 16]);

/// A store that has admitted [`MOUNT`].
fn store(segments: usize) -> Store {
    let mut store = Store::new(segments).unwrap();
    store.admit(MOUNT, &"vm1".into());
    store
}

#[test]
fn blocks_of_different_mounts_never_meet() {
    let mut store = store(2);
    store.admit(OTHER, &"vm2".into());
    put(&mut store, 5, 1);
    assert_eq!(read(&mut store, OTHER, 5), None);
    assert!(store.put(OTHER, &entry(5, 2)));
    assert_eq!(read(&mut store, MOUNT, 5), Some(1));
    assert_eq!(read(&mut store, OTHER, 5), Some(2));
}

#[test]
fn segments_are_evicted_oldest_first() {
    let mut store = store(4);
    let capacity = 4 * SEGMENT_BLOCKS as u32;
    for id in 0..capacity {
        put(&mut store, id, 0);
    }
    assert_eq!((store.facts().evicted, store.facts().segments_full), (0, 4));
    put(&mut store, capacity, 0);
    assert_eq!(store.facts().evicted, SEGMENT_BLOCKS as u64);
    let gone = (0..capacity).filter(|&id| !known(&store, id)).collect::<Vec<_>>();
    assert_eq!(gone, (0..SEGMENT_BLOCKS as u32).collect::<Vec<_>>());
}

#[test]
fn a_second_chance_is_given_once_and_to_half_a_segment_at_most() {
    let mut store = store(4);
    let segment = SEGMENT_BLOCKS as u32;
    for id in 0..4 * segment {
        put(&mut store, id, 0);
    }
    // All of the first segment is hit, and every other block of the second.
    for id in (0..segment).chain((segment..2 * segment).step_by(2)) {
        assert_eq!(read(&mut store, MOUNT, id), Some(0));
    }
    put(&mut store, 1_000_000, 0);
    assert_eq!(store.facts().second_chances, 256);
    assert!((0..256).all(|id| known(&store, id)) && !known(&store, 256));
    for id in 1_000_001..1_000_256 {
        put(&mut store, id, 0);
    }
    put(&mut store, 2_000_000, 0);
    assert_eq!(store.facts().second_chances, 512);
    for id in segment..2 * segment {
        assert_eq!(known(&store, id), id % 2 == 0);
    }
    // Without another hit, nothing of the first one stays when its turn comes again.
    for id in 3_000_000..3_000_000 + 3 * segment {
        put(&mut store, id, 0);
    }
    assert_eq!(store.facts().second_chances, 512);
    assert!((0..256).all(|id| !known(&store, id)));
}

#[test]
fn hot_blocks_never_keep_new_ones_out() {
    let mut store = store(4);
    for id in 0..20 * SEGMENT_BLOCKS as u32 {
        put(&mut store, id, 0);
        for hot in (0..=id).rev().take(if id % 512 == 0 { 3000 } else { 0 }) {
            read(&mut store, MOUNT, hot);
        }
        assert_eq!(read(&mut store, MOUNT, id), Some(0));
    }
}

#[test]
fn the_index_takes_at_most_forty_bytes_a_block() {
    for segments in [4, 100, 1024] {
        let mut store = store(segments);
        let blocks = segments * SEGMENT_BLOCKS;
        for id in 0..blocks as u32 {
            // One byte is written, not a page: the memory of this test is not the index's.
            let (slot, _) = take(&mut store);
            store.index.insert(store.fingerprint(MOUNT, &key(id)), slot, [0; 16]);
        }
        assert_eq!(store.facts().blocks, blocks);
        let each = store.facts().index_bytes as f64 / blocks as f64;
        println!("{segments} segments: {each:.2} bytes a block");
        assert!(each <= 40.0, "{each} bytes a block");
    }
}

#[test]
fn a_page_that_the_kernel_took_is_a_miss_and_costs_one_block() {
    let mut store = store(4);
    for id in 0..600 {
        put(&mut store, id, 3);
    }
    let slot = store.index.find(store.fingerprint(MOUNT, &key(17))).unwrap();
    store.memory.take(slot);
    for id in 0..600 {
        assert_eq!(read(&mut store, MOUNT, id), (id != 17).then_some(3));
    }
    assert_eq!((store.facts().vanished, store.facts().blocks), (1, 599));
    put(&mut store, 17, 4);
    assert_eq!(read(&mut store, MOUNT, 17), Some(4));
}

#[derive(Clone, Debug)]
enum Op {
    /// So many blocks from this one on, with this content.
    Put(u32, u32, u8),
    Get(u32),
    /// The kernel takes the page of this block.
    Take(u32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let id = 0..4000u32;
    prop::collection::vec(
        prop_oneof![
            3 => (id.clone(), 1..300u32, any::<u8>()).prop_map(|(id, n, fill)| Op::Put(id, n, fill)),
            4 => id.clone().prop_map(Op::Get),
            1 => id.prop_map(Op::Take),
        ],
        1..150,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_get_finds_what_was_put_last_or_nothing(ops in ops()) {
        const SEGMENTS: usize = 4;
        let mut store = store(SEGMENTS);
        let mut model: HashMap<u32, u8> = HashMap::new();
        let mut puts = 0;
        for op in ops {
            match op {
                Op::Put(first, count, fill) => for id in first..first + count {
                    put(&mut store, id, fill);
                    model.insert(id, fill);
                    puts += 1;
                    prop_assert_eq!(read(&mut store, MOUNT, id), Some(fill));
                },
                Op::Get(id) => {
                    let found = read(&mut store, MOUNT, id);
                    prop_assert!(found.is_none() || found == model.get(&id).copied());
                    // Before the first eviction nothing but taken pages is missing.
                    if puts <= SEGMENTS * SEGMENT_BLOCKS {
                        prop_assert_eq!(found, model.get(&id).copied());
                    }
                }
                Op::Take(id) => {
                    if let Some(slot) = store.index.find(store.fingerprint(MOUNT, &key(id))) {
                        store.memory.take(slot);
                        prop_assert_eq!(read(&mut store, MOUNT, id), None);
                    }
                    model.remove(&id);
                }
            }
            let facts = store.facts();
            prop_assert!(facts.blocks <= SEGMENTS * SEGMENT_BLOCKS);
            prop_assert!(facts.segments_full <= facts.segments_in_use && facts.segments_in_use <= SEGMENTS);
        }
        for (&id, &fill) in &model {
            let found = read(&mut store, MOUNT, id);
            prop_assert!(found.is_none() || found == Some(fill));
        }
    }
}

fn key(id: u32) -> RemoteKey {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&id.to_le_bytes());
    RemoteKey(key)
}

/// A block that says throughout which one it is, and with which content.
fn entry(id: u32, fill: u8) -> PutEntry {
    let mut data = [fill; BLOCK_SIZE];
    for word in data.chunks_exact_mut(8) {
        word[..4].copy_from_slice(&id.to_le_bytes());
        word[7] = 0x80;
    }
    PutEntry { key: key(id), block: SealedBlock { tag: [fill; 16], data } }
}

fn put(store: &mut Store, id: u32, fill: u8) {
    assert!(store.put(MOUNT, &entry(id, fill)));
}

/// The content of a block, after checking that all of it is there.
fn read(store: &mut Store, mount: MountId, id: u32) -> Option<u8> {
    let mut out = Vec::new();
    if !store.get(mount, &key(id), &mut out) {
        assert!(out.is_empty());
        return None;
    }
    let fill = out[0];
    assert!(out[..16] == [fill; 16] && out[16..] == entry(id, fill).block.data);
    Some(fill)
}

fn known(store: &Store, id: u32) -> bool {
    store.index.find(store.fingerprint(MOUNT, &key(id))).is_some()
}

fn take(store: &mut Store) -> (SlotId, Option<SegmentId>) {
    if let Room::Free(segment) = store.segments.room(MOUNT) {
        store.segments.open(MOUNT, segment, 0);
    }
    store.segments.take_slot(MOUNT)
}

#[test]
fn memory_goes_back_oldest_first_and_what_is_left_is_found() {
    let mut store = store(8);
    let segment = SEGMENT_BLOCKS as u32;
    for id in 0..6 * segment {
        put(&mut store, id, 1);
    }
    store.allow(2);
    assert_eq!(store.give_back(3), 3);
    assert_eq!(store.give_back(3), 1);
    for id in 0..6 * segment {
        assert_eq!(read(&mut store, MOUNT, id), (id >= 4 * segment).then_some(1));
    }
    assert_eq!(store.facts().given_back, u64::from(4 * segment));
    // Not a page of it stays.
    let present = (0..8).map(|n| store.memory.present(SegmentId::new(n)).unwrap());
    assert_eq!(present.flatten().filter(|&present| present).count(), 2 * SEGMENT_BLOCKS);

    store.allow(0);
    store.give_back(8);
    assert!(!store.put(MOUNT, &entry(1, 1)), "nothing is allowed");
    assert_eq!((store.facts().blocks, store.facts().segments_in_use), (0, 0));
    store.allow(8);
    for id in 0..6 * segment {
        put(&mut store, id, 2);
    }
    assert!((0..6 * segment).all(|id| read(&mut store, MOUNT, id) == Some(2)));
}

#[test]
fn what_the_kernel_took_is_found_without_being_asked_for() {
    let mut store = store(4);
    let segment = SEGMENT_BLOCKS as u32;
    for id in 0..3 * segment {
        put(&mut store, id, 1);
    }
    // All of the first segment, and a page of the second.
    for id in 0..=segment {
        let slot = store.index.find(store.fingerprint(MOUNT, &key(id))).unwrap();
        store.memory.take(slot);
    }
    assert_eq!(store.sweep(4), SEGMENT_BLOCKS + 1);
    let facts = store.facts();
    assert_eq!((facts.vanished, facts.blocks), (513, 2 * SEGMENT_BLOCKS - 1));
    assert_eq!(facts.segments_in_use, 2, "the first can be used again");
    assert_eq!(store.sweep(4), 0);
    assert!((segment + 1..3 * segment).all(|id| read(&mut store, MOUNT, id) == Some(1)));
}

#[test]
fn a_mount_that_left_leaves_nothing() {
    let mut store = store(4);
    store.admit(OTHER, &"vm2".into());
    for id in 0..700 {
        put(&mut store, id, 1);
        assert!(store.put(OTHER, &entry(id, 2)));
    }
    assert_eq!(store.held(OTHER), 2 * super::super::SEGMENT_BYTES);
    store.dismiss(OTHER);
    while !store.tidy(1) {}
    assert_eq!((store.held(OTHER), store.facts().blocks), (0, 700));
    assert!((0..700).all(|id| read(&mut store, MOUNT, id) == Some(1)));
    assert!((0..700).all(|id| read(&mut store, OTHER, id).is_none()));
}

#[test]
fn the_index_shrinks_with_what_is_held() {
    let mut store = store(64);
    let before = store.index.resident();
    for id in 0..64 * SEGMENT_BLOCKS as u32 {
        put(&mut store, id, 1);
    }
    assert!(store.index.resident() - before > 900 << 10);
    store.allow(1);
    store.give_back(64);
    assert!(store.index.resident() - before < 100 << 10);
    assert!((63 * 512..64 * 512).all(|id| read(&mut store, MOUNT, id) == Some(1)));
}

#[test]
fn what_the_kernel_took_of_a_segment_is_not_filled_again_beyond_what_is_allowed() {
    let mut store = store(8);
    let segment = SEGMENT_BLOCKS as u32;
    for id in 0..4 * segment {
        put(&mut store, id, 0);
    }
    // Three quarters of each are taken, and that much less is allowed.
    for slot in (0..4).flat_map(|n| SegmentId::new(n).slots().skip(SEGMENT_BLOCKS / 4)) {
        store.memory.take(slot);
    }
    assert_eq!(store.sweep(8), 4 * SEGMENT_BLOCKS * 3 / 4);
    store.allow(1);
    assert_eq!(store.give_back(8), 0, "no more is there than is allowed");
    for id in 0..3 * segment {
        put(&mut store, 10_000 + id, 1);
        let facts = store.facts();
        let memory = facts.segments_in_use * SEGMENT_BLOCKS - facts.pages_missing;
        assert!(memory < 2 * SEGMENT_BLOCKS, "{memory} pages after {id}");
    }
}

#[test]
fn what_is_kept_survives_and_is_handed_over_again() {
    let mut store = store(4);
    let segment = SEGMENT_BLOCKS as u32;
    for id in 0..2 * segment {
        put(&mut store, id, 7);
    }
    assert_eq!(store.facts().segments_handed_over, 2);
    store.memory.take(SegmentId::new(0).slot(3));
    store.keep(true);
    while !store.change(1) {}
    assert_eq!((store.facts().segments_handed_over, store.facts().pages_missing), (0, 1));
    for id in 2 * segment..3 * segment {
        put(&mut store, id, 7);
    }
    assert_eq!(store.facts().segments_handed_over, 0, "new ones are kept as well");
    store.keep(false);
    while !store.change(1) {}
    assert_eq!(store.facts().segments_handed_over, 3);
    let here = (0..3 * segment).filter(|&id| read(&mut store, MOUNT, id) == Some(7)).count();
    assert_eq!(here, 3 * SEGMENT_BLOCKS - 1);
}
