//! Runs, put together to cells, and cells to comparisons.

use crate::suite::case::Case;
use crate::suite::figures::{Figures, Outcome, Shares, Spread};
use crate::suite::store::{Record, Results};
use crate::suite::target::Target;

/// All runs of one target under one condition.
#[derive(Clone, Debug)]
pub(crate) struct Cell<'a> {
    pub(crate) disk: &'a str,
    pub(crate) case: &'a Case,
    pub(crate) target: Target,
    records: Vec<&'a Record>,
}

impl<'a> Cell<'a> {
    /// Those of all results, in the order of the plan.
    pub(crate) fn all(results: &'a Results) -> Vec<Self> {
        let mut cells: Vec<Self> = Vec::new();
        for record in &results.records {
            let same = cells.iter_mut().find(|cell| {
                cell.disk == record.disk
                    && *cell.case == record.case
                    && cell.target == record.target
            });
            match same {
                Some(cell) => cell.records.push(record),
                None => cells.push(Self {
                    disk: &record.disk,
                    case: &record.case,
                    target: record.target,
                    records: vec![record],
                }),
            }
        }
        cells
    }

    fn figures(&self) -> impl Iterator<Item = (u32, &'a Figures)> {
        self.records.iter().filter_map(|record| match &record.outcome {
            Outcome::Measured(figures) => Some((record.run, figures)),
            _ => None,
        })
    }

    fn of(&self, value: impl Fn(&Figures) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.figures().filter_map(|(_, figures)| value(figures)))
    }

    /// Operations a second.
    pub(crate) fn per_second(&self) -> Option<Spread> {
        self.of(|figures| Some(figures.per_second))
    }

    /// Bytes a second.
    pub(crate) fn bytes_per_second(&self) -> Option<Spread> {
        self.of(|figures| figures.bytes_per_second)
    }

    /// Microseconds of the 50th, 99th and 99.9th percentile.
    pub(crate) fn latency(&self) -> Option<[Spread; 3]> {
        Some([
            self.of(|figures| Some(figures.latency?.p50))?,
            self.of(|figures| Some(figures.latency?.p99))?,
            self.of(|figures| Some(figures.latency?.p999))?,
        ])
    }

    /// The layers' parts, as the mean of the runs.
    pub(crate) fn layers(&self) -> Option<Shares> {
        let all: Vec<Shares> = self.figures().filter_map(|(_, figures)| figures.layers).collect();
        let mean = |value: fn(&Shares) -> f64| {
            all.iter().map(value).sum::<f64>() / all.len().max(1) as f64
        };
        (!all.is_empty()).then(|| Shares {
            local: mean(|shares| shares.local),
            remote: mean(|shares| shares.remote),
            source: mean(|shares| shares.source),
        })
    }

    /// Bytes that the row used, and that were lent to it.
    pub(crate) fn memory(&self) -> Option<(Spread, Spread)> {
        let used = self.of(|figures| Some(figures.memory_bytes as f64))?;
        Some((used, self.of(|figures| Some(figures.lent_bytes as f64))?))
    }

    /// The timeline of the first run.
    pub(crate) fn timeline(&self) -> &'a [(f64, f64)] {
        self.figures().next().map_or(&[], |(_, figures)| &figures.timeline)
    }

    /// Why there is no figure, or not of every run.
    pub(crate) fn hole(&self) -> Option<String> {
        let holes = self.records.iter().filter_map(|record| match &record.outcome {
            Outcome::Measured(_) => None,
            Outcome::NotInstalled { what } => Some(format!("not installed: {what}")),
            Outcome::Failed { why } => Some(format!("failed: {why}")),
        });
        let holes: Vec<String> = holes.collect();
        let first = holes.first()?.clone();
        Some(match holes.len() == self.records.len() {
            true => first,
            false => format!("{} of {} runs {first}", holes.len(), self.records.len()),
        })
    }

    /// What was typed for it.
    pub(crate) fn commands(&self) -> &'a [String] {
        self.records.first().map_or(&[], |record| &record.commands)
    }

    /// How many times as fast as `other`: of the runs that took turns.
    pub(crate) fn times(&self, other: &Self) -> Option<Spread> {
        Spread::of(self.figures().filter_map(|(run, figures)| {
            let (_, beside) = other.figures().find(|(number, _)| *number == run)?;
            (beside.per_second > 0.0).then(|| figures.per_second / beside.per_second)
        }))
    }
}

/// The cell of another target beside `cell`.
pub(crate) fn beside<'c, 'a>(
    cells: &'c [Cell<'a>],
    cell: &Cell<'a>,
    target: Target,
) -> Option<&'c Cell<'a>> {
    cells
        .iter()
        .find(|other| other.disk == cell.disk && other.case == cell.case && other.target == target)
}

/// Each once, in the order in which they come.
pub(crate) fn in_order<T: PartialEq>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut once = Vec::new();
    for one in all {
        if !once.contains(&one) {
            once.push(one);
        }
    }
    once
}
