//! What is to be measured: a file of disks, targets and workloads, each combined with each.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rampool_cli::size::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::target::Target;

/// A plan, as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Plan {
    /// At the top of the report.
    pub(crate) title: String,
    /// What the plan is to show, in a few sentences.
    #[serde(default)]
    pub(crate) about: String,
    /// Memory of every row: the application, the daemon and the page cache together.
    pub(crate) memory: Size,
    /// What lenders lend together at most; without it, what a working set needs.
    #[serde(default)]
    pub(crate) lent_max: Option<Size>,
    /// How often each cell is measured, in turns.
    #[serde(default = "Plan::runs_usual")]
    pub(crate) runs: u32,
    /// Length of a measured stretch, where the workload does not end by itself.
    #[serde(default = "Plan::seconds_usual")]
    pub(crate) seconds: u32,
    /// The conditions.
    #[serde(rename = "disk")]
    pub(crate) disks: Vec<Disk>,
    /// Who answers.
    pub(crate) targets: Vec<Target>,
    /// Who asks.
    #[serde(default)]
    pub(crate) fio: Vec<FioPlan>,
    #[serde(default)]
    pub(crate) filebench: Vec<FilebenchPlan>,
    #[serde(default)]
    pub(crate) application: Vec<ApplicationPlan>,
}

/// How fast the source's disk may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Disk {
    pub(crate) name: String,
    /// Reads, and as many writes, a second at most.
    #[serde(default)]
    pub(crate) iops: Option<u32>,
    /// Bytes a second at most, each way.
    #[serde(default)]
    pub(crate) bandwidth: Option<Size>,
}

/// fio on one file. Each list is combined with each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FioPlan {
    pub(crate) access: Vec<Access>,
    #[serde(default = "FioPlan::mix_usual")]
    pub(crate) mix: Vec<Mix>,
    pub(crate) block: Vec<Size>,
    /// Reads or writes that are under way at once, each of a thread of its own.
    #[serde(default = "FioPlan::outstanding_usual")]
    pub(crate) outstanding: Vec<u32>,
    #[serde(default = "FioPlan::spread_usual")]
    pub(crate) spread: Vec<Spread>,
    /// Times the memory.
    pub(crate) working_set: Vec<f64>,
}

/// Order of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Access {
    Random,
    Sequential,
}

/// Reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mix {
    Read,
    Write,
    /// Seven reads on three writes.
    Mixed,
}

/// How often which place is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Spread {
    Uniform,
    /// A few places much more often than the others: Zipf's law with an exponent of 1.1.
    Zipf,
}

/// filebench with personalities of ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FilebenchPlan {
    pub(crate) personality: Vec<Personality>,
    /// Times the memory.
    pub(crate) working_set: Vec<f64>,
}

/// What filebench plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Personality {
    FileServer,
    WebServer,
    WebProxy,
    VarMail,
    VideoServer,
    Oltp,
    RandomRead,
}

/// Programs that people run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ApplicationPlan {
    pub(crate) program: Vec<Program>,
    /// Times the memory.
    pub(crate) working_set: Vec<f64>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Program {
    /// PostgreSQL with pgbench's own transactions, like TPC-B.
    Pgbench,
    /// PostgreSQL with their selects only.
    PgbenchSelect,
    /// SQLite: look-ups by key.
    Sqlite,
    /// Redis, loading its dump.
    RedisLoad,
    /// `grep -r`.
    Grep,
    /// `git status`.
    GitStatus,
    /// `cargo build`.
    CargoBuild,
}

/// A size as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

impl Plan {
    fn runs_usual() -> u32 {
        5
    }

    fn seconds_usual() -> u32 {
        5
    }

    /// A disk on which caches are filled: as fast as the fastest that is measured, and as an ordinary network disk.
    pub(crate) fn disk_to_fill(&self) -> Disk {
        let iops = self.disks.iter().map(|disk| disk.iops.unwrap_or(u32::MAX));
        let bandwidth =
            self.disks.iter().map(|disk| disk.bandwidth.map_or(u64::MAX, |size| size.0));
        let iops = iops.max().filter(|&iops| iops < u32::MAX);
        let bandwidth = bandwidth.max().filter(|&bytes| bytes < u64::MAX);
        Disk {
            name: "filling".to_owned(),
            iops: iops.map(|iops| iops.max(3_000)),
            bandwidth: bandwidth.map(|bytes| Size(bytes.max(200 << 20))),
        }
    }

