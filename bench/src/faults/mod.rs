//! `rampool-bench faults`: servers and links fail in each way, one after the other, while an application reads, writes
//! and verifies.

mod application;
mod liar;
mod net;
mod relay;
mod scene;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde::Serialize;

use self::application::Seen;
use self::liar::Manner;
use self::scene::{Held, Keys, SERVERS, Scene};
use crate::binaries::Binaries;
use crate::cli::{Faults, Format};
use crate::progress::Progress;
use crate::scratch::Scratch;
use crate::stop::Stop;
use crate::table::table;
use crate::tool::Need;

/// A server's deadline is no longer than this, whatever it usually takes.
const DEADLINE_MAX: Duration = Duration::from_millis(100);
/// What a read may take besides the deadline and the source.
const ON_TOP: Duration = Duration::from_millis(50);
/// How long the pool has to be as it was.
const BACK_WITHIN: Duration = Duration::from_secs(150);

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed,
    Frozen,
    Restarted,
    LinkCut,
    LinkBad,
    HalfGone,
    AllGone,
    Garbage,
    Late,
    OtherKeys,
    OtherClock,
}

/// What one of them did.
#[derive(Serialize)]
struct Row {
    fault: &'static str,
    reads: u64,
    errors: u64,
    wrong: u64,
    longest_ms: f64,
    /// Deadline, the source's longest read in the same time, and 50 ms.
    bound_ms: f64,
    /// Until the pool was as before; none if it never was.
    back_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    complaint: Option<String>,
    /// Why it could not be tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_tried: Option<String>,
}

#[derive(Serialize)]
struct Report {
    seconds: f64,
    rows: Vec<Row>,
    /// What the mount's process held before the first and after the last.
    held: [Held; 2],
    /// Reads and blocks that were still under way when nobody asked for anything any more.
    left_under_way: u64,
}

