//! A mount's configuration, read again while it is used.

use std::ffi::OsString;

use rampool_cli::log::Log;
use rampool_cli::service;

use crate::args::Line;
use crate::failure::Failure;
use crate::filesystem::Filesystem;
use crate::levels_of;
use crate::plan::check_timeouts;

/// What can be changed in a running mount, by long names.
const LIVE: [&str; 5] = ["log", "attr-timeout", "entry-timeout", "negative-timeout", "cache"];

/// Reads a mount's configuration again.
pub(crate) struct Reload {
    words: Vec<OsString>,
    log: Log,
    /// What holds now.
    line: Line,
}

impl Reload {
    /// Of the mount that was started by `words`, which say `line`.
    pub(crate) fn new(words: Vec<OsString>, line: Line, log: Log) -> Self {
        Self { words, log, line }
    }

    /// Reads it, applies what can be, and says what cannot. Where anything is wrong, all stays as it was.
    pub(crate) fn reload(&mut self, filesystem: &Filesystem) {
        service::reloads();
        match self.apply(filesystem) {
            Ok(()) => {}
            Err(failure) => tracing::error!("the old configuration stays: {failure}"),
        }
        service::is_ready();
    }

    fn apply(&mut self, filesystem: &Filesystem) -> Result<(), Failure> {
        let line = Line::parse(&self.words).map_err(Failure::usage)?;
        let differences = self.line.differences(&line);
        let args = line.mount_args()?;
        let timeouts = check_timeouts(args)?;
        self.log
            .change(&levels_of(line.cli.verbose, args.log.as_deref()))
            .map_err(|error| Failure::usage(format!("--log: {error}")))?;
        filesystem.settings.timeouts.set(timeouts);
        let (live, later): (Vec<_>, Vec<_>) =
            differences.into_iter().partition(|name| LIVE.contains(&&**name));
        if live.is_empty() {
            tracing::info!("read the configuration again: nothing to change");
        } else {
            tracing::info!("read the configuration again, and changed {}", live.join(", "));
        }
        if !later.is_empty() {
            tracing::warn!("{} will change with the next mount", later.join(", "));
        }
        // What waits for the next mount is to be told each time.
        if later.is_empty() {
            self.line = line;
        }
        Ok(())
    }
}
