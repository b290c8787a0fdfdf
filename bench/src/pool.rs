//! A pool on this machine: keys, a server that lends, clients that mount. All of it are guards.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rampool_cli::size::ByteSize;

use crate::binaries::{Binaries, output};
use crate::daemon::Daemon;
use crate::group::Group;
use crate::mounted::Mounted;
use crate::quic_echo::address_in;
use crate::scratch::Scratch;
use crate::status::{ClientStatus, ServerStatus};
use crate::stop::Stop;

/// How often a status is asked for while waiting, and how long nothing must move to be settled.
const SETTLE_INTERVAL: Duration = Duration::from_millis(300);
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The programs, a place for files and the keys of both roles.
pub(crate) struct Pool {
    binaries: Binaries,
    scratch: Scratch,
    /// How many servers were started.
    servers: Cell<u32>,
    /// Of a server.
    pub(crate) server_keys: PathBuf,
    /// Of a client.
    pub(crate) client_keys: PathBuf,
}

/// What to mount.
pub(crate) struct MountPlan<'a> {
    /// The directory below which everything is.
    pub(crate) source: &'a Path,
    /// The name of the mount point in the scratch directory.
    pub(crate) name: &'a str,
    /// `--cache-size`.
    pub(crate) cache: ByteSize,
    /// `--server`, each.
    pub(crate) servers: &'a [SocketAddr],
    /// Servers are used where they are measured faster than the source, as is usual; otherwise always.
    pub(crate) by_measure: bool,
    /// `-o ro`.
    pub(crate) read_only: bool,
    /// The control group that it begins in.
    pub(crate) group: Option<&'a Group>,
}

impl<'a> MountPlan<'a> {
    /// Without servers, to read and write.
    pub(crate) fn new(source: &'a Path, name: &'a str, cache: ByteSize) -> Self {
        Self { source, name, cache, servers: &[], by_measure: false, read_only: false, group: None }
    }
}

/// A running `rampool mount`.
pub(crate) struct Client {
    mounted: Mounted,
    rampool: PathBuf,
}

/// Asks a mount for its status, also while the mount itself is borrowed.
pub(crate) struct Asker {
    mountpoint: PathBuf,
    rampool: PathBuf,
}

/// A running `rampool-server`.
pub(crate) struct Lender {
    daemon: Daemon,
    program: PathBuf,
    socket: PathBuf,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Pool {
    /// Makes the keys with the programs themselves.
    pub(crate) fn new(binaries: Binaries, scratch: Scratch) -> Result<Self> {
        let dir = scratch.join("keys");
        let keys = |arguments: &[&str]| {
            let mut command = Command::new(&binaries.rampool);
            command.args(["keys", arguments[0]]).arg(&dir).args(&arguments[1..]);
            output(command).context("cannot make the pool's keys")
        };
        keys(&["init"])?;
        keys(&["issue", "lender", "--role", "server"])?;
        keys(&["issue", "mount", "--role", "client"])?;
        let (server_keys, client_keys) = (dir.join("lender"), dir.join("mount"));
        Ok(Self { binaries, scratch, servers: Cell::new(0), server_keys, client_keys })
    }

    /// The place for files.
    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Starts a server that lends `lend`.
    pub(crate) fn lend(&self, lend: ByteSize, stop: &Stop) -> Result<Lender> {
        self.lend_at(SocketAddr::from(([127, 0, 0, 1], 0)), lend, stop)
    }

    /// Starts a server with these arguments, in a control group.
    pub(crate) fn lend_in(&self, group: &Group, arguments: &[&str], stop: &Stop) -> Result<Lender> {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        self.start_server(listen, arguments, Some(group), stop)
    }

    /// Starts a server that listens at `listen`, at a port of its choice if that is 0.
    pub(crate) fn lend_at(
        &self,
        listen: SocketAddr,
        lend: ByteSize,
        stop: &Stop,
    ) -> Result<Lender> {
        self.start_server(listen, &["--lend", &lend.bytes().to_string()], None, stop)
    }

    fn start_server(
        &self,
        listen: SocketAddr,
        arguments: &[&str],
        group: Option<&Group>,
        stop: &Stop,
    ) -> Result<Lender> {
        let number = self.servers.replace(self.servers.get() + 1);
        let socket = self.scratch.join(&format!("server-{number}.sock"));
        let mut command = Command::new(&self.binaries.server);
        command.args(["--listen", &listen.to_string()]).args(arguments);
        if let Some(group) = group {
            group.place_in(&mut command)?;
        }
        command.arg("--keys").arg(&self.server_keys);
        command.arg("--status-socket").arg(&socket);
        let mut daemon = Daemon::start("rampool-server", command)?;
        let address = daemon.wait_until(stop, |lines| lines.iter().find_map(|l| address_in(l)))?;
        Ok(Lender { daemon, program: self.binaries.server.clone(), socket, address })
    }

    /// Mounts, and waits until a server that was named is connected.
    pub(crate) fn mount(&self, plan: &MountPlan<'_>, stop: &Stop) -> Result<Client> {
        let mountpoint = self.scratch.join(plan.name);
        std::fs::create_dir_all(&mountpoint)?;
        let mut command = Command::new(&self.binaries.rampool);
        command.arg("mount").arg(plan.source).arg(&mountpoint);
        command.args(["--cache-size", &plan.cache.bytes().to_string()]);
        if plan.servers.is_empty() {
            // This machine may belong to a pool.
            command.args(["--server", "none"]);
        }
        for server in plan.servers {
            command.args(["--server", &server.to_string()]);
        }
        if !plan.servers.is_empty() {
            command.arg("--keys").arg(&self.client_keys);
            if !plan.by_measure {
                command.args(["--use-servers", "always"]);
            }
        }
        if plan.read_only {
            command.args(["-o", "ro"]);
        }
        if let Some(group) = plan.group {
            group.place_in(&mut command)?;
        }
        let mounted = Mounted::start("rampool mount", command, &mountpoint, stop)?;
        let client = Client { mounted, rampool: self.binaries.rampool.clone() };
        if !plan.servers.is_empty() {
            client.wait_for_servers(stop)?;
        }
        Ok(client)
    }
}

impl Client {
    /// The mount point.
    pub(crate) fn path(&self) -> &Path {
        self.mounted.path()
    }

