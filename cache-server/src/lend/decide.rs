//! How much to lend: a function of what was seen, what was decided before and the policy.
//!
//! Nothing here reads a clock, a file or the store: [`Controller::decide`] is given a [`Sample`] and
//! says what is allowed from now on. All that it knows of the past is in the controller.
//!
//! **Activity** of the lender ends the lending of more, and takes some of it back. It is looked for in
//! every domain (the machine, each limited cgroup around us) that has little free memory left; where
//! there is plenty, what its owner does is none of our doing. Signs of it are
//!
//! - refaults: pages of files are read again that the kernel had dropped (detector 1);
//! - deactivations: the kernel looks for pages to drop among those in use (detector 2);
//! - growth of what others use while the reserve is not there (detector 2): processes and the kernel,
//!   and the page cache as long as it is smaller than what is lent. Pages that were read once may never
//!   be read again; beyond an equal share it takes refaults.
//! - swapping and stalls, with any detector.
//!
//! While we push out page cache ourselves, stalls and deactivations are our own doing: then only
//! refaults tell whether somebody misses it.
//!
//! **Growth** begins after a quiet time. What is free beyond the reserve is lent as it is asked for;
//! pages that lie in the page cache are pushed out at a rate that doubles as long as nobody misses
//! them. After growth over the page cache that was missed, the next one begins slower and later.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::events::{Action, Reason};
use super::limits::Policy;
use super::sense::{PAGE, Reading};
use super::signs::Signs;

/// What is given back at first; twice as much each time until it is quiet.
const STEP_MIN: u64 = 32 * MIB;
/// Bytes a second at which the page cache is pushed out at first: usually, and after that was missed.
const RATE_USUAL: f64 = (16 * MIB) as f64;
const RATE_AFTER_MISTAKE: f64 = (2 * MIB) as f64;
const RATE_MAX: f64 = (1024 * MIB) as f64;
/// The rate doubles in this time.
const RATE_DOUBLES: Duration = Duration::from_millis(500);
/// Growth of the last moments may still have its effects.
const PUSHING: Duration = Duration::from_secs(1);
/// Activity within this time after growth began is taken for its consequence.
const MISTAKE: Duration = Duration::from_secs(4);
/// The quiet time is so many times as long after a mistake.
const QUIET_AFTER_MISTAKE: u32 = 2;
/// The part of a domain that is left to the page cache of others.
const CACHE_LEFT: u64 = 20;

const MIB: u64 = 1 << 20;

/// What was seen at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Since the beginning.
    pub(crate) at: Duration,
    /// Bytes that are lent now.
    pub(crate) held: u64,
    /// Bytes of our process, what is lent included, as far as the kernel has not taken them.
    pub(crate) own: u64,
    /// The domains, always in the same order.
    pub(crate) domains: Vec<Option<Reading>>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decision {
    /// Bytes that may be lent; what is lent beyond them is to be given back at once.
    pub(crate) allowed: u64,
    /// Bytes that could be lent if all went well: what clients weigh servers by.
    pub(crate) capacity: u64,
    /// Whether nothing new is taken for the time being.
    pub(crate) pausing: bool,
    /// Whether page cache of others is being pushed out. What is lent is to be kept from the kernel
    /// meanwhile, which would take it just as well.
    pub(crate) pushing: bool,
    /// What is new, and why.
    pub(crate) action: Option<Action>,
}

/// Decides, sample by sample.
#[derive(Debug)]
pub(crate) struct Controller {
    policy: Policy,
    before: Option<Sample>,
    domains: Vec<Signs>,
    mode: Mode,
    /// What the next activity takes back.
    step: u64,
    /// How the next growth begins.
    first_rate: f64,
    quiet: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// Lending what is asked for.
    Growing {
        since: Duration,
        rate: f64,
        /// Bytes of page cache that may be pushed out now.
        credit: f64,
        /// When more was lent than was free, last.
        pushed: Option<Duration>,
    },
    /// Lending nothing more until some time after the last activity.
    Pausing { until: Duration },
}

