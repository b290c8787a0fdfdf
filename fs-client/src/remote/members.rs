//! Who is a server of this mount: those that were given, those that servers tell of, and for a while those that did.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rampool_protocol::control::{MEMBERS_MAX, Member, Standing};
use tokio::sync::Notify;

use super::names::Given;

/// A server that cannot be reached and that the others call gone is forgotten after this time.
const FORGET_GONE_AFTER: Duration = Duration::from_secs(60);

/// One that nobody speaks of, after this time: the network may be broken.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// What servers tell of each other.
#[derive(Default)]
pub(super) struct Members {
    by_teller: Mutex<HashMap<SocketAddr, Vec<Member>>>,
    news: Notify,
}

impl Members {
    /// The server at `teller` tells of others.
    pub(super) fn tells(&self, teller: SocketAddr, mut members: Vec<Member>) {
        members.truncate(MEMBERS_MAX);
        self.by_teller.lock().insert(teller, members);
        self.news.notify_one();
    }

    /// The connection to the server at `teller` is lost.
    pub(super) fn is_silent(&self, teller: SocketAddr) {
        self.by_teller.lock().remove(&teller);
        self.news.notify_one();
    }

    /// Completes when something may have changed.
    pub(super) async fn changed(&self) {
        self.news.notified().await;
    }

    /// All that are told of. Where tellers disagree, whoever has heard of it most recently is right, which is mostly the
    /// one who says that it is there.
    pub(super) fn standings(&self) -> BTreeMap<SocketAddr, Standing> {
        let mut standings = BTreeMap::new();
        for member in self.by_teller.lock().values().flatten() {
            let best = standings.entry(member.address).or_insert(member.standing);
            *best = member.standing.min(*best);
        }
        standings
    }
}

/// What is known of one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) is_given: bool,
    pub(super) standing: Option<Standing>,
    /// Since when it cannot be reached.
    pub(super) missing_since: Option<Instant>,
}

impl Known {
    /// Whether it is worth connecting to, if it is not on the list.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_given || self.standing.is_some_and(|standing| standing != Standing::Gone)
    }

    /// Whether it stays on the list.
    pub(super) fn stays(&self, now: Instant) -> bool {
        let Some(since) = self.missing_since else { return true };
        let patience = match self.standing {
            Some(Standing::Gone) => FORGET_GONE_AFTER,
            _ => FORGET_AFTER,
        };
        self.is_given || now < since + patience
    }
}

/// All addresses that the given ones stand for, and how each is shown.
pub(super) fn given(given: &[Given]) -> BTreeMap<SocketAddr, String> {
    let mut all = BTreeMap::new();
    for given in given {
        match given.addresses() {
            [one] => drop(all.insert(*one, given.text().to_owned())),
            several => {
                for address in several {
                    all.entry(*address).or_insert_with(|| address.to_string());
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(port: u16, standing: Standing) -> Member {
        Member { standing, address: ([10, 0, 0, 1], port).into() }
    }

    #[test]
    fn who_is_seen_by_one_is_there() {
        let members = Members::default();
        let [a, b] = [1, 2].map(|port| SocketAddr::from(([10, 0, 0, 2], port)));
        members.tells(a, vec![member(1, Standing::Gone), member(2, Standing::Alive)]);
        members.tells(b, vec![member(1, Standing::Suspected)]);
        let standings = |members: &Members| members.standings().into_values().collect::<Vec<_>>();
        assert_eq!(standings(&members), [Standing::Suspected, Standing::Alive]);
        members.is_silent(b);
        assert_eq!(standings(&members), [Standing::Gone, Standing::Alive]);
        members.tells(a, Vec::new());
        assert_eq!(standings(&members), []);
    }

    #[test]
    fn who_is_gone_is_forgotten_and_who_was_given_never() {
        let now = Instant::now();
        let known = Known { is_given: false, standing: None, missing_since: None };
        assert!(!known.is_wanted() && known.stays(now), "connected, though nobody speaks of it");
        let alive = Known { standing: Some(Standing::Alive), ..known };
        assert!(alive.is_wanted());
        let missing_since = Some(now);
        let gone = Known { standing: Some(Standing::Gone), missing_since, ..known };
        assert!(!gone.is_wanted() && gone.stays(now));
        assert!(!gone.stays(now + FORGET_GONE_AFTER));
        let unheard = Known { missing_since, ..known };
        assert!(unheard.stays(now + FORGET_GONE_AFTER) && !unheard.stays(now + FORGET_AFTER));
        let given = Known { is_given: true, ..gone };
        assert!(given.is_wanted() && given.stays(now + 2 * FORGET_AFTER));
    }
}
