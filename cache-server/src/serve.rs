//! One request, from its keys or blocks to the answer's bytes.
//!
//! The store is behind one lock, taken for one GET or for a few blocks of a PUT, and never held
//! across an await. Requests of all clients take turns; what arrives over the network is
//! served by one thread, and the status socket only looks in.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use rampool_protocol::block::{PutEntry, RemoteKey, SealedBlock};
use rampool_protocol::control::{Lending, MountId};
use rampool_protocol::frame::{self, HEADER_SIZE, Header, PutOutcome, RequestId};
use tokio::sync::watch;

use crate::answers::Answers;
use crate::blocks::Store;
use crate::counts::Counts;

/// Answers requests from the store and counts them.
#[derive(Debug)]
pub(crate) struct Service {
    /// Tells this run of the server from earlier ones.
    pub(crate) instance: u64,
    lending: watch::Receiver<Lending>,
    state: Mutex<State>,
    answers: Answers,
}

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) counts: Counts,
}

/// A PUT whose blocks arrive in parts.
#[derive(Debug)]
pub(crate) struct PutRun<'a> {
    service: &'a Service,
    mount: MountId,
    request: RequestId,
    answer: BytesMut,
    stored: usize,
    rejected: usize,
    /// Without the time spent waiting for the network.
    spent: Duration,
}

impl Service {
    /// A service over `store`, which takes new blocks unless `lending` pauses.
    pub(crate) fn new(store: Store, lending: watch::Receiver<Lending>) -> Self {
        // Seeded by the system: two runs share a number once in 2^64 times.
        let instance = RandomState::new().build_hasher().finish();
        let state = Mutex::new(State { store, counts: Counts::new() });
        Self { instance, lending, state, answers: Answers::default() }
    }

    /// The answer to a GET: which blocks are here, then each of them, copied straight from its
    /// page into what is sent.
    pub(crate) fn get(&self, mount: MountId, request: RequestId, keys: &[RemoteKey]) -> Bytes {
        let began = Instant::now();
        let present = HEADER_SIZE..HEADER_SIZE + keys.len();
        let mut answer = self.answers.room(present.end + keys.len() * size_of::<SealedBlock>());
        answer.resize(present.end, 0);

        let mut state = self.state.lock();
        let mut hits = 0;
        for (place, key) in present.zip(keys) {
            let here = state.store.get(mount, key, &mut answer);
            answer[place] = u8::from(here);
            hits += usize::from(here);
        }
        let header = Header::got(request, keys.len(), hits);
        answer[..HEADER_SIZE].copy_from_slice(&header.to_bytes());
        state.counts.get(keys.len(), hits, began.elapsed());
        self.answers.finished(answer)
    }

    /// Begins a PUT of `count` blocks.
    pub(crate) fn put(&self, mount: MountId, request: RequestId, count: usize) -> PutRun<'_> {
        let header = Header::stored(request, count);
        let mut answer = BytesMut::with_capacity(HEADER_SIZE + header.body_len);
        answer.extend_from_slice(&header.to_bytes());
        let (stored, rejected, spent) = (0, 0, Duration::ZERO);
        PutRun { service: self, mount, request, answer, stored, rejected, spent }
    }

    /// Store and counts, to look at.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl PutRun<'_> {
    /// Takes the next blocks of the run.
    pub(crate) fn take(&mut self, entries: &[PutEntry]) {
        let began = Instant::now();
        if self.service.lending.borrow().pausing {
            self.answer.put_bytes(PutOutcome::Rejected as u8, entries.len());
            self.rejected += entries.len();
        } else {
            let mut state = self.service.state.lock();
            state.store.begins(self.mount, self.request);
            for entry in entries {
                let stored = state.store.put(self.mount, entry);
                let outcome = if stored { PutOutcome::Stored } else { PutOutcome::Rejected };
                self.answer.put_u8(outcome as u8);
                *(if stored { &mut self.stored } else { &mut self.rejected }) += 1;
            }
        }
        self.spent += began.elapsed();
    }

    /// The answer, when all blocks were taken.
    pub(crate) fn answer(mut self) -> Bytes {
        let mut state = self.service.state.lock();
        state.counts.put(self.stored, self.rejected, self.spent);
        let oldest = state.store.oldest_put(self.mount);
        drop(state);
        self.answer.extend_from_slice(&frame::stored_oldest(oldest));
        self.answer.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rampool_protocol::block::BLOCK_SIZE;

    const MOUNT: MountId = MountId([3; 16]);

    fn parse(answer: &Bytes) -> (Header, &[u8]) {
        let (header, body) = answer.split_at(HEADER_SIZE);
        let header = Header::parse(header.try_into().unwrap()).unwrap();
        assert_eq!(header.body_len, body.len());
        (header, body)
    }

    #[test]
    fn a_put_is_answered_block_by_block_and_a_get_finds_it() {
        let lending = watch::Sender::new(Lending { capacity_bytes: 1, pausing: false });
        let service = Service::new(Store::new(1).unwrap(), lending.subscribe());
        service.state().store.admit(MOUNT, &"vm1".into());
        let block = SealedBlock { tag: [9; 16], data: [7; BLOCK_SIZE] };
        let entry = PutEntry { key: RemoteKey([1; 16]), block: block.clone() };
        let other = PutEntry { key: RemoteKey([2; 16]), block: block.clone() };

        let mut run = service.put(MOUNT, RequestId(5), 2);
        run.take(&[entry]);
        lending.send_replace(Lending { capacity_bytes: 1, pausing: true });
        run.take(&[other]);
        let answer = run.answer();
        let (header, body) = parse(&answer);
        assert_eq!(header, Header::stored(RequestId(5), 2));
        assert_eq!(frame::stored_body(header, body), Ok((&[0, 1][..], RequestId(5))));

        let answer = service.get(MOUNT, RequestId(6), &[RemoteKey([2; 16]), RemoteKey([1; 16])]);
        let (header, body) = parse(&answer);
        assert_eq!(header, Header::got(RequestId(6), 2, 1));
        let blocks: Vec<_> = frame::got_body(header, body).unwrap().collect();
        assert_eq!(blocks, [None, Some(&block)]);
    }
}
