//! What is counted, and how it is told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use histogram::AtomicHistogram;
use serde::Serialize;

/// Where a read was answered from: the slowest place that it needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Layer {
    Local,
    Remote,
    Source,
}

/// Every count of one mount. Each thread counts in one of a few places of its own, so that threads
/// do not take the same cache lines from each other at every read.
#[derive(Debug)]
pub(crate) struct Metrics {
    places: [Place; PLACES],
}

/// Two request threads on two CPUs rarely share one.
const PLACES: usize = 8;

/// By [`Layer`].
#[derive(Debug)]
struct Place([LayerMetrics; 3]);

#[derive(Debug)]
#[repr(align(128))]
struct LayerMetrics {
    reads: AtomicU64,
    bytes: AtomicU64,
    latency_ns: AtomicHistogram,
}

/// One layer, as `rampool status` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct LayerReport {
    /// Reads whose slowest part was answered here.
    pub(crate) reads: u64,
    /// Bytes of blocks that came from here.
    pub(crate) bytes: u64,
    pub(crate) latency_us: Percentiles,
    /// Upper end in nanoseconds and count, since the start, of each bucket that holds any.
    pub(crate) buckets: Vec<(u64, u64)>,
}

/// Latency in microseconds; none before the first read.
#[derive(Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let place = |_| Place(std::array::from_fn(|_| LayerMetrics::new()));
        Self { places: std::array::from_fn(place) }
    }

    /// Counts a read that took so long and was answered from `layer`.
    pub(crate) fn count_read(&self, layer: Layer, took: Duration) {
        let metrics = self.layer(layer);
        metrics.reads.fetch_add(1, Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Refused only above the highest bucket, which is an hour.
        let _ = metrics.latency_ns.increment(nanoseconds);
    }

    /// Counts bytes that came from `layer`.
    pub(crate) fn count_bytes(&self, layer: Layer, bytes: usize) {
        self.layer(layer).bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// What `layer` has done so far.
    pub(crate) fn report(&self, layer: Layer) -> LayerReport {
        let places = || self.places.iter().map(|place| &place.0[layer as usize]);
        let mut counts = BTreeMap::new();
        for metrics in places() {
            for bucket in metrics.latency_ns.load().iter().filter(|bucket| bucket.count() > 0) {
                *counts.entry(bucket.end()).or_insert(0) += bucket.count();
            }
        }
        let buckets: Vec<_> = counts.into_iter().collect();
        LayerReport {
            reads: places().map(|metrics| metrics.reads.load(Relaxed)).sum(),
            bytes: places().map(|metrics| metrics.bytes.load(Relaxed)).sum(),
            latency_us: Percentiles {
                p50: percentile(&buckets, 0.50),
                p99: percentile(&buckets, 0.99),
            },
            buckets,
        }
    }

    /// The counts of the calling thread.
    fn layer(&self, layer: Layer) -> &LayerMetrics {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static PLACE: usize = NEXT.fetch_add(1, Relaxed) % PLACES;
        }
        &self.places[PLACE.with(|&place| place)].0[layer as usize]
    }
}

impl LayerMetrics {
    fn new() -> Self {
        Self {
            reads: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            // Within 3 % (2^-5), up to 2^42 ns, an hour and more.
            latency_ns: AtomicHistogram::new(5, 42).expect("5 < 42 <= 64"),
        }
    }
}

/// The upper end, in microseconds, of the bucket that holds the given share of all.
pub(crate) fn percentile(buckets: &[(u64, u64)], share: f64) -> Option<f64> {
    let total: u64 = buckets.iter().map(|(_, count)| count).sum();
    let rank = ((total as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    for &(end_ns, count) in buckets {
        seen += count;
        if seen >= rank {
            return Some(end_ns as f64 / 1000.0);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_the_bucket_that_holds_them() {
        let metrics = Metrics::new();
        assert_eq!(metrics.report(Layer::Local).latency_us.p50, None);
        for microseconds in 1..=100 {
            metrics.count_read(Layer::Local, Duration::from_micros(microseconds));
        }
        let report = metrics.report(Layer::Local);
        assert_eq!(report.reads, 100);
        assert!((report.latency_us.p50.unwrap() / 50.0 - 1.0).abs() < 0.04);
        assert!((report.latency_us.p99.unwrap() / 99.0 - 1.0).abs() < 0.04);
        assert_eq!(report.buckets.iter().map(|(_, count)| count).sum::<u64>(), 100);
    }
}
