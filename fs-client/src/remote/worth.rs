//! What is worth lending, by what was measured.
//!
//! What streams pass over is lent where a server's long reads are faster than the source's, other blocks while short
//! reads do not go round a server. Of what is not worth it a small part is lent all the same: else nobody would know
//! when it is.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use super::lent::ServerIndex;
use super::{Shared, UseServers};
use crate::block::{BlockIndex, BlockKey};
use crate::pace::RUN_BLOCKS;

/// Of what is not worth lending, one stretch in so many is lent.
const SAMPLED_STRETCHES: u64 = 32;

/// It is found out so often whether lending pays anywhere.
const NOTE_EVERY: Duration = Duration::from_millis(200);

/// Whether some server is worth lending to: a note for those who offer, again and again.
pub(super) struct PaysAnywhere {
    /// What streams pass over.
    streamed: AtomicBool,
    /// Other blocks.
    others: AtomicBool,
}

impl PaysAnywhere {
    /// What is believed before anything was measured.
    pub(super) fn new() -> Self {
        Self { streamed: AtomicBool::new(false), others: AtomicBool::new(true) }
    }

    fn of(&self, streamed: bool) -> &AtomicBool {
        if streamed { &self.streamed } else { &self.others }
    }
}

impl Shared {
    /// Whether a block is worth being offered to servers.
    pub(super) fn is_worth_offering(&self, key: BlockKey, streamed: bool) -> bool {
        self.pays_anywhere.of(streamed).load(Relaxed)
            || self.use_servers == UseServers::Always
            || is_sampled(key)
    }

    /// Whether more than samples is lent, to anybody.
    pub(super) fn pays(&self) -> bool {
        let pays = |streamed| self.pays_anywhere.of(streamed).load(Relaxed);
        self.use_servers == UseServers::Always || pays(true) || pays(false)
    }

    /// Whether a block is worth sending to this server.
    pub(super) fn is_worth_sending(
        &self,
        server: ServerIndex,
        key: BlockKey,
        streamed: bool,
    ) -> bool {
        let server = self.servers.get(server);
        let pays = || server.is_some_and(|server| server.pays(streamed, &self.source));
        self.use_servers == UseServers::Always || pays() || is_sampled(key)
    }

    /// Notes for ever whether lending pays anywhere.
    pub(super) async fn keep_noting_what_pays(&self) {
        loop {
            self.note_what_pays();
            tokio::time::sleep(NOTE_EVERY).await;
        }
    }

    fn note_what_pays(&self) {
        for streamed in [true, false] {
            let pays = self.servers.all().any(|(_, server)| server.pays(streamed, &self.source));
            self.pays_anywhere.of(streamed).store(pays, Relaxed);
        }
    }
}

/// Whether a block is lent although it does not pay: in stretches, which streams read at once.
fn is_sampled(key: BlockKey) -> bool {
    let stretch = BlockIndex(key.index.0 / RUN_BLOCKS as u64);
    BlockKey { index: stretch, ..key }.hash().is_multiple_of(SAMPLED_STRETCHES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::FileKey;
    use crate::epochs::Epochs;
    use crate::remote::ServerAddress;
    use crate::remote::seal::{Run, SealCount, Sealer, Secret};
    use std::sync::Arc;
    use std::time::Instant;

    fn key(stretch: u64, block: u64) -> BlockKey {
        let index = BlockIndex(stretch * RUN_BLOCKS as u64 + block);
        BlockKey { file: FileKey(7), index }
    }

    fn shared(use_servers: UseServers) -> Shared {
        let sealer = Sealer::new(&Secret::random(), &[Run::after(SealCount(0))]);
        Shared::new(use_servers, sealer, 0, Arc::new(Epochs::new()))
    }

    #[test]
    fn a_small_part_is_sampled_and_always_whole_stretches() {
        const STRETCHES: u64 = 32_000;
        let mut sampled = 0;
        for stretch in 0..STRETCHES {
            let first = is_sampled(key(stretch, 0));
            assert!((1..RUN_BLOCKS as u64).all(|n| is_sampled(key(stretch, n)) == first));
            sampled += u64::from(first);
        }
        // Four times the standard deviation of a fair sample.
        assert!(sampled.abs_diff(STRETCHES / SAMPLED_STRETCHES) < 125, "{sampled}");
    }

    /// Whether blocks that streams have passed over are worth lending, when long reads have taken so long.
    fn is_worth_where(server_ms: u64, source_ms: u64) -> impl Fn(BlockKey, bool) -> bool {
        let shared = shared(UseServers::Auto);
        let address = ServerAddress { shown: "it".to_owned(), found: ([127, 0, 0, 1], 1).into() };
        let (index, server, _inbox) = shared.servers.add(address, SealCount(0)).unwrap();
        for _ in 0..1_000 {
            let now = Instant::now();
            server.answered(RUN_BLOCKS, Duration::from_millis(server_ms), now);
            shared.source.note(RUN_BLOCKS, now - Duration::from_millis(source_ms));
        }
        shared.note_what_pays();
        move |key, streamed| {
            let sent = shared.is_worth_sending(index, key, streamed);
            assert_eq!(shared.is_worth_offering(key, streamed), sent);
            sent
        }
    }

    #[test]
    fn what_streams_pass_over_is_lent_where_long_reads_are_faster_than_the_source() {
        let find = |wanted| (0..).map(|n| key(n, 0)).find(|&key| is_sampled(key) == wanted);
        let (sampled, ordinary) = (find(true).unwrap(), find(false).unwrap());
        let slow = is_worth_where(40, 10);
        assert!(!slow(ordinary, true) && slow(sampled, true));
        assert!(slow(ordinary, false), "short reads were not measured");
        assert!(is_worth_where(10, 40)(ordinary, true));
    }

    #[test]
    fn nothing_is_measured_where_servers_are_always_used() {
        let always = shared(UseServers::Always);
        assert!(always.is_worth_offering(key(1, 0), true));
        assert!(always.is_worth_sending(ServerIndex(0), key(1, 0), true));
    }
}
