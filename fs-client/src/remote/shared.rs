//! What all parts of the tier use, and what its thread does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use tokio::sync::{Notify, mpsc, watch};

use super::asker::Deadlines;
use super::breaker::Failure;
use super::detour::Detour;
use super::drive::Drive;
use super::keepers::Keepers;
use super::key_file::KeyFile;
use super::lent::{Lent, LentTable};
use super::members::Members;
use super::placement::Candidate;
use super::saved::{Left, State};
use super::seal::{Run, SealCount, Sealer, Secret};
use super::server::Server;
use super::servers::Servers;
use super::worth::PaysAnywhere;
use super::{Offer, UseServers, lent, saved, sender};
use crate::block::BlockKey;
use crate::epochs::Epochs;
use crate::pace::SourcePace;

/// For how long servers are asked to keep the blocks of a mount that may come back.
const KEEP_SECONDS: u32 = 600;

/// The next run of a mount begins its sealings so much later: more than can be on their way while the last writes down
/// where blocks are.
const SEALS_BETWEEN_RUNS: u64 = 1 << 20;

/// What all parts of the tier use.
pub(super) struct Shared {
    pub(super) use_servers: UseServers,
    pub(super) sealer: Sealer,
    /// For how long servers are asked to keep our blocks when we are gone.
    pub(super) keep_seconds: u32,
    pub(super) lent: LentTable,
    pub(super) servers: Servers,
    pub(super) members: Members,
    pub(super) epochs: Arc<Epochs>,
    pub(super) source: SourcePace,
    pub(super) pays_anywhere: PaysAnywhere,
    pub(super) detour: Detour,
    /// A frame can be filled with what is offered.
    pub(super) many_offers: Notify,
    pub(super) deadlines: Deadlines,
    pub(super) drive: Arc<Drive>,
    /// How many blocks were sealed.
    seals: AtomicU64,
    pub(super) counts: Counts,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) sent: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) hedged: AtomicU64,
    pub(super) missed: AtomicU64,
    pub(super) unauthentic: AtomicU64,
}

impl Shared {
    /// With what an earlier run of the mount has left, if there is a key file; and the notes that were left with it.
    pub(super) fn restored(
        use_servers: UseServers,
        table_bytes: usize,
        epochs: Arc<Epochs>,
        key_file: Option<&KeyFile>,
    ) -> (Self, Left) {
        let secret = key_file.map_or_else(Secret::random, |file| file.secret.clone());
        let kept = key_file.and_then(|file| {
            let path = file.state_path();
            let kept = saved::read(&path, &secret.signing_key());
            if let Err(error) = &kept
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(
                    "nothing is found again of what was lent: {}: {error}",
                    path.display()
                );
            }
            kept.ok()
        });
        let (last, mut runs) = match &kept {
            // What was sealed while that was written down has numbers of its own.
            Some((state, _)) => (SealCount(state.last.0 + SEALS_BETWEEN_RUNS), state.runs.clone()),
            None => (SealCount(0), Vec::new()),
        };
        let surplus = (runs.len() + 1).saturating_sub(saved::RUNS_MAX);
        runs.drain(..surplus);
        runs.push(Run::after(last));
        let mut shared = Self::new(use_servers, Sealer::new(&secret, &runs), table_bytes, epochs);
        shared.keep_seconds = if key_file.is_some() { KEEP_SECONDS } else { 0 };
        shared.seals = AtomicU64::new(last.0);
        let Some((State { servers, left, .. }, entries)) = kept else {
            return (shared, Left::default());
        };
        shared.servers.remember(servers);
        for entry in entries.filter(|&entry| lent::unpack(entry).count >= runs[0].from) {
            shared.lent.restore(entry);
        }
        tracing::info!("{} blocks were lent and may be found again", shared.lent.len());
        (shared, left)
    }

    pub(super) fn new(
        use_servers: UseServers,
        sealer: Sealer,
        table_bytes: usize,
        epochs: Arc<Epochs>,
    ) -> Self {
        Self {
            use_servers,
            sealer,
            keep_seconds: 0,
            lent: LentTable::new(table_bytes),
            servers: Servers::default(),
            members: Members::default(),
            epochs,
            source: SourcePace::default(),
            pays_anywhere: PaysAnywhere::new(),
            detour: Detour::new(Instant::now()),
            many_offers: Notify::new(),
            deadlines: Deadlines::new(Instant::now()),
            drive: Arc::default(),
            seals: AtomicU64::new(0),
            counts: Counts::default(),
        }
    }

    /// What the tier's thread does, until told to stop. The tasks of connections end with its runtime.
    pub(super) async fn run(
        self: &Arc<Self>,
        mut keepers: Keepers,
        queue: mpsc::Receiver<Offer>,
        mut stop: watch::Receiver<bool>,
    ) {
        tokio::select! {
            () = sender::run(self, queue) => {}
            () = self.deadlines.keep(|server| self.gave_up(server), || self.drive.catch_up()) => {}
            () = self.keep_noting_what_pays() => {}
            () = keepers.run() => {}
            _ = stop.wait_for(|&stop| stop) => {}
        }
        keepers.end().await;
    }

    /// Where a block is lent to, unless that server was started anew since, or has evicted it.
    pub(super) fn lent(&self, key: BlockKey) -> Option<Lent> {
        let (lent, stay) = self.lent.get(key)?;
        if self.servers.may_hold(lent, stay) {
            return Some(lent);
        }
        self.lent.forget_this(key, lent);
        None
    }

    /// Whether a server has a block already. What one has that is not coming back soon is lent to another.
    pub(super) fn is_held(&self, key: BlockKey) -> bool {
        let now = Instant::now();
        self.lent(key).is_some_and(|lent| {
            let server = self.servers.get(lent.server);
            server.is_some_and(|server| server.is_expected(now))
        })
    }

    /// A server did not answer in time.
    pub(super) fn gave_up(&self, server: &Server) {
        server.failed(Failure::Late, Instant::now());
        self.counts.timeouts.fetch_add(1, Relaxed);
    }

    /// The number of the next sealing.
    pub(super) fn next_seal(&self) -> SealCount {
        SealCount(self.seals.fetch_add(1, Relaxed) + 1)
    }

    /// The number of the last.
    pub(super) fn last_seal(&self) -> SealCount {
        SealCount(self.seals.load(Relaxed))
    }

    /// Servers that can take blocks now.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        self.servers.all().map(|(index, server)| server.candidate(index)).collect()
    }
}
