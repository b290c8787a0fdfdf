//! The machines, what runs on them, and what can be done to them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rampool_cli::size::ByteSize;
use rustix::process::{Pid, Signal, kill_process};

use super::application::{self, Application};
use super::liar::Liar;
use super::net::{Machine, Switch};
use super::relay::{PORT, Relay};
use crate::binaries::{Binaries, output};
use crate::daemon::Daemon;
use crate::mounted::Mounted;
use crate::scratch::Scratch;
use crate::stop::Stop;

/// Ordinary servers. The last has a relay in front of it.
pub(super) const SERVERS: usize = 4;
const LENDS: ByteSize = ByteSize::mib(64);
const CACHE: ByteSize = ByteSize::mib(16);
/// The application's file: three times the cache.
const BLOCKS: u32 = 12_288;
/// Of the file's blocks so many are lent when the pool is full again.
const LENT_MIN: u64 = 6_000;
/// What is under way when nobody asks any more has an end by then.
const QUIET_WITHIN: Duration = Duration::from_secs(5);
/// The tier may have taken blocks off its queue for so long without having sent them.
const STAYS_QUIET: Duration = Duration::from_millis(150);
const POLL: Duration = Duration::from_millis(100);

/// Whose keys a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    Ours,
    OfAnotherPool,
}

/// All of it. Fields are dropped in this order.
pub(super) struct Scene {
    pub(super) application: Application,
    mount: Mounted,
    servers: Vec<Server>,
    pub(super) relay: Relay,
    pub(super) liar: Liar,
    client: Machine,
    _others: Vec<Machine>,
    binaries: Binaries,
    scratch: Scratch,
    _switch: Switch,
}

struct Server {
    machine: Machine,
    daemon: Option<Daemon>,
    /// After the daemon: goes when that has ended.
    clock: Option<MovedClock>,
    /// Where it is known to others, if not where it listens.
    advertise: Option<SocketAddr>,
    number: usize,
}

/// What libfaketime shares in memory, and leaves there when its process is ended by a signal.
struct MovedClock(Pid);

/// What the mount says about itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    pub(super) connected: usize,
    pub(super) lent: u64,
    pub(super) queued: u64,
    pub(super) waiting: u64,
    pub(super) remote_reads: u64,
}

/// What the mount's process holds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(super) struct Held {
    pub(super) resident_mib: f64,
    pub(super) descriptors: usize,
    pub(super) threads: usize,
}

impl Scene {
    pub(super) fn new(binaries: Binaries, scratch: Scratch, stop: &Stop) -> Result<Self> {
        let switch = Switch::new()?;
        let client = switch.machine(1)?;
        make_keys(&binaries, &scratch)?;
        let mut servers = Vec::new();
        for number in 0..SERVERS {
            let machine = switch.machine(number as u8 + 2)?;
            servers.push(Server { machine, daemon: None, clock: None, advertise: None, number });
        }
        let (before_relay, lies) = (switch.machine(20)?, switch.machine(21)?);
        let relayed = SocketAddr::new(servers[SERVERS - 1].machine.address, PORT);
        let relay = Relay::start(&before_relay, relayed)?;
        servers[SERVERS - 1].advertise = Some(relay.address);
        let liar = Liar::start(&lies, &scratch.join("keys/server"))?;
        let first = SocketAddr::new(servers[0].machine.address, PORT);
        for server in &mut servers {
            server.start(&binaries, &scratch, first, Keys::Ours, None, stop)?;
        }

        let source = scratch.join("source");
        fs::create_dir(&source)?;
        application::prepare(&source.join("file"), BLOCKS)?;
        let mountpoint = scratch.join("mount");
        let mut command = client.command(&binaries.rampool);
        command.arg("mount").arg(&source).arg(&mountpoint);
        command.args(["--cache-size", &CACHE.bytes().to_string(), "--use-servers", "always"]);
        command.arg("--keys").arg(scratch.join("keys/client"));
        // One leads to the others; the liar does not gossip.
        for server in [first, liar.address] {
            command.args(["--server", &server.to_string()]);
        }
        let mount = Mounted::start("rampool mount", command, &mountpoint, stop)?;
        let file = Path::new("file");
        let application = Application::start(&mount.path().join(file), &source.join(file), BLOCKS)?;
        let _others = vec![before_relay, lies];
        Ok(Self {
            application,
            mount,
            servers,
            relay,
            liar,
            client,
            _others,
            binaries,
            scratch,
            _switch: switch,
        })
    }

    /// Waits until all servers are connected and hold what the cache does not. Says how long it took.
    pub(super) fn wait_until_full(&self, limit: Duration, stop: &Stop) -> Result<Option<Duration>> {
        let start = Instant::now();
        let before = self.state()?.remote_reads;
        while start.elapsed() < limit {
            stop.check()?;
            let state = self.state()?;
            let is_full = state.connected == SERVERS + 1 && state.lent >= LENT_MIN;
            if is_full && state.remote_reads > before {
                return Ok(Some(start.elapsed()));
            }
            thread::sleep(POLL);
        }
        Ok(None)
    }

    /// Ends a server with a signal; `Signal::STOP` and `CONT` only freeze it.
    pub(super) fn signal(&mut self, server: usize, signal: Signal) -> Result<()> {
        let Some(daemon) = &mut self.servers[server].daemon else { bail!("it does not run") };
        kill_process(daemon.pid(), signal)?;
        if signal == Signal::KILL || signal == Signal::TERM {
            // Waits for its end.
            self.servers[server].daemon = None;
            self.servers[server].clock = None;
        }
        Ok(())
    }

