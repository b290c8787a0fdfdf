//! libfuse's example that passes everything on: where it is, and how it is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The passthrough program: the one that was named, or what `deploy/passthrough` has built.
pub(crate) fn find(named: Option<&Path>, bin_dir: Option<&Path>) -> Result<Option<PathBuf>> {
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
pub(crate) fn command(program: &Path, source: &Path, mountpoint: &Path) -> Result<Command> {
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
