//! The controller on what a real server saw: samples that it logged (`RUST_LOG=rampool_server::lend=trace`)
//! in a lender of 2 GiB while `rampool-bench lending` played the scenarios, from a little before the owner
//! began. A sample holds what the decisions of then had led to, so the same decisions must come out.

use std::time::Duration;

use super::*;
use crate::lend::limits::Detector;

const GIB: u64 = 1 << 30;

/// Every sample with what is decided on it.
fn replay(text: &str) -> Vec<(Sample, Decision)> {
    let policy = Policy {
        lend_max: 2 * GIB * 9 / 10,
        keep_free: None,
        resume_after: Duration::from_secs(3),
        detector: Detector::Both,
    };
    let mut controller = Controller::new(policy);
    let samples = text.lines().map(|line| serde_json::from_str::<Sample>(line).expect("a sample"));
    let decided = samples.map(|sample| {
        let decision = controller.decide(&sample);
        (sample, decision)
    });
    decided.collect()
}

fn given(replayed: &[(Sample, Decision)], of: fn(&Reason) -> bool) -> u64 {
    let bytes = replayed.iter().map(|(_, decision)| match &decision.action {
        Some(Action::GaveBack { bytes, reason }) if of(reason) => *bytes,
        _ => 0,
    });
    bytes.sum()
}

/// The places of the samples at which lending was begun again.
fn resumed(replayed: &[(Sample, Decision)]) -> Vec<usize> {
    let is = |decision: &Decision| matches!(decision.action, Some(Action::Resumed { .. }));
    (0..replayed.len()).filter(|&n| is(&replayed[n].1)).collect()
}

#[test]
fn what_processes_take_is_given_back_while_they_take_it() {
    let replayed = replay(include_str!("testdata/allocation.jsonl"));
    assert!(given(&replayed, |reason| matches!(reason, Reason::Growth { .. })) > GIB);
    // From the first sample in which a tenth of a gigabyte was taken, until a whole one is, something goes
    // back at least every fifth of a second.
    let others = |sample: &Sample| {
        let vm = sample.domains.iter().flatten().last().expect("the lender's own");
        (vm.limit - vm.free - vm.file).saturating_sub(sample.own)
    };
    let begin = others(&replayed[0].0);
    let taking = replayed.iter().skip_while(|(sample, _)| others(sample) < begin + GIB / 10);
    let mut last = None;
    for (sample, decision) in taking.take_while(|(sample, _)| others(sample) < begin + GIB) {
        let since = sample.at - last.unwrap_or(sample.at);
        assert!(since < Duration::from_millis(200), "nothing at {:?}", sample.at);
        if last.is_none() || matches!(decision.action, Some(Action::GaveBack { .. })) {
            last = Some(sample.at);
        }
    }
    assert!(last.is_some());
}

#[test]
fn the_lenders_reads_take_back_what_they_need_and_after_them_it_is_lent_again() {
    let replayed = replay(include_str!("testdata/turns.jsonl"));
    let (cache, refaults) = (
        given(&replayed, |reason| matches!(reason, Reason::CacheGrowth { .. })),
        given(&replayed, |reason| matches!(reason, Reason::Refaults { .. })),
    );
    assert!(cache + refaults > GIB / 2, "{cache} and {refaults}");
    let resumed = resumed(&replayed);
    assert_eq!(resumed.len(), 1, "once the lender is quiet, and not before");
    let (during, after) = replayed.split_at(resumed[0]);
    assert!(during[during.len() - 20..].iter().all(|(_, decision)| decision.pausing));
    assert_eq!(given(after, |_| true), 0, "nobody misses what is pushed out");
    assert!(after.iter().any(|(_, decision)| decision.pushing));
    let (first, last) = (after[0].0.held, after[after.len() - 1].0.held);
    assert!(last > first + GIB / 4, "{first} to {last}");
}

#[test]
fn with_both_at_once_the_lender_gets_what_it_asks_for() {
    let replayed = replay(include_str!("testdata/at-once.jsonl"));
    assert!(given(&replayed, |_| true) > GIB / 4);
    let first = replayed.first().expect("some").0.held;
    let last = replayed.last().expect("some").0.held;
    assert!(last < first * 3 / 4, "{first} to {last}");
    let begin = replayed.iter().position(|(_, decision)| decision.pausing).expect("it pauses");
    let paused = replayed[begin..].iter().filter(|(_, decision)| decision.pausing).count();
    assert!(paused * 10 > (replayed.len() - begin) * 8, "it pauses on: {paused}");
}
