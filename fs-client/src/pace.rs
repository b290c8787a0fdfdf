//! How long answers take: those of one server, or of the source.
//!
//! Answers are collected in windows. A window is short, so that what has changed is known after a hundred answers, and
//! ends after a quarter of a second where answers are rare. The last one says what is late; the mean is of all those of the last
//! [`SPAN`], because a disk with a limit (of a cloud, or of a cgroup) gives what it has for this tenth of a second at
//! once, and then nothing until the next. [`Pace`] reads no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

/// Answers in a window: so many at most, and so many at least when its time is over.
const ANSWERS_MAX: usize = 128;
const ANSWERS_MIN: usize = 16;
const WINDOW: Duration = Duration::from_millis(250);

/// The mean is of so long a time at least, once there are answers of so long.
const SPAN: Duration = Duration::from_millis(300);

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

/// What answers took lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usual {
    pub(crate) mean: Duration,
    /// Since when the answers came that the mean is of.
    pub(crate) from: Instant,
    pub(crate) last: Window,
    /// All since it was begun anew.
    pub(crate) so_far: Option<SoFar>,
}

/// Answers since they come under another load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SoFar {
    pub(crate) from: Instant,
    /// All of them together, and each.
    pub(crate) took: Duration,
    pub(crate) mean: Duration,
}

/// What the answers of one window took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) mean: Duration,
    pub(crate) p95: Duration,
    pub(crate) p99: Duration,
    /// When it began and ended.
    pub(crate) from: Instant,
    pub(crate) as_of: Instant,
}

/// What is usual, as `rampool status` shows it, in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct AnswersReport {
    mean: f64,
    p95: f64,
    p99: f64,
}

/// The same for reads of each length; none before there were enough.
#[derive(Debug, Serialize)]
pub(crate) struct PacesReport {
    short: Option<AnswersReport>,
    medium: Option<AnswersReport>,
    long: Option<AnswersReport>,
}

/// Collects what answers take.
#[derive(Debug)]
pub(crate) struct Pace {
    took: Vec<Duration>,
    /// All of them together.
    sum: Duration,
    /// When the first answer of the window came.
    began: Option<Instant>,
    /// The windows of the last [`SPAN`].
    windows: VecDeque<Sum>,
    /// All since it was begun anew.
    anew: Option<Sum>,
    usual: Option<Usual>,
}

/// The answers of a while.
#[derive(Clone, Copy, Debug)]
struct Sum {
    from: Instant,
    answers: u32,
    took: Duration,
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

    pub(crate) fn usual(&mut self, length: Length, now: Instant) -> Option<Usual> {
        self.0[length as usize].usual(now)
    }

    /// From here on answers come under another load.
    pub(crate) fn begin_anew(&mut self, length: Length) {
        self.0[length as usize].begin_anew();
    }
}

impl SourcePace {
    /// So many blocks have come, asked for at `began`.
    pub(crate) fn note(&self, blocks: usize, began: Instant) {
        let now = Instant::now();
        self.0.lock().note(blocks, now - began, now);
    }

    pub(crate) fn usual(&self, length: Length, now: Instant) -> Option<Usual> {
        self.0.lock().usual(length, now)
    }

    /// From here on answers come under another load.
    pub(crate) fn begin_anew(&self, length: Length) {
        self.0.lock().begin_anew(length);
    }

    pub(crate) fn report(&self, now: Instant) -> PacesReport {
        let of = |length| self.usual(length, now).map(AnswersReport::of);
        PacesReport { short: of(Length::Short), medium: of(Length::Medium), long: of(Length::Long) }
    }
}

