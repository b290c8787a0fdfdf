//! One thing that is asked of every target: a plan, taken apart.

use serde::{Deserialize, Serialize};

use super::plan::{Access, Mix, Personality, Plan, Program, Size, Spread};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Case {
    Fio(FioCase),
    Filebench { personality: Personality, working_set: f64 },
    Application { program: Program, working_set: f64 },
}

/// Of fio.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FioCase {
    pub(crate) access: Access,
    pub(crate) mix: Mix,
    pub(crate) block: Size,
    pub(crate) outstanding: u32,
    pub(crate) spread: Spread,
    pub(crate) working_set: f64,
}

impl Case {
    /// All of a plan, in the order in which they are written.
    pub(crate) fn all(plan: &Plan) -> Vec<Self> {
        let mut cases = Vec::new();
        for fio in &plan.fio {
            for &working_set in &fio.working_set {
                for &access in &fio.access {
                    for &mix in &fio.mix {
                        for &block in &fio.block {
                            for &outstanding in &fio.outstanding {
                                for &spread in fio.spreads_of(access) {
                                    cases.push(Self::Fio(FioCase {
                                        access,
                                        mix,
                                        block,
                                        outstanding,
                                        spread,
                                        working_set,
                                    }));
                                }
                            }
                        }
                    }
                }
            }
        }
        for filebench in &plan.filebench {
            for &working_set in &filebench.working_set {
                let of = |&personality| Self::Filebench { personality, working_set };
                cases.extend(filebench.personality.iter().map(of));
            }
        }
        for application in &plan.application {
            for &working_set in &application.working_set {
                let of = |&program| Self::Application { program, working_set };
                cases.extend(application.program.iter().map(of));
            }
        }
        cases
    }

    /// How much is worked on, in times of the memory.
    pub(crate) fn working_set(&self) -> f64 {
        match self {
            Self::Fio(case) => case.working_set,
            Self::Filebench { working_set, .. } | Self::Application { working_set, .. } => {
                *working_set
            }
        }
    }

    /// Cases of which this is equal work on the same files.
    pub(crate) fn files(&self) -> (String, u64) {
        let files = match self {
            Self::Fio(_) => "fio".to_owned(),
            Self::Filebench { personality, .. } => word(personality),
            Self::Application { program, .. } => program.files().to_owned(),
        };
        (files, self.working_set().to_bits())
    }

    /// A name for files.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}x", self.series(), self.working_set())
    }

    /// The name without the working set: cases that are points of one line.
    pub(crate) fn series(&self) -> String {
        match self {
            Self::Fio(case) => {
                let mut name =
                    format!("{}-{}-{}", word(case.access), word(case.mix), word(case.block));
                if case.outstanding > 1 {
                    name.push_str(&format!("-by-{}", case.outstanding));
                }
                if case.spread != Spread::Uniform {
                    name.push_str(&format!("-{}", word(case.spread)));
                }
                name
            }
            Self::Filebench { personality, .. } => format!("filebench-{}", word(personality)),
            Self::Application { program, .. } => word(program),
        }
    }

    /// The same for people.
    pub(crate) fn title(&self) -> String {
        match self {
            Self::Fio(case) => {
                let access = match case.access {
                    Access::Random => "random",
                    Access::Sequential => "sequential",
                };
                let what = match case.mix {
                    Mix::Read => "reads",
                    Mix::Write => "writes",
                    Mix::Mixed => "reads and writes, 70/30",
                };
                let spread = match case.spread {
                    Spread::Uniform => "",
                    Spread::Zipf => ", Zipf",
                };
                format!("{access} {what}, {}, {} at once{spread}", case.block, case.outstanding)
            }
            Self::Filebench { personality, .. } => format!("filebench {}", word(personality)),
            Self::Application { program, .. } => program.title().to_owned(),
        }
    }

    /// What is counted.
    pub(crate) fn unit(&self) -> &'static str {
        match self {
            Self::Fio(_) | Self::Filebench { .. } => "operations/s",
            Self::Application { program, .. } => program.unit(),
        }
    }
}

impl super::plan::FioPlan {
    /// What is read in order has no places that are read more often.
    fn spreads_of(&self, access: Access) -> &[Spread] {
        match access {
            Access::Random => &self.spread,
            Access::Sequential => &[Spread::Uniform],
        }
    }
}

impl Program {
    /// What it works on.
    fn files(self) -> &'static str {
        match self {
            Self::Pgbench | Self::PgbenchSelect => "pgbench",
            Self::Sqlite => "sqlite",
            Self::RedisLoad => "redis",
            Self::Grep => "grep",
            Self::GitStatus => "git",
            Self::CargoBuild => "cargo",
        }
    }

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
            personality = ["oltp"]
            working-set = [4]
            [[application]]
            program = ["pgbench-select"]
            working-set = [4]
            "#,
        )
        .unwrap();
        let cases = Case::all(&plan);
        let mut names: Vec<_> = cases.iter().map(Case::name).collect();
        assert_eq!(names[0], "random-read-4K-0.5x");
        assert_eq!(names.last().unwrap(), "pgbench-select-4x");
        assert!(names.contains(&"random-read-1M-by-16-zipf-4x".to_owned()));
        assert_eq!(names.len(), 2 * (8 + 4) + 2);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), cases.len());
        assert_eq!(cases[1].title(), "random reads, 4 KiB, 1 at once, Zipf");
    }
}