impl Controller {
    /// Lends nothing yet.
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            mode: Mode::growing(Duration::ZERO, RATE_USUAL),
            before: None,
            domains: Vec::new(),
            step: STEP_MIN,
            first_rate: RATE_USUAL,
            quiet: policy.resume_after,
            policy,
        }
    }

    /// Decides by another policy from now on.
    pub(crate) fn change(&mut self, policy: &Policy) {
        self.policy.clone_from(policy);
    }

    /// Whether so much has happened to a domain since the last sample that there should be another one
    /// at once: `free` is what it has now.
    pub(crate) fn is_urgent(&self, domain: usize, free: u64) -> bool {
        let before = self.before.as_ref().filter(|before| before.held > 0);
        let Some(Some(reading)) = before.and_then(|before| before.domains.get(domain)) else {
            return false;
        };
        let reserve = self.policy.reserve(reading);
        free + reserve / 8 < reading.free.min(2 * reserve)
    }

    /// What follows from `sample`, which is later than the one before.
    pub(crate) fn decide(&mut self, sample: &Sample) -> Decision {
        self.domains.resize(sample.domains.len(), Signs::default());
        let before = self.before.replace(sample.clone());
        let since = before.as_ref().map_or(sample.at, |before| before.at);
        let passed = sample.at.saturating_sub(since);

        let room = self.room(sample);
        let activity = before.as_ref().and_then(|before| self.activity(before, sample, passed));
        let mut action = None;
        let allowed = match activity {
            Some((reason, bytes)) => {
                let was_pausing = matches!(self.mode, Mode::Pausing { .. });
                self.react(sample.at);
                let bytes = bytes.min(sample.held);
                action = match bytes {
                    0 if was_pausing => None,
                    0 => Some(Action::Paused { reason }),
                    _ => Some(Action::GaveBack { bytes, reason }),
                };
                sample.held - bytes
            }
            None => {
                if let Mode::Pausing { until } = self.mode
                    && sample.at >= until
                {
                    let quiet = self.quiet;
                    self.mode = Mode::growing(sample.at, self.first_rate);
                    self.step = STEP_MIN;
                    action = Some(Action::Resumed { quiet });
                }
                let held_before = before.as_ref().map_or(sample.held, |before| before.held);
                let spent = sample.held.saturating_sub(held_before);
                sample.held + self.grow(sample.at, passed, spent, room)
            }
        };
        Decision {
            allowed: allowed.min(self.policy.lend_max),
            capacity: (sample.held + room.free + room.cached).min(self.policy.lend_max),
            pausing: matches!(self.mode, Mode::Pausing { .. }),
            pushing: self.mode.is_pushing(sample.at),
            action,
        }
    }

    /// Whether the lender needs its memory, why, and how much.
    fn activity(
        &mut self,
        before: &Sample,
        sample: &Sample,
        passed: Duration,
    ) -> Option<(Reason, u64)> {
        let seconds = passed.as_secs_f64().max(0.001);
        let per_second = |pages: f64| (pages / seconds) as u64;
        let detector = self.policy.detector;
        let pushing = self.mode.is_pushing(sample.at);
        let mut strongest: Option<(Reason, u64)> = None;
        for (n, signs) in self.domains.iter_mut().enumerate() {
            let (Some(Some(then)), Some(now)) = (before.domains.get(n), &sample.domains[n]) else {
                *signs = Signs::default();
                continue;
            };
            let shown = signs.observe((then, before.own), (now, sample.own), seconds);
            let reserve = self.policy.reserve(now);
            if now.free >= 2 * reserve {
                continue;
            }
            let mut found = |reason: Reason, bytes: u64| {
                // More than this would only lie there.
                let bytes = bytes.min(2 * reserve - now.free);
                if strongest.is_none_or(|(_, most)| bytes > most) {
                    strongest = Some((reason, bytes));
                }
            };
            if let Some(pages) = shown.refaults.filter(|_| detector.refaults()) {
                let reason = Reason::Refaults { per_second: per_second(pages) };
                found(reason, self.step.max((4.0 * pages) as u64 * PAGE));
            }
            if detector.pressure() {
                let own_doing = pushing && detector.refaults();
                if let Some(pages) = shown.deactivated.filter(|_| !own_doing) {
                    let reason = Reason::Deactivations { per_second: per_second(pages) };
                    found(reason, self.step.max(pages as u64 * PAGE));
                }
                // In proportion, so that the next moment finds it free.
                let refill = |grown: f64| ((4.0 * grown) as u64).max(STEP_MIN);
                let is_short = now.free < reserve;
                if let Some(grown) = shown.processes.filter(|_| is_short) {
                    found(Reason::Growth { bytes: grown as u64 }, refill(grown));
                }
                let is_small = now.file < sample.held;
                if let Some(grown) = shown.cache.filter(|_| is_short && is_small) {
                    found(Reason::CacheGrowth { bytes: grown as u64 }, refill(grown));
                }
            }
            if shown.swapped {
                found(Reason::Swapping, self.step.max(reserve));
            }
            if let Some(stalled) = shown.stalled.filter(|_| !pushing) {
                let reason = Reason::Stalls { per_cent: (stalled / seconds * 100.0) as u64 };
                found(reason, self.step.max(reserve));
            }
        }
        strongest
    }

    /// Stops lending more, for longer if it was lending too much that did it.
    fn react(&mut self, at: Duration) {
        if let Mode::Growing { since, pushed, .. } = self.mode {
            if at.saturating_sub(pushed.unwrap_or(since)) < MISTAKE {
                self.first_rate = RATE_AFTER_MISTAKE;
                self.quiet = self.policy.resume_after * QUIET_AFTER_MISTAKE;
            } else {
                self.first_rate = RATE_USUAL;
                self.quiet = self.policy.resume_after;
            }
        }
        self.step = self.step.saturating_mul(2);
        self.mode = Mode::Pausing { until: at + self.quiet };
    }

    /// How much more may be lent before the next sample, when `spent` bytes were since the last one.
    fn grow(&mut self, at: Duration, passed: Duration, spent: u64, room: Room) -> u64 {
        let Mode::Growing { since, rate, credit, pushed } = &mut self.mode else { return 0 };
        if at.saturating_sub(pushed.unwrap_or(*since)) >= MISTAKE {
            self.first_rate = RATE_USUAL;
            self.quiet = self.policy.resume_after;
        }
        if spent > 0 && room.free == 0 {
            *pushed = Some(at);
        }
        // Nobody knows yet what a growth that was not used would have done.
        if pushed.is_some_and(|pushed| at.saturating_sub(pushed) < PUSHING) {
            let doublings = passed.as_secs_f64() / RATE_DOUBLES.as_secs_f64();
            *rate = (*rate * doublings.exp2()).min(RATE_MAX);
        }
        let most = (*rate * 0.5).max((8 * MIB) as f64);
        *credit = (*credit - spent as f64).max(0.0);
        *credit = (*credit + *rate * passed.as_secs_f64()).min(most);
        room.free.max((*credit as u64).min(room.free + room.cached))
    }

    /// What could be lent more, as far as every domain allows.
    fn room(&self, sample: &Sample) -> Room {
        let domains = sample.domains.iter().flatten().map(|domain| {
            let reserve = self.policy.reserve(domain);
            let free = domain.free.saturating_sub(reserve);
            // What the reserve lacks is to stay in the page cache, where it can be had as fast.
            let left = domain.limit / CACHE_LEFT + reserve.saturating_sub(domain.free);
            (free, free + domain.file.saturating_sub(left))
        });
        let least = domains.reduce(|a, b| (a.0.min(b.0), a.1.min(b.1)));
        let (free, all) = least.unwrap_or_default();
        Room { free, cached: all - free }
    }
}

/// What could be lent more.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    /// Without anybody else losing a page.
    free: u64,
    /// By pushing out the page cache of others.
    cached: u64,
}

impl Mode {
    fn growing(since: Duration, rate: f64) -> Self {
        Self::Growing { since, rate, credit: 0.0, pushed: None }
    }

    fn is_pushing(self, at: Duration) -> bool {
        matches!(self, Self::Growing { pushed: Some(pushed), .. } if at.saturating_sub(pushed) < PUSHING)
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "recorded_tests.rs"]
mod recorded;
