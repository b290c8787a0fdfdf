//! What was lent against what was written: see `crate::races`. And a tier whose server is next door,
//! for the races of whole reads and writes.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use rampool_protocol::block::SealedBlock;
use rampool_protocol::control::Lending as Lends;
use rampool_protocol::frame::{self, HEADER_SIZE, Header, RequestId};
use tokio::sync::{mpsc, watch};
use zerocopy::IntoBytes as _;

use super::lent::{Lent, LentTable, ServerIndex};
use super::seal::{Run, SealCount, Sealer, Secret};
use super::server::{GetAnswer, GetRequest, Inbox};
use super::{Offer, ServerAddress, Shared, Tier, UseServers, sender};
use crate::block::{BlockIndex, BlockKey, FileKey};
use crate::epochs::Epochs;
use crate::races::{any, check, check_all};

/// What a tier's thread does, without a network: seals what is offered, stores it, and answers.
pub(crate) struct NextDoor {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Offer>,
    inbox: Inbox,
}

/// A tier of one server.
pub(crate) fn tier_next_door(epochs: Arc<Epochs>, queue_max: usize) -> (Tier, NextDoor) {
    let sealer = Sealer::new(&Secret::random(), &[Run::after(SealCount(0))]);
    // What is measured is different each time.
    let shared = Arc::new(Shared::new(UseServers::Always, sealer, 0, epochs));
    let address =
        ServerAddress { shown: "next door".to_owned(), found: ([127, 0, 0, 1], 1).into() };
    let (_, server, inbox) = shared.servers.add(address, SealCount(0)).unwrap();
    let lends = Lends { capacity_bytes: 1 << 20, pausing: false };
    server.connected(lends, 1, SealCount(0));
    let (offers, queue) = mpsc::channel(queue_max);
    let (stop, _) = watch::channel(true);
    let tier = Tier {
        shared: shared.clone(),
        offers: Some(offers),
        queue_max: AtomicUsize::new(queue_max),
        stop,
        thread: parking_lot::Mutex::default(),
        credentials: None,
        key_file: None,
    };
    (tier, NextDoor { shared, queue, inbox })
}

impl NextDoor {
    /// Ends when the tier is gone.
    pub(crate) fn run(self) {
        let Self { shared, queue, inbox } = self;
        shuttle::future::block_on(async {
            tokio::select! {
                biased;
                () = sender::run(&shared, queue) => {}
                () = serve(&shared, inbox) => {}
            }
        });
    }
}

async fn serve(shared: &Shared, mut inbox: Inbox) {
    let mut held = HashMap::new();
    loop {
        tokio::select! {
            biased;
            // Now and then one is lost: dropping it tells who asked.
            Some(request) = inbox.gets.recv() => {
                // Now and then it is late.
                if any(4) == 0 {
                    request.asker.hedge();
                    shuttle::future::yield_now().await;
                }
                // Or its time is over.
                if any(8) == 0 {
                    request.asker.expire();
                }
                if any(8) > 0 {
                    answer(&request, &held);
                }
            }
            Some(frame) = inbox.puts.recv() => {
                let (wire, _, blocks) = frame.into_wire();
                for entry in frame::put_body(&wire[HEADER_SIZE..]).unwrap() {
                    held.insert(entry.key.0, entry.block.clone());
                }
                // The answer takes its time.
                shuttle::future::yield_now().await;
                for block in &blocks {
                    block.stored(shared);
                }
            }
        }
    }
}

fn answer(request: &GetRequest, held: &HashMap<[u8; 16], SealedBlock>) {
    // Now and then one has been evicted.
    let found = |key| held.get(key).filter(|_| any(8) > 0);
    let found: Vec<_> = request.keys.iter().map(|key| found(&key.0)).collect();
    let mut body = BytesMut::new();
    body.extend(found.iter().map(|block| u8::from(block.is_some())));
    for block in found.iter().flatten() {
        body.extend_from_slice(block.as_bytes());
    }
    let hits = found.iter().flatten().count();
    let header = Header::got(RequestId(1), found.len(), hits);
    request.asker.answer(Some(GetAnswer { header, body: Bytes::from(body) }));
}

const KEY: BlockKey = BlockKey { file: FileKey(1), index: BlockIndex(0) };

struct Lending {
    epochs: Epochs,
    lent: LentTable,
    /// What the source holds, and what was sealed under each count.
    source: Mutex<u64>,
    sealed: Mutex<Vec<u64>>,
    /// The last write that was acknowledged; they come one after the other, as numbers.
    acknowledged: Mutex<u64>,
}

impl Lending {
    fn write(&self, value: u64) {
        let writing = self.epochs.begin(KEY);
        self.lent.forget(KEY);
        *self.source.lock().unwrap() = value;
        drop(writing);
        *self.acknowledged.lock().unwrap() = value;
    }

    /// Evicts the block in the state that the source holds, and has a server store it.
    fn lend(&self) {
        let Some(seen) = self.epochs.observe(KEY) else { return };
        let value = *self.source.lock().unwrap();
        if !self.epochs.unchanged(seen) {
            // Was never cached.
            return;
        }
        let count = {
            let mut sealed = self.sealed.lock().unwrap();
            sealed.push(value);
            SealCount(sealed.len() as u64)
        };
        shuttle::thread::yield_now();
        let lent = Lent { server: ServerIndex(0), count };
        self.lent.insert_if(KEY, lent, || self.epochs.unchanged(seen));
    }

    fn read(&self) {
        let oldest = *self.acknowledged.lock().unwrap();
        if let Some((lent, _)) = self.lent.get(KEY) {
            let value = self.sealed.lock().unwrap()[lent.count.0 as usize - 1];
            assert!(value >= oldest, "{value} was lent, {oldest} acknowledged");
            if any(2) == 0 {
                self.lent.forget_this(KEY, lent);
            }
        }
    }
}

fn lending() -> Arc<Lending> {
    Arc::new(Lending {
        epochs: Epochs::new(),
        lent: LentTable::new(0),
        source: Mutex::new(0),
        sealed: Mutex::default(),
        acknowledged: Mutex::new(0),
    })
}

#[test]
fn what_is_stored_while_it_is_written_is_not_noted() {
    check_all(|| {
        let lending = lending();
        let server = lending.clone();
        let server = shuttle::thread::spawn(move || server.lend());
        lending.write(1);
        server.join().unwrap();
        if let Some((lent, _)) = lending.lent.get(KEY) {
            assert_eq!(lending.sealed.lock().unwrap()[lent.count.0 as usize - 1], 1);
        }
    });
}

#[test]
fn no_older_state_is_asked_for_once_a_write_is_acknowledged() {
    check(|| {
        let lending = lending();
        let spawn = |act: fn(&Lending)| {
            let lending = lending.clone();
            shuttle::thread::spawn(move || act(&lending))
        };
        let threads = [
            spawn(|lending| (1..4).for_each(|value| lending.write(value))),
            spawn(|lending| (0..3).for_each(|_| lending.lend())),
            spawn(|lending| (0..2).for_each(|_| lending.lend())),
            spawn(|lending| (0..3).for_each(|_| lending.read())),
        ];
        for thread in threads {
            thread.join().unwrap();
        }
        lending.read();
        let held = usize::from(lending.lent.get(KEY).is_some());
        assert_eq!(lending.lent.len(), held, "counted as they are held");
    });
}
