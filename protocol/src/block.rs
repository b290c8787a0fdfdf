//! Blocks as they travel: opaque keys and sealed bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes in a block, the unit of caching, like a page of the kernel's page cache.
pub const BLOCK_SIZE: usize = 4096;

/// Bytes in the authentication tag of a sealed block (AES-256-GCM).
pub const TAG_SIZE: usize = 16;

/// The name of a block on a server: 128 bits that say nothing about file or offset.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct RemoteKey(pub [u8; 16]);

/// A block encrypted and authenticated by the client that lent it. The server can neither read
/// nor alter it unseen.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SealedBlock {
    /// The authentication tag of `data`.
    pub tag: [u8; TAG_SIZE],
    /// The ciphertext, as long as the block.
    pub data: [u8; BLOCK_SIZE],
}

/// A sealed block under its key, as a PUT carries it.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PutEntry {
    /// The name to keep it under.
    pub key: RemoteKey,
    /// What to keep.
    pub block: SealedBlock,
}
