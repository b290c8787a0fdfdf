//! On what it was measured: what somebody needs to know who compares the figures with their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::binaries::{Binaries, output};
use crate::tool::Need;
use crate::{disk, postgres};

/// A machine and the programs on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) system: String,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_bytes: u64,
    /// The filesystem of the files, and its disk.
    pub(crate) filesystem: String,
    pub(crate) disk: String,
    /// Programs by name.
    pub(crate) versions: BTreeMap<String, String>,
    /// Settings of the kernel that matter, by path.
    pub(crate) settings: BTreeMap<String, String>,
}

/// What says its version, and how it is asked.
const PROGRAMS: [(&str, &str); 9] = [
    ("fio", "--version"),
    ("filebench", "-h"),
    ("rclone", "--version"),
    ("juicefs", "--version"),
    ("memcached", "--version"),
    ("postgres", "--version"),
    ("sqlite3", "--version"),
    ("redis-server", "--version"),
    ("git", "--version"),
];

const SETTINGS: [&str; 6] = [
    "/proc/sys/net/core/rmem_max",
    "/proc/sys/net/core/wmem_max",
    "/proc/sys/vm/swappiness",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/module/fuse/parameters/enable_uring",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
];

impl Machine {
    /// This one; `files` is where the files will be.
    pub(crate) fn this(binaries: &Binaries, files: &Path) -> Self {
        let uname = rustix::system::uname();
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let first = |path: &str, name: &str| {
            let text = text(path);
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split([':', '=']).nth(1).unwrap_or("unknown").trim().trim_matches('"').to_owned()
        };
        let memory = first("/proc/meminfo", "MemTotal");
        let kib: u64 = memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        let mut versions = BTreeMap::new();
        for (name, path) in [("rampool", &binaries.rampool), ("rampool-server", &binaries.server)] {
            versions.extend(version(path, "--version").map(|version| (name.to_owned(), version)));
        }
        for (name, flag) in PROGRAMS {
            let need = if name == "postgres" { postgres::need(name) } else { Need::of(name) };
            let said = need.find().ok().and_then(|program| version(&program, flag));
            versions.extend(said.map(|said| (name.to_owned(), said)));
        }
        let settings = SETTINGS.into_iter().filter_map(|path| {
            let value = fs::read_to_string(path).ok()?;
            Some((path.to_owned(), value.trim().to_owned()))
        });
        Self {
            system: first("/etc/os-release", "PRETTY_NAME"),
            kernel: uname.release().to_string_lossy().into_owned(),
            cpu: first("/proc/cpuinfo", "model name"),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: kib * 1024,
            filesystem: filesystem_of(files).unwrap_or_else(|| "unknown".to_owned()),
            disk: disk::disk_of(files)
                .map_or_else(|_| "none".to_owned(), |disk| model(&disk.to_string())),
            versions,
            settings: settings.collect(),
        }
    }
}

impl Machine {
    /// In what another one differs.
    pub(crate) fn differences(&self, other: &Self) -> Vec<Difference> {
        let fields = |machine: &Self| {
            let fixed = [
                ("system", machine.system.clone()),
                ("kernel", machine.kernel.clone()),
                ("cpu", machine.cpu.clone()),
                ("cpus", machine.cpus.to_string()),
                ("memory", machine.memory_bytes.to_string()),
                ("filesystem", machine.filesystem.clone()),
                ("disk", machine.disk.clone()),
            ];
            let fixed = fixed.map(|(name, value)| (name.to_owned(), value));
            let more = machine.versions.iter().chain(&machine.settings);
            let more = more.map(|(name, value)| (name.clone(), value.clone()));
            fixed.into_iter().chain(more).collect::<BTreeMap<_, _>>()
        };
        let (before, after) = (fields(self), fields(other));
        let names: BTreeSet<_> = before.keys().chain(after.keys()).cloned().collect();
        let both = names.into_iter().map(|name| {
            let (before, after) = (before.get(&name).cloned(), after.get(&name).cloned());
            Difference { name, before, after }
        });
        both.filter(|what| what.before != what.after).collect()
    }
}

/// One thing in which two machines differ.
pub(crate) struct Difference {
    name: String,
    /// None where it was not there.
    pub(crate) before: Option<String>,
    after: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = "none";
        let (before, after) = (self.before.as_deref(), self.after.as_deref());
        let (before, after) = (before.unwrap_or(none), after.unwrap_or(none));
        write!(f, "{}: {before} before, {after} after", self.name)
    }
}

/// The first line that a program says of itself.
fn version(program: &Path, flag: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.arg(flag);
    let text = output(command).ok()?;
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

fn filesystem_of(files: &Path) -> Option<String> {
    let mut command = Command::new("stat");
    command.args(["--file-system", "--format=%T"]).arg(files);
    Some(output(command).ok()?.trim().to_owned())
}

fn model(numbers: &str) -> String {
    let dir = Path::new("/sys/dev/block").join(numbers);
    let name = fs::canonicalize(&dir).ok();
    let name =
        name.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let model = fs::read_to_string(dir.join("device/model")).unwrap_or_default();
    let both = [name.unwrap_or_else(|| numbers.to_owned()), model.trim().to_owned()];
    both.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}
