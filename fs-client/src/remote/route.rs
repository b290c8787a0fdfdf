//! Whether a server is asked, or gone round.
//!
//! Of the two, server and source, the one is used that answers sooner. What is known of the other was measured under
//! little load, and may promise too much: so changing to it is an attempt, which is judged by what it gives under all
//! the load, and each attempt that fails is followed by a longer pause. What nobody would measure otherwise is measured
//! now and then: a server that is gone round gets a request, the source is read beside a server's answer. Nothing here
//! reads a clock.

use std::time::{Duration, Instant};

use crate::pace::Usual;

/// The other must take that part of the time, or less, to be tried.
const TRY_BELOW: f64 = 0.7;
/// And that part, under all the load, to be kept.
const KEEP_BELOW: f64 = 0.9;

/// The pause after an attempt that failed: doubled after each, until one succeeds.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(64);

/// While a cache fills, much is lent, servers are slow, and the source is read by few. So lending goes on for so long.
const LENDS_ON: Duration = Duration::from_secs(5);

/// A server that is gone round is asked all the same, for a hundredth of the time, but so often at least and at most: for
/// a window of answers in two to eight seconds.
const PROBE_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));
/// What is known of the source is old after this time. Then it is read so often beside a server's answer.
const OLD: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What to do for one read of what a server holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Ask the server.
    Ask,
    /// Ask the server, and read the source as well, only to see what it takes.
    AskAndLook,
    /// Read the source.
    Round,
}

/// The ways to what one server holds.
#[derive(Debug)]
pub(super) struct Route {
    /// The source is read.
    goes_round: bool,
    /// Since when it is as it is.
    since: Instant,
    /// It is an attempt: what the way before took.
    before: Option<Duration>,
    /// Of attempts with the server, and with the source.
    attempts: [Attempts; 2],
    next_probe: Option<Instant>,
    next_look: Option<Instant>,
}

#[derive(Debug)]
struct Attempts {
    pause: Duration,
    /// Not before then is there one.
    next: Instant,
}

impl Route {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            goes_round: false,
            since: now,
            before: None,
            attempts: [(); 2].map(|()| Attempts { pause: PAUSE_MIN, next: now }),
            next_probe: None,
            next_look: None,
        }
    }

    /// The way of a read at `now`, by what the server's and the source's answers usually take.
    pub(super) fn choose(
        &mut self,
        server: Option<Usual>,
        source: Option<Usual>,
        now: Instant,
    ) -> Way {
        let (used, other) = if self.goes_round { (source, server) } else { (server, source) };
        // Measured since the change, and so under all the load.
        if let Some(used) = used.filter(|used| used.from >= self.since) {
            self.judge(used.mean, other, now);
        }
        let wants_to_know = || source.is_none_or(|source| is_old(source, now));
        if self.goes_round {
            let took = server.map_or(Duration::ZERO, |server| server.mean);
            let pause = (100 * took).clamp(PROBE_PAUSE.0, PROBE_PAUSE.1);
            if is_due(&mut self.next_probe, pause, now) { Way::Ask } else { Way::Round }
        } else if wants_to_know() && is_due(&mut self.next_look, LOOK_EVERY, now) {
            Way::AskAndLook
        } else {
            Way::Ask
        }
    }

    /// Whether it is gone round now.
    pub(super) fn goes_round(&self) -> bool {
        self.goes_round
    }

    /// Whether it is worth lending to: also for a while after it was found slower, which may be lending's own doing.
    pub(super) fn pays(&self, now: Instant) -> bool {
        !self.goes_round || now.saturating_duration_since(self.since) < LENDS_ON
    }

    /// Changes the way if the other is better than the one that is used, which takes `mean`.
    fn judge(&mut self, mean: Duration, other: Option<Usual>, now: Instant) {
        let this = &mut self.attempts[usize::from(self.goes_round)];
        match self.before.take() {
            Some(before) if mean > before.mul_f64(KEEP_BELOW) => {
                this.next = now + this.pause;
                this.pause = (this.pause * 2).min(PAUSE_MAX);
                self.change(now);
            }
            Some(_) => this.pause = PAUSE_MIN,
            None => {
                let promises = |other: Usual| other.mean < mean.mul_f64(TRY_BELOW);
                let is_known = other.filter(|&other| !is_old(other, now));
                if is_known.is_some_and(promises)
                    && now >= self.attempts[usize::from(!self.goes_round)].next
                {
                    self.before = Some(mean);
                    self.change(now);
                }
            }
        }
    }

    fn change(&mut self, now: Instant) {
        self.goes_round = !self.goes_round;
        self.since = now;
    }
}

/// Whether a server is so much faster than the source that lending to it pays.
pub(super) fn is_faster(server: Usual, source: Usual) -> bool {
    server.mean < source.mean.mul_f64(TRY_BELOW)
}

