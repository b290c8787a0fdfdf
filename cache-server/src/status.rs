//! What the server tells about itself, and how `rampool-server status` shows it.
//!
//! The document's keys are an interface: dashboards and tests read them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use comfy_table::{Cell, Table, presets};
use rampool_cli::size::ByteSize;
use rampool_cli::status;
use rampool_protocol::block::BLOCK_SIZE;
use rampool_protocol::certs::Credentials;
use rampool_protocol::control::{Member, Standing};
use rampool_protocol::endpoint::PORT_DEFAULT;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::accept::{Client, Clients};
use crate::counts::Quantiles;
use crate::gossip::Gossip;
use crate::lend::{Event, Lender, Limit, sense};
use crate::serve::Service;

/// Where the unit of deploy/systemd has its socket.
const SERVICE_DIRECTORY: &str = "/run/rampool-server";

/// Where the facts come from.
#[derive(Debug)]
pub(crate) struct Reporter {
    pub(crate) listen: SocketAddr,
    pub(crate) since: Instant,
    pub(crate) limit: Limit,
    pub(crate) lender: Arc<Lender>,
    pub(crate) service: Arc<Service>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) gossip: Gossip,
    pub(crate) credentials: watch::Receiver<Credentials>,
}

/// The document.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    listen: String,
    /// Where others find it.
    #[serde(default)]
    advertise: String,
    pid: u32,
    uptime_seconds: u64,
    /// At most.
    lend_bytes: u64,
    #[serde(default)]
    lending: LendingFacts,
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
    /// The other servers of the pool, as far as this one knows.
    #[serde(default)]
    members: Vec<MemberFacts>,
    gets: Gets,
    puts: Puts,
    evicted_blocks: u64,
    #[serde(default)]
    given_back_blocks: u64,
    second_chances: u64,
    latency_us: Latencies,
    /// In seconds since 1970.
    #[serde(default)]
    certificate_expires: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct LendingFacts {
    /// `auto` or `fixed`.
    mode: String,
    /// `lending`, `pausing` or `draining`.
    state: String,
    /// What may be lent right now.
    allowed_bytes: u64,
    /// What clients are told that it may grow to.
    capacity_bytes: u64,
    /// The machine, and each limited memory cgroup around the server.
    domains: Vec<DomainFacts>,
    /// Whether the kernel has each of the signals that are watched.
    signals: BTreeMap<String, bool>,
    /// The last decisions, oldest first.
    events: Vec<EventFacts>,
}

