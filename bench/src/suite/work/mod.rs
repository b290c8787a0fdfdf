//! Workloads: each makes its files, fills the caches, works, and tells what came of it.

mod applications;
mod filebench;
mod files;
mod fio;
mod memcached;
mod pgbench;
mod redis;
mod sqlite;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::case::{Case, FioJob, Workload};
use super::figures::{Figures, Hole};
use super::place::{Needs, Place, shares, shown};
use super::plan::{Access, Mix, Personality, Plan, Program, Spread};
use super::store::Store;
use super::target::Target;
use crate::pool::Pool;
use crate::stop::Stop;

pub(crate) use self::memcached::{Reading, read as memcached_reads};

/// How long a program may take over a run, besides its measured stretch.
const PATIENCE: Duration = Duration::from_secs(1800);
/// A stretch of work that fills the caches lasts at least so long.
const WARM_SECONDS: u32 = 10;
/// And is repeated so often at most, while more is lent each time.
const WARM_PASSES_MAX: usize = 8;

/// What a run needs besides its place.
pub(crate) struct Scene<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) pool: &'a Pool,
    pub(crate) store: &'a Store,
    pub(crate) stop: &'a Stop,
}

/// What a run gave, and what was typed for it.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) figures: Figures,
    pub(crate) commands: Vec<String>,
}

/// A workload on files of a size.
struct Task<'a> {
    scene: &'a Scene<'a>,
    place: &'a Place<'a>,
    /// Where its files are when it works.
    dir: PathBuf,
    /// How large they are together.
    bytes: u64,
    /// For files that it keeps beside the results.
    name: String,
}

/// What each kind of workload does.
trait Work {
    /// Makes its files in a directory, on a disk that is not held back.
    fn prepare(&self, task: &Task<'_>, dir: &Path) -> Result<(), Hole>;

    /// Works for so many seconds, or once where it ends by itself and takes longer.
    fn work(&self, task: &Task<'_>, seconds: u32) -> Result<Told, Hole>;

    /// Fills the caches.
    fn warm(&self, task: &Task<'_>) -> Result<(), Hole> {
        self.work(task, WARM_SECONDS.max(task.scene.plan.seconds)).map(drop)
    }
}

impl Workload {
    /// Whether it can be run on this target at all.
    pub(crate) fn suits(&self, target: Target) -> bool {
        match target {
            // Only fio can be told to go round the page cache.
            Target::Direct => matches!(self, Self::Fio(_)),
            // It holds blocks, not files.
            Target::Memcached => matches!(
                self,
                Self::Fio(FioJob {
                    access: Access::Random,
                    mix: Mix::Read,
                    spread: Spread::Uniform,
                    ..
                })
            ),
            _ => true,
        }
    }

    /// Requests that are under way at once; of some, several, more or less.
    fn outstanding(&self) -> u32 {
        const SEVERAL: u32 = 8;
        match self {
            Self::Fio(job) => job.outstanding,
            Self::Filebench { personality: Personality::RandomRead } => 1,
            Self::Filebench { .. } => SEVERAL,
            Self::Application { program } => match program {
                Program::Sqlite | Program::RedisLoad | Program::Grep => 1,
                Program::Pgbench | Program::PgbenchSelect => SEVERAL,
                // Git and cargo start as many threads as there are CPUs.
                Program::GitStatus | Program::CargoBuild => SEVERAL,
            },
        }
    }

    /// Whether much is read before it is asked for.
    fn is_read_ahead(&self) -> bool {
        let Self::Fio(job) = self else { return false };
        job.access == Access::Sequential && job.mix != Mix::Write
    }

    /// Whether it writes into files that other cases read.
    pub(crate) fn writes(&self) -> bool {
        match self {
            Self::Fio(job) => job.mix != Mix::Read,
            Self::Filebench { .. } => true,
            Self::Application { program } => *program == Program::Pgbench,
        }
    }

    /// What it needs of a place, on files of so many bytes together.
    pub(crate) fn needs(&self, bytes: u64) -> Needs {
        let (own_memory, files) = match self {
            Self::Fio(_) => (0, 1),
            Self::Filebench { personality } => {
                let files = filebench::files(*personality, bytes);
                (filebench::own_memory(files), files)
            }
            Self::Application { program } => match program {
                Program::Pgbench | Program::PgbenchSelect => (pgbench::OWN_MEMORY, 1),
                Program::RedisLoad => (redis::own_memory(bytes), 1),
                Program::Sqlite => (0, 1),
                Program::Grep | Program::GitStatus => (0, applications::texts(bytes)),
                Program::CargoBuild => (applications::BUILD_MEMORY, 1),
            },
        };
        Needs { bytes, own_memory, files }
    }

    fn work(&self) -> Box<dyn Work> {
        match self {
            Self::Fio(job) => Box::new(*job),
            Self::Filebench { personality } => Box::new(*personality),
            Self::Application { program } => match program {
                Program::Pgbench => Box::new(pgbench::Pgbench { selects_only: false }),
                Program::PgbenchSelect => Box::new(pgbench::Pgbench { selects_only: true }),
                Program::Sqlite => Box::new(sqlite::Sqlite),
                Program::RedisLoad => Box::new(redis::RedisLoad),
                Program::Grep => Box::new(applications::Grep),
                Program::GitStatus => Box::new(applications::GitStatus),
                Program::CargoBuild => Box::new(applications::CargoBuild),
            },
        }
    }
}

impl Scene<'_> {
    /// Bytes of a case's working set.
    pub(crate) fn bytes(&self, case: &Case) -> u64 {
        let bytes = self.plan.memory.0 as f64 * case.working_set;
        // Whole MiB, so that every block size divides it.
        (bytes as u64).next_multiple_of(1 << 20)
    }

    /// Makes the files of `case`, and of the other cases on the same files.
    pub(crate) fn prepare(&self, case: &Case, place: &Place<'_>) -> Result<(), Hole> {
        // Behind the mount, where there is a directory behind it.
        let dir = place.source().unwrap_or(&place.dir);
        case.workload.work().prepare(&self.task(case, place, "prepare"), dir)?;
        Ok(files::forget(dir)?)
    }

    /// Works until the caches hold what they can.
    pub(crate) fn warm(&self, case: &Case, place: &Place<'_>) -> Result<(), Hole> {
        let mut lent = 0;
        for _ in 0..WARM_PASSES_MAX {
            let warm = case.workload.work().warm(&self.task(case, place, "warm"));
            warm.map_err(|why| explained(why, place))?;
            place.settle(self.stop)?;
            let (_, now) = place.memory()?;
            // What one pass had to leave out, the next may send.
            if now <= lent + lent / 50 {
                break;
            }
            lent = now;
        }
        Ok(())
    }

    /// One measured stretch.
    pub(crate) fn measure(
        &self,
        case: &Case,
        place: &mut Place<'_>,
        run: u32,
    ) -> Result<Told, Hole> {
        place.share_cpus(case.workload.outstanding(), case.workload.is_read_ahead());
        let place = &*place;
        let before = place.status()?;
        let task = self.task(case, place, &run.to_string());
        let told = case.workload.work().work(&task, self.plan.seconds);
        let mut told = told.map_err(|why| explained(why, place))?;
        let after = place.status()?;
        told.figures.layers = before.zip(after).and_then(|(before, after)| shares(&before, &after));
        (told.figures.memory_bytes, told.figures.lent_bytes) = place.memory()?;
        Ok(told)
    }

    fn task<'a>(&'a self, case: &Case, place: &'a Place<'a>, what: &str) -> Task<'a> {
        let (dir, bytes) = (place.dir.clone(), self.bytes(case));
        let name = format!("{}-{}-{what}", case.name(), place.target);
        Task { scene: self, place, dir, bytes, name }
    }
}

