//! A server that fails is left alone, for longer each time.
//!
//! Three failures in a row open the breaker; after a pause one request at a time may try, and its answer closes it again.
//! A failure is an answer that was not what we sealed, or that did not come by its deadline: of the latter those within
//! a short while are one. Nothing here reads a clock.

use std::time::{Duration, Instant};

const STRIKES_MAX: u32 = 3;
/// Late answers within this time are one failure: many wait for the same stall.
const ONE_FAILURE: Duration = Duration::from_millis(20);

/// Doubled each time it opens, until it has been closed for a while.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(64);
const FORGIVEN_AFTER: Duration = Duration::from_secs(30);

/// After a pause so long must lie between tries: longer than a deadline.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// How a server fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// An answer did not come by its deadline.
    Late,
    /// An answer was not what it should be.
    Wrong,
}

/// Whether a server may be asked.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// How long it will be open next time.
    pause: Duration,
    /// When it was closed last.
    closed: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Closed {
        strikes: u32,
        last: Option<Instant>,
    },
    Open {
        until: Instant,
    },
    /// One request may make it close, or open again; the next may at this time.
    Trying {
        next: Instant,
    },
}

impl State {
    const CLOSED: Self = Self::Closed { strikes: 0, last: None };
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self { state: State::CLOSED, pause: PAUSE_MIN, closed: None }
    }

    /// Whether a request may be made.
    pub(super) fn lets_pass(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until: next } | State::Trying { next } if now < next => false,
            State::Open { .. } | State::Trying { .. } => {
                self.state = State::Trying { next: now + TRY_EVERY };
                true
            }
        }
    }

    /// Whether it is open, and the pause is not over.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        matches!(self.state, State::Open { until } if now < until)
    }

    /// An answer came in time, and was what it should be.
    pub(super) fn succeeded(&mut self, now: Instant) {
        match &mut self.state {
            State::Closed { strikes, .. } => *strikes = 0,
            State::Trying { .. } => {
                self.state = State::CLOSED;
                self.closed = Some(now);
            }
            // Asked before it opened: one of those that were lucky.
            State::Open { .. } => {}
        }
    }

    /// True if that opens the breaker.
    pub(super) fn failed(&mut self, failure: Failure, now: Instant) -> bool {
        match &mut self.state {
            State::Closed { last: Some(last), .. }
                if failure == Failure::Late
                    && now.saturating_duration_since(*last) < ONE_FAILURE =>
            {
                false
            }
            State::Closed { strikes, last } if *strikes + 1 < STRIKES_MAX => {
                *strikes += 1;
                *last = Some(now);
                false
            }
            State::Closed { .. } => {
                if self.closed.is_some_and(|closed| now.duration_since(closed) > FORGIVEN_AFTER) {
                    self.pause = PAUSE_MIN;
                }
                self.open(now);
                true
            }
            State::Trying { .. } => {
                self.open(now);
                false
            }
            // Asked before it opened: the same failure once more.
            State::Open { .. } => false,
        }
    }

    fn open(&mut self, now: Instant) {
        self.state = State::Open { until: now + self.pause };
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// So many failures, each counted. Says how often the breaker opened, and when the last was.
    fn fail(breaker: &mut Breaker, times: u32, now: Instant) -> (usize, Instant) {
        let at = |n| now + n * ONE_FAILURE;
        ((0..times).filter(|&n| breaker.failed(Failure::Late, at(n))).count(), at(times - 1))
    }

    #[test]
    fn three_failures_open_it_and_one_answer_closes_it() {
        let start = Instant::now();
        let mut breaker = Breaker::new();
        let (opened, now) = fail(&mut breaker, 2, start);
        breaker.succeeded(now);
        assert_eq!(opened, 0);
        let (opened, now) = fail(&mut breaker, 3, now + S);
        assert_eq!(opened, 1);
        assert!(!breaker.lets_pass(now) && breaker.lets_pass(now + S));
        assert!(!breaker.lets_pass(now + S), "one may try");
        breaker.succeeded(now + S);
        assert!(breaker.lets_pass(now + S) && breaker.lets_pass(now + S));
    }

    #[test]
    fn the_pause_grows_until_it_was_closed_for_a_while() {
        let mut breaker = Breaker::new();
        let (_, mut now) = fail(&mut breaker, STRIKES_MAX, Instant::now());
        for pause in [1, 2, 4, 8, 16, 32, 64, 64] {
            assert!(!breaker.lets_pass(now + pause * S - S / 10), "{pause}");
            now += pause * S;
            assert!(breaker.lets_pass(now));
            assert!(!breaker.failed(Failure::Late, now), "it was open");
        }
        now += 64 * S;
        assert!(breaker.lets_pass(now));
        breaker.succeeded(now);
        let (_, now) = fail(&mut breaker, STRIKES_MAX, now + FORGIVEN_AFTER + S);
        assert!(!breaker.lets_pass(now) && breaker.lets_pass(now + S));
    }

    #[test]
    fn many_that_wait_for_the_same_stall_are_one_failure() {
        let start = Instant::now();
        let mut breaker = Breaker::new();
        assert!((0..100).all(|n| !breaker.failed(Failure::Late, start + n * ONE_FAILURE / 100)));
        assert!(breaker.lets_pass(start + ONE_FAILURE));
    }

    #[test]
    fn three_wrong_answers_open_it_however_fast_they_come() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        let opens = [false, false, true];
        assert_eq!(opens.map(|_| breaker.failed(Failure::Wrong, now)), opens);
        assert!(breaker.is_open(now));
    }

    #[test]
    fn what_was_asked_before_it_opened_changes_nothing() {
        let mut breaker = Breaker::new();
        let (opened, now) = fail(&mut breaker, 20, Instant::now());
        breaker.succeeded(now);
        assert!(opened == 1 && breaker.is_open(now) && !breaker.is_open(now + PAUSE_MIN));
        assert!(breaker.lets_pass(now + PAUSE_MIN));
    }
}
