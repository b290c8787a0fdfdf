//! What can be done to a tree, and how often it is.

use std::fmt;

use proptest::prelude::{Just, Strategy, any};
use proptest::prop_oneof;

/// Two levels, so that names meet each other often.
pub(super) const PATHS: [&str; 12] =
    ["a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "f", "f/a", "f/b", "l"];
/// What is there at the start.
pub(super) const DIRS: [&str; 3] = ["d", "d/e", "f"];
pub(super) const FILES: [&str; 4] = ["a", "b", "d/a", "f/a"];
pub(super) const XATTRS: [&str; 3] = ["user.one", "user.two", "trusted.three"];
/// Files that can be open at a time.
pub(super) const SLOTS: usize = 2;

/// A path of the few.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Path(pub(super) usize);

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PATHS[self.0])
    }
}

/// Bytes of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) len: usize,
}

/// A way to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Read,
    ReadWrite,
    Append,
    Truncate,
    Create { exclusive: bool },
}

/// What to do to a range of an open file besides reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Punch,
    Zero,
    Allocate,
    AllocateBeyondEnd,
}

/// How to rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rename {
    Plain,
    Exchange,
    NoReplace,
}

/// One step. Numbers called `slot` mean an open file, `fill` what is written.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Open { path: Path, how: How, mode: u32, slot: usize },
    Close { slot: usize },
    Write { slot: usize, range: Range, fill: u8 },
    Append { path: Path, len: usize, fill: u8 },
    Read { slot: usize, range: Range },
    ReadWhole { path: Path },
    WriteMapped { slot: usize, range: Range, fill: u8 },
    ReadMapped { slot: usize },
    TruncateOpen { slot: usize, len: u64 },
    Truncate { path: Path, len: u64 },
    Space { slot: usize, what: Space, range: Range },
    Copy { from: usize, to: usize, range: Range, offset: u64 },
    Sync { slot: usize },
    StatOpen { slot: usize },
    Rename { from: Path, to: Path, how: Rename },
    Link { from: Path, to: Path },
    Unlink { path: Path },
    MakeDir { path: Path, mode: u32 },
    RemoveDir { path: Path },
    Symlink { target: Path, path: Path },
    ReadLink { path: Path },
    List { path: Path },
    Stat { path: Path },
    ChangeMode { path: Path, mode: u32 },
    SetTimes { path: Path, seconds: i64 },
    SetXattr { path: Path, name: usize, len: usize },
    GetXattr { path: Path, name: usize },
    ListXattrs { path: Path },
    RemoveXattr { path: Path, name: usize },
    Remount,
}

/// Any step; those that change contents most often.
pub(super) fn operation() -> impl Strategy<Value = Operation> {
    use Operation as Op;
    prop_oneof![
        12 => (file(), how(), mode(), slot()).prop_map(|(path, how, mode, slot)| Op::Open { path, how, mode, slot }),
        2 => slot().prop_map(|slot| Op::Close { slot }),
        12 => (slot(), range(), any::<u8>()).prop_map(|(slot, range, fill)| Op::Write { slot, range, fill }),
        3 => (file(), len(), any::<u8>()).prop_map(|(path, len, fill)| Op::Append { path, len, fill }),
        12 => (slot(), range()).prop_map(|(slot, range)| Op::Read { slot, range }),
        4 => file().prop_map(|path| Op::ReadWhole { path }),
        2 => (slot(), range(), any::<u8>()).prop_map(|(slot, range, fill)| Op::WriteMapped { slot, range, fill }),
        2 => slot().prop_map(|slot| Op::ReadMapped { slot }),
        4 => (slot(), offset()).prop_map(|(slot, len)| Op::TruncateOpen { slot, len }),
        2 => (file(), offset()).prop_map(|(path, len)| Op::Truncate { path, len }),
        4 => (slot(), space(), range()).prop_map(|(slot, what, range)| Op::Space { slot, what, range }),
        3 => (slot(), slot(), range(), offset()).prop_map(|(from, to, range, offset)| Op::Copy { from, to, range, offset }),
        1 => slot().prop_map(|slot| Op::Sync { slot }),
        3 => slot().prop_map(|slot| Op::StatOpen { slot }),
        5 => (path(), path(), rename()).prop_map(|(from, to, how)| Op::Rename { from, to, how }),
        3 => (path(), path()).prop_map(|(from, to)| Op::Link { from, to }),
        3 => file().prop_map(|path| Op::Unlink { path }),
        4 => (path(), mode()).prop_map(|(path, mode)| Op::MakeDir { path, mode }),
        2 => path().prop_map(|path| Op::RemoveDir { path }),
        2 => (path(), path()).prop_map(|(target, path)| Op::Symlink { target, path }),
        1 => path().prop_map(|path| Op::ReadLink { path }),
        3 => path().prop_map(|path| Op::List { path }),
        6 => file().prop_map(|path| Op::Stat { path }),
        2 => (file(), mode()).prop_map(|(path, mode)| Op::ChangeMode { path, mode }),
        2 => (file(), 0i64..5_000_000_000).prop_map(|(path, seconds)| Op::SetTimes { path, seconds }),
        2 => (file(), 0..XATTRS.len(), 0usize..300).prop_map(|(path, name, len)| Op::SetXattr { path, name, len }),
        2 => (file(), 0..XATTRS.len()).prop_map(|(path, name)| Op::GetXattr { path, name }),
        1 => file().prop_map(|path| Op::ListXattrs { path }),
        1 => (file(), 0..XATTRS.len()).prop_map(|(path, name)| Op::RemoveXattr { path, name }),
        1 => Just(Op::Remount),
    ]
}

fn path() -> impl Strategy<Value = Path> {
    (0..PATHS.len()).prop_map(Path)
}

/// Where there most often is a file.
fn file() -> impl Strategy<Value = Path> {
    let often = (0..FILES.len()).prop_map(|n| {
        Path(PATHS.iter().position(|&path| path == FILES[n]).expect("each is a path"))
    });
    prop_oneof![3 => often, 1 => path()]
}

fn slot() -> impl Strategy<Value = usize> {
    0..SLOTS
}

fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(0o644), 1 => Just(0o755), 1 => 0..0o10000u32]
}

/// Places near the edges of blocks, of groups of blocks, and anywhere.
fn offset() -> impl Strategy<Value = u64> {
    let edge = |unit: u64, count: u64| {
        (0..count, -2i64..3).prop_map(move |(n, off)| (n * unit).saturating_add_signed(off))
    };
    prop_oneof![edge(4096, 20), edge(256 << 10, 4), 0u64..300_000, Just(0)]
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..20, 4090usize..4100, 0usize..100_000]
}

fn range() -> impl Strategy<Value = Range> {
    (offset(), len()).prop_map(|(offset, len)| Range { offset, len })
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        1 => Just(How::Read),
        2 => Just(How::ReadWrite),
        1 => Just(How::Append),
        1 => Just(How::Truncate),
        5 => any::<bool>().prop_map(|exclusive| How::Create { exclusive }),
    ]
}

fn space() -> impl Strategy<Value = Space> {
    prop_oneof![
        2 => Just(Space::Punch),
        1 => Just(Space::Zero),
        1 => Just(Space::Allocate),
        1 => Just(Space::AllocateBeyondEnd),
    ]
}

fn rename() -> impl Strategy<Value = Rename> {
    prop_oneof![3 => Just(Rename::Plain), 1 => Just(Rename::Exchange), 1 => Just(Rename::NoReplace)]
}
