//! `rampool`: mounts a directory through memory: local, lent by other machines, then the disk.
//!
//! `filesystem.rs` is where to begin; `read.rs` and `write.rs` show the whole way of each on a
//! screen. The stages (front, local, remote, source) do not know each other.

mod actions;
mod arena;
mod args;
mod attributes;
mod background;
mod behind;
mod block;
mod caller;
mod contents;
mod control;
mod demand;
mod doctor;
mod epochs;
mod exported;
mod failure;
mod filesystem;
mod front;
mod handles;
mod helper;
mod holders;
mod inodes;
mod kept;
mod local;
mod memory;
mod metrics;
mod mounts;
mod names;
mod open;
mod pace;
mod pins;
mod plan;
mod profile;
#[cfg(test)]
#[cfg(feature = "shuttle")]
mod races;
mod read;
mod reload;
mod remote;
mod rules;
mod run;
mod source;
mod staging;
mod stats;
mod status;
mod sync;
mod timeouts;
mod top;
mod umount;
mod upkeep;
mod workers;
mod write;

use std::ffi::OsString;
use std::process::ExitCode;

use rampool_cli::config::Line;
use rampool_cli::generate::Unwritten;
use rampool_cli::log::{Format, Log, Target};
use rampool_cli::plain::plain;
use rampool_cli::show;
use rampool_keys::pool;
use rampool_keys::token::TokenError;
use rampool_protocol::certs::Role;

use args::{Cli, Command, KeysCommand};
use background::Ready;
use failure::Failure;
use mounts::UnmountFlags;
use plan::Plan;
use reload::Reload;

/// The head of the example of a configuration.
const ABOUT: &str = "A mount of rampool: rampool mount --config THIS_FILE, or the service rampool@NAME for \
    /etc/rampool/NAME.toml. What is not set is as each comment says.";

fn main() -> ExitCode {
    let words = helper::arguments(std::env::args_os());
    let line = match args::parse(&words) {
        Ok(line) => line,
        Err(refusal) if refusal.tell("rampool") => return ExitCode::SUCCESS,
        Err(_) => return ExitCode::from(1),
    };
    let (levels, format, target) = match &line.said.command {
        Command::Mount(args) => (
            args.log.as_deref(),
            args.log_format.unwrap_or_default(),
            if args.ready_fd.is_some() { Target::Background } else { Target::Stderr },
        ),
        _ => (None, Format::Text, Target::Stderr),
    };
    let log = match Log::start(&levels_of(line.said.verbose, levels), format, target) {
        Ok(log) => log,
        Err(error) => return complain(&Failure::usage(format!("--log: {error}"))),
    };
    match act(words, &line, log) {
        Ok(code) => code,
        Err(failure) => complain(&failure),
    }
}

fn complain(failure: &Failure) -> ExitCode {
    rampool_cli::say!("rampool: {}", plain(failure));
    failure.exit_code()
}

fn act(words: Vec<OsString>, line: &Line<Cli>, log: Log) -> Result<ExitCode, Failure> {
    match &line.said.command {
        Command::Mount(_) => return mount(words, line, log),
        Command::Umount { mountpoint, lazy, force } => {
            let mut flags = UnmountFlags::empty();
            flags.set(UnmountFlags::DETACH, *lazy);
            flags.set(UnmountFlags::FORCE, *force);
            umount::umount(mountpoint, flags)?;
        }
        Command::Status { mountpoint, format } => status::show(mountpoint.as_deref(), *format)?,
        Command::Warm(args) => return actions::read(args, false),
        Command::Pin(args) => return actions::read(args, true),
        Command::Unpin(args) => return actions::let_go(args, false),
        Command::Drop(args) => return actions::let_go(args, true),
        Command::Cached(args) => return actions::cached::run(args),
        Command::Limit(args) => control::limit(args)?,
        Command::Profile(args) => profile::show::run(args)?,
        Command::Top(args) => top::run(args)?,
        Command::Stats(args) => stats::run(args)?,
        Command::Doctor(args) => return doctor::run(args),
        Command::Keys(KeysCommand::Init { dir }) => {
            pool::init(dir)?;
            let dir = dir.display();
            tell(&format!(
                "{dir} is the authority of a new pool; keep its ca.key safe. Next: rampool keys issue {dir} NAME --role client|server\n"
            ))?;
        }
        Command::Keys(KeysCommand::Issue { dir, name, role, days }) => {
            pool::issue(dir, name, (*role).into(), None, *days)?;
        }
        Command::Keys(KeysCommand::Revoke { dir, name, role }) => {
            pool::revoke(dir, name, role.map(Into::into))?;
        }
        Command::Keys(KeysCommand::Show { dir }) => tell(&format!("{}\n", pool::show(dir)?))?,
        Command::Join(args) => {
            args.join(Role::Client).map_err(|error| match error.is::<TokenError>() {
                true => Failure::usage(error),
                false => Failure::system(format!("{error:#}")),
            })?;
        }
        Command::Generate(what) => {
            what.run(args::definition(), ABOUT, exported::METRICS).map_err(
                |error| match error {
                    Unwritten::Into(..) => Failure::usage(error),
                    Unwritten::ToStdout(_) => Failure::system(error),
                },
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn mount(words: Vec<OsString>, line: &Line<Cli>, log: Log) -> Result<ExitCode, Failure> {
    let args = args::mount_args(line)?;
    if args.daemon && args.ready_fd.is_none() && !args.fake {
        return background::start();
    }
    let ready = args.ready_fd.map(Ready::from_number).transpose()?;
    let plan = Plan::new(args)?;
    if args.fake {
        return Ok(ExitCode::SUCCESS);
    }
    run::run(&plan, Reload::new(words, line, log, plan.values.cache), || {
        if let Some(ready) = ready {
            ready.tell();
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Writes to stdout.
fn tell(text: &str) -> Result<(), Failure> {
    show::show(text).map_err(|error| Failure::system(format!("cannot write to stdout: {error}")))
}

/// What is logged, as for RUST_LOG. `-v` goes before `--log`, which may be a file's.
fn levels_of(verbose: u8, levels: Option<&str>) -> String {
    let levels = match verbose {
        0 => levels.unwrap_or("info"),
        1 => "debug",
        _ => "trace",
    };
    match levels {
        "trace" => "debug,rampool=trace".to_owned(),
        "debug" => "info,rampool=debug".to_owned(),
        // What fuser has to say, we say better.
        level @ ("error" | "warn" | "info") => format!("warn,fuser=error,rampool={level}"),
        detailed => detailed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_by_v_goes_before_what_a_file_says() {
        assert_eq!(levels_of(0, None), "warn,fuser=error,rampool=info");
        assert_eq!(levels_of(0, Some("warn")), "warn,fuser=error,rampool=warn");
        assert_eq!(levels_of(1, Some("warn")), "info,rampool=debug");
        assert_eq!(levels_of(2, Some("warn")), "debug,rampool=trace");
        assert_eq!(levels_of(0, Some("quinn=debug")), "quinn=debug");
    }
}
