//! What is mounted where, and how to unmount it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rampool_cli::mountinfo::{self, escape, unescape};
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
    mounted_type(path).is_some_and(|kind| kind == "fuse.rampool")
}

/// Whether anything is mounted at exactly this directory, for which it is not asked itself.
pub(crate) fn is_mounted(path: &Path) -> bool {
    mounted_type(path).is_some()
}

/// Whether this directory waits for something to be mounted over it.
pub(crate) fn is_automount(path: &Path) -> bool {
    mounted_type(path).is_some_and(|kind| kind == "autofs")
}

fn mounted_type(path: &Path) -> Option<String> {
    let table = mountinfo::table().ok()?;
    let wanted = escape(path);
    let mut mounted = table.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let is_there = before.split(' ').nth(4)? == wanted;
        after.split(' ').next().filter(|_| is_there)
    });
    // The last mount at a place covers the others.
    mounted.next_back().map(str::to_owned)
}

/// Whether a mount of `source` at `mountpoint` would wait for itself: `source` lies on a mount of ours
/// whose own source, or that one's in turn, holds `mountpoint`. Such mounts cannot even be killed.
pub(crate) fn leads_back(source: &Path, mountpoint: &Path) -> bool {
    let Ok(table) = mountinfo::table() else { return false };
    leads_back_in(&table, source, mountpoint)
}

fn leads_back_in(table: &str, source: &Path, mountpoint: &Path) -> bool {
    // On a mount of ours it covers nothing of a source.
    if source_below(table, mountpoint).is_some() {
        return false;
    }
    let mut source = source.to_owned();
    // No chain is longer than the table.
    for _ in table.lines() {
        match source_below(table, &source) {
            Some(next) if mountpoint.starts_with(&next) => return true,
            Some(next) => source = next,
            None => return false,
        }
    }
    false
}

/// A mount.
struct Held {
    mountpoint: PathBuf,
    /// If it is one of ours.
    source: Option<PathBuf>,
}

/// The source of the mount that holds `path`, if that is one of ours.
fn source_below(table: &str, path: &Path) -> Option<PathBuf> {
    held_by(table, path)?.source
}

/// The mount that holds `path`.
fn held_by(table: &str, path: &Path) -> Option<Held> {
    let mut held: Option<Held> = None;
    for line in table.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(mountpoint) = before.split(' ').nth(4).map(unescape) else { continue };
        let depth = |path: &Path| path.components().count();
        // The last mount at a place covers the others.
        let is_nearer =
            held.as_ref().is_none_or(|held| depth(&mountpoint) >= depth(&held.mountpoint));
        if path.starts_with(&mountpoint) && is_nearer {
            let source =
                after.strip_prefix("fuse.rampool ").and_then(|rest| rest.split(' ').next());
            held = Some(Held { source: source.map(unescape), mountpoint });
        }
    }
    held
}

/// Where the mount of ours is that holds `path`, if one does.
pub(crate) fn holding(path: &Path) -> Option<PathBuf> {
    let table = mountinfo::table().ok()?;
    held_by(&table, path).filter(|held| held.source.is_some()).map(|held| held.mountpoint)
}

/// The mounts of ours that there were.
#[derive(Debug)]
pub(crate) struct Ours(String);

impl Ours {
    /// Those that there are.
    pub(crate) fn now() -> Self {
        Self(mountinfo::table().unwrap_or_default())
    }

    /// Whether one holds `path`.
    pub(crate) fn hold(&self, path: &Path) -> bool {
        source_below(&self.0, path).is_some()
    }
}

/// What else is mounted below this directory.
pub(crate) fn below(path: &Path) -> Vec<PathBuf> {
    let table = mountinfo::table().unwrap_or_default();
    let mountpoints = table.lines().filter_map(|line| line.split(' ').nth(4).map(unescape));
    mountpoints.filter(|at| at != path && at.starts_with(path)).collect()
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
    /// More links than the kernel follows.
    const LINKS_MAX: usize = 40;
    let mut path = std::path::absolute(path)?;
    for _ in 0..LINKS_MAX {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { break };
        let found = std::fs::canonicalize(parent)?.join(name);
        match std::fs::read_link(&found) {
            Ok(target) => path = found.with_file_name(target),
            Err(_) => return Ok(found),
        }
    }
    Ok(path)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_would_wait_for_itself_is_seen() {
        let table = "1 0 8:1 / / rw - ext4 /dev/a rw\n\
                     2 1 0:40 / /mnt rw - fuse.rampool /data\\040one rw\n\
                     3 1 0:41 / /far rw - fuse.rampool /mnt/x rw\n\
                     4 1 0:42 / /same rw - fuse.rampool /same rw\n\
                     5 2 0:43 / /mnt/tmp rw - tmpfs none rw\n";
        let back = |source: &str, mountpoint: &str| {
            leads_back_in(table, Path::new(source), Path::new(mountpoint))
        };
        assert!(back("/mnt/x", "/data one/b"));
        assert!(back("/far/y", "/data one/b"), "over two mounts");
        assert!(!back("/mnt/x", "/data one's/b") && !back("/mnt/x", "/elsewhere"));
        assert!(!back("/mnt/tmp/x", "/data one/b"), "another filesystem on the mount");
        assert!(!back("/data one/x", "/data one/b"), "below the mount");
        assert!(!back("/same/x", "/same/x"), "above the mount");
    }
}
