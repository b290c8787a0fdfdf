//! The contract of an eviction policy.

use crate::block::BlockKey;

/// Decides, from the keys alone, which block goes when room is needed. It also is the index: one
/// look-up finds the block and tells the policy that it was used. The value is carried, never
/// looked at, so a policy can be replayed on a trace with no values at all.
///
/// Values are small and copied out; whatever they stand for is the caller's to keep.
///
/// A policy holds no limit: it grows with [`Policy::insert`] and gives up a victim whenever
/// [`Policy::evict`] asks. It is always called under a lock and must not block.
pub(crate) trait Policy<V: Copy>: Send {
    /// Finds the value of `key` and notes a use.
    fn get(&mut self, key: BlockKey) -> Option<V>;

    /// Finds the value of `key` and notes nothing.
    fn peek(&self, key: BlockKey) -> Option<V>;

    /// Puts `value` under `key`, as used now, and returns the value that it replaces.
    fn insert(&mut self, key: BlockKey, value: V) -> Option<V>;

    /// Forgets `key`: its contents are gone, which says nothing about its use.
    fn remove(&mut self, key: BlockKey) -> Option<V>;

    /// Gives up the block that is worth least. None only when it holds none. `used` says of a
    /// block whether it was used, since this was last asked, in a way that [`Policy::get`] did
    /// not see.
    fn evict(&mut self, used: &mut dyn FnMut(V) -> bool) -> Option<(BlockKey, V)>;

    /// How many blocks it holds.
    fn len(&self) -> usize;
}
