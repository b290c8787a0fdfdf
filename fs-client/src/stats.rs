//! `rampool stats`: what mounts have done since the line before, a line each.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::args::Format;
use crate::failure::Failure;
use crate::metrics::percentile;
use crate::status;

/// The names of the columns are repeated after so many lines.
const LINES_A_PAGE: u32 = 20;

/// Print what mounts do, a line each time, until interrupted.
#[derive(Debug, clap::Args)]
pub(crate) struct StatsArgs {
    /// Seconds between lines
    #[arg(default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    /// End after so many
    count: Option<u32>,
    /// One mount only; all of this user's without
    #[arg(short, long, value_name = "DIR")]
    mountpoint: Option<PathBuf>,
    /// How to write: a table that goes on, or one JSON object a line
    #[arg(short = 'w', long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// What a mount has done in some time.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Stats {
    pub(crate) mountpoint: String,
    pub(crate) reads_per_second: f64,
    /// By layer: local, remote, source. Shares of the reads, 0 to 1; none if there were none.
    pub(crate) local: Option<f64>,
    pub(crate) remote: Option<f64>,
    pub(crate) source: Option<f64>,
    pub(crate) bytes_per_second: f64,
    /// Of all reads, in microseconds.
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) sent_blocks_per_second: f64,
    pub(crate) lent_blocks: u64,
}

/// What one layer of it has done.
pub(crate) struct LayerStats {
    pub(crate) reads_per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
}

/// A mount's document, and when it was read.
pub(crate) struct Seen {
    pub(crate) report: Value,
    pub(crate) at: Instant,
}

/// Prints until it is interrupted, or has printed as often as it should.
pub(crate) fn run(args: &StatsArgs) -> Result<(), Failure> {
    let pause = Duration::from_secs_f64(args.interval);
    let mut before = look(args.mountpoint.as_deref())?;
    if before.is_empty() {
        return Err(Failure::usage("nothing is mounted by this user"));
    }
    let (mut lines, mut left) = (0, args.count);
    let mut next = Instant::now() + pause;
    while left != Some(0) {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += pause;
        let now = look(args.mountpoint.as_deref())?;
        let mut text = String::new();
        for (mountpoint, seen) in &now {
            // One that has come meanwhile has a line the next time.
            let Some(earlier) = before.get(mountpoint) else { continue };
            let stats = Stats::between(earlier, seen);
            match args.format {
                Format::Json => text.push_str(&format!(
                    "{}\n",
                    serde_json::to_string(&stats).map_err(Failure::system)?
                )),
                Format::Table => {
                    if lines % LINES_A_PAGE == 0 {
                        text.push_str(HEADER);
                    }
                    lines += 1;
                    text.push_str(&stats.line());
                }
            }
        }
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // Whoever reads it has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            written => written
                .map_err(|error| Failure::system(format!("cannot write to stdout: {error}")))?,
        }
        before = now;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// All mounts of this user, or one, by their mountpoints.
pub(crate) fn look(
    mountpoint: Option<&std::path::Path>,
) -> Result<BTreeMap<String, Seen>, Failure> {
    let reports = status::reports(mountpoint)?;
    let at = Instant::now();
    let named = reports.into_iter().map(|report| {
        let name = report.pointer("/mountpoint").and_then(Value::as_str).unwrap_or("?").to_owned();
        (name, Seen { report, at })
    });
    Ok(named.collect())
}

const LAYERS: [&str; 3] = ["local", "remote", "source"];

const HEADER: &str =
    "   reads/s  local% remote% source%      MB/s    p50 us    p99 us    sent/s      lent  mount\n";

impl Stats {
    /// What was done between two looks at a mount.
    pub(crate) fn between(before: &Seen, now: &Seen) -> Self {
        let seconds = seconds_between(before, now);
        let since = |path: &str| counted_between(before, now, path);
        let [local, remote, source] = LAYERS.map(|layer| since(&format!("/layers/{layer}/reads")));
        let reads = local + remote + source;
        let share = |part: u64| (reads > 0).then(|| part as f64 / reads as f64);
        let took = took_between(before, now, &LAYERS);
        let name = now.report.pointer("/mountpoint").and_then(Value::as_str);
        Self {
            mountpoint: name.unwrap_or("?").to_owned(),
            reads_per_second: reads as f64 / seconds,
            local: share(local),
            remote: share(remote),
            source: share(source),
            bytes_per_second: since("/reads/bytes") as f64 / seconds,
            p50_us: percentile(&took, 0.50),
            p99_us: percentile(&took, 0.99),
            sent_blocks_per_second: since("/remote/sent_blocks") as f64 / seconds,
            lent_blocks: number(now, "/remote/lent_blocks"),
        }
    }

    /// The share of reads that memory answered, local or lent.
    pub(crate) fn hits(&self) -> Option<f64> {
        self.local.zip(self.remote).map(|(local, remote)| local + remote)
    }

    fn line(&self) -> String {
        let share = |share: Option<f64>| {
            share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}", share * 100.0))
        };
        let time =
            |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |time| format!("{time:.1}"));
        format!(
            "{:>10.0} {:>7} {:>7} {:>7} {:>9.1} {:>9} {:>9} {:>9.0} {:>9}  {}\n",
            self.reads_per_second,
            share(self.local),
            share(self.remote),
            share(self.source),
            self.bytes_per_second / 1e6,
            time(self.p50_us),
            time(self.p99_us),
            self.sent_blocks_per_second,
            self.lent_blocks,
            self.mountpoint,
        )
    }
}

