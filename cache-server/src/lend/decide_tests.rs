//! The controller against a small model of a machine, and by properties.

use proptest::prelude::*;

use super::*;
use crate::lend::limits::{Detector, Share};

const TICK: Duration = Duration::from_millis(100);
const GIB: u64 = 1 << 30;

fn policy() -> Policy {
    Policy {
        lend_max: 2 * GIB,
        keep_free: Some(Share::PerCent(4.0)),
        resume_after: Duration::from_secs(3),
        detector: Detector::Both,
    }
}

/// A machine of 2 GiB with a client that always wants more.
struct World {
    controller: Controller,
    at: Duration,
    held: u64,
    /// Page cache and processes of the owner.
    file: u64,
    anon: u64,
    refaults: u64,
    deactivated: u64,
    stalled: Duration,
    swapped: u64,
}

impl World {
    fn new(policy: Policy) -> Self {
        Self {
            controller: Controller::new(policy),
            at: Duration::ZERO,
            held: 0,
            file: 0,
            anon: 100 * MIB,
            refaults: 0,
            deactivated: 0,
            stalled: Duration::ZERO,
            swapped: 0,
        }
    }

    fn free(&self) -> u64 {
        (2 * GIB).saturating_sub(self.held + self.file + self.anon)
    }

    /// A sample; the client fills what it is allowed, pushing out page cache where nothing is free.
    fn tick(&mut self) -> Decision {
        let reading = Reading {
            limit: 2 * GIB,
            free: self.free(),
            kept_free: 0,
            file: self.file,
            refaults: Some(self.refaults),
            deactivated: Some(self.deactivated),
            swapped: Some(self.swapped),
            stalled: Some(self.stalled),
        };
        let sample =
            Sample { at: self.at, held: self.held, own: self.held, domains: vec![Some(reading)] };
        let decision = self.controller.decide(&sample);
        if decision.allowed < self.held || !decision.pausing {
            self.held = decision.allowed;
        }
        let over = (self.held + self.file + self.anon).saturating_sub(2 * GIB);
        self.file = self.file.saturating_sub(over);
        self.at += TICK;
        decision
    }

    fn ticks(&mut self, count: u32) {
        for _ in 0..count {
            self.tick();
        }
    }

    fn reserve(&self) -> u64 {
        self.controller.policy.reserve(&Reading { limit: 2 * GIB, ..Reading::default() })
    }
}

#[test]
fn what_is_free_beyond_the_reserve_is_lent_at_once() {
    let mut world = World::new(policy());
    world.ticks(2);
    assert_eq!(world.free(), world.reserve());
    assert!(world.tick().capacity >= world.held);
}

#[test]
fn cold_page_cache_is_pushed_out_in_a_few_seconds_but_not_the_last_of_it() {
    let mut world = World::new(policy());
    world.file = 3 * GIB / 2;
    world.ticks(2);
    let first = world.held;
    assert!(first < 500 * MIB, "{first}");
    world.ticks(70);
    assert!(world.held > 17 * GIB / 10, "{} after 7 s", world.held);
    assert!(world.file > 50 * MIB);
}

#[test]
fn refaults_take_back_more_each_time_and_nothing_is_lent_for_three_seconds() {
    let mut world = World::new(Policy { detector: Detector::Refaults, ..policy() });
    world.file = GIB;
    world.ticks(100);
    let mut given = Vec::new();
    for _ in 0..4 {
        world.refaults += 100;
        // What came back is used.
        world.file += world.free();
        let Some(Action::GaveBack { bytes, reason: Reason::Refaults { per_second } }) =
            world.tick().action
        else {
            panic!("nothing was given back");
        };
        assert_eq!(per_second, 1000);
        given.push(bytes / MIB);
    }
    assert_eq!(given, [32, 64, 128, 163], "no more than twice the reserve lies free");
    let held = world.held;
    for _ in 0..29 {
        assert!(world.tick().pausing);
    }
    assert_eq!(world.held, held);
    let resumed = world.tick();
    assert!(matches!(resumed.action, Some(Action::Resumed { .. })) && !resumed.pausing);
}

#[test]
fn a_growth_that_was_missed_is_begun_slower_and_later() {
    let mut world = World::new(Policy { detector: Detector::Refaults, ..policy() });
    world.file = GIB;
    world.ticks(100);
    let active = |world: &mut World| {
        world.file += world.free();
        world.refaults += 1000;
        world.tick();
    };
    active(&mut world);
    world.ticks(30);
    world.ticks(5);
    active(&mut world);
    for _ in 0..59 {
        assert!(world.tick().pausing);
    }
    assert!(!world.tick().pausing);
    world.file += world.free();
    let held = world.held;
    world.ticks(3);
    assert!(world.held - held <= 4 * MIB, "{}", world.held - held);
}

#[test]
fn a_process_that_takes_memory_finds_the_reserve_again_and_again() {
    let mut world = World::new(policy());
    world.ticks(100);
    let reserve = world.reserve();
    while world.held > 0 {
        world.anon += 20 * MIB;
        assert!(world.free() >= reserve / 2, "{} left", world.free());
        world.tick();
    }
}

#[test]
fn page_cache_that_grows_gets_an_equal_share_without_refaults_and_more_with_them() {
    let mut world = World::new(policy());
    world.ticks(30);
    let mut quiet = 0;
    while quiet < 20 {
        world.file += world.free().min(4 * MIB);
        quiet = if world.tick().action.is_none() { quiet + 1 } else { 0 };
    }
    assert!(world.file.abs_diff(world.held) < 2 * world.reserve(), "{} {}", world.file, world.held);
    for _ in 0..20 {
        world.refaults += 100;
        world.file += world.free();
        world.tick();
    }
    assert_eq!(world.held, 0);
}

