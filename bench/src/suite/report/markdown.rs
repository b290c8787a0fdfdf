//! The figures as tables in Markdown, put into a document between the two marks of their plan.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::cells::{Cell, beside, in_order};
use super::number;
use crate::suite::store::Results;
use crate::suite::target::Target;

/// Between which lines the figures of a plan stand, by its title.
fn marks(title: &str) -> [String; 2] {
    ["from here", "to here"].map(|end| format!("<!-- rampool-bench report '{title}': {end} -->"))
}

/// Replaces what stands between the plan's marks in a document, or adds both at its end.
///
/// # Errors
/// When it cannot be read or written, or has one of the marks only.
pub(super) fn put_into(document: &Path, results: &Results) -> Result<()> {
    let shown = document.display();
    let text = std::fs::read_to_string(document).with_context(|| format!("cannot read {shown}"))?;
    let marks = marks(&results.plan.title);
    let text = put(&text, &marks, &tables(results)).with_context(|| {
        format!("{shown} has not both lines '{}' and '{}' in this order", marks[0], marks[1])
    })?;
    std::fs::write(document, text).with_context(|| format!("cannot write {shown}"))
}

/// None where only one of the marks is there.
fn put(text: &str, [begin, end]: &[String; 2], new: &str) -> Option<String> {
    if !text.contains(begin) && !text.contains(end) {
        return Some(format!("{text}\n{begin}\n\n{new}\n{end}\n"));
    }
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n\n{new}\n{end}{after}"))
}

/// What was measured on what, then a table for each disk: the first target's figures, and those of the others in
/// times of them.
fn tables(results: &Results) -> String {
    let (plan, machine) = (&results.plan, &results.machine);
    let cells = Cell::all(results);
    let mut text = format!(
        "{}: {} of memory for each row, {} runs of {} s in turns. {}, Linux {}, {} x {}.\n",
        plan.title,
        plan.memory,
        plan.runs,
        plan.seconds,
        machine.system,
        machine.kernel,
        machine.cpus,
        machine.cpu,
    );
    for disk in in_order(cells.iter().map(|cell| cell.disk)) {
        let of: Vec<&Cell<'_>> = cells.iter().filter(|cell| cell.disk == disk).collect();
        let _ = write!(text, "\n### Disk: {disk}\n\n{}", table(&cells, &of));
    }
    text
}

fn table(all: &[Cell<'_>], cells: &[&Cell<'_>]) -> String {
    let targets = in_order(cells.iter().map(|cell| cell.target));
    let Some(&first) = targets.first() else { return String::new() };
    let titles = targets.iter().map(|target| target.title()).collect::<Vec<_>>().join(" | ");
    let mut text =
        format!("| | working set | {titles} |\n|---|---|{}\n", "---|".repeat(targets.len()));
    for case in in_order(cells.iter().map(|cell| cell.case)) {
        let of = |target: Target| {
            cells.iter().find(|cell| cell.case == case && cell.target == target).copied()
        };
        let _ = write!(text, "| {} | {}x |", case.workload.title(), case.working_set);
        for &target in &targets {
            let shown = of(target).and_then(|cell| match target == first {
                true => {
                    Some(format!("{} {}", number(cell.per_second()?.median), case.workload.unit()))
                }
                false => {
                    let times = cell.times(beside(all, cell, first)?)?;
                    Some(format!("{:.2} ({:.2} to {:.2})", times.median, times.least, times.most))
                }
            });
            let _ = write!(text, " {} |", shown.as_deref().unwrap_or("-"));
        }
        text.push('\n');
    }
    let holes = cells.iter().filter_map(|cell| {
        Some(format!("{}, {}: {}", cell.target.title(), cell.case.workload.title(), cell.hole()?))
    });
    for hole in in_order(holes) {
        let _ = write!(text, "\n- {hole}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let [begin, end] = &marks("it");
        let text = format!("a\n{begin}\nold\n{end}\nz\n");
        let put = |text: &str, plan: &str| put(text, &marks(plan), "new");
        let new = put(&text, "it").unwrap();
        assert_eq!(new, format!("a\n{begin}\n\nnew\n{end}\nz\n"));
        assert_eq!(put(&new, "it").unwrap(), new);
        let both = put(&new, "another").unwrap();
        assert!(both.starts_with(&new) && put(&both, "another").unwrap() == both);
        assert!(put(begin, "it").is_none() && put(end, "it").is_none());
    }

    #[test]
    fn known_results_give_known_rows() {
        let text = tables(&super::super::page::tests::results("[0.5, 4]"));
        for line in [
            "| | working set | page cache | rampool, 1 lender | rclone |",
            "| random reads, 4 KiB, 1 at once | 4x | 2,000 operations/s | 4.10 (4.10 to 4.10) | - |",
            "- rclone, random reads, 4 KiB, 1 at once: not installed: rclone",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nin\n{text}");
        }
    }
}
