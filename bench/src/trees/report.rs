//! The figures, as a table and as JSON.

use serde::Serialize;

use super::sides::Way;
use crate::table::table;

/// The figures of all rounds.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) rounds: u32,
    pub(super) files: u32,
    /// Which passthrough it was.
    pub(super) passthrough: Option<String>,
    /// Whether the caches could be dropped.
    pub(super) cold: bool,
    pub(super) rows: Vec<Row>,
}

/// One operation. Times are medians in seconds, ratios medians of the ratios of each round.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) operation: &'static str,
    source: f64,
    rampool: f64,
    passthrough: Option<f64>,
    to_source: f64,
    to_passthrough: Option<f64>,
}

impl Row {
    /// From the seconds of each round; no passthrough, no figures of it.
    pub(super) fn new(operation: &'static str, seconds: impl Fn(Way) -> Vec<f64>) -> Self {
        let (source, rampool) = (seconds(Way::Source), seconds(Way::Rampool));
        let passthrough = seconds(Way::Passthrough);
        let there = !passthrough.is_empty();
        Self {
            operation,
            to_source: ratio(&rampool, &source),
            to_passthrough: there.then(|| ratio(&rampool, &passthrough)),
            source: median(source),
            rampool: median(rampool),
            passthrough: there.then(|| median(passthrough)),
        }
    }
}

impl Report {
    /// For people.
    pub(super) fn print(&self) {
        let header =
            ["", "source", "rampool", "passthrough", "rampool/source", "rampool/passthrough"];
        let mut table = table(&header, 1);
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        for row in &self.rows {
            table.add_row([
                row.operation.to_owned(),
                format!("{:.2} s", row.source),
                format!("{:.2} s", row.rampool),
                or_dash(row.passthrough.map(|seconds| format!("{seconds:.2} s"))),
                format!("{:.2}", row.to_source),
                or_dash(row.to_passthrough.map(|ratio| format!("{ratio:.2}"))),
            ]);
        }
        println!("{table}\n");
        println!("{} files, {} rounds, medians.", self.files, self.rounds);
        match &self.passthrough {
            Some(program) => println!("The passthrough is {program}."),
            None => println!("No passthrough to compare with; build it with deploy/passthrough."),
        }
        if !self.cold {
            println!("The caches could not be dropped (that takes root): cold means warm here.");
        }
    }
}

fn ratio(above: &[f64], below: &[f64]) -> f64 {
    median(above.iter().zip(below).map(|(above, below)| above / below).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_each_round() {
        let seconds = |way| match way {
            Way::Source => vec![1.0, 2.0, 10.0],
            Way::Rampool => vec![2.0, 6.0, 10.0],
            Way::Passthrough => Vec::new(),
        };
        let row = Row::new("x", seconds);
        assert_eq!((row.source, row.rampool, row.to_source), (2.0, 6.0, 2.0));
        assert!(row.passthrough.is_none() && row.to_passthrough.is_none());
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
    }
}
