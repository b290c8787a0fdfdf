//! Plans of disks, targets and workloads: run, reported, compared.

mod case;
mod compare;
mod figures;
mod machine;
mod peers;
mod place;
mod plan;
mod report;
mod store;
mod target;
mod work;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use self::case::Case;
pub(crate) use self::compare::compare;
use self::figures::{Hole, Outcome};
use self::machine::Machine;
use self::place::Place;
use self::plan::{Disk, Plan};
use self::store::{Record, Store};
use self::target::Target;
use self::work::Scene;
pub(crate) use self::work::{Reading, memcached_reads};
use crate::binaries::Binaries;
use crate::cli::Run;
use crate::pool::Pool;
use crate::progress::Progress;
use crate::scratch::Scratch;
use crate::stop::Stop;

/// Runs what a plan has and its directory of results has not.
pub(crate) fn run(options: &Run, stop: &Stop) -> Result<ExitCode> {
    let plan = Plan::read(&options.plan)?;
    if !rustix::process::geteuid().is_root() {
        bail!(
            "the memory and the disk of each row are limited, which takes root; try it with sudo"
        );
    }
    let binaries = Binaries::find(options.place.bin_dir.as_deref())?;
    let machine = Machine::this(&binaries, &options.place.dir);
    let store = Store::open(&options.out, &plan, &machine)?;
    let pool = Pool::new(binaries, Scratch::new(&options.place.dir)?)?;
    let cases = Case::all(&plan);
    let suiting = |case: &Case| plan.targets.iter().filter(|&&t| case.workload.suits(t)).count();
    let cells: usize = cases.iter().map(suiting).sum();
    let progress = Progress::new((cells * plan.disks.len() * plan.runs as usize) as u64);
    let scene = Scene { plan: &plan, pool: &pool, store: &store, stop };
    let mut left: &[Case] = &cases;
    while let Some(first) = left.first() {
        let count = left.iter().take_while(|case| case.shares_files_with(first)).count();
        let (batch, rest) = left.split_at(count);
        Batch { cases: batch, scene: &scene, progress: &progress }.run()?;
        left = rest;
    }
    drop(progress);
    let failed = report::write(store.dir())?.failed();
    if failed > 0 {
        let runs = if failed == 1 { "run" } else { "runs" };
        eprintln!(
            "rampool-bench: {failed} {runs} failed, the report says why; the same command tries again"
        );
    }
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Draws the report of a directory of results anew, or puts its figures into a document.
pub(crate) fn report(dir: &Path, document: Option<&Path>) -> Result<ExitCode> {
    match document {
        Some(document) => report::put_into(document, dir)?,
        None => drop(report::write(dir)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// Cases on the same files: every target is set up once, and all take turns.
struct Batch<'a> {
    cases: &'a [Case],
    scene: &'a Scene<'a>,
    progress: &'a Progress,
}

impl Batch<'_> {
    fn run(&self) -> Result<()> {
        let plan = self.scene.plan;
        let mut places = Vec::new();
        for &target in &plan.targets {
            if !self.cases[0].workload.suits(target) || !self.is_open(target) {
                continue;
            }
            self.scene.stop.check()?;
            self.progress.say(format!("sets up {}", target.title()));
            match self.set_up(target) {
                Ok(place) => places.push(place),
                Err(error) => {
                    self.scene.stop.check()?;
                    let outcome = Outcome::from(error);
                    for disk in &plan.disks {
                        self.leave_out(disk, target, &outcome)?;
                    }
                }
            }
        }
        for disk in &plan.disks {
            let mut limited = Vec::new();
            for place in &mut places {
                match place.limit(disk) {
                    Ok(()) => limited.push(place),
                    Err(error) => {
                        self.leave_out(disk, place.target, &Outcome::from(Hole::Failed(error)))?;
                    }
                }
            }
            for case in self.cases {
                for run in 1..=plan.runs {
                    for place in &mut limited {
                        self.measure(disk, case, place, run)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether anything is still to be measured of a target; what is not is a step done.
    fn is_open(&self, target: Target) -> bool {
        let disks = self.scene.plan.disks.iter();
        let missing = disks.map(|disk| {
            let done = self.runs().filter(|(case, run)| self.has(disk, case, target, *run)).count();
            (0..done).for_each(|_| self.progress.step());
            self.runs().count() - done
        });
        missing.sum::<usize>() > 0
    }

    /// Every run of every case.
    fn runs(&self) -> impl Iterator<Item = (&Case, u32)> {
        let runs = self.scene.plan.runs;
        self.cases.iter().flat_map(move |case| (1..=runs).map(move |run| (case, run)))
    }

    fn has(&self, disk: &Disk, case: &Case, target: Target, run: u32) -> bool {
        self.scene.store.has(&disk.name, case, target, run)
    }

    /// Notes why a target has no figures on a disk.
    fn leave_out(&self, disk: &Disk, target: Target, outcome: &Outcome) -> Result<()> {
        self.tell(outcome, &format!("{}, {}: ", target.title(), disk.name));
        for (case, run) in self.runs() {
            if !self.has(disk, case, target, run) {
                self.keep(disk, case, target, run, Vec::new(), outcome.clone())?;
            }
        }
        Ok(())
    }

    fn set_up(&self, target: Target) -> Result<Place<'_>, Hole> {
        let scene = self.scene;
        let first = &self.cases[0];
        let needs = first.workload.needs(scene.bytes(first));
        let mut place = Place::new(target, scene.plan, needs, scene.pool, scene.stop)?;
        scene.prepare(first, &place)?;
        self.fill(first, &mut place)?;
        Ok(place)
    }

    /// Fills the caches. A slow disk would take too long; one that is much faster than the measured ones would let the pool
    /// learn that it is not needed.
    fn fill(&self, case: &Case, place: &mut Place<'_>) -> Result<(), Hole> {
        place.limit(&self.scene.plan.disk_to_fill())?;
        self.scene.warm(case, place)?;
        place.write_out()?;
        place.written_by = Some(case.name()).filter(|_| case.workload.writes());
        Ok(())
    }

    fn measure(&self, disk: &Disk, case: &Case, place: &mut Place<'_>, run: u32) -> Result<()> {
        if self.has(disk, case, place.target, run) {
            return Ok(());
        }
        self.scene.stop.check()?;
        self.progress.say(format!(
            "{}, {}x, {}: {} ({run} of {})",
            case.workload.title(),
            case.working_set,
            disk.name,
            place.target.title(),
            self.scene.plan.runs
        ));
        let mut commands = place.commands.clone();
        // What another case has written is not in the caches any more as it was.
        let has_changed = place.written_by.as_ref().is_some_and(|other| *other != case.name());
        let filled = if has_changed { self.fill(case, place) } else { Ok(()) };
        if case.workload.writes() {
            place.written_by = Some(case.name());
        }
        let limited = filled.and_then(|()| place.limit(disk).map_err(Hole::Failed));
        let told = limited.and_then(|()| self.scene.measure(case, place, run));
        // What it has left to be written does not take the next target's time.
        let written_out = place.write_out().map_err(Hole::Failed);
        let outcome = match told.and_then(|told| written_out.map(|()| told)) {
            Ok(told) => {
                commands.extend(told.commands);
                Outcome::Measured(told.figures)
            }
            Err(error) => {
                self.scene.stop.check()?;
                let outcome = Outcome::from(error);
                self.tell(&outcome, &format!("{}, {}: ", case.name(), place.target.title()));
                outcome
            }
        };
        self.keep(disk, case, place.target, run, commands, outcome)
    }

    fn keep(
        &self,
        disk: &Disk,
        case: &Case,
        target: Target,
        run: u32,
        commands: Vec<String>,
        outcome: Outcome,
    ) -> Result<()> {
        self.progress.step();
        let (disk, case) = (disk.name.clone(), case.clone());
        self.scene.store.keep(&Record { disk, case, target, run, commands, outcome })
    }

    fn tell(&self, outcome: &Outcome, of: &str) {
        match outcome {
            Outcome::Measured(_) => {}
            Outcome::NotInstalled { what } => {
                self.progress.line(&format!("{of}not installed: {what}"));
            }
            Outcome::Failed { why } => self.progress.line(&format!("{of}{why}")),
        }
    }
}
