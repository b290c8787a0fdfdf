//! Control groups of our own, of either version: a disk of so many reads a second, a machine of so
//! much memory, for a few processes.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, geteuid};

use crate::disk::{self, BlockDevice};

/// What is controlled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    Disk,
    Memory,
}

/// A control group. Dropping it removes it, once the processes in it have ended.
pub(crate) struct Group {
    /// One in each hierarchy that it is in.
    places: Vec<Place>,
    /// Disks that are limited for everybody, by their number.
    own_disks: RefCell<BTreeSet<String>>,
}

/// A directory of a group.
struct Place {
    version: Version,
    controllers: Vec<Controller>,
    dir: PathBuf,
    /// What was switched on for us in the directory above, and must be switched off again.
    enabled: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// What can be limited of a disk, each a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskLimit {
    Reads,
    Writes,
    BytesRead,
    BytesWritten,
}

/// What the processes of a group use, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MemoryUse {
    /// All of it.
    pub(crate) used: u64,
    /// Processes that the kernel has killed for want of memory.
    pub(crate) oom_kills: u64,
}

impl Controller {
    /// In /proc/self/mountinfo of version 1 and in cgroup.controllers of version 2.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Disk => ("blkio", "io"),
            Self::Memory => ("memory", "memory"),
        }
    }
}

impl DiskLimit {
    const ALL: [Self; 4] = [Self::Reads, Self::Writes, Self::BytesRead, Self::BytesWritten];

    /// The file of version 1, the key in io.max of version 2.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Reads => ("blkio.throttle.read_iops_device", "riops"),
            Self::Writes => ("blkio.throttle.write_iops_device", "wiops"),
            Self::BytesRead => ("blkio.throttle.read_bps_device", "rbps"),
            Self::BytesWritten => ("blkio.throttle.write_bps_device", "wbps"),
        }
    }
}

impl Group {
    /// A group directly below the root of each hierarchy.
    ///
    /// # Errors
    /// In one line, when this machine or this user cannot do that.
    pub(crate) fn new(name: &str, controllers: &[Controller]) -> Result<Self> {
        if !geteuid().is_root() {
            bail!("only root may make control groups");
        }
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let offers =
            |root: &Path| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let mut roots: Vec<(Version, PathBuf, Vec<Controller>)> = Vec::new();
        for &controller in controllers {
            let Some((version, root)) = find_hierarchy(&mountinfo, controller, offers) else {
                bail!("no control groups for '{}' are mounted here", controller.names().0);
            };
            match roots.iter_mut().find(|known| known.1 == root) {
                Some(known) => known.2.push(controller),
                None => roots.push((version, root, vec![controller])),
            }
        }
        Self::make(roots, name)
    }

    /// A group within this one.
    pub(crate) fn child(&self, name: &str) -> Result<Self> {
        let parents = self
            .places
            .iter()
            .map(|place| (place.version, place.dir.clone(), place.controllers.clone()));
        Self::make(parents.collect(), name)
    }

    fn make(parents: Vec<(Version, PathBuf, Vec<Controller>)>, name: &str) -> Result<Self> {
        let mut group = Self { places: Vec::new(), own_disks: RefCell::default() };
        for (version, parent, controllers) in parents {
            let enabled = match version {
                Version::One => Vec::new(),
                Version::Two => enable(&parent, &controllers)?,
            };
            let dir = parent.join(name);
            fs::create_dir(&dir)
                .with_context(|| format!("cannot make the control group {}", dir.display()))?;
            group.places.push(Place { version, controllers, dir, enabled });
        }
        Ok(group)
    }

    /// Its processes read at most `iops` times a second from the disk below `path`.
    pub(crate) fn limit_reads(&self, path: &Path, iops: u32) -> Result<()> {
        self.limit_disk(path, &[(DiskLimit::Reads, Some(u64::from(iops)))])
    }

    /// Sets limits of the disk below `path` for its processes; none takes one away.
    pub(crate) fn limit_disk(
        &self,
        path: &Path,
        limits: &[(DiskLimit, Option<u64>)],
    ) -> Result<()> {
        let place = self.place(Controller::Disk)?;
        set_limits(place.version, &place.dir, path, limits)
    }

    /// Sets limits of the disk below `path`, which is nobody else's, for its processes and for what the kernel writes
    /// later on their behalf; none takes one away. Version 1 does not know on whose behalf, and its limits are not
    /// handed down: there they are set for the root group as well, until this one is dropped.
    pub(crate) fn limit_own_disk(
        &self,
        path: &Path,
        limits: &[(DiskLimit, Option<u64>)],
    ) -> Result<()> {
        let place = self.place(Controller::Disk)?;
        if let (Version::One, Some(root)) = (place.version, place.dir.parent()) {
            self.own_disks.borrow_mut().insert(disk::disk_of(path)?.to_string());
            set_limits(Version::One, root, path, limits)?;
        }
        self.limit_disk(path, limits)
    }

    /// Its processes, and what the kernel caches for them, use at most so much memory.
    pub(crate) fn limit_memory(&self, bytes: u64) -> Result<()> {
        let place = self.place(Controller::Memory)?;
        let file = match place.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        fs::write(place.dir.join(file), bytes.to_string())
            .context("the kernel does not limit the memory of a control group")
    }

