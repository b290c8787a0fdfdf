//! Builds a mount, serves it, and ends it.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use fuser::{MountOption, Session, SessionACL};
use rampool_cli::metrics::Watched;
use rampool_cli::service;
use rampool_cli::status::StatusSocket;
use rampool_keys::renewal::Renewal;
use rampool_protocol::certs::{Identity, Role};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::behind::Behind;
use crate::caller::may_act;
use crate::control;
use crate::demand::Demand;
use crate::epochs::Epochs;
use crate::exported;
use crate::failure::Failure;
use crate::filesystem::{Filesystem, Settings};
use crate::front::Device;
use crate::front::fuse::FuseFront;
use crate::handles::Handles;
use crate::inodes::Inodes;
use crate::kept;
use crate::local::{Evicted, LocalCache, Size};
use crate::memory::{Memory, Shares, memory_here};
use crate::metrics::Metrics;
use crate::mounts::{UnmountFlags, unmount_at};
use crate::pins::Pins;
use crate::plan::{Membership, Plan};
use crate::profile::Profiles;
use crate::reload::Reload;
use crate::remote::{KeyFile, Left, Limits, Offer, Tier};
use crate::rules::Rules;
use crate::source::{Source, Stat};
use crate::staging::Staging;
use crate::status::{self, Facts};
use crate::timeouts::LiveTimeouts;
use crate::upkeep::{self, Upkeep};
use crate::workers::Workers;

/// Descriptors that are kept for files that nobody has open, at most.
const RECENT_DESCRIPTORS_MAX: usize = 100_000;

/// How long the last requests may take once nothing can come in any more.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// What happens to a mount.
enum Event {
    /// It was unmounted.
    Unmounted(std::io::Result<()>),
    /// The process is told to end.
    End,
    /// The process is told to read its configuration again.
    Reload,
}

/// Mounts, and serves until it is unmounted or told to end. `ready` is called once the mount
/// answers.
pub(crate) fn run(plan: &Plan, mut reload: Reload, ready: impl FnOnce()) -> Result<(), Failure> {
    raise_limits();
    upkeep::return_large_memory();
    // Each thread takes the caller's mask when it makes something.
    rustix::process::umask(rustix::fs::Mode::empty());
    let system = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| Failure::system(format!("{what}: {error}"))
    };
    let (tell, events) = channel();
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(system("cannot handle signals"))?;
    let signalled = tell.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            // A second signal while the first is dealt with changes nothing.
            for signal in signals.forever() {
                let event = if signal == SIGHUP { Event::Reload } else { Event::End };
                let _ = signalled.send(event);
            }
        })
        .map_err(system("cannot start a thread"))?;

    let filesystem = Arc::new(build(plan)?);
    let facts = Facts {
        mountpoint: plan.mountpoint.clone(),
        source: plan.source.clone(),
        started: Instant::now(),
    };
    let upkeep = Upkeep::start(filesystem.clone()).map_err(system("cannot start a thread"))?;
    let renewal = plan.membership.as_ref().map(|Membership { keys, .. }| {
        // That thread is not waited for, and must not keep the tier from ending.
        let remote = Arc::downgrade(&filesystem.remote);
        let changed = move |identity: Identity| {
            if let Some(remote) = remote.upgrade() {
                remote.connects_with(identity.credentials());
            }
        };
        Renewal::start(keys, Role::Client, changed)
    });
    let renewal = renewal.transpose().map_err(system("cannot start a thread"))?;
    let shown = (Arc::new(facts), filesystem.clone());
    let asked = (shown.0.clone(), Arc::downgrade(&filesystem));
    let document = move || status::document(&shown.0, &shown.1);
    let metrics = plan.metrics.map(|address| {
        Watched::serve(address, exported::METRICS, exported::HISTORY, document.clone()).map_err(
            |error| Failure::system(format!("--metrics {address}: {error}; choose another")),
        )
    });
    let metrics = metrics.transpose()?;
    let socket = StatusSocket::serve(status::socket_path(&plan.mountpoint), move |line, asker| {
        control::answer(&asked.0, &asked.1, line, asker)
    });
    if let Err(error) = &socket {
        tracing::warn!(%error, "no status socket: 'rampool status' will not show this mount");
    }
    let device = Device::new();
    let front = FuseFront::new(filesystem.clone(), device);
    let session = Session::new(front, &plan.mountpoint, &fuse_config(plan))
        .map_err(|error| cannot_mount(&plan.mountpoint, &error))?;
    device.set(session.as_fd()).map_err(system("cannot copy a descriptor"))?;
    filesystem.remote.begins().map_err(system("cannot remove what the last run has left"))?;
    let serving = std::thread::Builder::new()
        .name("fuse".to_owned())
        .spawn(move || {
            let _ = tell.send(Event::Unmounted(session.run()));
        })
        .map_err(system("cannot start a thread"))?;

    rampool_cli::say!(
        "rampool: {} is mounted at {} with a cache of {}{}",
        plan.source.display(),
        plan.mountpoint.display(),
        plan.values.cache,
        match plan.servers.len() {
            0 => String::new(),
            1 => " and 1 server".to_owned(),
            servers => format!(" and {servers} servers"),
        }
    );
    ready();
    service::is_ready();

    let result = wait(&plan.mountpoint, &events, || reload.reload(&filesystem));
    service::ends();
    drop((socket, metrics, upkeep, renewal));
    if let Ok(Served::Whole) = result {
        let _ = serving.join();
        kept::save(&filesystem);
    }
    // Others may hold the filesystem for a while yet: the end of this process does not wait for them.
    filesystem.remote.end();
    result.map(|_| ())
}

