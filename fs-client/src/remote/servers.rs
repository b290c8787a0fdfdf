//! The servers of a mount, each at its place in the list. Places are numbers of 8 bits in the lent table, and are used
//! again: what was lent to the server before is not asked of the next.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::holding::Stay;
use super::lent::{Lent, ServerIndex};
use super::saved::Remembered;
use super::seal::SealCount;
use super::server::{Inbox, Server};
use super::{SERVERS_MAX, ServerAddress};

/// A state of the list.
type List = Arc<[Option<Arc<Server>>]>;

/// The list. It changes seldom, and is read by all.
#[derive(Default)]
pub(super) struct Servers {
    list: RwLock<List>,
    /// Those of an earlier run of the mount that have not come back to their places.
    remembered: Mutex<Vec<Remembered>>,
}

impl Servers {
    /// All of them, as they are now.
    pub(super) fn all(&self) -> impl Iterator<Item = (ServerIndex, Arc<Server>)> + use<> {
        let list = self.list.read().clone();
        (0..list.len()).filter_map(move |n| Some((ServerIndex(n as u8), list[n].clone()?)))
    }

    /// The one at a place.
    pub(super) fn get(&self, index: ServerIndex) -> Option<Arc<Server>> {
        self.list.read().get(usize::from(index.0))?.clone()
    }

    /// Whether what was lent may still be where it was lent to, if it stays there for so long.
    pub(super) fn may_hold(&self, lent: Lent, stay: Stay) -> bool {
        let list = self.list.read();
        match list.get(usize::from(lent.server.0)).and_then(Option::as_ref) {
            Some(server) => server.may_hold(lent.count, stay),
            None => {
                drop(list);
                self.remembered.lock().iter().any(|known| known.index == lent.server)
            }
        }
    }

    /// Keeps the places of servers for when they come.
    pub(super) fn remember(&self, servers: Vec<Remembered>) {
        *self.remembered.lock() = servers;
    }

    /// Those that have not come yet.
    pub(super) fn remembered(&self) -> Vec<SocketAddr> {
        self.remembered.lock().iter().map(|known| known.address).collect()
    }

    /// All that may hold something, to be remembered.
    pub(super) fn to_remember(&self) -> Vec<Remembered> {
        let known = |(index, server): (ServerIndex, Arc<Server>)| {
            let instance = server.instance()?;
            Some(Remembered { index, address: server.address.found, instance })
        };
        self.all().filter_map(known).collect()
    }

    /// Gives a server a place; none if there are as many as there may be. `last` is the last sealing so far.
    pub(super) fn add(
        &self,
        address: ServerAddress,
        last: SealCount,
    ) -> Option<(ServerIndex, Arc<Server>, Inbox)> {
        let mut remembered = self.remembered.lock();
        let former = remembered.iter().position(|known| known.address == address.found);
        let former = former.map(|n| remembered.swap_remove(n));
        let mut list = self.list.write();
        let mut changed = list.to_vec();
        let is_free = |place: &usize| changed.get(*place).is_none_or(Option::is_none);
        let is_kept =
            |place: &usize| remembered.iter().any(|known| usize::from(known.index.0) == *place);
        let mut free = (0..SERVERS_MAX).filter(is_free);
        let (place, (server, inbox)) = match former {
            Some(known) => (usize::from(known.index.0), Server::known(address, known.instance)),
            None => (free.find(|place| !is_kept(place))?, Server::new(address, last)),
        };
        let server = Arc::new(server);
        changed.resize(changed.len().max(place + 1), None);
        changed[place] = Some(server.clone());
        *list = changed.into();
        Some((ServerIndex(place as u8), server, inbox))
    }

    /// Takes a server off the list.
    pub(super) fn remove(&self, index: ServerIndex) {
        let mut list = self.list.write();
        let mut changed = list.to_vec();
        changed[usize::from(index.0)] = None;
        *list = changed.into();
    }

    /// Another address to which the run `instance` of a server is connected already.
    pub(super) fn also_known_as(&self, instance: u64, but: SocketAddr) -> Option<String> {
        self.all()
            .map(|(_, server)| server)
            .find(|server| server.address.found != but && server.is_run(instance))
            .map(|server| server.address.shown.clone())
    }
}

