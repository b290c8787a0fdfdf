//! What differs between the source and a mount.

use std::collections::HashMap;
use std::time::Duration;

use super::suite::{Case, Ran, Side, Verdict};

/// A suite at the source and through a mount.
pub(super) struct Compared {
    pub(super) suite: &'static str,
    pub(super) side: Side,
    pub(super) cases: usize,
    /// Cases that apply at neither place.
    pub(super) skipped: usize,
    /// Cases that fail on the source too.
    pub(super) also_on_source: Vec<Finding>,
    /// Cases that fail through the mount only.
    pub(super) defects: Vec<Finding>,
    pub(super) source_elapsed: Duration,
    pub(super) mount_elapsed: Duration,
}

/// A case that failed.
pub(super) struct Finding {
    /// The suite, the case and where.
    pub(super) name: String,
    /// What the tool said.
    pub(super) detail: String,
}

impl Compared {
    /// A suite that could not be run counts as one that failed.
    pub(super) fn not_run(suite: &'static str, why: &str) -> Self {
        let defect = Finding { name: format!("{suite}: not run"), detail: why.to_owned() };
        Self {
            suite,
            side: Side::Mount,
            cases: 0,
            skipped: 0,
            also_on_source: Vec::new(),
            defects: vec![defect],
            source_elapsed: Duration::ZERO,
            mount_elapsed: Duration::ZERO,
        }
    }
}

/// Compares case by case.
pub(super) fn compare(suite: &'static str, side: Side, source: &Ran, mount: &Ran) -> Compared {
    let mut compared = Compared {
        suite,
        side,
        cases: 0,
        skipped: 0,
        also_on_source: Vec::new(),
        defects: Vec::new(),
        source_elapsed: source.elapsed,
        mount_elapsed: mount.elapsed,
    };
    let at_mount: HashMap<&str, &Verdict> =
        mount.cases.iter().map(|case| (case.name.as_str(), &case.verdict)).collect();
    let at_source: HashMap<&str, &Verdict> =
        source.cases.iter().map(|case| (case.name.as_str(), &case.verdict)).collect();
    let only_at_mount =
        mount.cases.iter().filter(|case| !at_source.contains_key(case.name.as_str()));
    for Case { name, .. } in source.cases.iter().chain(only_at_mount) {
        let verdicts =
            (at_source.get(name.as_str()).copied(), at_mount.get(name.as_str()).copied());
        let detail = judge(verdicts.0, verdicts.1);
        compared.cases += 1;
        let finding = |detail| {
            let name = format!("{suite}: {name} ({})", side.label());
            Finding { name, detail }
        };
        match detail {
            Judgement::Fine => {}
            Judgement::Skipped => compared.skipped += 1,
            Judgement::AlsoOnSource(why) => compared.also_on_source.push(finding(why)),
            Judgement::Defect(why) => compared.defects.push(finding(why)),
        }
    }
    compared
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Fine,
    Skipped,
    AlsoOnSource(String),
    Defect(String),
}

fn judge(source: Option<&Verdict>, mount: Option<&Verdict>) -> Judgement {
    use Verdict::{Failed, Passed, Says, Skipped};
    match (source, mount) {
        (Some(Failed(why)), _) => Judgement::AlsoOnSource(why.clone()),
        (_, Some(Failed(why))) => Judgement::Defect(why.clone()),
        (Some(Says(source)), Some(Says(mount))) if source != mount => {
            Judgement::Defect(first_difference(source, mount))
        }
        (Some(Passed | Says(_)), Some(Skipped(why))) => {
            Judgement::Defect(format!("does not apply here, but on the source it does: {why}"))
        }
        (Some(Skipped(_)), _) => Judgement::Skipped,
        (Some(_), None) => {
            Judgement::Defect("was not reached, but on the source it was".to_owned())
        }
        (None | Some(Passed | Says(_)), _) => Judgement::Fine,
    }
}

/// The first line in which two texts differ.
fn first_difference(source: &str, mount: &str) -> String {
    let (mut ours, mut theirs) = (mount.lines(), source.lines());
    loop {
        match (theirs.next(), ours.next()) {
            (source, mount) if source != mount => {
                let shown = |line: Option<&str>| line.unwrap_or("nothing more").to_owned();
                return format!(
                    "the source says '{}', the mount '{}'",
                    shown(source),
                    shown(mount)
                );
            }
            (None, None) => return "they differ in how lines end".to_owned(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_defect_is_what_fails_through_the_mount_only() {
        let failed = Verdict::Failed("x".to_owned());
        let says = |text: &str| Verdict::Says(text.to_owned());
        let skipped = Verdict::Skipped("y".to_owned());
        let judge = |source: &Verdict, mount: &Verdict| judge(Some(source), Some(mount));
        assert_eq!(judge(&Verdict::Passed, &failed), Judgement::Defect("x".to_owned()));
        assert_eq!(judge(&failed, &failed), Judgement::AlsoOnSource("x".to_owned()));
        assert_eq!(judge(&failed, &Verdict::Passed), Judgement::AlsoOnSource("x".to_owned()));
        assert_eq!(judge(&skipped, &skipped), Judgement::Skipped);
        assert_eq!(judge(&says("a\nb"), &says("a\nb")), Judgement::Fine);
        let Judgement::Defect(why) = judge(&says("a\nb"), &says("a\nc")) else { panic!() };
        assert_eq!(why, "the source says 'b', the mount 'c'");
        assert!(matches!(judge(&Verdict::Passed, &skipped), Judgement::Defect(_)));
    }

    #[test]
    fn a_case_that_was_not_reached_is_a_defect() {
        let ran = |cases: &[Case]| Ran { cases: cases.to_vec(), elapsed: Duration::ZERO };
        let both = ran(&[Case::passed("a"), Case::passed("b")]);
        let one = ran(&[Case::passed("a")]);
        assert_eq!(compare("s", Side::Mount, &both, &one).defects.len(), 1);
        assert_eq!(compare("s", Side::Mount, &one, &both).defects.len(), 0);
        assert_eq!(compare("s", Side::Mount, &one, &both).cases, 2);
    }
}
