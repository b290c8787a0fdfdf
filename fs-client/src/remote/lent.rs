//! What was lent, and to whom: 16 bytes a block.
//!
//! A bounded table that may forget anything at any time: a block that is not in it is read from
//! the source. Each block falls into one set of a few places; the oldest there gives way. An
//! entry is found by a fingerprint of its key, so it may rarely be another block's: then the seal
//! does not open, and it is a miss.

use super::holding::Stay;
use super::seal::SealCount;
use crate::block::BlockKey;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

const WAYS: usize = 8;

/// A server's number has 8 bits.
const SERVERS: usize = 256;

/// So many parts, 4 MiB, are looked at to say who has how many blocks.
const PARTS_LOOKED_AT: usize = 16;

const FREE: RawEntry = [0, 0];
/// A part of 256 KiB under one lock: large enough that the allocator takes it from the kernel,
/// which makes it resident only as it is used.
const SETS_A_PART: usize = 2048;

/// A server of this mount, by its place in the list of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerIndex(pub(super) u8);

/// The bits of a count: 2^48 blocks are an EiB. Above them is the stay, above that the server.
const COUNT_BITS: u32 = 48;

/// Where a block is, and which sealing of it is the valid one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lent {
    pub(super) server: ServerIndex,
    pub(super) count: SealCount,
}

/// All blocks that are believed to be lent.
pub(super) struct LentTable {
    parts: Box<[Mutex<Box<[RawEntry]>>]>,
    held: AtomicUsize,
}

/// The fingerprint (0 is a free place), then server, [`Stay`] and count: 8, 8 and 48 bits.
pub(super) type RawEntry = [u64; 2];

impl LentTable {
    /// A table of about `bytes` bytes, which become resident as they are used.
    pub(super) fn new(bytes: usize) -> Self {
        let entries_a_part = WAYS * SETS_A_PART;
        let parts = (bytes / size_of::<RawEntry>() / entries_a_part).max(1);
        let part = || Mutex::new(vec![FREE; entries_a_part].into_boxed_slice());
        Self { parts: (0..parts).map(|_| part()).collect(), held: AtomicUsize::new(0) }
    }

    /// Where `key` is lent to, as far as is known, and for how long.
    pub(super) fn get(&self, key: BlockKey) -> Option<(Lent, Stay)> {
        if self.held.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.with_set(key, |set, fingerprint| {
            let entry = set.iter().find(|entry| entry[0] == fingerprint)?;
            Some((unpack(*entry), stay(*entry)))
        })
    }

    /// `key` is asked for where it is lent to, which changes its stay there.
    pub(super) fn asks(&self, key: BlockKey, lent: Lent, change: impl FnOnce(Stay) -> Stay) {
        self.with_set(key, |set, fingerprint| {
            let entry = set.iter_mut().find(|entry| entry[0] == fingerprint);
            if let Some(entry) = entry.filter(|entry| unpack(**entry) == lent) {
                let Stay(stay) = change(stay(*entry));
                entry[1] = pack(fingerprint, lent)[1] | u64::from(stay) << COUNT_BITS;
            }
        });
    }

    /// Notes that `key` is lent, if `still` says so while nobody can forget it at the same time.
    pub(super) fn insert_if(&self, key: BlockKey, lent: Lent, still: impl FnOnce() -> bool) {
        self.with_set(key, |set, fingerprint| {
            // Counted before `still` is asked: whoever finds the table empty after that has begun
            // its write before, and `still` says so.
            self.held.fetch_add(1, Ordering::SeqCst);
            if !still() {
                self.held.fetch_sub(1, Ordering::SeqCst);
                return;
            }
            let place = set
                .iter()
                .position(|entry| entry[0] == fingerprint)
                .or_else(|| set.iter().position(|&entry| entry == FREE))
                .unwrap_or_else(|| oldest(set));
            if set[place] != FREE {
                self.held.fetch_sub(1, Ordering::SeqCst);
            }
            set[place] = pack(fingerprint, lent);
        });
    }

    /// Forgets `key`: its block has changed.
    pub(super) fn forget(&self, key: BlockKey) {
        self.forget_if(key, |_| true);
    }

    /// Forgets `key` if it is still lent as `lent` says: it was not there. Says whether it was.
    pub(super) fn forget_this(&self, key: BlockKey, lent: Lent) -> bool {
        self.forget_if(key, |found| found == lent)
    }

    /// All entries, as another table takes them, part by part.
    pub(super) fn entries(&self) -> impl Iterator<Item = Vec<RawEntry>> {
        let is_used = |entry: &&RawEntry| **entry != FREE;
        self.parts.iter().map(move |part| part.lock().iter().filter(is_used).copied().collect())
    }

    /// Takes an entry of an earlier table, if there is room. What it said of its block's stay was said by a clock that is no more.
    pub(super) fn restore(&self, entry: RawEntry) {
        let [fingerprint, _] = entry;
        if fingerprint == 0 {
            return;
        }
        self.with_set_of(fingerprint, |set| {
            if let Some(place) = set.iter().position(|&entry| entry == FREE) {
                let stays = if stay(entry) == Stay::ONE_TURN { 0 } else { Stay::UNTIL_MISSED.0 };
                set[place] = pack(fingerprint, unpack(entry));
                set[place][1] |= u64::from(stays) << COUNT_BITS;
                self.held.fetch_add(1, Ordering::SeqCst);
            }
        });
    }

