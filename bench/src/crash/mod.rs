//! `rampool-bench crash`: kills the daemons at random moments, and checks that everything that was
//! acknowledged is there and that no read ever gives anything else.
//!
//! The writers and their record of what was acknowledged live in this process, which nobody kills.

mod change;
mod file;
mod machine;
mod mapping;
mod names;
mod reader;
mod report;
mod rounds;
mod scene;
mod shared;
mod tally;
mod verify;
mod world;
mod writer;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use self::machine::Machine;
use self::report::Report;
use self::rounds::Rounds;
use self::tally::Tally;
use self::world::World;
use crate::binaries::Binaries;
use crate::cli::{Crash, Format};
use crate::pool::Pool;
use crate::progress::Progress;
use crate::scratch::Scratch;
use crate::stop::Stop;

/// Runs the rounds and prints what was seen. The exit code says whether all was as it must be.
pub(crate) fn run(options: &Crash, stop: &Stop) -> Result<ExitCode> {
    let binaries = Binaries::find(options.common.place.bin_dir.as_deref())?;
    let pool = Pool::new(binaries, Scratch::new(&options.common.place.dir)?)?;
    let seed = options.seed.unwrap_or_else(rand::random);
    let progress = Progress::new(u64::from(options.rounds));
    progress.say(format!("seed {seed}"));

    let source = pool.scratch().join("source");
    std::fs::create_dir(&source).context("cannot make the source")?;
    let world = World::make(&source, seed)?;
    let mut machine = Machine::start(pool, source, stop)?;
    let (tally, start) = (Tally::default(), Instant::now());
    let (mut done, mut finding) = (0, None);
    let kill = options.kill;
    let mut rounds =
        Rounds { machine: &mut machine, world: &world, tally: &tally, kill, seed, stop };
    while done < options.rounds && finding.is_none() && !stop.requested() {
        finding = rounds.round(done).with_context(|| format!("round {done}, seed {seed}"))?;
        done += 1;
        progress.step();
        progress.say(format!("seed {seed}, {} kills", tally.kills()));
    }
    drop(machine);
    drop(progress);

    let name = kill.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
    let (elapsed, found) = (start.elapsed(), finding.as_ref());
    let report = Report { kill: &name, seed, rounds: done, elapsed, tally: &tally, finding: found };
    match options.common.format {
        Format::Table => report.print(),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report.json())?),
    }
    stop.check()?;
    Ok(if finding.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
