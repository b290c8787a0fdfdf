//! The configuration, read again while the server runs.

use std::ffi::OsString;
use std::sync::Arc;

use anyhow::bail;
use rampool_cli::config::{Line, Reread};
use rampool_cli::log::Log;
use rampool_cli::service as manager;
use tokio::signal::unix::Signal;
use tracing::{error, warn};

use crate::args::{self, Args, Task};
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
    reread: Reread,
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
    pub(crate) fn new(words: Vec<OsString>, line: &Line<Args>, log: Log) -> Self {
        Self {
            words,
            log,
            reread: Reread::new(&line.matches, &LIVE, "when the server is started again"),
        }
    }

    /// Reads it each time it is `asked` to, for ever.
    pub(crate) async fn keep(mut self, mut asked: Signal, running: Running) {
        while asked.recv().await.is_some() {
            manager::reloads();
            if let Err(why) = self.apply(&running) {
                error!("the old configuration stays: {why:#}");
            }
            manager::is_ready();
        }
    }

    fn apply(&mut self, running: &Running) -> anyhow::Result<()> {
        let line = args::parse(&self.words)?;
        let Task::Serve(settings) = line.said.clone().resolve()? else {
            bail!("it serves nothing")
        };
        self.log.change(&settings.log)?;
        let room = running.limit.size();
        if settings.limit.size() > room {
            warn!("lend-max: there is room for {room} until the server is started again");
        }
        let limit = settings.limit.size().min(room).bytes();
        if let Some(mut policy) = settings.policy {
            policy.lend_max = limit;
            running.lender.change(policy);
        }
        let client_max = settings.client_max.map_or(u64::MAX, |share| share.of(limit));
        running.service.state().store.limit_clients(client_max);
        self.reread.note(&args::definition(), &line.matches);
        Ok(())
    }
}
