//! One page that shows what was measured: words first, then drawings, tables, and what was typed.

mod cells;
mod draw;
mod markdown;
mod page;
mod words;

use std::path::Path;

use anyhow::Result;

pub(crate) use self::cells::Cell;
use super::store::Results;

/// The page's name.
pub(crate) const PAGE: &str = "report.html";
const RAW: &str = "results.json";

/// Draws the page of a directory of results into it, says what is in it and returns them.
pub(crate) fn write(dir: &Path) -> Result<Results> {
    let results = Results::read(dir)?;
    std::fs::write(dir.join(RAW), serde_json::to_string_pretty(&results)?)?;
    std::fs::write(dir.join(PAGE), page::page(&results, RAW)?)?;
    for sentence in words::sentences(&Cell::all(&results)) {
        println!("{sentence}");
    }
    println!("{}", dir.join(PAGE).display());
    Ok(results)
}

/// Puts the figures of a directory of results into a document, between the marks of its plan, or at its end.
pub(crate) fn put_into(document: &Path, dir: &Path) -> Result<()> {
    markdown::put_into(document, &Results::read(dir)?)
}

/// With as many digits as matter.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => crate::table::grouped(value.round() as u64),
        value if value >= 1.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}
