//! Connections to other servers, made when there is something to say. What cannot be said is lost, as with UDP: the
//! protocol above expects no more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{anyhow, bail};
use bytes::Bytes;
use quinn::{Connection, ConnectionError, Endpoint};
use rampool_keys::renewal::{REVOKED, revoked};
use rampool_protocol::certs::{Credentials, Role, SERVER_NAME, explain};
use rampool_protocol::control::{CloseCode, Greeting, ToServer, VERSION};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Event;
use crate::messages::{End, read, tell};

/// A server that does not greet us within this time is not there.
const GREETING_MAX: Duration = Duration::from_secs(3);

/// Packets that wait for a connection; further ones are lost.
const WAITING_MAX: usize = 8;

/// Servers that are called at a time; to others nothing is said.
const CALLS_MAX: usize = 32;

/// What another server may have on its way to us on streams, where it has nothing to say.
const WINDOW_BYTES: u32 = 16 << 10;

/// The connections, by the address that the other server says it has.
pub(super) struct Peers {
    own: SocketAddr,
    endpoint: Endpoint,
    credentials: watch::Receiver<Credentials>,
    events: mpsc::Sender<Event>,
    links: HashMap<SocketAddr, Link>,
    calls: JoinSet<()>,
}

enum Link {
    /// It is being called; these wait to be said.
    Calling(Vec<Bytes>),
    Connected(Connection),
}

impl Peers {
    pub(super) fn new(
        own: SocketAddr,
        endpoint: Endpoint,
        credentials: watch::Receiver<Credentials>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let (links, calls) = (HashMap::new(), JoinSet::new());
        Self { own, endpoint, credentials, events, links, calls }
    }

    /// Whether there is a connection to the server that calls itself `address`.
    pub(super) fn has(&self, address: SocketAddr) -> bool {
        matches!(self.links.get(&address), Some(Link::Connected(_)))
    }

    /// Says `packet` to the server at `address`, as soon as there is a connection.
    pub(super) fn send(&mut self, address: SocketAddr, packet: Bytes) {
        match self.links.get_mut(&address) {
            // Of a connection that is lost we are told.
            Some(Link::Connected(connection)) => drop(connection.send_datagram(packet)),
            Some(Link::Calling(waiting)) if waiting.len() < WAITING_MAX => waiting.push(packet),
            Some(Link::Calling(_)) => {}
            None => self.call_to_say(address, vec![packet]),
        }
    }

    /// Calls the server at `address`, unless there is a connection.
    pub(super) fn call(&mut self, address: SocketAddr) {
        if !self.links.contains_key(&address) {
            self.call_to_say(address, Vec::new());
        }
    }

    /// The server that calls itself `address` has been called as `called`, or has called us.
    pub(super) fn connected(
        &mut self,
        called: Option<SocketAddr>,
        address: SocketAddr,
        connection: Connection,
    ) {
        let called = called.and_then(|called| self.forget_call(called));
        let waited = self.forget_call(address);
        for packet in called.into_iter().chain(waited).flatten() {
            let _ = connection.send_datagram(packet);
        }
        // The latest is the one that the other side has for certain.
        self.links.insert(address, Link::Connected(connection));
    }

    /// A connection of the server at `address` is lost.
    pub(super) fn lost(&mut self, address: SocketAddr, id: usize) {
        if let Entry::Occupied(link) = self.links.entry(address)
            && matches!(link.get(), Link::Connected(connection) if connection.stable_id() == id)
        {
            link.remove();
        }
    }

    /// The server at `address` cannot be called.
    pub(super) fn unreachable(&mut self, address: SocketAddr) {
        let _ = self.forget_call(address);
    }

    fn forget_call(&mut self, address: SocketAddr) -> Option<Vec<Bytes>> {
        match self.links.remove(&address)? {
            Link::Calling(waiting) => Some(waiting),
            connected @ Link::Connected(_) => {
                self.links.insert(address, connected);
                None
            }
        }
    }

    fn call_to_say(&mut self, address: SocketAddr, waiting: Vec<Bytes>) {
        while self.calls.try_join_next().is_some() {}
        let calling = self.links.values().filter(|link| matches!(link, Link::Calling(_)));
        if address == self.own || calling.count() >= CALLS_MAX {
            return;
        }
        self.links.insert(address, Link::Calling(waiting));
        let (own, events) = (self.own, self.events.clone());
        let credentials = self.credentials.clone();
        let config = credentials.borrow().config.clone();
        let connecting = self.endpoint.connect_with(config, address, SERVER_NAME);
        self.calls.spawn(async move {
            let greeted = async { greet(connecting?, own).await };
            let greeted = tokio::time::timeout(GREETING_MAX, greeted).await;
            match greeted.unwrap_or_else(|_| Err(anyhow!("it does not answer"))) {
                Ok((other, connection)) => {
                    // The last handle of a connection takes what waits to be sent along.
                    let ours = connection.clone();
                    let called = Some(address);
                    let _ =
                        events.send(Event::Connected { called, address: other, connection }).await;
                    tokio::select! {
                        _ = listen(&ours, other, &events) => {}
                        () = revoked(&ours, credentials) => {
                            ours.close(CloseCode::Refused.into(), REVOKED.as_bytes());
                            listen(&ours, other, &events).await;
                        }
                    }
                }
                Err(error) => {
                    let _ = events
                        .send(Event::Unreachable { address, why: format!("{error:#}") })
                        .await;
                }
            }
        });
    }
}

/// Passes on what the other server says until the connection is lost.
pub(super) async fn listen(
    connection: &Connection,
    address: SocketAddr,
    events: &mpsc::Sender<Event>,
) -> ConnectionError {
    connection.set_max_concurrent_bi_streams(0_u32.into());
    connection.set_receive_window(WINDOW_BYTES.into());
    loop {
        match connection.read_datagram().await {
            // Where more comes than can be heard, some is lost.
            Ok(packet) => drop(events.try_send(Event::Packet(packet))),
            Err(error) => {
                let _ = events.send(Event::Lost { address, id: connection.stable_id() }).await;
                return error;
            }
        }
    }
}

/// Says who we are to a server that we have called, and gives its own address.
async fn greet(
    connecting: quinn::Connecting,
    own: SocketAddr,
) -> anyhow::Result<(SocketAddr, Connection)> {
    let explained = |error| anyhow!("{}", explain(&error, Role::Server));
    let connection = connecting.await.map_err(explained)?;
    let (mut send, mut recv) = connection.open_bi().await.map_err(explained)?;
    let exchange = async {
        tell(&mut send, &ToServer::Greeting(Greeting { version: VERSION, address: own })).await?;
        read::<Greeting>(&mut recv).await
    };
    let theirs = match exchange.await {
        Ok(theirs) => theirs,
        Err(End::Lost(error)) => return Err(explained(error)),
        // A connection that is closed breaks its streams first.
        Err(End::Closed(_, reason)) => {
            let error = connection.close_reason().map(|error| explain(&error, Role::Server));
            bail!("{}", error.unwrap_or(reason));
        }
    };
    if theirs.version != VERSION {
        connection.close(CloseCode::Version.into(), b"another version");
        bail!("it speaks version {}, we speak {VERSION}; upgrade the older", theirs.version);
    }
    Ok((theirs.address, connection))
}
