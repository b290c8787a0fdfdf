//! The command line, as it is written: raw flags. `plan.rs` makes of them what is meant.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use rampool_cli::config::{Definition, Line, Refusal, Setting};
use rampool_cli::generate::Generate;
use rampool_cli::log;
use rampool_cli::seconds::seconds;
use rampool_keys::command::{JoinArgs, RoleArg};
use rampool_keys::pool::MEMBER_DAYS;

use crate::actions::cached::CachedArgs;
use crate::actions::{FilesArgs, ReadFilesArgs};
use crate::control::LimitArgs;
use crate::doctor::DoctorArgs;
use crate::failure::Failure;
use crate::plan::kernel_option;
use crate::profile::show::ProfileArgs;
use crate::remote::UseServers;
use crate::stats::StatsArgs;
use crate::top::TopArgs;

/// Mounts a directory through memory: local, lent by other machines, then the disk.
#[derive(Debug, Parser)]
#[command(name = "rampool", version, about, max_term_width = 100)]
#[command(after_help = "A first try, on one machine:\n  \
    mkdir /tmp/fast\n  \
    rampool mount /var/lib /tmp/fast --cache-size 512M\n\
    With memory of other machines: rampool join TOKEN, with the token that 'rampool-server token' prints there.")]
pub(crate) struct Cli {
    /// Say more on stderr; twice for everything. RUST_LOG does it in detail
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Mount a directory and serve it until it is unmounted
    Mount(Box<MountArgs>),
    /// Unmount a directory
    #[command(alias = "unmount")]
    Umount {
        /// Where it is mounted
        mountpoint: PathBuf,
        /// Take it out of the tree now, and end it when the last file on it is closed
        #[arg(short, long)]
        lazy: bool,
        /// Fail what is under way, should the daemon or the source not answer any more
        #[arg(short, long)]
        force: bool,
    },
    /// Show what this user's mounts do
    Status {
        /// One mount only; all without
        mountpoint: Option<PathBuf>,
        /// How to show it
        #[arg(short = 'w', long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Watch what mounts do, on a live screen
    Top(TopArgs),
    /// Print what mounts do, a line a second
    Stats(StatsArgs),
    /// Count for a while which files are read, and name those that miss most
    Profile(ProfileArgs),
    /// Bring files into the cache ahead of need
    Warm(ReadFilesArgs),
    /// Bring files into the cache and keep them there, whatever else is read, until they are unpinned or the mount ends
    Pin(ReadFilesArgs),
    /// Let pinned files leave the cache as others do
    Unpin(FilesArgs),
    /// Forget what is cached of files, here and with servers
    Drop(FilesArgs),
    /// Show how much of files is in the cache, and with servers
    Cached(CachedArgs),
    /// Change how much memory a mount uses, until it is mounted again
    Limit(LimitArgs),
    /// Look at what a mount needs: kernel, memory, clock, keys, servers, disk; and say what to do about what is missing
    Doctor(DoctorArgs),
    /// Make this machine a member of a pool, whose memory its mounts use from then on
    Join(JoinArgs),
    /// Make and show a pool's keys by hand
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Write what is made from this command line: manuals, completions, an example of a configuration
    #[command(subcommand)]
    Generate(Generate),
}

/// Mount SOURCE at MOUNTPOINT.
#[derive(Debug, Args)]
#[command(after_help = "Every long option can also be given as -o name=value, with - or _.\n\
    Exit codes are those of mount(8): 1 usage, 2 system, 32 the mount failed.")]
pub(crate) struct MountArgs {
    /// The directory to mount, on any Linux filesystem
    #[arg(required_unless_present = "config")]
    pub(crate) source: Option<PathBuf>,
    /// Where to mount it: an empty directory, or SOURCE itself
    #[arg(required_unless_present = "config")]
    pub(crate) mountpoint: Option<PathBuf>,
    /// A file in TOML with any of these options by their long names; what is given here goes before it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Memory for the local cache, with all that belongs to it: a size, or a part of what there is [default: 25%, at most 1G]
    #[arg(long, value_name = "SIZE|PER%", allow_negative_numbers = true)]
    pub(crate) cache_size: Option<String>,
    /// What falls out of the cache: 'gated' stands scans and loops, 'lru' is the least recently used,
    /// 's3-fifo' is between [default: gated]
    #[arg(long, value_name = "NAME")]
    pub(crate) policy: Option<String>,
    /// A server that lends memory, which tells of the others; may be given several times, and may be the
    /// name of an SRV record; 'none' for local memory alone [port: 7167] [default: that of the keys]
    #[arg(long = "server", value_name = "HOST[:PORT]")]
    pub(crate) servers: Vec<String>,
    /// The directory with this machine's ca.pem, cert.pem and key.pem [default: /etc/rampool/keys, if
    /// 'rampool join' has been there]
    #[arg(long, value_name = "DIR")]
    pub(crate) keys: Option<PathBuf>,
    /// A file with a secret, made if it is not there, with which the mount finds its lent blocks again
    /// when it is restarted. Without one the secret never leaves memory
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// When servers are used: where they were measured faster than the source, or whatever they
    /// take [default: auto]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) use_servers: Option<UseServers>,
    /// Seconds after which changes behind the mount are seen at the latest [default: 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) attr_timeout: Option<f64>,
    /// Seconds for which the kernel may use a name without asking again [default: 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) entry_timeout: Option<f64>,
    /// Seconds for which a name that was not there is taken to be missing [default: 0]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) negative_timeout: Option<f64>,
    /// Cache only files that match, written as in .gitignore, from the source on; may be given several times [default: all files]
    #[arg(long = "include", value_name = "PATTERN")]
    pub(crate) includes: Vec<String>,
    /// Do not cache files that match, which goes before --include: the kernel caches them as any other's
    #[arg(long = "exclude", value_name = "PATTERN")]
    pub(crate) excludes: Vec<String>,
    /// How fresh what is cached must be: within the timeouts, or asked for at every read [default: timed]
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) cache: Option<CacheMode>,
    /// Threads that take requests from the kernel [default: one a CPU, 2 to 8]
    #[arg(long, value_name = "N", value_parser = number, allow_negative_numbers = true)]
    pub(crate) threads: Option<i64>,
    /// Nothing can be changed on the mount, also where -o says rw
    #[arg(short, long, visible_alias = "ro")]
    pub(crate) read_only: bool,
    /// Let other users in, as root's mounts do by themselves: /etc/fuse.conf must have user_allow_other
    #[arg(long)]
    pub(crate) allow_other: bool,
    /// Mount options: ro, nosuid, noexec, noatime, ... or any long option as name=value
    #[arg(short = 'o', long, value_name = "OPT,...", value_delimiter = ',')]
    pub(crate) options: Vec<String>,
    /// Serve metrics for Prometheus there, over HTTP, to all who ask: docs/metrics.md has what they mean
    #[arg(long, value_name = "ADDR:PORT", value_parser = rampool_cli::metrics::address)]
    pub(crate) metrics: Option<SocketAddr>,
    /// What is logged: error, warn, info, debug or trace, or in detail as RUST_LOG says it [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<String>,
    /// How each line of the log is written [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<log::Format>,
    /// Return when the mount answers, and go on in the background
    #[arg(short = 'd', long)]
    pub(crate) daemon: bool,
    /// Leave out mount options that are not known
    #[arg(long, hide = true)]
    pub(crate) sloppy: bool,
    /// Check everything, and do not mount
    #[arg(long, hide = true)]
    pub(crate) fake: bool,
    /// Where the background process tells that the mount answers
    #[arg(long, hide = true)]
    pub(crate) ready_fd: Option<i32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a new pool: its own certificate authority, in DIR
    Init {
        /// A directory to keep safe: who has its ca.key can join the pool
        dir: PathBuf,
    },
    /// Make keys for one machine, in DIR/NAME: copy that directory there and give it as --keys
    Issue {
        /// The directory that 'keys init' made
        dir: PathBuf,
        /// A name for the machine, shown in status and logs
        name: String,
        /// What the machine may do: mount (client) or lend (server)
        #[arg(long, value_enum)]
        role: RoleArg,
        /// How long the certificate is valid
        #[arg(long, default_value_t = MEMBER_DAYS)]
        days: u32,
    },
    /// Take a machine out of the pool: copy DIR/revoked.pem into the others' directories of keys; machines that have
    /// joined by a token fetch it themselves
    Revoke {
        /// The directory that 'keys init' made
        dir: PathBuf,
        /// The machine's name
        name: String,
        /// Only as a client, or as a server [default: both]
        #[arg(long, value_enum)]
        role: Option<RoleArg>,
    },
    /// Show what the certificates in DIR are, and until when
    Show {
        /// A pool's directory, or one machine's
        dir: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CacheMode {
    /// Changes behind the mount are seen at the next open, and within the timeouts
    #[default]
    Timed,
    /// Changes behind the mount are seen at once: all timeouts are 0
    Strict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For scripts
    Json,
}

/// A number of threads. Which are right is said later.
fn number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "write a number".to_owned())
}

