//! What the memory cgroups say that this process runs in: versions 1 and 2.

use std::io;
use std::time::Duration;

use rampool_cli::cgroup::{Cgroup, Version};

use super::fields::{field, stalled};
use super::{PAGE, Reading};

/// What it says of its memory, and of all cgroups below it.
pub(super) fn reading(cgroup: &Cgroup, limit: u64) -> io::Result<Reading> {
    let stat = cgroup.read("memory.stat")?;
    let value = |name: &str| match cgroup.version {
        Version::One => field(&stat, &format!("total_{name}")),
        Version::Two => field(&stat, name),
    };
    let size = |name| value(name).unwrap_or(0);
    let file = match cgroup.version {
        Version::One => "cache",
        Version::Two => "file",
    };
    Ok(Reading {
        limit,
        free: limit.saturating_sub(cgroup.usage()?),
        // Shared memory counts as file here, but the kernel cannot drop it.
        file: size(file).saturating_sub(size("shmem")),
        kept_free: 0,
        refaults: value("workingset_refault_file").or_else(|| value("workingset_refault")),
        deactivated: value("pgdeactivate"),
        swapped: match cgroup.version {
            Version::One => None,
            Version::Two => value("pswpout").map(|pages| pages * PAGE),
        },
        stalled: stalled_in(cgroup),
    })
}

fn stalled_in(cgroup: &Cgroup) -> Option<Duration> {
    match cgroup.version {
        Version::One => None,
        Version::Two => stalled(&cgroup.read("memory.pressure").ok()?),
    }
}
