//! A directory of results: what was planned, on which machine, and one file for each run, so that what was
//! interrupted can be gone on with.
//!
//! ```text
//! plan.toml     as it was run
//! machine.json  kernel, CPUs, memory, versions
//! runs/         DISK/CASE/TARGET-RUN.json, each with what was run and how it ended
//! jobs/         job files and personalities, as fio and filebench were given them
//! report.html, results.json
//! ```

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::case::Case;
use super::figures::Outcome;
use super::machine::Machine;
use super::plan::Plan;
use super::target::Target;

/// The directory.
pub(crate) struct Store {
    dir: PathBuf,
}

/// One run, as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) disk: String,
    pub(crate) case: Case,
    pub(crate) target: Target,
    /// From 1.
    pub(crate) run: u32,
    /// What was run to measure it, and what to set it up.
    pub(crate) commands: Vec<String>,
    pub(crate) outcome: Outcome,
}

/// All that a directory holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) plan: Plan,
    pub(crate) machine: Machine,
    pub(crate) records: Vec<Record>,
}

impl Store {
    /// Opens a directory for the runs of `plan`, a new one or one that holds some of them.
    ///
    /// # Errors
    /// When it holds those of another plan, or another machine's.
    pub(crate) fn open(dir: &Path, plan: &Plan, machine: &Machine) -> Result<Self> {
        for below in ["runs", "jobs"] {
            fs::create_dir_all(dir.join(below))
                .with_context(|| format!("cannot make {}", dir.join(below).display()))?;
        }
        let store = Self { dir: fs::canonicalize(dir)? };
        let kept = store.dir.join("plan.toml");
        if kept.exists() {
            if Plan::read(&kept)? != *plan {
                bail!("{} holds results of another plan; choose another directory", dir.display());
            }
            let kept: Machine = read_json(&store.dir.join("machine.json"))?;
            // What was installed since then leaves all that was measured as it is.
            let changed = kept.differences(machine).into_iter().find(|what| what.before.is_some());
            if let Some(what) = changed {
                bail!("{} was begun elsewhere; {what}; choose another directory", dir.display());
            }
        }
        store.write("machine.json", &serde_json::to_string_pretty(machine)?)?;
        // Last: what has a plan is whole.
        let plan = toml::to_string(plan).context("a plan that cannot be written")?;
        store.write("plan.toml", &plan)?;
        Ok(store)
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether a run was measured before. One that failed is not: what it lacked may be there now.
    pub(crate) fn has(&self, disk: &str, case: &Case, target: Target, run: u32) -> bool {
        let kept = read_json::<Record>(&self.dir.join(path_of(disk, case, target, run)));
        kept.is_ok_and(|record| matches!(record.outcome, Outcome::Measured(_)))
    }

    /// Keeps a run.
    pub(crate) fn keep(&self, record: &Record) -> Result<()> {
        let path = path_of(&record.disk, &record.case, record.target, record.run);
        self.write(&path, &serde_json::to_string_pretty(record)?)
    }

    /// Keeps a file that something was run with, and says where.
    pub(crate) fn keep_job(&self, name: &str, text: &str) -> Result<PathBuf> {
        let name = format!("jobs/{name}");
        self.write(&name, text)?;
        Ok(self.dir.join(name))
    }

    /// Writes a file as a whole: it is there with all that is in it, or not at all.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        let written = || -> std::io::Result<()> {
            let parent = path.parent().unwrap_or(&self.dir);
            fs::create_dir_all(parent)?;
            let mut file = tempfile::NamedTempFile::new_in(parent)?;
            file.write_all(text.as_bytes())?;
            file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            file.persist(&path)?;
            Ok(())
        };
        written().with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Results {
    /// How many runs have failed. Those that lack a program have not.
    pub(crate) fn failed(&self) -> usize {
        let failed = |record: &&Record| matches!(record.outcome, Outcome::Failed { .. });
        self.records.iter().filter(failed).count()
    }

    /// Reads a directory of results.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let plan = dir.join("plan.toml");
        if !plan.exists() {
            bail!(
                "{} holds no results; 'rampool-bench run PLAN --out DIR' makes some",
                dir.display()
            );
        }
        let mut records: Vec<Record> = Vec::new();
        let mut dirs = vec![dir.join("runs")];
        while let Some(next) = dirs.pop() {
            for entry in
                fs::read_dir(&next).with_context(|| format!("cannot read {}", next.display()))?
            {
                let path = entry?.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|extension| extension == "json") {
                    records.push(read_json(&path)?);
                }
            }
        }
        let plan = Plan::read(&plan)?;
        // In the order of the plan.
        let cases = Case::all(&plan);
        records.sort_by_key(|record| {
            let case = cases.iter().position(|case| *case == record.case);
            let disk = plan.disks.iter().position(|disk| disk.name == record.disk);
            let target = plan.targets.iter().position(|target| *target == record.target);
            (case, disk, target, record.run)
        });
        Ok(Self { plan, machine: read_json(&dir.join("machine.json"))?, records })
    }
}

fn path_of(disk: &str, case: &Case, target: Target, run: u32) -> String {
    let safe: String = disk
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    format!("runs/{safe}/{}/{target}-{run}.json", case.name())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
}
