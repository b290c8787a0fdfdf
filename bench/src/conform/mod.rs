//! `rampool-bench conform`: the test suites of others, and a few of our own, on a bare directory
//! and through a mount of an equal one.
//!
//! What is right is what the source does. A case that fails through the mount only is a defect; one
//! that fails on both says something about the machine or the suite.

mod attributes;
mod cargo;
mod compare;
mod fio;
mod fsx;
mod git;
mod pjdfstest;
mod postgres;
mod report;
mod same;
mod site;
mod sqlite;
mod stress;
mod suite;
mod tree;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use self::compare::{Compared, compare};
use self::site::Stage;
use self::suite::{Case, Ran, Scene, Side, Suite};
use crate::binaries::Binaries;
use crate::cli::{Conform, Format};
use crate::progress::Progress;
use crate::stop::Stop;

/// All suites, those that find most in least time first.
const SUITES: [&dyn Suite; 10] = [
    &pjdfstest::Pjdfstest,
    &attributes::Attributes,
    &fsx::Fsx,
    &tree::Tree,
    &fio::Fio,
    &stress::Stress,
    &sqlite::Sqlite,
    &postgres::Postgres,
    &git::Git,
    &cargo::Cargo,
];

/// Their names, for the command line.
pub(crate) fn names() -> Vec<&'static str> {
    SUITES.iter().map(|suite| suite.name()).collect()
}

/// Runs the suites that were asked for and prints what they found. The exit code says whether
/// the mount has no defects.
pub(crate) fn run(options: &Conform, stop: &Stop) -> Result<ExitCode> {
    let wanted = |suite: &&&dyn Suite| {
        options.suites.is_empty() || options.suites.iter().any(|name| name == suite.name())
    };
    let suites: Vec<_> = SUITES.iter().filter(wanted).collect();
    let steps: usize = suites.iter().map(|suite| sides(**suite).len()).sum();
    let progress = Progress::new(steps as u64);
    progress.say("makes a filesystem");
    let binaries = Binaries::find(options.common.place.bin_dir.as_deref())?;
    let stage = Stage::new(&options.common.place.dir, binaries)?;
    let scene = Scene { quick: options.quick, progress: &progress, stop };

    let mut found = Vec::new();
    for suite in suites {
        found.extend(run_suite(*suite, &stage, &scene)?);
        for compared in found.iter().filter(|compared| compared.suite == suite.name()) {
            compared.defects.iter().for_each(|defect| progress.line(&report::defect(defect)));
        }
    }
    drop(stage);
    drop(progress);

    match options.common.format {
        Format::Table => report::print(&found),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report::document(&found))?),
    }
    let clean = found.iter().all(|compared| compared.defects.is_empty());
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where a suite is run; the source first.
fn sides(suite: &dyn Suite) -> &'static [Side] {
    match suite.with_server() {
        true => &[Side::Source, Side::Mount, Side::MountWithServer],
        false => &[Side::Source, Side::Mount],
    }
}

/// Runs a suite everywhere and compares.
fn run_suite(suite: &dyn Suite, stage: &Stage, scene: &Scene<'_>) -> Result<Vec<Compared>> {
    if let Some(missing) = suite.needs().iter().find_map(|need| need.find().err()) {
        scene.progress.line(&format!("{}: {missing}; run deploy/conformance", suite.name()));
        return Ok(vec![Compared::not_run(suite.name(), &missing.to_string())]);
    }
    let (mut on_source, mut compared) = (None, Vec::new());
    for &side in sides(suite) {
        scene.progress.say(format!("{} on the {}", suite.name(), side.label()));
        let ran = run_at(suite, side, stage, scene)?;
        match &on_source {
            None => on_source = Some(ran),
            Some(on_source) => compared.push(compare(suite.name(), side, on_source, &ran)),
        }
        scene.progress.step();
    }
    Ok(compared)
}

fn run_at(suite: &dyn Suite, side: Side, stage: &Stage, scene: &Scene<'_>) -> Result<Ran> {
    let start = Instant::now();
    let mut site = stage.site(side, scene.stop)?;
    let mut cases = match suite.run(&mut site, scene) {
        Ok(cases) => cases,
        Err(error) => {
            scene.stop.check()?;
            vec![Case::failed("runs to its end", format!("{error:#}"))]
        }
    };
    cases.push(match site.is_alive() {
        true => Case::passed("the mount is there at the end"),
        false => Case::failed("the mount is there at the end", "its process has ended"),
    });
    let same = same::difference(site.source(), site.dir());
    cases.push(Case::of("shows what the source holds", same));
    Ok(Ran { cases, elapsed: start.elapsed() })
}
