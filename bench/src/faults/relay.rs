//! A UDP relay in front of a server, which makes its link slow and lossy.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::net::Machine;

/// What is done to each packet while the link is bad: a delay, at random up to twice that; and one in so many is lost.
const DELAY: Duration = Duration::from_millis(20);
const LOST_ONE_IN: u32 = 20;

/// The port on both sides.
pub(super) const PORT: u16 = 7167;
/// Clients whose answers are brought back, at most.
const CLIENTS_MAX: usize = 64;
/// How soon its end is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const PACKET_BYTES_MAX: usize = 65_536;

/// The relay. It ends with this.
pub(super) struct Relay {
    state: Arc<State>,
    /// Where clients and other servers find it.
    pub(super) address: SocketAddr,
}

#[derive(Default)]
struct State {
    is_bad: AtomicBool,
    ends: AtomicBool,
}

/// A packet that waits for its time.
struct Packet {
    due: Instant,
    bytes: Vec<u8>,
    by: Arc<UdpSocket>,
    to: SocketAddr,
}

impl Relay {
    /// Relays between `machine` and the server at `server`.
    pub(super) fn start(machine: &Machine, server: SocketAddr) -> Result<Self> {
        let address = SocketAddr::new(machine.address, PORT);
        let front = Arc::new(machine.on(|| UdpSocket::bind(address))??);
        let state = Arc::new(State::default());
        let (send, sent) = channel();
        thread::spawn(move || send_when_due(&sent));
        let theirs = state.clone();
        // A socket for each client, by which the server tells them apart.
        let sockets: Vec<_> = (0..CLIENTS_MAX)
            .map(|_| {
                machine
                    .on(|| UdpSocket::bind((machine.address, 0)))?
                    .map(Arc::new)
                    .map_err(Into::into)
            })
            .collect::<Result<_>>()?;
        thread::spawn(move || {
            let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
            let mut unused = sockets.into_iter();
            receive(&front, &theirs, &send, |client| {
                if let Some(back) = clients.get(&client) {
                    return Some((back.clone(), server));
                }
                let back = unused.next()?;
                clients.insert(client, back.clone());
                let (state, send, front) = (theirs.clone(), send.clone(), front.clone());
                let theirs = back.clone();
                thread::spawn(move || {
                    receive(&theirs, &state, &send, |_| Some((front.clone(), client)));
                });
                Some((back, server))
            });
        });
        Ok(Self { state, address })
    }

    /// Makes the link slow and lossy, or good again.
    pub(super) fn set_bad(&self, is_bad: bool) {
        self.state.is_bad.store(is_bad, Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.ends.store(true, Relaxed);
    }
}

/// Hands on what comes to `socket` until the relay ends; `way` says by which socket and where to.
fn receive(
    socket: &UdpSocket,
    state: &State,
    send: &Sender<Packet>,
    mut way: impl FnMut(SocketAddr) -> Option<(Arc<UdpSocket>, SocketAddr)>,
) {
    let mut random = SmallRng::seed_from_u64(1);
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    if socket.set_read_timeout(Some(LOOK_EVERY)).is_err() {
        return;
    }
    while !state.ends.load(Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let Some((by, to)) = way(from) else { continue };
        let mut due = Instant::now();
        if state.is_bad.load(Relaxed) {
            if random.random_range(0..LOST_ONE_IN) == 0 {
                continue;
            }
            due += DELAY.mul_f64(random.random_range(0.0..2.0));
        }
        if send.send(Packet { due, bytes: buffer[..length].to_vec(), by, to }).is_err() {
            return;
        }
    }
}

/// Sends each packet at its time, until nobody can hand on any more.
fn send_when_due(sent: &Receiver<Packet>) {
    let mut waiting: BinaryHeap<Reverse<Packet>> = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while let Some(Reverse(first)) = waiting.peek()
            && first.due <= now
        {
            // Lost, as anything may be.
            let _ = first.by.send_to(&first.bytes, first.to);
            waiting.pop();
        }
        let next = waiting.peek().map_or(LOOK_EVERY, |Reverse(first)| first.due - now);
        match sent.recv_timeout(next) {
            Ok(packet) => waiting.push(Reverse(packet)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Ord for Packet {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Packet {}
