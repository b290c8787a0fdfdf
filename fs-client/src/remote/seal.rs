//! Sealing: what leaves this machine, and how it is recognised when it comes back.
//!
//! AES-256-GCM under a key that is made for each mount and never leaves memory. The nonce is a
//! counter, so it never repeats under that key. Mount, file, block and counter are authenticated
//! with the block: an older state of it, another block, or another mount's does not open.
//!
//! The server knows a block by HMAC-SHA256 of file and block, cut to 128 bits: it can tell
//! neither which file it is of nor which blocks are neighbours.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use rampool_protocol::block::{BLOCK_SIZE, RemoteKey, SealedBlock};
use rampool_protocol::control::MountId;

use crate::block::BlockKey;

/// Numbers every sealing of one mount; the nonce, and what tells two states of a block apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SealCount(pub(super) u64);

/// The secrets of one mount.
pub(super) struct Sealer {
    mount: MountId,
    block_key: LessSafeKey,
    name_key: hmac::Key,
}

impl Sealer {
    /// Makes fresh secrets.
    pub(super) fn new() -> Self {
        let (mut mount, mut block_key, mut name_key) = ([0; 16], [0; 32], [0; 32]);
        for secret in [&mut mount[..], &mut block_key[..], &mut name_key[..]] {
            rand::fill(secret).expect("the kernel gives random bytes");
        }
        let block_key = UnboundKey::new(&AES_256_GCM, &block_key).expect("32 bytes, as it wants");
        Self {
            mount: MountId(mount),
            block_key: LessSafeKey::new(block_key),
            name_key: hmac::Key::new(hmac::HMAC_SHA256, &name_key),
        }
    }

    /// The mount's name towards servers.
    pub(super) fn mount(&self) -> MountId {
        self.mount
    }

    /// The name under which servers know a block.
    pub(super) fn remote_key(&self, key: BlockKey) -> RemoteKey {
        let tag = hmac::sign(&self.name_key, &place(key));
        RemoteKey(tag.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Seals a block. Each count must be used once.
    pub(super) fn seal(
        &self,
        key: BlockKey,
        count: SealCount,
        plain: &[u8; BLOCK_SIZE],
        sealed: &mut SealedBlock,
    ) {
        let aad = Aad::from(self.context(key, count));
        self.block_key
            .seal_out_of_place_scatter(
                nonce(count),
                aad,
                plain,
                &mut sealed.data,
                &[],
                &mut sealed.tag,
            )
            .expect("the lengths are those of a block");
    }

    /// Opens a block into `plain`. False, and nothing to be used, unless it is what this mount
    /// sealed for `key` with `count`.
    pub(super) fn open(
        &self,
        key: BlockKey,
        count: SealCount,
        sealed: &SealedBlock,
        plain: &mut [u8; BLOCK_SIZE],
    ) -> bool {
        let aad = Aad::from(self.context(key, count));
        self.block_key
            .open_separate_gather(nonce(count), aad, &sealed.data, &sealed.tag, plain)
            .is_ok()
    }

    fn context(&self, key: BlockKey, count: SealCount) -> [u8; 40] {
        let mut context = [0; 40];
        context[..16].copy_from_slice(&self.mount.0);
        context[16..32].copy_from_slice(&place(key));
        context[32..].copy_from_slice(&count.0.to_le_bytes());
        context
    }
}

fn place(key: BlockKey) -> [u8; 16] {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&key.file.0.to_le_bytes());
    place[8..].copy_from_slice(&key.index.0.to_le_bytes());
    place
}

fn nonce(count: SealCount) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&count.0.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockIndex, FileKey};
    use zerocopy::FromZeros as _;

    const KEY: BlockKey = BlockKey { file: FileKey(7), index: BlockIndex(3) };

    fn sealed(sealer: &Sealer, count: u64, byte: u8) -> Box<SealedBlock> {
        let mut sealed = Box::new(SealedBlock::new_zeroed());
        sealer.seal(KEY, SealCount(count), &[byte; BLOCK_SIZE], &mut sealed);
        sealed
    }

    #[test]
    fn a_block_opens_as_exactly_what_was_sealed() {
        let sealer = Sealer::new();
        let mut block = sealed(&sealer, 1, 42);
        let mut plain = [0; BLOCK_SIZE];
        assert!(sealer.open(KEY, SealCount(1), &block, &mut plain));
        assert_eq!(plain, [42; BLOCK_SIZE]);

        let other = BlockKey { index: BlockIndex(4), ..KEY };
        assert!(!sealer.open(other, SealCount(1), &block, &mut plain), "another block");
        let other = BlockKey { file: FileKey(8), ..KEY };
        assert!(!sealer.open(other, SealCount(1), &block, &mut plain), "another file");
        assert!(!sealer.open(KEY, SealCount(2), &block, &mut plain), "an older state");
        assert!(!Sealer::new().open(KEY, SealCount(1), &block, &mut plain), "another mount");
        block.data[4000] ^= 1;
        assert!(!sealer.open(KEY, SealCount(1), &block, &mut plain), "altered");
        block.data[2048..].fill(0);
        assert!(!sealer.open(KEY, SealCount(1), &block, &mut plain), "half vanished");
    }

    #[test]
    fn names_are_stable_and_tell_nothing_to_others() {
        let sealer = Sealer::new();
        assert_eq!(sealer.remote_key(KEY), sealer.remote_key(KEY));
        assert_ne!(sealer.remote_key(KEY), Sealer::new().remote_key(KEY));
    }
}
