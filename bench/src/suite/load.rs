//! What asks: makes its files, fills the caches, asks, and tells what came of it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::case::Case;
use super::figures::Figures;
use super::fio;
use super::place::{NoPlace, Place, installed, shares, shown};
use super::plan::Plan;
use super::store::Store;
use crate::pool::Pool;
use crate::scratch::Scratch;
use crate::stop::Stop;

/// How long a program may take over a run, besides its measured stretch.
const PATIENCE: Duration = Duration::from_secs(1800);
/// The file that fio reads and writes.
const DATA: &str = "data";

/// What a run needs besides its place.
pub(crate) struct Scene<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) pool: &'a Pool,
    pub(crate) store: &'a Store,
    pub(crate) stop: &'a Stop,
}

/// What a run gave, and what was typed for it.
pub(crate) struct Told {
    pub(crate) figures: Figures,
    pub(crate) commands: Vec<String>,
}

impl Scene<'_> {
    /// Bytes of a case's working set.
    pub(crate) fn bytes(&self, case: &Case) -> u64 {
        let bytes = self.plan.memory.0 as f64 * case.working_set;
        // Whole MiB, so that every block size divides it.
        (bytes as u64).next_multiple_of(1 << 20)
    }

    /// Makes the files of `case`, and of the other cases on the same files.
    pub(crate) fn prepare(&self, case: &Case, place: &Place<'_>) -> Result<(), NoPlace> {
        installed("fio")?;
        let path = place.source().unwrap_or(&place.dir).join(DATA);
        Scratch::random_file_at(&path, self.bytes(case), 1)?;
        Ok(())
    }

    /// Reads everything, on a disk that is not held back, until the caches hold what they can.
    pub(crate) fn warm(&self, place: &Place<'_>) -> Result<(), NoPlace> {
        let text = fio::warming(&place.dir.join(DATA), place.is_direct());
        // What the first pass had to leave out, the second may send.
        for _ in 0..if place.target.lenders() > 0 { 2 } else { 1 } {
            self.fio(&format!("{}-warming.fio", place.target), &text, place)?;
            place.settle(self.stop)?;
        }
        Ok(())
    }

    /// One measured stretch.
    pub(crate) fn measure(
        &self,
        case: &Case,
        place: &Place<'_>,
        run: u32,
    ) -> Result<Told, NoPlace> {
        let before = place.status()?;
        let mut told = self.measure_fio(case, place, run)?;
        let after = place.status()?;
        told.figures.layers = before.zip(after).and_then(|(before, after)| shares(&before, &after));
        (told.figures.memory_bytes, told.figures.lent_bytes) = place.memory()?;
        Ok(told)
    }

    fn measure_fio(&self, case: &Case, place: &Place<'_>, run: u32) -> Result<Told, NoPlace> {
        let file = place.dir.join(DATA);
        let text = fio::job(case, &file, place.is_direct(), self.plan.seconds);
        let name = format!("{}-{}-{run}.fio", case.name(), place.target);
        let (printed, command, logs) = self.fio(&name, &text, place)?;
        let mut figures = fio::figures(&printed)?;
        figures.timeline = fio::timeline(logs);
        Ok(Told { figures, commands: vec![command] })
    }

    /// Runs a job file; gives what it printed, how it was called and its logs.
    fn fio(
        &self,
        name: &str,
        job: &str,
        place: &Place<'_>,
    ) -> Result<(String, String, Vec<String>), NoPlace> {
        let path = self.store.keep_job(name, job)?;
        let dir =
            tempfile::tempdir_in(self.pool.scratch().path()).context("no room for fio's logs")?;
        let mut command = Command::new(installed("fio")?);
        command.arg("--output-format=json").arg(&path);
        let typed = shown(&command);
        let limit = PATIENCE + Duration::from_secs(u64::from(self.plan.seconds));
        let printed = place.run(command, dir.path(), limit, self.stop)?;
        let mut logs = Vec::new();
        for entry in std::fs::read_dir(dir.path()).context("fio's logs are gone")?.flatten() {
            if entry.file_name().to_string_lossy().ends_with(".log") {
                logs.push(std::fs::read_to_string(entry.path()).unwrap_or_default());
            }
        }
        Ok((printed, typed, logs))
    }
}
