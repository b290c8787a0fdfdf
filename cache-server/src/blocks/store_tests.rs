//! The store against a naive model, and its promises at full capacity.

use std::collections::HashMap;

use super::*;
use proptest::prelude::*;
use rampool_protocol::block::SealedBlock;

const MOUNT: MountId = MountId([1; 16]);

#[test]
fn blocks_of_different_mounts_never_meet() {
    let mut store = Store::new(1).unwrap();
    let other = MountId([2; 16]);
    put(&mut store, 5, 1);
    assert_eq!(read(&mut store, other, 5), None);
    store.put(other, &entry(5, 2));
    assert_eq!(read(&mut store, MOUNT, 5), Some(1));
    assert_eq!(read(&mut store, other, 5), Some(2));
}

#[test]
fn segments_are_evicted_oldest_first() {
    let mut store = Store::new(4).unwrap();
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
    let mut store = Store::new(4).unwrap();
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
    let mut store = Store::new(4).unwrap();
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
        let mut store = Store::new(segments).unwrap();
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
    let mut store = Store::new(4).unwrap();
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
        let mut store = Store::new(SEGMENTS).unwrap();
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
            prop_assert!(facts.segments_free + facts.segments_full <= SEGMENTS);
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
    store.put(MOUNT, &entry(id, fill));
}

/// The content of a block, after checking that all of it is there.
fn read(store: &mut Store, mount: MountId, id: u32) -> Option<u8> {
    let mut out = BytesMut::new();
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
    if let Room::Free(segment) = store.segments.room() {
        store.segments.open(segment, 0);
    }
    store.segments.take_slot()
}
