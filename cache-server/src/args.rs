//! The command line: raw flags here, resolved values for the rest.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use rampool_cli::config::{Definition, Line, Refusal, Setting};
use rampool_cli::generate::Generate;
use rampool_cli::log;
use rampool_cli::seconds::seconds;
use rampool_cli::size::ByteSize;
use rampool_keys::SERVER_KEYS;
use rampool_keys::authority::TOKEN_HOURS_MAX;
use rampool_keys::command::{JoinArgs, RoleArg};
use rampool_protocol::endpoint::PORT_DEFAULT;

use crate::lend::{Detector, Limit, Policy, Share, sense};
use crate::status;

/// A client with less would lose what it has just put.
const CLIENT_MAX_LEAST: ByteSize = ByteSize::mib(8);

/// Lends a machine's idle memory to the clients of a rampool pool.
///
/// Memory is lent such that the kernel can take it back at any moment without asking. How much is lent
/// follows what the machine itself needs.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "rampool-server",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// A file in TOML with any of these options by their long names; what is given here goes before it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where to listen: ADDRESS or ADDRESS:PORT; port 0 takes any free one
    #[arg(long, value_name = "ADDR:PORT", default_value_t = default_listen())]
    listen: String,

    /// Another server of the pool, which tells of the rest; may be given several times, and may be a name that
    /// stands for all of them
    #[arg(long, value_name = "HOST[:PORT]", value_parser = host_and_port)]
    join: Vec<String>,

    /// Where other servers and their clients find this one [default: where it listens, or this
    /// machine's address]
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = address_and_port)]
    advertise: Option<(IpAddr, Option<u16>)>,

    /// How much memory to lend: what is idle, or a size such as 2G (powers of 1024), always
    #[arg(long, value_name = "auto|SIZE", default_value = "auto")]
    lend: String,

    /// The most memory to lend: a size, or a part of the machine's [default: 90%]
    #[arg(long, value_name = "SIZE|PER%")]
    lend_max: Option<Share>,

    /// Memory that stays free for the machine's own processes [default: 4%, 64M to 1G]
    #[arg(long, value_name = "SIZE|PER%")]
    keep_free: Option<Share>,

    /// The most memory for one client, of what is lent at most [default: all, in equal shares]
    #[arg(long, value_name = "SIZE|PER%")]
    max_per_client: Option<Share>,

    /// Lend again when the machine has been quiet for so long [default: 3]
    #[arg(long, value_name = "SECONDS", value_parser = time, allow_negative_numbers = true)]
    resume_after: Option<Duration>,

    /// What shows that the machine needs its memory [default: both]
    #[arg(long, value_enum, value_name = "NAME")]
    detector: Option<Detector>,

    /// How long blocks can still be had after SIGTERM or 'rampool-server drain'
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = time, allow_negative_numbers = true)]
    drain_for: Duration,

    /// Directory with ca.pem, cert.pem and key.pem. With the authority's ca.key beside them this server makes members
    /// of those who show a token
    #[arg(long, value_name = "DIR", default_value = SERVER_KEYS)]
    keys: PathBuf,

    /// Make a new pool, of which this server is the first, unless there are keys already
    #[arg(long)]
    init: bool,

    /// Where `rampool-server status` finds this server, instead of the usual place
    #[arg(long, value_name = "PATH")]
    status_socket: Option<PathBuf>,

    /// Serve metrics for Prometheus there, over HTTP, to all who ask: docs/metrics.md has what they mean
    #[arg(long, value_name = "ADDR:PORT", value_parser = rampool_cli::metrics::address)]
    metrics: Option<SocketAddr>,

    /// What is logged: error, warn, info, debug or trace, or in detail as RUST_LOG says it [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,

    /// How each line of the log is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = log::Format::Text)]
    log_format: log::Format,

    /// Log more; twice for all. RUST_LOG says it in detail
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Show what a running server of this user does, and why
    Status {
        #[command(flatten)]
        which: Which,

        /// How to show it
        #[arg(short = 'w', long = "format", value_name = "HOW", value_enum, default_value_t = Shape::Table)]
        write: Shape,
    },
    /// Print a token with which machines join the pool, on the server that has the authority's key
    Token(TokenArgs),
    /// Make this machine a server of a pool
    Join(JoinArgs),
    /// Take a machine out of the pool, on the server that has the authority's key
    Revoke(RevokeArgs),
    /// End a running server of this user: it takes nothing more, tells its clients, and ends
    Drain {
        #[command(flatten)]
        which: Which,
    },
    /// Write what is made from this command line: manuals, completions, an example of a configuration
    #[command(subcommand)]
    Generate(Generate),
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TokenArgs {
    /// Where machines find this server [default: what the running server says, or this machine's address]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = host_and_port)]
    pub(crate) address: Option<String>,
    /// What may join with it: a client, which mounts, or a server, which lends [default: both]
    #[arg(long, value_enum, value_name = "ROLE")]
    pub(crate) role: Option<RoleArg>,
    /// For how many hours it is good
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=TOKEN_HOURS_MAX.into()))]
    pub(crate) hours: u16,
    /// The directory with the authority's ca.pem and ca.key
    #[arg(long, value_name = "DIR", default_value = SERVER_KEYS)]
    pub(crate) keys: PathBuf,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RevokeArgs {
    /// What the machine is called; see 'rampool keys show'
    pub(crate) name: String,
    /// Only as a client, which mounts, or as a server, which lends [default: both]
    #[arg(long, value_enum, value_name = "ROLE")]
    pub(crate) role: Option<RoleArg>,
    /// The directory with the authority's ca.pem and ca.key
    #[arg(long, value_name = "DIR", default_value = SERVER_KEYS)]
    pub(crate) keys: PathBuf,
}