#[cfg(test)]
mod tests {
    use rampool_protocol::control::Lending;

    use super::*;

    const NONE: Stay = Stay::ONE_TURN;

    fn address(port: u16) -> ServerAddress {
        ServerAddress { shown: port.to_string(), found: ([127, 0, 0, 1], port).into() }
    }

    #[test]
    fn what_was_lent_to_the_one_before_is_not_asked_of_the_next() {
        let servers = Servers::default();
        let (one, ..) = servers.add(address(1), SealCount(0)).unwrap();
        let (two, ..) = servers.add(address(2), SealCount(0)).unwrap();
        let lent = |server, count| Lent { server, count: SealCount(count) };
        assert!(servers.may_hold(lent(one, 5), NONE) && servers.may_hold(lent(two, 6), NONE));
        servers.remove(one);
        assert!(!servers.may_hold(lent(one, 5), NONE) && servers.may_hold(lent(two, 6), NONE));
        assert!(servers.get(one).is_none());
        let (three, ..) = servers.add(address(3), SealCount(6)).unwrap();
        assert_eq!(three, one);
        assert!(!servers.may_hold(lent(three, 5), NONE) && servers.may_hold(lent(three, 7), NONE));
        assert_eq!(servers.all().count(), 2);
    }

    #[test]
    fn what_a_server_has_evicted_it_holds_no_more() {
        let servers = Servers::default();
        let (index, server, _) = servers.add(address(1), SealCount(0)).unwrap();
        let lends = Lending { capacity_bytes: 1, pausing: false };
        server.connected(lends, 7, SealCount(0));
        let holds = |count| servers.may_hold(Lent { server: index, count: SealCount(count) }, NONE);
        server.holds(SealCount(5), SealCount(8));
        assert!(!holds(4) && holds(5));
        server.connected(lends, 8, SealCount(3));
        assert!(holds(4), "a new run has evicted nothing yet");
    }

    #[test]
    fn who_was_there_in_an_earlier_run_gets_its_place_back() {
        let servers = Servers::default();
        assert!(servers.add(address(9), SealCount(0)).is_some());
        servers.remove(ServerIndex(0));
        let found = address(2).found;
        servers.remember(vec![Remembered { index: ServerIndex(0), address: found, instance: 7 }]);
        let lent = Lent { server: ServerIndex(0), count: SealCount(5) };
        assert!(servers.may_hold(lent, NONE), "it may come");
        let (other, ..) = servers.add(address(1), SealCount(9)).unwrap();
        assert_eq!(other, ServerIndex(1));
        let (place, server, _) = servers.add(address(2), SealCount(9)).unwrap();
        assert_eq!((place, servers.remembered()), (ServerIndex(0), vec![]));
        assert!(servers.may_hold(lent, NONE));
        let lends = Lending { capacity_bytes: 1, pausing: false };
        server.connected(lends, 7, SealCount(9));
        assert!(servers.may_hold(lent, NONE), "it is the run that it was");
        server.connected(lends, 8, SealCount(9));
        assert!(!servers.may_hold(lent, NONE), "it was started anew");
    }

    #[test]
    fn a_server_that_boasts_does_not_get_all_blocks() {
        let servers = Servers::default();
        let weight = |port, capacity_bytes| {
            let (index, server, _) = servers.add(address(port), SealCount(0)).unwrap();
            server.connected(Lending { capacity_bytes, pausing: false }, 1, SealCount(0));
            server.candidate(index).weight
        };
        assert_eq!(weight(1, 256 << 30), 256 << 30);
        assert_eq!(weight(2, u64::MAX), 1 << 40);
    }

    #[test]
    fn there_are_no_more_than_there_may_be() {
        let servers = Servers::default();
        for port in 0..SERVERS_MAX as u16 {
            assert!(servers.add(address(port), SealCount(0)).is_some());
        }
        assert!(servers.add(address(1000), SealCount(0)).is_none());
        servers.remove(ServerIndex(7));
        let (place, ..) = servers.add(address(1000), SealCount(0)).unwrap();
        assert_eq!(place, ServerIndex(7));
    }
}
