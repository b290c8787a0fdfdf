//! Who is connected, and who has left. A seat is a guard: it is taken with the hello and given back
//! when dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rampool_protocol::control::MountId;

/// So many mounts without anybody are kept at most.
const LEFT_MAX: usize = 2 * Clients::MAX;

/// The clients that have said hello, at most [`Clients::MAX`].
#[derive(Debug, Default)]
pub(crate) struct Clients {
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    seats: Vec<Arc<Client>>,
    left: Vec<Left>,
}

/// A mount that nobody is here for.
#[derive(Debug)]
struct Left {
    mount: MountId,
    since: Instant,
    keep: Duration,
}

/// A client that has said hello.
#[derive(Debug)]
pub(crate) struct Client {
    /// The name in its certificate.
    pub(crate) name: Arc<str>,
    pub(crate) address: SocketAddr,
    pub(crate) mount: MountId,
    pub(crate) since: Instant,
    /// For how long its blocks are kept when it is gone.
    pub(crate) keep: Duration,
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
        let mut book = self.book.lock();
        if book.seats.len() >= Self::MAX {
            return None;
        }
        let client = Arc::new(client);
        book.seats.push(client.clone());
        book.left.retain(|left| left.mount != client.mount);
        Some(Seat { clients: self.clone(), client })
    }

    /// Those who are here now.
    pub(crate) fn list(&self) -> Vec<Arc<Client>> {
        self.book.lock().seats.clone()
    }

    /// The mounts for which nobody came back in time. They are forgotten here.
    pub(crate) fn gone(&self, now: Instant) -> Vec<MountId> {
        let mut book = self.book.lock();
        // Whoever comes again and again under new names does not fill the list.
        let mut surplus = book.left.len().saturating_sub(LEFT_MAX);
        let is_gone = |left: &mut Left| {
            let is_surplus = surplus > 0;
            surplus = surplus.saturating_sub(1);
            is_surplus || now.saturating_duration_since(left.since) >= left.keep
        };
        book.left.extract_if(.., is_gone).map(|left| left.mount).collect()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut book = self.clients.book.lock();
        book.seats.retain(|seated| !Arc::ptr_eq(seated, &self.client));
        let Client { mount, keep, .. } = *self.client;
        if !book.seats.iter().any(|seated| seated.mount == mount) {
            book.left.push(Left { mount, since: Instant::now(), keep });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(30);

    #[test]
    fn a_seat_is_free_again_when_its_client_leaves() {
        let clients = Arc::new(Clients::default());
        let client = || Client {
            name: "vm1".into(),
            address: ([127, 0, 0, 1], 1).into(),
            mount: MountId([0; 16]),
            since: Instant::now(),
            keep: KEEP,
        };
        let mut seats: Vec<_> = (0..64).map(|_| clients.seat(client()).unwrap()).collect();
        assert!(clients.seat(client()).is_none());
        seats.remove(7);
        assert_eq!(clients.list().len(), 63);
        assert!(clients.seat(client()).is_some());
    }

    #[test]
    fn who_does_not_come_back_in_time_is_gone_once() {
        let clients = Arc::new(Clients::default());
        let client = |mount| Client {
            name: "vm1".into(),
            address: ([127, 0, 0, 1], 1).into(),
            mount: MountId([mount; 16]),
            since: Instant::now(),
            keep: KEEP,
        };
        let seats = [1, 1, 2, 3].map(|mount| clients.seat(client(mount)).unwrap());
        let [one, again, two, _three] = seats;
        drop((one, two));
        let later = Instant::now() + KEEP;
        assert_eq!(clients.gone(Instant::now()), []);
        let _back = clients.seat(client(2)).unwrap();
        assert_eq!(clients.gone(later), [], "one is here still, two came back");
        drop(again);
        assert_eq!(clients.gone(later + KEEP), [MountId([1; 16])]);
        assert_eq!(clients.gone(later + KEEP), []);
    }
}
