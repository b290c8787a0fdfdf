//! Keys, and the servers that they lead to.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use quinn::{Connection, Endpoint, RecvStream, TokioRuntime};
use rampool_cli::size::ByteSize;
use rampool_keys::{CLIENT_KEYS, known_server};
use rampool_protocol::certs::{self, Identity, Role, SERVER_NAME, explain};
use rampool_protocol::control::{self, CloseCode, Probed, Standing, ToClient, ToServer, VERSION};
use rampool_protocol::endpoint;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Finding, in_words, percentile};
use crate::remote::Given;

/// How often each server is asked, one after the other.
const PROBES: usize = 50;

/// A server that has not answered all of them within this time does not answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Clocks that differ by more are worth a word; by more than the other, certificates may seem to be expired.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(2);
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(3600);

/// Smaller packets than these cost CPU time.
const PACKET_MIN: u16 = 1_350;

/// What a server has answered.
struct Seen {
    /// What each answer took, in order.
    times: Vec<Duration>,
    /// How far its clock is ahead of ours, in milliseconds.
    ahead_ms: i128,
    /// The longest packet that gets there.
    packet: u16,
    last: Probed,
}

/// Looks at the keys in `dir` and at the servers, and says what the fastest usually takes to answer.
pub(super) fn look(given: &[String], dir: Option<&Path>) -> (Vec<Finding>, Option<Duration>) {
    let usual = Path::new(CLIENT_KEYS);
    let is_asked_for = dir.is_some() || !given.is_empty();
    let dir = dir.unwrap_or(usual);
    let known = known_server(dir).ok().flatten();
    if !is_asked_for && !dir.exists() {
        let found = "this machine belongs to no pool: mounts use its own memory alone";
        return (vec![Finding::good("pool", found)], None);
    }
    let (finding, identity) = keys(dir, known.as_deref());
    let mut findings = vec![finding];
    let Some(identity) = identity else { return (findings, None) };
    let names: Vec<&str> = match given.is_empty() {
        false => given.iter().map(String::as_str).collect(),
        true => known.as_deref().into_iter().collect(),
    };
    if names.is_empty() {
        let advice = "give a --server, or join with 'rampool join TOKEN'";
        findings.push(Finding::warning("servers", "none are known", advice));
    }
    let mut addresses = BTreeSet::new();
    for name in names {
        match Given::look_up(name) {
            Ok(found) => addresses.extend(found.addresses().iter().copied()),
            Err(why) => {
                let advice = "check the name, and /etc/resolv.conf";
                findings.push(Finding::bad(format!("server {name}"), why, advice));
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let seen = match runtime {
        Ok(runtime) => runtime.block_on(probe_all(addresses, &identity)),
        Err(error) => {
            findings.push(Finding::bad("servers", error.to_string(), "free some memory"));
            Vec::new()
        }
    };
    let usual = |seen: &Seen| percentile(&seen.times, 50);
    let fastest = seen.iter().filter_map(|(_, seen)| seen.as_ref().ok().map(usual)).min();
    findings.extend(seen.into_iter().map(|(address, seen)| server(address, seen)));
    (findings, fastest)
}

fn keys(dir: &Path, known: Option<&str>) -> (Finding, Option<Identity>) {
    const WHAT: &str = "keys";
    let identity = match Identity::load(dir, Role::Client) {
        Ok(identity) => identity,
        Err(error) => {
            let text = error.to_string();
            let (found, advice) =
                text.split_once("; ").unwrap_or((&text, "see 'rampool keys show'"));
            return (Finding::bad(WHAT, found, advice), None);
        }
    };
    let facts = identity.facts();
    let until = certs::in_words(facts.times.1);
    let found = format!("{}, of {}, until {until}", facts.name, facts.issuer);
    let left = facts.times.1.duration_since(SystemTime::now()).unwrap_or_default();
    let whole = facts.times.1.duration_since(facts.times.0).unwrap_or_default();
    let finding = if left >= whole / 3 {
        Finding::good(WHAT, found)
    } else if known.is_some() {
        let advice = "a mount that runs renews them; if it does not, its log says why";
        Finding::warning(WHAT, found, advice)
    } else {
        let advice = "issue new ones with 'rampool keys issue': nobody renews these";
        Finding::warning(WHAT, found, advice)
    };
    (finding, Some(identity))
}

/// Asks all servers at once, then those that they tell of.
async fn probe_all(
    addresses: BTreeSet<SocketAddr>,
    identity: &Identity,
) -> Vec<(SocketAddr, anyhow::Result<Seen>)> {
    let mut asked = BTreeSet::new();
    let mut next = addresses;
    let mut all = Vec::new();
    while !next.is_empty() {
        let mut probes = JoinSet::new();
        for &address in &next {
            let config = identity.client_config();
            probes.spawn(async move {
                let probed = timeout(ANSWERS_WITHIN, probe(address, config)).await;
                let late = || {
                    anyhow!(
                        "it does not answer; is rampool-server running there, and can UDP reach it?"
                    )
                };
                (address, probed.unwrap_or_else(|_| Err(late())))
            });
        }
        asked.append(&mut next);
        while let Some(probed) = probes.join_next().await {
            let Ok((address, seen)) = probed else { continue };
            if let Ok(seen) = &seen {
                let members = seen.last.members.iter();
                let there = members.filter(|member| member.standing != Standing::Gone);
                next.extend(there.map(|member| member.address).filter(|new| !asked.contains(new)));
            }
            all.push((address, seen));
        }
    }
    all.sort_by_key(|&(address, _)| address);
    all
}

async fn probe(address: SocketAddr, config: quinn::ClientConfig) -> anyhow::Result<Seen> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = endpoint::bind(any).context("no socket")?.socket;
    let endpoint =
        Endpoint::new(endpoint::endpoint_config(), None, socket, Arc::new(TokioRuntime))?;
    let connecting = endpoint.connect_with(config, address, SERVER_NAME)?;
    let explained = |error| anyhow!("{}", explain(&error, Role::Server));
    let connection = connecting.await.map_err(explained)?;
    let seen = converse(&connection).await;
    let closed = connection.close_reason();
    connection.close(CloseCode::Done.into(), b"");
    endpoint.wait_idle().await;
    seen.map_err(|error| closed.map_or(error, explained))
}

async fn converse(connection: &Connection) -> anyhow::Result<Seen> {
    let (mut ask, mut told) = connection.open_bi().await?;
    let mut times = Vec::with_capacity(PROBES);
    let (mut last, mut ahead_ms) = (None, 0);
    for _ in 0..PROBES {
        let (began, at) = (Instant::now(), now_ms());
        ask.write_all(&control::encode(&ToServer::Probe { version: VERSION })).await?;
        let ToClient::Probed(probed) = read(&mut told).await? else {
            bail!("it answered with something else");
        };
        times.push(began.elapsed());
        // The answer was written about half way.
        ahead_ms = i128::from(probed.unix_ms) - i128::midpoint(at, now_ms());
        last = Some(probed);
    }
    times.sort_unstable();
    let packet = connection.stats().path.current_mtu;
    Ok(Seen { times, ahead_ms, packet, last: last.context("it was not asked")? })
}

async fn read(told: &mut RecvStream) -> anyhow::Result<ToClient> {
    let mut length = [0; 4];
    told.read_exact(&mut length).await?;
    let mut body = vec![0; control::parse_length(length)?];
    told.read_exact(&mut body).await?;
    Ok(control::decode(&body)?)
}

fn server(address: SocketAddr, seen: anyhow::Result<Seen>) -> Finding {
    let what = format!("server {address}");
    let Seen { times, ahead_ms, packet, last } = match seen {
        Ok(seen) => seen,
        Err(error) => {
            let text = format!("{error:#}");
            let (found, advice) = text.split_once("; ").unwrap_or((&text, "see its log"));
            return Finding::bad(what, found, advice);
        }
    };
    let (usual, late) = (percentile(&times, 50), percentile(&times, 99));
    let lends = match last.lending.pausing {
        true => "lends nothing now".to_owned(),
        false => format!("lends {}", ByteSize(last.lending.capacity_bytes)),
    };
    let found = format!(
        "answers in {}, at most {}; {lends}; packets of {packet} bytes",
        in_words(usual),
        in_words(late)
    );
    let apart = Duration::from_millis(u64::try_from(ahead_ms.unsigned_abs()).unwrap_or(u64::MAX));
    if apart > CLOCK_DIFFERENCE {
        let ahead = if ahead_ms > 0 { "ahead of" } else { "behind" };
        let found = format!("{found}; its clock is {} s {ahead} ours", apart.as_secs());
        let advice = "set both by the network (NTP): certificates need the right time";
        return match apart > CLOCK_DIFFERENCE_MAX {
            true => Finding::bad(what, found, advice),
            false => Finding::warning(what, found, advice),
        };
    }
    if packet < PACKET_MIN {
        let advice =
            "a tunnel on the way takes its part of each packet: a larger MTU costs less CPU time";
        return Finding::warning(what, found, advice);
    }
    if last.lending.pausing {
        let advice = "its machine needs its memory now; 'rampool-server status' there says why";
        return Finding::warning(what, found, advice);
    }
    Finding::good(what, found)
}

fn now_ms() -> i128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(now.as_millis()).unwrap_or(i128::MAX)
}
