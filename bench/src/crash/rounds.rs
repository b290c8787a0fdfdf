//! Rounds: work, kill at a random moment, see that the dead mount says so, mount again, compare.

use std::fs::{self, File as OpenFile};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::machine::Machine;
use super::reader::Reader;
use super::scene::{Scene, is_dead};
use super::tally::{Finding, FindingKind, Tally};
use super::verify;
use super::world::{WRITERS, World};
use super::writer::Writer;
use crate::cli::Kill;
use crate::stop::Stop;

const READERS: usize = 2;
/// The kill comes within so many milliseconds.
const WORK_MS: std::ops::Range<u64> = 5..160;
/// So often everything is compared, not only what changed.
const WHOLE_EVERY: u32 = 10;
/// A call that has not returned by then hangs.
const HANG: Duration = Duration::from_secs(60);

/// Runs one round after the other.
pub(super) struct Rounds<'a> {
    pub(super) machine: &'a mut Machine,
    pub(super) world: &'a World,
    pub(super) tally: &'a Tally,
    pub(super) kill: Kill,
    pub(super) seed: u64,
    pub(super) stop: &'a Stop,
}

/// What a round found, if anything.
type Found = Result<Option<Finding>>;

impl Rounds<'_> {
    /// The round of this number, the first of which is 0.
    pub(super) fn round(&mut self, number: u32) -> Found {
        let seed = self.seed ^ (u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut rng = SmallRng::seed_from_u64(seed);
        let found = match self.kill {
            Kill::Server => self.work_while_the_server_dies(seed, &mut rng)?,
            Kill::Client | Kill::Both => self.work_until_the_client_dies(seed, &mut rng)?,
        };
        if found.is_some() {
            return Ok(found);
        }
        let whole = (number + 1).is_multiple_of(WHOLE_EVERY);
        self.compare(whole, &mut rng)
    }

    /// Compares with the source, mounts if need be, and compares through the mount.
    fn compare(&mut self, whole: bool, rng: &mut SmallRng) -> Found {
        let (world, tally) = (self.world, self.tally);
        let source = self.machine.source().to_owned();
        if let Err(finding) = verify::names(world, &source, "the source")? {
            return Ok(Some(finding));
        }
        let selection = verify::select(world, whole, rng);
        if let Err(finding) = verify::contents(world, &selection, &source, "the source", tally)? {
            return Ok(Some(finding));
        }
        // All of it, which is more than the cache holds.
        let selection = verify::select(world, true, rng);
        let mount = self.machine.mount(self.stop)?;
        if let Err(finding) = verify::names(world, &mount, "the mount")? {
            return Ok(Some(finding));
        }
        if let Err(finding) = verify::contents(world, &selection, &mount, "the mount", tally)? {
            return Ok(Some(finding));
        }
        // All writers begin with an empty file again.
        fs::write(mount.join(super::shared::NAME), "").context("cannot empty the shared file")?;
        world.shared.clear();
        Ok(None)
    }

    fn work_until_the_client_dies(&mut self, seed: u64, rng: &mut SmallRng) -> Found {
        let mount = self.machine.mount(self.stop)?;
        let held = OpenFile::open(mount.join("wall/a")).context("cannot open a file to hold")?;
        let scene = Scene::new(&mount, self.world, self.tally);
        let (work, server_first) = (random_time(rng), rng.random());
        let machine = &mut *self.machine;
        let (kill, tally) = (self.kill, self.tally);
        let found = work_and(&scene, seed, || {
            thread::sleep(work);
            machine.note_status(tally);
            scene.expect_death();
            if kill == Kill::Both && server_first {
                machine.kill_server(tally)?;
            }
            machine.kill_client(tally)?;
            if kill == Kill::Both && !server_first {
                machine.kill_server(tally)?;
            }
            Ok(())
        })?;
        if found.is_some() {
            return Ok(found);
        }
        let dead = [
            ("a read of an open file", read(&held)),
            ("open below the mount point", OpenFile::open(mount.join("wall/a")).map(drop)),
            ("a listing of the mount point", fs::read_dir(&mount).map(drop)),
        ];
        if let Some(finding) = dead.into_iter().find_map(|(what, result)| not_dead(what, result)) {
            return Ok(Some(finding));
        }
        self.machine.remove_mount();
        Ok(not_dead("a read of a file held open past the unmount", read(&held)))
    }

    fn work_while_the_server_dies(&mut self, seed: u64, rng: &mut SmallRng) -> Found {
        let mount = self.machine.mount(self.stop)?;
        let scene = Scene::new(&mount, self.world, self.tally);
        let pauses = [random_time(rng), random_time(rng) / 2, random_time(rng) / 2];
        let (machine, tally, stop) = (&mut *self.machine, self.tally, self.stop);
        work_and(&scene, seed, || {
            thread::sleep(pauses[0]);
            machine.kill_server(tally)?;
            thread::sleep(pauses[1]);
            machine.start_server(stop)?;
            thread::sleep(pauses[2]);
            machine.note_status(tally);
            scene.end();
            Ok(())
        })
    }
}

