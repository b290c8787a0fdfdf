//! Where the programs are that are measured: beside this one, or where `--bin-dir` says.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The programs of this build.
pub(crate) struct Binaries {
    /// The client.
    pub(crate) rampool: PathBuf,
    /// The cache server.
    pub(crate) server: PathBuf,
}

impl Binaries {
    /// Finds both.
    pub(crate) fn find(dir: Option<&Path>) -> Result<Self> {
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => {
                let own = std::env::current_exe().context("cannot tell where this program is")?;
                own.parent().unwrap_or(Path::new(".")).to_owned()
            }
        };
        let find = |name: &str| {
            let path = dir.join(name);
            if !path.is_file() {
                bail!(
                    "{name} is not in {}; build it with 'cargo build --release --workspace' \
                     or say where it is with --bin-dir",
                    dir.display()
                );
            }
            Ok(path)
        };
        Ok(Self { rampool: find("rampool")?, server: find("rampool-server")? })
    }
}

/// Runs a command that ends by itself and gives what it printed.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().rev().find(|line| !line.trim().is_empty());
        bail!("{program} failed ({}): {}", output.status, last.unwrap_or("it said nothing"));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed no UTF-8"))
}
