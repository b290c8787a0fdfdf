//! What a suite is: cases by name, each with what became of it at one place.

use std::time::Duration;

use anyhow::Result;

use super::site::Site;
use crate::progress::Progress;
use crate::stop::Stop;
use crate::tool::Need;

/// A set of cases that can be run at any place that claims to be a filesystem.
pub(super) trait Suite {
    /// As it is named on the command line.
    fn name(&self) -> &'static str;
    /// The programs it cannot do without.
    fn needs(&self) -> Vec<Need>;
    /// Whether it is worth running with a server that lends memory, too.
    fn with_server(&self) -> bool {
        false
    }
    /// Runs all cases at a place. An error is one of the harness; what the tools find fault with
    /// is a case that failed.
    fn run(&self, site: &mut Site<'_>, scene: &Scene<'_>) -> Result<Vec<Case>>;
}

/// What every suite is given besides its place.
pub(super) struct Scene<'a> {
    /// Minutes, not an hour.
    pub(super) quick: bool,
    pub(super) progress: &'a Progress,
    pub(super) stop: &'a Stop,
}

/// Where the cases of a suite are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The source itself: what is right.
    Source,
    /// Through a mount.
    Mount,
    /// Through a mount that lends what it evicts to a server.
    MountWithServer,
}

impl Side {
    /// For people.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Mount => "mount",
            Self::MountWithServer => "mount + server",
        }
    }
}

/// A case, and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) verdict: Verdict,
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    /// With what the tool said about it.
    Failed(String),
    /// With the reason.
    Skipped(String),
    /// No right or wrong of its own: it must say the same at all places.
    Says(String),
}

impl Case {
    /// A case that passed.
    pub(super) fn passed(name: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Passed }
    }

    /// A case that failed.
    pub(super) fn failed(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Failed(why.into()) }
    }

    /// A case that did not apply.
    pub(super) fn skipped(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Skipped(why.into()) }
    }

    /// Passed, or failed with the reason that is given.
    pub(super) fn of(name: impl Into<String>, result: std::result::Result<(), String>) -> Self {
        match result {
            Ok(()) => Self::passed(name),
            Err(why) => Self::failed(name, why),
        }
    }
}

/// What a suite brought at one place.
pub(super) struct Ran {
    pub(super) cases: Vec<Case>,
    pub(super) elapsed: Duration,
}
