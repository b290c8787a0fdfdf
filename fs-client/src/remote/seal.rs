//! Sealing: what leaves this machine, and how it is recognised when it comes back.
//!
//! AES-256-GCM under a key that is made for each run of a mount. The nonce is a
//! counter, so it never repeats under that key. Mount, file, block and counter are authenticated
//! with the block: an older state of it, another block, or another mount's does not open.
//!
//! All keys of a mount are made (HKDF-SHA256, RFC 5869) from one secret, which is random and never leaves memory, unless
//! there is a key file: then the keys of earlier runs can be made again.
//!
//! The server knows a block by file and block, enciphered together as the one block of AES-256 that they fill, under a key
//! for nothing else: no two have the same name, and it can tell neither which file one is of nor which are neighbours.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, UnboundCipherKey};
use aws_lc_rs::{hkdf, hmac, rand};
use rampool_protocol::block::{BLOCK_SIZE, RemoteKey, SealedBlock};
use rampool_protocol::control::MountId;

use crate::block::BlockKey;

/// Numbers every sealing of one mount, over all its runs; the nonce, and what tells two states of a block apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SealCount(pub(super) u64);

/// What all keys of a mount are made from.
#[derive(Clone)]
pub(super) struct Secret([u8; Secret::BYTES]);

/// A run of a mount, which has a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first sealing that it may have made.
    pub(super) from: SealCount,
    /// Random, so that no two runs have the same key, whatever is known of earlier ones.
    pub(super) id: [u8; 16],
}

/// The keys of one mount.
pub(super) struct Sealer {
    mount: MountId,
    name_key: EncryptingKey,
    /// Of all runs whose blocks may be found, the present one last.
    runs: Vec<(Run, LessSafeKey)>,
}

impl Secret {
    pub(super) const BYTES: usize = 32;

    /// A new one.
    pub(super) fn random() -> Self {
        Self(random())
    }

    pub(super) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// What signs the state of the mount.
    pub(super) fn signing_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.derive::<32>(&[b"state"]))
    }

    fn derive<const N: usize>(&self, info: &[&[u8]]) -> [u8; N] {
        struct Length(usize);
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        let mut derived = [0; N];
        hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &self.0)
            .expand(info, Length(N))
            .and_then(|okm| okm.fill(&mut derived))
            .expect("keys are shorter than 255 hashes");
        derived
    }
}

impl Run {
    /// One that begins after the sealing `last`.
    pub(super) fn after(last: SealCount) -> Self {
        Self { from: SealCount(last.0 + 1), id: random() }
    }
}

impl Sealer {
    /// The keys for these runs, of which there is at least one.
    pub(super) fn new(secret: &Secret, runs: &[Run]) -> Self {
        debug_assert!(!runs.is_empty(), "there is the present run");
        let key = |run: &Run| {
            let key = secret.derive::<32>(&[b"blocks", &run.id]);
            let key = UnboundKey::new(&AES_256_GCM, &key).expect("32 bytes, as it wants");
            (*run, LessSafeKey::new(key))
        };
        let name_key = UnboundCipherKey::new(&AES_256, &secret.derive::<32>(&[b"names"]));
        Self {
            mount: MountId(secret.derive(&[b"mount"])),
            name_key: name_key.and_then(EncryptingKey::ecb).expect("32 bytes, as it wants"),
            runs: runs.iter().map(key).collect(),
        }
    }

    /// The runs whose blocks it opens.
    pub(super) fn runs(&self) -> impl ExactSizeIterator<Item = Run> {
        self.runs.iter().map(|(run, _)| *run)
    }

    /// The mount's name towards servers.
    pub(super) fn mount(&self) -> MountId {
        self.mount
    }