    /// Starts a server again, with other keys or another clock if need be.
    pub(super) fn start(
        &mut self,
        server: usize,
        keys: Keys,
        clock: Option<&str>,
        stop: &Stop,
    ) -> Result<()> {
        // Whoever runs leads to the rest.
        let other = self.servers.iter().find(|other| other.daemon.is_some());
        let other = other.unwrap_or(&self.servers[0]).machine.address;
        let join = SocketAddr::new(other, PORT);
        let (binaries, scratch) = (&self.binaries, &self.scratch);
        self.servers[server].start(binaries, scratch, join, keys, clock, stop)
    }

    /// Cuts the client off from a server, or mends that.
    pub(super) fn cut(&self, server: usize, is_cut: bool) -> Result<()> {
        self.client.cut(self.servers[server].machine.address, is_cut)
    }

    /// Ends the application, and says what is under way after a while.
    pub(super) fn quiet(&mut self) -> Result<u64> {
        self.application.end();
        let start = Instant::now();
        let mut quiet_since = None;
        loop {
            let State { queued, waiting, .. } = self.state()?;
            let under_way = queued + waiting;
            let is_quiet = under_way == 0
                && quiet_since.get_or_insert_with(Instant::now).elapsed() > STAYS_QUIET;
            if is_quiet || start.elapsed() > QUIET_WITHIN {
                return Ok(under_way);
            }
            if under_way > 0 {
                quiet_since = None;
            }
            thread::sleep(POLL);
        }
    }

    /// What the mount says now.
    pub(super) fn state(&self) -> Result<State> {
        let mut command = Command::new(&self.binaries.rampool);
        command.arg("status").arg(self.mount.path()).args(["-w", "json"]);
        let status: serde_json::Value = serde_json::from_str(&output(command)?)?;
        let number = |path: &str| status.pointer(path).and_then(serde_json::Value::as_u64);
        let servers = status.pointer("/remote/servers").and_then(serde_json::Value::as_array);
        let connected =
            servers.into_iter().flatten().filter(|server| server["state"] == "connected");
        Ok(State {
            connected: connected.count(),
            lent: number("/remote/lent_blocks").context("no such status")?,
            queued: number("/remote/queued_blocks").context("no such status")?,
            waiting: number("/remote/waiting_reads").context("no such status")?,
            remote_reads: number("/layers/remote/reads").context("no such status")?,
        })
    }

    /// What the mount's process holds now.
    pub(super) fn held(&mut self) -> Result<Held> {
        let process = PathBuf::from(format!("/proc/{}", self.mount.daemon().pid()));
        let status = fs::read_to_string(process.join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<usize>().ok()
        };
        Ok(Held {
            resident_mib: field("VmRSS:").unwrap_or(0) as f64 / 1024.0,
            descriptors: fs::read_dir(process.join("fd"))?.count(),
            threads: field("Threads:").unwrap_or(0),
        })
    }
}

impl Server {
    fn start(
        &mut self,
        binaries: &Binaries,
        scratch: &Scratch,
        join: SocketAddr,
        keys: Keys,
        clock: Option<&str>,
        stop: &Stop,
    ) -> Result<()> {
        let mut command = self.machine.command(&binaries.server);
        if let Some(clock) = clock {
            // By the program 'faketime' it would be a child of the one that we end.
            command.env("LD_PRELOAD", libfaketime()?).env("FAKETIME", clock);
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let listen = SocketAddr::new(self.machine.address, PORT);
        command.args(["--listen", &listen.to_string(), "--lend", &LENDS.bytes().to_string()]);
        if join != listen {
            command.args(["--join", &join.to_string()]);
        }
        if let Some(address) = self.advertise {
            command.args(["--advertise", &address.to_string()]);
        }
        let keys = match keys {
            Keys::Ours => "keys/server",
            Keys::OfAnotherPool => "others/server",
        };
        command.arg("--keys").arg(scratch.join(keys));
        command.arg("--status-socket").arg(scratch.join(&format!("server-{}.sock", self.number)));
        let mut daemon = Daemon::start("rampool-server", command)?;
        self.clock = clock.map(|_| MovedClock(daemon.pid()));
        daemon.wait_until(stop, |lines| {
            lines.iter().any(|line| line.contains("listening on")).then_some(())
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }
}

impl Drop for MovedClock {
    fn drop(&mut self) {
        for name in ["faketime_shm_", "sem.faketime_sem_"] {
            // It may not be there, and is in nobody's way.
            let _ = fs::remove_file(format!("/dev/shm/{name}{}", self.0.as_raw_nonzero()));
        }
    }
}

/// The library that moves a process's clock.
pub(super) fn libfaketime() -> Result<PathBuf> {
    let dirs = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    dirs.map(|dir| dir.path().join("faketime/libfaketime.so.1"))
        .find(|library| library.exists())
        .context("faketime is not installed")
}

/// Keys of this pool, and of another one.
fn make_keys(binaries: &Binaries, scratch: &Scratch) -> Result<()> {
    for pool in ["keys", "others"] {
        let dir = scratch.join(pool);
        let keys = |arguments: &[&str]| {
            let mut command = Command::new(&binaries.rampool);
            command.args(["keys", arguments[0]]).arg(&dir).args(&arguments[1..]);
            output(command).context("cannot make keys")
        };
        keys(&["init"])?;
        keys(&["issue", "server", "--role", "server"])?;
        keys(&["issue", "client", "--role", "client"])?;
    }
    Ok(())
}
