//! What is mounted where, and how to unmount it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
pub(crate) use rustix::mount::UnmountFlags;
use rustix::mount::unmount;

/// Whether a filesystem is mounted at exactly this directory.
pub(crate) fn is_mount_root(path: &Path) -> bool {
    statx(CWD, path, AtFlags::empty(), StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whether the filesystem that is mounted at exactly this directory is one of ours.
pub(crate) fn is_rampool(path: &Path) -> bool {
    let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else { return false };
    let wanted = escaped(path);
    // The last mount at a place covers the others.
    table
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mountpoint = before.split(' ').nth(4)?;
            (mountpoint == wanted).then(|| after.starts_with("fuse.rampool "))
        })
        .next_back()
        .unwrap_or(false)
}

/// The helper that lets ordinary users mount and unmount.
pub(crate) fn fusermount() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/bin", "/usr/bin", "/sbin", "/usr/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|dir| dir.join("fusermount3"))
        .find(|file| file.is_file())
}

/// Unmounts. `flags` as in umount2(2): DETACH takes the mount out of the tree even while files are
/// open on it, FORCE fails the requests that are under way.
///
/// # Errors
/// `BUSY`, `INVAL` (nothing is mounted there), `PERM`.
pub(crate) fn unmount_at(mountpoint: &Path, flags: UnmountFlags) -> Result<(), Errno> {
    match unmount(mountpoint, flags | UnmountFlags::NOFOLLOW) {
        Err(Errno::PERM) => unmount_as_user(mountpoint, flags),
        result => result,
    }
}

/// The path of a mountpoint without symbolic links, for which it is not asked itself: its daemon
/// may be dead.
pub(crate) fn canonical_mountpoint(path: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(std::fs::canonicalize(parent)?.join(name)),
        _ => Ok(absolute),
    }
}

/// By the helper, which knows no force.
fn unmount_as_user(mountpoint: &Path, flags: UnmountFlags) -> Result<(), Errno> {
    let helper = fusermount().ok_or(Errno::PERM)?;
    let mut command = Command::new(helper);
    let lazily = flags.contains(UnmountFlags::DETACH);
    command.arg(if lazily { "-uzq" } else { "-uq" }).arg("--").arg(mountpoint);
    let result = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    match result {
        Ok(status) if status.success() => Ok(()),
        // It does not say why; that files are open is by far the most likely.
        _ => Err(Errno::BUSY),
    }
}

/// A path as `/proc/self/mountinfo` shows it (proc(5)).
fn escaped(path: &Path) -> String {
    path.to_string_lossy()
        .replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012")
}
