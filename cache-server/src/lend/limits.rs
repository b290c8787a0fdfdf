//! What the administrator allows: how much at most, how much stays free, what is listened to.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rampool_cli::size::ByteSize;

use super::sense::Reading;
use crate::blocks::{SEGMENT_BYTES, SEGMENTS_MAX};

/// With fewer segments, second chances and the open one would leave nothing to evict.
const SEGMENTS_MIN: usize = 4;

/// The reserve, unless another is asked for: this part of a domain, within bounds.
const RESERVE_PER_CENT: u64 = 4;
const RESERVE_MIN: u64 = 64 << 20;
const RESERVE_MAX: u64 = 1 << 30;

/// How the controller decides.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// Bytes that are lent at most.
    pub(crate) lend_max: u64,
    /// What stays free in each domain; none for the usual.
    pub(crate) keep_free: Option<Share>,
    /// The quiet time before lending goes on.
    pub(crate) resume_after: Duration,
    pub(crate) detector: Detector,
}

/// What shows that the lender is active. Named by the numbers of the work that this follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Detector {
    /// Pages of files come back that the kernel had dropped
    #[value(name = "refaults", alias = "1")]
    Refaults,
    /// The kernel looks for pages to drop, or processes take memory while little is free
    #[value(name = "pressure", alias = "2")]
    Pressure,
    /// Both of them
    #[value(name = "both", alias = "3")]
    Both,
}

/// A part of some memory, or a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Share {
    PerCent(f64),
    Bytes(ByteSize),
}

/// The most that will ever be lent, in whole segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    segments: usize,
}

/// Why so much cannot be lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LimitError {
    /// Less than makes sense.
    #[error("{0} is too little to lend; the least is {least}", least = Limit { segments: SEGMENTS_MIN }.size())]
    TooLittle(ByteSize),
    /// More than there is.
    #[error("{asked} is more than this machine has: {machine}")]
    TooMuch {
        /// What was asked for.
        asked: ByteSize,
        /// What there is.
        machine: ByteSize,
    },
}

impl Policy {
    /// Bytes that are to stay free in a domain: never less than the kernel itself keeps free, and than a
    /// hundredth, or nobody could tell when there is little.
    pub(crate) fn reserve(&self, domain: &Reading) -> u64 {
        let limit = domain.limit;
        let reserve = match self.keep_free {
            Some(share) => share.of(limit).min(limit / 2),
            None => (limit / 100 * RESERVE_PER_CENT).clamp(RESERVE_MIN, RESERVE_MAX).min(limit / 4),
        };
        reserve.max(domain.kept_free).max(limit / 100)
    }
}

impl Detector {
    pub(crate) fn refaults(self) -> bool {
        matches!(self, Self::Refaults | Self::Both)
    }

    pub(crate) fn pressure(self) -> bool {
        matches!(self, Self::Pressure | Self::Both)
    }
}

impl Share {
    /// In bytes, of `whole`.
    pub(crate) fn of(self, whole: u64) -> u64 {
        match self {
            Self::PerCent(per_cent) => (whole as f64 * per_cent / 100.0) as u64,
            Self::Bytes(size) => size.bytes(),
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(number) = text.trim().strip_suffix('%') else {
            return text.parse().map(Self::Bytes).map_err(|error| format!("{error}, or 10%"));
        };
        match number.trim().parse::<f64>() {
            Ok(per_cent) if (0.0..=100.0).contains(&per_cent) => Ok(Self::PerCent(per_cent)),
            _ => Err(format!("'{text}' is no part of a whole; write 0% to 100%")),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerCent(per_cent) => write!(f, "{per_cent}%"),
            Self::Bytes(size) => size.fmt(f),
        }
    }
}

impl Limit {
    /// `asked`, rounded down to whole segments, on a machine with `machine` of memory.
    pub(crate) fn new(asked: ByteSize, machine: ByteSize) -> Result<Self, LimitError> {
        if asked > machine {
            return Err(LimitError::TooMuch { asked, machine });
        }
        let segments = asked.bytes() / SEGMENT_BYTES as u64;
        if segments < SEGMENTS_MIN as u64 {
            return Err(LimitError::TooLittle(asked));
        }
        match usize::try_from(segments) {
            Ok(segments) if segments <= SEGMENTS_MAX => Ok(Self { segments }),
            _ => Ok(Self { segments: SEGMENTS_MAX }),
        }
    }

    /// In segments.
    pub(crate) fn segments(self) -> usize {
        self.segments
    }

    /// In bytes of blocks.
    pub(crate) fn size(self) -> ByteSize {
        ByteSize(self.segments as u64 * SEGMENT_BYTES as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_whole_segments_between_four_and_the_machine() {
        let machine = ByteSize::mib(1024);
        let limit = Limit::new(ByteSize((11 << 20) + 5), machine).unwrap();
        assert_eq!((limit.segments(), limit.size()), (5, ByteSize::mib(10)));
        assert_eq!(Limit::new(machine, machine).unwrap().segments(), 512);
        let less = Limit::new(ByteSize((8 << 20) - 1), machine).unwrap_err();
        assert_eq!(less.to_string(), "8.0 MiB is too little to lend; the least is 8 MiB");
        let more = Limit::new(ByteSize::mib(2048), machine).unwrap_err();
        assert_eq!(more.to_string(), "2 GiB is more than this machine has: 1 GiB");
    }

    #[test]
    fn a_share_is_a_part_or_a_size() {
        assert_eq!("12.5%".parse::<Share>().unwrap().of(800), 100);
        assert_eq!("1K".parse::<Share>().unwrap().of(800), 1024);
        assert!("101%".parse::<Share>().is_err() && "x%".parse::<Share>().is_err());
        let error = "much".parse::<Share>().unwrap_err();
        assert!(
            error.starts_with("'much' is not a size; ") && error.ends_with(", or 10%"),
            "{error}"
        );
    }

    #[test]
    fn the_usual_reserve_is_a_part_of_the_domain_within_bounds() {
        let policy = |keep_free| Policy {
            lend_max: 0,
            keep_free,
            resume_after: Duration::from_secs(3),
            detector: Detector::Both,
        };
        let gib = 1 << 30;
        let reserve =
            |keep_free, limit| policy(keep_free).reserve(&Reading { limit, ..Reading::default() });
        assert_eq!(reserve(None, 25 * gib + gib / 2), gib);
        assert_eq!(reserve(None, 200 * gib), 2 * gib);
        assert_eq!(reserve(None, 2 * gib) / (1 << 20), 81);
        assert_eq!(reserve(None, gib) / (1 << 20), 64);
        assert_eq!(reserve(None, 128 << 20) / (1 << 20), 32);
        assert_eq!(reserve(Some(Share::PerCent(10.0)), gib), gib / 10);
        assert_eq!(reserve(Some(Share::Bytes(ByteSize(3 * gib))), 2 * gib), gib);
        assert_eq!(reserve(Some(Share::PerCent(0.0)), 100 << 20), 1 << 20);
        let kernels = Reading { limit: gib, kept_free: gib / 8, ..Reading::default() };
        assert_eq!(policy(None).reserve(&kernels), gib / 8);
    }
}
