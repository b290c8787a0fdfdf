//! The least that a remote hit can cost: a bare exchange over QUIC, with rampool's own endpoint
//! settings and certificates, one request outstanding on one long-lived stream.
//!
//! The client says first how long requests and answers are (two u32, little-endian); then each
//! request is answered at once. The server runs in a process of its own, on a current-thread
//! runtime, as rampool's endpoints do, and ends with its process.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use quinn::{Endpoint, TokioRuntime};
use rampool_protocol::block::{BLOCK_SIZE, RemoteKey, SealedBlock};
use rampool_protocol::certs::{Admission, Identity, Role, SERVER_NAME};
use rampool_protocol::endpoint;
use rampool_protocol::frame::{HEADER_SIZE, RUN_BLOCKS_MAX};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::daemon::Daemon;
use crate::latency::Latencies;
use crate::placement::{Cpus, Placement};
use crate::stop::Stop;

/// How long request and answer are.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    request_bytes: usize,
    answer_bytes: usize,
}

impl Shape {
    /// A block each way.
    pub(crate) const ECHO: Self = Self { request_bytes: BLOCK_SIZE, answer_bytes: BLOCK_SIZE };
    /// What a GET of one block is on the wire: a header and a key up, a header, a presence byte
    /// and a sealed block down.
    pub(crate) const GET: Self = Self {
        request_bytes: HEADER_SIZE + size_of::<RemoteKey>(),
        answer_bytes: HEADER_SIZE + 1 + size_of::<SealedBlock>(),
    };
    /// Blocks in a long GET.
    pub(crate) const LONG_BLOCKS: usize = RUN_BLOCKS_MAX;
    /// What the longest GET is on the wire.
    pub(crate) const LONG_GET: Self = Self {
        request_bytes: HEADER_SIZE + Self::LONG_BLOCKS * size_of::<RemoteKey>(),
        answer_bytes: HEADER_SIZE + Self::LONG_BLOCKS * (1 + size_of::<SealedBlock>()),
    };
}

/// Exchanges of which several were outstanding.
pub(crate) struct Exchanged {
    pub(crate) exchanges: u64,
    pub(crate) elapsed: Duration,
    /// What the client's thread has spent.
    pub(crate) cpu: Duration,
    latencies: Latencies,
}

impl Exchanged {
    pub(crate) fn per_second(&self) -> f64 {
        self.exchanges as f64 / self.elapsed.as_secs_f64()
    }
}

const LENGTH_MAX: usize = 2 << 20;
/// Before it, discovery of the path's MTU is still under way.
const WARM_UP: Duration = Duration::from_millis(700);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Answers until the process is ended. Says on standard error where it listens.
pub(crate) fn serve(keys: &Path) -> Result<()> {
    runtime()?.block_on(async {
        let identity = Identity::load(keys, Role::Server)?;
        let server = local_endpoint(Some(identity.server_config(Admission::Members)))?;
        eprintln!("listening on {}", server.local_addr()?);
        while let Some(incoming) = server.accept().await {
            tokio::spawn(async move {
                // A client that leaves is the usual end.
                let _ = answer(incoming).await;
            });
        }
        Ok(())
    })
}

/// A client with a server of its own, ready to be measured again and again.
///
/// The client's runtime runs on a thread of its own all the time: a connection that nobody drives
/// sends no keep-alive and is given up by the server.
pub(crate) struct Echo {
    orders: mpsc::Sender<Order>,
    server: Daemon,
}

/// Exchanges to be made: of which stream, for how long, on which CPUs, and where the result goes.
struct Order {
    stream: usize,
    outstanding: usize,
    measured: Duration,
    cpus: Cpus,
    result: SyncSender<Result<Exchanged>>,
}

struct Stream {
    shape: Shape,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
}

impl Echo {
    /// Starts the server, this program again, and connects one stream for each shape.
    pub(crate) fn start(
        server_keys: &Path,
        client_keys: &Path,
        shapes: &[Shape],
        stop: &Stop,
    ) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("quic-echo").arg(server_keys);
        let mut server = Daemon::start("the QUIC echo server", command)?;
        let address = server.wait_until(stop, |lines| lines.iter().find_map(|l| address_in(l)))?;
        let identity = Identity::load(client_keys, Role::Client)?;
        let (orders, inbox) = mpsc::channel(1);
        let (shapes_here, stopped) = (shapes.to_vec(), stop.clone());
        // Ends when `orders` is dropped.
        thread::spawn(move || client(address, &identity, &shapes_here, inbox, &stopped));
        let echo = Self { orders, server };
        for stream in 0..shapes.len() {
            echo.measure(stream, WARM_UP, Placement::Free.cpus(1), stop)?;
        }
        Ok(echo)
    }

    /// The server's process.
    pub(crate) fn server(&self) -> &Daemon {
        &self.server
    }

    /// Exchanges of the shape with this index, one after the other, for so long.
    pub(crate) fn measure(
        &self,
        stream: usize,
        measured: Duration,
        cpus: Cpus,
        stop: &Stop,
    ) -> Result<Latencies> {
        Ok(self.measure_many(stream, 1, measured, cpus, stop)?.latencies)
    }

    /// Exchanges of the shape with this index, so many outstanding, for so long.
    pub(crate) fn measure_many(
        &self,
        stream: usize,
        outstanding: usize,
        measured: Duration,
        cpus: Cpus,
        stop: &Stop,
    ) -> Result<Exchanged> {
        let (result, results) = sync_channel(1);
        let order = Order { stream, outstanding, measured, cpus, result };
        self.orders.blocking_send(order).ok().context("the echo client has ended")?;
        let exchanged = results.recv().context("the echo client has ended")??;
        stop.check()?;
        Ok(exchanged)
    }
}