fn is_old(source: Usual, now: Instant) -> bool {
    now.duration_since(source.as_of) > OLD
}

/// Whether something is due that is done `every` so often.
fn is_due(next: &mut Option<Instant>, every: Duration, now: Instant) -> bool {
    let is_due = next.is_none_or(|next| now >= next);
    if is_due {
        *next = Some(now + every);
    }
    is_due
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::Pace;

    const US: Duration = Duration::from_micros(1);
    const READERS: u32 = 4;

    /// A simulated client of one server: so many readers, each with one read at a time.
    struct Client {
        route: Route,
        server: Pace,
        source: Pace,
        now: Instant,
    }

    /// What the reads of a while took.
    #[derive(Default)]
    struct While {
        reads: u32,
        round: u32,
        looks: u32,
    }

    impl Client {
        fn new() -> Self {
            let (server, source, now) = (Pace::new(), Pace::new(), Instant::now());
            Self { route: Route::new(now), server, source, now }
        }

        /// Reads for a while; `server` and `source` say what each takes, by whether all readers ask it.
        fn read(
            &mut self,
            time: Duration,
            server: impl Fn(bool) -> Duration,
            source: impl Fn(bool) -> Duration,
        ) -> While {
            let end = self.now + time;
            let mut total = While::default();
            while self.now < end {
                let way = self.route.choose(self.server.usual(), self.source.usual(), self.now);
                let took = match way {
                    Way::Round => source(true),
                    Way::Ask | Way::AskAndLook => server(!self.route.goes_round()),
                };
                self.now += took / READERS;
                match way {
                    Way::Round => self.source.note(took, self.now),
                    Way::Ask | Way::AskAndLook => self.server.note(took, self.now),
                }
                if way == Way::AskAndLook {
                    self.source.note(source(false), self.now);
                    total.looks += 1;
                }
                total.reads += 1;
                total.round += u32::from(way == Way::Round);
            }
            total
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_slow_server_is_left_out_and_asked_again_when_it_is_fast() {
        let mut client = Client::new();
        let slow = client.read(MINUTE, |_| 5_000 * US, |_| 100 * US);
        assert!(
            f64::from(slow.round) > 0.9 * f64::from(slow.reads),
            "{} of {}",
            slow.round,
            slow.reads
        );
        client.read(Duration::from_secs(20), |_| 50 * US, |_| 100 * US);
        let fast = client.read(MINUTE, |_| 50 * US, |_| 100 * US);
        assert_eq!(fast.round, 0);
    }

    #[test]
    fn lending_goes_on_for_a_while_when_a_server_is_gone_round() {
        let mut client = Client::new();
        let (slow, fast) = (5_000 * US, 100 * US);
        let mut noticed = None;
        for _ in 0..600 {
            client.read(100 * fast, |_| slow, |_| fast);
            if client.route.goes_round() {
                noticed.get_or_insert(client.now);
            }
            let long_ago = noticed.is_some_and(|then| client.now > then + LENDS_ON);
            assert_eq!(client.route.pays(client.now), !long_ago);
        }
        while client.now < noticed.unwrap() + 2 * LENDS_ON {
            client.read(100 * fast, |_| slow, |_| fast);
        }
        assert!(client.route.goes_round() && !client.route.pays(client.now));
        client.read(Duration::from_secs(20), |_| fast / 2, |_| fast);
        assert!(client.route.pays(client.now), "it is faster again");
    }

    #[test]
    fn a_source_that_is_fast_only_for_a_few_is_not_fallen_for_again_and_again() {
        let mut client = Client::new();
        // 300 reads a second, however many ask; one alone gets its answer at once.
        let source = |all| if all { READERS * 3_330 * US } else { 200 * US };
        let total = client.read(10 * MINUTE, |_| 1_500 * US, source);
        let always = 10 * MINUTE.as_micros() as u32 / 1_500 * READERS;
        assert!(f64::from(total.reads) > 0.97 * f64::from(always), "{} of {always}", total.reads);
        assert!(total.looks > 100);
    }

    #[test]
    fn a_server_that_is_fast_only_for_a_few_is_not_fallen_for_again_and_again() {
        let mut client = Client::new();
        let server = |all| if all { 2_000 * US } else { 500 * US };
        client.read(MINUTE, server, |_| 1_000 * US);
        let total = client.read(10 * MINUTE, server, |_| 1_000 * US);
        assert!(f64::from(total.round) > 0.95 * f64::from(total.reads), "{}", total.round);
    }

    #[test]
    fn a_fast_server_is_asked_and_the_source_hardly_bothered() {
        let mut client = Client::new();
        let total = client.read(MINUTE, |_| 100 * US, |_| 6_000 * US);
        assert_eq!(total.round, 0);
        assert!(total.looks <= 4 * 60, "{} looks", total.looks);
    }
}
