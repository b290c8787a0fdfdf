//! Who is connected. A seat is a guard: it is taken with the hello and given back when dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rampool_protocol::control::MountId;

/// The clients that have said hello, at most [`Clients::MAX`].
#[derive(Debug, Default)]
pub(crate) struct Clients {
    seats: Mutex<Vec<Arc<Client>>>,
}

/// A client that has said hello.
#[derive(Debug)]
pub(crate) struct Client {
    /// The name in its certificate.
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) mount: MountId,
    pub(crate) since: Instant,
}

/// A client's place among the others.
#[derive(Debug)]
pub(super) struct Seat {
    clients: Arc<Clients>,
    client: Arc<Client>,
}

impl Clients {
    /// The most clients at a time.
    pub(crate) const MAX: usize = 64;

    /// A seat for `client`, unless all are taken.
    pub(super) fn seat(self: &Arc<Self>, client: Client) -> Option<Seat> {
        let mut seats = self.seats.lock();
        if seats.len() >= Self::MAX {
            return None;
        }
        let client = Arc::new(client);
        seats.push(client.clone());
        Some(Seat { clients: self.clone(), client })
    }

    /// Those who are here now.
    pub(crate) fn list(&self) -> Vec<Arc<Client>> {
        self.seats.lock().clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.clients.seats.lock().retain(|seated| !Arc::ptr_eq(seated, &self.client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_free_again_when_its_client_leaves() {
        let clients = Arc::new(Clients::default());
        let client = || Client {
            name: "vm1".to_owned(),
            address: ([127, 0, 0, 1], 1).into(),
            mount: MountId([0; 16]),
            since: Instant::now(),
        };
        let mut seats: Vec<_> = (0..64).map(|_| clients.seat(client()).unwrap()).collect();
        assert!(clients.seat(client()).is_none());
        seats.remove(7);
        assert_eq!(clients.list().len(), 63);
        assert!(clients.seat(client()).is_some());
    }
}
