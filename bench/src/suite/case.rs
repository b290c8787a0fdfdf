//! One thing that is asked of every target: a plan, taken apart.

use serde::{Deserialize, Serialize};

use super::plan::{Access, FioPlan, Mix, Personality, Plan, Program, Size, Spread};

/// A workload, on files of a size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) workload: Workload,
    /// Times the memory.
    pub(crate) working_set: f64,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "with", rename_all = "kebab-case")]
pub(crate) enum Workload {
    Fio(FioJob),
    Filebench { personality: Personality },
    Application { program: Program },
}

/// Of fio.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FioJob {
    pub(crate) access: Access,
    pub(crate) mix: Mix,
    pub(crate) block: Size,
    pub(crate) outstanding: u32,
    pub(crate) spread: Spread,
}

impl Case {
    /// All of a plan, smaller working sets first.
    pub(crate) fn all(plan: &Plan) -> Vec<Self> {
        let mut cases = Vec::new();
        let mut add = |sets: &[f64], workloads: Vec<Workload>| {
            for &working_set in sets {
                let case = |workload: &Workload| Self { workload: workload.clone(), working_set };
                cases.extend(workloads.iter().map(case));
            }
        };
        for fio in &plan.fio {
            add(&fio.working_set, fio.jobs().into_iter().map(Workload::Fio).collect());
        }
        for filebench in &plan.filebench {
            let played = filebench.personality.iter();
            let played = played.map(|&personality| Workload::Filebench { personality });
            add(&filebench.working_set, played.collect());
        }
        for applications in &plan.application {
            let run = applications.program.iter();
            let run = run.map(|&program| Workload::Application { program });
            add(&applications.working_set, run.collect());
        }
        cases
    }

    /// Whether both work on the same files.
    pub(crate) fn shares_files_with(&self, other: &Self) -> bool {
        self.working_set == other.working_set && self.workload.files() == other.workload.files()
    }

    /// A name for files.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}x", self.workload.name(), self.working_set)
    }
}

impl Workload {
    /// For files.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Fio(job) => job.name(),
            Self::Filebench { personality } => format!("filebench-{}", word(personality)),
            Self::Application { program } => word(program),
        }
    }

    /// The same for people.
    pub(crate) fn title(&self) -> String {
        match self {
            Self::Fio(job) => job.title(),
            Self::Filebench { personality } => format!("filebench {}", word(personality)),
            Self::Application { program } => program.title().to_owned(),
        }
    }

    /// What is counted.
    pub(crate) fn unit(&self) -> &'static str {
        match self {
            Self::Fio(_) | Self::Filebench { .. } => "operations/s",
            Self::Application { program } => program.unit(),
        }
    }

    /// Workloads for which this is the same can share their files.
    fn files(&self) -> String {
        match self {
            Self::Fio(_) => "fio".to_owned(),
            Self::Application { program: Program::Pgbench | Program::PgbenchSelect } => {
                "pgbench".to_owned()
            }
            _ => self.name(),
        }
    }
}

impl FioJob {
    fn name(&self) -> String {
        let mut name = format!("{}-{}-{}", word(self.access), word(self.mix), word(self.block));
        if self.outstanding > 1 {
            name.push_str(&format!("-by-{}", self.outstanding));
        }
        if self.spread != Spread::Uniform {
            name.push_str(&format!("-{}", word(self.spread)));
        }
        name
    }

    fn title(&self) -> String {
        let access = match self.access {
            Access::Random => "random",
            Access::Sequential => "sequential",
        };
        let what = match self.mix {
            Mix::Read => "reads",
            Mix::Write => "writes",
            Mix::Mixed => "reads and writes, 70/30",
        };
        let spread = match self.spread {
            Spread::Uniform => "",
            Spread::Zipf => ", Zipf",
        };
        format!("{access} {what}, {}, {} at once{spread}", self.block, self.outstanding)
    }
}

impl Program {
    fn title(self) -> &'static str {
        match self {
            Self::Pgbench => "PostgreSQL, pgbench",
            Self::PgbenchSelect => "PostgreSQL, pgbench select-only",
            Self::Sqlite => "SQLite, look-ups by key",
            Self::RedisLoad => "Redis, loading its dump",
            Self::Grep => "grep -r",
            Self::GitStatus => "git status",
            Self::CargoBuild => "cargo build",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Pgbench | Self::PgbenchSelect => "transactions/s",
            Self::Sqlite => "look-ups/s",
            Self::RedisLoad | Self::Grep | Self::GitStatus | Self::CargoBuild => "times/s",
        }
    }
}

impl FioPlan {
    /// Each of its lists with each.
    fn jobs(&self) -> Vec<FioJob> {
        let mut jobs = Vec::new();
        for &access in &self.access {
            for &mix in &self.mix {
                for &block in &self.block {
                    for &outstanding in &self.outstanding {
                        for &spread in self.spreads_of(access) {
                            jobs.push(FioJob { access, mix, block, outstanding, spread });
                        }
                    }
                }
            }
        }
        jobs
    }

    /// What is read in order has no places that are read more often.
    fn spreads_of(&self, access: Access) -> &[Spread] {
        match access {
            Access::Random => &self.spread,
            Access::Sequential => &[Spread::Uniform],
        }
    }
}

/// As a plan has it.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_combined_and_every_case_has_a_name_of_its_own() {
        let plan = Plan::parse(
            r#"
            title = "t"
            memory = "128M"
            targets = ["local"]
            [[disk]]
            name = "d"
            [[fio]]
            access = ["random", "sequential"]
            block = ["4K", "1M"]
            outstanding = [1, 16]
            spread = ["uniform", "zipf"]
            working-set = [0.5, 4]
            [[filebench]]
            personality = ["oltp", "webserver"]
            working-set = [4]
            [[application]]
            program = ["pgbench", "pgbench-select", "grep"]
            working-set = [1, 4]
            "#,
        )
        .unwrap();
        let cases = Case::all(&plan);
        let mut names: Vec<_> = cases.iter().map(Case::name).collect();
        assert_eq!(names[0], "random-read-4K-0.5x");
        assert!(names.contains(&"random-read-1M-by-16-zipf-4x".to_owned()));
        assert!(names.contains(&"filebench-oltp-4x".to_owned()));
        assert_eq!(names.len(), 2 * (8 + 4) + 2 + 6);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), cases.len());
        assert_eq!(cases[1].workload.title(), "random reads, 4 KiB, 1 at once, Zipf");
    }
}
