//! What is meant by the command line of `rampool mount`: checked, with defaults, and with
//! everything that can be known to fail before anything is mounted.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fuser::MountOption;
use rampool_cli::plain::plain;
use rampool_cli::size::ByteSize;
use rampool_keys::{CLIENT_KEYS, known_server};
use rampool_policy::Kind;
use rampool_protocol::certs::{Identity, Role};
use rustix::io::Errno;

use crate::args::{CacheMode, MountArgs};
use crate::failure::Failure;
use crate::memory::{CACHE_MIN, cache_default, memory_here};
use crate::mounts::{self, UnmountFlags};
use crate::remote::{Given, SERVERS_MAX, UseServers};
use crate::rules::Patterns;
use crate::timeouts::Timeouts;

const TIMEOUT_MAX_SECONDS: f64 = 86_400.0;
const THREADS_MAX: usize = 64;

/// As a server: local memory alone.
const NO_SERVER: &str = "none";

/// A mount that can be tried.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) source: PathBuf,
    pub(crate) mountpoint: PathBuf,
    pub(crate) values: Values,
    pub(crate) servers: Vec<Given>,
    pub(crate) use_servers: UseServers,
    pub(crate) key_file: Option<PathBuf>,
    /// Present if there are servers.
    pub(crate) membership: Option<Membership>,
    /// Where metrics are served.
    pub(crate) metrics: Option<SocketAddr>,
    /// Reading leaves times of access alone.
    pub(crate) no_atime: bool,
    pub(crate) mount_options: Vec<MountOption>,
    /// Whether all users may use the mount, or only the one who mounts.
    pub(crate) for_all_users: bool,
}

/// That this machine belongs to a pool.
#[derive(Debug)]
pub(crate) struct Membership {
    /// The directory of its keys.
    pub(crate) keys: PathBuf,
    pub(crate) identity: Identity,
}

/// Whose memory is used, and with which keys.
struct Pool {
    servers: Vec<String>,
    keys: Option<PathBuf>,
}

impl Pool {
    /// What was asked for, else what this machine has joined.
    fn of(args: &MountArgs) -> Self {
        let usual = Path::new(CLIENT_KEYS);
        let dir = args.keys.as_deref().unwrap_or(usual);
        let known = known_server(dir);
        if let Err(error) = &known
            && args.servers.is_empty()
        {
            tracing::warn!(
                "the pool is not used: {}: {} (--server none leaves it out)",
                dir.display(),
                plain(error)
            );
        }
        let known = known.ok().flatten();
        let keys = args.keys.clone().or_else(|| known.is_some().then(|| usual.to_owned()));
        let mut servers = args.servers.clone();
        if servers.is_empty() {
            servers.extend(known);
        }
        servers.retain(|server| server != NO_SERVER);
        Self { servers, keys }
    }
}

/// What is right or wrong by itself, whatever else there is on the machine.
#[derive(Debug)]
pub(crate) struct Values {
    pub(crate) cache: ByteSize,
    pub(crate) policy: Kind,
    pub(crate) timeouts: Timeouts,
    pub(crate) threads: usize,
    pub(crate) patterns: Option<Patterns>,
}

impl Values {
    /// Checks them.
    pub(crate) fn of(args: &MountArgs) -> Result<Self, Failure> {
        Ok(Self {
            cache: check_cache(args.cache_size.as_deref())?,
            policy: check_policy(args.policy.as_deref())?,
            timeouts: check_timeouts(args)?,
            threads: check_threads(args.threads)?,
            patterns: Patterns::new(&args.includes, &args.excludes).map_err(Failure::usage)?,
        })
    }
}

