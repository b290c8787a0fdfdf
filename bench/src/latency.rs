//! What a measurement yields: how many reads, how long, and how long each took.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies in nanoseconds, three digits exact.
#[derive(Clone)]
pub(crate) struct Latencies(Histogram<u64>);

/// One measured stretch of reading.
#[derive(Clone)]
pub(crate) struct Measured {
    /// Bytes read.
    pub(crate) bytes: u64,
    /// From the first read to the last.
    pub(crate) elapsed: Duration,
    /// Of each read.
    pub(crate) latencies: Latencies,
}

impl Latencies {
    /// None yet.
    pub(crate) fn new() -> Self {
        let one_hour_ns = 3_600_000_000_000;
        Self(
            Histogram::new_with_bounds(1, one_hour_ns, 3)
                .expect("the bounds are constant and valid"),
        )
    }

    /// Counts one.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts all of `other`'s.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// How many were counted.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that a share of `quantile` (0 to 1) does not exceed, in microseconds.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The longest, in microseconds.
    pub(crate) fn max_us(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }
}

impl Measured {
    /// Reads a second.
    pub(crate) fn iops(&self) -> f64 {
        self.latencies.count() as f64 / self.elapsed.as_secs_f64()
    }

    /// Millions of bytes a second.
    pub(crate) fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.elapsed.as_secs_f64()
    }
}

/// The middle one of `values`; of an even number, the mean of the two in the middle.
///
/// # Panics
/// When there is none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn quantiles_are_in_microseconds() {
        let mut latencies = Latencies::new();
        for us in 1..=100 {
            latencies.record(Duration::from_micros(us));
        }
        assert!((latencies.quantile_us(0.5) - 50.0).abs() < 0.2);
        assert!((latencies.max_us() - 100.0).abs() < 0.2);
    }
}
