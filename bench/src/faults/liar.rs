//! A server that keeps blocks as it should, until it is told to answer with garbage, or far too late.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use quinn::{Endpoint, Incoming, RecvStream, SendStream, TokioRuntime};
use rampool_protocol::block::{PutEntry, RemoteKey, SealedBlock};
use rampool_protocol::certs::{Admission, Identity, Role};
use rampool_protocol::control::{self, Lending, ToClient, VERSION};
use rampool_protocol::endpoint;
use rampool_protocol::frame::{self, HEADER_SIZE, Header, Verb};
use tokio::sync::oneshot;
use zerocopy::IntoBytes as _;

use super::net::Machine;
use super::relay::PORT;

/// How late it is when it is late.
const LATE: Duration = Duration::from_secs(10);
/// Blocks that it keeps; it has no others.
const BLOCKS_MAX: usize = 4096;

/// What it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Manner {
    Truth = 0,
    Garbage = 1,
    Late = 2,
}

/// The server. It ends with this.
pub(super) struct Liar {
    manner: Arc<AtomicU8>,
    pub(super) address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

type Blocks = Arc<Mutex<HashMap<RemoteKey, SealedBlock>>>;

impl Liar {
    /// Starts one on `machine` with a server's keys.
    pub(super) fn start(machine: &Machine, keys: &Path) -> Result<Self> {
        let identity = Identity::load(keys, Role::Server)?;
        let address = SocketAddr::new(machine.address, PORT);
        let bound = machine.on(|| endpoint::bind(address))??;
        let manner = Arc::new(AtomicU8::new(Manner::Truth as u8));
        let (stop, stopped) = oneshot::channel::<()>();
        let theirs = manner.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            runtime.block_on(async {
                let serve = serve(bound, &identity, theirs);
                tokio::select! {
                    result = serve => result,
                    _ = stopped => Ok(()),
                }
            })
        });
        Ok(Self { manner, address, _stop: stop })
    }

    pub(super) fn set(&self, manner: Manner) {
        self.manner.store(manner as u8, Relaxed);
    }
}

async fn serve(
    bound: endpoint::BoundSocket,
    identity: &Identity,
    manner: Arc<AtomicU8>,
) -> Result<()> {
    let endpoint = Endpoint::new(
        endpoint::endpoint_config(),
        Some(identity.server_config(Admission::Members)),
        bound.socket,
        Arc::new(TokioRuntime),
    )?;
    let blocks = Blocks::default();
    while let Some(incoming) = endpoint.accept().await {
        // A client that goes away ends its task.
        tokio::spawn(connection(incoming, blocks.clone(), manner.clone()));
    }
    Ok(())
}

async fn connection(incoming: Incoming, blocks: Blocks, manner: Arc<AtomicU8>) -> Result<()> {
    let connection = incoming.await?;
    let (mut tell, mut asked) = connection.accept_bi().await?;
    let mut length = [0; 4];
    asked.read_exact(&mut length).await?;
    let mut hello = vec![0; control::parse_length(length)?];
    asked.read_exact(&mut hello).await?;
    let lending = Lending { capacity_bytes: 64 << 20, pausing: false };
    let welcome = ToClient::Welcome { version: VERSION, instance: 1, lending };
    tell.write_all(&control::encode(&welcome)).await?;
    loop {
        let (answers, requests) = connection.accept_bi().await?;
        tokio::spawn(stream(answers, requests, blocks.clone(), manner.clone()));
    }
}

async fn stream(
    mut answers: SendStream,
    mut requests: RecvStream,
    blocks: Blocks,
    manner: Arc<AtomicU8>,
) -> Result<()> {
    loop {
        let mut header = [0; HEADER_SIZE];
        requests.read_exact(&mut header).await?;
        let header = Header::parse(&header)?;
        let mut body = vec![0; header.body_len];
        requests.read_exact(&mut body).await?;
        let mut answer = match header.verb {
            Verb::Put => stored(header, &body, &blocks)?,
            Verb::Get => got(header, &body, &blocks)?,
            Verb::Got | Verb::Stored => bail!("an answer"),
        };
        if header.verb == Verb::Get {
            match manner.load(Relaxed) {
                manner if manner == Manner::Garbage as u8 => {
                    // Every other time it is a frame, at least.
                    let from =
                        if header.request.0 % 2 == 0 { 0 } else { HEADER_SIZE + header.count };
                    let from = from.min(answer.len());
                    rand::fill(&mut answer[from..]);
                }
                manner if manner == Manner::Late as u8 => tokio::time::sleep(LATE).await,
                _ => {}
            }
        }
        answers.write_all(&answer).await?;
    }
}

fn stored(header: Header, body: &[u8], blocks: &Blocks) -> Result<Vec<u8>> {
    let mut blocks = blocks.lock().unwrap_or_else(PoisonError::into_inner);
    for PutEntry { key, block } in frame::put_body(body).map_err(|error| anyhow!("{error}"))? {
        if blocks.len() < BLOCKS_MAX || blocks.contains_key(key) {
            blocks.insert(*key, block.clone());
        }
    }
    let mut answer = Header::stored(header.request, header.count).to_bytes().to_vec();
    answer.resize(HEADER_SIZE + header.count + frame::OLDEST_SIZE, 0);
    Ok(answer)
}

fn got(header: Header, body: &[u8], blocks: &Blocks) -> Result<Vec<u8>> {
    let keys = frame::get_body(body).ok().context("no keys")?;
    let blocks = blocks.lock().unwrap_or_else(PoisonError::into_inner);
    let found: Vec<_> = keys.iter().map(|key| blocks.get(key)).collect();
    let hits = found.iter().flatten().count();
    let mut answer = Header::got(header.request, keys.len(), hits).to_bytes().to_vec();
    answer.extend(found.iter().map(|block| u8::from(block.is_some())));
    found.iter().flatten().for_each(|block| answer.extend_from_slice(block.as_bytes()));
    Ok(answer)
}