impl Plan {
    /// Checks what was asked for.
    pub(crate) fn new(args: &MountArgs) -> Result<Self, Failure> {
        let root = rustix::process::geteuid().is_root();
        // As mount(8) has it: what is on the source is so here.
        let mut mount_options =
            if root { vec![MountOption::Suid, MountOption::Dev] } else { vec![] };
        let mut for_all_users = root || args.allow_other;
        for option in &args.options {
            if option == "allow_other" {
                for_all_users = true;
            }
            // What is unknown here was a long option, or may be left out.
            for option in kernel_option(option).unwrap_or_default() {
                // The later goes before the earlier.
                mount_options.retain(|other| *other != option && !contradict(other, &option));
                mount_options.push(option);
            }
        }
        // mount(8) says `rw` by itself.
        if args.read_only {
            mount_options.retain(|option| *option != MountOption::RW);
            mount_options.push(MountOption::RO);
        }
        let needed = |what: &str| Failure::usage(format!("the configuration lacks '{what}'"));
        let source = args.source.as_deref().ok_or_else(|| needed("source"))?;
        let mountpoint = args.mountpoint.as_deref().ok_or_else(|| needed("mountpoint"))?;
        clear_dead_mounts(mountpoint)?;
        let source = check_source(source)?;
        let mountpoint = check_mountpoint(mountpoint, &source)?;
        check_fuse(root)?;
        let Pool { servers, keys } = Pool::of(args);
        let servers = check_servers(&servers)?;
        if servers.is_empty() && args.key_file.is_some() {
            return Err(Failure::usage("--key-file is for what is lent; give a --server"));
        }
        let membership = match (keys, servers.is_empty()) {
            (_, true) => None,
            (Some(keys), false) => {
                let identity = Identity::load(&keys, Role::Client).map_err(Failure::usage)?;
                Some(Membership { keys, identity })
            }
            (None, false) => {
                return Err(Failure::usage(
                    "--server needs keys; join its pool with 'rampool join TOKEN', or give --keys DIR",
                ));
            }
        };
        Ok(Self {
            source,
            mountpoint,
            values: Values::of(args)?,
            servers,
            use_servers: args.use_servers.unwrap_or(UseServers::Auto),
            key_file: args.key_file.clone(),
            membership,
            metrics: args.metrics,
            no_atime: mount_options.contains(&MountOption::NoAtime),
            mount_options,
            for_all_users,
        })
    }
}

/// Options that the kernel or mount(8) understands, as fuser has them; an empty list for those that mean nothing to
/// a mounted filesystem. None for others.
pub(crate) fn kernel_option(option: &str) -> Option<Vec<MountOption>> {
    /// Who may mount, when, and what the source's filesystem does by itself.
    const NOTHING: [&str; 27] = [
        "",
        "defaults",
        "allow_other",
        "auto",
        "noauto",
        "_netdev",
        "nofail",
        "user",
        "nouser",
        "users",
        "nousers",
        "owner",
        "noowner",
        "group",
        "nogroup",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "diratime",
        "nodiratime",
        "lazytime",
        "nolazytime",
        "iversion",
        "noiversion",
        "silent",
        "loud",
    ];
    /// Labels of a security module, and what mount(8) and systemd say to themselves.
    const CONTEXTS: [&str; 4] = ["context=", "fscontext=", "defcontext=", "rootcontext="];
    const PREFIXES: [&str; 6] = ["x-", "X-", "comment=", "user=", "uhelper=", "helper="];
    let starts_with = |prefixes: &[&str]| prefixes.iter().any(|prefix| option.starts_with(prefix));
    Some(vec![match option {
        "ro" => MountOption::RO,
        "rw" => MountOption::RW,
        "suid" => MountOption::Suid,
        "nosuid" => MountOption::NoSuid,
        "dev" => MountOption::Dev,
        "nodev" => MountOption::NoDev,
        "exec" => MountOption::Exec,
        "noexec" => MountOption::NoExec,
        "atime" => MountOption::Atime,
        "noatime" => MountOption::NoAtime,
        "sync" => MountOption::Sync,
        "async" => MountOption::Async,
        "dirsync" => MountOption::DirSync,
        _ if starts_with(&CONTEXTS) => MountOption::CUSTOM(option.to_owned()),
        _ if NOTHING.contains(&option) || starts_with(&PREFIXES) => return Some(Vec::new()),
        _ => return None,
    }])
}

/// Whether only one of them can hold.
fn contradict(one: &MountOption, other: &MountOption) -> bool {
    use MountOption::*;
    const PAIRS: [[MountOption; 2]; 6] =
        [[RO, RW], [Dev, NoDev], [Suid, NoSuid], [Exec, NoExec], [Atime, NoAtime], [Sync, Async]];
    PAIRS.iter().any(|pair| one != other && pair.contains(one) && pair.contains(other))
}

