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
mod exported;
mod gossip;
mod lend;
mod membership;
mod messages;
mod reload;
mod serve;
mod status;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rampool_cli::daemon::Daemon;
use rampool_cli::generate::Unwritten;
use rampool_cli::log::{Log, Target};
use rampool_cli::metrics::Watched;
use rampool_cli::plain::plain;
use rampool_cli::service as manager;
use rampool_cli::show::show;
use rampool_cli::status::{StatusSocket, fetch};
use rampool_keys::renewal::Renewal;
use rampool_keys::token::TokenError;
use rampool_protocol::certs::{Admission, Role};
use rustix::mm::MlockAllFlags;
use rustix::process::Signal;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use accept::{Acceptor, Clients, Hall};
use args::{Settings, Shape, Task};
use blocks::Store;
use gossip::Gossip;
use lend::{Follower, Lender};
use membership::Membership;
use reload::{Reload, Running};
use serve::Service;
use status::{Report, Reporter};

/// The command line or the keys are wrong, or there is nothing of what is asked for; as in mount(8).
const EXIT_USAGE: u8 = 1;
/// The system, or the network, refuses something.
const EXIT_SYSTEM: u8 = 2;

/// The head of the example of a configuration.
const ABOUT: &str = "A server of rampool: rampool-server --config THIS_FILE, or the service rampool-server for \
    /etc/rampool/server.toml. What is not set is as each comment says.";

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let line = match args::parse(&words) {
        Ok(line) => line,
        Err(refusal) if refusal.tell("rampool-server") => return ExitCode::SUCCESS,
        Err(_) => return ExitCode::from(EXIT_USAGE),
    };
    let task = match line.said.clone().resolve() {
        Ok(task) => task,
        Err(error) => return complain(&format!("{error:#}"), EXIT_USAGE),
    };
    let (done, code) = match task {
        Task::Status(socket, shape) => coded(show_status(&socket, shape)),
        Task::Drain(socket) => coded(drain(&socket)),
        Task::Token(args) => coded(membership::token(&args)),
        Task::Join(args) => {
            let done = args.join(Role::Server);
            let is_wrong = done.as_ref().is_err_and(anyhow::Error::is::<TokenError>);
            (done, if is_wrong { EXIT_USAGE } else { EXIT_SYSTEM })
        }
        Task::Revoke(args) => coded(membership::revoke(&args)),
        Task::Generate(what) => {
            let done = what.run(args::definition(), ABOUT, exported::METRICS);
            let is_named = matches!(done, Err(Unwritten::Into(..)));
            (done.map_err(Into::into), if is_named { EXIT_USAGE } else { EXIT_SYSTEM })
        }
        Task::Serve(settings) => {
            let log = match Log::start(&settings.log, settings.log_format, Target::Stderr) {
                Ok(log) => log,
                Err(error) => return complain(&format!("--log: {error}"), EXIT_USAGE),
            };
            match Membership::load(&settings.keys, settings.init) {
                Ok(member) => (run(*settings, member, Reload::new(words, &line, log)), EXIT_SYSTEM),
                Err(error) => return complain(&format!("{error:#}"), EXIT_USAGE),
            }
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("{error:#}"), code),
    }
}

/// With the exit code that it means if it failed: the system's where that refused something, but for what is not there.
fn coded(done: anyhow::Result<()>) -> (anyhow::Result<()>, u8) {
    let refused = |cause: &(dyn std::error::Error + 'static)| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        kind.is_some_and(|kind| kind != io::ErrorKind::NotFound) || cause.is::<rustix::io::Errno>()
    };
    let is_systems = done.as_ref().is_err_and(|error| error.chain().any(refused));
    (done, if is_systems { EXIT_SYSTEM } else { EXIT_USAGE })
}

