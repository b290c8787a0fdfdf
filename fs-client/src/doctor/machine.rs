//! Kernel, memory, sockets and clock.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use rampool_cli::cgroup::Cgroup;
use rampool_cli::size::ByteSize;
use rampool_protocol::endpoint;
use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::mounts;

/// Files that can be open on a mount at the same time, on a machine that has not been told otherwise.
const DESCRIPTORS_FEW: u64 = 65_536;

pub(super) fn look() -> Vec<Finding> {
    vec![kernel(), fuse(), descriptors(), memory(), huge_pages(), buffers(), clock()]
}

fn kernel() -> Finding {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    let version: Option<(u32, u32)> = parts.next().flatten().zip(parts.next().flatten());
    match version {
        Some(version) if ((5, 9)..(6, 6)).contains(&version) => Finding::warning(
            "kernel",
            format!("Linux {release}"),
            "applications that map files shared, such as SQLite with a write-ahead log, get ENODEV; 6.6 and later allow it",
        ),
        Some(version) if version < (5, 9) => Finding::warning(
            "kernel",
            format!("Linux {release}"),
            "it is older than all that rampool is tested with; 5.10 and later are better",
        ),
        _ => Finding::good("kernel", format!("Linux {release}")),
    }
}

fn fuse() -> Finding {
    const WHAT: &str = "fuse";
    let device = Path::new("/dev/fuse");
    if !device.exists() {
        return Finding::bad(WHAT, "there is no /dev/fuse", "modprobe fuse");
    }
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open(device) {
        return Finding::bad(
            WHAT,
            format!("/dev/fuse cannot be opened: {error}"),
            "chmod 666 /dev/fuse; a container needs the device, and CAP_SYS_ADMIN",
        );
    }
    if rustix::process::geteuid().is_root() {
        return Finding::good(WHAT, "/dev/fuse, as root: mounts are for all users");
    }
    if mounts::fusermount().is_none() {
        return Finding::bad(
            WHAT,
            "fusermount3 is not installed, which users other than root need",
            "install the package fuse3, or mount as root",
        );
    }
    let is_allowed = fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    match is_allowed {
        true => Finding::good(WHAT, "/dev/fuse and fusermount3; -o allow_other is allowed"),
        false => Finding::good(WHAT, "/dev/fuse and fusermount3; mounts are for this user alone"),
    }
}

fn descriptors() -> Finding {
    const WHAT: &str = "open files";
    match getrlimit(Resource::Nofile).maximum {
        Some(maximum) if maximum < DESCRIPTORS_FEW => Finding::warning(
            WHAT,
            format!("{maximum} at most"),
            "a mount keeps one for each open file: raise LimitNOFILE= of the service, or 'ulimit -Hn'",
        ),
        Some(maximum) => Finding::good(WHAT, format!("up to {maximum}")),
        None => Finding::good(WHAT, "as many as there is memory for"),
    }
}

fn memory() -> Finding {
    const WHAT: &str = "memory";
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
    };
    let (Some(total), Some(available)) = (field("MemTotal:"), field("MemAvailable:")) else {
        return Finding::warning(WHAT, "/proc/meminfo cannot be read", "mount /proc");
    };
    let mut found = format!("{} of {} are available", ByteSize(available), ByteSize(total));
    let cgroups = Cgroup::own();
    let limits = cgroups.iter().filter_map(|cgroup| Some((cgroup, cgroup.limit()?)));
    let narrow = limits.filter(|&(_, limit)| limit < total).min_by_key(|&(_, limit)| limit);
    if let Some((cgroup, limit)) = narrow {
        let _ = write!(found, "; {} in the cgroup {cgroup}", ByteSize(limit));
    }
    if available < total / 10 {
        let advice = "choose a --cache-size well below that; what it lacks, servers lend";
        return Finding::warning(WHAT, found, advice);
    }
    Finding::good(WHAT, found)
}

fn huge_pages() -> Finding {
    const WHAT: &str = "huge pages";
    let file = "/sys/kernel/mm/transparent_hugepage/enabled";
    match fs::read_to_string(file) {
        Ok(text) if text.contains("[never]") => Finding::warning(
            WHAT,
            "off: each read costs some more CPU time",
            format!("echo madvise > {file}"),
        ),
        Ok(_) => Finding::good(WHAT, "for those who ask"),
        Err(_) => Finding::good(WHAT, "not in this kernel"),
    }
}

fn buffers() -> Finding {
    const WHAT: &str = "sockets";
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    match endpoint::bind(any).map(|bound| bound.hint()) {
        Ok(None) => Finding::good(WHAT, "UDP buffers are as large as they should be"),
        Ok(Some(hint)) => {
            let (found, advice) = hint.split_once("; ").unwrap_or((&hint, ""));
            Finding::warning(WHAT, found, advice)
        }
        Err(error) => {
            Finding::bad(WHAT, format!("no UDP socket: {error}"), "give the machine a network")
        }
    }
}

fn clock() -> Finding {
    const WHAT: &str = "clock";
    // SAFETY: all zeros are a valid timex, which asks for nothing to be changed.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` is ours, and stays for the call.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    match answer {
        0.. if state.status & libc::STA_UNSYNC == 0 => {
            Finding::good(WHAT, "set by the network (NTP)")
        }
        0.. => Finding::warning(
            WHAT,
            "nobody sets it",
            "certificates need the right time: install chrony or systemd-timesyncd",
        ),
        _ => Finding::good(WHAT, "somebody else's, as in a container"),
    }
}
