//! What must hold: ratios to the run that lent nothing, just before.

use serde::Serialize;

use super::scenarios::Run;
use super::service::Requests;
use super::stage::{Layout, Way};

/// One of them.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Bar {
    pub(super) layout: Layout,
    pub(super) what: String,
    /// Median of the runs; none if it was not reached at all.
    pub(super) measured: Option<f64>,
    pub(super) wanted: f64,
    pub(super) is_most: bool,
    pub(super) holds: bool,
}

/// All of them, for one layout.
pub(super) fn bars(runs: &[Run], layout: Layout) -> Vec<Bar> {
    let of = |way| runs.iter().filter(move |run| run.way == way && run.layout == layout);
    let pairs: Vec<_> = of(Way::Nothing).zip(of(Way::Both)).collect();
    if pairs.is_empty() {
        return Vec::new();
    }
    let ratio = |figure: fn(&Run) -> Option<f64>| {
        median(pairs.iter().map(|(none, both)| Some(figure(both)? / figure(none)?)))
    };
    let mut bars = Vec::new();
    let mut bar = |what: &str, measured: Option<f64>, wanted: f64, is_most: bool| {
        let holds = measured.is_some_and(|is| if is_most { is <= wanted } else { is >= wanted });
        bars.push(Bar { layout, what: what.to_owned(), measured, wanted, is_most, holds });
    };
    bar("1: a step of malloc, mean", ratio(|run| run.allocation.mean_us), 1.25, true);
    bar("1: the worst step", ratio(|run| run.allocation.worst_us), 2.0, true);
    let kills: u64 = pairs.iter().map(|(_, both)| both.allocation.oom_kills).sum();
    bar("1: processes killed for want of memory", Some(kills as f64), 0.0, true);
    for mark in 0..pairs[0].0.turns.reads_at_marks.len() {
        let at = |run: &Run| run.turns.reads_at_marks.get(mark).copied();
        let is = median(pairs.iter().map(|(none, both)| Some(at(both)? / at(none)?)));
        bar(&format!("2: the lender's reads after {} s", (mark + 1) * 10), is, 0.95, false);
    }
    let regained = median(pairs.iter().map(|(_, both)| both.turns.regained_seconds));
    bar("3: seconds until 90 % is lent again", regained, 10.0, true);
    bar("4: the lender's reads", ratio(|run| Some(run.at_once.lender_per_second)), 0.95, false);
    bar("4: the client's reads", ratio(|run| Some(run.at_once.client_per_second)), 1.0, false);
    if pairs.iter().all(|(none, both)| none.service.is_some() && both.service.is_some()) {
        let sets = |run: &Run| run.service.map(|service| service.sets);
        let gets = |run: &Run| run.service.map(|service| service.gets);
        for (name, of) in [("sets", sets as fn(&Run) -> _), ("gets", gets)] {
            let ratio = |figure: fn(Requests) -> f64| {
                let ratios =
                    pairs.iter().map(|(none, both)| Some(figure(of(both)?) / figure(of(none)?)));
                median(ratios)
            };
            bar(&format!("Redis: {name} a second"), ratio(|is| is.per_second), 0.98, false);
            bar(&format!("Redis: {name}, p99"), ratio(|is| is.p99_ms), 1.05, true);
        }
    }
    bars
}

/// The one in the middle; none counts as worse than all.
pub(super) fn median(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(|a, b| match (a, b) {
        (Some(a), Some(b)) => a.total_cmp(b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    values.get(values.len() / 2).copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_reached_is_worse_than_all() {
        assert_eq!(median([Some(3.0), None, Some(1.0)].into_iter()), Some(3.0));
        assert_eq!(median([None, None, Some(1.0)].into_iter()), None);
        assert_eq!(median([].into_iter()), None);
    }
}
