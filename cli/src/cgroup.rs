//! The memory cgroups that this process runs in, from its own up to the root: versions 1 and 2.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::mountinfo::{self, unescape};

/// A memory cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Of the hierarchy.
    pub version: Version,
    dir: PathBuf,
}

/// Which of the kernel's two kinds of cgroups one is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy a controller.
    One,
    /// One hierarchy for all.
    Two,
}

impl Cgroup {
    /// Those of this process, its own first. None where it is in the root, or where cgroups do not
    /// account for memory.
    pub fn own() -> Vec<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let found = find(&read("/proc/self/cgroup"), &mountinfo::table().unwrap_or_default());
        found.into_iter().filter(|cgroup| cgroup.usage().is_ok()).collect()
    }

    /// The most memory that it may use, or beyond which it is slowed down; none without a limit.
    pub fn limit(&self) -> Option<u64> {
        let files: &[&str] = match self.version {
            Version::One => &["memory.limit_in_bytes"],
            Version::Two => &["memory.max", "memory.high"],
        };
        let limits = files.iter().filter_map(|file| number(&self.read(file).ok()?));
        // Version 1 says "no limit" with a number that is larger than any memory.
        limits.filter(|&limit| limit < 1 << 60).min()
    }

    /// The memory that it uses.
    ///
    /// # Errors
    /// Those of reading its file, or it holds no number.
    pub fn usage(&self) -> io::Result<u64> {
        let file = match self.version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        };
        number(&self.read(file)?).ok_or_else(|| io::Error::other(format!("{file} is no number")))
    }

    /// The text of one of its files.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn read(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.dir.join(file))
    }
}

/// A file that is one number. `max` is none.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

impl std::fmt::Display for Cgroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.dir.display())
    }
}

/// From `/proc/self/cgroup`, a line `number:controllers:path` a hierarchy, and
/// `/proc/self/mountinfo`, which says where which part of a hierarchy is mounted.
fn find(cgroups: &str, mounts: &str) -> Vec<Cgroup> {
    let mut one = None;
    let mut two = None;
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) =
            (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if controllers.split(',').any(|controller| controller == "memory") {
            one = Some(path);
        } else if number == "0" && controllers.is_empty() {
            two = Some(path);
        }
    }
    // Where both are there, version 1 has the controller.
    if let Some(path) = one
        && let Some((root, at)) = mounted(mounts, "cgroup", Some("memory"))
    {
        return up_from(Version::One, path, &root, &at);
    }
    if let Some(path) = two
        && let Some((root, at)) = mounted(mounts, "cgroup2", None)
    {
        return up_from(Version::Two, path, &root, &at);
    }
    Vec::new()
}

/// Which part of a hierarchy is mounted, and where.
fn mounted(mounts: &str, kind: &str, option: Option<&str>) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        // Fields: id, parent, device, root, mount point, options, optional ones, -, kind, ...
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let options = (after.next()? == kind).then(|| after.nth(1))??;
        if option.is_some_and(|wanted| !options.split(',').any(|option| option == wanted)) {
            return None;
        }
        let mut before = before.split(' ').skip(3);
        Some((unescape(before.next()?), unescape(before.next()?)))
    })
}

/// The cgroup `path`, and those above it that can be seen.
fn up_from(version: Version, path: &str, root: &Path, at: &Path) -> Vec<Cgroup> {
    // Outside of what is mounted here (another namespace): what is mounted is all that is known.
    let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    let below: PathBuf = if below.components().any(|part| part == Component::ParentDir) {
        PathBuf::new()
    } else {
        below.into()
    };
    // The root of a hierarchy has no limit and no usage of its own: it is the machine.
    below.ancestors().map(|part| Cgroup { version, dir: at.join(part) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_found_from_our_own_upwards() {
        let mounts = "30 29 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      31 29 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let dirs = |cgroups: &str, mounts: &str| -> Vec<String> {
            find(cgroups, mounts).iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            dirs("4:memory:/vm/lender\n0::/\n", mounts),
            [
                "/sys/fs/cgroup/memory/vm/lender",
                "/sys/fs/cgroup/memory/vm",
                "/sys/fs/cgroup/memory/"
            ]
        );
        assert_eq!(
            dirs("1:cpu:/x\n0::/system.slice/r.service\n", mounts),
            [
                "/sys/fs/cgroup/unified/system.slice/r.service",
                "/sys/fs/cgroup/unified/system.slice",
                "/sys/fs/cgroup/unified/"
            ]
        );
        // A container that sees its own part only.
        let inside = "31 29 0:27 /pod/c /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(dirs("0::/pod/c/sub\n", inside), ["/sys/fs/cgroup/sub", "/sys/fs/cgroup/"]);
        assert_eq!(dirs("0::/../elsewhere\n", inside), ["/sys/fs/cgroup/"]);
        let escaped = "31 29 0:27 /a\\134x2db /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(dirs("0::/a\\x2db/c\n", escaped), ["/sys/fs/cgroup/c", "/sys/fs/cgroup/"]);
        assert_eq!(dirs("nonsense", mounts), [""; 0]);
        assert_eq!(dirs("4:memory:/vm\n", ""), [""; 0]);
    }
}
