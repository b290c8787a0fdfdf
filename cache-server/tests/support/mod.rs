//! What the tests of the real server share: a pool's keys, the process, a client.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of it")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from file to file")]

pub mod peer;
pub mod pool;
pub mod server;

use rampool_protocol::block::{BLOCK_SIZE, PutEntry, RemoteKey, SealedBlock};

/// A key that no other number has.
pub fn key(id: u64) -> RemoteKey {
    let mut key = [0xa5; 16];
    key[..8].copy_from_slice(&id.to_le_bytes());
    RemoteKey(key)
}

/// Bytes that no other block has, and no page that was taken.
pub fn sealed(id: u64) -> SealedBlock {
    let mut state = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = [0; BLOCK_SIZE];
    for word in data.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    SealedBlock { tag: [id as u8; 16], data }
}

/// `sealed(id)` under `key(id)`.
pub fn entry(id: u64) -> PutEntry {
    PutEntry { key: key(id), block: sealed(id) }
}
