//! `rampool status`: what a mount tells about itself, and how it is shown.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table, TableStyle};
use rampool_cli::size::ByteSize;
use rampool_cli::status::{directory, fetch};
use serde::Serialize;
use serde_json::Value;

use crate::args::Format;
use crate::failure::Failure;
use crate::filesystem::Filesystem;
use crate::local::metadata_bytes_per_block;
use crate::metrics::{Layer, LayerReport};
use crate::mounts::holding;
use crate::remote::TierReport;
use crate::tell;

/// Where the daemon of a mount tells about it.
pub(crate) fn socket_path(mountpoint: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    mountpoint.hash(&mut hasher);
    directory(rustix::process::geteuid().as_raw())
        .join(format!("mount-{:016x}.sock", hasher.finish()))
}

/// A mount, as it tells about itself. The keys are what scripts rely on.
#[derive(Serialize)]
struct MountReport<'a> {
    /// JSON is text; of other paths, what can be shown.
    mountpoint: Cow<'a, str>,
    source: Cow<'a, str>,
    pid: u32,
    uptime_seconds: f64,
    cache: CacheReport,
    reads: ReadsReport,
    layers: LayersReport,
    hit_ratio: HitRatio,
    demand: Vec<DemandReport>,
    remote: TierReport,
    /// In seconds since 1970; none without a pool.
    certificate_expires: Option<u64>,
    memory: MemoryReport,
}

#[derive(Serialize)]
struct CacheReport {
    size_bytes: u64,
    arena_bytes: usize,
    blocks: usize,
    capacity_blocks: usize,
    /// Of the blocks.
    pinned_blocks: usize,
    metadata_bytes_per_block: usize,
    known_inodes: usize,
}

#[derive(Serialize)]
struct ReadsReport {
    count: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct LayersReport {
    local: LayerReport,
    remote: LayerReport,
    source: LayerReport,
}

/// Shares of reads, 0 to 1; none before the first. `remote` is of those that `local` missed.
#[derive(Serialize)]
struct HitRatio {
    local: Option<f64>,
    remote: Option<f64>,
    total: Option<f64>,
}

/// The share of the reads in no order that caches of this size, local and lent together, would answer. Estimated
/// from a sample, for a cache from which the least recently used goes.
#[derive(Serialize)]
struct DemandReport {
    cache_bytes: u64,
    hit_ratio: f64,
}

/// Sizes for which it is told: times the local cache.
const DEMAND_TIMES: [f64; 6] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0];

#[derive(Serialize)]
struct MemoryReport {
    resident_bytes: u64,
}

/// What does not change while it is mounted.
pub(crate) struct Facts {
    pub(crate) mountpoint: PathBuf,
    pub(crate) source: PathBuf,
    pub(crate) started: std::time::Instant,
}

/// The document that the daemon serves.
pub(crate) fn document(facts: &Facts, filesystem: &Filesystem) -> String {
    let [local, remote, source] =
        [Layer::Local, Layer::Remote, Layer::Source].map(|layer| filesystem.metrics.report(layer));
    let count = local.reads + remote.reads + source.reads;
    let ratio = |part: u64, of: u64| (of > 0).then(|| part as f64 / of as f64);
    let cache_size = filesystem.memory.size();
    let capacity_blocks = filesystem.cache.capacity_blocks();
    let demand = DEMAND_TIMES.iter().filter_map(|times| {
        let blocks = (capacity_blocks as f64 * times) as u64;
        let cache_bytes = (cache_size.bytes() as f64 * times) as u64;
        Some(DemandReport { cache_bytes, hit_ratio: filesystem.demand.hit_ratio(blocks)? })
    });
    let report = MountReport {
        mountpoint: facts.mountpoint.to_string_lossy(),
        source: facts.source.to_string_lossy(),
        pid: std::process::id(),
        uptime_seconds: facts.started.elapsed().as_secs_f64(),
        cache: CacheReport {
            size_bytes: cache_size.bytes(),
            arena_bytes: capacity_blocks * crate::block::BLOCK_SIZE,
            blocks: filesystem.cache.blocks(),
            capacity_blocks,
            pinned_blocks: filesystem.cache.pinned_blocks(),
            metadata_bytes_per_block: metadata_bytes_per_block(),
            known_inodes: filesystem.inodes.len(),
        },
        reads: ReadsReport { count, bytes: local.bytes + remote.bytes + source.bytes },
        hit_ratio: HitRatio {
            local: ratio(local.reads, count),
            remote: ratio(remote.reads, count - local.reads),
            total: ratio(local.reads + remote.reads, count),
        },
        layers: LayersReport { local, remote, source },
        demand: demand.collect(),
        remote: filesystem.remote.report(),
        certificate_expires: filesystem.remote.certificate_expires(),
        memory: MemoryReport { resident_bytes: resident_bytes() },
    };
    serde_json::to_string(&report).expect("numbers, strings and lists are JSON")
}

/// Shows one mount, or all of this user's.
pub(crate) fn show(mountpoint: Option<&Path>, format: Format) -> Result<(), Failure> {
    let mut reports = reports(mountpoint)?;
    match format {
        Format::Json if mountpoint.is_some() => {
            tell(&format!("{}\n", reports.pop().unwrap_or_default()))?;
        }
        Format::Json => tell(&format!("{}\n", Value::from(reports)))?,
        Format::Table if reports.is_empty() => tell("nothing is mounted\n")?,
        Format::Table => {
            let tables: Vec<String> = reports.iter().map(table).collect();
            tell(&format!("{}\n", tables.join("\n\n")))?;
        }
    }
    Ok(())
}

