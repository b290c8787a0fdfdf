//! What a measured stretch gave, and several of them together.

use serde::{Deserialize, Serialize};

/// How one run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ended", rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// With figures.
    Measured(Figures),
    /// A program that it takes is not here.
    NotInstalled { what: String },
    /// In the middle.
    Failed { why: String },
}

impl Outcome {
    /// With the reason and what led to it.
    pub(crate) fn failed(error: &anyhow::Error) -> Self {
        Self::Failed { why: format!("{error:#}") }
    }
}

/// Of one stretch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Operations a second.
    pub(crate) per_second: f64,
    /// Where operations are reads and writes.
    pub(crate) bytes_per_second: Option<f64>,
    pub(crate) latency: Option<Latency>,
    /// Parts of the reads that each layer answered, of rampool.
    pub(crate) layers: Option<Shares>,
    /// Bytes that the row used at the end, and what was lent to it.
    pub(crate) memory_bytes: u64,
    pub(crate) lent_bytes: u64,
    /// Operations a second, by seconds since the beginning.
    #[serde(default)]
    pub(crate) timeline: Vec<(f64, f64)>,
}

/// Microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

/// Parts of one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shares {
    pub(crate) local: f64,
    pub(crate) remote: f64,
    pub(crate) source: f64,
}

/// Several values of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of values in any order; none of none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let half = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[half],
            _ => (values[half - 1] + values[half]) / 2.0,
        };
        Some(Self { least, median, most })
    }

    /// Whether two of them have nothing in common: a difference beyond the noise.
    pub(crate) fn is_apart_from(&self, other: &Self) -> bool {
        self.most < other.least || other.most < self.least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        assert_eq!(Spread::of([]), None);
        let spread = Spread::of([3.0, 1.0, f64::NAN, 2.0]).unwrap();
        assert_eq!(spread, Spread { least: 1.0, median: 2.0, most: 3.0 });
        let even = Spread::of([1.0, 2.0, 4.0, 100.0]).unwrap();
        assert_eq!(even.median, 3.0);
        assert!(!spread.is_apart_from(&even));
        assert!(spread.is_apart_from(&Spread::of([3.5]).unwrap()));
    }
}
