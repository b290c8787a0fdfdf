//! The four scenarios. The second and the third are one run: the client fills the lender's memory, the
//! lender reads its file, then the client reads again.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::owner::{Ended, Order, Work};
use super::service::{self, Service};
use super::stage::{Layout, Stage, Way};
use super::timeline::{Timeline, Watch};

/// What a process takes at once.
const STEP: usize = 8 << 20;
/// It takes this part of the lender's memory in all: what is left is for the kernel and the server.
const TAKEN_PER_CENT: u64 = 85;
/// What counts as regained.
const REGAINED: f64 = 0.9;
/// How long it is waited for.
const REGAIN_MAX: Duration = Duration::from_secs(15);
const CLIENT_BLOCK: usize = 32 << 10;

/// One run of everything.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Run {
    pub(super) way: Way,
    pub(super) layout: Layout,
    pub(super) allocation: Allocation,
    pub(super) turns: Turns,
    pub(super) at_once: AtOnce,
    /// A lender at work; none without Redis.
    pub(super) service: Option<Service>,
}

/// Scenario 1: the client reads while a process of the lender takes memory.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Allocation {
    pub(super) lent_before: u64,
    /// Of each step; none if the process was killed.
    pub(super) mean_us: Option<f64>,
    pub(super) worst_us: Option<f64>,
    pub(super) oom_kills: u64,
    timeline: Timeline,
    pub(super) decisions: Vec<String>,
}

/// Scenarios 2 and 3: the lender reads, then the client.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Turns {
    pub(super) lent_before: u64,
    pub(super) lent_after: u64,
    /// What the lender has read after 10 s, 20 s and so on.
    pub(super) reads_at_marks: Vec<f64>,
    /// Seconds from the end of the lender's reads until nearly as much is lent as before.
    pub(super) regained_seconds: Option<f64>,
    pub(super) timeline: Timeline,
    pub(super) decisions: Vec<String>,
}

/// Scenario 4: both read at once.
#[derive(Clone, Debug, Serialize)]
pub(super) struct AtOnce {
    pub(super) lender_per_second: f64,
    pub(super) client_per_second: f64,
    pub(super) timeline: Timeline,
    pub(super) decisions: Vec<String>,
}

/// Runs all of them.
pub(super) fn run(stage: &Stage<'_>, way: Way, layout: Layout, seconds: u32) -> Result<Run> {
    Ok(Run {
        way,
        layout,
        allocation: allocation(stage, way, layout)?,
        turns: turns(stage, way, layout, seconds)?,
        at_once: at_once(stage, way, layout, seconds)?,
        service: if way.has_bars() && service::is_here() {
            Some(service::run(stage, way, layout)?)
        } else {
            None
        },
    })
}

fn allocation(stage: &Stage<'_>, way: Way, layout: Layout) -> Result<Allocation> {
    let cast = stage.begin(way, layout)?;
    stage.say(way, "the client reads, a process of the lender takes memory");
    cast.fill()?;
    let client = cast.client_reads(0, 4096, u64::from(stage.disk_iops) / 2, Order::Random)?;
    let mut watch = Watch::new(&cast);
    watch.until(Duration::from_secs(1), None, Some(&client), |_| false)?;
    let lent_before = cast.lent()?;
    let bytes = usize::try_from(stage.memory / 100 * TAKEN_PER_CENT)?;
    let ended = cast.owner(&Work::Take { bytes, step: STEP })?.end_by_itself()?;
    watch.until(Duration::from_secs(1), None, Some(&client), |_| false)?;
    let (mean_us, worst_us) = match &ended {
        Ended::Killed => (None, None),
        Ended::Well(times) => (
            Some(times.iter().sum::<u64>() as f64 / times.len().max(1) as f64),
            times.iter().max().map(|&worst| worst as f64),
        ),
    };
    let timeline = watch.timeline;
    let (oom_kills, decisions) = (cast.oom_kills()?, cast.decisions()?);
    Ok(Allocation { lent_before, mean_us, worst_us, oom_kills, timeline, decisions })
}

fn turns(stage: &Stage<'_>, way: Way, layout: Layout, seconds: u32) -> Result<Turns> {
    let cast = stage.begin(way, layout)?;
    stage.say(way, "the client reads, then the lender, then the client");
    cast.fill()?;
    let lent_before = cast.lent()?;
    let length = Duration::from_secs(u64::from(seconds));
    let mut watch = Watch::new(&cast);
    let lender = cast.owner_reads()?;
    watch.until(length + Duration::from_millis(300), Some(&lender), None, |_| false)?;
    let lent_after = cast.lent()?;
    drop(lender);
    let ended = watch.timeline.seconds.last().copied().unwrap_or_default();
    if lent_before > 0 && way.is_lent() {
        let client = cast.client_reads(1, CLIENT_BLOCK, 0, Order::Each)?;
        let enough = (lent_before as f64 * REGAINED) as u64;
        watch.until(REGAIN_MAX, None, Some(&client), |timeline| {
            timeline.lent.last().is_some_and(|&lent| lent >= enough)
        })?;
    }
    let decisions = cast.decisions()?;
    let timeline = watch.timeline;
    let enough = lent_before as f64 * REGAINED;
    let regained = timeline.seconds.iter().zip(&timeline.lent);
    let regained = regained
        .filter(|(at, lent)| **at > ended && **lent as f64 >= enough)
        .map(|(at, _)| at - ended)
        .next();
    let marks = (1..=seconds / 10).map(|mark| f64::from(mark * 10));
    Ok(Turns {
        lent_before,
        lent_after,
        reads_at_marks: marks.map(|mark| timeline.at(&timeline.lender_reads, mark)).collect(),
        regained_seconds: regained.filter(|_| way.is_lent() && lent_before > 0),
        timeline,
        decisions,
    })
}

fn at_once(stage: &Stage<'_>, way: Way, layout: Layout, seconds: u32) -> Result<AtOnce> {
    let cast = stage.begin(way, layout)?;
    stage.say(way, "both read at once");
    cast.fill()?;
    cast.limit_client_disk()?;
    let client = cast.client_reads(0, 4096, u64::from(stage.disk_iops) * 2, Order::Random)?;
    let lender = cast.owner_reads()?;
    let mut watch = Watch::new(&cast);
    let length = Duration::from_secs(u64::from(seconds));
    watch.until(length, Some(&lender), Some(&client), |_| false)?;
    let timeline = watch.timeline;
    let per_second = |values: &[u64]| {
        let last = timeline.seconds.last().copied().unwrap_or(1.0);
        values.last().map_or(0.0, |&all| all as f64 / last)
    };
    Ok(AtOnce {
        lender_per_second: per_second(&timeline.lender_reads),
        client_per_second: per_second(&timeline.client_reads),
        decisions: cast.decisions()?,
        timeline,
    })
}

impl Run {
    /// The timelines, by scenario.
    pub(super) fn timelines(&self) -> [(&'static str, &Timeline); 3] {
        [
            ("allocation", &self.allocation.timeline),
            ("turns", &self.turns.timeline),
            ("at-once", &self.at_once.timeline),
        ]
    }
}
