//! Two directories of results, cell by cell: what changed beyond the noise.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde::Serialize;

use super::figures::Spread;
use super::report::Cell;
use super::store::Results;
use crate::cli::Format;
use crate::table::{grouped, table};

/// One cell in both.
#[derive(Debug, Serialize)]
struct Change {
    case: String,
    working_set: f64,
    disk: String,
    target: String,
    before: Spread,
    after: Spread,
    /// After, in times of before: of the medians.
    times: f64,
    /// No run of the one is among those of the other.
    beyond_noise: bool,
}

/// Prints what changed from `before` to `after`.
pub(crate) fn compare(before: &Path, after: &Path, format: Format) -> Result<ExitCode> {
    let (old, new) = (Results::read(before)?, Results::read(after)?);
    let changes = changes(&old, &new);
    if changes.is_empty() {
        bail!("{} and {} have no cell in common", before.display(), after.display());
    }
    if let Format::Json = format {
        println!("{}", serde_json::to_string_pretty(&changes)?);
        return Ok(ExitCode::SUCCESS);
    }
    for what in old.machine.differences(&new.machine) {
        println!("{what}");
    }
    let beyond = changes.iter().filter(|change| change.beyond_noise).count();
    println!("{} cells in both, {beyond} changed beyond the noise:\n", changes.len());
    let mut rows = table(&["case", "disk", "target", "before", "after", "times"], 3);
    for change in changes.iter().filter(|change| change.beyond_noise) {
        rows.add_row([
            format!("{}, {}x", change.case, change.working_set),
            change.disk.clone(),
            change.target.clone(),
            grouped(change.before.median.round() as u64),
            grouped(change.after.median.round() as u64),
            format!("{:.2}", change.times),
        ]);
    }
    if beyond > 0 {
        println!("{rows}");
    }
    Ok(ExitCode::SUCCESS)
}

fn changes(old: &Results, new: &Results) -> Vec<Change> {
    let (old, new) = (Cell::all(old), Cell::all(new));
    let both = old.iter().filter_map(|before| {
        let after = new.iter().find(|after| {
            (after.case, after.disk, after.target) == (before.case, before.disk, before.target)
        })?;
        let (from, to) = (before.per_second()?, after.per_second()?);
        Some(Change {
            case: before.case.workload.title(),
            working_set: before.case.working_set,
            disk: before.disk.to_owned(),
            target: before.target.title(),
            before: from,
            after: to,
            times: to.median / from.median,
            beyond_noise: from.is_apart_from(&to),
        })
    });
    both.collect()
}
