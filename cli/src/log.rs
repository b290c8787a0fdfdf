//! Logs: to stderr, as text or as JSON, by levels that can be changed while the program runs.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::filter::EnvFilter;
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

/// A running log.
#[derive(Clone, Debug)]
pub struct Log(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

/// Levels that were not understood.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no level; write error, warn, info, debug or trace, or as for RUST_LOG")]
pub struct LevelError(String);

/// Checks levels as they are written: one for all, or `target=level,...`.
///
/// # Errors
/// They are not understood.
pub fn check(levels: &str) -> Result<(), LevelError> {
    filter(levels).map(drop)
}

impl Log {
    /// Starts the log. `RUST_LOG` goes before `levels`, which must have been checked.
    ///
    /// # Errors
    /// The levels are not understood.
    pub fn start(levels: &str, format: Format) -> Result<Self, LevelError> {
        let wanted = filter(levels)?;
        let from_environment = EnvFilter::try_from_default_env().ok();
        let (filter, handle) = reload::Layer::new(from_environment.unwrap_or(wanted));
        let lines = fmt::layer().with_writer(io::stderr).with_target(false);
        let registry = tracing_subscriber::registry().with(filter);
        match format {
            // Of the journal a line has its time already.
            Format::Text if std::env::var_os("JOURNAL_STREAM").is_some() => {
                registry.with(lines.with_ansi(false).without_time()).init();
            }
            Format::Text => {
                registry.with(lines.with_ansi(io::stderr().is_terminal())).init();
            }
            Format::Json => registry.with(lines.json().flatten_event(true)).init(),
        }
        Ok(Self(handle))
    }

    /// Changes the levels.
    ///
    /// # Errors
    /// They are not understood; the old ones stay.
    pub fn change(&self, levels: &str) -> Result<(), LevelError> {
        let wanted = filter(levels)?;
        // Fails only when the log is gone.
        let _ = self.0.reload(wanted);
        Ok(())
    }
}

fn filter(levels: &str) -> Result<EnvFilter, LevelError> {
    levels.parse().map_err(|_| LevelError(levels.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked_before_they_are_used() {
        for right in ["info", "warn,rampool=debug", "off"] {
            check(right).unwrap();
        }
        let error = check("rampool=loud").unwrap_err().to_string();
        assert!(error.starts_with("'rampool=loud' is no level"), "{error}");
    }
}
