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

/// Why a run has no figures.
pub(crate) enum Hole {
    /// A program is missing.
    NotInstalled(String),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Hole {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Hole> for Outcome {
    fn from(hole: Hole) -> Self {
        match hole {
            Hole::NotInstalled(what) => Self::NotInstalled { what },
            Hole::Failed(error) => Self::Failed { why: format!("{error:#}") },
        }
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

impl Figures {
    /// Of something that was done again and again, from the seconds that each took.
    pub(crate) fn of_times(times: &[f64]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part).round() as usize] * 1e6;
        let latency = || Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999) };
        Self {
            per_second: times.len() as f64 / times.iter().sum::<f64>(),
            latency: (!times.is_empty()).then(latency),
            ..Self::default()
        }
    }
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
    fn times_make_figures() {
        let figures = Figures::of_times(&[0.5, 1.0, 1.5]);
        assert_eq!(figures.per_second, 1.0);
        assert_eq!(figures.latency.unwrap().p50, 1e6);
    }

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