    /// How many blocks are believed to be lent.
    pub(super) fn len(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// How many of them each server has, by its place in the list: estimated from a few parts of the table.
    pub(super) fn by_server(&self) -> [usize; SERVERS] {
        let mut counts = [0; SERVERS];
        for part in self.parts.iter().step_by(self.parts.len().div_ceil(PARTS_LOOKED_AT)) {
            for entry in part.lock().iter().filter(|entry| **entry != FREE) {
                counts[usize::from(unpack(*entry).server.0)] += 1;
            }
        }
        let seen = counts.iter().sum::<usize>().max(1);
        counts.map(|count| count * self.len() / seen)
    }

    fn forget_if(&self, key: BlockKey, which: impl FnOnce(Lent) -> bool) -> bool {
        if self.held.load(Ordering::SeqCst) == 0 {
            return false;
        }
        self.with_set(key, |set, fingerprint| {
            let found = set.iter_mut().find(|entry| entry[0] == fingerprint);
            let Some(entry) = found.filter(|entry| which(unpack(**entry))) else { return false };
            *entry = FREE;
            self.held.fetch_sub(1, Ordering::SeqCst);
            true
        })
    }

    fn with_set<T>(&self, key: BlockKey, act: impl FnOnce(&mut [RawEntry], u64) -> T) -> T {
        let fingerprint = key.hash().max(1);
        self.with_set_of(fingerprint, |set| act(set, fingerprint))
    }

    fn with_set_of<T>(&self, fingerprint: u64, act: impl FnOnce(&mut [RawEntry]) -> T) -> T {
        let set = fingerprint as usize % (self.parts.len() * SETS_A_PART);
        let mut part = self.parts[set / SETS_A_PART].lock();
        let start = set % SETS_A_PART * WAYS;
        act(&mut part[start..start + WAYS])
    }
}

fn pack(fingerprint: u64, lent: Lent) -> RawEntry {
    debug_assert!(lent.count.0 >> COUNT_BITS == 0, "more than a mount can send");
    [fingerprint, u64::from(lent.server.0) << 56 | lent.count.0]
}

/// Where an entry says that its block is.
pub(super) fn unpack(entry: RawEntry) -> Lent {
    let server = ServerIndex((entry[1] >> 56) as u8);
    Lent { server, count: SealCount(entry[1] & ((1 << COUNT_BITS) - 1)) }
}

/// How long an entry's block stays there.
pub(super) fn stay(entry: RawEntry) -> Stay {
    Stay((entry[1] >> COUNT_BITS) as u8)
}

fn oldest(set: &[RawEntry]) -> usize {
    let by_count = |&(_, entry): &(usize, &RawEntry)| unpack(*entry).count.0;
    set.iter().enumerate().min_by_key(by_count).map_or(0, |(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockIndex, FileKey};

    fn key(n: u64) -> BlockKey {
        BlockKey { file: FileKey(1), index: BlockIndex(n) }
    }

    fn lent(count: u64) -> Lent {
        Lent { server: ServerIndex(3), count: SealCount(count) }
    }

    #[test]
    fn what_is_noted_is_found_until_it_is_forgotten() {
        let table = LentTable::new(1 << 20);
        table.insert_if(key(1), lent(5), || true);
        table.insert_if(key(2), lent(6), || false);
        assert_eq!((table.get(key(1)), table.get(key(2))), (Some((lent(5), Stay::ONE_TURN)), None));
        table.asks(key(1), lent(4), |_| Stay(1));
        table.forget_this(key(1), lent(4));
        assert_eq!(
            table.get(key(1)),
            Some((lent(5), Stay::ONE_TURN)),
            "it was sent anew meanwhile"
        );
        table.asks(key(1), lent(5), |_| Stay(255));
        assert_eq!(table.get(key(1)), Some((lent(5), Stay(255))));
        table.asks(key(1), lent(5), |Stay(before)| Stay(before / 2));
        assert_eq!(table.get(key(1)), Some((lent(5), Stay(127))));
        table.forget(key(1));
        assert_eq!((table.get(key(1)), table.len()), (None, 0));
    }

    #[test]
    fn a_larger_table_takes_the_entries_of_a_smaller_one() {
        let (small, large) = (LentTable::new(0), LentTable::new(4 << 20));
        (1..1000).for_each(|n| small.insert_if(key(n), lent(n), || true));
        small.asks(key(7), lent(7), |_| Stay(9));
        for entry in small.entries().flatten() {
            large.restore(entry);
        }
        assert_eq!(large.len(), small.len());
        assert_eq!(large.get(key(5)), Some((lent(5), Stay::ONE_TURN)));
        assert_eq!(large.get(key(7)), Some((lent(7), Stay::UNTIL_MISSED)), "that clock is no more");
    }

    #[test]
    fn a_full_table_forgets_the_oldest_and_grows_no_more() {
        let table = LentTable::new(0);
        let capacity = WAYS * SETS_A_PART;
        for n in 0..4 * capacity as u64 {
            table.insert_if(key(n), lent(n), || true);
        }
        assert!(table.len() <= capacity);
        assert_eq!(table.by_server()[3], table.len());
        let newest =
            (3 * capacity as u64..4 * capacity as u64).filter(|&n| table.get(key(n)).is_some());
        assert!(newest.count() > capacity / 2);
    }
}
