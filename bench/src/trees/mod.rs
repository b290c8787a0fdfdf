//! `rampool-bench trees`: what many small files cost, on the bare directory, through rampool and
//! through libfuse's passthrough.

mod input;
mod operations;
mod report;
mod sides;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, getrlimit};

use self::operations::{Inputs, Operation, drop_caches};
use self::report::{Report, Row};
use self::sides::{Side, Way};
use crate::binaries::Binaries;
use crate::cli::{Format, Trees};
use crate::pool::Pool;
use crate::progress::Progress;
use crate::scratch::Scratch;
use crate::stop::Stop;

/// Descriptors that the passthrough needs beside those of the extracted files: for what is cloned.
const DESCRIPTORS_BESIDE: u64 = 8000;

/// One measured time.
type Time = (Operation, Way, f64);

/// Measures and prints.
pub(crate) fn run(options: &Trees, stop: &Stop) -> Result<ExitCode> {
    let bin_dir = options.common.place.bin_dir.as_deref();
    let binaries = Binaries::find(bin_dir)?;
    let passthrough = crate::passthrough::find(options.passthrough.as_deref(), bin_dir)?;
    let pool = Pool::new(binaries, Scratch::new(&options.common.place.dir)?)?;
    let progress = Progress::new(u64::from(options.rounds) * Operation::all().count() as u64);

    progress.say("makes the archive and the repository");
    let files = files(options.files, passthrough.is_some(), &progress);
    let inputs = inputs(&pool, options, files)?;
    let cold = drop_caches();
    let mut times = Vec::new();
    for pass in Operation::PASSES {
        for round in 0..options.rounds {
            let sides = sides(round, &pool, passthrough.as_deref(), stop)?;
            measure(pass, round, &sides, &inputs, &mut times, &progress, stop)?;
        }
    }
    drop((pool, progress));

    let done = Operation::all().filter(|operation| operation.is_done(&inputs));
    let rows = done.map(|operation| {
        Row::new(operation.name(), |way| {
            let of_it = times.iter().filter(|time| (time.0, time.1) == (operation, way));
            of_it.map(|time| time.2).collect()
        })
    });
    let report = Report {
        rounds: options.rounds,
        files,
        passthrough: passthrough.map(|program| program.display().to_string()),
        cold,
        rows: rows.collect(),
    };
    match options.common.format {
        Format::Table => report.print(),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// All ways, the first of them another one each round.
fn sides(round: u32, pool: &Pool, passthrough: Option<&Path>, stop: &Stop) -> Result<Vec<Side>> {
    let mut ways = vec![Way::Source, Way::Rampool];
    ways.extend(passthrough.map(|_| Way::Passthrough));
    let turn = round as usize % ways.len();
    ways.rotate_left(turn);
    ways.into_iter().map(|way| Side::open(way, pool, passthrough, stop)).collect()
}

/// Each operation of a pass on each side, in the directory of the round.
fn measure(
    pass: &[Operation],
    round: u32,
    sides: &[Side],
    inputs: &Inputs,
    times: &mut Vec<Time>,
    progress: &Progress,
    stop: &Stop,
) -> Result<()> {
    for &operation in pass {
        for side in sides.iter().filter(|_| operation.is_done(inputs)) {
            stop.check()?;
            progress.say(format!("{}, {}", operation.name(), side.way.name()));
            let dir = side.path.join(round.to_string());
            std::fs::create_dir_all(&dir)?;
            if operation.is_cold() {
                drop_caches();
            } else {
                // What the others have written is not to be paid by this one.
                rustix::fs::sync();
            }
            let elapsed = operation.time(inputs, &dir)?;
            times.push((operation, side.way, elapsed.as_secs_f64()));
        }
        progress.step();
    }
    Ok(())
}

fn inputs(pool: &Pool, options: &Trees, files: u32) -> Result<Inputs> {
    let archive = input::archive(pool.scratch(), "small.tar", files)?;
    let repository = match &options.repository {
        Some(repository) => std::fs::canonicalize(repository)
            .with_context(|| format!("cannot clone {}", repository.display()))?,
        None => input::repository(pool.scratch())?,
    };
    let pjdfstest = match options.pjdfstest.clone().or_else(|| in_path("pjdfstest")) {
        None => None,
        Some(program) => {
            // Its cases are done by other users, too.
            std::fs::set_permissions(pool.scratch().join(""), Permissions::from_mode(0o755))?;
            let configuration = pool.scratch().join("pjdfstest.toml");
            std::fs::write(&configuration, PJDFSTEST)?;
            Some((program, configuration))
        }
    };
    Ok(Inputs { archive, repository, pjdfstest })
}

/// Cases that every filesystem for Linux is asked; the two users are in every Debian.
const PJDFSTEST: &str = r#"
[features]
posix_fallocate = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// As many files as all sides can do.
fn files(wanted: u32, passthrough: bool, progress: &Progress) -> u32 {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let most = u32::try_from(limit.saturating_sub(DESCRIPTORS_BESIDE)).unwrap_or(u32::MAX);
    if !passthrough || wanted <= most {
        return wanted;
    }
    let files = most.max(1000);
    progress.line(&format!(
        "{files} files instead of {wanted}: the passthrough holds a descriptor for each, and no more \
         than {limit} are allowed here (ulimit -Hn)."
    ));
    files
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
