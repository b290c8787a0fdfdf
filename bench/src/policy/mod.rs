//! Eviction policies on recorded traces, beside the best that could be done.

mod replay;
mod trace;

use std::num::NonZero;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Result, bail};
use comfy_table::Cell;
use rampool_policy::Kind;
use serde::Serialize;

use self::trace::Trace;
use crate::cli::{Format, Policy};
use crate::progress::Progress;
use crate::stop::Stop;
use crate::table::{grouped, percent, table};

/// Blocks, or a part of those that a trace uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Size {
    Blocks(NonZero<usize>),
    Part(f64),
}

/// One trace at one size.
#[derive(Debug, Serialize)]
struct Row {
    trace: String,
    uses: usize,
    distinct: usize,
    blocks: usize,
    /// Parts of the uses that were hits, by policy.
    ratios: Vec<(Kind, f64)>,
    /// That of the textbook's least recently used.
    exact_lru: f64,
    /// The most that any policy could have.
    optimum: f64,
    /// With lent memory of `remote_blocks`: hits here and there, by policy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tiers: Vec<(Kind, f64, f64)>,
    remote_blocks: usize,
}

/// What a policy lacks to the optimum, on average.
#[derive(Debug, Serialize)]
struct Score {
    policy: Kind,
    mean_ratio: f64,
    mean_lack: f64,
    /// Rows in which no other policy has more.
    wins: usize,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
    scores: Vec<Score>,
}

/// Replays and prints.
pub(crate) fn run(options: &Policy, stop: &Stop) -> Result<ExitCode> {
    let steps = options.traces.len() * options.sizes.len() * (Kind::ALL.len() + 1);
    let progress = Progress::new(steps as u64);
    let block_bytes = options.block_size.bytes();
    if block_bytes < 512 {
        bail!("--block-size {}: a sector, 512 bytes, is the least", options.block_size);
    }
    let mut rows = Vec::new();
    for path in &options.traces {
        let trace = Trace::read(path, block_bytes)?;
        for size in &options.sizes {
            rows.push(replay(&trace, *size, options.remote, &progress, stop)?);
        }
    }
    drop(progress);
    let report = Report { scores: scores(&rows), rows };
    match options.format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Table => report.print(),
    }
    Ok(ExitCode::SUCCESS)
}

fn replay(
    trace: &Trace,
    size: Size,
    remote: Option<Size>,
    progress: &Progress,
    stop: &Stop,
) -> Result<Row> {
    let blocks = size.of(trace.distinct);
    let uses = trace.uses.len();
    let ratio = |hits: u64| hits as f64 / uses as f64;
    let mut ratios = Vec::new();
    let mut tiers = Vec::new();
    let remote_blocks = remote.map_or(0, |remote| remote.of(trace.distinct).get());
    for kind in Kind::ALL {
        stop.check()?;
        progress.say(format!("{}, {} blocks: {kind}", trace.name, grouped(blocks.get() as u64)));
        ratios.push((kind, ratio(replay::hits(trace, kind, blocks.get()))));
        if remote_blocks > 0 {
            let (local, remote) = replay::tiers(trace, kind, blocks.get(), remote_blocks);
            tiers.push((kind, ratio(local), ratio(remote)));
        }
        progress.step();
    }
    let exact_lru = ratio(replay::lru_hits(trace, blocks));
    let optimum = ratio(replay::most_hits(trace, blocks.get()));
    progress.step();
    Ok(Row {
        trace: trace.name.clone(),
        uses,
        distinct: trace.distinct,
        blocks: blocks.get(),
        ratios,
        exact_lru,
        optimum,
        tiers,
        remote_blocks,
    })
}

fn scores(rows: &[Row]) -> Vec<Score> {
    let count = rows.len().max(1) as f64;
    let mut scores: Vec<Score> = Vec::new();
    for (n, kind) in Kind::ALL.into_iter().enumerate() {
        let of = |row: &Row| row.ratios[n].1;
        let best = |row: &Row| row.ratios.iter().map(|(_, ratio)| *ratio).fold(0.0, f64::max);
        scores.push(Score {
            policy: kind,
            mean_ratio: rows.iter().map(of).sum::<f64>() / count,
            mean_lack: rows.iter().map(|row| row.optimum - of(row)).sum::<f64>() / count,
            wins: rows.iter().filter(|row| of(row) >= best(row)).count(),
        });
    }
    scores.sort_by(|a, b| a.mean_lack.total_cmp(&b.mean_lack));
    scores
}

impl Report {
    fn print(&self) {
        let names = Kind::ALL.map(|kind| kind.to_string());
        let mut header = vec!["trace", "uses", "blocks", "cache"];
        header.extend(names.iter().map(String::as_str));
        let mut tiers_header = header.clone();
        header.extend(["exact lru", "optimum"]);
        tiers_header.push("lent");
        let (mut hits, mut both) = (table(&header, 1), table(&tiers_header, 1));
        for row in &self.rows {
            let count = |number: usize| grouped(number as u64);
            let begin =
                [row.trace.clone(), count(row.uses), count(row.distinct), count(row.blocks)];
            let ratios = row.ratios.iter().map(|(_, ratio)| percent(*ratio));
            let yardsticks = [percent(row.exact_lru), percent(row.optimum)];
            hits.add_row(begin.iter().cloned().chain(ratios).chain(yardsticks).map(Cell::new));
            if !row.tiers.is_empty() {
                let tiers = row.tiers.iter();
                let tiers = tiers.map(|(_, local, remote)| {
                    format!("{} + {}", percent(*local), percent(*remote))
                });
                both.add_row(
                    begin
                        .iter()
                        .cloned()
                        .chain(tiers)
                        .chain([count(row.remote_blocks)])
                        .map(Cell::new),
                );
            }
        }
        println!("Hit ratios:\n\n{hits}\n");
        if self.rows.iter().any(|row| !row.tiers.is_empty()) {
            println!("Hit ratios of the local cache + of what is lent:\n\n{both}\n");
        }
        let mut scores =
            table(&["policy", "mean hit ratio", "below the optimum", "best of all in"], 1);
        for score in &self.scores {
            scores.add_row([
                score.policy.to_string(),
                percent(score.mean_ratio),
                percent(score.mean_lack),
                format!("{} of {}", score.wins, self.rows.len()),
            ]);
        }
        println!("{scores}");
    }
}

impl Size {
    fn of(self, distinct: usize) -> NonZero<usize> {
        match self {
            Self::Blocks(blocks) => blocks,
            Self::Part(part) => {
                NonZero::new((distinct as f64 * part) as usize).unwrap_or(NonZero::<usize>::MIN)
            }
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("'{text}' is neither a number of blocks nor a part such as 5%");
        match text.strip_suffix('%') {
            Some(part) => match part.parse::<f64>() {
                Ok(part) if part > 0.0 && part <= 100.0 => Ok(Self::Part(part / 100.0)),
                _ => Err(refuse()),
            },
            None => match text.parse() {
                Ok(blocks) => Ok(Self::Blocks(blocks)),
                Err(_) => Err(refuse()),
            },
        }
    }
}
