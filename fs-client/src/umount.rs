//! `rampool umount`.

use std::path::Path;
use std::time::Duration;

use rampool_cli::daemon::Daemon;
use rustix::io::Errno;

use crate::failure::Failure;
use crate::holders;
use crate::mounts::{self, UnmountFlags};
use crate::status;

/// A daemon whose mount is gone has this long to end. It writes down where its lent blocks are.
const DAEMON_ENDS: Duration = Duration::from_secs(30);

/// Unmounts, and waits until the daemon has ended, unless files may still be open on it.
///
/// # Errors
/// Nothing is mounted there, or somebody uses it, or it is not this user's.
pub(crate) fn umount(mountpoint: &Path, flags: UnmountFlags) -> Result<(), Failure> {
    let found = mounts::canonical_mountpoint(mountpoint);
    let daemon = found.as_ref().ok().and_then(|path| Daemon::at(&status::socket_path(path)).ok());
    let at = found.as_deref().unwrap_or(mountpoint);
    mounts::unmount_at(at, flags).map_err(|error| {
        let why = match error {
            Errno::INVAL => nothing(at),
            Errno::BUSY => match &found {
                Ok(path) if !mounts::is_mounted(path) => nothing(path),
                Ok(path) => {
                    let holders = holders::of(path, daemon.as_ref().map(Daemon::pid));
                    format!("{holders} (see --lazy)")
                }
                Err(error) => format!("files are open on it: {error}"),
            },
            Errno::PERM => "it is not yours".to_owned(),
            other => std::io::Error::from(other).to_string(),
        };
        Failure::mount(format!("cannot unmount {}: {why}", mountpoint.display()))
    })?;
    let Some(daemon) = daemon.filter(|_| !flags.contains(UnmountFlags::DETACH)) else {
        return Ok(());
    };
    match daemon.wait(Some(DAEMON_ENDS)) {
        Ok(true) => {}
        Ok(false) => rampool_cli::say!(
            "rampool: {} is unmounted; its daemon (pid {}) has not ended yet",
            mountpoint.display(),
            daemon.pid()
        ),
        Err(error) => tracing::debug!(%error, "the daemon is not waited for"),
    }
    Ok(())
}

/// That nothing is mounted at `path`, and what mount of ours holds it.
fn nothing(path: &Path) -> String {
    let holding = mounts::holding(path);
    let holding = holding.map(|at| format!("; it lies on the mount at {}", at.display()));
    format!("nothing is mounted there{}", holding.unwrap_or_default())
}