fn build(plan: &Plan) -> Result<Filesystem, Failure> {
    let cannot = |what: &'static str| {
        move |error: std::io::Error| Failure::system(format!("{what}: {error}"))
    };
    let act_as_caller = rustix::process::geteuid().is_root();
    if act_as_caller && !may_act() {
        return Err(Failure::system(
            "root's mounts are for all users, and need the capabilities SETUID and SETGID: \
             what a user makes must be the user's; grant them, or mount as an ordinary user",
        ));
    }
    let mut source = Source::open(&plan.source).map_err(|error| {
        Failure::usage(format!("source {}: {}", plan.source.display(), std::io::Error::from(error)))
    })?;
    source
        .cover(&plan.mountpoint)
        .map_err(|error| cannot_mount(&plan.mountpoint, &error.into()))?;
    let root = source.root().map_err(|error| Failure::system(std::io::Error::from(error)))?;
    let root_stat =
        Stat::of(root.as_fd()).map_err(|error| Failure::system(std::io::Error::from(error)))?;

    let nodes = source
        .nodes(recent_descriptors_max())
        .map_err(|error| Failure::system(std::io::Error::from(error)))?;

    let epochs = Arc::new(Epochs::new());
    let shares = Shares::of(plan.values.cache, plan.membership.is_some());
    let (remote, left) = match &plan.membership {
        None => (Tier::none(epochs.clone()), Left::default()),
        Some(Membership { identity, .. }) => {
            let limits =
                Limits { queue_max: shares.queue_max, table_bytes: shares.table_bytes as usize };
            let key_file = plan.key_file.as_deref().map(KeyFile::open).transpose();
            let key_file =
                key_file.map_err(|error| Failure::usage(format!("--key-file: {error}")))?;
            let given = plan.servers.clone();
            Tier::start(given, plan.use_servers, identity, epochs.clone(), limits, key_file)
                .map_err(cannot("cannot start the connections to servers"))?
        }
    };
    let remote = Arc::new(remote);
    let lend_to = remote.clone();
    let evicted = move |Evicted { key, block, seen, streamed }| {
        lend_to.offer(Offer { key, block, seen, streamed });
    };
    let holds = remote.clone();
    let may_hold = move || holds.may_hold();
    let size = Size { bytes: shares.cache_bytes, most: memory_here().bytes() };
    let cache = LocalCache::new(size, plan.values.policy, epochs, may_hold, evicted)
        .map_err(cannot("cannot reserve memory for the cache"))?;
    let rules = Rules::new(root.as_fd(), plan.values.patterns.clone());
    let inodes = Inodes::new(nodes, root, &root_stat);
    kept::restore(left, &inodes);
    Ok(Filesystem {
        source,
        inodes,
        handles: Handles::default(),
        flights: Arc::default(),
        staging: Staging::default(),
        remote,
        workers: Workers::start(plan.values.threads).map_err(cannot("cannot start threads"))?,
        behind: Behind::default(),
        metrics: Metrics::new(),
        demand: Demand::new(),
        pins: Pins::default(),
        profiles: Profiles::default(),
        rules,
        memory: Memory::new(plan.values.cache, &shares, cache.capacity_blocks()),
        settings: Settings {
            timeouts: LiveTimeouts::new(plan.values.timeouts),
            no_atime: plan.no_atime,
            act_as_caller,
        },
        cache,
    })
}

