//! A server that speaks the protocol and does not tell the truth.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rampool_protocol::block::{PutEntry, RemoteKey, SealedBlock};
use rampool_protocol::certs::{Admission, Identity, Role};
use rampool_protocol::control::{self, Lending, ToClient};
use rampool_protocol::endpoint;
use rampool_protocol::frame::{self, HEADER_SIZE, Header, Verb};
use tokio::sync::oneshot;
use zerocopy::IntoBytes as _;

/// What it answers to a request for blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// The first state of the block that it ever got.
    Old,
    /// Another block.
    Swapped,
    /// The second half is zeros, as after a half vanished page.
    Cut,
    /// Random bytes of the right length.
    Random,
    /// Fewer blocks than were asked for, or more.
    WrongCount,
    /// Bytes that are no frame.
    Garbage,
    /// The beginning of a frame, then the end of the stream.
    Truncated,
    /// Nothing, ever.
    Silent,
    /// The truth, but for one request in [`FORGETS`], to which it says nothing.
    Forgetful,
}

/// Few enough that a late answer may be read from the source as well.
const FORGETS: u64 = 40;

/// A running liar.
pub(crate) struct Liar {
    pub(crate) address: SocketAddr,
    lies: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Every state of every block that it got, in order.
type Blocks = Arc<Mutex<HashMap<RemoteKey, Vec<SealedBlock>>>>;

impl Liar {
    /// Whoever lies `always` is left alone soon; the other tells the truth now and then.
    pub(crate) fn start(keys: &Path, lie: Lie, always: bool) -> Self {
        let identity = Identity::load(keys, Role::Server).unwrap();
        let bound = endpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound.socket.local_addr().unwrap();
        let lies = Arc::new(AtomicU64::new(0));
        let told = lies.clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let endpoint = quinn::Endpoint::new(
                    endpoint::endpoint_config(),
                    Some(identity.server_config(Admission::Members)),
                    bound.socket,
                    Arc::new(quinn::TokioRuntime),
                )
                .unwrap();
                tokio::spawn(accept(endpoint, lie, always, told));
                let _ = stopped.await;
            });
        });
        Self { address, lies, stop: Some(stop), thread: Some(thread) }
    }

    /// How many answers were lies.
    pub(crate) fn lies(&self) -> u64 {
        self.lies.load(Ordering::Relaxed)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().unwrap().join();
    }
}

async fn accept(endpoint: quinn::Endpoint, lie: Lie, always: bool, lies: Arc<AtomicU64>) {
    let blocks = Blocks::default();
    while let Some(incoming) = endpoint.accept().await {
        let (blocks, lies) = (blocks.clone(), lies.clone());
        tokio::spawn(async move {
            // A client that goes away ends it.
            let _ = connection(incoming, lie, always, blocks, lies).await;
        });
    }
}

async fn connection(
    incoming: quinn::Incoming,
    lie: Lie,
    always: bool,
    blocks: Blocks,
    lies: Arc<AtomicU64>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let connection = incoming.await?;
    let (mut tell, mut asked) = connection.accept_bi().await?;
    let mut length = [0; 4];
    asked.read_exact(&mut length).await?;
    let mut hello = vec![0; control::parse_length(length)?];
    asked.read_exact(&mut hello).await?;
    let lending = Lending { capacity_bytes: 1 << 30, pausing: false };
    let welcome = ToClient::Welcome { version: control::VERSION, instance: 1, lending };
    tell.write_all(&control::encode(&welcome)).await?;
    loop {
        let (answers, requests) = connection.accept_bi().await?;
        let (blocks, lies) = (blocks.clone(), lies.clone());
        tokio::spawn(async move {
            let _ = stream(answers, requests, lie, always, blocks, lies).await;
        });
    }
}

async fn stream(
    mut answers: quinn::SendStream,
    mut requests: quinn::RecvStream,
    lie: Lie,
    always: bool,
    blocks: Blocks,
    lies: Arc<AtomicU64>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut gets = 0;
    loop {
        let mut header = [0; HEADER_SIZE];
        requests.read_exact(&mut header).await?;
        let header = Header::parse(&header)?;
        let mut body = vec![0; header.body_len];
        requests.read_exact(&mut body).await?;
        if header.verb == Verb::Put {
            for PutEntry { key, block } in frame::put_body(&body)? {
                blocks.lock().unwrap().entry(*key).or_default().push(block.clone());
            }
            let mut answer = Header::stored(header.request, header.count).to_bytes().to_vec();
            answer.resize(answer.len() + header.count + frame::OLDEST_SIZE, 0);
            answers.write_all(&answer).await?;
            continue;
        }
        let keys = frame::get_body(&body)?;
        gets += 1;
        let of_blocks = matches!(lie, Lie::Old | Lie::Swapped | Lie::Cut | Lie::Random);
        let lies_now = match lie {
            Lie::Forgetful => gets % FORGETS == 0,
            _ => always || !of_blocks || gets % 3 > 0,
        };
        let said = lies_now.then_some(lie);
        let told = keys.iter().map(|key| tell(said, *key, &blocks.lock().unwrap())).collect();
        let told: Vec<Option<SealedBlock>> = told;
        let hits = told.iter().flatten().count();
        if lie == Lie::Silent || lie == Lie::Forgetful && lies_now {
            lies.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let (mut count, mut present) = (header.count, Vec::new());
        for block in &told {
            present.push(u8::from(block.is_some()));
        }
        if lie == Lie::WrongCount {
            count += 1;
            present.push(0);
        }
        let mut answer = Header::got(header.request, count, hits).to_bytes().to_vec();
        answer.extend(present);
        for block in told.iter().flatten() {
            answer.extend_from_slice(block.as_bytes());
        }
        match lie {
            Lie::Garbage => answer[..HEADER_SIZE].fill(0xee),
            Lie::Truncated => answer.truncate(HEADER_SIZE + 2),
            _ => {}
        }
        lies.fetch_add(u64::from(lies_now), Ordering::Relaxed);
        answers.write_all(&answer).await?;
        if lie == Lie::Truncated {
            answers.finish()?;
            return Ok(());
        }
    }
}

/// What it says is the block `key`.
fn tell(
    lie: Option<Lie>,
    key: RemoteKey,
    blocks: &HashMap<RemoteKey, Vec<SealedBlock>>,
) -> Option<SealedBlock> {
    let states = blocks.get(&key)?;
    let mut block = states.last()?.clone();
    match lie {
        Some(Lie::Old) => block = states.first()?.clone(),
        Some(Lie::Swapped) => {
            block = blocks.iter().find(|(other, _)| **other != key)?.1.last()?.clone();
        }
        Some(Lie::Cut) => block.data[2048..].fill(0),
        Some(Lie::Random) => {
            let seed = u64::from(block.data[0]);
            block.data.copy_from_slice(&crate::support::noise(seed, 4096));
        }
        _ => {}
    }
    Some(block)
}