    /// The process behind it.
    pub(crate) fn daemon(&mut self) -> &mut Daemon {
        self.mounted.daemon()
    }

    /// For asking without the guard at hand.
    pub(crate) fn asker(&self) -> Asker {
        Asker { mountpoint: self.path().to_owned(), rampool: self.rampool.clone() }
    }

    /// Its status now.
    pub(crate) fn status(&self) -> Result<ClientStatus> {
        self.asker().status()
    }

    /// Waits until everything that was evicted has been lent or dropped.
    pub(crate) fn settle(&self, stop: &Stop) -> Result<ClientStatus> {
        let start = Instant::now();
        let mut before = self.status()?;
        loop {
            thread::sleep(SETTLE_INTERVAL);
            stop.check()?;
            let now = self.status()?;
            if now.settled_since(&before) || start.elapsed() > SETTLE_TIMEOUT {
                return Ok(now);
            }
            before = now;
        }
    }

    fn wait_for_servers(&self, stop: &Stop) -> Result<()> {
        let start = Instant::now();
        loop {
            let servers = self.status()?.remote.servers;
            if !servers.is_empty() && servers.iter().all(|server| server.capacity_bytes > 0) {
                return Ok(());
            }
            stop.check()?;
            if start.elapsed() > CONNECT_TIMEOUT {
                let why = servers.into_iter().find_map(|server| server.last_error);
                bail!(
                    "the mount did not connect to its server: {}",
                    why.as_deref().unwrap_or("no reason given")
                );
            }
            thread::sleep(SETTLE_INTERVAL / 10);
        }
    }
}

impl Asker {
    /// The mount's status now.
    pub(crate) fn status(&self) -> Result<ClientStatus> {
        let mut command = Command::new(&self.rampool);
        command.arg("status").arg(&self.mountpoint).args(["-w", "json"]);
        let text = output(command)?;
        serde_json::from_str(&text).context("'rampool status' gave what this bench cannot read")
    }
}

impl Lender {
    /// The process.
    pub(crate) fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Its status now.
    pub(crate) fn status(&self) -> Result<ServerStatus> {
        let mut command = Command::new(&self.program);
        command.arg("status").arg("--status-socket").arg(&self.socket).args(["-w", "json"]);
        let text = output(command)?;
        serde_json::from_str(&text)
            .context("'rampool-server status' gave what this bench cannot read")
    }

    /// The same without a process for it, for many times a second.
    pub(crate) fn glance(&self) -> Result<ServerStatus> {
        serde_json::from_str(&rampool_cli::status::fetch(&self.socket)?)
            .context("the server's status is none that this bench can read")
    }
}