    /// What its processes use, and those of groups within it.
    pub(crate) fn memory(&self) -> Result<MemoryUse> {
        let place = self.place(Controller::Memory)?;
        let (usage, events) = match place.version {
            Version::One => ("memory.usage_in_bytes", "memory.oom_control"),
            Version::Two => ("memory.current", "memory.events"),
        };
        let read = |file: &str| {
            let path = place.dir.join(file);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let used = read(usage)?.trim().parse().context("a usage that is no number")?;
        let events = read(events)?;
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(MemoryUse {
            used,
            oom_kills: kills.and_then(|kills| kills.trim().parse().ok()).unwrap_or(0),
        })
    }

    /// Puts a process into it, with all its threads.
    pub(crate) fn hold(&self, process: Pid) -> Result<()> {
        for place in &self.places {
            fs::write(place.dir.join("cgroup.procs"), process.as_raw_nonzero().to_string())
                .with_context(|| format!("cannot move a process into {}", place.dir.display()))?;
        }
        Ok(())
    }

    /// Lets `command` begin in it.
    pub(crate) fn place_in(&self, command: &mut Command) -> Result<()> {
        for place in &self.places {
            let procs = fs::OpenOptions::new().write(true).open(place.dir.join("cgroup.procs"))?;
            // SAFETY: between fork and exec only write(2) is called, which is async-signal-safe; nothing
            // is allocated. 0 is the process that writes.
            unsafe {
                command.pre_exec(move || {
                    rustix::io::write(&procs, b"0").map(drop).map_err(io::Error::from)
                });
            }
        }
        Ok(())
    }

    fn place(&self, controller: Controller) -> Result<&Place> {
        let mut places = self.places.iter();
        places
            .find(|place| place.controllers.contains(&controller))
            .with_context(|| format!("the group was made without '{}'", controller.names().0))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for disk in self.own_disks.take() {
            let place = self.place(Controller::Disk).ok();
            let Some(root) = place.and_then(|place| place.dir.parent()) else { continue };
            for (file, _) in DiskLimit::ALL.map(DiskLimit::names) {
                let _ = fs::write(root.join(file), format!("{disk} 0"));
            }
        }
        for place in &self.places {
            // A process leaves its group a moment after it has ended.
            for _ in 0..100 {
                if fs::remove_dir(&place.dir).is_ok() || !place.dir.exists() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
            let parent = place.dir.parent().unwrap_or(&place.dir);
            for name in &place.enabled {
                let _ = fs::write(parent.join("cgroup.subtree_control"), format!("-{name}"));
            }
        }
    }
}

/// Sets limits of the disk below `path` in the group `dir`.
fn set_limits(
    version: Version,
    dir: &Path,
    path: &Path,
    limits: &[(DiskLimit, Option<u64>)],
) -> Result<()> {
    let disk: BlockDevice = disk::disk_of(path)?;
    for &(limit, value) in limits {
        let (old, new) = limit.names();
        let (file, text) = match (version, value) {
            (Version::One, value) => (old, format!("{disk} {}", value.unwrap_or(0))),
            (Version::Two, Some(value)) => ("io.max", format!("{disk} {new}={value}")),
            (Version::Two, None) => ("io.max", format!("{disk} {new}=max")),
        };
        fs::write(dir.join(file), text)
            .with_context(|| format!("the kernel does not limit the disk {disk}"))?;
    }
    Ok(())
}

/// The hierarchy that has a controller. `offers` says what a root of version 2 has.
fn find_hierarchy(
    mountinfo: &str,
    controller: Controller,
    offers: impl Fn(&Path) -> String,
) -> Option<(Version, PathBuf)> {
    let (one, two) = controller.names();
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let root = PathBuf::from(mount.split(' ').nth(4)?);
        match (filesystem.next()?, filesystem.nth(1).unwrap_or_default()) {
            ("cgroup", options) if options.split(',').any(|option| option == one) => {
                Some((Version::One, root))
            }
            ("cgroup2", _) if has_word(&offers(&root), two) => Some((Version::Two, root)),
            _ => None,
        }
    })
}

/// Switches controllers on for groups below `parent`, and says which were off.
fn enable(parent: &Path, controllers: &[Controller]) -> Result<Vec<&'static str>> {
    let switches = parent.join("cgroup.subtree_control");
    let on = fs::read_to_string(&switches).unwrap_or_default();
    let names = controllers.iter().map(|controller| controller.names().1);
    let off: Vec<_> = names.filter(|name| !has_word(&on, name)).collect();
    for name in &off {
        fs::write(&switches, format!("+{name}"))
            .with_context(|| format!("cannot switch on the controller '{name}'"))?;
    }
    Ok(off)
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|found| found == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        36 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
        37 31 0:34 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_hierarchy_that_has_the_controller_is_chosen() {
        let none = |_: &Path| String::new();
        let io = |_: &Path| "cpuset cpu io".to_owned();
        let find = find_hierarchy(V1, Controller::Disk, none);
        assert_eq!(find, Some((Version::One, "/sys/fs/cgroup/blkio".into())));
        let find = find_hierarchy(V1, Controller::Memory, none);
        assert_eq!(find, Some((Version::One, "/sys/fs/cgroup/memory".into())));
        let find = find_hierarchy(V2, Controller::Disk, io);
        assert_eq!(find, Some((Version::Two, "/sys/fs/cgroup".into())));
        assert_eq!(find_hierarchy(V2, Controller::Memory, io), None);
        assert_eq!(find_hierarchy("", Controller::Disk, io), None);
    }
}