impl LayerStats {
    /// What a layer has done between two looks at a mount.
    pub(crate) fn between(before: &Seen, now: &Seen, layer: &str) -> Self {
        let seconds = seconds_between(before, now);
        let since = |what| counted_between(before, now, &format!("/layers/{layer}/{what}")) as f64;
        let took = took_between(before, now, &[layer]);
        Self {
            reads_per_second: since("reads") / seconds,
            bytes_per_second: since("bytes") / seconds,
            p50_us: percentile(&took, 0.50),
            p99_us: percentile(&took, 0.99),
        }
    }
}

fn seconds_between(before: &Seen, now: &Seen) -> f64 {
    now.at.duration_since(before.at).as_secs_f64().max(1e-3)
}

fn number(seen: &Seen, path: &str) -> u64 {
    seen.report.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

/// A daemon that was started anew has begun to count anew.
fn counted_between(before: &Seen, now: &Seen, path: &str) -> u64 {
    number(now, path).saturating_sub(number(before, path))
}

/// Upper ends in nanoseconds and counts of what reads of some layers took.
fn took_between(before: &Seen, now: &Seen, layers: &[&str]) -> Vec<(u64, u64)> {
    let mut took: BTreeMap<u64, u64> = BTreeMap::new();
    for layer in layers {
        let path = format!("/layers/{layer}/buckets");
        for (end, count) in buckets(&now.report, &path) {
            *took.entry(end).or_insert(0) += count;
        }
        for (end, count) in buckets(&before.report, &path) {
            let here = took.entry(end).or_insert(0);
            *here = here.saturating_sub(count);
        }
    }
    took.into_iter().filter(|&(_, count)| count > 0).collect()
}

fn buckets<'a>(report: &'a Value, path: &str) -> impl Iterator<Item = (u64, u64)> + 'a {
    let buckets = report.pointer(path).and_then(Value::as_array);
    let pair = |pair: &Value| Some((pair.get(0)?.as_u64()?, pair.get(1)?.as_u64()?));
    buckets.into_iter().flatten().filter_map(pair)
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("write a number of seconds, 0.1 at least".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn seen(local: u64, source: u64, at: Instant) -> Seen {
        let report = json!({
            "mountpoint": "/mnt",
            "reads": { "bytes": (local + source) * 4096 },
            "layers": {
                "local": { "reads": local, "buckets": [[9_000, local]] },
                "remote": { "reads": 0, "buckets": [] },
                "source": { "reads": source, "buckets": [[90_000, source]] },
            },
            "remote": { "sent_blocks": source, "lent_blocks": 5 },
        });
        Seen { report, at }
    }

    #[test]
    fn a_line_is_of_what_has_been_done_since_the_last() {
        let start = Instant::now();
        let (before, now) = (seen(100, 50, start), seen(190, 60, start + Duration::from_secs(2)));
        let stats = Stats::between(&before, &now);
        assert_eq!(
            (stats.reads_per_second, stats.local, stats.source),
            (50.0, Some(0.9), Some(0.1))
        );
        assert_eq!((stats.p50_us, stats.p99_us), (Some(9.0), Some(90.0)));
        assert_eq!((stats.bytes_per_second, stats.sent_blocks_per_second), (204_800.0, 5.0));
        assert_eq!(stats.line().trim_end().len(), HEADER.trim_end().len() - "mount".len() + 4);
    }

    #[test]
    fn where_nothing_was_read_there_are_no_shares() {
        let start = Instant::now();
        let stats = Stats::between(&seen(7, 7, start), &seen(7, 7, start));
        assert_eq!((stats.local, stats.p50_us), (None, None));
        let anew = Stats::between(&seen(7, 7, start), &seen(1, 1, start));
        assert_eq!(anew.reads_per_second, 0.0);
    }
}
