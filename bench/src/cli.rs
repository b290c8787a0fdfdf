//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::placement::Placement;

/// Measures rampool, and shows it at work.
///
/// It starts the real programs, rampool and rampool-server, mounts directories of its own making
/// below a temporary directory, and removes everything at the end, also after Ctrl-C.
#[derive(Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    Micro(Micro),
    Demo(Demo),
    Conform(Conform),
    Crash(Crash),
    Faults(Faults),
    Trees(Trees),
    Lending(Lending),
    Run(Run),
    /// Draws the report of a directory of results again.
    Report {
        /// What 'run' has written.
        dir: PathBuf,
        /// Put the figures as tables into this Markdown document instead, between its two marks.
        #[arg(long, value_name = "DOCUMENT")]
        into: Option<PathBuf>,
    },
    /// Says what changed between two directories of results, beyond the noise.
    Compare {
        before: PathBuf,
        after: PathBuf,
        /// How to print the results.
        #[arg(short = 'w', long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    Policy(Policy),
    /// What the owner of a lender does in 'lending'.
    #[command(hide = true)]
    Owner {
        #[command(subcommand)]
        work: crate::lending::Work,
    },
    /// One file answered from memory over FUSE, until SIGTERM.
    #[command(hide = true)]
    NullFuse {
        mountpoint: PathBuf,
        bytes: usize,
        threads: usize,
    },
    /// Answers requests over QUIC, until its process is ended.
    #[command(hide = true)]
    QuicEcho {
        keys: PathBuf,
    },
    /// Reads blocks of a file by way of memcached.
    #[command(hide = true)]
    MemcachedReads(crate::suite::Reading),
    /// How many FUSE threads are best on this machine, measured with the null server.
    #[command(hide = true)]
    NullThreads(NullThreads),
}

