//! The connection to a server: made, kept, and made again.
//!
//! One stream carries requests and answers of readers, another the blocks that are sent; the
//! first goes before the second. Everything here runs on the tier's thread. QUIC itself runs elsewhere too, where others
//! send their requests while that sleeps (see [`Line`]).

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rampool_keys::renewal::revoked;
use rampool_protocol::certs::{Credentials, Role, SERVER_NAME, explain};
use rampool_protocol::control::{self, CloseCode, ToClient, ToServer, VERSION};
use rampool_protocol::endpoint;
use rampool_protocol::frame::{self, HEADER_SIZE, Header, PutOutcome, RequestId, Verb};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::Shared;
use super::drive::DrivenRuntime;
use super::line::Line;
use super::seal::SealCount;
use super::sender::{self, SentBlock};
use super::server::{GetAnswer, GetRequest, Inbox, Server};

/// A server that does not welcome us within this time is tried again later.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);

/// Pauses between attempts to connect: doubled after each that fails.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The pause where another address leads to the same server.
const RETRY_SAME: Duration = Duration::from_secs(60);

/// Frames of blocks under way that the server has not answered.
const PUTS_UNDER_WAY_MAX: usize = 8;

/// Time for the last words to the servers when the mount ends.
const FAREWELL: Duration = Duration::from_millis(500);

/// Our sockets: one for servers with IPv4 addresses, one for the others.
pub(super) struct Endpoints {
    credentials: watch::Receiver<Credentials>,
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
}

/// Blocks that were sent, and of which the server has not said what became of them.
#[derive(Default)]
struct PutsUnderWay {
    frames: Mutex<VecDeque<(RequestId, Vec<SentBlock>)>>,
    answered: Notify,
}

/// What is done for a connection until it is lost.
type Part<'a> = BoxFuture<'a, anyhow::Result<()>>;

/// From where servers are called.
pub(super) struct Caller {
    endpoint: Endpoint,
    credentials: watch::Receiver<Credentials>,
}

/// The server is connected already, as another.
#[derive(Debug, thiserror::Error)]
#[error("it is the same server as {0}")]
struct SameServer(String);

impl Endpoints {
    pub(super) fn new(credentials: watch::Receiver<Credentials>) -> Self {
        Self { credentials, v4: None, v6: None }
    }

    /// From where `address` is called.
    ///
    /// # Errors
    /// There is no socket for such addresses.
    pub(super) fn for_address(&mut self, address: SocketAddr) -> std::io::Result<Caller> {
        let endpoint = self.endpoint_for(address)?;
        Ok(Caller { endpoint, credentials: self.credentials.clone() })
    }

    /// Says goodbye to all servers.
    pub(super) async fn end(self) {
        for endpoint in [self.v4, self.v6].into_iter().flatten() {
            endpoint.close(CloseCode::Done.into(), b"the mount ends");
            let _ = timeout(FAREWELL, endpoint.wait_idle()).await;
        }
    }

