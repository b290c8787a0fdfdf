//! What the memory of a mount is for, and how much there is: as much as it was mounted with, or as `rampool limit` says.

use rampool_cli::cgroup::Cgroup;
use rampool_cli::size::ByteSize;

use crate::block::BLOCK_SIZE;
use crate::filesystem::Filesystem;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The least that a cache is of use with.
pub(crate) const CACHE_MIN: ByteSize = ByteSize::mib(16);

/// A sequential reader is followed at most 1 MiB ahead.
const READAHEAD_BLOCKS_MAX: usize = 256;

/// Part of the cache's size that goes into remembering what was lent: 16 bytes a block, so that
/// some fourteen times the cache can be lent. Of a small cache it is more, up to the part below: enough for 1 GiB.
const LENT_TABLE_SHARE: u64 = 16;
const LENT_TABLE_MIN: u64 = 4 << 20;

/// Part of the cache's blocks that may wait to be sent, and how many may at least, if the cache is not too small for that.
const QUEUE_SHARE: u64 = 32;
const QUEUE_MIN: u64 = 512;

/// The most of a small cache that goes into either.
const SHARE_MAX: u64 = 8;

/// The memory of a mount, by what it is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    /// For remembering what was lent.
    pub(crate) table_bytes: u64,
    /// For blocks, with their index.
    pub(crate) cache_bytes: u64,
    /// Blocks of those that may wait to be sent.
    pub(crate) queue_max: usize,
}

impl Shares {
    /// Of `whole`, for a mount that lends or does not.
    pub(crate) fn of(whole: ByteSize, lends: bool) -> Self {
        let table_bytes =
            if lends { share(whole.bytes(), LENT_TABLE_SHARE, LENT_TABLE_MIN) } else { 0 };
        Self::beside(table_bytes, whole)
    }

    /// Of `whole`, `table_bytes` of which are taken.
    fn beside(table_bytes: u64, whole: ByteSize) -> Self {
        let cache_bytes = whole.bytes().saturating_sub(table_bytes);
        let queue_max = share(cache_bytes / BLOCK_SIZE as u64, QUEUE_SHARE, QUEUE_MIN) as usize;
        Self { table_bytes, cache_bytes, queue_max }
    }
}

/// How much memory a mount uses at present.
#[derive(Debug)]
pub(crate) struct Memory {
    bytes: AtomicU64,
    /// What remembers what was lent stays as it is.
    table_bytes: u64,
    readahead_blocks: AtomicUsize,
}

impl Memory {
    /// `whole`, shared out as `shares` says, with room for so many blocks.
    pub(crate) fn new(whole: ByteSize, shares: &Shares, blocks: usize) -> Self {
        Self {
            bytes: AtomicU64::new(whole.bytes()),
            table_bytes: shares.table_bytes,
            readahead_blocks: AtomicUsize::new(readahead(blocks)),
        }
    }

    /// All of it.
    pub(crate) fn size(&self) -> ByteSize {
        ByteSize(self.bytes.load(Ordering::Relaxed))
    }

    /// The most blocks that are brought in ahead of a sequential reader.
    pub(crate) fn readahead_blocks(&self) -> usize {
        self.readahead_blocks.load(Ordering::Relaxed)
    }
}

impl Filesystem {
    /// Has the mount use `whole` from now on.
    ///
    /// # Errors
    /// In words: it is too little or too much, or there is no memory.
    pub(crate) fn limit(&self, whole: ByteSize) -> Result<(), String> {
        let table = self.memory.table_bytes;
        let least = ByteSize(CACHE_MIN.bytes() + table);
        if whole < least {
            return Err(match table {
                0 => format!("{whole} is too little; at least {least}"),
                _ => format!(
                    "{whole} is too little; at least {least}, as {} remember what is lent, which stays as it was mounted",
                    ByteSize(table)
                ),
            });
        }
        let shares = Shares::beside(table, whole);
        self.cache
            .resize(shares.cache_bytes)
            .map_err(|error| format!("there is no memory for {whole}: {error}"))?;
        self.remote.limit_queue(shares.queue_max);
        let blocks = readahead(self.cache.capacity_blocks());
        self.memory.readahead_blocks.store(blocks, Ordering::Relaxed);
        self.memory.bytes.store(whole.bytes(), Ordering::Relaxed);
        tracing::info!("the cache has {whole} from now on");
        Ok(())
    }
}

fn readahead(blocks: usize) -> usize {
    READAHEAD_BLOCKS_MAX.min(blocks / 64)
}

/// One part in `share` of `whole`, and at least `min`, if `whole` is not too small for that.
fn share(whole: u64, share: u64, min: u64) -> u64 {
    (whole / share).max(min.min(whole / SHARE_MAX))
}

/// How much there is for this process: what the machine has, or what the cgroups around it may use.
pub(crate) fn memory_here() -> ByteSize {
    let info = rustix::system::sysinfo();
    let machine = info.totalram.saturating_mul(u64::from(info.mem_unit));
    let limits = Cgroup::own().into_iter().filter_map(|cgroup| cgroup.limit());
    ByteSize(limits.fold(machine, u64::min))
}

/// The size of a cache for which none is given: a quarter of what there is, up to 1 GiB.
pub(crate) fn cache_default(here: ByteSize) -> ByteSize {
    ByteSize(here.bytes() / 4).clamp(CACHE_MIN, ByteSize::mib(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cache_spends_more_on_what_is_lent_but_never_too_much() {
        let table = |cache: u64| Shares::of(ByteSize(cache), true).table_bytes;
        assert_eq!(table(1 << 30), 64 << 20);
        assert_eq!(table(32 << 20), 4 << 20);
        assert_eq!(table(1 << 20), 128 << 10);
        assert_eq!(Shares::of(ByteSize(1 << 30), false).table_bytes, 0);
        assert_eq!(cache_default(ByteSize::mib(512)), ByteSize::mib(128));
        assert_eq!(cache_default(ByteSize::mib(64 << 10)), ByteSize::mib(1024));
        let queue = |blocks: u64| share(blocks, QUEUE_SHARE, QUEUE_MIN);
        assert_eq!([queue(1 << 18), queue(7168), queue(256)], [8192, 512, 32]);
    }
}
