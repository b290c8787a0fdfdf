//! How much memory is lent, right now.
//!
//! Today a fixed limit, chosen on the command line. Whoever asks goes through [`Lender`], so that
//! a controller which follows the machine's needs can take its place.

pub(crate) mod sense;

use rampool_protocol::control::Lending;
use rampool_protocol::size::ByteSize;
use tokio::sync::watch;

use crate::blocks::{SEGMENT_BYTES, SEGMENTS_MAX};

/// With fewer segments, second chances and the open one would leave nothing to evict.
const SEGMENTS_MIN: usize = 4;

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

/// Decides how much is lent, and tells whoever wants to know.
#[derive(Debug)]
pub(crate) struct Lender {
    lending: watch::Sender<Lending>,
}

impl Lender {
    /// Lends all of `limit` all the time.
    pub(crate) fn fixed(limit: Limit) -> Self {
        let lending = Lending { capacity_bytes: limit.size().bytes(), pausing: false };
        Self { lending: watch::Sender::new(lending) }
    }

    /// What is lent now, and each change of it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Lending> {
        self.lending.subscribe()
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
}
