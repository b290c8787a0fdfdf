//! What the demo says.

use rampool_cli::size::ByteSize;

use super::rounds::{Kill, Round, Rounds};
use super::source::Source;
use super::tally::Tally;
use super::whole::Whole;
use super::{CACHE, LEND};
use crate::pages::PAGE_BYTES;
use crate::progress::Progress;
use crate::status::Layers;
use crate::table::{grouped, percent, table, us};

/// What is about to happen, in one line.
pub(super) fn opening(source: &Source, disk_iops: Option<u32>, progress: &Progress) {
    let disk = disk_iops.map_or_else(String::new, |iops| format!(", disk held at {iops} IOPS"));
    progress.line(&format!(
        "{}: {} files, read through a cache of {CACHE} and a server that lends {LEND}{disk}.",
        source.root.display(),
        grouped(source.files.len() as u64),
    ));
}

/// Everything that was seen.
pub(super) struct Seen<'a> {
    pub(super) source: &'a Source,
    pub(super) whole: &'a Whole,
    pub(super) rounds: &'a Rounds,
    pub(super) tally: &'a Tally,
    /// Whether the disk was to be held back.
    pub(super) held_back: bool,
}

impl Seen<'_> {
    /// Prints it for people.
    pub(super) fn print(&self) {
        let Self { source, whole, rounds, tally, held_back } = self;
        println!("{}\n", whole_line(source, whole));
        println!("Random 4 KiB blocks, {} in all, by who answered:", working_set(rounds.blocks));
        print_rounds(rounds);
        println!();
        println!("{}", kill_line(&rounds.kill));
        println!(
            "{} compared, {} mismatches, {} errors.",
            ByteSize(tally.compared_bytes()),
            tally.mismatches(),
            tally.errors()
        );
        if let Some(first) = tally.first() {
            println!("The first: {first}.");
        }
        if let Some(line) = speed_line(&rounds.with_server, *held_back) {
            println!("{line}");
        }
    }
}

fn whole_line(source: &Source, whole: &Whole) -> String {
    let mut line = format!(
        "Whole files: {} of {} compared, {} in {:.1} s",
        grouped(whole.files as u64),
        grouped(source.files.len() as u64),
        ByteSize(whole.bytes),
        whole.elapsed.as_secs_f64()
    );
    if whole.files + whole.unreadable < source.files.len() {
        line.push_str(" (the time for it was over)");
    }
    if source.partial {
        line.push_str(" (the source is larger than what was listed)");
    }
    if whole.unreadable > 0 {
        line.push_str(&format!("; {} cannot be read in the source itself", whole.unreadable));
    }
    line + "."
}

fn working_set(blocks: usize) -> String {
    let bytes = ByteSize(blocks as u64 * PAGE_BYTES as u64);
    format!("{bytes} ({:.1} times the local cache)", bytes.bytes() as f64 / CACHE.bytes() as f64)
}

fn print_rounds(rounds: &Rounds) {
    let mut table =
        table(&["round", "layer", "reads", "share", "p50", "mean", "p99", "reads/s"], 2);
    let last = rounds.rounds.len();
    for (index, round) in rounds.rounds.iter().enumerate() {
        let name =
            if index + 1 == last { format!("{last}, kill") } else { (index + 1).to_string() };
        for (row, (layer, reads)) in round.layers.each().into_iter().enumerate() {
            let only_first = |text: String| if row == 0 { text } else { String::new() };
            table.add_row([
                only_first(name.clone()),
                layer.to_owned(),
                grouped(reads.reads),
                percent(round.layers.share(reads)),
                us(reads.buckets.quantile_us(0.5)),
                us(reads.buckets.mean_us()),
                us(reads.buckets.quantile_us(0.99)),
                only_first(grouped(per_second(round))),
            ]);
        }
    }
    println!("{table}");
}

fn kill_line(kill: &Kill) -> String {
    format!(
        "The server was killed in the last round: {} reads followed, the longest took {}, {} came \
         from the source, errors: {}.",
        grouped(kill.reads),
        us(Some(kill.longest_us)),
        grouped(kill.from_source),
        if kill.errors == 0 { "none".to_owned() } else { kill.errors.to_string() }
    )
}

fn per_second(round: &Round) -> u64 {
    (round.layers.reads() as f64 / round.elapsed.as_secs_f64()) as u64
}

/// Whether the pool paid off here. `layers` is what was seen while the server lived. Means, not
/// medians: a disk that is held back answers most reads at once and makes the others wait.
fn speed_line(layers: &Layers, held_back: bool) -> Option<String> {
    let source = layers.source.buckets.mean_us()?;
    let Some(remote) = layers.remote.buckets.mean_us() else {
        return Some("No read was answered by the server.".to_owned());
    };
    let (remote_text, source_text) = (us(Some(remote)), us(Some(source)));
    Some(if source >= remote {
        format!("A remote hit took {remote_text} where the disk takes {source_text} (means).")
    } else {
        let hint = if held_back {
            ""
        } else {
            "; try it with --disk-iops 3000 (make demo DEMO_DISK_IOPS=3000)"
        };
        format!(
            "The disk here is faster than the network ({source_text} against {remote_text}, \
             means): the pool pays off on slower disks{hint}."
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Layer;

    fn layers(remote: &str, source: &str) -> Layers {
        let layer =
            |buckets: &str| Layer { reads: 1, buckets: serde_json::from_str(buckets).unwrap() };
        Layers { local: layer("[]"), remote: layer(remote), source: layer(source) }
    }

    #[test]
    fn a_fast_disk_is_owned_up_to() {
        let line = speed_line(&layers("[[60000,9]]", "[[20000,9]]"), false).unwrap();
        assert!(line.contains("faster than the network"), "{line}");
        assert!(line.contains("--disk-iops 3000"), "{line}");
        let line = speed_line(&layers("[[60000,9]]", "[[333000,9]]"), true).unwrap();
        assert!(line.contains("60.0 us where the disk takes 333 us"), "{line}");
        let line = speed_line(&layers("[]", "[[20000,9]]"), false).unwrap();
        assert!(line.contains("No read"), "{line}");
        assert_eq!(speed_line(&layers("[]", "[]"), false), None);
    }
}
