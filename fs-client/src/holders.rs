//! Who holds a mount: processes with files of it open, and mounts on it.
//!
//! Only what the kernel knows is looked at, never a file: the daemon behind the mount may not answer.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::mounts;

/// So many are named.
const NAMED_MAX: usize = 4;

/// Who keeps a mount from being unmounted, as far as this user may know.
pub(crate) struct Holders(Vec<Holder>);

enum Holder {
    Process { name: String, pid: u32, what: What },
    Mount(PathBuf),
}

enum What {
    File(PathBuf),
    Mapping(PathBuf),
    Directory,
}

/// All who hold what is mounted at `mountpoint`, without symbolic links. Its `daemon` has the directory below it open.
pub(crate) fn of(mountpoint: &Path, daemon: Option<u32>) -> Holders {
    let mut holders: Vec<_> = mounts::below(mountpoint).into_iter().map(Holder::Mount).collect();
    let Ok(entries) = fs::read_dir("/proc") else { return Holders(holders) };
    let others = [Some(std::process::id()), daemon];
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids.filter(|&pid| !others.contains(&Some(pid))) {
        let place = PathBuf::from(format!("/proc/{pid}"));
        if let Some(what) = what_holds(&place, mountpoint) {
            let name = fs::read_to_string(place.join("comm")).unwrap_or_default();
            holders.push(Holder::Process { name: name.trim().to_owned(), pid, what });
        }
    }
    Holders(holders)
}

/// With what the process at `place` in /proc holds it.
fn what_holds(place: &Path, mountpoint: &Path) -> Option<What> {
    let points_there = |link: PathBuf| {
        let path = fs::read_link(link).ok()?;
        path.starts_with(mountpoint).then_some(path)
    };
    let open = fs::read_dir(place.join("fd")).ok().into_iter().flatten();
    if let Some(path) = open.flatten().find_map(|entry| points_there(entry.path())) {
        return Some(What::File(path));
    }
    if ["cwd", "root"].into_iter().any(|link| points_there(place.join(link)).is_some()) {
        return Some(What::Directory);
    }
    // Address, permissions, offset, device, inode, then the path.
    let maps = fs::read_to_string(place.join("maps")).ok()?;
    let mut mapped =
        maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let path = mapped.find(|path| path.starts_with(mountpoint))?;
    Some(What::Mapping(path.to_owned()))
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(holders) = self;
        if holders.is_empty() {
            return f.write_str(
                "files are open on it, by processes that you may not see, or it is not yours",
            );
        }
        f.write_str("files are open on it: ")?;
        for (n, holder) in holders.iter().take(NAMED_MAX).enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            match holder {
                Holder::Process { name, pid, what } => {
                    write!(f, "{comma}{name} (pid {pid}) has {what}")?;
                }
                Holder::Mount(path) => write!(f, "{comma}a filesystem at {}", path.display())?,
            }
        }
        match holders.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{} open", path.display()),
            Self::Mapping(path) => write!(f, "{} mapped", path.display()),
            Self::Directory => f.write_str("its directory there"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_named_and_the_rest_is_counted() {
        let process = |pid| Holder::Process {
            name: "psql".to_owned(),
            pid,
            what: What::File(PathBuf::from("/mnt/a b")),
        };
        assert!(Holders(Vec::new()).to_string().contains("may not see"));
        let one = Holders(vec![process(7)]);
        assert_eq!(one.to_string(), "files are open on it: psql (pid 7) has /mnt/a b open");
        let all = Holders((0..9).map(process).collect()).to_string();
        assert!(all.ends_with("psql (pid 3) has /mnt/a b open, and 5 more"), "{all}");
        let others = Holders(vec![
            Holder::Mount("/mnt/x".into()),
            Holder::Process { name: "sh".to_owned(), pid: 1, what: What::Directory },
        ]);
        assert_eq!(
            others.to_string(),
            "files are open on it: a filesystem at /mnt/x, sh (pid 1) has its directory there"
        );
    }
}