    fn endpoint_for(&mut self, address: SocketAddr) -> std::io::Result<Endpoint> {
        let (endpoint, any) = match address {
            SocketAddr::V4(_) => (&mut self.v4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            SocketAddr::V6(_) => (&mut self.v6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        };
        if let Some(endpoint) = endpoint {
            return Ok(endpoint.clone());
        }
        let bound = endpoint::bind(any)?;
        if let Some(hint) = bound.hint() {
            tracing::info!("{hint}");
        }
        let made = Endpoint::new(
            endpoint::endpoint_config(),
            None,
            bound.socket,
            Arc::new(DrivenRuntime),
        )?;
        *endpoint = Some(made.clone());
        Ok(made)
    }
}

/// Connects, serves, and connects again.
pub(super) async fn keep(
    shared: Arc<Shared>,
    server: Arc<Server>,
    caller: Caller,
    mut inbox: Inbox,
) {
    let mut pause = RETRY_MIN;
    loop {
        let result = match connect(&server, &caller).await {
            Ok((connection, control)) => {
                let credentials = caller.credentials.clone();
                let serves = serve(&shared, &server, &connection, control, &mut inbox);
                let result = tokio::select! {
                    result = serves => result,
                    () = revoked(&connection, credentials) => {
                        Err(anyhow::anyhow!("the server's certificate was revoked"))
                    }
                };
                if server.is_connected() {
                    pause = RETRY_MIN;
                }
                connection.close(CloseCode::Protocol.into(), b"");
                result
            }
            Err(error) => Err(error),
        };
        let is_same = result.as_ref().is_err_and(anyhow::Error::is::<SameServer>);
        if let Err(error) = result
            && server.disconnected(&format!("{error:#}"))
        {
            match is_same {
                true => tracing::info!(server = server.address.shown, "{error:#}"),
                false => tracing::warn!(server = server.address.shown, "{error:#}; trying again"),
            }
        }
        shared.members.is_silent(server.address.found);
        // What waits for the lost connection is a miss now.
        while inbox.gets.try_recv().is_ok() {}
        while inbox.puts.try_recv().is_ok() {}
        sleep(if is_same { RETRY_SAME } else { pause }).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn connect(
    server: &Server,
    Caller { endpoint, credentials }: &Caller,
) -> anyhow::Result<(Connection, (SendStream, RecvStream))> {
    let config = credentials.borrow().config.clone();
    let connecting = endpoint.connect_with(config, server.address.found, SERVER_NAME)?;
    let connection = timeout(WELCOME_TIMEOUT, connecting)
        .await
        .context("the server does not answer")?
        .map_err(|error| anyhow::anyhow!("{}", explain(&error, Role::Server)))?;
    // It has nothing to say but what it answers.
    connection.set_max_concurrent_bi_streams(0_u32.into());
    // In TLS 1.3 the server looks at our certificate after we think that we are connected.
    let control = connection.open_bi().await.map_err(|_| lost(&connection))?;
    Ok((connection, control))
}

/// Serves one connection until it is lost, or broken by the server.
async fn serve(
    shared: &Arc<Shared>,
    server: &Server,
    connection: &Connection,
    (mut ask, mut tell): (SendStream, RecvStream),
    inbox: &mut Inbox,
) -> anyhow::Result<()> {
    let mount = shared.sealer.mount();
    let hello = ToServer::Hello { version: VERSION, mount, keep_seconds: shared.keep_seconds };
    ask.write_all(&control::encode(&hello)).await.map_err(|_| lost(connection))?;
    let welcome = timeout(WELCOME_TIMEOUT, read_message(connection, &mut tell))
        .await
        .context("the server does not welcome us")??;
    let ToClient::Welcome { version, instance, lending } = welcome else {
        bail!("the server did not begin with a welcome");
    };
    if version != VERSION {
        bail!("the server speaks version {version}, we speak {VERSION}; upgrade the older");
    }
    if let Some(other) = shared.servers.also_known_as(instance, server.address.found) {
        return Err(SameServer(other).into());
    }
    let (gets_out, gets_in) = connection.open_bi().await.map_err(|_| lost(connection))?;
    let (puts_out, puts_in) = connection.open_bi().await.map_err(|_| lost(connection))?;
    // A reader waits for the one, nobody for the other.
    let _ = gets_out.set_priority(1);
    let line = Arc::new(Line::new(gets_out));
    server.listens(line.clone());
    server.connected(lending, instance, shared.last_seal());
    tracing::info!(server = server.address.shown, "connected");

    let puts = PutsUnderWay::default();
    // Each is polled when there is something for it to do, and not with each of the others.
    let mut parts: FuturesUnordered<Part<'_>> = FuturesUnordered::new();
    parts.push(Box::pin(read_blocks(shared, server, &line, gets_in)));
    parts.push(Box::pin(send_gets(&line, &mut inbox.gets)));
    parts.push(Box::pin(read_news(shared, connection, server, &mut tell)));
    parts.push(Box::pin(send_puts(shared, &puts, puts_out, &mut inbox.puts)));
    parts.push(Box::pin(read_outcomes(shared, server, &puts, puts_in)));
    let result = parts.next().await.expect("it has parts");
    // A lost connection breaks all of them at once; it says more than they do.
    match connection.close_reason() {
        Some(_) => Err(lost(connection)),
        None => result,
    }
}

async fn read_news(
    shared: &Shared,
    connection: &Connection,
    server: &Server,
    tell: &mut RecvStream,
) -> anyhow::Result<()> {
    loop {
        match read_message(connection, tell).await? {
            ToClient::Lending(lending) => server.lends(lending),
            ToClient::Members(members) => shared.members.tells(server.address.found, members),
            ToClient::Welcome { .. }
            | ToClient::Joined(_)
            | ToClient::Renewed(_)
            | ToClient::Probed(_) => {
                bail!("the server said what nobody has asked")
            }
        }
    }
}

async fn read_message(connection: &Connection, tell: &mut RecvStream) -> anyhow::Result<ToClient> {
    let mut length = [0; 4];
    tell.read_exact(&mut length).await.map_err(|_| lost(connection))?;
    let mut body = vec![0; control::parse_length(length)?];
    tell.read_exact(&mut body).await.map_err(|_| lost(connection))?;
    Ok(control::decode(&body)?)
}

async fn send_gets(line: &Line, gets: &mut mpsc::Receiver<GetRequest>) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            request = gets.recv() => match request {
                Some(request) => line.ask(request),
                None => bail!("the mount ends"),
            },
            () = line.held_up.notified() => {}
        }
        line.send_all().await?;
    }
}

async fn send_puts(
    shared: &Shared,
    under_way: &PutsUnderWay,
    mut out: SendStream,
    puts: &mut mpsc::Receiver<sender::PutFrame>,
) -> anyhow::Result<()> {
    while let Some(frame) = puts.recv().await {
        while under_way.frames.lock().len() >= PUTS_UNDER_WAY_MAX {
            under_way.answered.notified().await;
        }
        let (wire, request, blocks) = frame.into_wire();
        shared.counts.sent.fetch_add(blocks.len() as u64, Relaxed);
        under_way.frames.lock().push_back((request, blocks));
        out.write_chunk(wire).await?;
    }
    bail!("the mount ends")
}

async fn read_blocks(
    shared: &Shared,
    server: &Server,
    line: &Line,
    mut stream: RecvStream,
) -> anyhow::Result<()> {
    loop {
        let (header, body) = read_frame(&mut stream, Verb::Got).await?;
        let Some(request) = line.answered(header.request) else { bail!(UNASKED) };
        if let Some(began) = request.began {
            let now = Instant::now();
            server.answered(request.keys.len(), now - began, now);
        }
        // False when nobody waits for it any more.
        if !request.asker.answer(Some(GetAnswer { header, body })) {
            shared.counts.late.fetch_add(1, Relaxed);
        }
    }
}

async fn read_outcomes(
    shared: &Shared,
    server: &Server,
    under_way: &PutsUnderWay,
    mut stream: RecvStream,
) -> anyhow::Result<()> {
    loop {
        let (header, body) = read_frame(&mut stream, Verb::Stored).await?;
        let sent = under_way.frames.lock().pop_front();
        let is_answer = |(id, blocks): &(RequestId, Vec<SentBlock>)| {
            *id == header.request && blocks.len() == header.count
        };
        let Some((_, blocks)) = sent.filter(is_answer) else { bail!(UNASKED) };
        under_way.answered.notify_one();
        let (outcomes, oldest) = frame::stored_body(header, &body)?;
        if oldest.0 > header.request.0 + 1 {
            bail!("it holds what it was never sent");
        }
        server.holds(SealCount(oldest.0), SealCount(header.request.0));
        for (block, &outcome) in blocks.iter().zip(outcomes) {
            match PutOutcome::from_byte(outcome) {
                PutOutcome::Stored => block.stored(shared),
                PutOutcome::Rejected => {
                    shared.counts.rejected.fetch_add(1, Relaxed);
                }
            }
        }
    }
}

const UNASKED: &str = "an answer to no request";

/// The next frame, which must be such an answer.
async fn read_frame(stream: &mut RecvStream, verb: Verb) -> anyhow::Result<(Header, Bytes)> {
    let mut header = [0; HEADER_SIZE];
    stream.read_exact(&mut header).await?;
    let header = Header::parse(&header)?;
    if header.verb != verb {
        bail!(UNASKED);
    }
    Ok((header, read_body(stream, header.body_len).await?))
}

/// The body of a frame. Where it came in one piece, that piece.
async fn read_body(stream: &mut RecvStream, len: usize) -> anyhow::Result<Bytes> {
    const CUT: &str = "an answer that is cut short";
    let first = stream.read_chunk(len, true).await?.context(CUT)?.bytes;
    if first.len() == len {
        return Ok(first);
    }
    let mut body = BytesMut::with_capacity(len);
    body.extend_from_slice(&first);
    while body.len() < len {
        let next = stream.read_chunk(len - body.len(), true).await?.context(CUT)?;
        body.extend_from_slice(&next.bytes);
    }
    Ok(body.freeze())
}

/// Why the connection is gone.
fn lost(connection: &Connection) -> anyhow::Error {
    match connection.close_reason() {
        Some(error) => anyhow::anyhow!("{}", explain(&error, Role::Server)),
        None => anyhow::anyhow!("the server closed a stream"),
    }
}