/// A running server.
#[derive(Clone, Debug, clap::Args)]
struct Which {
    /// The server's status socket
    #[arg(long, value_name = "PATH")]
    status_socket: Option<PathBuf>,

    /// Where the server listens; its port tells servers apart
    #[arg(long, value_name = "ADDR:PORT", default_value_t = default_listen(), conflicts_with = "status_socket")]
    listen: String,
}

/// How a report is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Task {
    /// Serve.
    Serve(Box<Settings>),
    /// Show the status of the server at this socket.
    Status(PathBuf, Shape),
    /// End the server at this socket.
    Drain(PathBuf),
    /// Print a join token.
    Token(TokenArgs),
    /// Join a pool.
    Join(JoinArgs),
    /// Revoke a machine's certificates.
    Revoke(RevokeArgs),
    /// Write what is made from the command line.
    Generate(Generate),
}

/// How to serve.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    /// Other servers: names or addresses, with ports.
    pub(crate) join: Vec<String>,
    /// Where others find this one. None for where it listens, or its port.
    pub(crate) advertise: Option<(IpAddr, Option<u16>)>,
    /// The most that is ever lent.
    pub(crate) limit: Limit,
    /// How much of it; none for all of it, always.
    pub(crate) policy: Option<Policy>,
    /// The most for one client: a size, or a part of the limit.
    pub(crate) client_max: Option<Share>,
    pub(crate) drain_for: Duration,
    pub(crate) keys: PathBuf,
    /// Make a pool where there are none.
    pub(crate) init: bool,
    /// None for the usual place, which depends on the port.
    pub(crate) status_socket: Option<PathBuf>,
    /// Where metrics are served.
    pub(crate) metrics: Option<SocketAddr>,
    /// As for RUST_LOG.
    pub(crate) log: String,
    pub(crate) log_format: log::Format,
}

/// The command line, whose options can be set in a file.
pub(crate) fn definition() -> Definition<'static> {
    let only_there = &["config", "verbose"];
    Definition { command: Args::command(), subcommand: None, only_there, adding: &[] }
}

