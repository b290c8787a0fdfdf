//! How the program ends when it cannot do what it was told: one line, and mount(8)'s exit code.

use std::fmt;
use std::process::ExitCode;

/// Why, and with which code.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
}

/// The exit codes of mount(8) that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Incorrect invocation or permissions.
    Usage = 1,
    /// No memory, no more threads, no runtime.
    System = 2,
    /// The mount failed.
    Mount = 32,
}

impl Failure {
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Usage, message: message.to_string() }
    }

    pub(crate) fn system(message: impl fmt::Display) -> Self {
        Self { kind: Kind::System, message: message.to_string() }
    }

    pub(crate) fn mount(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Mount, message: message.to_string() }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::usage(format!("{error:#}"))
    }
}
