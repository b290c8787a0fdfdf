//! What was asked for and how long it took.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Requests since the start.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) get_requests: u64,
    pub(crate) get_blocks: u64,
    pub(crate) get_hits: u64,
    pub(crate) put_requests: u64,
    pub(crate) put_stored: u64,
    pub(crate) put_rejected: u64,
    get_times: Histogram<u64>,
    put_times: Histogram<u64>,
}

/// How long a kind of request took, of all since the start, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Counts {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            get_requests: 0,
            get_blocks: 0,
            get_hits: 0,
            put_requests: 0,
            put_stored: 0,
            put_rejected: 0,
            get_times: times(),
            put_times: times(),
        }
    }

    /// A GET for `blocks` blocks, `hits` of which were here.
    pub(crate) fn get(&mut self, blocks: usize, hits: usize, took: Duration) {
        self.get_requests += 1;
        self.get_blocks += blocks as u64;
        self.get_hits += hits as u64;
        record(&mut self.get_times, took);
    }

    /// A PUT of so many blocks.
    pub(crate) fn put(&mut self, stored: usize, rejected: usize, took: Duration) {
        self.put_requests += 1;
        self.put_stored += stored as u64;
        self.put_rejected += rejected as u64;
        record(&mut self.put_times, took);
    }

    /// From a GET's arrival to its answer.
    pub(crate) fn get_latency(&self) -> Quantiles {
        quantiles(&self.get_times)
    }

    /// What storing the blocks of a PUT took.
    pub(crate) fn put_latency(&self) -> Quantiles {
        quantiles(&self.put_times)
    }
}

/// Up to ten seconds, in nanoseconds, to two digits: about 50 KiB.
fn times() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 10_000_000_000, 2).expect("bounds and digits are in range")
}

fn record(times: &mut Histogram<u64>, took: Duration) {
    times.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
}

fn quantiles(times: &Histogram<u64>) -> Quantiles {
    let micros = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    Quantiles { p50: micros(0.5), p99: micros(0.99) }
}