#[test]
fn pushing_out_page_cache_is_told_and_its_stalls_are_our_own() {
    let mut world = World::new(policy());
    world.file = 3 * GIB / 2;
    world.ticks(3);
    for _ in 0..30 {
        world.stalled += TICK / 2;
        world.deactivated += 10_000;
        let decision = world.tick();
        assert!(decision.pushing && !decision.pausing);
    }
    world.refaults += 1000;
    let decision = world.tick();
    assert!(!decision.pushing && decision.pausing);
}

#[test]
fn small_noise_is_no_activity() {
    let mut world = World::new(policy());
    world.file = GIB;
    world.ticks(100);
    for n in 0..300 {
        world.refaults += 2;
        world.deactivated += 2;
        world.anon = 100 * MIB + n % 2 * MIB;
        assert!(!world.tick().pausing);
    }
}

#[test]
fn where_there_is_plenty_nothing_is_our_doing() {
    let mut world = World::new(Policy { lend_max: 512 * MIB, ..policy() });
    world.ticks(20);
    for _ in 0..20 {
        world.refaults += 10_000;
        world.swapped += MIB;
        assert!(!world.tick().pausing);
    }
}

#[test]
fn a_detector_sees_its_own_signs_only_and_stalls_always_count() {
    for (detector, by_refaults, by_deactivations) in [
        (Detector::Refaults, true, false),
        (Detector::Pressure, false, true),
        (Detector::Both, true, true),
    ] {
        let world = || {
            let mut world = World::new(Policy { detector, ..policy() });
            world.file = GIB;
            world.ticks(100);
            world
        };
        let mut refaults = world();
        refaults.refaults += 1000;
        assert_eq!(refaults.tick().pausing, by_refaults);
        let mut deactivated = world();
        deactivated.deactivated += 1000;
        assert_eq!(deactivated.tick().pausing, by_deactivations);
        let mut stalled = world();
        stalled.stalled += TICK / 2;
        assert!(stalled.tick().pausing);
        let mut swapped = world();
        swapped.swapped += 4096;
        assert!(swapped.tick().pausing);
    }
}

#[test]
fn a_kernel_that_tells_little_is_lent_by_free_memory() {
    let mut controller = Controller::new(policy());
    let mut sample = Sample {
        at: Duration::ZERO,
        held: 0,
        own: 0,
        domains: vec![
            Some(Reading {
                limit: 2 * GIB,
                free: GIB,
                file: 0,
                kept_free: 0,
                refaults: None,
                deactivated: None,
                swapped: None,
                stalled: None,
            }),
            None,
        ],
    };
    let decision = controller.decide(&sample);
    assert_eq!(decision.allowed, GIB - policy().reserve(sample.domains[0].as_ref().unwrap()));
    (sample.held, sample.own) = (decision.allowed, decision.allowed);
    sample.at += TICK;
    let reading = sample.domains[0].as_mut().unwrap();
    reading.free = 10 * MIB;
    let decision = controller.decide(&sample);
    assert!(decision.allowed < sample.held && decision.pausing);
}

#[test]
fn every_domain_must_agree() {
    let mut controller = Controller::new(Policy { lend_max: 100 * GIB, ..policy() });
    let domain = |limit, free, file| Some(Reading { limit, free, file, ..Reading::default() });
    // Hardly anything is free in the machine, but much is cached; in the cgroup it is the other way.
    let domains = vec![domain(40 * GIB, 2 * GIB, 20 * GIB), domain(6 * GIB, 5 * GIB, 0)];
    let sample = Sample { at: Duration::ZERO, held: 0, own: 0, domains };
    let decision = controller.decide(&sample);
    assert!(decision.allowed <= GIB / 2, "{}", decision.allowed / MIB);
    assert!((4 * GIB..5 * GIB).contains(&decision.capacity), "{}", decision.capacity / MIB);
}

#[derive(Clone, Debug)]
struct Step {
    file: u64,
    anon: u64,
    refaults: u64,
    stalled: bool,
    wants: u64,
}

proptest! {
    #[test]
    fn never_above_limits_always_back_under_stall_never_faster_than_the_quiet_time(
        steps in prop::collection::vec(
            (0..GIB, 0..GIB, prop_oneof![3 => Just(0u64), 1 => 0..10_000u64], prop::bool::weighted(0.1), 0..GIB)
                .prop_map(|(file, anon, refaults, stalled, wants)| Step { file, anon, refaults, stalled, wants }),
            1..200)
    ) {
        let mut world = World::new(Policy { lend_max: GIB, ..policy() });
        let mut paused_at: Option<Duration> = None;
        let mut pushing = false;
        for step in steps {
            (world.file, world.anon) = (step.file, step.anon);
            world.refaults += step.refaults;
            if step.stalled {
                world.stalled += TICK / 2;
            }
            // A client that wants only so much.
            world.held = world.held.min(step.wants);
            let (held, free, at) = (world.held, world.free(), world.at);
            let decision = world.tick();
            prop_assert!(decision.allowed <= GIB && decision.capacity <= GIB);
            let gave_back = matches!(decision.action, Some(Action::GaveBack { .. }));
            // While it pushes page cache out, stalls are its own.
            let was_pushing = std::mem::replace(&mut pushing, decision.pushing);
            if step.stalled && free < 2 * world.reserve() && at > Duration::ZERO && !was_pushing {
                prop_assert!(decision.pausing && (decision.allowed < held || held == 0));
            }
            prop_assert_eq!(decision.allowed < held, gave_back);
            if gave_back {
                paused_at = Some(at);
            }
            if let Some(paused) = paused_at
                && at - paused < Duration::from_secs(3)
            {
                prop_assert!(decision.pausing && decision.allowed <= held);
            }
        }
    }
}
