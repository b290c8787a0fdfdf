//! A mount's configuration, read again while it is used.

use std::ffi::OsString;

use rampool_cli::config::{Line, Reread};
use rampool_cli::log::{self, Log};
use rampool_cli::service;
use rampool_cli::size::ByteSize;

use crate::args::{self, Cli};
use crate::failure::Failure;
use crate::filesystem::Filesystem;
use crate::levels_of;
use crate::plan::Values;

/// What can be changed in a running mount, by long names.
const LIVE: [&str; 8] = [
    "log",
    "attr-timeout",
    "entry-timeout",
    "negative-timeout",
    "cache",
    "cache-size",
    "include",
    "exclude",
];

/// Reads a mount's configuration again.
pub(crate) struct Reload {
    words: Vec<OsString>,
    log: Log,
    reread: Reread,
    /// As the configuration has it, whatever `rampool limit` said since.
    cache: ByteSize,
}

impl Reload {
    /// Of the mount that was started by `words`, which say `line`, with a cache of this size.
    pub(crate) fn new(words: Vec<OsString>, line: &Line<Cli>, log: Log, cache: ByteSize) -> Self {
        Self { words, log, reread: Reread::new(&line.matches, &LIVE, "with the next mount"), cache }
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
        let levels = levels_of(line.said.verbose, args.log.as_deref());
        let refuse = |error| Failure::usage(format!("--log: {error}"));
        log::check(&levels).map_err(refuse)?;
        if values.cache != self.cache {
            filesystem
                .limit(values.cache)
                .map_err(|why| Failure::usage(format!("--cache-size: {why}")))?;
            self.cache = values.cache;
        }
        self.log.change(&levels).map_err(refuse)?;
        filesystem.settings.timeouts.set(values.timeouts);
        filesystem.rules.set(values.patterns);
        self.reread.note(&args::definition(), &line.matches);
        Ok(())
    }
}