/// Measures each way that a read can take, beside the least that it could cost.
///
/// Every figure has its bound from the same run: a local hit beside a FUSE server that answers
/// from memory and does nothing else; a remote hit beside that and a bare exchange over QUIC; a
/// cold miss beside O_DIRECT on the source. The two sides take turns, round after round; figures
/// are medians, ratios are medians of the ratios of each round.
///
/// Reads 256 MiB files that it writes first: have 1 GiB of disk and 3 GiB of memory free. Absolute
/// figures move from machine to machine, and with whatever else the machine does.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  rampool-bench micro\n  rampool-bench micro --check      fails when a bar is missed\n  rampool-bench micro -w json --rounds 9 > figures.json"
)]
pub(crate) struct Micro {
    /// Compare with the bars that must hold; exit with 1 when one is missed.
    #[arg(long)]
    pub(crate) check: bool,
    /// Length of each measured stretch.
    #[arg(long, value_name = "N", default_value_t = 0.5, value_parser = positive_seconds)]
    pub(crate) seconds: f64,
    /// How often the two sides take turns.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Who chooses the CPUs.
    #[arg(long, value_enum, default_value_t = Placement::Pinned)]
    pub(crate) placement: Placement,
    /// FUSE threads of the null server; the same as the client's.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) null_threads: u8,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Reads a directory through a pool on this machine and checks every byte.
///
/// A server lends 2 GiB; a mount with a cache of 128 MiB reads the source, first every file whole,
/// then random blocks of the large files, several times more than its cache can hold. In the last
/// round the server is killed. Prints where the reads were answered and how long they took, and
/// fails if a single byte differs or a single read fails.
///
/// The source is mounted read-only and never written to.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  rampool-bench demo\n  rampool-bench demo --source /usr/share --disk-iops 3000\n\nA local SSD answers faster than any network: hold it back with --disk-iops (as root) to see what\na pool is for."
)]
pub(crate) struct Demo {
    /// The directory to read [default: the Rust toolchain, 'rustc --print sysroot'].
    #[arg(long, value_name = "DIR")]
    pub(crate) source: Option<PathBuf>,
    /// Let the mount read so many times a second from the disk, like a network volume; needs root
    /// and a cgroup for block devices.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(100..))]
    pub(crate) disk_iops: Option<u32>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Runs test suites for filesystems on a directory and through a mount of an equal one.
///
/// What fails through the mount but not on the source is a defect; with any, the exit code is 1.
/// The sources are directories of an ext4 in a file, mounted by a loop device: needs root. The
/// tools of others come from deploy/conformance; a suite whose tool is missing counts as failed.
///
/// The full run takes most of an hour and 10 GiB of disk.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  rampool-bench conform --quick\n  rampool-bench conform fsx tree\n  rampool-bench conform -w json > found.json"
)]
pub(crate) struct Conform {
    /// The suites to run [default: all].
    #[arg(value_name = "SUITE", value_parser = clap::builder::PossibleValuesParser::new(crate::conform::names()))]
    pub(crate) suites: Vec<String>,
    /// A few minutes: fewer seeds, shorter runs, less data.
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Kills the daemons at random moments and checks that nothing that was acknowledged is lost.
///
/// Four writers and two readers work on a mount with a cache of 16 MiB and a server: writes, appends,
/// also to one file together, truncations, holes, mapped stores with msync, creations, renames,
/// links, removals, fsync. What was acknowledged is kept in the memory of this program. In every
/// round the client, the server or both are killed; the dead mount must answer with an error, never
/// hang and never show the directory underneath; then it is mounted again and everything is compared
/// byte for byte, on the source and through the mount. An operation that the kill interrupted may
/// have happened wholly, partly or not at all. Every read is compared too, also while writers are at
/// work. When the server alone is killed, nothing at all may fail.
///
/// Exits with 1 at the first loss, and says which file, where, and what was done to it before.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  rampool-bench crash\n  rampool-bench crash --kill client --rounds 1000\n  rampool-bench crash --seed 7 -w json"
)]
pub(crate) struct Crash {
    /// How often to kill.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Whom to kill.
    #[arg(long, value_enum, default_value_t = Kill::Both)]
    pub(crate) kill: Kill,
    /// Decides what is done and when the kills come [default: another each time].
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Whom the crash harness kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kill {
    /// The client, which serves the mount.
    Client,
    /// The server; nothing may fail.
    Server,
    /// Both, one right after the other.
    Both,
}

/// Makes servers and links fail in every way, while an application reads, writes and verifies.
///
/// Builds a network of namespaces with a client, four servers that gossip, one that lies when told
/// to, and a relay that delays and loses packets. Each fault lasts a while, then the pool must come back
/// by itself. No read may fail, give wrong bytes, or take longer than the deadline, the source and 50 ms.
///
/// Needs root, and what deploy/faults installs.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  rampool-bench faults --check\n  rampool-bench faults --rounds 20 --seconds 3      a soak of half an hour"
)]
pub(crate) struct Faults {
    /// How long each fault lasts.
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = positive_seconds)]
    pub(crate) seconds: f64,
    /// How often all of them are tried.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Exit with 1 also when a read took too long.
    #[arg(long)]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Times work on many small files: git clone, tar, find, du, rm.
///
/// Each runs on the bare directory, through the rampool mount and, where deploy/passthrough has
/// built it, through libfuse's own passthrough example under the same conditions: root, one second
/// for names and attributes, data past the page cache. They take turns, round after round; figures
/// are medians, ratios are medians of the ratios of each round.
///
/// Needs tar, git, find and du. As root the caches are dropped before what is called cold.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  deploy/passthrough && rampool-bench trees\n  rampool-bench trees --rounds 5 --files 10000 -w json\n  rampool-bench trees --pjdfstest ~/.cargo/bin/pjdfstest"
)]
pub(crate) struct Trees {
    /// How often the sides take turns.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Files in the archive that is extracted. Fewer when the passthrough could not open as many:
    /// it holds a descriptor for each.
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1000..=1_000_000))]
    pub(crate) files: u32,
    /// The repository to clone [default: one of 3,000 files, made for it].
    #[arg(long, value_name = "DIR")]
    pub(crate) repository: Option<PathBuf>,
    /// The passthrough [default: passthrough_hp or passthrough_ll in target/tools].
    #[arg(long, value_name = "FILE")]
    pub(crate) passthrough: Option<PathBuf>,
    /// The pjdfstest program [default: the one in PATH, if any].
    #[arg(long, value_name = "FILE")]
    pub(crate) pjdfstest: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Shows what a machine pays for lending its memory: as good as nothing.