fn check_source(path: &Path) -> Result<PathBuf, Failure> {
    let found = fs::canonicalize(path)
        .map_err(|error| Failure::mount(format!("source {}: {}", path.display(), plain(&error))))?;
    if !found.is_dir() {
        return Err(Failure::mount(format!("source {} is not a directory", path.display())));
    }
    Ok(found)
}

fn check_mountpoint(path: &Path, source: &Path) -> Result<PathBuf, Failure> {
    let shown = path.display();
    let found = fs::canonicalize(path)
        .map_err(|error| Failure::mount(format!("mountpoint {shown}: {}", plain(&error))))?;
    if !found.is_dir() {
        return Err(Failure::mount(format!("mountpoint {shown} is not a directory")));
    }
    if mounts::is_rampool(&found) {
        return Err(Failure::mount(format!(
            "mountpoint {shown} is busy: rampool is mounted there; run: rampool umount {shown}"
        )));
    }
    if mounts::leads_back(source, &found) {
        return Err(Failure::mount(format!(
            "mountpoint {shown} lies in the source of the mount that source {} is on: each would \
             wait for the other; mount it outside",
            source.display()
        )));
    }
    let same = match (fs::metadata(&found), fs::metadata(source)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    };
    if same {
        return Ok(found);
    }
    if mounts::is_mount_root(&found) && !mounts::is_automount(&found) {
        return Err(Failure::mount(format!(
            "mountpoint {shown} is busy: something else is mounted there"
        )));
    }
    let mut entries = fs::read_dir(&found)
        .map_err(|error| Failure::mount(format!("mountpoint {shown}: {}", plain(&error))))?;
    if entries.next().is_some() {
        return Err(Failure::mount(format!(
            "mountpoint {shown} is not empty; mount over an empty directory, or over the source itself"
        )));
    }
    Ok(found)
}

/// Takes away all mounts of ours at `path` whose daemons are dead. They may cover the source.
fn clear_dead_mounts(path: &Path) -> Result<(), Failure> {
    // What else is asked, the kernel may answer without the daemon.
    while rustix::fs::statfs(path).is_err_and(|error| error == Errno::NOTCONN) {
        clear_dead_mount(path)?;
    }
    Ok(())
}

fn clear_dead_mount(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    let dead = mounts::canonical_mountpoint(path)
        .map_err(|error| Failure::mount(format!("mountpoint {shown}: {}", plain(&error))))?;
    if !mounts::is_rampool(&dead) {
        return Err(Failure::mount(format!(
            "mountpoint {shown} holds a mount whose daemon is dead; run: umount {shown}"
        )));
    }
    mounts::unmount_at(&dead, UnmountFlags::DETACH).map_err(|error| {
        Failure::mount(format!(
            "mountpoint {shown} holds a mount whose daemon is dead, and it cannot be taken away: {}",
            plain(error)
        ))
    })?;
    tracing::info!("took away a mount whose daemon is dead at {shown}");
    Ok(())
}

fn check_fuse(root: bool) -> Result<(), Failure> {
    if !Path::new("/dev/fuse").exists() {
        return Err(Failure::mount("there is no /dev/fuse; run: modprobe fuse"));
    }
    if !root && mounts::fusermount().is_none() {
        return Err(Failure::mount(
            "fusermount3 is not installed, which users other than root need; \
             install the package fuse3, or mount as root",
        ));
    }
    Ok(())
}

pub(crate) fn check_cache(given: Option<&str>) -> Result<ByteSize, Failure> {
    let here = memory_here();
    let Some(text) = given else { return Ok(cache_default(here)) };
    let cache = match text.strip_suffix('%').map(str::parse::<f64>) {
        Some(Ok(share)) if (0.0..=100.0).contains(&share) => {
            ByteSize((here.bytes() as f64 * share / 100.0) as u64)
        }
        Some(_) => return Err(Failure::usage(format!("--cache-size {text}: between 0% and 100%"))),
        None => text
            .parse::<ByteSize>()
            .map_err(|error| Failure::usage(format!("--cache-size: {error}")))?,
    };
    if cache < CACHE_MIN {
        return Err(Failure::usage(format!(
            "--cache-size {cache} is too little; at least {CACHE_MIN}"
        )));
    }
    if cache > here {
        return Err(Failure::usage(format!(
            "--cache-size {cache} is more than there is: {here}, of the machine or of the cgroup"
        )));
    }
    Ok(cache)
}

