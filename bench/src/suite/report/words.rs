//! What the figures say, in words.

use super::cells::{Cell, beside, in_order};
use crate::suite::figures::Spread;
use crate::suite::target::Target;

/// With more figures than this, each disk is summed up.
const SENTENCES_MAX: usize = 12;
/// What the pool, or without one the local cache, is held against.
const OTHERS: [Target; 3] = [Target::PageCache, Target::PageCacheTotal, Target::Direct];

/// How the pool, or without one the local cache, stands beside the page cache: a sentence for each case and disk
/// where there are few of them, else one for each disk that names the best and all that lose.
pub(crate) fn sentences(cells: &[Cell<'_>]) -> Vec<String> {
    let ours: Vec<&Cell<'_>> = cells.iter().filter(|cell| is_ours(cells, cell)).collect();
    let each: Vec<String> = ours.iter().filter_map(|cell| sentence(cells, cell)).collect();
    if each.len() <= SENTENCES_MAX {
        return each;
    }
    let disks = in_order(ours.iter().map(|cell| cell.disk));
    let targets = in_order(ours.iter().map(|cell| cell.target));
    let both = disks.iter().flat_map(|disk| targets.iter().map(move |target| (disk, target)));
    both.filter_map(|(disk, target)| {
        let of = ours.iter().filter(|cell| cell.disk == *disk && cell.target == *target);
        summary(cells, disk, *target, of.copied())
    })
    .collect()
}

fn is_ours(cells: &[Cell<'_>], cell: &Cell<'_>) -> bool {
    match cell.target {
        Target::Pool(_) => true,
        // Only where there is no pool beside it.
        Target::Local => !cells.iter().any(|other| {
            other.disk == cell.disk
                && other.case == cell.case
                && matches!(other.target, Target::Pool(_))
        }),
        _ => false,
    }
}

fn sentence(cells: &[Cell<'_>], cell: &Cell<'_>) -> Option<String> {
    let of = |target: Target| {
        let other = beside(cells, cell, target)?;
        let Spread { least, median, most } = cell.times(other)?;
        Some(format!("{median:.2} times the {} ({least:.2} to {most:.2})", target.title()))
    };
    let compared: Vec<String> = OTHERS.into_iter().filter_map(of).collect();
    (!compared.is_empty()).then(|| {
        let (case, disk, target) = (named(cell), cell.disk, cell.target.title());
        format!("{case}, disk '{disk}': {target} does {}.", compared.join(", "))
    })
}

/// Beyond the noise is what has all runs on one side of the other's.
fn summary<'c, 'a: 'c>(
    cells: &[Cell<'a>],
    disk: &str,
    target: Target,
    of: impl Iterator<Item = &'c Cell<'a>>,
) -> Option<String> {
    let (mut wins, mut losses, mut count) = (Vec::new(), Vec::new(), 0);
    for cell in of {
        let other = beside(cells, cell, Target::PageCache);
        let Some(times) = other.and_then(|other| cell.times(other)) else { continue };
        count += 1;
        let name = format!("{} ({:.2} times)", named(cell), times.median);
        match times {
            Spread { least, .. } if least > 1.0 => wins.push((times.median, name)),
            Spread { most, .. } if most < 1.0 => losses.push((times.median, name)),
            _ => {}
        }
    }
    if count == 0 {
        return None;
    }
    let best = wins.iter().max_by(|a, b| a.0.total_cmp(&b.0));
    let best = best.map_or_else(String::new, |(_, name)| format!(", most in {name}"));
    losses.sort_by(|a, b| a.0.total_cmp(&b.0));
    let lost: Vec<_> = losses.iter().map(|(_, name)| name.as_str()).collect();
    let lost = match lost.is_empty() {
        true => "slower in none".to_owned(),
        false => format!("slower in {}: {}", lost.len(), lost.join("; ")),
    };
    Some(format!(
        "Disk '{disk}': {} is faster than the page cache beyond the noise in {} of {count} cases{best}; {lost}.",
        target.title(),
        wins.len(),
    ))
}

/// "random reads, 4 KiB, 1 at once, working set 4 times the memory".
fn named(cell: &Cell<'_>) -> String {
    format!(
        "{}, working set {} times the memory",
        cell.case.workload.title(),
        cell.case.working_set
    )
}
