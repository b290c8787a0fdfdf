//! What both sides did, second by second.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::owner::Worker;
use super::stage::Cast;

/// The time between two points.
const EVERY: Duration = Duration::from_millis(250);

/// A run, in points.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Timeline {
    /// Seconds since the lender's owner, or both sides, began.
    pub(super) seconds: Vec<f64>,
    /// Reads so far.
    pub(super) lender_reads: Vec<u64>,
    pub(super) client_reads: Vec<u64>,
    /// Bytes.
    pub(super) lent: Vec<u64>,
    /// Bytes that the lender uses in all, its page cache included.
    pub(super) used: Vec<u64>,
}

/// Takes points of a run.
pub(super) struct Watch<'a> {
    cast: &'a Cast<'a>,
    start: Instant,
    pub(super) timeline: Timeline,
}

impl<'a> Watch<'a> {
    pub(super) fn new(cast: &'a Cast<'a>) -> Self {
        Self { cast, start: Instant::now(), timeline: Timeline::default() }
    }

    /// Watches for so long, or until `done`.
    pub(super) fn until(
        &mut self,
        length: Duration,
        lender: Option<&Worker>,
        client: Option<&Worker>,
        mut done: impl FnMut(&Timeline) -> bool,
    ) -> Result<()> {
        let end = self.start.elapsed() + length;
        while self.start.elapsed() < end && !done(&self.timeline) {
            self.cast.stage.stop.check()?;
            std::thread::sleep(EVERY);
            let last = |worker: Option<&Worker>, before: &[u64]| {
                let now = worker.and_then(|worker| worker.figures().last().map(|last| last.1));
                now.unwrap_or_else(|| before.last().copied().unwrap_or(0))
            };
            let lent = self.cast.lent()?;
            let used = self.cast.vm.memory()?.used;
            let timeline = &mut self.timeline;
            timeline.lender_reads.push(last(lender, &timeline.lender_reads));
            timeline.client_reads.push(last(client, &timeline.client_reads));
            timeline.seconds.push(self.start.elapsed().as_secs_f64());
            timeline.lent.push(lent);
            timeline.used.push(used);
        }
        Ok(())
    }
}

impl Timeline {
    /// What `values` were at so many seconds, between two points in proportion.
    pub(super) fn at(&self, values: &[u64], seconds: f64) -> f64 {
        let after = self.seconds.partition_point(|&point| point < seconds);
        let value = |n: usize| values.get(n).map_or(0.0, |&value| value as f64);
        match after {
            0 => value(0),
            after if after == self.seconds.len() => value(after - 1),
            after => {
                let (from, to) = (self.seconds[after - 1], self.seconds[after]);
                let part = (seconds - from) / (to - from);
                value(after - 1) + (value(after) - value(after - 1)) * part
            }
        }
    }

    /// Changes of `values` a second, each with its time.
    pub(super) fn rates(&self, values: &[u64]) -> Vec<(f64, f64)> {
        // Counts come ten times a second: over one second they are smooth.
        let end = self.seconds.last().copied().unwrap_or(0.0);
        let whole = (1..=end as u64).map(|second| second as f64);
        whole
            .map(|second| (second, self.at(values, second) - self.at(values, second - 1.0)))
            .collect()
    }

    /// `values` with their times.
    pub(super) fn points(&self, values: &[u64]) -> Vec<(f64, f64)> {
        self.seconds.iter().copied().zip(values.iter().map(|&value| value as f64)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_between_points_are_in_proportion() {
        let timeline = Timeline {
            seconds: vec![0.5, 1.5, 2.5],
            lent: vec![10, 20, 60],
            ..Timeline::default()
        };
        assert_eq!(timeline.at(&timeline.lent, 0.1), 10.0);
        assert_eq!(timeline.at(&timeline.lent, 1.0), 15.0);
        assert_eq!(timeline.at(&timeline.lent, 2.0), 40.0);
        assert_eq!(timeline.at(&timeline.lent, 9.0), 60.0);
        assert_eq!(timeline.rates(&timeline.lent), [(1.0, 5.0), (2.0, 25.0)]);
    }
}