/// Tries them all.
pub(crate) fn run(options: &Faults, stop: &Stop) -> Result<ExitCode> {
    let binaries = Binaries::find(options.common.place.bin_dir.as_deref())?;
    let scratch = Scratch::new(&options.common.place.dir)?;
    let progress = Progress::new(u64::from(options.rounds) * Fault::ALL.len() as u64);
    progress.say("makes machines and starts servers");
    let mut scene = Scene::new(binaries, scratch, stop)?;
    scene.wait_until_full(BACK_WITHIN, stop)?.context(
        "the pool is not filled: not all servers are connected, or they hold too little",
    )?;
    let first = scene.held()?;
    let mut rows = Vec::new();
    for round in 0..options.rounds {
        for fault in Fault::ALL {
            progress.say(format!("round {}: {}", round + 1, fault.name()));
            rows.push(try_one(&mut scene, fault, options.seconds, stop)?);
            progress.step();
        }
    }
    let held = [first, scene.held()?];
    let left_under_way = scene.quiet()?;
    drop((scene, progress));

    let report = Report { seconds: options.seconds, rows, held, left_under_way };
    match options.common.format {
        Format::Table => report.print(),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    stop.check()?;
    let is_good = report.left_under_way == 0 && report.rows.iter().all(Row::is_good);
    let is_fast = report.rows.iter().all(Row::is_fast);
    let is_well = is_good && (is_fast || !options.check);
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn try_one(scene: &mut Scene, fault: Fault, seconds: f64, stop: &Stop) -> Result<Row> {
    if let Err(error) = fault.is_possible() {
        return Ok(Row::not_tried(fault, error.to_string()));
    }
    scene.application.seen();
    fault.begin(scene, stop).with_context(|| format!("cannot begin: {}", fault.name()))?;
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds {
        stop.check()?;
        thread::sleep(Duration::from_millis(50));
    }
    fault.end(scene, stop).with_context(|| format!("cannot end: {}", fault.name()))?;
    let back = scene.wait_until_full(BACK_WITHIN, stop)?;
    Ok(Row::new(fault, scene.application.seen(), back))
}

impl Fault {
    const ALL: [Self; 11] = [
        Self::Killed,
        Self::Frozen,
        Self::Restarted,
        Self::LinkCut,
        Self::LinkBad,
        Self::HalfGone,
        Self::AllGone,
        Self::Garbage,
        Self::Late,
        Self::OtherKeys,
        Self::OtherClock,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Killed => "a server is killed",
            Self::Frozen => "a server is frozen",
            Self::Restarted => "a server is restarted",
            Self::LinkCut => "a link is cut",
            Self::LinkBad => "a link is slow and lossy",
            Self::HalfGone => "half of the servers are gone",
            Self::AllGone => "all servers are gone",
            Self::Garbage => "a server answers with garbage",
            Self::Late => "a server answers after 10 s",
            Self::OtherKeys => "a server has another pool's keys",
            Self::OtherClock => "a server's clock is years ahead",
        }
    }

    /// Whether what it takes is installed.
    fn is_possible(self) -> Result<()> {
        match self {
            Self::LinkCut => Need::of("nft").find().map(drop),
            Self::OtherClock => scene::libfaketime().map(drop),
            _ => Ok(()),
        }
    }

    fn begin(self, scene: &mut Scene, stop: &Stop) -> Result<()> {
        match self {
            Self::Killed => scene.signal(1, Signal::KILL),
            Self::Frozen => scene.signal(1, Signal::STOP),
            Self::Restarted => {
                scene.signal(1, Signal::TERM)?;
                scene.start(1, Keys::Ours, None, stop)
            }
            Self::LinkCut => scene.cut(1, true),
            Self::LinkBad => {
                scene.relay.set_bad(true);
                Ok(())
            }
            Self::HalfGone => (0..SERVERS / 2).try_for_each(|n| scene.signal(n, Signal::KILL)),
            Self::AllGone => (0..SERVERS).try_for_each(|n| scene.signal(n, Signal::KILL)),
            Self::Garbage => {
                scene.liar.set(Manner::Garbage);
                Ok(())
            }
            Self::Late => {
                scene.liar.set(Manner::Late);
                Ok(())
            }
            Self::OtherKeys => {
                scene.signal(2, Signal::TERM)?;
                scene.start(2, Keys::OfAnotherPool, None, stop)
            }
            Self::OtherClock => {
                scene.signal(2, Signal::TERM)?;
                // Within the validity of its own certificate, or it would not start.
                scene.start(2, Keys::Ours, Some("+700d"), stop)
            }
        }
    }

    fn end(self, scene: &mut Scene, stop: &Stop) -> Result<()> {
        let mut start = |server| scene.start(server, Keys::Ours, None, stop);
        match self {
            Self::Killed => start(1),
            Self::Frozen => scene.signal(1, Signal::CONT),
            Self::Restarted => Ok(()),
            Self::LinkCut => scene.cut(1, false),
            Self::LinkBad => {
                scene.relay.set_bad(false);
                Ok(())
            }
            Self::HalfGone => (0..SERVERS / 2).try_for_each(start),
            Self::AllGone => (0..SERVERS).try_for_each(start),
            Self::Garbage | Self::Late => {
                scene.liar.set(Manner::Truth);
                Ok(())
            }
            Self::OtherKeys | Self::OtherClock => {
                scene.signal(2, Signal::TERM)?;
                scene.start(2, Keys::Ours, None, stop)
            }
        }
    }
}

impl Row {
    fn new(fault: Fault, seen: Seen, back: Option<Duration>) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Self {
            fault: fault.name(),
            reads: seen.reads,
            errors: seen.errors,
            wrong: seen.wrong,
            longest_ms: ms(seen.longest),
            bound_ms: ms(DEADLINE_MAX + seen.source_longest + ON_TOP),
            back_s: back.map(|back| back.as_secs_f64()),
            complaint: seen.complaint,
            not_tried: None,
        }
    }

    fn not_tried(fault: Fault, why: String) -> Self {
        Self { not_tried: Some(why), ..Self::new(fault, Seen::default(), None) }
    }

    fn is_good(&self) -> bool {
        let is_right = self.errors == 0 && self.wrong == 0 && self.back_s.is_some();
        self.not_tried.is_some() || is_right
    }

    fn is_fast(&self) -> bool {
        self.longest_ms <= self.bound_ms
    }
}

impl Report {
    fn print(&self) {
        let header =
            ["", "reads", "errors", "wrong", "longest read", "bound", "pool as before after"];
        let mut table = table(&header, 1);
        for row in &self.rows {
            if let Some(why) = &row.not_tried {
                table.add_row([row.fault, "-", "-", "-", "-", "-", why]);
                continue;
            }
            table.add_row([
                row.fault.to_owned(),
                row.reads.to_string(),
                row.errors.to_string(),
                row.wrong.to_string(),
                format!("{:.0} ms", row.longest_ms),
                format!("{:.0} ms", row.bound_ms),
                row.back_s.map_or("never".to_owned(), |back| format!("{back:.1} s")),
            ]);
        }
        println!("{table}\n");
        for complaint in self.rows.iter().filter_map(|row| row.complaint.as_ref()) {
            println!("{complaint}");
        }
        println!(
            "Each for {} s, beside four threads that read, write and verify. The bound is the longest deadline ({} ms), \
             the source's own longest read, and {} ms.",
            self.seconds,
            DEADLINE_MAX.as_millis(),
            ON_TOP.as_millis()
        );
        let [before, after] = self.held;
        println!(
            "The mount held {:.0} MiB, {} descriptors and {} threads before, and {:.0} MiB, {} and {} after; \
             {} reads or blocks were left under way.",
            before.resident_mib,
            before.descriptors,
            before.threads,
            after.resident_mib,
            after.descriptors,
            after.threads,
            self.left_under_way
        );
    }
}
