//! Gives each server that is wanted a place and a task that keeps its connection, and takes them back.

use std::collections::{HashMap, HashSet};
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
use super::{ServerAddress, Shared};

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
    missing_since: Option<Instant>,
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
                _ = look.tick() => {}
                _ = look_up.tick() => self.look_up(),
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
        self.endpoints.end().await;
    }

    fn look_up(&mut self) {
        for (n, given) in self.given.iter().enumerate().filter(|(_, given)| given.is_name()) {
            let text = given.text().to_owned();
            self.look_ups.spawn_blocking(move || (n, Given::look_up(&text)));
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
        for (address, kept) in &mut self.kept {
            kept.missing_since = match kept.server.is_connected() {
                true => None,
                false => kept.missing_since.or(Some(now)),
            };
            kept.server.stands(standings.get(address).copied());
        }
        let leaving: HashSet<SocketAddr> = self
            .kept
            .iter()
            .filter(|(address, kept)| !known(address, kept.missing_since).stays(now))
            .map(|(address, _)| *address)
            .collect();
        self.kept.retain(|address, kept| {
            let stays = !leaving.contains(address);
            if !stays {
                if let Some(task) = kept.task.take() {
                    task.abort();
                }
                self.shared.servers.remove(kept.index);
                tracing::info!(server = kept.server.address.shown, "forgotten");
            }
            stays
        });
        // Those that were given first, should there be too many.
        let new = given.keys().chain(standings.keys()).copied();
        let new: Vec<SocketAddr> = new
            .filter(|address| !self.kept.contains_key(address) && known(address, None).is_wanted())
            .collect();
        for found in new {
            let shown = given.get(&found).cloned().unwrap_or_else(|| found.to_string());
            self.keep(ServerAddress { shown, found });
        }
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
        self.kept.insert(found, Kept { index, server, task, missing_since: None });
    }
}
