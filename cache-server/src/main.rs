//! `rampool-server`: lends a machine's idle memory to the clients of a pool.
//!
//! The way of a request: [`accept`] takes it off the network, [`serve`] answers it from
//! [`blocks`], and [`lend`] says how much may be held. [`gossip`] knows who else lends, [`status`] tells about all
//! of it.
//!
//! One thread with one runtime does all the network's work; the status socket has its own.

mod accept;
mod answers;
mod args;
mod blocks;
mod counts;
mod gossip;
mod lend;
mod messages;
mod serve;
mod status;

use std::io;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::Parser as _;
use rampool_protocol::certs::{Identity, Role};
use rampool_protocol::status::{StatusSocket, fetch};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::mm::MlockAllFlags;
use rustix::process::{PidfdFlags, Signal};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use accept::{Acceptor, Clients, Hall};
use args::{Args, Settings, Shape, Task};
use blocks::Store;
use gossip::Gossip;
use lend::{Follower, Lender};
use serve::Service;
use status::{Report, Reporter};

/// The command line or the keys are wrong; as in mount(8).
const EXIT_USAGE: u8 = 1;
/// The system refuses something.
const EXIT_SYSTEM: u8 = 2;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => {
            return complain(&one_line(&error.to_string()), EXIT_USAGE);
        }
        // --help and --version.
        Err(text) => text.exit(),
    };
    let task = match args.resolve() {
        Ok(task) => task,
        Err(error) => return complain(&format!("{error:#}"), EXIT_USAGE),
    };
    let done = match task {
        Task::Status(socket, shape) => show_status(&socket, shape),
        Task::Drain(socket) => drain(&socket),
        Task::Serve(settings) => {
            start_log(settings.verbose);
            match Identity::load(&settings.keys, Role::Server) {
                Ok(identity) => run(settings, &identity),
                Err(error) => return complain(&error.to_string(), EXIT_USAGE),
            }
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("{error:#}"), EXIT_SYSTEM),
    }
}

/// Serves until a signal ends it.
fn run(settings: Settings, identity: &Identity) -> anyhow::Result<()> {
    // The program itself stays in memory when there is none: giving back must not wait for the disk. The
    // lent memory, which comes later, is not meant. Where it is not allowed, it goes without.
    let _ = rustix::mm::mlockall(MlockAllFlags::CURRENT);
    // Should the kernel have to kill somebody after all, it shall be us and not a process of the owner.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let done = runtime.block_on(async {
        let mut stop = StopSignal::new().context("cannot wait for signals")?;
        let acceptor = Acceptor::bind(settings.listen, identity)
            .map_err(|error| cannot_listen(&settings, &error))?;
        let listen = acceptor.address();

        let lender = match settings.policy.clone() {
            Some(policy) => {
                Lender::auto(policy).context("cannot see what is idle; use --lend SIZE")?
            }
            None => Lender::fixed(settings.limit),
        };
        let mut store = Store::new(settings.limit.segments())
            .with_context(|| format!("cannot reserve {}", settings.limit.size()))?;
        if let Some(bytes) = settings.client_max {
            store.limit_clients(bytes);
        }
        let service = Arc::new(Service::new(store, lender.subscribe()));
        let clients = Arc::new(Clients::default());
        let _follower = Follower::start(lender.clone(), service.clone(), clients.clone())
            .context("cannot start a thread")?;

        let own = settings.advertise.map_or_else(
            || gossip::own_address(listen),
            |(ip, port)| SocketAddr::new(ip, port.unwrap_or(listen.port())),
        );
        let gossip =
            Gossip::start(own, settings.join, acceptor.endpoint(), identity.client_config());

        let socket =
            settings.status_socket.unwrap_or_else(|| status::default_socket(listen.port()));
        let reporter = Reporter {
            listen,
            since: Instant::now(),
            limit: settings.limit,
            lender: lender.clone(),
            service: service.clone(),
            clients: clients.clone(),
            gossip: gossip.clone(),
        };
        let _status = StatusSocket::serve(socket.clone(), move || reporter.document())
            .map_err(|error| cannot_tell(&socket, &error))?;

        info!("listening on {listen}, {}", lender.describe());
        if own.ip().is_loopback() && !listen.ip().is_loopback() {
            warn!("this machine has no address for others; should they find this server, use --advertise");
        } else if own != listen {
            info!("other servers and their clients are told to find this one at {own}");
        }
        if let Some(hint) = acceptor.hint() {
            warn!("{hint}");
        }
        let (clients_left, others) = (clients.clone(), gossip.clone());
        let hall = Hall { service, clients, lending: lender.subscribe(), gossip };
        let drained = async {
            stop.recv().await;
            lender.drain();
            others.leave().await;
            let left = async {
                while !clients_left.list().is_empty() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                () = tokio::time::sleep(settings.drain_for) => {}
                () = left => {}
                () = stop.recv() => {}
            }
        };
        acceptor.run(hall, drained).await;
        info!("ended");
        Ok(())
    });
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
    done
}

