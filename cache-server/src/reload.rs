//! The configuration, read again while the server runs.

use std::ffi::OsString;
use std::sync::Arc;

use anyhow::bail;
use rampool_cli::log::Log;
use rampool_cli::service as manager;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::args::{Line, Task};
use crate::lend::{Lender, Limit};
use crate::serve::Service;

/// What can be changed in a running server, by long names.
const LIVE: [&str; 6] =
    ["log", "lend-max", "keep-free", "resume-after", "detector", "max-per-client"];

/// Reads the configuration again.
#[derive(Debug)]
pub(crate) struct Reload {
    words: Vec<OsString>,
    log: Log,
    /// What holds now.
    line: Line,
}

/// What is changed.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) lender: Arc<Lender>,
    pub(crate) service: Arc<Service>,
    /// There is room for so much.
    pub(crate) limit: Limit,
}

impl Reload {
    /// Of the server that was started by `words`, which say `line`.
    pub(crate) fn new(words: Vec<OsString>, line: Line, log: Log) -> Self {
        Self { words, log, line }
    }

    /// Reads it at each SIGHUP, for ever.
    pub(crate) async fn keep(mut self, running: Running) {
        let Ok(mut asked) = signal(SignalKind::hangup()) else { return };
        while asked.recv().await.is_some() {
            manager::reloads();
            if let Err(why) = self.apply(&running) {
                error!("the old configuration stays: {why:#}");
            }
            manager::is_ready();
        }
    }

    fn apply(&mut self, running: &Running) -> anyhow::Result<()> {
        let line = Line::parse(&self.words)?;
        let Task::Serve(settings) = line.resolve()? else { bail!("it serves nothing") };
        self.log.change(&settings.log)?;
        let room = running.limit.size();
        if let Some(mut policy) = settings.policy {
            if policy.lend_max > room.bytes() {
                warn!("lend-max: there is room for {room} until the server is started again");
                policy.lend_max = room.bytes();
            }
            running.lender.change(policy);
        }
        let client_max = settings.client_max.unwrap_or(u64::MAX);
        running.service.state().store.limit_clients(client_max);
        let differences = self.line.differences(&line);
        let (live, later): (Vec<_>, Vec<_>) =
            differences.into_iter().partition(|name| LIVE.contains(&&**name));
        if live.is_empty() {
            info!("read the configuration again: nothing to change");
        } else {
            info!("read the configuration again, and changed {}", live.join(", "));
        }
        match later.is_empty() {
            true => self.line = line,
            // It is to be told each time.
            false => warn!("{} will change when the server is started again", later.join(", ")),
        }
        Ok(())
    }
}
