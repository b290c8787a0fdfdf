//! Which block of a cache goes when room is needed.
//!
//! A [`Policy`] decides from keys alone, so the one that a mount runs with is the one that is replayed on
//! recorded traces. One file each.

mod curve;
mod fifos;
mod ghosts;
mod lru;

use std::fmt;
use std::hash::Hash;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::curve::Curve;
pub use self::fifos::Fifos;
pub use self::lru::Lru;

/// Decides, from the keys alone, which block goes when room is needed. It also is the index: one
/// look-up finds the block and tells the policy that it was used. The value is carried, never
/// looked at, so a policy can be replayed on a trace with no values at all.
///
/// Values are small and copied out; whatever they stand for is the caller's to keep.
///
/// A policy holds no limit: it grows with [`Policy::insert`] and gives up a victim whenever
/// [`Policy::evict`] asks. What it has in parts is a part of what it holds when a victim is asked for.
/// It is always called under a lock and must not block.
pub trait Policy<K, V: Copy>: Send {
    /// Finds the value of `key` and notes a use.
    fn get(&mut self, key: K) -> Option<V>;

    /// Finds the value of `key` and notes nothing.
    fn peek(&self, key: K) -> Option<V>;

    /// Puts `value` under `key`, as used now, and returns the value that it replaces.
    fn insert(&mut self, key: K, value: V) -> Option<V>;

    /// Forgets `key`: its contents are gone, which says nothing about its use.
    fn remove(&mut self, key: K) -> Option<V>;

    /// Gives up the block that is worth least. None only when it holds none. `used` says of a
    /// block whether it was used, since this was last asked, in a way that [`Policy::get`] did
    /// not see.
    fn evict(&mut self, used: &mut dyn FnMut(V) -> bool) -> Option<(K, V)>;

    /// How many blocks it holds.
    fn len(&self) -> usize;

    /// Whether it holds none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The policies by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// [`Lru`].
    Lru,
    /// [`Fifos::s3_fifo`].
    S3Fifo,
    /// [`Fifos::gated`].
    #[default]
    Gated,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Lru, Self::S3Fifo, Self::Gated];

    /// An empty one, for so many blocks. Of those that come at most `passing` are sure to stay until they are used,
    /// whatever they are thought to be worth: what is brought in ahead of a sequential reader needs that.
    pub fn policy<K, V>(self, blocks: usize, passing: usize) -> Box<dyn Policy<K, V>>
    where
        K: Copy + Eq + Hash + Send + 'static,
        V: Copy + Send + 'static,
    {
        match self {
            Self::Lru => Box::new(Lru::new()),
            Self::S3Fifo => Box::new(Fifos::s3_fifo(blocks, passing)),
            Self::Gated => Box::new(Fifos::gated(blocks, passing)),
        }
    }

    /// Bytes that a policy keeps for each block at the worst, the value included: of the one that keeps most.
    pub const fn bytes_a_block<K: Copy + Eq + Hash, V: Copy>() -> usize {
        let (lru, fifos) = (Lru::<K, V>::BYTES_A_BLOCK, Fifos::<K, V>::BYTES_A_BLOCK);
        if lru > fifos { lru } else { fifos }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::S3Fifo => "s3-fifo",
            Self::Gated => "gated",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            format!("there is no policy '{text}'; there are {}", names.join(", "))
        })
    }
}
