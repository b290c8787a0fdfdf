//! Logs: to stderr, as text or as JSON, by levels that can be changed while the program runs.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How each line of the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs, an object each
    Json,
}

/// Where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To stderr, which may be a terminal, or the journal of a service.
    Stderr,
    /// To stderr, which becomes the journal once the program runs in the background.
    Background,
}

/// A running log.
#[derive(Clone, Debug)]
pub struct Log {
    /// None where `RUST_LOG` says what is logged.
    filter: Option<reload::Handle<EnvFilter, tracing_subscriber::Registry>>,
}

/// Levels that were not understood.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{0}' is no level; write error, warn, info, debug, trace or off, or TARGET=LEVEL,... as for RUST_LOG"
)]
pub struct LevelError(String);

/// Checks levels as they are written: one for all, or `target=level,...`.
///
/// # Errors
/// They are not understood.
pub fn check(levels: &str) -> Result<(), LevelError> {
    filter(levels).map(drop)
}

impl Log {
    /// Starts the log. `RUST_LOG` goes before `levels`.
    ///
    /// # Errors
    /// The levels are not understood.
    pub fn start(levels: &str, format: Format, target: Target) -> Result<Self, LevelError> {
        let wanted = filter(levels)?;
        let from_environment = EnvFilter::try_from_default_env().ok();
        let is_changeable = from_environment.is_none();
        let (filter, handle) = reload::Layer::new(from_environment.unwrap_or(wanted));
        let lines = fmt::layer().with_writer(io::stderr).with_target(false);
        // It would say on stderr that stderr cannot be written to, and panic.
        let lines = lines.log_internal_errors(false);
        let registry = tracing_subscriber::registry().with(filter);
        match format {
            // Of the journal a line has its time already.
            Format::Text if target == Target::Background || is_journal(io::stderr()) => {
                registry.with(lines.with_ansi(false).without_time()).init();
            }
            Format::Text => {
                registry.with(lines.with_ansi(io::stderr().is_terminal())).init();
            }
            Format::Json => registry.with(lines.json().flatten_event(true)).init(),
        }
        Ok(Self { filter: Some(handle).filter(|_| is_changeable) })
    }

    /// Changes the levels, unless `RUST_LOG` has said them.
    ///
    /// # Errors
    /// They are not understood; the old ones stay.
    pub fn change(&self, levels: &str) -> Result<(), LevelError> {
        let wanted = filter(levels)?;
        if let Some(filter) = &self.filter {
            // Fails only when the log is gone.
            let _ = filter.reload(wanted);
        }
        Ok(())
    }
}

fn filter(levels: &str) -> Result<EnvFilter, LevelError> {
    let refuse = || LevelError(levels.to_owned());
    // A word alone would be taken for a target of which all is logged, and of the others nothing.
    let is_unknown = |part: &str| {
        part.is_empty()
            || !part.contains(['=', '[', ']', '{', '}']) && part.parse::<LevelFilter>().is_err()
    };
    if levels.split(',').any(is_unknown) {
        return Err(refuse());
    }
    levels.parse().map_err(|_| refuse())
}

/// Whether it leads to the journal, as systemd.exec(5) says how to find out.
fn is_journal(stderr: impl AsFd) -> bool {
    let (Ok(said), Ok(found)) = (std::env::var("JOURNAL_STREAM"), rustix::fs::fstat(stderr)) else {
        return false;
    };
    said == format!("{}:{}", found.st_dev, found.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked_before_they_are_used() {
        for right in ["info", "warn,rampool=debug", "off"] {
            check(right).unwrap();
        }
        for wrong in ["rampool=loud", "loud", "warning", "info,rampool", ""] {
            let error = check(wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{wrong}' is no level")), "{error}");
        }
    }
}
