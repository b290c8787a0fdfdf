//! The three ways to a directory: itself, rampool, libfuse's passthrough.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rampool_protocol::size::ByteSize;

use crate::mounted::Mounted;
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
                let plan = MountPlan {
                    source: &source,
                    name: "mnt-rampool",
                    cache: CACHE,
                    server: None,
                    read_only: false,
                };
                let client = pool.mount(&plan, stop)?;
                Self { path: client.path().to_owned(), _rampool: Some(client), ..bare }
            }
            (Way::Passthrough, Some(program)) => {
                let mountpoint = pool.scratch().join("mnt-passthrough");
                let command = command(program, &source, &mountpoint)?;
                let mounted = Mounted::start("passthrough", command, &mountpoint, stop)?;
                Self { path: mounted.path().to_owned(), _passthrough: Some(mounted), ..bare }
            }
            _ => bare,
        })
    }
}

/// The passthrough program: the one that was named, or what `deploy/passthrough` has built.
pub(super) fn find_passthrough(
    named: Option<&Path>,
    bin_dir: Option<&Path>,
) -> Result<Option<PathBuf>> {
    if let Some(named) = named {
        if !named.is_file() {
            bail!("{} is not there; build it with deploy/passthrough", named.display());
        }
        return Ok(Some(std::fs::canonicalize(named)?));
    }
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let targets = [bin_dir, own.parent()].into_iter().flatten().filter_map(Path::parent);
    let dirs = targets.map(|target| target.join("tools")).chain([PathBuf::from("target/tools")]);
    let files =
        dirs.flat_map(|dir| ["passthrough_hp", "passthrough_ll"].map(|name| dir.join(name)));
    Ok(files.into_iter().find_map(|file| std::fs::canonicalize(file).ok()))
}

/// Both go on in the foreground and change to the root directory, so the paths must be absolute.
fn command(program: &Path, source: &Path, mountpoint: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    if program.ends_with("passthrough_ll") {
        let source = source.to_str().context("the path of --dir must be UTF-8")?;
        let options = format!("default_permissions,clone_fd,timeout=1,cache=never,source={source}");
        command.args(["-f", "-o", &options]).arg(mountpoint);
    } else {
        // With the conditions that deploy/passthrough has compiled in.
        command.args(["--foreground", "--nocache"]).arg(source).arg(mountpoint);
    }
    Ok(command)
}
