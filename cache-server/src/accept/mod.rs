//! The network side: who may come in, and what they may send.
//!
//! One task accepts; each connection has a task that owns
//! the tasks of its data streams; all end with [`Acceptor::run`].

mod clients;
mod connection;
mod data;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Endpoint, TokioRuntime};
use rampool_keys::authority::Authority;
use rampool_protocol::certs::{Admission, Credentials, Identity};
use rampool_protocol::control::{CloseCode, Lending};
use rampool_protocol::endpoint;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::warn;

use crate::gossip::{self, Gossip};
use crate::serve::Service;
pub(crate) use clients::{Client, Clients};

/// Connections that have not said what they are here for. More are refused at once, before anything is spent on
/// them.
const STRANGERS_MAX: usize = 32;

/// All connections. Those that have found no seat among clients or servers are about to be told so.
const CONNECTIONS_MAX: usize = Clients::MAX + gossip::SEATS_MAX + 2 * STRANGERS_MAX;

/// How long the peers are given to hear that the server ends.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// A bound endpoint.
#[derive(Debug)]
pub(crate) struct Acceptor {
    endpoint: Endpoint,
    address: SocketAddr,
    hint: Option<String>,
}

/// What every connection needs.
#[derive(Clone, Debug)]
pub(crate) struct Hall {
    pub(crate) service: Arc<Service>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) lending: watch::Receiver<Lending>,
    pub(crate) gossip: Gossip,
    pub(crate) credentials: watch::Receiver<Credentials>,
    /// Makes members, where its key is here.
    pub(crate) authority: Option<Arc<Authority>>,
}

/// What connections are accepted with.
pub(crate) fn config(identity: &Identity, admission: Admission) -> quinn::ServerConfig {
    let mut config = identity.server_config(admission);
    config.max_incoming(STRANGERS_MAX);
    config
}

impl Acceptor {
    /// Binds `address`. Runs within a tokio runtime.
    ///
    /// # Errors
    /// Those of bind(2).
    pub(crate) fn bind(
        address: SocketAddr,
        identity: &Identity,
        admission: Admission,
    ) -> io::Result<Self> {
        let bound = endpoint::bind(address)?;
        let hint = bound.hint();
        let endpoint = Endpoint::new(
            endpoint::endpoint_config(),
            Some(config(identity, admission)),
            bound.socket,
            Arc::new(TokioRuntime),
        )?;
        Ok(Self { address: endpoint.local_addr()?, endpoint, hint })
    }

    /// Where clients are listened to, with the real port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What other servers are called from.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// What to tell the administrator about the socket.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Serves until `stop` completes, then tells every client and ends all tasks.
    pub(crate) async fn run(self, hall: Hall, stop: impl Future<Output = ()>) {
        let mut connections = JoinSet::new();
        let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                incoming = self.endpoint.accept() => {
                    let Some(incoming) = incoming else { break };
                    let place = strangers.clone().try_acquire_owned();
                    match place.ok().filter(|_| connections.len() < CONNECTIONS_MAX) {
                        Some(place) => {
                            connections.spawn(connection::attend(incoming, place, hall.clone()));
                        }
                        None => {
                            let address = incoming.remote_address();
                            warn!(%address, "refused: too many connections");
                            incoming.refuse();
                        }
                    }
                }
                Some(_) = connections.join_next() => {}
                () = &mut stop => break,
            }
        }
        self.endpoint.close(CloseCode::Done.into(), b"server ends");
        connections.shutdown().await;
        // A peer that does not answer has its own timeout.
        let _ = tokio::time::timeout(FAREWELL_MAX, self.endpoint.wait_idle()).await;
    }
}