///
/// A lender of 2 GiB is played by a control group, with the server and the owner's processes in groups
/// beside each other, once in one group; a client is elsewhere; both read from a disk that is held back.
/// Four scenarios: (1) the client reads while the lender takes memory, (2) the client reads, then the
/// lender, (3) then the client again, (4) both at once. Each with nothing lent, with plain memory lent,
/// with the kernel alone taking it back, and with each detector of --lend auto. Figures are medians;
/// ratios are of runs that follow each other.
///
/// Needs root, control groups for memory and block devices, 4 GiB of disk and 4 GiB of memory. Takes
/// about half an hour, with --check a little less.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  rampool-bench lending --plots drawings\n  rampool-bench lending --check           fails when a bar is missed\n  rampool-bench lending --runs 1 --seconds 10 -w json"
)]
pub(crate) struct Lending {
    /// Only what has bars; exit with 1 when one is missed.
    #[arg(long)]
    pub(crate) check: bool,
    /// How often each is run; what has no bar, once.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// How long the lender reads.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(10..=600))]
    pub(crate) seconds: u32,
    /// Reads a second of each disk.
    #[arg(long, value_name = "N", default_value_t = 8000, value_parser = clap::value_parser!(u32).range(100..))]
    pub(crate) disk_iops: u32,
    /// Memory of the lender.
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    pub(crate) memory: rampool_cli::size::ByteSize,
    /// Draw timelines into this directory, as SVG.
    #[arg(long, value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Runs a plan: disks, targets and workloads, each combined with each.
///
/// Every target works in a control group with the memory that the plan gives to each row: the
/// application, the daemon and the page cache together; lenders have groups of their own. Files are
/// written on a disk that is not held back, and caches filled on one as fast as the fastest of the
/// plan; then the targets take turns, run after run. Everything is kept in a directory, where an interrupted run goes on when it is started again,
/// and report.html shows it.
///
/// Needs root, control groups for memory and block devices, and fio; what is not installed of the
/// others is a hole in the report.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  rampool-bench run bench/plans/quick.toml\n  rampool-bench run bench/plans/full.toml --out results/full\n  rampool-bench compare results/before results/after"
)]
pub(crate) struct Run {
    /// The plan, a TOML file.
    pub(crate) plan: PathBuf,
    /// Where to keep the results.
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Replays block traces through every eviction policy, and through the best that could be done.
///
/// Traces are a block number a line (LIRS), four numbers a line (ARC) or tables with the columns size
/// and lbn (CloudPhysics), plain or packed by gzip, xz or zstd. With --remote also as two tiers: what
/// falls out of the local cache is lent.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  rampool-bench policy traces/*\n  rampool-bench policy trace.lis.zst --sizes 1000,2000 --block-size 512\n  rampool-bench policy trace.csv.gz --sizes 5% --remote 20%"
)]
pub(crate) struct Policy {
    /// Block traces.
    #[arg(value_name = "TRACE", required = true)]
    pub(crate) traces: Vec<PathBuf>,
    /// Sizes of the cache: blocks, or parts of the blocks that a trace uses.
    #[arg(long, value_name = "N|PER%", value_delimiter = ',', default_value = "1%,5%,10%,20%,40%")]
    pub(crate) sizes: Vec<crate::policy::Size>,
    /// Lent memory beside it, of the same kind.
    #[arg(long, value_name = "N|PER%")]
    pub(crate) remote: Option<crate::policy::Size>,
    /// What sectors are put together to.
    #[arg(long, value_name = "SIZE", default_value = "4K")]
    pub(crate) block_size: rampool_cli::size::ByteSize,
    /// How to print the results.
    #[arg(short = 'w', long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// What all commands share.
#[derive(Args)]
pub(crate) struct Common {
    /// How to print the results.
    #[arg(short = 'w', long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Where things are.
#[derive(Args)]
pub(crate) struct Place {
    /// Where to put files: on a disk, not in memory.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub(crate) dir: PathBuf,
    /// Where rampool and rampool-server are [default: beside this program].
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
}

/// Of the hidden measurement of FUSE threads.
#[derive(Args)]
pub(crate) struct NullThreads {
    /// Length of each measured stretch.
    #[arg(long, value_name = "N", default_value_t = 0.7, value_parser = positive_seconds)]
    pub(crate) seconds: f64,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

fn positive_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 600.0 => Ok(seconds),
        _ => Err("write a number of seconds above 0, 600 at most".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["rampool-bench", "micro", "--seconds", "0"]).is_err());
        assert!(Cli::try_parse_from(["rampool-bench", "demo", "--disk-iops", "1"]).is_err());
    }
}
