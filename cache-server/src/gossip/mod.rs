//! Who else lends: servers tell each other who is there, and clients who there is.
//!
//! The protocol is SWIM (Das, Gupta and Motivala, "Scalable Weakly-consistent Infection-style Process Group Membership",
//! DSN 2002), of the library foca. Its packets are QUIC datagrams between servers, which are let in by their certificates.
//! What each server lends it tells its clients itself: that is always newer.

mod node;
mod peers;
mod swim;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use bytes::Bytes;
use quinn::{Connection, Endpoint, SendStream};
use rampool_protocol::certs::Credentials;
use rampool_protocol::control::{CloseCode, Greeting, MEMBERS_MAX, Member, VERSION};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::messages::{End, tell};
use swim::Swim;

/// Servers that may call this one at a time.
pub(crate) const SEATS_MAX: usize = MEMBERS_MAX;

/// Events that wait; of packets, further ones are lost.
const EVENTS_MAX: usize = 256;

/// The rest of the server's hold on the gossip.
#[derive(Clone, Debug)]
pub(crate) struct Gossip {
    own: SocketAddr,
    events: mpsc::Sender<Event>,
    members: watch::Receiver<Arc<[Member]>>,
    seats: Arc<Semaphore>,
}

/// What happens to it.
#[derive(Debug)]
enum Event {
    /// Another server said something.
    Packet(Bytes),
    /// There is a connection to the server that calls itself `address`. If we called it, it may have been as another.
    Connected { called: Option<SocketAddr>, address: SocketAddr, connection: Connection },
    /// A connection to that server is lost.
    Lost { address: SocketAddr, id: usize },
    /// A server cannot be called.
    Unreachable { address: SocketAddr, why: String },
    /// Servers to be joined were looked up.
    Found { name: String, addresses: Result<Vec<SocketAddr>, String> },
    /// This server ends. Told when the others were told.
    Leave(oneshot::Sender<()>),
}

impl Gossip {
    /// Begins to gossip as the server at `own`, with those that `join` names. Runs within a tokio runtime, and ends with it
    /// or with [`Self::leave`].
    pub(crate) fn start(
        own: SocketAddr,
        join: Vec<String>,
        endpoint: Endpoint,
        credentials: watch::Receiver<Credentials>,
    ) -> Self {
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let (told, members) = watch::channel(Arc::default());
        let peers = peers::Peers::new(own, endpoint, credentials, events.clone());
        let swim = Swim::new(own, join, peers, events.clone(), told);
        tokio::spawn(swim.run(inbox));
        Self { own, events, members, seats: Arc::new(Semaphore::new(SEATS_MAX)) }
    }

    /// Where the others find this server.
    pub(crate) fn own(&self) -> SocketAddr {
        self.own
    }

    /// The other servers, those first that answer.
    pub(crate) fn members(&self) -> watch::Receiver<Arc<[Member]>> {
        self.members.clone()
    }

    /// Gossips over the connection of a server that has called us, until it ends.
    pub(crate) async fn attend(
        &self,
        connection: &Connection,
        mut send: SendStream,
        greeting: Greeting,
    ) -> End {
        let Ok(_seat) = self.seats.try_acquire() else {
            let reason = format!("this server talks to {SEATS_MAX} others already");
            return End::Closed(CloseCode::Busy, reason);
        };
        let ours = Greeting { version: VERSION, address: self.own };
        if let Err(end) = tell(&mut send, &ours).await {
            return end;
        }
        let address = greeting.address;
        // A name that stands for all servers stands for us, too: we hang up when we are told.
        if address == self.own {
            return End::Lost(connection.closed().await);
        }
        let connected = Event::Connected { called: None, address, connection: connection.clone() };
        let _ = self.events.send(connected).await;
        End::Lost(peers::listen(connection, address, &self.events).await)
    }

    /// Tells the others that this server ends.
    pub(crate) async fn leave(&self) {
        let (done, told) = oneshot::channel();
        if self.events.send(Event::Leave(done)).await.is_ok() {
            let _ = told.await;
        }
    }
}

/// The address at which other machines find a server that listens at `listen`: the one from which this machine talks to
/// others, if it listens at all of them; without a route to all others the first of its interfaces.
pub(crate) fn own_address(listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    // Nothing is sent: connecting chooses an address. These are for documentation (RFC 5737 and 3849), so the default
    // route decides.
    let far = match listen {
        SocketAddr::V4(_) => SocketAddr::from(([192, 0, 2, 1], 9)),
        SocketAddr::V6(_) => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9)),
    };
    let loopback: IpAddr = match listen {
        SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    let ours = UdpSocket::bind((listen.ip(), 0))
        .and_then(|socket| socket.connect(far).and_then(|()| socket.local_addr()));
    let ours = ours.map(|ours| ours.ip()).ok().or_else(|| first_address(listen.is_ipv4()));
    SocketAddr::new(ours.unwrap_or(loopback), listen.port())
}

/// The first address of an interface that others can reach.
fn first_address(of_version_4: bool) -> Option<IpAddr> {
    use nix::net::if_::InterfaceFlags;
    let usable = |interface: &nix::ifaddrs::InterfaceAddress| {
        interface.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING)
            && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
    };
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(found), _) if of_version_4 => Some(found.ip().into()),
            (_, Some(found)) if !of_version_4 => Some(found.ip().into()),
            _ => None,
        }
    };
    let is_local = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let interfaces = nix::ifaddrs::getifaddrs().ok()?;
    interfaces.filter(usable).filter_map(address).find(|address| !is_local(address))
}