fn fuse_config(plan: &Plan) -> fuser::Config {
    let mut config = fuser::Config::default();
    config.mount_options = vec![
        MountOption::FSName(plan.source.to_string_lossy().into_owned()),
        // As the kernel's own option: fuser hands its `Subtype` to fusermount3 only.
        MountOption::CUSTOM("subtype=rampool".to_owned()),
        // The kernel checks permissions from the attributes, as it does for the source.
        MountOption::DefaultPermissions,
    ];
    config.mount_options.extend(plan.mount_options.iter().cloned());
    config.acl = if plan.for_all_users { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(plan.values.threads);
    // One descriptor for all threads: a reply must go to the one that its request came from, and
    // `parts.rs` knows this one only. A clone for each thread measured no faster.
    config.clone_fd = false;
    config
}

fn cannot_mount(mountpoint: &Path, error: &std::io::Error) -> Failure {
    let text = error.to_string();
    let hint = if text.contains("user_allow_other") {
        "; put user_allow_other into /etc/fuse.conf, or mount without -o allow_other"
    } else if error.kind() == std::io::ErrorKind::PermissionDenied {
        "; /dev/fuse must be readable and writable by you, and the mountpoint yours"
    } else {
        ""
    };
    Failure::mount(format!("cannot mount at {}: {}{hint}", mountpoint.display(), text.trim()))
}

/// Waits for the end, and brings it about when told to.
fn wait(
    mountpoint: &Path,
    events: &Receiver<Event>,
    mut reload: impl FnMut(),
) -> Result<Served, Failure> {
    loop {
        match events.recv() {
            Ok(Event::Unmounted(result)) => return served(result),
            Ok(Event::Reload) => reload(),
            // The senders live as long as their threads, which end with a message.
            Ok(Event::End) | Err(_) => break,
        }
    }
    match unmount_at(mountpoint, UnmountFlags::empty()) {
        // Somebody else was faster.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(_) => {
            tracing::warn!(
                "files are open on {}: they get errors from now on",
                mountpoint.display()
            );
            if let Err(error) = unmount_at(mountpoint, UnmountFlags::DETACH) {
                return Err(Failure::mount(format!(
                    "cannot unmount {}: {}",
                    mountpoint.display(),
                    std::io::Error::from(error)
                )));
            }
        }
    }
    let deadline = Instant::now() + LAST_REQUESTS;
    loop {
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Unmounted(result)) => return served(result),
            Ok(Event::End | Event::Reload) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Ok(Served::InPart);
            }
        }
    }
}

/// What was served of a mount that ends.
enum Served {
    /// All of it.
    Whole,
    /// Files are still open: the end of this process closes the connection to the kernel, which fails what is left.
    InPart,
}

/// How serving ended. A request that was on its way when the mount went is no failure.
fn served(result: std::io::Result<()>) -> Result<Served, Failure> {
    match result {
        Err(error) if error.raw_os_error() != Some(Errno::CONNABORTED.raw_os_error()) => {
            Err(Failure::system(format!("the mount broke: {error}")))
        }
        _ => Ok(Served::Whole),
    }
}

/// Half of what the process may have is for files that nobody has open.
fn recent_descriptors_max() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 2).unwrap_or(usize::MAX).min(RECENT_DESCRIPTORS_MAX)
}

/// Descriptors, and the length of files: the limit on that is the application's, and the kernel
/// has looked at it before it asks us.
fn raise_limits() {
    for resource in [Resource::Nofile, Resource::Fsize] {
        let limit = getrlimit(resource);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if setrlimit(resource, raised).is_err() {
            tracing::debug!("the limit {resource:?} stays at {:?}", limit.current);
        }
    }
    // A write past a limit that cannot be raised is an error, and not the end of the mount.
    let ignored = Arc::new(std::sync::atomic::AtomicBool::new(false));
    if let Err(error) = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, ignored) {
        tracing::debug!(%error, "SIGXFSZ is not handled");
    }
}
