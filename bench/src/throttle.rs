//! A disk of so many reads a second, for one process: a limit of the kernel's block layer, set
//! through a control group of our own.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, geteuid};

use crate::disk::{self, BlockDevice};

/// The control group. Dropping it removes it, once the process in it has ended.
pub(crate) struct Throttle {
    group: PathBuf,
    /// Where the controller was switched on for us, and must be switched off again.
    enabled_in: Option<PathBuf>,
}

/// The two generations of control groups.
#[derive(Debug, PartialEq, Eq)]
enum Hierarchy {
    V1(PathBuf),
    V2(PathBuf),
}

impl Throttle {
    /// A group whose processes read at most `iops` times a second from the disk below `path`.
    ///
    /// # Errors
    /// In one line, when this machine or this user cannot do that.
    pub(crate) fn new(path: &Path, iops: u32) -> Result<Self> {
        if !geteuid().is_root() {
            bail!("only root may do that");
        }
        let disk = disk::disk_of(path)?;
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let hierarchy = find_hierarchy(&mountinfo, |root| {
            fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
        });
        let name = format!("rampool-bench-{}", std::process::id());
        match hierarchy {
            Some(Hierarchy::V1(root)) => {
                let throttle = Self::make(root.join(name), None)?;
                throttle.set("blkio.throttle.read_iops_device", &format!("{disk} {iops}"), disk)?;
                Ok(throttle)
            }
            Some(Hierarchy::V2(root)) => {
                let enabled_in = enable_io(&root)?;
                let throttle = Self::make(root.join(name), enabled_in)?;
                throttle.set("io.max", &format!("{disk} riops={iops}"), disk)?;
                Ok(throttle)
            }
            None => bail!("no control groups for block devices are mounted here"),
        }
    }

    /// Puts a process under the limit, with all its threads.
    pub(crate) fn hold(&self, process: Pid) -> Result<()> {
        fs::write(self.group.join("cgroup.procs"), process.as_raw_nonzero().to_string())
            .context("cannot move the mount into its control group")
    }

    fn make(group: PathBuf, enabled_in: Option<PathBuf>) -> Result<Self> {
        fs::create_dir(&group)
            .with_context(|| format!("cannot make the control group {}", group.display()))?;
        Ok(Self { group, enabled_in })
    }

    fn set(&self, file: &str, value: &str, disk: BlockDevice) -> Result<()> {
        fs::write(self.group.join(file), value)
            .with_context(|| format!("the kernel does not limit the disk {disk}"))
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // A process leaves its group a moment after it has ended.
        for _ in 0..100 {
            if fs::remove_dir(&self.group).is_ok() || !self.group.exists() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        if let Some(root) = &self.enabled_in {
            let _ = fs::write(root.join("cgroup.subtree_control"), "-io");
        }
    }
}

/// The hierarchy that controls block devices. `controllers` says what a v2 root offers.
fn find_hierarchy(mountinfo: &str, controllers: impl Fn(&Path) -> String) -> Option<Hierarchy> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let root = PathBuf::from(mount.split(' ').nth(4)?);
        Some((
            root,
            filesystem.next()?.to_owned(),
            filesystem.nth(1).unwrap_or_default().to_owned(),
        ))
    });
    mounts.into_iter().find_map(|(root, kind, options)| match kind.as_str() {
        "cgroup" if options.split(',').any(|option| option == "blkio") => Some(Hierarchy::V1(root)),
        "cgroup2" if has_word(&controllers(&root), "io") => Some(Hierarchy::V2(root)),
        _ => None,
    })
}

/// Switches the controller on for groups below `root`, and says where if it was off.
fn enable_io(root: &Path) -> Result<Option<PathBuf>> {
    let switches = root.join("cgroup.subtree_control");
    if has_word(&fs::read_to_string(&switches).unwrap_or_default(), "io") {
        return Ok(None);
    }
    fs::write(&switches, "+io").context("cannot switch on the io controller")?;
    Ok(Some(root.to_owned()))
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|found| found == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        36 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
        38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_hierarchy_that_has_the_controller_is_chosen() {
        let none = |_: &Path| String::new();
        let io = |_: &Path| "cpuset cpu io memory".to_owned();
        let v1 = Hierarchy::V1("/sys/fs/cgroup/blkio".into());
        assert_eq!(find_hierarchy(V1, none), Some(v1));
        assert_eq!(find_hierarchy(V2, io), Some(Hierarchy::V2("/sys/fs/cgroup".into())));
        assert_eq!(find_hierarchy(V2, none), None);
        assert_eq!(find_hierarchy("", io), None);
    }
}
