//! Gives each server that is wanted a place and a task that keeps its connection, and takes them back.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use super::lent::ServerIndex;
use super::link::{self, Endpoints};
use super::members::{self, Known};
use super::names::Given;
use super::server::Server;
use super::{SERVERS_MAX, ServerAddress, Shared};

/// Names are looked up so often.
const LOOK_UP_EVERY: Duration = Duration::from_secs(30);

/// Who cannot be reached is looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The tasks of all connections.
pub(super) struct Keepers {
    shared: Arc<Shared>,
    endpoints: Endpoints,
    given: Vec<Given>,
    kept: HashMap<SocketAddr, Kept>,
    look_ups: JoinSet<(usize, Result<Given, String>)>,
}

struct Kept {
    index: ServerIndex,
    server: Arc<Server>,
    task: Option<AbortHandle>,
}

impl Keepers {
    pub(super) fn new(shared: Arc<Shared>, endpoints: Endpoints, given: Vec<Given>) -> Self {
        Self { shared, endpoints, given, kept: HashMap::new(), look_ups: JoinSet::new() }
    }

    /// Follows what is given and told, for ever.
    pub(super) async fn run(&mut self) {
        let (mut look, mut look_up) = (interval(LOOK_EVERY), interval(LOOK_UP_EVERY));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look_up.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // They were looked up when the options were read.
        look_up.reset();
        let shared = self.shared.clone();
        self.follow(Instant::now());
        // Nobody may tell of those that an earlier run of the mount knew.
        for found in shared.servers.remembered() {
            self.keep(ServerAddress { shown: found.to_string(), found });
        }
        loop {
            self.follow(Instant::now());
            tokio::select! {
                () = shared.members.changed() => {}
                _ = look.tick() => self.look_up(Given::is_unknown),
                _ = look_up.tick() => self.look_up(Given::is_name),
                Some(Ok((n, found))) = self.look_ups.join_next() => match found {
                    Ok(given) => self.given[n] = given,
                    Err(error) => {
                        tracing::debug!(server = self.given[n].text(), error, "still as it was");
                    }
                },
            }
        }
    }

    /// Ends all connections.
    pub(super) async fn end(self) {
        // First, or they would try again.
        for task in self.kept.values().filter_map(|kept| kept.task.as_ref()) {
            task.abort();
        }
        self.endpoints.end().await;
    }

    fn look_up(&mut self, which: impl Fn(&Given) -> bool) {
        for (n, given) in self.given.iter().enumerate().filter(|(_, given)| which(given)) {
            let given = given.clone();
            self.look_ups.spawn_blocking(move || (n, given.look_up_again()));
        }
    }

    fn follow(&mut self, now: Instant) {
        let given = members::given(&self.given);
        let standings = self.shared.members.standings();
        let known = |address: &SocketAddr, missing_since| Known {
            is_given: given.contains_key(address),
            standing: standings.get(address).copied(),
            missing_since,
        };
        for (address, kept) in &self.kept {
            kept.server.stands(standings.get(address).copied());
        }
        let leaves = |(address, kept): &(&SocketAddr, &Kept)| {
            !known(address, kept.server.missing_since()).stays(now)
        };
        let leaving: Vec<SocketAddr> =
            self.kept.iter().filter(leaves).map(|(address, _)| *address).collect();
        for address in leaving {
            self.give_up(address);
        }
        // Those that were given first, also in the place of others that are not there.
        let new = given.keys().chain(standings.keys()).copied();
        let new: Vec<SocketAddr> = new
            .filter(|address| !self.kept.contains_key(address) && known(address, None).is_wanted())
            .collect();
        for found in new {
            if self.kept.len() >= SERVERS_MAX {
                let missing = |(address, kept): &(&SocketAddr, &Kept)| {
                    !given.contains_key(*address) && kept.server.missing_since().is_some()
                };
                let missing = self.kept.iter().find(missing).map(|(address, _)| *address);
                match missing.filter(|_| given.contains_key(&found)) {
                    Some(missing) => self.give_up(missing),
                    None => {
                        tracing::debug!("there are more than {SERVERS_MAX} servers");
                        return;
                    }
                }
            }
            let shown = given.get(&found).cloned().unwrap_or_else(|| found.to_string());
            self.keep(ServerAddress { shown, found });
        }
    }

    /// Ends the connection to a server, and takes it off the list.
    fn give_up(&mut self, address: SocketAddr) {
        let Some(kept) = self.kept.remove(&address) else { return };
        if let Some(task) = kept.task {
            task.abort();
        }
        self.shared.servers.remove(kept.index);
        tracing::info!(server = kept.server.address.shown, "forgotten");
    }

    fn keep(&mut self, address: ServerAddress) {
        let found = address.found;
        if self.kept.contains_key(&found) {
            return;
        }
        let last = self.shared.last_seal();
        let Some((index, server, inbox)) = self.shared.servers.add(address, last) else { return };
        let task = match self.endpoints.for_address(found) {
            Ok(caller) => {
                let keep = link::keep(self.shared.clone(), server.clone(), caller, inbox);
                Some(tokio::spawn(keep).abort_handle())
            }
            Err(error) => {
                tracing::warn!(server = server.address.shown, %error, "no socket");
                server.disconnected(&error.to_string());
                None
            }
        };
        self.kept.insert(found, Kept { index, server, task });
    }
}