    /// The name under which servers know a block.
    pub(super) fn remote_key(&self, key: BlockKey) -> RemoteKey {
        let mut name = place(key);
        self.name_key.encrypt(&mut name).expect("it is one block of the cipher's");
        RemoteKey(name)
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
        let (_, key) = self.runs.last().expect("there is the present run");
        key.seal_out_of_place_scatter(
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
        let run = self.runs.iter().rev().find(|(run, _)| run.from <= count);
        let Some((_, opener)) = run else { return false };
        opener.open_separate_gather(nonce(count), aad, &sealed.data, &sealed.tag, plain).is_ok()
    }

    fn context(&self, key: BlockKey, count: SealCount) -> [u8; 40] {
        let mut context = [0; 40];
        context[..16].copy_from_slice(&self.mount.0);
        context[16..32].copy_from_slice(&place(key));
        context[32..].copy_from_slice(&count.0.to_le_bytes());
        context
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
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

    fn new_sealer() -> Sealer {
        Sealer::new(&Secret::random(), &[Run::after(SealCount(0))])
    }

    const KEY: BlockKey = BlockKey { file: FileKey(7), index: BlockIndex(3) };

    fn sealed(sealer: &Sealer, count: u64, byte: u8) -> Box<SealedBlock> {
        let mut sealed = Box::new(SealedBlock::new_zeroed());
        sealer.seal(KEY, SealCount(count), &[byte; BLOCK_SIZE], &mut sealed);
        sealed
    }

    #[test]
    fn a_block_opens_as_exactly_what_was_sealed() {
        let sealer = new_sealer();
        let mut block = sealed(&sealer, 1, 42);
        let mut plain = [0; BLOCK_SIZE];
        assert!(sealer.open(KEY, SealCount(1), &block, &mut plain));
        assert_eq!(plain, [42; BLOCK_SIZE]);

        let other = BlockKey { index: BlockIndex(4), ..KEY };
        assert!(!sealer.open(other, SealCount(1), &block, &mut plain), "another block");
        let other = BlockKey { file: FileKey(8), ..KEY };
        assert!(!sealer.open(other, SealCount(1), &block, &mut plain), "another file");
        assert!(!sealer.open(KEY, SealCount(2), &block, &mut plain), "an older state");
        assert!(!new_sealer().open(KEY, SealCount(1), &block, &mut plain), "another mount");
        block.data[4000] ^= 1;
        assert!(!sealer.open(KEY, SealCount(1), &block, &mut plain), "altered");
        block.data[2048..].fill(0);
        assert!(!sealer.open(KEY, SealCount(1), &block, &mut plain), "half vanished");
    }

    #[test]
    fn names_are_stable_and_tell_nothing_to_others() {
        let sealer = new_sealer();
        assert_eq!(sealer.remote_key(KEY), sealer.remote_key(KEY));
        assert_ne!(sealer.remote_key(KEY), new_sealer().remote_key(KEY));
        let next = BlockKey { index: BlockIndex(4), ..KEY };
        let (name, next) = (sealer.remote_key(KEY).0, sealer.remote_key(next).0);
        let differing: u32 = name.iter().zip(next).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert!((24..=104).contains(&differing), "as of two numbers by chance: {differing} of 128");
    }

    #[test]
    fn a_later_run_opens_what_the_earlier_sealed_and_seals_under_its_own_key() {
        let secret = Secret::random();
        let first = Run::after(SealCount(0));
        let before = Sealer::new(&secret, &[first]);
        let block = sealed(&before, 5, 42);
        let second = Run::after(SealCount(5));
        let after = Sealer::new(&secret, &[first, second]);
        let mut plain = [0; BLOCK_SIZE];
        assert!(after.open(KEY, SealCount(5), &block, &mut plain));
        assert_eq!((plain, after.remote_key(KEY)), ([42; BLOCK_SIZE], before.remote_key(KEY)));
        // The same count again, in a run that forgot how far the first had come.
        let other = Sealer::new(&secret, &[Run::after(SealCount(0))]);
        assert_ne!(sealed(&other, 5, 42).data, block.data);
        assert!(!other.open(KEY, SealCount(5), &block, &mut plain));
        let newer = sealed(&after, 6, 43);
        assert!(after.open(KEY, SealCount(6), &newer, &mut plain));
        assert!(!before.open(KEY, SealCount(6), &newer, &mut plain));
    }
}
