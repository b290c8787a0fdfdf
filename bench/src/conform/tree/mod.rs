//! Random sequences of operations on a small tree, and on a plain directory of the same filesystem
//! as the model. Every result and error must be the same, and in the end the whole tree.
//!
//! A sequence that fails is made as short as it can be while it still fails, and is printed.

mod actor;
mod operation;
mod snapshot;

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use anyhow::Result;
use proptest::collection::vec;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use self::actor::Actor;
use self::operation::{Operation, operation};
use super::site::Site;
use super::suite::{Case, Scene, Suite};
use crate::tool::Need;

/// The suite.
pub(super) struct Tree;

impl Suite for Tree {
    fn name(&self) -> &'static str {
        "tree"
    }

    fn needs(&self) -> Vec<Need> {
        Vec::new()
    }

    fn with_server(&self) -> bool {
        true
    }

    fn run(&self, site: &mut Site<'_>, scene: &Scene<'_>) -> Result<Vec<Case>> {
        let (seeds, sequences, length) = if scene.quick { (2, 30, 60) } else { (8, 60, 150) };
        let label = site.side().label();
        let model = site.model()?;
        let mut cases = Vec::new();
        for seed in 1..=seeds {
            let name = format!("seed {seed}, {sequences} sequences of up to {length} operations");
            scene.progress.say(format!("tree on the {label}: seed {seed} of {seeds}"));
            cases.push(Case::of(name, seeded(seed, sequences, length, &model, site, scene)));
            scene.stop.check()?;
        }
        Ok(cases)
    }
}

/// The sequences of one seed.
fn seeded(
    seed: u8,
    sequences: u32,
    length: usize,
    model: &Path,
    site: &mut Site<'_>,
    scene: &Scene<'_>,
) -> std::result::Result<(), String> {
    let config = Config {
        cases: sequences,
        failure_persistence: None,
        max_shrink_iters: 1_000,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let site = RefCell::new(site);
    let result = runner.run(&vec(operation(), 1..length), |operations| {
        // An interrupted run must not go on shrinking.
        if scene.stop.requested() {
            return Ok(());
        }
        match follow(&operations, model, &mut site.borrow_mut(), scene) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(difference)) => Err(TestCaseError::fail(difference)),
            Err(error) => Err(TestCaseError::fail(format!("{error:#}"))),
        }
    });
    result.map_err(|error| match error {
        TestError::Fail(why, operations) => {
            let steps = operations.iter().enumerate();
            let steps: Vec<_> = steps.map(|(at, step)| format!("{}. {step:?}", at + 1)).collect();
            format!("{why}; the shortest sequence:\n{}", steps.join("\n"))
        }
        TestError::Abort(why) => why.to_string(),
    })
}

/// Does the operations at both places, in a directory of their own. The inner error is the first
/// difference.
fn follow(
    operations: &[Operation],
    model: &Path,
    site: &mut Site<'_>,
    scene: &Scene<'_>,
) -> Result<std::result::Result<(), String>> {
    let (expected, seen) = (model.join("tree"), site.dir().join("tree"));
    for dir in [&expected, &seen] {
        fs::create_dir(dir)?;
    }
    let result = compare(operations, &expected, &seen, site, scene);
    for dir in [&expected, &seen] {
        fs::remove_dir_all(dir)?;
    }
    result
}

fn compare(
    operations: &[Operation],
    expected: &Path,
    seen: &Path,
    site: &mut Site<'_>,
    scene: &Scene<'_>,
) -> Result<std::result::Result<(), String>> {
    let (mut model, mut actor) = (Actor::new(expected)?, Actor::new(seen)?);
    for (at, operation) in operations.iter().enumerate() {
        let (wanted, got) = (model.act(operation), actor.act(operation));
        if wanted != got {
            let number = at + 1;
            return Ok(Err(format!("step {number} gave {got:?} instead of {wanted:?}")));
        }
        if matches!(operation, Operation::Remount) {
            // Both have closed their files.
            site.remount(scene.stop)?;
        }
    }
    // With files still open: what was removed while open is compared through them.
    if let Some(difference) = model.open_files().zip(actor.open_files()).find(|(a, b)| a != b) {
        let (wanted, got) = difference;
        return Ok(Err(format!("an open file in the end: {got:?} instead of {wanted:?}")));
    }
    drop((model, actor));
    let (wanted, got) = (snapshot::take(expected)?, snapshot::take(seen)?);
    let below = snapshot::take(&site.source().join("tree"))?;
    Ok(snapshot::compare("through the mount", &wanted, &got)
        .and_then(|()| snapshot::compare("in the source below", &wanted, &below)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::strategy::{Strategy as _, ValueTree as _};

    fn sequence(runner: &mut TestRunner) -> Vec<Operation> {
        vec(operation(), 200).new_tree(runner).unwrap().current()
    }

    #[test]
    fn most_operations_find_what_they_need() {
        let mut runner = TestRunner::deterministic();
        let (mut done, mut all) = (0, 0);
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let mut actor = Actor::new(dir.path()).unwrap();
            let operations = sequence(&mut runner);
            all += operations.len();
            done += operations.iter().filter(|operation| actor.act(operation).is_ok()).count();
        }
        assert!(done * 2 > all, "{done} of {all}");
    }

    #[test]
    fn a_directory_behaves_like_another() {
        let mut runner = TestRunner::deterministic();
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut model, mut actor) = (Actor::new(a.path()).unwrap(), Actor::new(b.path()).unwrap());
        for operation in sequence(&mut runner) {
            assert_eq!(model.act(&operation), actor.act(&operation), "{operation:?}");
        }
        let (wanted, got) = (snapshot::take(a.path()).unwrap(), snapshot::take(b.path()).unwrap());
        assert_eq!(snapshot::compare("there", &wanted, &got), Ok(()));
        fs::write(b.path().join("one-more"), "").unwrap();
        let got = snapshot::take(b.path()).unwrap();
        assert!(snapshot::compare("there", &wanted, &got).unwrap_err().contains("one-more"));
    }
}
