//! What the figures say, in words.

use super::cells::{Cell, beside};
use crate::suite::figures::Spread;
use crate::suite::target::Target;

/// One sentence for each case and disk: how the pool, or without one the local cache, stands beside the page cache.
pub(crate) fn sentences(cells: &[Cell<'_>]) -> Vec<String> {
    let mut sentences = Vec::new();
    for cell in cells {
        let ours = match cell.target {
            Target::Pool(_) => true,
            // Only where there is no pool beside it.
            Target::Local => !cells.iter().any(|other| {
                other.disk == cell.disk
                    && other.case == cell.case
                    && matches!(other.target, Target::Pool(_))
            }),
            _ => false,
        };
        if !ours {
            continue;
        }
        let of = |target: Target| {
            let other = beside(cells, cell, target)?;
            Some(format!("{} of the {}", times(cell.times(other)?), target.title()))
        };
        let compared: Vec<String> = [Target::PageCache, Target::PageCacheTotal, Target::Direct]
            .into_iter()
            .filter_map(of)
            .collect();
        if !compared.is_empty() {
            sentences.push(format!(
                "{}, working set {} times the memory, disk '{}': {} does {}.",
                cell.case.workload.title(),
                cell.case.working_set,
                cell.disk,
                cell.target.title(),
                compared.join(", ")
            ));
        }
    }
    sentences
}

/// "4.2 times (3.9 to 4.4)".
pub(crate) fn times(spread: Spread) -> String {
    format!("{:.2} times ({:.2} to {:.2})", spread.median, spread.least, spread.most)
}
