//! `rampool-bench demo`: a pool at work on a real directory, every byte compared, and a server
//! killed under it.

mod blocks;
mod json;
mod report;
mod rounds;
mod source;
mod tally;
mod watch;
mod whole;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use rampool_cli::size::ByteSize;

use self::blocks::WorkingSet;
use self::report::Seen;
use self::rounds::ROUNDS;
use self::source::Source;
use self::tally::Tally;
use crate::binaries::Binaries;
use crate::cli::{Demo, Format};
use crate::group::{Controller, Group};
use crate::pool::{MountPlan, Pool};
use crate::progress::Progress;
use crate::scratch::Scratch;
use crate::stop::Stop;

const LEND: ByteSize = ByteSize::mib(2048);
const CACHE: ByteSize = ByteSize::mib(128);

/// Longest of step one, and of the first round: with a slow disk they take what they may.
const WHOLE_MAX: Duration = Duration::from_secs(30);
const FIRST_ROUND_MAX: Duration = Duration::from_secs(25);

/// The bar: step one, then the rounds.
const STEPS_WHOLE: u64 = 400;
const STEPS_ROUND: u64 = 150;

/// What every step needs.
struct Scene<'a> {
    tally: &'a Tally,
    progress: &'a Progress,
    stop: &'a Stop,
}

/// Runs the demo and prints what it saw. The exit code says whether every byte was right.
pub(crate) fn run(options: &Demo, stop: &Stop) -> Result<ExitCode> {
    let progress = Progress::new(STEPS_WHOLE + ROUNDS * STEPS_ROUND);
    let binaries = Binaries::find(options.common.place.bin_dir.as_deref())?;
    progress.say("lists the source");
    let source = Source::find(options.source.as_deref(), stop)?;

    progress.say("starts the pool");
    let pool = Pool::new(binaries, Scratch::new(&options.common.place.dir)?)?;
    // Made before the mount, so that it is removed after the process in it has ended.
    let throttle = options.disk_iops.and_then(|iops| throttle(&source, iops, &progress));
    let mut lender = pool.lend(LEND, stop)?;
    let plan = MountPlan {
        servers: &[lender.address],
        read_only: true,
        ..MountPlan::new(&source.root, "mnt", CACHE)
    };
    let mut client = pool.mount(&plan, stop)?;
    if let Some(throttle) = &throttle {
        throttle.hold(client.daemon().pid())?;
    }
    report::opening(&source, throttle.is_some().then_some(options.disk_iops).flatten(), &progress);

    let tally = Tally::default();
    let scene = Scene { tally: &tally, progress: &progress, stop };
    progress.say("compares every file");
    let path = client.path().to_owned();
    let whole = whole::compare(&source, &path, client.daemon(), WHOLE_MAX, &scene)?;
    if let (1.., Some(first)) = (tally.errors() + tally.mismatches(), tally.first()) {
        bail!(
            "reading every file: {} errors, {} mismatches; the first: {first}",
            tally.errors(),
            tally.mismatches()
        );
    }
    let set = WorkingSet::new(&source, &whole, &client)?;
    let rounds = rounds::run(set, &mut client, &mut lender, FIRST_ROUND_MAX, &scene)?;
    drop((client, lender, throttle));
    drop(progress);

    let held_back = options.disk_iops.is_some();
    let seen = Seen { source: &source, whole: &whole, rounds: &rounds, tally: &tally, held_back };
    match options.common.format {
        Format::Table => seen.print(),
        Format::Json => println!("{}", serde_json::to_string_pretty(&json::document(&seen))?),
    }
    let clean = tally.mismatches() == 0 && tally.errors() == 0;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Holds the disk back, or says why that cannot be.
fn throttle(source: &Source, iops: u32, progress: &Progress) -> Option<Group> {
    let name = format!("rampool-bench-{}", std::process::id());
    let made = Group::new(&name, &[Controller::Disk])
        .and_then(|group| group.limit_reads(&source.root, iops).map(|()| group));
    match made {
        Ok(group) => Some(group),
        Err(error) => {
            progress
                .line(&format!("The disk runs at its own speed, not at {iops} IOPS: {error:#}."));
            None
        }
    }
}

/// The place of the bar in a round of which this share is done.
fn steps_at(round: u64, share: f64) -> u64 {
    STEPS_WHOLE + (round - 1) * STEPS_ROUND + (share.min(1.0) * STEPS_ROUND as f64) as u64
}
