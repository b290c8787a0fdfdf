//! Single flight: a block that is being brought in is brought once, however many ask.
//!
//! Whoever claims a block first leads: it brings the block and then lands the flight. The others
//! wait and look in the cache again; they take nothing from the leader directly, because what it
//! read may be older than a write that was acknowledged before they asked.
//!
//! A leader waits for no other flight before it has landed its own: it is a thread that runs, or an answer of a
//! server that comes or is given up at its deadline. So there is always one that makes progress.

use std::collections::HashMap;
use std::sync::Arc;

use crate::block::{BlockIndex, BlockKey, FileKey};
use crate::sync::{Condvar, Mutex};

/// The blocks that are being brought in.
#[derive(Default)]
pub(crate) struct Flights {
    under_way: Mutex<HashMap<BlockKey, Arc<Landing>>>,
}

/// What became of a request for blocks.
pub(crate) struct Claim {
    flights: Arc<Flights>,
    file: FileKey,
    /// The blocks to bring, all of which are landed when the claim is dropped.
    led: Vec<BlockIndex>,
    landing: Arc<Landing>,
    joined: Vec<Arc<Landing>>,
}

#[derive(Default)]
struct Landing {
    landed: Mutex<bool>,
    changed: Condvar,
}

impl Flights {
    /// Claims those of `blocks` that nobody is bringing, and joins the flights of the others.
    pub(crate) fn claim(self: &Arc<Self>, file: FileKey, blocks: &[BlockIndex]) -> Claim {
        let landing = Arc::new(Landing::default());
        let mut led = Vec::with_capacity(blocks.len());
        let mut joined: Vec<Arc<Landing>> = Vec::new();
        let mut under_way = self.under_way.lock();
        for &index in blocks {
            match under_way.get(&BlockKey { file, index }) {
                None => {
                    under_way.insert(BlockKey { file, index }, landing.clone());
                    led.push(index);
                }
                // Neighbours mostly travel in one flight.
                Some(other) if joined.last().is_some_and(|last| Arc::ptr_eq(last, other)) => {}
                Some(other) => joined.push(other.clone()),
            }
        }
        drop(under_way);
        Claim { flights: self.clone(), file, led, landing, joined }
    }
}

impl Claim {
    /// The blocks that the claimant is to bring.
    pub(crate) fn led(&self) -> &[BlockIndex] {
        &self.led
    }

    /// Lands what was led, then waits until the flights of others have landed.
    pub(crate) fn wait_for_others(mut self) {
        let joined = std::mem::take(&mut self.joined);
        drop(self);
        for landing in joined {
            let mut landed = landing.landed.lock();
            while !*landed {
                landing.changed.wait(&mut landed);
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.led.is_empty() {
            return;
        }
        let mut under_way = self.flights.under_way.lock();
        for &index in &self.led {
            under_way.remove(&BlockKey { file: self.file, index });
        }
        drop(under_way);
        *self.landing.landed.lock() = true;
        self.landing.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    const FILE: FileKey = FileKey(1);

    #[test]
    fn a_block_is_led_once_until_it_lands() {
        let flights = Arc::new(Flights::default());
        let blocks = [1, 2, 3].map(BlockIndex);
        let first = flights.claim(FILE, &blocks[..2]);
        assert_eq!(first.led, blocks[..2]);
        let second = flights.claim(FILE, &blocks);
        assert_eq!((second.led.as_slice(), second.joined.len()), (&blocks[2..], 1));
        drop(first);
        second.wait_for_others();
        assert_eq!(flights.claim(FILE, &blocks).led, blocks, "all have landed");
    }

    #[test]
    fn nobody_waits_for_ever() {
        let flights = Arc::new(Flights::default());
        let led = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..500 {
                        let blocks: Vec<_> = (n % 7..n % 7 + 5).map(BlockIndex).collect();
                        let claim = flights.claim(FILE, &blocks);
                        led.fetch_add(claim.led.len(), Ordering::Relaxed);
                        claim.wait_for_others();
                    }
                });
            }
        });
        assert!(flights.under_way.lock().is_empty());
        assert!(led.into_inner() >= 500 * 5);
    }
}
