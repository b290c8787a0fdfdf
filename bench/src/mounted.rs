//! A FUSE mount that a child process serves, and that is gone when the guard is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rustix::mount::{UnmountFlags, unmount};

use crate::daemon::Daemon;
use crate::stop::Stop;

/// A mount and the daemon behind it. Dropping it ends the daemon and unmounts.
pub(crate) struct Mounted {
    daemon: Daemon,
    mountpoint: PathBuf,
}

impl Mounted {
    /// Runs `command`, which mounts at `mountpoint`, and waits until that is done. The directory
    /// is made if need be.
    pub(crate) fn start(
        name: &'static str,
        command: Command,
        mountpoint: &Path,
        stop: &Stop,
    ) -> Result<Self> {
        if !Path::new("/dev/fuse").exists() {
            bail!("this machine has no /dev/fuse; load the module with 'modprobe fuse' as root");
        }
        fs::create_dir_all(mountpoint)
            .with_context(|| format!("cannot make {}", mountpoint.display()))?;
        let mountpoint = fs::canonicalize(mountpoint)?;
        let daemon = Daemon::start(name, command)?;
        let mut mounted = Self { daemon, mountpoint };
        let wanted = mounted.mountpoint.clone();
        mounted.daemon.wait_until(stop, |_| is_mounted(&wanted).then_some(()))?;
        Ok(mounted)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// The process behind it.
    pub(crate) fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.daemon.end();
        // Only where the daemon could not do it itself.
        if is_mounted(&self.mountpoint) {
            let _ = unmount(&self.mountpoint, UnmountFlags::DETACH);
        }
        let _ = fs::remove_dir(&self.mountpoint);
    }
}

/// What is mounted at `path` or below, the innermost last. Asks the kernel's table, not the
/// filesystem: a daemon that hangs must not make us hang. `path` must be canonical.
pub(crate) fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mountpoints = table.lines().filter_map(|line| line.split(' ').nth(4));
    mountpoints.map(|text| PathBuf::from(unescape(text))).filter(|m| m.starts_with(path)).collect()
}

fn is_mounted(path: &Path) -> bool {
    mounts_below(path).iter().any(|found| found == path)
}

/// The kernel writes blanks and backslashes in mountinfo in octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_is_found_and_nothing_else() {
        assert!(is_mounted(Path::new("/proc")));
        assert!(!is_mounted(Path::new("/proc/self")));
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
