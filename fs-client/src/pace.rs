//! How long answers take: those of one server, or of the source.
//!
//! Answers are collected in windows; the last full one says what is usual. A window is short, so that what has changed
//! is known after a hundred answers, and ends after a second where answers are rare. [`Pace`] reads no clock.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Answers in a window: so many at most, and so many at least when its time is over.
const ANSWERS_MAX: usize = 128;
const ANSWERS_MIN: usize = 16;
const WINDOW: Duration = Duration::from_secs(1);

/// A window that has not ended after this time is begun anew: what was usual then says nothing now.
const WINDOW_MAX: Duration = Duration::from_secs(10);

/// Reads are compared with reads of about their length: short ones take their way, long ones their length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Short,
    Medium,
    /// What is said of them is for [`RUN_BLOCKS`] blocks.
    Long,
}

/// A short read has at most so many blocks.
pub(crate) const SHORT_BLOCKS: usize = 8;
/// And a medium one.
const MEDIUM_BLOCKS: usize = 32;

/// The length for which long reads' paces are told.
pub(crate) const RUN_BLOCKS: usize = 64;

/// What answers took in the last full window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usual {
    pub(crate) mean: Duration,
    pub(crate) p95: Duration,
    pub(crate) p99: Duration,
    /// When the window began and ended.
    pub(crate) from: Instant,
    pub(crate) as_of: Instant,
}

/// Collects what answers take.
#[derive(Debug)]
pub(crate) struct Pace {
    took: Vec<Duration>,
    /// When the first answer of the window came.
    began: Option<Instant>,
    usual: Option<Usual>,
}

/// The paces of reads of each length.
#[derive(Debug, Default)]
pub(crate) struct Paces([Pace; 3]);

/// What the source's answers take.
#[derive(Debug, Default)]
pub(crate) struct SourcePace(Mutex<Paces>);

impl Length {
    pub(crate) fn of(blocks: usize) -> Self {
        if blocks <= SHORT_BLOCKS {
            Self::Short
        } else if blocks <= MEDIUM_BLOCKS {
            Self::Medium
        } else {
            Self::Long
        }
    }
}

impl Paces {
    /// So many blocks have come at `now`, after `took`.
    pub(crate) fn note(&mut self, blocks: usize, took: Duration, now: Instant) {
        let length = Length::of(blocks);
        let took = match length {
            Length::Short | Length::Medium => took,
            Length::Long => took * RUN_BLOCKS as u32 / blocks as u32,
        };
        self.0[length as usize].note(took, now);
    }

    pub(crate) fn usual(&self, length: Length) -> Option<Usual> {
        self.0[length as usize].usual()
    }
}

impl SourcePace {
    /// So many blocks have come, asked for at `began`.
    pub(crate) fn note(&self, blocks: usize, began: Instant) {
        let now = Instant::now();
        self.0.lock().note(blocks, now - began, now);
    }

    pub(crate) fn usual(&self, length: Length) -> Option<Usual> {
        self.0.lock().usual(length)
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { took: Vec::with_capacity(ANSWERS_MAX), began: None, usual: None }
    }

    /// An answer has come at `now`, after `took`.
    pub(crate) fn note(&mut self, took: Duration, now: Instant) {
        if self.began.is_some_and(|began| now.duration_since(began) > WINDOW_MAX) {
            self.took.clear();
            self.began = None;
        }
        self.took.push(took);
        let began = *self.began.get_or_insert(now);
        let is_over = self.took.len() >= ANSWERS_MIN && now.duration_since(began) >= WINDOW;
        if is_over || self.took.len() >= ANSWERS_MAX {
            self.end(began, now);
        }
    }

    /// What is usual; none before there were enough answers.
    pub(crate) fn usual(&self) -> Option<Usual> {
        self.usual
    }

    fn end(&mut self, from: Instant, as_of: Instant) {
        self.took.sort_unstable();
        let answers = self.took.len();
        let part = |per_cent: usize| self.took[(answers * per_cent / 100).min(answers - 1)];
        let mean = self.took.iter().sum::<Duration>() / answers as u32;
        self.usual = Some(Usual { mean, p95: part(95), p99: part(99), from, as_of });
        self.took.clear();
        self.began = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_window_says_what_is_usual_when_it_is_full_or_over() {
        let start = Instant::now();
        let mut pace = Pace::new();
        for n in 1..ANSWERS_MAX as u32 {
            pace.note(n * MS, start);
        }
        assert_eq!(pace.usual(), None);
        pace.note(128 * MS, start);
        let usual = pace.usual().unwrap();
        assert_eq!((usual.p95, usual.p99), (122 * MS, 127 * MS));
        assert_eq!(usual.mean, 129 * MS / 2);
        for n in 0..ANSWERS_MIN as u32 {
            assert_eq!(pace.usual(), Some(usual), "answer {n}");
            pace.note(MS, start + n * WINDOW / 4);
        }
        assert_eq!(pace.usual().unwrap().mean, MS);
    }

    #[test]
    fn what_was_long_ago_is_no_part_of_a_window() {
        let start = Instant::now();
        let mut pace = Pace::new();
        for _ in 1..ANSWERS_MIN {
            pace.note(100 * MS, start);
        }
        for n in 0..ANSWERS_MIN as u32 {
            pace.note(MS, start + 2 * WINDOW_MAX + n * WINDOW / 4);
        }
        assert_eq!(pace.usual().unwrap().mean, MS);
    }

    #[test]
    fn reads_are_compared_with_reads_of_about_their_length() {
        let now = Instant::now();
        let mut paces = Paces::default();
        for _ in 0..ANSWERS_MAX {
            paces.note(1, MS, now);
            paces.note(32, 8 * MS, now);
            paces.note(256, 40 * MS, now);
        }
        let mean = |length| paces.usual(length).unwrap().mean;
        assert_eq!([Length::Short, Length::Medium, Length::Long].map(mean), [MS, 8 * MS, 10 * MS]);
    }
}
