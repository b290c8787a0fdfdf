//! What a run did and found, as a table and as JSON.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rampool_cli::size::ByteSize;
use serde_json::{Map, Value, json};

use super::tally::{Finding, FindingKind, Kind, Tally};
use crate::table::{grouped, table};

/// A whole run.
pub(super) struct Report<'a> {
    pub(super) kill: &'a str,
    pub(super) seed: u64,
    pub(super) rounds: u32,
    pub(super) elapsed: Duration,
    pub(super) tally: &'a Tally,
    pub(super) finding: Option<&'a Finding>,
}

impl Report<'_> {
    /// For people.
    pub(super) fn print(&self) {
        let tally = self.tally;
        let mut table = table(&["operations acknowledged", ""], 1);
        for (kind, words) in Kind::ALL {
            table.add_row([words.to_owned(), grouped(tally.of(kind))]);
        }
        println!("{table}\n");
        println!(
            "{} rounds in {:.0} s, seed {}: {} kills of the client, {} of the server; {} operations \
             interrupted.",
            self.rounds,
            self.elapsed.as_secs_f64(),
            self.seed,
            grouped(tally.client_kills.load(Relaxed)),
            grouped(tally.server_kills.load(Relaxed)),
            grouped(tally.interrupted.load(Relaxed)),
        );
        println!(
            "{} compared while writers were at work, {} after the kills; {} blocks were lent and {} \
             reads answered by the server.",
            ByteSize(tally.live_bytes.load(Relaxed)),
            ByteSize(tally.settled_bytes.load(Relaxed)),
            grouped(tally.lent_blocks.load(Relaxed)),
            grouped(tally.remote_reads.load(Relaxed)),
        );
        println!(
            "lost: {}, wrong: {}, failed: {}",
            self.found(FindingKind::Lost),
            self.found(FindingKind::Wrong),
            self.found(FindingKind::Failed)
        );
        if let Some(finding) = self.finding {
            println!("\n{}", finding.what);
            for line in &finding.log {
                println!("  {line}");
            }
            println!(
                "Again: rampool-bench crash --kill {} --seed {}; what is done follows from the seed, \
                 when it happens does not.",
                self.kill, self.seed
            );
        }
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let tally = self.tally;
        let operations: Map<_, _> = Kind::ALL
            .iter()
            .map(|&(kind, words)| (words.to_owned(), json!(tally.of(kind))))
            .collect();
        json!({
            "kill": self.kill,
            "seed": self.seed,
            "rounds": self.rounds,
            "seconds": self.elapsed.as_secs_f64(),
            "client_kills": tally.client_kills.load(Relaxed),
            "server_kills": tally.server_kills.load(Relaxed),
            "acknowledged": operations,
            "interrupted": tally.interrupted.load(Relaxed),
            "unjudged_reads": tally.unjudged.load(Relaxed),
            "compared_bytes": {
                "at_work": tally.live_bytes.load(Relaxed),
                "after_kills": tally.settled_bytes.load(Relaxed),
            },
            "lent_blocks": tally.lent_blocks.load(Relaxed),
            "remote_reads": tally.remote_reads.load(Relaxed),
            "lost": self.found(FindingKind::Lost),
            "wrong": self.found(FindingKind::Wrong),
            "failed": self.found(FindingKind::Failed),
            "first": self.finding.map(|finding| json!({ "what": finding.what, "log": finding.log })),
        })
    }

    fn found(&self, kind: FindingKind) -> u32 {
        u32::from(self.finding.is_some_and(|finding| finding.kind == kind))
    }
}
