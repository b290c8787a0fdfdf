//! `rampool`: mounts a directory through memory: local, lent by other machines, then the disk.
//!
//! `filesystem.rs` is where to begin; `read.rs` and `write.rs` show the whole way of each on a
//! screen. The stages (front, local, remote, source) do not know each other.

mod arena;
mod args;
mod attributes;
mod background;
mod behind;
mod block;
mod caller;
mod contents;
mod demand;
mod epochs;
mod failure;
mod filesystem;
mod front;
mod handles;
mod inodes;
mod kept;
mod keys;
mod local;
mod metrics;
mod mounts;
mod names;
mod open;
mod pace;
mod plan;
#[cfg(test)]
#[cfg(feature = "shuttle")]
mod races;
mod read;
mod remote;
mod run;
mod source;
mod status;
mod sync;
mod upkeep;
mod workers;
mod write;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, KeysCommand, MountArgs};
use background::Ready;
use failure::Failure;
use mounts::UnmountFlags;
use plan::Plan;

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(arguments()) {
        Ok(cli) => cli,
        Err(error) => {
            // Fails only if there is nobody to read it.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(1) } else { ExitCode::SUCCESS };
        }
    };
    log_to_stderr(cli.verbose);
    match act(cli.command) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("rampool: {failure}");
            failure.exit_code()
        }
    }
}

fn act(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Mount(args) => return mount(*args),
        Command::Umount { mountpoint, lazy, force } => {
            let mut flags = UnmountFlags::empty();
            flags.set(UnmountFlags::DETACH, lazy);
            flags.set(UnmountFlags::FORCE, force);
            umount(&mountpoint, flags)?;
        }
        Command::Status { mountpoint, format } => status::show(mountpoint.as_deref(), format)?,
        Command::Keys(KeysCommand::Init { dir }) => keys::init(&dir)?,
        Command::Keys(KeysCommand::Issue { dir, name, role, days }) => {
            keys::issue(&dir, &name, role.into(), None, days)?;
        }
        Command::Keys(KeysCommand::Show { dir }) => println!("{}", keys::show(&dir)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn mount(args: MountArgs) -> Result<ExitCode, Failure> {
    if args.daemon && args.ready_fd.is_none() {
        return background::start();
    }
    let ready = args.ready_fd.map(Ready::from_number).transpose()?;
    let plan = Plan::new(args)?;
    run::run(&plan, || {
        if let Some(ready) = ready {
            ready.tell();
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn umount(mountpoint: &Path, flags: UnmountFlags) -> Result<(), Failure> {
    mounts::unmount_at(mountpoint, flags).map_err(|error| {
        let why = match error {
            rustix::io::Errno::INVAL => "nothing is mounted there".to_owned(),
            rustix::io::Errno::BUSY => {
                "files are open on it (see --lazy), or it is not yours".to_owned()
            }
            other => std::io::Error::from(other).to_string(),
        };
        Failure::mount(format!("cannot unmount {}: {why}", mountpoint.display()))
    })
}

/// The command line; called as `mount.rampool`, as mount(8) calls it: SOURCE MOUNTPOINT [-o ...].
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == "mount.rampool") {
        arguments.insert(1, "mount".into());
        arguments.insert(2, "-d".into());
    }
    arguments
}

fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        0 => "warn,fuser=error,rampool=info",
        1 => "info,rampool=debug",
        _ => "debug,rampool=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
