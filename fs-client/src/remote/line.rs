//! The stream of a connection on which readers ask for blocks.
//!
//! Usually the tier's thread writes what readers hand to it. While it sleeps, a reader's own thread does, and sends it: see
//! [`super::drive`].

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use quinn::{SendStream, WriteError};
use rampool_protocol::frame::{Header, RequestId};
use tokio::sync::Notify;
use zerocopy::IntoBytes as _;

use super::server::GetRequest;

/// Requests of readers that the server has not answered; a further one is a miss.
const UNDER_WAY_MAX: usize = 4096;

/// One connection's. Dropping it tells all who have asked that nothing comes.
pub(super) struct Line {
    out: Mutex<Out>,
    under_way: Mutex<HashMap<RequestId, GetRequest>>,
    /// QUIC did not take all that was written: somebody is to wait until it does.
    pub(super) held_up: Notify,
}

struct Out {
    stream: SendStream,
    last: u64,
    /// What QUIC has not taken yet.
    wire: Vec<u8>,
}

impl Line {
    pub(super) fn new(stream: SendStream) -> Self {
        let out = Out { stream, last: 0, wire: Vec::new() };
        Self { out: Mutex::new(out), under_way: Mutex::default(), held_up: Notify::new() }
    }

    /// Writes a request, on any thread. Without room for it who asked is told.
    pub(super) fn ask(&self, request: GetRequest) {
        let mut out = self.out.lock();
        let mut under_way = self.under_way.lock();
        if under_way.len() >= UNDER_WAY_MAX {
            // It tells who asked, which may take a while.
            drop((out, under_way));
            return drop(request);
        }
        out.last += 1;
        let id = RequestId(out.last);
        // Else whoever waits until QUIC takes more sends this as well: a write here would take its waker away.
        let is_free = out.wire.is_empty();
        out.wire.extend_from_slice(&Header::get(id, request.keys.len()).to_bytes());
        out.wire.extend_from_slice(request.keys.as_bytes());
        under_way.insert(id, request);
        drop(under_way);
        let write = |out: &mut Out| out.write(&mut Context::from_waker(Waker::noop()));
        if is_free && !matches!(write(&mut out), Poll::Ready(Ok(()))) {
            self.held_up.notify_one();
        }
    }

    /// Waits until QUIC has taken all that was written.
    pub(super) async fn send_all(&self) -> Result<(), WriteError> {
        std::future::poll_fn(|context| self.out.lock().write(context)).await
    }

    /// The request that was answered, if there is such a one.
    pub(super) fn answered(&self, id: RequestId) -> Option<GetRequest> {
        self.under_way.lock().remove(&id)
    }
}

impl Out {
    fn write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        let mut done = 0;
        let end = loop {
            if done == self.wire.len() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.stream).poll_write(context, &self.wire[done..]) {
                Poll::Ready(Ok(taken)) => done += taken,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.wire.drain(..done);
        end
    }
}
