//! The task that gossips: events in, packets out, and the list of members.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use foca::{
    AccumulatingRuntime, Config, Foca, NoCustomBroadcast, OwnedNotification, PeriodicParams,
    PostcardCodec, State, Timer,
};
use rampool_protocol::control::{CloseCode, MEMBERS_MAX, Member, Standing};
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::Event;
use super::node::Node;
use super::peers::Peers;

/// Servers that were to be joined and are not there are looked for so often.
const JOIN_EVERY: Duration = Duration::from_secs(5);

/// The most addresses of one name that are called.
const ADDRESSES_MAX: usize = 16;

/// A packet fits into a datagram of the smallest MTU that QUIC allows, with everything round it.
const PACKET_BYTES_MAX: NonZeroUsize = NonZeroUsize::new(1100).expect("it is not 0");

/// A member that does not answer is called to so often, in case it was the network.
const CALL_GONE_EVERY: Duration = Duration::from_secs(10);

/// Members that are gone are forgotten after this time.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// More than ever served a pool: somebody invents them, and the list is begun anew.
const KNOWN_MAX: usize = 4 * MEMBERS_MAX;

/// More than the members of a pool have.
const TIMERS_MAX: usize = 8 * KNOWN_MAX;

/// What was said last is given so long to be sent.
const LAST_WORDS: Duration = Duration::from_millis(20);

type Group = Foca<Node, PostcardCodec, SmallRng, NoCustomBroadcast>;

/// The state of the gossip.
pub(super) struct Swim {
    own: SocketAddr,
    group: Group,
    /// What the group wants to be done.
    wishes: AccumulatingRuntime<Node>,
    /// With a number, because two may be due at the same time.
    timers: BTreeMap<(Instant, u64), Timer<Node>>,
    timers_set: u64,
    peers: Peers,
    join: Vec<String>,
    /// What servers that were called by one address call themselves.
    known_as: HashMap<SocketAddr, SocketAddr>,
    /// Addresses of those to be joined.
    called: HashSet<SocketAddr>,
    /// Names that are being looked up.
    looked_up: HashSet<String>,
    /// What was wrong with those to be joined, so that it is said once.
    complaints: HashMap<String, String>,
    events: mpsc::Sender<Event>,
    told: watch::Sender<Arc<[Member]>>,
}

impl Swim {
    pub(super) fn new(
        own: SocketAddr,
        join: Vec<String>,
        peers: Peers,
        events: mpsc::Sender<Event>,
        told: watch::Sender<Arc<[Member]>>,
    ) -> Self {
        Self {
            own,
            group: group(own),
            wishes: AccumulatingRuntime::new(),
            timers: BTreeMap::new(),
            timers_set: 0,
            peers,
            join,
            known_as: HashMap::new(),
            called: HashSet::new(),
            looked_up: HashSet::new(),
            complaints: HashMap::new(),
            events,
            told,
        }
    }