/// The command line, whose `mount` has options that can be set in files and by `-o`.
pub(crate) fn definition() -> Definition<'static> {
    Definition {
        command: Cli::command(),
        subcommand: Some("mount"),
        only_there: &["config", "daemon", "verbose"],
        adding: &["options"],
    }
}

/// What a command line says, with the configuration that it names.
///
/// # Errors
/// It, or the configuration, is not understood; or help was asked for.
pub(crate) fn parse(words: &[OsString]) -> Result<Line<Cli>, Refusal> {
    let definition = definition();
    let given = definition.parse(words)?;
    let mut line = Line::<Cli>::new(given.clone())?;
    let Command::Mount(args) = &line.said.command else { return Ok(line) };
    let mut settings = Vec::new();
    if let Some(path) = &args.config {
        settings = Setting::from_file(path)?;
        line = Line::new(definition.parse_with(words, &given, &settings)?)?;
    }
    let Command::Mount(args) = &line.said.command else { return Ok(line) };
    let is_ours = |option: &str| {
        let name = option.split('=').next().unwrap_or_default().replace('_', "-");
        kernel_option(option).is_none()
            && (!args.sloppy || definition.names().any(|known| known == name))
    };
    if let Some(option) = args.options.iter().find(|option| is_unfit(option)) {
        return Err(Refusal::Settings(unfit(option)));
    }
    let options = args.options.iter().filter(|option| is_ours(option));
    let options: Vec<Setting> = options.map(|option| Setting::from_option(option)).collect();
    if options.is_empty() {
        return Ok(line);
    }
    settings.extend(options);
    Line::new(definition.parse_with(words, &given, &settings)?)
}

/// Whether it is an option of mount(8) that cannot be meant like this.
fn is_unfit(option: &str) -> bool {
    let name = option.split_once('=').map(|(name, _)| name);
    let has_value = || {
        kernel_option(option).is_none() && name.is_some_and(|name| kernel_option(name).is_some())
    };
    option == "remount" || has_value()
}

fn unfit(option: &str) -> String {
    match option.split_once('=') {
        Some((name, _)) => format!("-o: '{name}' takes no value"),
        None => "-o: a mount cannot be remounted; unmount it first, or send it SIGHUP when you have changed its file".to_owned(),
    }
}

/// What a command line mounts, and how.
///
/// # Errors
/// It mounts nothing.
pub(crate) fn mount_args(line: &Line<Cli>) -> Result<&MountArgs, Failure> {
    match &line.said.command {
        Command::Mount(args) => Ok(args),
        _ => Err(Failure::usage("it mounts nothing")),
    }
}
