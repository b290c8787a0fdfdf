//! One thing that is asked of every target: a plan, taken apart.

use serde::{Deserialize, Serialize};

use super::plan::{Access, Mix, Plan, Size, Spread};

/// What is asked: of fio, so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Case {
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
                                    cases.push(Self {
                                        access,
                                        mix,
                                        block,
                                        outstanding,
                                        spread,
                                        working_set,
                                    });
                                }
                            }
                        }
                    }
                }
            }
        }
        cases
    }

    /// A name for files.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}x", self.series(), self.working_set)
    }

    /// The name without the working set: cases that are points of one line.
    pub(crate) fn series(&self) -> String {
        let mut name = format!("{}-{}-{}", word(self.access), word(self.mix), word(self.block));
        if self.outstanding > 1 {
            name.push_str(&format!("-by-{}", self.outstanding));
        }
        if self.spread != Spread::Uniform {
            name.push_str(&format!("-{}", word(self.spread)));
        }
        name
    }

    /// The same for people.
    pub(crate) fn title(&self) -> String {
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

impl super::plan::FioPlan {
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
            "#,
        )
        .unwrap();
        let cases = Case::all(&plan);
        let mut names: Vec<_> = cases.iter().map(Case::name).collect();
        assert_eq!(names[0], "random-read-4K-0.5x");
        assert!(names.contains(&"random-read-1M-by-16-zipf-4x".to_owned()));
        assert_eq!(names.len(), 2 * (8 + 4));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), cases.len());
        assert_eq!(cases[1].title(), "random reads, 4 KiB, 1 at once, Zipf");
    }
}
