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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::asker::{Asker, SourceRead, Told, Waits};
    use rampool_keys::pool;
    use rampool_protocol::block::RemoteKey;
    use rampool_protocol::certs::{Admission, Identity, Role, SERVER_NAME};
    use rampool_protocol::frame::{HEADER_SIZE, Verb};
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::time::Duration;

    struct Nobody;

    impl Waits for Nobody {
        fn told(self: Box<Self>, _: Told) -> bool {
            false
        }

        fn source_read(&self) -> Option<SourceRead> {
            None
        }

        fn given_up(&mut self) {}
    }

    fn request(n: u16) -> GetRequest {
        let keys = vec![RemoteKey([n as u8; 16]); 1 + usize::from(n % 32)];
        GetRequest { keys, asker: Asker::new(Nobody), began: None }
    }

    /// A connection to a server that takes no more than so many bytes of a stream before it has read them: both ends.
    async fn connected(window: u32) -> [(quinn::Endpoint, quinn::Connection); 2] {
        let temp = tempfile::tempdir().unwrap();
        let pool = temp.path().join("pool");
        pool::init(&pool).unwrap();
        let identity = |name: &str, role| {
            pool::issue(&pool, name, role, None, 1).unwrap();
            Identity::load(&pool.join(name), role).unwrap()
        };
        let mut config = identity("server", Role::Server).server_config(Admission::Members);
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(window.into());
        config.transport_config(Arc::new(transport));
        let here = (Ipv4Addr::LOCALHOST, 0).into();
        let server = quinn::Endpoint::server(config, here).unwrap();
        let client = quinn::Endpoint::client(here).unwrap();
        let config = identity("client", Role::Client).client_config();
        let address = server.local_addr().unwrap();
        let connecting = client.connect_with(config, address, SERVER_NAME).unwrap();
        let accepted = async { server.accept().await.unwrap().await.unwrap() };
        let (ours, theirs) = tokio::join!(connecting, accepted);
        [(client, ours.unwrap()), (server, theirs)]
    }

    #[tokio::test]
    async fn requests_arrive_whole_and_in_order_at_a_server_that_takes_them_slowly() {
        const REQUESTS: u16 = 300;
        let [(_client, ours), (_server, theirs)] = connected(100).await;
        let line = Line::new(ours.open_bi().await.unwrap().0);
        let send = async {
            for n in 0..REQUESTS {
                line.ask(request(n));
                if n % 8 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            std::future::pending::<()>().await;
        };
        let hold = async {
            loop {
                line.held_up.notified().await;
                line.send_all().await.unwrap();
            }
        };
        let take = async {
            let (_, mut stream) = theirs.accept_bi().await.unwrap();
            for n in 0..REQUESTS {
                let (mut header, asked) = ([0; HEADER_SIZE], request(n));
                stream.read_exact(&mut header).await.unwrap();
                let header = Header::parse(&header).unwrap();
                assert_eq!((header.verb, header.count), (Verb::Get, asked.keys.len()));
                assert_eq!(header.request, RequestId(u64::from(n) + 1));
                let mut body = vec![0; header.body_len];
                stream.read_exact(&mut body).await.unwrap();
                assert_eq!(body, asked.keys.as_bytes());
                assert_eq!(line.answered(header.request).unwrap().keys, asked.keys);
            }
        };
        tokio::select! {
            () = send => {}
            () = hold => {}
            () = take => {}
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("it stands still"),
        }
        assert!(line.answered(RequestId(1)).is_none());
    }

    #[tokio::test]
    async fn too_many_requests_are_refused_one_by_one() {
        let [(_client, ours), (_server, _theirs)] = connected(100).await;
        let line = Line::new(ours.open_bi().await.unwrap().0);
        (0..=UNDER_WAY_MAX).for_each(|_| line.ask(request(0)));
        assert!(line.answered(RequestId(UNDER_WAY_MAX as u64)).is_some());
        assert!(line.answered(RequestId(UNDER_WAY_MAX as u64 + 1)).is_none());
        line.ask(request(0));
        assert!(
            line.answered(RequestId(UNDER_WAY_MAX as u64 + 1)).is_some(),
            "there is room again"
        );
    }
}
