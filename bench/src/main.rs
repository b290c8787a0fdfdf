//! `rampool-bench`: measures rampool, shows it at work, and tests it against its source.
//!
//! `micro` sets every way that a read can take beside the least that it could cost; `demo` reads a
//! real directory through a pool, compares every byte and kills the server in between; `conform` runs
//! test suites on a directory and through a mount; `crash` kills the daemons under writers and looks
//! for what was lost; `trees` times work on many small files; `lending` shows what a lender pays. All drive the real programs as a user
//! would; nothing of client or server is linked in.

mod binaries;
mod buckets;
mod cli;
mod conform;
mod crash;
mod daemon;
mod demo;
mod disk;
mod faults;
mod group;
mod image;
mod latency;
mod lending;
mod micro;
mod mounted;
mod null_fuse;
mod null_threads;
mod pages;
mod passthrough;
mod placement;
mod policy;
mod pool;
mod postgres;
mod progress;
mod quic_echo;
mod reads;
mod scratch;
mod status;
mod stop;
mod suite;
mod table;
mod tool;
mod trees;

use std::process::ExitCode;

use clap::Parser as _;
use rampool_cli::config::Refusal;

use crate::cli::{Cli, Command};
use crate::stop::Stop;

/// The command line is wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse().map_err(|error| Refusal::Words(Box::new(error))) {
        Ok(cli) => cli,
        Err(refusal) if refusal.tell("rampool-bench") => return ExitCode::SUCCESS,
        Err(_) => return ExitCode::from(EXIT_USAGE),
    };
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rampool-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Micro(options) => return micro::run(&options, &Stop::install()?),
        Command::Demo(options) => return demo::run(&options, &Stop::install()?),
        Command::Conform(options) => return conform::run(&options, &Stop::install()?),
        Command::Crash(options) => return crash::run(&options, &Stop::install()?),
        Command::Faults(options) => return faults::run(&options, &Stop::install()?),
        Command::Trees(options) => return trees::run(&options, &Stop::install()?),
        Command::Lending(options) => return lending::run(&options, &Stop::install()?),
        Command::Run(options) => return suite::run(&options, &Stop::install()?),
        Command::Report { dir, into } => return suite::report(&dir, into.as_deref()),
        Command::Compare { before, after, format } => {
            return suite::compare(&before, &after, format);
        }
        Command::Policy(options) => return policy::run(&options, &Stop::install()?),
        Command::Owner { work } => lending::owner(&work)?,
        Command::NullThreads(options) => null_threads::run(options.seconds, &Stop::install()?)?,
        Command::NullFuse { mountpoint, bytes, threads } => {
            null_fuse::serve(&mountpoint, bytes, threads)?;
        }
        Command::MemcachedReads(reading) => suite::memcached_reads(&reading)?,
        Command::QuicEcho { keys } => quic_echo::serve(&keys)?,
    }
    Ok(ExitCode::SUCCESS)
}
