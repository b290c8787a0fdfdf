//! Latency histograms as the client's status gives them: counts per bucket since its start.
//! Two snapshots subtracted say what happened between them.

use std::collections::BTreeMap;

use serde::Deserialize;

/// How many reads took up to so many nanoseconds, bucket by bucket; empty buckets are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Vec<(u64, u64)>")]
pub(crate) struct Buckets(BTreeMap<u64, u64>);

impl Buckets {
    /// What was counted after `earlier` was taken.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before = |upper_ns| earlier.0.get(upper_ns).copied().unwrap_or(0);
        let counts =
            self.0.iter().map(|(upper, &count)| (*upper, count.saturating_sub(before(upper))));
        Self(counts.filter(|&(_, count)| count > 0).collect())
    }

    /// How many reads.
    pub(crate) fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// What a share of `quantile` (0 to 1) of the reads did not exceed, in microseconds: the upper
    /// end of the bucket in which that read is. None when there are no reads.
    pub(crate) fn quantile_us(&self, quantile: f64) -> Option<f64> {
        let rank = ((self.count() as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        self.0.iter().find_map(|(&upper_ns, &count)| {
            seen += count;
            (seen >= rank).then_some(upper_ns as f64 / 1e3)
        })
    }

    /// The mean in microseconds, with each read at the upper end of its bucket. None when there
    /// are no reads.
    pub(crate) fn mean_us(&self) -> Option<f64> {
        let sum: f64 = self.0.iter().map(|(&upper, &count)| upper as f64 * count as f64).sum();
        (self.count() > 0).then(|| sum / self.count() as f64 / 1e3)
    }
}

impl From<Vec<(u64, u64)>> for Buckets {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut counts = BTreeMap::new();
        for (upper_ns, count) in pairs {
            *counts.entry(upper_ns).or_default() += count;
        }
        Self(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(pairs: &[(u64, u64)]) -> Buckets {
        Buckets::from(pairs.to_vec())
    }

    #[test]
    fn a_round_is_the_later_snapshot_less_the_earlier() {
        let earlier = buckets(&[(1000, 5), (2000, 7)]);
        let later = buckets(&[(1000, 5), (2000, 9), (64_000, 4)]);
        assert_eq!(later.since(&earlier), buckets(&[(2000, 2), (64_000, 4)]));
        assert_eq!(later.since(&later).count(), 0);
        assert_eq!(later.since(&Buckets::default()), later);
    }

    #[test]
    fn a_client_that_was_started_anew_gives_no_negative_counts() {
        let earlier = buckets(&[(1000, 5)]);
        assert_eq!(buckets(&[(1000, 2)]).since(&earlier).count(), 0);
    }

    #[test]
    fn quantiles_are_the_upper_ends_of_buckets() {
        let ten = buckets(&[(10_000, 5), (20_000, 4), (500_000, 1)]);
        assert_eq!(ten.quantile_us(0.5), Some(10.0));
        assert_eq!(ten.quantile_us(0.51), Some(20.0));
        assert_eq!(ten.quantile_us(0.9), Some(20.0));
        assert_eq!(ten.quantile_us(0.99), Some(500.0));
        assert_eq!(ten.quantile_us(0.0), Some(10.0));
        assert_eq!(ten.quantile_us(1.0), Some(500.0));
        assert_eq!(ten.mean_us(), Some(63.0));
        assert_eq!(Buckets::default().quantile_us(0.5), None);
        assert_eq!(Buckets::default().mean_us(), None);
    }

    #[test]
    fn buckets_are_read_from_pairs_in_any_order() {
        let read: Buckets = serde_json::from_str("[[2000,1],[1000,3],[2000,2]]").unwrap();
        assert_eq!(read, buckets(&[(1000, 3), (2000, 3)]));
    }
}