#[derive(Debug, Serialize, Deserialize)]
struct DomainFacts {
    name: String,
    limit_bytes: u64,
    free_bytes: u64,
    keep_free_bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct EventFacts {
    /// Seconds since 1970, when it began and when it was done for the last time.
    time: f64,
    until: f64,
    what: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct SegmentCounts {
    total: u64,
    free: u64,
    full: u64,
    /// Full ones that the kernel may take.
    #[serde(default)]
    handed_over: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct ClientFacts {
    name: String,
    address: String,
    mount: String,
    connected_seconds: u64,
    /// Memory of its mount's blocks.
    #[serde(default)]
    held_bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct MemberFacts {
    address: String,
    /// `alive`, `suspected` or `gone`.
    state: String,
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

/// Where a server that listens on `port` has its socket, unless told otherwise: in the directory that a service manager has
/// made for it, or else this user's.
pub(crate) fn default_socket(port: u16) -> PathBuf {
    let made = std::env::var_os("RUNTIME_DIRECTORY").filter(|dir| !dir.is_empty());
    let uid = rustix::process::geteuid().as_raw();
    made.map_or_else(|| status::directory(uid), PathBuf::from).join(socket_name(port))
}

/// Where to look for it: this user's, or that of the service if only that is there. What a dead server has left does
/// not count.
pub(crate) fn find_socket(port: u16) -> PathBuf {
    let own = default_socket(port);
    let of_service = Path::new(SERVICE_DIRECTORY).join(socket_name(port));
    let is_served = UnixStream::connect(&own).is_ok();
    if !is_served && of_service.exists() { of_service } else { own }
}

/// The socket of the server that runs here: of the one at the usual port, or else of any.
pub(crate) fn find_any_socket() -> PathBuf {
    let usual = find_socket(PORT_DEFAULT);
    if UnixStream::connect(&usual).is_ok() {
        return usual;
    }
    let own = default_socket(PORT_DEFAULT);
    let places = [own.parent(), Some(Path::new(SERVICE_DIRECTORY))];
    let sockets = places.into_iter().flatten().filter_map(|place| std::fs::read_dir(place).ok());
    let is_server = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("server-") && UnixStream::connect(path).is_ok()
    };
    sockets.flatten().flatten().map(|entry| entry.path()).find(is_server).unwrap_or(usual)
}

fn socket_name(port: u16) -> String {
    format!("server-{port}.sock")
}

impl Report {
    /// Where others find the server.
    pub(crate) fn advertised(&self) -> &str {
        &self.advertise
    }
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
        let clients = self.clients.list();
        let clients = clients
            .iter()
            .map(|client| client_facts(client, state.store.held(client.mount) as u64))
            .collect();
        let latency_us =
            Latencies { get: counts.get_latency().into(), put: counts.put_latency().into() };
        // What follows reads /proc, which takes its time.
        drop(state);
        let expires = self.credentials.borrow().expires;
        Report {
            listen: self.listen.to_string(),
            advertise: self.gossip.own().to_string(),
            pid: std::process::id(),
            uptime_seconds: self.since.elapsed().as_secs(),
            lend_bytes: self.limit.size().bytes(),
            lending: self.lending(),
            held_bytes: (facts.blocks * BLOCK_SIZE) as u64,
            segments: SegmentCounts {
                total: facts.segments_total as u64,
                free: (facts.segments_allowed.saturating_sub(facts.segments_in_use)) as u64,
                full: facts.segments_full as u64,
                handed_over: facts.segments_handed_over as u64,
            },
            blocks: facts.blocks as u64,
            index_bytes: facts.index_bytes as u64,
            index_bytes_per_block: rounded(facts.index_bytes as f64 / facts.blocks_max as f64),
            huge_pages: facts.huge_pages,
            lazily_freeable: facts.lazily_freeable,
            resident_bytes: sense::resident(facts.extent).map_or(0, ByteSize::bytes),
            clients,
            members: self.gossip.members().borrow().iter().map(member_facts).collect(),
            gets,
            puts,
            evicted_blocks: facts.evicted,
            given_back_blocks: facts.given_back,
            second_chances: facts.second_chances,
            latency_us,
            certificate_expires: expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        }
    }
}

impl Reporter {
    fn lending(&self) -> LendingFacts {
        let facts = self.lender.facts();
        let state = match (facts.draining, facts.pausing) {
            (true, _) => "draining",
            (_, true) => "pausing",
            _ => "lending",
        };
        let domains = facts.domains.into_iter().map(|domain| DomainFacts {
            name: domain.name,
            limit_bytes: domain.limit,
            free_bytes: domain.free,
            keep_free_bytes: domain.reserve,
        });
        let signals = facts.signals.into_iter().map(|(name, there)| (name.to_owned(), there));
        LendingFacts {
            mode: if facts.auto { "auto" } else { "fixed" }.to_owned(),
            state: state.to_owned(),
            allowed_bytes: facts.allowed,
            capacity_bytes: facts.capacity,
            domains: domains.collect(),
            signals: signals.collect(),
            events: facts.events.iter().map(Into::into).collect(),
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
            ("lends", self.lending.line(self.lend_bytes)),
            ("holds", format!("{} in {} blocks", size(self.held_bytes), self.blocks)),
            ("resident", size(self.resident_bytes)),
            (
                "segments",
                format!(
                    "{} full, {} of them for the kernel to take, {} free, {} in all",
                    self.segments.full,
                    self.segments.handed_over,
                    self.segments.free,
                    self.segments.total
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
                    "{} blocks; {} had a second chance, {} were given back",
                    self.evicted_blocks, self.second_chances, self.given_back_blocks
                ),
            ),
            ("get latency", quantiles(&self.latency_us.get)),
            ("put latency", quantiles(&self.latency_us.put)),
            ("clients", self.clients.len().to_string()),
            ("other servers", self.members_line()),
        ];
        let mut facts = Table::new();
        facts.load_style(presets::NOTHING);
        for (what, value) in rows {
            facts.add_row([Cell::new(what), Cell::new(value)]);
        }
        let mut text = facts.trim_fmt();
        if !self.clients.is_empty() {
            let mut clients = Table::new();
            clients
                .load_style(presets::NOTHING)
                .set_header(["client", "address", "mount", "for", "holds"]);
            for client in &self.clients {
                clients.add_row([
                    client.name.clone(),
                    client.address.clone(),
                    client.mount.clone(),
                    format!("{} s", client.connected_seconds),
                    size(client.held_bytes),
                ]);
            }
            text.push_str("\n\n");
            text.push_str(&clients.trim_fmt());
        }
        self.lending.more(&mut text);
        text
    }

    fn members_line(&self) -> String {
        let of = |state: &str| {
            let there = self.members.iter().filter(|member| member.state == state);
            let there: Vec<&str> = there.map(|member| &*member.address).collect();
            (!there.is_empty()).then(|| format!("{} {state} ({})", there.len(), there.join(", ")))
        };
        let said: Vec<String> = ["alive", "suspected", "gone"].into_iter().filter_map(of).collect();
        if said.is_empty() { "none".to_owned() } else { said.join(", ") }
    }
}

impl LendingFacts {
    /// How much, and how it goes.
    fn line(&self, most: u64) -> String {
        let size = |bytes| ByteSize(bytes).to_string();
        match self.mode.as_str() {
            "fixed" if self.state == "lending" => size(most),
            "fixed" => format!("{}, {}", size(most), self.state),
            _ => format!(
                "{} now, up to {} of what is idle ({})",
                size(self.allowed_bytes),
                size(most),
                self.state
            ),
        }
    }

    /// The domains and the last decisions, below the rest.
    fn more(&self, text: &mut String) {
        let size = |bytes| ByteSize(bytes).to_string();
        if !self.domains.is_empty() {
            let mut domains = Table::new();
            domains.load_style(presets::NOTHING).set_header([
                "memory of",
                "has",
                "free",
                "keeps free",
            ]);
            for domain in &self.domains {
                domains.add_row([
                    domain.name.clone(),
                    size(domain.limit_bytes),
                    size(domain.free_bytes),
                    size(domain.keep_free_bytes),
                ]);
            }
            text.push_str("\n\n");
            text.push_str(&domains.trim_fmt());
        }
        let lacking: Vec<_> =
            self.signals.iter().filter(|(_, there)| !**there).map(|(name, _)| &**name).collect();
        if !lacking.is_empty() {
            let _ = write!(text, "\nThis kernel does not tell of: {}.", lacking.join(", "));
        }
        if !self.events.is_empty() {
            text.push_str("\n\nLast decisions:");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        for event in &self.events {
            let ago = (now - event.time).max(0.0);
            let _ = write!(text, "\n  {ago:>6.0} s ago  {}", event.what);
            let lasted = event.until - event.time;
            if lasted >= 1.0 {
                let _ = write!(text, ", over {lasted:.0} s");
            }
        }
    }
}

fn member_facts(member: &Member) -> MemberFacts {
    let state = match member.standing {
        Standing::Alive => "alive",
        Standing::Suspected => "suspected",
        Standing::Gone => "gone",
    };
    MemberFacts { address: member.address.to_string(), state: state.to_owned() }
}

fn client_facts(client: &Client, held_bytes: u64) -> ClientFacts {
    let mut mount = String::with_capacity(32);
    for byte in client.mount.0 {
        write!(mount, "{byte:02x}").expect("a String takes all");
    }
    ClientFacts {
        name: client.name.to_string(),
        address: client.address.to_string(),
        mount,
        connected_seconds: client.since.elapsed().as_secs(),
        held_bytes,
    }
}

impl From<&Event> for EventFacts {
    fn from(event: &Event) -> Self {
        let since_1970 =
            |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Self {
            time: rounded(since_1970(event.at)),
            until: rounded(since_1970(event.until)),
            what: event.action.to_string(),
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