fn show_status(socket: &Path, shape: Shape) -> anyhow::Result<()> {
    let document = fetch(socket).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            anyhow!("no server is running at {}", socket.display())
        }
        _ => anyhow!("cannot ask the server at {}: {error}", socket.display()),
    })?;
    let report: Report = serde_json::from_str(&document)
        .with_context(|| format!("{} is another program's", socket.display()))?;
    let text = match shape {
        Shape::Table => report.table(),
        Shape::Json => serde_json::to_string_pretty(&report)?,
    };
    use io::Write as _;
    // Whoever reads may have seen enough and gone.
    let _ = writeln!(io::stdout(), "{text}");
    Ok(())
}

/// Asks the server at `socket` to end, and waits until it has.
fn drain(socket: &Path) -> anyhow::Result<()> {
    let peer = UnixStream::connect(socket)
        .map_err(|_| anyhow!("no server is running at {}", socket.display()))?;
    let pid = status::served_by(&peer)
        .with_context(|| format!("cannot tell whose socket {} is", socket.display()))?;
    // A descriptor, because numbers of processes are used again.
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .with_context(|| format!("the server at {} has just ended", socket.display()))?;
    rustix::process::pidfd_send_signal(&process, Signal::TERM)
        .with_context(|| format!("cannot end the server at {}", socket.display()))?;
    let mut ends = [PollFd::new(&process, PollFlags::IN)];
    while let Err(error) = rustix::event::poll(&mut ends, None) {
        if error != Errno::INTR {
            return Err(error).context("cannot wait for the server");
        }
    }
    Ok(())
}

/// Receives SIGINT and SIGTERM.
struct StopSignal {
    interrupt: Signals,
    terminate: Signals,
}

impl StopSignal {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn cannot_listen(settings: &Settings, error: &io::Error) -> anyhow::Error {
    let listen = settings.listen;
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow!("address already in use: {listen}; choose another --listen")
        }
        io::ErrorKind::AddrNotAvailable => {
            anyhow!("{listen} is no address of this machine; choose another --listen")
        }
        _ => anyhow!("cannot listen on {listen}: {error}"),
    }
}

fn cannot_tell(socket: &Path, error: &io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(
            "a server already tells its status at {}; choose another --status-socket",
            socket.display()
        ),
        _ => anyhow!("cannot make the status socket {}: {error}", socket.display()),
    }
}

fn start_log(verbose: u8) {
    let usual = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
}

/// clap explains over several lines; the first part says what is wrong.
fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let wrong: Vec<_> =
        text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:")).collect();
    format!("{} (see --help)", wrong.join(" ").trim())
}

fn complain(what: &str, code: u8) -> ExitCode {
    eprintln!("rampool-server: {what}");
    ExitCode::from(code)
}