impl AnswersReport {
    pub(crate) fn of(Usual { mean, last, .. }: Usual) -> Self {
        let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
        Self { mean: microseconds(mean), p95: microseconds(last.p95), p99: microseconds(last.p99) }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            took: Vec::with_capacity(ANSWERS_MAX),
            sum: Duration::ZERO,
            began: None,
            windows: VecDeque::new(),
            anew: None,
            usual: None,
        }
    }

    /// An answer has come at `now`, after `took`.
    pub(crate) fn note(&mut self, took: Duration, now: Instant) {
        if self.began.is_some_and(|began| now.duration_since(began) > WINDOW_MAX) {
            self.begin_window();
        }
        self.took.push(took);
        self.sum += took;
        let anew = self.anew.get_or_insert(Sum { from: now, answers: 0, took: Duration::ZERO });
        anew.answers = anew.answers.saturating_add(1);
        anew.took += took;
        let began = *self.began.get_or_insert(now);
        if self.took.len() >= ANSWERS_MAX {
            self.end(began, now);
        } else {
            self.end_if_over(now);
        }
    }

    /// What is usual at `now`; none before there were enough answers.
    pub(crate) fn usual(&mut self, now: Instant) -> Option<Usual> {
        self.end_if_over(now);
        let so_far = self.anew.map(|Sum { from, answers, took }| {
            let mean = took / answers;
            SoFar { from, took, mean }
        });
        self.usual.map(|usual| Usual { so_far, ..usual })
    }

    fn end_if_over(&mut self, now: Instant) {
        let over = self.began.filter(|&began| now.saturating_duration_since(began) >= WINDOW);
        if let Some(began) = over.filter(|_| self.took.len() >= ANSWERS_MIN) {
            self.end(began, now);
        }
    }

    fn end(&mut self, from: Instant, as_of: Instant) {
        self.took.sort_unstable();
        let answers = self.took.len();
        let part = |per_cent: usize| self.took[(answers * per_cent / 100).min(answers - 1)];
        let took = self.sum;
        let last =
            Window { mean: took / answers as u32, p95: part(95), p99: part(99), from, as_of };
        self.windows.push_back(Sum { from, answers: answers as u32, took });
        while self.windows.get(1).is_some_and(|second| as_of.duration_since(second.from) >= SPAN) {
            self.windows.pop_front();
        }
        let answers: u32 = self.windows.iter().map(|window| window.answers).sum();
        let mean = self.windows.iter().map(|window| window.took).sum::<Duration>() / answers;
        self.usual = Some(Usual { mean, from: self.windows[0].from, last, so_far: None });
        self.begin_window();
    }

    /// Answers that come from here on come under another load.
    pub(crate) fn begin_anew(&mut self) {
        self.anew = None;
        self.begin_window();
    }

    fn begin_window(&mut self) {
        self.took.clear();
        self.sum = Duration::ZERO;
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
        assert_eq!(pace.usual(start), None);
        pace.note(128 * MS, start);
        let usual = pace.usual(start).unwrap();
        assert_eq!((usual.last.p95, usual.last.p99), (122 * MS, 127 * MS));
        assert_eq!((usual.mean, usual.last.mean), (129 * MS / 2, 129 * MS / 2));
        for n in 0..ANSWERS_MIN as u32 {
            let now = start + n * WINDOW / 4;
            assert_eq!(pace.usual(now).unwrap().last, usual.last, "answer {n}");
            pace.note(MS, now);
        }
        assert_eq!(pace.usual(start + 4 * WINDOW).unwrap().mean, MS);
    }

    #[test]
    fn the_mean_is_of_all_that_a_limited_disk_gave_and_did_not() {
        let mut now = Instant::now();
        let mut pace = Pace::new();
        let mut means = Vec::new();
        // 300 reads in each tenth of a second: most are fast, and one waits for the next tenth.
        for n in 0..3_000u32 {
            let took = if n % 300 == 299 { 58 * MS } else { MS / 7 };
            now += took;
            pace.note(took, now);
            means.extend(pace.usual(now).filter(|_| n > 1_500).map(|usual| usual.mean));
        }
        let (least, most) = (means.iter().min().unwrap(), means.iter().max().unwrap());
        assert!(*least > MS / 4 && *most < MS / 2, "{least:?} to {most:?}");
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
        assert_eq!(pace.usual(start + 3 * WINDOW_MAX).unwrap().mean, MS);
    }

    #[test]
    fn a_few_answers_at_once_are_known_when_the_window_is_over() {
        let start = Instant::now();
        let mut pace = Pace::new();
        (0..ANSWERS_MIN).for_each(|_| pace.note(MS, start));
        assert_eq!(pace.usual(start + WINDOW / 2), None);
        assert_eq!(pace.usual(start + WINDOW).unwrap().mean, MS);
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
        let mut mean = |length| paces.usual(length, now).unwrap().mean;
        assert_eq!(
            [Length::Short, Length::Medium, Length::Long].map(&mut mean),
            [MS, 8 * MS, 10 * MS]
        );
    }
}