/// What a command line says, with the configuration that it names.
///
/// # Errors
/// It, or the configuration, is not understood; or help was asked for.
pub(crate) fn parse(words: &[OsString]) -> Result<Line<Args>, Refusal> {
    let definition = definition();
    let given = definition.parse(words)?;
    let line = Line::<Args>::new(given.clone())?;
    let Some(path) = &line.said.config else { return Ok(line) };
    Line::new(definition.parse_with(words, &given, &Setting::from_file(path)?)?)
}

impl Args {
    /// Checks the flags and makes values of them.
    ///
    /// # Errors
    /// One line that names the flag and says what is wrong with it.
    pub(crate) fn resolve(self) -> anyhow::Result<Task> {
        match self.command {
            Some(Command::Status { which, write }) => Ok(Task::Status(which.socket()?, write)),
            Some(Command::Drain { which }) => Ok(Task::Drain(which.socket()?)),
            Some(Command::Token(args)) => Ok(Task::Token(args)),
            Some(Command::Join(args)) => Ok(Task::Join(args)),
            Some(Command::Revoke(args)) => Ok(Task::Revoke(args)),
            Some(Command::Generate(what)) => Ok(Task::Generate(what)),
            None => self.settings().map(Box::new).map(Task::Serve),
        }
    }

    fn settings(self) -> anyhow::Result<Settings> {
        // It goes before --log, which may be a file's.
        let log = match self.verbose {
            0 => self.log.unwrap_or_else(|| "info".to_owned()),
            1 => "debug".to_owned(),
            _ => "trace".to_owned(),
        };
        log::check(&log).map_err(|error| anyhow!("--log: {error}"))?;
        let machine = sense::machine_memory().context("cannot tell how much memory there is")?;
        let (limit, policy) = if self.lend == "auto" {
            let share = self.lend_max.unwrap_or(Share::PerCent(90.0));
            let limit = Limit::new(ByteSize(share.of(machine.bytes())), machine)
                .map_err(|error| anyhow!("--lend-max: {error}"))?;
            let policy = Policy {
                lend_max: limit.size().bytes(),
                keep_free: self.keep_free,
                resume_after: self.resume_after.unwrap_or(Duration::from_secs(3)),
                detector: self.detector.unwrap_or(Detector::Both),
            };
            (limit, Some(policy))
        } else {
            let only_auto = [
                ("--lend-max", self.lend_max.is_some()),
                ("--keep-free", self.keep_free.is_some()),
                ("--resume-after", self.resume_after.is_some()),
                ("--detector", self.detector.is_some()),
            ];
            if let Some((flag, _)) = only_auto.iter().find(|(_, given)| *given) {
                bail!("{flag} goes with '--lend auto'; a size is lent always");
            }
            let asked =
                self.lend.parse::<ByteSize>().map_err(|error| match self.lend.ends_with('%') {
                    true => anyhow!(
                        "--lend takes 'auto' or a size; for a part of what is idle: --lend-max {}",
                        self.lend
                    ),
                    false => anyhow!("--lend: {error}"),
                })?;
            (Limit::new(asked, machine).map_err(|error| anyhow!("--lend: {error}"))?, None)
        };
        let least = CLIENT_MAX_LEAST.bytes();
        if self.max_per_client.is_some_and(|share| share.of(limit.size().bytes()) < least) {
            bail!("--max-per-client: the least is {CLIENT_MAX_LEAST}");
        }
        Ok(Settings {
            listen: resolve_address(&self.listen)?,
            join: self.join,
            advertise: self.advertise,
            client_max: self.max_per_client,
            limit,
            policy,
            drain_for: self.drain_for,
            keys: self.keys,
            init: self.init,
            status_socket: self.status_socket,
            metrics: self.metrics,
            log,
            log_format: self.log_format,
        })
    }
}

