//! The local cache: blocks of files in this client's own memory.
//!
//! A published block is never changed: a write puts a new slot in the place of the old one, so a
//! reader that replies from a slot, or the remote tier that seals one, always sees one state.

mod cache;
mod flights;
mod owners;
#[cfg(test)]
#[cfg(feature = "shuttle")]
mod races;
mod resize;
mod sequence;
mod shard;
mod window;

pub(crate) use cache::{Evicted, LocalCache, Size, Use, metadata_bytes_per_block};
pub(crate) use flights::{Claim, Flights};
pub(crate) use sequence::Sequence;