    /// Reads and checks one.
    ///
    /// # Errors
    /// In one line, with the place in the file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the plan {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("the plan {}", path.display()))
    }

    /// The same from text.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let plan: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].lines().count().max(1));
            let what = error.message().lines().next().unwrap_or_default().to_owned();
            match line {
                Some(line) => anyhow::anyhow!("line {line}: {what}"),
                None => anyhow::anyhow!("{what}"),
            }
        })?;
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<()> {
        let whole = |what: &str, empty: bool| match empty {
            true => bail!("it has no {what}"),
            false => Ok(()),
        };
        whole("[[disk]]", self.disks.is_empty())?;
        whole("targets", self.targets.is_empty())?;
        let works = self.fio.len() + self.filebench.len() + self.application.len();
        whole("[[fio]], [[filebench]] or [[application]]", works == 0)?;
        if !(1..=100).contains(&self.runs) || !(1..=3600).contains(&self.seconds) {
            bail!("runs are 1 to 100, seconds 1 to 3600");
        }
        if self.memory.0 < Self::MEMORY_LEAST {
            bail!("memory is at least {}, {} is less", Size(Self::MEMORY_LEAST), self.memory);
        }
        let mut names = BTreeMap::new();
        for disk in &self.disks {
            if names.insert(disk.name.as_str(), ()).is_some() {
                bail!("two disks are called '{}'", disk.name);
            }
            if disk.iops == Some(0) || disk.bandwidth == Some(Size(0)) {
                bail!("the disk '{}' does nothing", disk.name);
            }
        }
        let sets = self.fio.iter().map(|plan| &plan.working_set);
        let sets = sets.chain(self.filebench.iter().map(|plan| &plan.working_set));
        let sets = sets.chain(self.application.iter().map(|plan| &plan.working_set));
        for &times in sets.flatten() {
            if !(0.1..=64.0).contains(&times) {
                bail!("a working set is 0.1 to 64 times the memory, not {times}");
            }
        }
        Ok(())
    }

    /// What daemon and application need besides the cache is a part of a row's memory.
    const MEMORY_LEAST: u64 = 96 << 20;
}

impl FioPlan {
    fn mix_usual() -> Vec<Mix> {
        vec![Mix::Read]
    }

    fn outstanding_usual() -> Vec<u32> {
        vec![1]
    }

    fn spread_usual() -> Vec<Spread> {
        vec![Spread::Uniform]
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // As a plan may say it: exactly.
        let (shift, unit) = [(30, "G"), (20, "M"), (10, "K")]
            .into_iter()
            .find(|(shift, _)| self.0 > 0 && self.0.is_multiple_of(1 << shift))
            .unwrap_or((0, ""));
        to.collect_str(&format_args!("{}{unit}", self.0 >> shift))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let size: ByteSize =
            String::deserialize(from)?.parse().map_err(serde::de::Error::custom)?;
        Ok(Self(size.bytes()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ByteSize(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"
        title = "t"
        memory = "128M"
        targets = ["page-cache", "pool-2"]
        [[disk]]
        name = "as it is"
        [[disk]]
        name = "slow"
        iops = 150
        bandwidth = "50M"
        [[fio]]
        access = ["random"]
        block = ["4K"]
        working-set = [0.5, 4]
    "#;

    #[test]
    fn a_plan_is_read_and_written() {
        let plan = Plan::parse(PLAN).unwrap();
        assert_eq!((plan.runs, plan.memory), (5, Size(128 << 20)));
        assert_eq!(plan.targets, [Target::PageCache, Target::Pool(2)]);
        let again = Plan::parse(&toml::to_string(&plan).unwrap()).unwrap();
        assert_eq!(again, plan);
    }

    #[test]
    fn caches_are_filled_on_a_disk_as_fast_as_the_fastest_and_as_an_ordinary_one() {
        let fills = |disks: &[(Option<u32>, Option<u64>)]| {
            let disks = disks.iter().map(|&(iops, bandwidth)| Disk {
                name: String::new(),
                iops,
                bandwidth: bandwidth.map(Size),
            });
            let plan = Plan { disks: disks.collect(), ..Plan::parse(PLAN).unwrap() };
            let disk = plan.disk_to_fill();
            (disk.iops, disk.bandwidth.map(|size| size.0 >> 20))
        };
        let slow = (Some(150), Some(100 << 20));
        let fast = (Some(8_000), Some(500 << 20));
        assert_eq!(fills(&[slow]), (Some(3_000), Some(200)));
        assert_eq!(fills(&[slow, fast]), (Some(8_000), Some(500)));
        assert_eq!(fills(&[slow, (Some(8_000), None)]), (Some(8_000), None));
        assert_eq!(fills(&[(None, None), slow]), (None, None), "one of them has no limits");
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_with_its_place() {
        let says = |from: &str, to: &str| {
            assert!(PLAN.contains(from), "{from}");
            let error = Plan::parse(&PLAN.replacen(from, to, 1)).unwrap_err();
            let text = format!("{error:#}");
            assert!(!text.contains('\n'), "{text}");
            text
        };
        let text = says("memory", "memroy");
        assert!(text.starts_with("line 3: unknown field `memroy`"), "{text}");
        let text = says("\"page-cache\"", "\"page-cash\"");
        assert!(text.contains("no target 'page-cash'; is it 'page-cache'?"), "{text}");
        assert!(says("pool-2", "pool-77").contains("1 to 16 lenders"));
        assert!(says("128M", "12M").contains("at least"));
        assert!(says("\"4K\"", "\"4Q\"").contains("is not a size"));
        assert!(says("\"slow\"", "\"as it is\"").contains("two disks"));
        assert!(says("[0.5, 4]", "[400]").contains("0.1 to 64"));
        assert!(says("iops = 150", "iops = 0").contains("does nothing"));
    }

    #[test]
    fn every_plan_of_ours_is_sound() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans");
        let mut plans = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            Plan::read(&entry.unwrap().path()).unwrap();
            plans += 1;
        }
        assert!(plans > 0);
    }
}