impl Task<'_> {
    /// Runs a command of the application to its end, in a directory of its own.
    fn run(&self, command: Command, seconds: u32) -> Result<Ran> {
        let aside = self.aside()?;
        let mut ran = self.run_in(command, aside.path(), seconds)?;
        ran.aside = aside;
        Ok(ran)
    }

    /// The same in a directory.
    fn run_in(&self, mut command: Command, dir: &Path, seconds: u32) -> Result<Ran> {
        let typed = shown(&command);
        let aside = self.aside()?;
        command.current_dir(dir);
        let limit = PATIENCE + Duration::from_secs(u64::from(seconds));
        let running = self.place.start(command, &aside.path().join("output"))?;
        let ended = running.wait(limit, self.scene.stop)?;
        ended.result().map_err(anyhow::Error::msg)?;
        Ok(Ran { printed: ended.output, typed, aside })
    }

    /// A directory of its own, gone when dropped.
    fn aside(&self) -> Result<TempDir> {
        tempfile::tempdir_in(self.scene.pool.scratch().path()).context("no room for outputs")
    }

    /// Keeps a file that a program is started with beside the results.
    fn keep(&self, ending: &str, text: &str) -> Result<PathBuf> {
        self.scene.store.keep_job(&format!("{}.{ending}", self.name), text)
    }
}

/// A command that has ended well.
struct Ran {
    printed: String,
    typed: String,
    /// What it left beside its files.
    aside: TempDir,
}

/// With the reason behind the reason, where there is one.
fn explained(why: Hole, place: &Place<'_>) -> Hole {
    match why {
        Hole::Failed(error) if place.ran_out_of_memory() => Hole::Failed(
            error.context("a process was killed for want of memory: the row has too little for it"),
        ),
        why => why,
    }
}
