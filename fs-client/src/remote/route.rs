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
/// And that part, under all the load, to be kept: the server, and the source, which costs less CPU time.
const KEEP_BELOW: [f64; 2] = [0.9, 1.1];
/// For that reason the source is also tried where it promises no more than this, but after so many times the pause.
const TRY_SOURCE_BELOW: f64 = 0.95;
const LITTLE_WAITS: u32 = 8;
/// An attempt that takes so much more time has failed, when its reads have waited for so long together.
const GIVE_UP_ABOVE: f64 = 1.5;
const GIVE_UP_AFTER: Duration = Duration::from_millis(100);
/// It is an attempt for so long: what has been idle may keep its promise for a while.
const TRIAL: Duration = Duration::from_secs(10);
/// An attempt that promises so much less time than the one that failed last need not wait.
const AGAIN_BELOW: f64 = 0.7;

/// The pause after an attempt that failed: doubled after each, until one succeeds.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(64);

/// While a cache fills, much is lent, servers are slow, and the source is read by few. So lending goes on for so long.
const LENDS_ON: Duration = Duration::from_secs(5);
/// Where asking is only an attempt, nothing is lent before it has lasted so long.
const ASKS_FOR_GOOD: Duration = Duration::from_secs(1);

/// A server that is gone round is asked all the same, for a hundredth of the time, but so often at least and at most.
const PROBE_PAUSE: (Duration, Duration) =
    (Duration::from_micros(62_500), Duration::from_millis(500));
/// What is known of the source is old after this time. Then it is read so often beside a server's answers.
const OLD: Duration = Duration::from_secs(5);
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Who was left alone is slow to wake up: so those that answer sooner are asked several times in a row, and then not for
/// as many pauses.
const WAKE_UP: Duration = Duration::from_millis(5);
const IN_A_ROW_MAX: u32 = 16;

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
    /// Until when the server was asked, attempts aside.
    last_asked: Instant,
    /// It is an attempt.
    attempt: Option<Attempt>,
    /// Of attempts with the server, and with the source.
    attempts: [Attempts; 2],
    probes: Rows,
    looks: Rows,
}

/// What an attempt is measured by.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    /// What the way before took.
    before: Duration,
    /// What part of it this way was to take.
    promised: f64,
}

#[derive(Debug)]
struct Attempts {
    pause: Duration,
    /// Not before then is there one, unless it promises more.
    next: Instant,
    /// What part of the time the last that failed had promised to take.
    promised: f64,
}

impl Route {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            goes_round: false,
            since: now,
            last_asked: now,
            attempt: None,
            attempts: [(); 2].map(|()| Attempts { pause: PAUSE_MIN, next: now, promised: 0.0 }),
            probes: Rows::default(),
            looks: Rows::default(),
        }
    }

    /// The way of a read at `now`, by what the server's and the source's answers usually take. When it changes, both begin a
    /// new window of answers.
    pub(super) fn choose(
        &mut self,
        server: Option<Usual>,
        source: Option<Usual>,
        now: Instant,
    ) -> Way {
        let (used, other) = if self.goes_round { (source, server) } else { (server, source) };
        if let Some(used) = used {
            self.judge(used, other, now);
        }
        let wants_to_know = || source.is_none_or(|source| is_old(source, now));
        if self.goes_round {
            let took = server.map_or(Duration::ZERO, |server| server.mean);
            let pause = (100 * took).clamp(PROBE_PAUSE.0, PROBE_PAUSE.1);
            if self.probes.is_due(took, pause, now) { Way::Ask } else { Way::Round }
        } else if self.looks.is_under_way() || wants_to_know() {
            let took = source.map_or(Duration::ZERO, |source| source.mean);
            let is_due = self.looks.is_due(took, LOOK_PAUSE, now);
            if is_due { Way::AskAndLook } else { Way::Ask }
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
        self.is_asked_for_good(now) || now.saturating_duration_since(self.last_asked) < LENDS_ON
    }

    fn is_asked_for_good(&self, now: Instant) -> bool {
        let lasts = || now.saturating_duration_since(self.since) >= ASKS_FOR_GOOD;
        !self.goes_round && (self.attempt.is_none() || lasts())
    }

    /// Changes the way if the other is better than the one that is `used`.
    fn judge(&mut self, used: Usual, other: Option<Usual>, now: Instant) {
        // All of it since the last change, and so it is measured under all the load, and for long enough.
        let is_settled = used.from >= self.since;
        if let Some(Attempt { before, promised }) = self.attempt {
            let so_far = used.so_far.filter(|so_far| so_far.from >= self.since);
            let gives_up = !is_settled
                && so_far.is_some_and(|so_far| {
                    so_far.took >= GIVE_UP_AFTER && so_far.mean > before.mul_f64(GIVE_UP_ABOVE)
                });
            let way = usize::from(self.goes_round);
            let fails = is_settled && used.mean > before.mul_f64(KEEP_BELOW[way]);
            let this = &mut self.attempts[way];
            if gives_up || fails {
                this.next = now + this.pause;
                this.pause = (this.pause * 2).min(PAUSE_MAX);
                this.promised = promised;
                self.change(now);
            } else if is_settled && now.saturating_duration_since(self.since) >= TRIAL {
                this.pause = PAUSE_MIN;
                self.attempt = None;
            }
        } else if is_settled && let Some(other) = other.filter(|&other| !is_old(other, now)) {
            let promised = other.mean.as_secs_f64() / used.mean.as_secs_f64().max(1e-9);
            let attempts = &self.attempts[usize::from(!self.goes_round)];
            let is_time = now >= attempts.next || promised < AGAIN_BELOW * attempts.promised;
            let lasts = now.saturating_duration_since(self.since);
            let is_enough = promised < TRY_BELOW
                || !self.goes_round
                    && promised < TRY_SOURCE_BELOW
                    && lasts >= LITTLE_WAITS * attempts.pause;
            if is_enough && is_time {
                self.change(now);
                self.attempt = Some(Attempt { before: used.mean, promised });
            }
        }
    }

    fn change(&mut self, now: Instant) {
        if !self.goes_round && self.attempt.is_none() {
            self.last_asked = now;
        }
        self.goes_round = !self.goes_round;
        self.since = now;
        self.attempt = None;
    }
}

