//! What the server tells about itself, and how `rampool-server status` shows it.
//!
//! The document's keys are an interface: dashboards and tests read them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use comfy_table::{Cell, Table, presets};
use rampool_protocol::block::BLOCK_SIZE;
use rampool_protocol::size::ByteSize;
use rampool_protocol::status;
use serde::{Deserialize, Serialize};

use crate::accept::{Client, Clients};
use crate::counts::Quantiles;
use crate::lend::{Limit, sense};
use crate::serve::Service;

/// Where the facts come from.
#[derive(Debug)]
pub(crate) struct Reporter {
    pub(crate) listen: SocketAddr,
    pub(crate) since: Instant,
    pub(crate) limit: Limit,
    pub(crate) service: Arc<Service>,
    pub(crate) clients: Arc<Clients>,
}

/// The document.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    listen: String,
    pid: u32,
    uptime_seconds: u64,
    lend_bytes: u64,
    held_bytes: u64,
    segments: SegmentCounts,
    blocks: u64,
    index_bytes: u64,
    /// When every slot is in use.
    index_bytes_per_block: f64,
    huge_pages: bool,
    lazily_freeable: bool,
    resident_bytes: u64,
    clients: Vec<ClientFacts>,
    gets: Gets,
    puts: Puts,
    evicted_blocks: u64,
    second_chances: u64,
    latency_us: Latencies,
}

#[derive(Debug, Serialize, Deserialize)]
struct SegmentCounts {
    total: u64,
    free: u64,
    full: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct ClientFacts {
    name: String,
    address: String,
    mount: String,
    connected_seconds: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Gets {
    requests: u64,
    blocks: u64,
    hits: u64,
    vanished: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Puts {
    requests: u64,
    blocks: u64,
    stored: u64,
    rejected: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Latencies {
    get: LatencyFacts,
    put: LatencyFacts,
}

#[derive(Debug, Serialize, Deserialize)]
struct LatencyFacts {
    p50: f64,
    p99: f64,
}

/// Where a server that listens on `port` has its socket, unless told otherwise.
pub(crate) fn default_socket(port: u16) -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    status::directory(uid).join(format!("server-{port}.sock"))
}

impl Reporter {
    /// The document, as it is now.
    pub(crate) fn document(&self) -> String {
        serde_json::to_string(&self.report()).expect("numbers and names are always JSON")
    }

    fn report(&self) -> Report {
        let state = self.service.state();
        let facts = state.store.facts();
        let counts = &state.counts;
        let gets = Gets {
            requests: counts.get_requests,
            blocks: counts.get_blocks,
            hits: counts.get_hits,
            vanished: facts.vanished,
        };
        let puts = Puts {
            requests: counts.put_requests,
            blocks: counts.put_stored + counts.put_rejected,
            stored: counts.put_stored,
            rejected: counts.put_rejected,
        };
        let latency_us =
            Latencies { get: counts.get_latency().into(), put: counts.put_latency().into() };
        // What follows reads /proc, which takes its time.
        drop(state);
        Report {
            listen: self.listen.to_string(),
            pid: std::process::id(),
            uptime_seconds: self.since.elapsed().as_secs(),
            lend_bytes: self.limit.size().bytes(),
            held_bytes: (facts.blocks * BLOCK_SIZE) as u64,
            segments: SegmentCounts {
                total: facts.segments_total as u64,
                free: (facts.segments_allowed.saturating_sub(facts.segments_in_use)) as u64,
                full: facts.segments_full as u64,
            },
            blocks: facts.blocks as u64,
            index_bytes: facts.index_bytes as u64,
            index_bytes_per_block: rounded(facts.index_bytes as f64 / facts.blocks_max as f64),
            huge_pages: facts.huge_pages,
            lazily_freeable: facts.lazily_freeable,
            resident_bytes: sense::resident(facts.extent).map_or(0, ByteSize::bytes),
            clients: self.clients.list().iter().map(|client| (&**client).into()).collect(),
            gets,
            puts,
            evicted_blocks: facts.evicted,
            second_chances: facts.second_chances,
            latency_us,
        }
    }
}

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let size = |bytes| ByteSize(bytes).to_string();
        let yes = |yes| if yes { "yes" } else { "no: the kernel refuses" }.to_owned();
        let quantiles = |l: &LatencyFacts| format!("p50 {} us, p99 {} us", l.p50, l.p99);
        let rows = [
            ("listens on", self.listen.clone()),
            ("process", format!("{}, up {} s", self.pid, self.uptime_seconds)),
            ("lends", size(self.lend_bytes)),
            ("holds", format!("{} in {} blocks", size(self.held_bytes), self.blocks)),
            ("resident", size(self.resident_bytes)),
            (
                "segments",
                format!(
                    "{} full, {} free, {} in all",
                    self.segments.full, self.segments.free, self.segments.total
                ),
            ),
            (
                "index",
                format!("{}, {} B a block", size(self.index_bytes), self.index_bytes_per_block),
            ),
            ("huge pages", yes(self.huge_pages)),
            ("kernel may take it", yes(self.lazily_freeable)),
            (
                "gets",
                format!(
                    "{} for {} blocks: {} here, {} vanished",
                    self.gets.requests, self.gets.blocks, self.gets.hits, self.gets.vanished
                ),
            ),
            (
                "puts",
                format!(
                    "{} of {} blocks: {} stored, {} rejected",
                    self.puts.requests, self.puts.blocks, self.puts.stored, self.puts.rejected
                ),
            ),
            (
                "evicted",
                format!(
                    "{} blocks; {} had a second chance",
                    self.evicted_blocks, self.second_chances
                ),
            ),
            ("get latency", quantiles(&self.latency_us.get)),
            ("put latency", quantiles(&self.latency_us.put)),
            ("clients", self.clients.len().to_string()),
        ];
        let mut facts = Table::new();
        facts.load_style(presets::NOTHING);
        for (what, value) in rows {
            facts.add_row([Cell::new(what), Cell::new(value)]);
        }
        let mut text = facts.trim_fmt();
        if !self.clients.is_empty() {
            let mut clients = Table::new();
            clients.load_style(presets::NOTHING).set_header(["client", "address", "mount", "for"]);
            for client in &self.clients {
                clients.add_row([
                    client.name.clone(),
                    client.address.clone(),
                    client.mount.clone(),
                    format!("{} s", client.connected_seconds),
                ]);
            }
            text.push_str("\n\n");
            text.push_str(&clients.trim_fmt());
        }
        text
    }
}

impl From<&Client> for ClientFacts {
    fn from(client: &Client) -> Self {
        let mut mount = String::with_capacity(32);
        for byte in client.mount.0 {
            write!(mount, "{byte:02x}").expect("a String takes all");
        }
        Self {
            name: client.name.clone(),
            address: client.address.to_string(),
            mount,
            connected_seconds: client.since.elapsed().as_secs(),
        }
    }
}

impl From<Quantiles> for LatencyFacts {
    fn from(quantiles: Quantiles) -> Self {
        Self { p50: rounded(quantiles.p50), p99: rounded(quantiles.p99) }
    }
}

/// To two digits behind the point.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
