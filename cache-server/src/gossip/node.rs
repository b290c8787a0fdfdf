//! A server as the others know it.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use foca::Identity;
use serde::{Deserialize, Serialize};

/// One run of a server, by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Said")]
pub(super) struct Node {
    pub(super) address: SocketAddr,
    /// The latest run of an address is the one that is there: milliseconds since 1970, if the clock is right.
    run: u64,
    /// How often it has come back.
    renewed: u8,
}

/// The same, as somebody else says it.
#[derive(Deserialize)]
struct Said {
    address: SocketAddr,
    run: u64,
    renewed: u8,
}

/// Runs are below this, whatever the clock: in the year 2248. Who has got there does not come back again.
const RUN_MAX: u64 = 1 << 43;

impl TryFrom<Said> for Node {
    type Error = &'static str;

    fn try_from(Said { address, run, renewed }: Said) -> Result<Self, Self::Error> {
        if run < RUN_MAX { Ok(Self { address, run, renewed }) } else { Err("no such run") }
    }
}

impl Node {
    /// The run that begins now.
    pub(super) fn starting(address: SocketAddr) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { address, run: since_1970.as_millis() as u64, renewed: 0 }
    }

    /// Whoever serves at `address`.
    pub(super) fn at(address: SocketAddr) -> Self {
        Self { address, run: 0, renewed: 0 }
    }
}

impl Identity for Node {
    type Addr = SocketAddr;

    /// The others believed it gone: it comes back as a new run. If its clock went back they may know a later one, which
    /// it passes by steps that grow.
    fn renew(&self) -> Option<Self> {
        let step = 1_u64 << self.renewed.min(40);
        let now = Self::starting(self.address).run;
        let run = now.max(self.run.saturating_add(step));
        let renewed = self.renewed.saturating_add(1);
        (run < RUN_MAX).then_some(Self { run, renewed, ..*self })
    }

    fn addr(&self) -> SocketAddr {
        self.address
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.run > other.run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_went_back_years_is_made_up_for() {
        let now = Node::starting(([127, 0, 0, 1], 1).into());
        let years_ahead = Node { run: now.run + 10 * 365 * 86_400_000, ..now };
        let mut node = now;
        for _ in 0..40 {
            node = node.renew().unwrap();
        }
        assert!(node.win_addr_conflict(&years_ahead) && node.addr() == now.addr());
    }
}