fn check_servers(given: &[String]) -> Result<Vec<Given>, Failure> {
    if given.len() > SERVERS_MAX {
        return Err(Failure::usage(format!("more than {SERVERS_MAX} servers")));
    }
    let refuse = |given: &str, why: String| {
        Failure::usage(format!(
            "--server {given}: {why}; write HOST, HOST:PORT or _SERVICE._udp.NAME"
        ))
    };
    given.iter().map(|given| Given::look_up(given).map_err(|why| refuse(given, why))).collect()
}

/// What is asked for, or the usual.
fn check_timeouts(args: &MountArgs) -> Result<Timeouts, Failure> {
    let given = [
        ("--attr-timeout", args.attr_timeout),
        ("--entry-timeout", args.entry_timeout),
        ("--negative-timeout", args.negative_timeout),
    ];
    let strict = args.cache == Some(CacheMode::Strict);
    // A name that is made behind the mount is there at once.
    let defaults = if strict { [0.0; 3] } else { [1.0, 1.0, 0.0] };
    let mut checked = [Duration::ZERO; 3];
    for (((option, given), default), checked) in given.into_iter().zip(defaults).zip(&mut checked) {
        let seconds = given.unwrap_or(default);
        if !(0.0..=TIMEOUT_MAX_SECONDS).contains(&seconds) {
            return Err(Failure::usage(format!(
                "{option} {seconds}: between 0 and {TIMEOUT_MAX_SECONDS} seconds"
            )));
        }
        if strict && seconds > 0.0 {
            return Err(Failure::usage(format!(
                "{option} {seconds} contradicts --cache strict, which asks the source every time"
            )));
        }
        *checked = Duration::from_secs_f64(seconds);
    }
    let [attr, entry, negative] = checked;
    Ok(Timeouts { attr, entry, negative })
}

fn check_policy(given: Option<&str>) -> Result<Kind, Failure> {
    let Some(name) = given else { return Ok(Kind::default()) };
    name.parse().map_err(|error| Failure::usage(format!("--policy: {error}")))
}

fn check_threads(given: Option<i64>) -> Result<usize, Failure> {
    match given {
        // As many as there are CPUs: the kernel wakes them in turn, and each that it wakes for a hit
        // has the cache of a CPU to fill. What waits for the disk has threads of its own.
        None => Ok(std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)),
        Some(threads) => usize::try_from(threads)
            .ok()
            .filter(|threads| (1..=THREADS_MAX).contains(threads))
            .ok_or_else(|| {
                Failure::usage(format!("--threads {threads}: between 1 and {THREADS_MAX}"))
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_neither_too_small_nor_larger_than_the_machine() {
        assert_eq!(check_cache(None).unwrap(), cache_default(memory_here()));
        assert_eq!(check_cache(Some("50%")).unwrap().bytes(), memory_here().bytes() / 2);
        assert_eq!(check_cache(Some("16M")).unwrap(), CACHE_MIN);
        for bad in ["15M", "1000T", "much", "0", "101%", "x%"] {
            assert!(check_cache(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn mount_options_are_known_or_refused() {
        assert_eq!(kernel_option("ro"), Some(vec![MountOption::RO]));
        assert_eq!(kernel_option("x-systemd.automount"), Some(Vec::new()));
        assert_eq!(kernel_option("_netdev"), Some(Vec::new()));
        assert_eq!(kernel_option("cache_size=1G"), None);
    }

    #[test]
    fn options_that_contradict_each_other_are_known() {
        assert!(contradict(&MountOption::RO, &MountOption::RW));
        assert!(contradict(&MountOption::Async, &MountOption::Sync));
        assert!(!contradict(&MountOption::RO, &MountOption::RO));
        assert!(!contradict(&MountOption::RO, &MountOption::NoDev));
    }
}