/// What one mount tells, or all of this user's.
pub(crate) fn reports(mountpoint: Option<&Path>) -> Result<Vec<Value>, Failure> {
    if let Some(path) = mountpoint {
        let found = std::fs::canonicalize(path)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        let found = holding(&found).unwrap_or(found);
        let document = fetch(&socket_path(&found)).map_err(|_| {
            Failure::usage(format!("no rampool of this user is mounted at {}", path.display()))
        })?;
        return Ok(vec![parse(&document)?]);
    }
    let dir = directory(rustix::process::geteuid().as_raw());
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(Vec::new()) };
    let reports: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("mount-"))
        .filter_map(|entry| match fetch(&entry.path()) {
            Ok(document) => Some(document),
            Err(error) => {
                // One that a dead daemon left is in nobody's way, but for the eye's.
                if error.kind() == std::io::ErrorKind::ConnectionRefused {
                    let _ = std::fs::remove_file(entry.path());
                }
                None
            }
        })
        .map(|document| parse(&document))
        .collect();
    // One that speaks otherwise does not hide the others.
    if reports.iter().any(Result::is_ok) {
        let say = |failure: &Failure| rampool_cli::say!("rampool: {failure}");
        return Ok(reports.into_iter().filter_map(|report| report.inspect_err(say).ok()).collect());
    }
    reports.into_iter().collect()
}

fn parse(document: &str) -> Result<Value, Failure> {
    serde_json::from_str(document)
        .map_err(|_| Failure::system("a mount's answer is damaged: it ends, is asked by too many at once, or is of another version"))
}

fn table(report: &Value) -> String {
    let text = |path: &str| report.pointer(path).and_then(Value::as_str).unwrap_or("").to_owned();
    let number = |path: &str| report.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let size = |path: &str| ByteSize(number(path)).to_string();
    let float = |path: &str, digits: usize, unit: &str, scale: f64| match report
        .pointer(path)
        .and_then(Value::as_f64)
    {
        Some(value) => format!("{:.digits$}{unit}", value * scale),
        None => "-".to_owned(),
    };

    let mut layers = Table::new();
    layers.load_style(TableStyle::new());
    layers.set_header(["layer", "reads", "bytes", "hit ratio", "p50 us", "p99 us"]);
    for layer in ["local", "remote", "source"] {
        let of = |what: &str| format!("/layers/{layer}/{what}");
        layers.add_row([
            layer.to_owned(),
            number(&of("reads")).to_string(),
            size(&of("bytes")),
            float(&format!("/hit_ratio/{layer}"), 1, " %", 100.0),
            float(&of("latency_us/p50"), 1, "", 1.0),
            float(&of("latency_us/p99"), 1, "", 1.0),
        ]);
    }
    for column in 1..=5 {
        if let Some(column) = layers.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }

    let mut lines = vec![
        format!("{} (source {}, pid {})", text("/mountpoint"), text("/source"), number("/pid")),
        format!(
            "cache {} of {} blocks ({}), resident {}",
            number("/cache/blocks"),
            number("/cache/capacity_blocks"),
            size("/cache/size_bytes"),
            size("/memory/resident_bytes"),
        ),
        layers.trim_fmt(),
    ];
    lines.extend(demand_line(report));
    let servers = report.pointer("/remote/servers").and_then(Value::as_array);
    if let Some(servers) = servers.filter(|servers| !servers.is_empty()) {
        lines.push(format!(
            "lent {} blocks; sent {}, queued {}, dropped {}, rejected {}; \
             missed {}, timeouts {}, late {}, read twice {}, unauthentic {}",
            number("/remote/lent_blocks"),
            number("/remote/sent_blocks"),
            number("/remote/queued_blocks"),
            number("/remote/dropped_blocks"),
            number("/remote/rejected_blocks"),
            number("/remote/missed_blocks"),
            number("/remote/timeouts"),
            number("/remote/late_answers"),
            number("/remote/hedged_reads"),
            number("/remote/unauthentic_blocks"),
        ));
        for server in servers {
            let of = |key: &str| server.get(key).and_then(Value::as_str).unwrap_or("");
            let lends = server.get("capacity_bytes").and_then(Value::as_u64).unwrap_or(0);
            let why = of("last_error");
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            let answers = server.get("answers_us").and_then(answers);
            let answers = answers.map_or(String::new(), |answers| format!(", answers {answers}"));
            lines.push(format!(
                "server {} {}, lends {}{answers}{why}",
                of("address"),
                of("state"),
                ByteSize(lends)
            ));
        }
        if let Some(answers) = report.pointer("/remote/source_us/short").and_then(answers) {
            lines.push(format!("source answers {answers}"));
        }
    }
    lines.join("\n")
}

/// What it takes to answer a short read.
fn answers(of: &Value) -> Option<String> {
    let time = |key: &str| of.get(key).and_then(Value::as_f64);
    Some(format!("in {:.0} us (p99 {:.0})", time("mean")?, time("p99")?))
}

/// What caches of other sizes would answer.
fn demand_line(report: &Value) -> Option<String> {
    let demand = report.get("demand").and_then(Value::as_array)?;
    let sizes = demand.iter().filter_map(|of| {
        let size = ByteSize(of.get("cache_bytes")?.as_u64()?);
        Some(format!("{size} {:.0} %", of.get("hit_ratio")?.as_f64()? * 100.0))
    });
    let sizes: Vec<String> = sizes.collect();
    let what = "random reads that memory, local and lent together, would answer";
    (!sizes.is_empty()).then(|| format!("{what}: {}", sizes.join(", ")))
}

/// Resident memory of this process (proc(5), statm).
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}
