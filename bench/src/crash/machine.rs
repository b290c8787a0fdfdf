//! The daemons: started, killed and started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context as _, Result};
use rampool_cli::size::ByteSize;

use super::tally::Tally;
use crate::pool::{Client, Lender, MountPlan, Pool};
use crate::stop::Stop;

const CACHE: ByteSize = ByteSize::mib(16);
const LEND: ByteSize = ByteSize::mib(256);

/// A pool whose parts may be dead.
pub(super) struct Machine {
    client: Option<Client>,
    lender: Option<Lender>,
    /// Where the server listens, each time.
    address: SocketAddr,
    source: PathBuf,
    pool: Pool,
    /// What the living mount had been counted with.
    counted: (u64, u64),
}

impl Machine {
    /// Starts the server.
    pub(super) fn start(pool: Pool, source: PathBuf, stop: &Stop) -> Result<Self> {
        let lender = pool.lend(LEND, stop)?;
        let address = lender.address;
        Ok(Self { client: None, lender: Some(lender), address, source, pool, counted: (0, 0) })
    }

    /// The directory that is mounted.
    pub(super) fn source(&self) -> &Path {
        &self.source
    }

    /// Where it is mounted; starts what is dead first.
    pub(super) fn mount(&mut self, stop: &Stop) -> Result<PathBuf> {
        if let Some(client) = &self.client {
            return Ok(client.path().to_owned());
        }
        self.start_server(stop)?;
        let plan =
            MountPlan { servers: &[self.address], ..MountPlan::new(&self.source, "mnt", CACHE) };
        let client = self.pool.mount(&plan, stop).context("cannot mount again after the kill")?;
        let path = client.path().to_owned();
        self.client = Some(client);
        self.counted = (0, 0);
        Ok(path)
    }

    /// Starts the server where it was, unless it runs.
    pub(super) fn start_server(&mut self, stop: &Stop) -> Result<()> {
        if self.lender.is_none() {
            let lender = self.pool.lend_at(self.address, LEND, stop);
            self.lender = Some(lender.context("cannot start the server again after the kill")?);
        }
        Ok(())
    }

    /// SIGKILL.
    pub(super) fn kill_server(&mut self, tally: &Tally) -> Result<()> {
        if let Some(mut lender) = self.lender.take() {
            lender.daemon().kill()?;
            tally.server_kills.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// SIGKILL; the dead mount stays.
    pub(super) fn kill_client(&mut self, tally: &Tally) -> Result<()> {
        if let Some(client) = &mut self.client {
            client.daemon().kill()?;
            tally.client_kills.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Unmounts what the killed client left.
    pub(super) fn remove_mount(&mut self) {
        self.client = None;
    }

    /// Adds what the mount has lent and got back to `tally`. A mount that does not answer is
    /// somebody else's finding.
    pub(super) fn note_status(&mut self, tally: &Tally) {
        let Some(Ok(status)) = self.client.as_ref().map(Client::status) else { return };
        let now = (status.remote.sent_blocks, status.layers.remote.reads);
        tally.lent_blocks.fetch_add(now.0.saturating_sub(self.counted.0), Relaxed);
        tally.remote_reads.fetch_add(now.1.saturating_sub(self.counted.1), Relaxed);
        self.counted = now;
    }
}