/// The client's thread: connects, then fills one order after the other.
fn client(
    address: SocketAddr,
    identity: &Identity,
    shapes: &[Shape],
    mut inbox: mpsc::Receiver<Order>,
    stop: &Stop,
) -> Result<()> {
    runtime()?.block_on(async {
        let connected = connect(address, identity, shapes).await;
        let (_endpoint, mut streams) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                if let Some(first) = inbox.recv().await {
                    let _ = first.result.send(Err(error));
                }
                return Ok(());
            }
        };
        while let Some(order) = inbox.recv().await {
            order.cpus.hold_this_thread();
            let Order { stream, outstanding, measured, .. } = order;
            let result = exchange(&mut streams[stream], outstanding, measured, stop).await;
            let _ = order.result.send(result);
        }
        Ok(())
    })
}

async fn connect(
    address: SocketAddr,
    identity: &Identity,
    shapes: &[Shape],
) -> Result<(Endpoint, Vec<Stream>)> {
    let mut endpoint = local_endpoint(None)?;
    endpoint.set_default_client_config(identity.client_config());
    let connection = endpoint.connect(address, SERVER_NAME)?.await?;
    let mut streams = Vec::new();
    for &shape in shapes {
        let (mut send, receive) = connection.open_bi().await?;
        let mut lengths = [0; 8];
        lengths[..4].copy_from_slice(&(shape.request_bytes as u32).to_le_bytes());
        lengths[4..].copy_from_slice(&(shape.answer_bytes as u32).to_le_bytes());
        send.write_all(&lengths).await?;
        streams.push(Stream { shape, send, receive });
    }
    Ok((endpoint, streams))
}

async fn exchange(
    stream: &mut Stream,
    outstanding: usize,
    measured: Duration,
    stop: &Stop,
) -> Result<Exchanged> {
    let request = vec![7; stream.shape.request_bytes];
    let mut answer = vec![0; stream.shape.answer_bytes];
    let mut latencies = Latencies::new();
    let (start, spent) = (Instant::now(), thread_cpu());
    let mut sent = VecDeque::with_capacity(outstanding);
    for _ in 0..outstanding {
        sent.push_back(Instant::now());
        stream.send.write_all(&request).await?;
    }
    while let Some(before) = sent.pop_front() {
        let once = async {
            stream.receive.read_exact(&mut answer).await?;
            latencies.record(before.elapsed());
            if start.elapsed() < measured && !stop.requested() {
                sent.push_back(Instant::now());
                stream.send.write_all(&request).await?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(TIMEOUT, once).await.context("the echo stalled")??;
    }
    let (elapsed, cpu) = (start.elapsed(), thread_cpu().saturating_sub(spent));
    Ok(Exchanged { exchanges: latencies.count(), elapsed, cpu, latencies })
}

/// What this thread has spent so far.
fn thread_cpu() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), spent.tv_nsec.unsigned_abs() as u32)
}

/// The first word of a line that is an address and a port.
pub(crate) fn address_in(line: &str) -> Option<SocketAddr> {
    line.split(|c: char| c.is_whitespace() || ",;()".contains(c)).find_map(|word| word.parse().ok())
}

async fn answer(incoming: quinn::Incoming) -> Result<()> {
    let connection = incoming.await?;
    loop {
        let (mut send, mut receive) = connection.accept_bi().await?;
        tokio::spawn(async move {
            let mut lengths = [0; 8];
            receive.read_exact(&mut lengths).await?;
            let [a, b, c, d, e, f, g, h] = lengths;
            let request_bytes = u32::from_le_bytes([a, b, c, d]) as usize;
            let answer_bytes = u32::from_le_bytes([e, f, g, h]) as usize;
            if request_bytes > LENGTH_MAX || answer_bytes > LENGTH_MAX {
                bail!("more than is ever asked for");
            }
            let mut request = vec![0; request_bytes];
            let answer = vec![9; answer_bytes];
            loop {
                receive.read_exact(&mut request).await?;
                send.write_all(&answer).await?;
            }
            #[expect(unreachable_code, reason = "gives the block its type")]
            Ok(())
        });
    }
}

fn local_endpoint(server: Option<quinn::ServerConfig>) -> Result<Endpoint> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let socket = endpoint::bind(any).context("cannot bind a UDP socket on 127.0.0.1")?;
    let runtime = Arc::new(TokioRuntime);
    Ok(Endpoint::new(endpoint::endpoint_config(), server, socket.socket, runtime)?)
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_address_is_found_in_a_start_line() {
        let address = "127.0.0.1:40123".parse().ok();
        assert_eq!(address_in("listening on 127.0.0.1:40123"), address);
        assert_eq!(address_in("rampool-server: lends 2 GiB at 127.0.0.1:40123, keys k"), address);
        assert_eq!(address_in("nothing: here"), None);
    }
}
