//! `rampool-bench lending`: what it costs a machine to lend its memory, in the four scenarios that a
//! lender must not notice, beside a machine that lends nothing.

mod bars;
mod owner;
mod plot;
mod report;
mod scenarios;
mod service;
mod stage;
mod timeline;

use std::process::ExitCode;

use anyhow::Result;

use self::report::Report;
use self::stage::{Layout, Stage, Way};
use crate::binaries::Binaries;
use crate::cli::{Format, Lending};
use crate::pool::Pool;
use crate::progress::Progress;
use crate::scratch::Scratch;
use crate::stop::Stop;
pub(crate) use owner::{Work, work as owner};

/// Scenarios that are begun in a run; with Redis, one more where there are bars.
const STEPS: u64 = 3;

/// Measures and prints. The exit code says whether all bars hold, if that was asked for.
pub(crate) fn run(options: &Lending, stop: &Stop) -> Result<ExitCode> {
    let binaries = Binaries::find(options.common.place.bin_dir.as_deref())?;
    let pool = Pool::new(binaries, Scratch::new(&options.common.place.dir)?)?;
    let plan = plan(options);
    let with_redis =
        if service::is_here() { plan.iter().filter(|(way, _)| way.has_bars()).count() } else { 0 };
    let progress = Progress::new(plan.len() as u64 * STEPS + with_redis as u64);
    if with_redis == 0 {
        progress.line("No redis-server here, so no lender at work; deploy/lending installs it.");
    }
    progress.say("writes the files");
    let memory = options.memory.bytes();
    let stage = Stage::new(&pool, memory, options.disk_iops, &progress, stop)?;
    let mut runs = Vec::new();
    for (way, layout) in plan {
        runs.push(scenarios::run(&stage, way, layout, options.seconds)?);
    }
    drop(stage);
    drop((progress, pool));

    let report = Report::new(options, runs);
    if let Some(dir) = &options.plots {
        plot::all(dir, &report.runs)?;
    }
    match options.common.format {
        Format::Table => report.print(),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    let missed = options.check && !report.all_hold();
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is run, in which order: the bars compare what follows each other.
fn plan(options: &Lending) -> Vec<(Way, Layout)> {
    let mut plan = Vec::new();
    for run in 0..options.runs {
        let all = run == 0 && !options.check;
        let ways = Way::ALL.into_iter().filter(|way| all || way.has_bars());
        plan.extend(ways.map(|way| (way, Layout::Beside)));
        if run == 0 {
            plan.extend([Way::Nothing, Way::Both].map(|way| (way, Layout::Together)));
        }
    }
    plan
}