impl Which {
    fn socket(self) -> anyhow::Result<PathBuf> {
        match self.status_socket {
            Some(path) => Ok(path),
            None => Ok(status::find_socket(resolve_address(&self.listen)?.port())),
        }
    }
}

/// A time, of a day at most.
fn time(text: &str) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds(text)?)
        .ok()
        .filter(|duration| *duration <= Duration::from_secs(86_400))
        .ok_or_else(|| "write 0 to 86400 seconds".to_owned())
}

/// What can be looked up: a name or an address, with a port.
fn host_and_port(text: &str) -> Result<String, String> {
    const WANTED: &str = "write HOST or HOST:PORT";
    if text.starts_with('_') {
        return Err("SRV records are for mounts; write HOST or HOST:PORT".to_owned());
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, PORT_DEFAULT).to_string());
    }
    match text.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(text.to_owned())
        }
        Some(_) => Err(WANTED.to_owned()),
        None if text.is_empty() => Err(WANTED.to_owned()),
        None => Ok(format!("{text}:{PORT_DEFAULT}")),
    }
}

/// An address of a machine, with or without a port.
fn address_and_port(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let parsed = match text.parse::<SocketAddr>() {
        Ok(address) => (address.ip(), Some(address.port())),
        Err(_) => match text.trim_matches(['[', ']']).parse() {
            Ok(ip) => (ip, None),
            Err(_) => return Err("write an IP address, or one with a port".to_owned()),
        },
    };
    if parsed.0.is_unspecified() || parsed.1 == Some(0) {
        return Err("nobody can be found there".to_owned());
    }
    Ok(parsed)
}

fn default_listen() -> String {
    format!("0.0.0.0:{PORT_DEFAULT}")
}

/// An address with or without a port, or a name that has one.
fn resolve_address(text: &str) -> anyhow::Result<SocketAddr> {
    // It would be taken for an address, of which it is the number.
    if text.parse::<u64>().is_ok() {
        bail!("--listen {text}: write ADDRESS or ADDRESS:PORT");
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok((address, PORT_DEFAULT).into());
    }
    let named = if text.contains(':') {
        text.to_socket_addrs()
    } else {
        (text, PORT_DEFAULT).to_socket_addrs()
    };
    let mut addresses =
        named.map_err(|error| anyhow!("--listen: cannot resolve '{text}': {error}"))?;
    addresses.next().ok_or_else(|| anyhow!("--listen: '{text}' has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn who_is_joined_has_a_port() {
        for (text, whole) in [
            ("pool.example", "pool.example:7167"),
            ("pool.example:80", "pool.example:80"),
            ("10.0.0.1", "10.0.0.1:7167"),
            ("::1", "[::1]:7167"),
            ("[::1]:5", "[::1]:5"),
        ] {
            assert_eq!(host_and_port(text).unwrap(), whole);
        }
        for bad in ["", ":80", "host:", "host:0", "host:many"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
        assert_eq!(address_and_port("[::1]:5"), Ok(([0, 0, 0, 0, 0, 0, 0, 1].into(), Some(5))));
        assert_eq!(address_and_port("10.0.0.1"), Ok(([10, 0, 0, 1].into(), None)));
        for bad in ["host", "0.0.0.0", "10.0.0.1:0", "::"] {
            assert!(address_and_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_may_lack_its_port() {
        for (text, address) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("127.0.0.1", "127.0.0.1:7167"),
            ("::1", "[::1]:7167"),
            ("[::]", "[::]:7167"),
            ("[::1]:5", "[::1]:5"),
        ] {
            assert_eq!(resolve_address(text).unwrap(), address.parse().unwrap(), "{text}");
        }
        let error = resolve_address("127.0.0.1:99999").unwrap_err().to_string();
        assert!(error.starts_with("--listen: cannot resolve '127.0.0.1:99999': "), "{error}");
    }
}