    /// Gossips until this server leaves.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        let mut look = interval(JOIN_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.timers.first_key_value().map(|((at, _), _)| *at);
            tokio::select! {
                event = inbox.recv() => match event {
                    Some(Event::Leave(done)) => {
                        self.leave().await;
                        let _ = done.send(());
                        return;
                    }
                    Some(event) => self.take(event),
                    None => return,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.let_timers_go_off();
                }
                _ = look.tick() => self.look_up(),
            }
            self.carry_out();
            self.tell();
        }
    }

    async fn leave(&mut self) {
        if let Err(error) = self.group.leave_cluster(&mut self.wishes) {
            debug!(%error, "gossip");
        }
        self.carry_out();
        sleep(LAST_WORDS).await;
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Packet(packet) => {
                if let Err(error) = self.group.handle_data(&packet, &mut self.wishes) {
                    debug!(%error, "gossip");
                }
                self.begin_anew_if_flooded();
            }
            Event::Connected { called, address, connection } => {
                if let Some(called) = called {
                    self.known_as.insert(called, address);
                    self.complaints.remove(&called.to_string());
                }
                if address == self.own {
                    debug!(?called, "that is this server itself, or has the same --advertise");
                    self.peers.unreachable(called.unwrap_or(address));
                    connection.close(CloseCode::Done.into(), b"it is myself");
                    return;
                }
                self.peers.connected(called, address, connection);
                if called.is_some() {
                    self.join(address);
                }
            }
            Event::Lost { address, id } => self.peers.lost(address, id),
            Event::Unreachable { address, why } => {
                self.peers.unreachable(address);
                // Of members the others hear by gossip; those to be joined nobody speaks of.
                if self.called.contains(&address) {
                    self.complain(address.to_string(), why);
                }
            }
            Event::Found { name, addresses: Err(why) } => {
                self.looked_up.remove(&name);
                self.complain(name, why);
            }
            Event::Found { name, addresses: Ok(addresses) } => {
                self.looked_up.remove(&name);
                self.complaints.remove(&name);
                for address in addresses {
                    let known = *self.known_as.get(&address).unwrap_or(&address);
                    if self.peers.has(known) {
                        // What was said may have been lost.
                        self.join(known);
                    } else if known != self.own && !self.is_active(known) {
                        self.called.insert(address);
                        self.peers.call(address);
                    }
                }
            }
            Event::Leave(_) => unreachable!("taken where it is received"),
        }
    }

    /// Looks up those that are to be joined, on another task.
    fn look_up(&mut self) {
        // Addresses change hands; what a few seconds of calling find out need not be kept for ever.
        if self.known_as.len() > KNOWN_MAX {
            self.known_as.clear();
            self.called.clear();
            self.complaints.clear();
        }
        for name in &self.join {
            if !self.looked_up.insert(name.clone()) {
                continue;
            }
            let (name, events) = (name.clone(), self.events.clone());
            tokio::spawn(async move {
                let found = tokio::net::lookup_host(&name).await;
                let addresses = found
                    .map(|found| found.take(ADDRESSES_MAX).collect())
                    .map_err(|error| error.to_string());
                let _ = events.send(Event::Found { name, addresses }).await;
            });
        }
    }

    fn let_timers_go_off(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            due.push(entry.remove());
        }
        // Late ones go off in the order that the library wants.
        due.sort();
        for timer in due {
            if let Err(error) = self.group.handle_timer(timer, &mut self.wishes) {
                debug!(%error, "gossip");
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some((to, packet)) = self.wishes.to_send() {
            self.peers.send(to.address, packet);
        }
        while let Some((after, timer)) = self.wishes.to_schedule() {
            self.timers_set += 1;
            self.timers.insert((Instant::now() + after, self.timers_set), timer);
        }
        while let Some(news) = self.wishes.to_notify() {
            match news {
                OwnedNotification::MemberUp(node) => {
                    info!(address = %node.address, "a server has joined");
                }
                OwnedNotification::MemberDown(node) => {
                    info!(address = %node.address, "a server is gone");
                }
                other => debug!(?other, "gossip"),
            }
        }
    }

    /// Tells clients and status who is there, if that has changed.
    fn tell(&self) {
        let members = self.group.iter_membership_state().map(member);
        let mut members: Vec<Member> = members.filter(|other| other.address != self.own).collect();
        members.sort_unstable();
        members.truncate(MEMBERS_MAX);
        self.told.send_if_modified(|told| {
            let is_news = **told != *members;
            if is_news {
                *told = members.into();
            }
            is_news
        });
    }

    /// Tells the server at `address` that this one is there, if it is no member.
    fn join(&mut self, address: SocketAddr) {
        if self.is_active(address) {
            return;
        }
        if let Err(error) = self.group.announce(Node::at(address), &mut self.wishes) {
            debug!(%error, "gossip");
        }
    }

    fn is_active(&self, address: SocketAddr) -> bool {
        self.group.iter_members().any(|member| member.id().address == address)
    }

    fn complain(&mut self, name: String, why: String) {
        if self.complaints.get(&name) != Some(&why) {
            warn!("cannot join {name}: {why}; trying again");
            self.complaints.insert(name, why);
        }
    }

    fn begin_anew_if_flooded(&mut self) {
        let known = self.group.iter_membership_state().len();
        if known > KNOWN_MAX || self.timers.len() > TIMERS_MAX {
            warn!("some server tells of more than {KNOWN_MAX} others: the list is begun anew");
            self.group = group(self.own);
            self.wishes = AccumulatingRuntime::new();
            self.timers.clear();
        }
    }
}

fn group(own: SocketAddr) -> Group {
    const A_FEW: NonZeroUsize = NonZeroUsize::new(2).expect("it is not 0");
    let mut config = Config::new_lan(NonZeroU32::new(16).expect("it is not 0"));
    config.max_packet_size = PACKET_BYTES_MAX;
    config.remove_down_after = Some(FORGET_AFTER);
    config.periodic_announce_to_down_members =
        Some(PeriodicParams { frequency: CALL_GONE_EVERY, num_members: A_FEW });
    Foca::new(Node::starting(own), config, rand::make_rng(), PostcardCodec)
}

fn member(known: &foca::Member<Node>) -> Member {
    let standing = match known.state() {
        State::Alive => Standing::Alive,
        State::Suspect => Standing::Suspected,
        State::Down => Standing::Gone,
    };
    Member { standing, address: known.id().address }
}
