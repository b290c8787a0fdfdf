//! The least that a remote hit can cost: a bare exchange over QUIC, with rampool's own endpoint
//! settings and certificates, one request outstanding on one long-lived stream.
//!
//! The client says first how long requests and answers are (two u32, little-endian); then each
//! request is answered at once. The server runs in a process of its own, on a current-thread
//! runtime, as rampool's endpoints do, and ends with its process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use quinn::{Endpoint, TokioRuntime};
use rampool_protocol::block::{BLOCK_SIZE, RemoteKey, SealedBlock};
use rampool_protocol::certs::{Identity, Role, SERVER_NAME};
use rampool_protocol::endpoint;
use rampool_protocol::frame::HEADER_SIZE;
use tokio::runtime::{Builder, Runtime};

use crate::daemon::Daemon;
use crate::latency::Latencies;
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
}

const LENGTH_MAX: usize = 1 << 20;
/// Before it, discovery of the path's MTU is still under way.
const WARM_UP: Duration = Duration::from_millis(700);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Answers until the process is ended. Says on standard error where it listens.
pub(crate) fn serve(keys: &Path) -> Result<()> {
    runtime()?.block_on(async {
        let identity = Identity::load(keys, Role::Server)?;
        let server = local_endpoint(Some(identity.server_config()))?;
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
pub(crate) struct Echo {
    streams: Vec<(Shape, Stream)>,
    runtime: Runtime,
    server: Daemon,
    _endpoint: Endpoint,
}

struct Stream {
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
        let runtime = runtime()?;
        let (endpoint, streams) = runtime.block_on(async {
            let mut client = local_endpoint(None)?;
            client.set_default_client_config(identity.client_config());
            let connection = client.connect(address, SERVER_NAME)?.await?;
            let mut streams = Vec::new();
            for &shape in shapes {
                let (mut send, receive) = connection.open_bi().await?;
                let mut lengths = [0; 8];
                lengths[..4].copy_from_slice(&(shape.request_bytes as u32).to_le_bytes());
                lengths[4..].copy_from_slice(&(shape.answer_bytes as u32).to_le_bytes());
                send.write_all(&lengths).await?;
                streams.push((shape, Stream { send, receive }));
            }
            anyhow::Ok((client, streams))
        })?;
        let mut echo = Self { streams, runtime, server, _endpoint: endpoint };
        for index in 0..echo.streams.len() {
            echo.measure(index, WARM_UP, stop)?;
        }
        Ok(echo)
    }

    /// The server's process.
    pub(crate) fn server(&self) -> &Daemon {
        &self.server
    }

    /// Exchanges of the shape with this index, one after the other, for so long.
    pub(crate) fn measure(
        &mut self,
        index: usize,
        measured: Duration,
        stop: &Stop,
    ) -> Result<Latencies> {
        let (shape, stream) = &mut self.streams[index];
        let request = vec![7; shape.request_bytes];
        let mut answer = vec![0; shape.answer_bytes];
        let mut latencies = Latencies::new();
        self.runtime.block_on(async {
            let start = Instant::now();
            while start.elapsed() < measured && !stop.requested() {
                let before = Instant::now();
                let exchange = async {
                    stream.send.write_all(&request).await?;
                    stream.receive.read_exact(&mut answer).await?;
                    anyhow::Ok(())
                };
                tokio::time::timeout(TIMEOUT, exchange).await.context("the echo stalled")??;
                latencies.record(before.elapsed());
            }
            anyhow::Ok(())
        })?;
        stop.check()?;
        Ok(latencies)
    }
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