/// Whether a server is so much faster than the source that lending to it pays.
pub(super) fn is_faster(server: Usual, source: Usual) -> bool {
    server.mean < source.mean.mul_f64(TRY_BELOW)
}

fn is_old(source: Usual, now: Instant) -> bool {
    now.duration_since(source.last.as_of) > OLD
}

/// Something that is done some times in a row, then not for a while.
#[derive(Debug, Default)]
struct Rows {
    left: u32,
    next: Option<Instant>,
}

impl Rows {
    /// Whether it is to be done now, by what it usually takes and the pause for each time, which begins with the first.
    fn is_due(&mut self, took: Duration, pause: Duration, now: Instant) -> bool {
        if self.left == 0 && self.next.is_none_or(|next| now >= next) {
            let in_a_row = WAKE_UP.as_nanos() / took.as_nanos().max(1);
            self.left = in_a_row.clamp(1, IN_A_ROW_MAX.into()) as u32;
            self.next = Some(now + self.left * pause);
        }
        let is_due = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_due
    }

    fn is_under_way(&self) -> bool {
        self.left > 0
    }
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
            self.read_by(READERS, time, |all, _| server(all), |all, _| source(all))
        }

        /// Reads for a while, by so many readers; server and source are told when.
        fn read_by(
            &mut self,
            readers: u32,
            time: Duration,
            mut server: impl FnMut(bool, Instant) -> Duration,
            mut source: impl FnMut(bool, Instant) -> Duration,
        ) -> While {
            let end = self.now + time;
            let mut total = While::default();
            while self.now < end {
                let went_round = self.route.goes_round();
                let way = self.route.choose(
                    self.server.usual(self.now),
                    self.source.usual(self.now),
                    self.now,
                );
                if self.route.goes_round() != went_round {
                    self.server.begin_anew();
                    self.source.begin_anew();
                }
                let took = match way {
                    Way::Round => source(true, self.now),
                    Way::Ask | Way::AskAndLook => server(!self.route.goes_round(), self.now),
                };
                self.now += took / readers;
                match way {
                    Way::Round => self.source.note(took, self.now),
                    Way::Ask | Way::AskAndLook => self.server.note(took, self.now),
                }
                if way == Way::AskAndLook {
                    self.source.note(source(false, self.now), self.now);
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
    fn a_server_that_is_hardly_slower_than_the_source_is_left_out_too() {
        let mut client = Client::new();
        let (server, source) = (70 * US, 62 * US);
        client.read(2 * TRIAL, |_| server, |_| source);
        let total = client.read(MINUTE, |_| server, |_| source);
        let probed = total.reads - total.round;
        assert!(probed > 0 && f64::from(probed) < 0.02 * f64::from(total.reads), "{probed}");
        client.read(2 * TRIAL, |_| source, |_| server);
        assert!(client.route.goes_round(), "hardly faster is no reason to change");
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
            // It has changed in the last 20 ms.
            let ago = noticed.map_or(Duration::ZERO, |then| client.now - then);
            let long_ago = ago > LENDS_ON;
            let is_certain = ago.abs_diff(LENDS_ON) > 20_000 * US;
            assert!(!is_certain || client.route.pays(client.now) != long_ago);
        }
        while client.now < noticed.unwrap() + 2 * LENDS_ON {
            client.read(100 * fast, |_| slow, |_| fast);
        }
        assert!(client.route.goes_round() && !client.route.pays(client.now));
        client.read(Duration::from_secs(20), |_| fast / 2, |_| fast);
        assert!(client.route.pays(client.now), "it is faster again");
    }

    #[test]
    fn attempts_that_fail_are_no_reason_to_lend() {
        let mut client = Client::new();
        let server = |all| if all { 2_000 * US } else { 100 * US };
        client.read(MINUTE, server, |_| 1_000 * US);
        let (mut pays, mut attempts) = (0, 0);
        for _ in 0..6_000 {
            client.read(10_000 * US, server, |_| 1_000 * US);
            pays += u32::from(client.route.pays(client.now));
            attempts += u32::from(!client.route.goes_round());
        }
        assert!(attempts > 0 && pays == 0, "{attempts} {pays}");
    }

    #[test]
    fn an_attempt_that_fails_late_lends_no_longer_than_it_lasts() {
        let mut client = Client::new();
        // Whoever comes back to it has two good seconds.
        let mut busy_since = None;
        let mut server = |all: bool, now: Instant| {
            if !all {
                busy_since = None;
                return 100 * US;
            }
            let since = *busy_since.get_or_insert(now);
            if now - since < Duration::from_secs(2) { 100 * US } else { 5_000 * US }
        };
        client.read_by(READERS, MINUTE, &mut server, |_, _| 1_000 * US);
        let (mut asked, mut round) = (0, 0);
        for _ in 0..12_000 {
            client.read_by(READERS, 10_000 * US, &mut server, |_, _| 1_000 * US);
            let pays = u32::from(client.route.pays(client.now));
            *(if client.route.goes_round() { &mut round } else { &mut asked }) += pays;
        }
        assert!(asked > 0 && round == 0, "{asked} {round}");
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

    /// A disk that gives 3,000 reads a second: each tenth of a second as many as it may, at once.
    fn limited() -> impl FnMut(bool, Instant) -> Duration {
        const SLICE: Duration = Duration::from_millis(100);
        let start = Instant::now();
        let (mut slice, mut given) = (0, 0);
        move |_, now| {
            let since = now.saturating_duration_since(start);
            let this = (since.as_nanos() / SLICE.as_nanos()) as u32;
            if this > slice {
                (slice, given) = (this, 0);
            }
            given += 1;
            let waits = if given > 300 { SLICE * (slice + 1) - since } else { Duration::ZERO };
            140 * US + waits
        }
    }

    #[test]
    fn a_disk_with_a_limit_is_not_taken_for_what_it_gives_at_once() {
        for (readers, server, probe) in
            [(1, 85, 150), (1, 150, 150), (16, 400, 150), (16, 800, 300)]
        {
            let mut client = Client::new();
            let mut source = limited();
            let server = |all, _| if all { server * US } else { probe * US };
            // Filling, the server was slow.
            client.read_by(readers, MINUTE, |_, _| 20_000 * US, &mut source);
            assert!(client.route.goes_round());
            client.read_by(readers, Duration::from_secs(20), server, &mut source);
            let total = client.read_by(readers, MINUTE, server, &mut source);
            let part = f64::from(total.round) / f64::from(total.reads);
            assert!(part < 0.01, "{readers} readers: {part} of {}", total.reads);
        }
    }

    #[test]
    fn a_source_that_is_fast_for_a_moment_is_not_fallen_for_again_and_again() {
        let mut client = Client::new();
        // Whoever comes back to it has a good second.
        let mut busy_since = None;
        let source = |all: bool, now: Instant| {
            if !all {
                busy_since = None;
                return 200 * US;
            }
            let since = *busy_since.get_or_insert(now);
            if now - since < Duration::from_secs(1) { 400 * US } else { 6_000 * US }
        };
        let total = client.read_by(READERS, 10 * MINUTE, |_, _| 1_000 * US, source);
        let part = f64::from(total.round) / f64::from(total.reads);
        assert!(part < 0.1, "{part} of {}", total.reads);
    }

    #[test]
    fn a_server_that_has_to_wake_up_for_the_first_is_not_thought_slow() {
        let mut client = Client::new();
        let source = |_, _| 250 * US;
        client.read_by(1, MINUTE, |_, _| 5_000 * US, source);
        assert!(client.route.goes_round());
        let mut last = client.now;
        let mut server = |_, now: Instant| {
            let slept = now - last > Duration::from_millis(50);
            last = now;
            if slept { 400 * US } else { 90 * US }
        };
        client.read_by(1, Duration::from_secs(10), &mut server, source);
        let total = client.read_by(1, MINUTE, &mut server, source);
        assert_eq!(total.round, 0);
    }

    #[test]
    fn a_fast_server_is_asked_and_the_source_hardly_bothered() {
        let mut client = Client::new();
        let total = client.read(MINUTE, |_| 100 * US, |_| 6_000 * US);
        assert_eq!(total.round, 0);
        assert!(total.looks <= 4 * 60, "{} looks", total.looks);
    }
}