/// Lets writers and readers work while `act`, on this thread, decides when they end.
fn work_and(scene: &Scene<'_>, seed: u64, act: impl FnOnce() -> Result<()>) -> Found {
    let (report, findings) = mpsc::channel();
    let at_work = AtomicUsize::new(WRITERS + READERS);
    thread::scope(|scope| {
        for number in 0..WRITERS + READERS {
            let (report, at_work) = (report.clone(), &at_work);
            scope.spawn(move || {
                let seed = seed.wrapping_add(number as u64 * 0x1_0001);
                let result = if number < WRITERS {
                    match Writer::new(scene, number, seed) {
                        Ok(writer) => writer.run(),
                        Err(error) => Err(harness(&error)),
                    }
                } else {
                    Reader::new(scene, seed).run()
                };
                if let Err(finding) = result {
                    scene.end();
                    // The receiver outlives all workers.
                    let _ = report.send(finding);
                }
                at_work.fetch_sub(1, SeqCst);
            });
        }
        drop(report);
        let acted = act();
        if acted.is_err() {
            scene.end();
        }
        let start = Instant::now();
        while at_work.load(SeqCst) > 0 {
            if start.elapsed() > HANG {
                give_up(scene, at_work.load(SeqCst));
            }
            thread::sleep(Duration::from_millis(1));
        }
        acted
    })?;
    Ok(findings.try_iter().next())
}

/// A call does not return, so neither can the threads be waited for: says so and ends here. The
/// daemons go with this process.
fn give_up(scene: &Scene<'_>, workers: usize) -> ! {
    eprintln!(
        "rampool-bench: {workers} threads hang in calls below {} for {} s, {}",
        scene.root.display(),
        HANG.as_secs(),
        if scene.may_be_dead() { "after the client was killed" } else { "on a live mount" },
    );
    let _ = unmount(&scene.root, UnmountFlags::FORCE | UnmountFlags::DETACH);
    std::process::exit(1)
}

fn random_time(rng: &mut SmallRng) -> Duration {
    Duration::from_millis(rng.random_range(WORK_MS))
}

fn read(file: &OpenFile) -> std::io::Result<()> {
    file.read_at(&mut [0; 4096], 8192).map(drop)
}

fn not_dead(what: &str, result: std::io::Result<()>) -> Option<Finding> {
    let outcome = match result {
        Ok(()) => "succeeded".to_owned(),
        Err(error) if Errno::from_io_error(&error).is_some_and(is_dead) => return None,
        Err(error) => format!("failed with {error}"),
    };
    let what = format!("{what} after the client was killed {outcome}; expected ENOTCONN");
    Some(Finding { kind: FindingKind::Failed, what, log: Vec::new() })
}

fn harness(error: &Errno) -> Finding {
    let what = format!("a writer cannot start: {error}");
    Finding { kind: FindingKind::Failed, what, log: Vec::new() }
}

impl Tally {
    /// Kills of both.
    pub(super) fn kills(&self) -> u64 {
        self.client_kills.load(Relaxed) + self.server_kills.load(Relaxed)
    }
}