/// Serves until a signal ends it.
fn run(settings: Settings, member: Membership, reload: Reload) -> anyhow::Result<()> {
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
        // A signal that nobody waits for yet would end the server.
        let reread = signal(SignalKind::hangup()).context("cannot wait for signals")?;
        let Membership { identity, authority, known } = member;
        let admission =
            if authority.is_some() { Admission::Strangers } else { Admission::Members };
        let acceptor = Acceptor::bind(settings.listen, &identity, admission)
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
        if let Some(share) = settings.client_max {
            store.limit_clients(share.of(settings.limit.size().bytes()));
        }
        let service = Arc::new(Service::new(store, lender.subscribe()));
        let clients = Arc::new(Clients::default());
        let _follower = Follower::start(lender.clone(), service.clone(), clients.clone())
            .context("cannot start a thread")?;

        let own = settings.advertise.map_or_else(
            || gossip::own_address(listen),
            |(ip, port)| SocketAddr::new(ip, port.unwrap_or(listen.port())),
        );
        let mut join = settings.join;
        // The server that let this one in tells of the others.
        if join.is_empty() {
            join.extend(known);
        }
        let (credentials, current) = watch::channel(identity.credentials());
        let gossip = Gossip::start(own, join, acceptor.endpoint(), current.clone());
        let endpoint = acceptor.endpoint();
        let _renewal = Renewal::start(&settings.keys, Role::Server, move |identity| {
            endpoint.set_server_config(Some(accept::config(&identity, admission)));
            credentials.send_replace(identity.credentials());
        })
        .context("cannot start a thread")?;

        let socket =
            settings.status_socket.unwrap_or_else(|| status::default_socket(listen.port()));
        let reporter = Arc::new(Reporter {
            listen,
            since: Instant::now(),
            limit: settings.limit,
            lender: lender.clone(),
            service: service.clone(),
            clients: clients.clone(),
            gossip: gossip.clone(),
            credentials: current.clone(),
        });
        let document = move || reporter.document();
        let metrics = settings.metrics.map(|address| {
            Watched::serve(address, exported::METRICS, exported::HISTORY, document.clone())
                .map_err(|error| anyhow!("--metrics {address}: {error}; choose another"))
        });
        let _metrics = metrics.transpose()?;
        let _status = StatusSocket::serve(socket.clone(), move |_, _| document())
            .map_err(|error| cannot_tell(&socket, &error))?;

        info!("listening on {listen}, {}", lender.describe());
        if own.ip().is_loopback() && !listen.ip().is_loopback() {
            warn!("this machine has no address for others; should they find this server, use --advertise");
        } else if own != listen {
            info!("other servers and their clients are told to find this one at {own}");
        }
        if authority.is_some() {
            info!("the pool's key is here: 'rampool-server token' prints what others join with");
        }
        if let Some(hint) = acceptor.hint() {
            warn!("{hint}");
        }
        let running =
            Running { lender: lender.clone(), service: service.clone(), limit: settings.limit };
        tokio::spawn(reload.keep(reread, running));
        manager::is_ready();
        if let Some(every) = manager::alive_every() {
            // On the thread that does the work.
            tokio::spawn(async move {
                loop {
                    manager::is_alive();
                    tokio::time::sleep(every).await;
                }
            });
        }
        let authority = authority.map(Arc::new);
        let (clients_left, others) = (clients.clone(), gossip.clone());
        let lending = lender.subscribe();
        let hall = Hall { service, clients, lending, gossip, credentials: current, authority };
        let drained = async {
            stop.recv().await;
            manager::ends();
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
        _ => anyhow!(error).context(format!("cannot ask the server at {}", socket.display())),
    })?;
    let report: Report = serde_json::from_str(&document)
        .with_context(|| format!("{} is another program's", socket.display()))?;
    let text = match shape {
        Shape::Table => report.table(),
        Shape::Json => serde_json::to_string_pretty(&report)?,
    };
    show(&format!("{text}\n")).context("cannot write to stdout")
}

/// Asks the server at `socket` to end, and waits until it has.
fn drain(socket: &Path) -> anyhow::Result<()> {
    let daemon = Daemon::at(socket).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            anyhow!("no server is running at {}", socket.display())
        }
        _ => anyhow!(error).context(format!("cannot tell whose socket {} is", socket.display())),
    })?;
    daemon
        .signal(Signal::TERM)
        .with_context(|| format!("cannot end the server at {}", socket.display()))?;
    daemon.wait(None).context("cannot wait for the server")?;
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

fn complain(what: &str, code: u8) -> ExitCode {
    rampool_cli::say!("rampool-server: {}", plain(what));
    ExitCode::from(code)
}
