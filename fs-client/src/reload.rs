//! A mount's configuration, read again while it is used.

use std::ffi::OsString;

use rampool_cli::config::{Line, Reread};
use rampool_cli::log::Log;
use rampool_cli::service;

use crate::args::{self, Cli};
use crate::failure::Failure;
use crate::filesystem::Filesystem;
use crate::levels_of;
use crate::plan::Values;

/// What can be changed in a running mount, by long names.
const LIVE: [&str; 5] = ["log", "attr-timeout", "entry-timeout", "negative-timeout", "cache"];

/// Reads a mount's configuration again.
pub(crate) struct Reload {
    words: Vec<OsString>,
    log: Log,
    reread: Reread,
}

impl Reload {
    /// Of the mount that was started by `words`, which say `line`.
    pub(crate) fn new(words: Vec<OsString>, line: &Line<Cli>, log: Log) -> Self {
        Self { words, log, reread: Reread::new(&line.matches, &LIVE, "with the next mount") }
    }

    /// Reads it, applies what can be, and says what cannot. Where anything is wrong, all stays as it was.
    pub(crate) fn reload(&mut self, filesystem: &Filesystem) {
        service::reloads();
        if let Err(failure) = self.apply(filesystem) {
            tracing::error!("the old configuration stays: {failure}");
        }
        service::is_ready();
    }

    fn apply(&mut self, filesystem: &Filesystem) -> Result<(), Failure> {
        let line = args::parse(&self.words).map_err(Failure::usage)?;
        let args = args::mount_args(&line)?;
        let values = Values::of(args)?;
        self.log
            .change(&levels_of(line.said.verbose, args.log.as_deref()))
            .map_err(|error| Failure::usage(format!("--log: {error}")))?;
        filesystem.settings.timeouts.set(values.timeouts);
        self.reread.note(&args::definition(), &line.matches);
        Ok(())
    }
}
