//! The three ways to a directory: itself, rampool, libfuse's passthrough.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rampool_cli::size::ByteSize;

use crate::mounted::Mounted;
use crate::passthrough;
use crate::pool::{Client, MountPlan, Pool};
use crate::stop::Stop;

const CACHE: ByteSize = ByteSize::mib(1024);

/// One of the ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Source,
    Rampool,
    Passthrough,
}

/// A way that is open. Dropping it unmounts.
pub(super) struct Side {
    pub(super) way: Way,
    /// Where to work.
    pub(super) path: PathBuf,
    _rampool: Option<Client>,
    _passthrough: Option<Mounted>,
}

impl Way {
    /// Its column.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Rampool => "rampool",
            Self::Passthrough => "passthrough",
        }
    }
}

impl Side {
    /// Opens the way to a directory of its own. `passthrough` is the program for that way.
    pub(super) fn open(
        way: Way,
        pool: &Pool,
        passthrough: Option<&Path>,
        stop: &Stop,
    ) -> Result<Self> {
        let source = pool.scratch().join(&format!("source-{}", way.name()));
        std::fs::create_dir_all(&source)?;
        let bare = Self { way, path: source.clone(), _rampool: None, _passthrough: None };
        Ok(match (way, passthrough) {
            (Way::Rampool, _) => {
                let client = pool.mount(&MountPlan::new(&source, "mnt-rampool", CACHE), stop)?;
                Self { path: client.path().to_owned(), _rampool: Some(client), ..bare }
            }
            (Way::Passthrough, Some(program)) => {
                let mountpoint = pool.scratch().join("mnt-passthrough");
                let command = passthrough::command(program, &source, &mountpoint)?;
                let mounted = Mounted::start("passthrough", command, &mountpoint, stop)?;
                Self { path: mounted.path().to_owned(), _passthrough: Some(mounted), ..bare }
            }
            _ => bare,
        })
    }
}
