//! Races: what must hold whichever thread goes on when, under shuttle's schedulers.
//!
//! `make races` builds and runs these. Each test makes a small piece of a mount, lets a few threads
//! at it, and is repeated with other schedules: half of them chosen at random, half with few
//! switches at places where they hurt (PCT). What a thread does is chosen at random too, by
//! shuttle's numbers, so that a schedule tells all. A failure says in which file its schedule is;
//! the test is run with that one alone by
//!
//! ```text
//! make races RACE=name_of_the_test RACES_SCHEDULE=/tmp/schedule000.txt
//! ```
//!
//! Shuttle takes every atomic to be sequentially consistent: it finds what comes of the order of
//! steps, and nothing that comes of a weaker ordering.
//!
//! - `flights.rs`: a block is brought once, and nobody waits for ever
//! - `blocks.rs`: what is cached against what the source holds
//! - `contents.rs`: changes by others against our own
//! - `inodes.rs`: look-ups against forgets
//! - `../local/races.rs`: the owners of slots, under every schedule there is
//! - `../remote/races.rs`: what was lent against what was written

mod blocks;
mod contents;
mod flights;
mod inodes;
mod world;

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, ReplayScheduler};
use shuttle::{Config, FailurePersistence, Runner};

/// Schedules of each kind that a test is repeated with, unless `RACES_ROUNDS` says otherwise.
const ROUNDS: usize = 1_000;

/// Switches that PCT places: most races need two, the known worst three.
const SWITCHES: usize = 3;

/// Runs `race` again and again, with other schedules.
pub(crate) fn check(race: fn()) {
    if replayed(race) {
        return;
    }
    let rounds = variable("RACES_ROUNDS")
        .map_or(ROUNDS, |rounds| rounds.parse().expect("RACES_ROUNDS is a number"));
    Runner::new(RandomScheduler::new(rounds), config()).run(race);
    Runner::new(PctScheduler::new(SWITCHES, rounds), config()).run(race);
}

/// Runs `race`, of few steps and without choices of its own, with every schedule there is.
pub(crate) fn check_all(race: fn()) {
    if !replayed(race) {
        Runner::new(DfsScheduler::new(None, false), config()).run(race);
    }
}

fn replayed(race: fn()) -> bool {
    let Some(schedule) = variable("RACES_SCHEDULE") else { return false };
    let scheduler = ReplayScheduler::new_from_file(schedule).expect("a file with a schedule");
    Runner::new(scheduler, config()).run(race);
    true
}

fn config() -> Config {
    let mut config = Config::new();
    // Frames of an unoptimised build are large.
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    config.failure_persistence = FailurePersistence::File(Some(std::env::temp_dir()));
    config
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// One of the numbers below `below`, by shuttle's choice.
pub(crate) fn any(below: u64) -> u64 {
    use shuttle::rand::Rng as _;
    shuttle::rand::thread_rng().gen_range(0..below)
}
