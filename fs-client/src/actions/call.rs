//! How the daemon is told what to do to an open file: ioctl(2) on it, which the kernel hands on. So it goes by the rights of
//! whoever opened the file, and works wherever the mount is seen.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What is done to the blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// They are brought into the cache.
    Warm,
    /// The same, and they stay there, with whatever else is read of the file.
    Pin,
    /// They leave as others do.
    Unpin,
    /// They are forgotten.
    Drop,
    /// Nothing: it is only said where they are.
    Look,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// So many bytes, of those asked for that the file has, are in the cache now; pinned, if that was asked for.
    pub(crate) bytes: u64,
    /// So many of them came from servers, and from the source. Of a look: so many that are not in the cache are believed to be
    /// with servers.
    pub(crate) remote: u64,
    pub(crate) source: u64,
    /// So many of them are pinned.
    pub(crate) pinned: u64,
}

/// The most bytes for one call.
pub(crate) const LEN_MAX: usize = 1 << 20;

/// A call's argument, and in its place the answer.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
struct Argument {
    /// In bytes. Without meaning for what is done to whole files, and in answers.
    offset: u64,
    len: u64,
    /// For answers, as in [`Done`].
    remote: u64,
    source: u64,
    pinned: u64,
}

/// Nobody else's letter (Documentation/userspace-api/ioctl/ioctl-number.rst).
const GROUP: u8 = 0xe5;

const WARM: Opcode = opcode::read_write::<Argument>(GROUP, 1);
const PIN: Opcode = opcode::read_write::<Argument>(GROUP, 2);
const UNPIN: Opcode = opcode::read_write::<Argument>(GROUP, 3);
const DROP: Opcode = opcode::read_write::<Argument>(GROUP, 4);
const LOOK: Opcode = opcode::read_write::<Argument>(GROUP, 5);

/// Has `deed` done to `len` bytes at `offset` of a file of a mount.
///
/// # Errors
/// `NOTTY` if it is none of ours; `NOTSUP` if it is excluded from the cache; `PERM` if others than who mounts may not; those of
/// the source.
pub(crate) fn call(
    file: BorrowedFd<'_>,
    deed: Deed,
    offset: u64,
    len: usize,
) -> Result<Done, Errno> {
    let mut argument = Argument { offset, len: len as u64, remote: 0, source: 0, pinned: 0 };
    // SAFETY: each opcode is made for an `Argument`, which the kernel reads and writes as bytes; any bytes are one. Files
    // of others know no such opcode, or take it for one with an argument of that size.
    let result = unsafe {
        match deed {
            Deed::Warm => ioctl(file, Updater::<{ WARM }, _>::new(&mut argument)),
            Deed::Pin => ioctl(file, Updater::<{ PIN }, _>::new(&mut argument)),
            Deed::Unpin => ioctl(file, Updater::<{ UNPIN }, _>::new(&mut argument)),
            Deed::Drop => ioctl(file, Updater::<{ DROP }, _>::new(&mut argument)),
            Deed::Look => ioctl(file, Updater::<{ LOOK }, _>::new(&mut argument)),
        }
    };
    let Argument { len: bytes, remote, source, pinned, .. } = argument;
    result.map(|()| Done { bytes, remote, source, pinned })
}

/// A call as the daemon receives it: what is to be done to which bytes. None if it is not one of ours.
pub(crate) fn received(opcode: u32, argument: &[u8]) -> Option<(Deed, (u64, usize))> {
    let deeds = [
        (WARM, Deed::Warm),
        (PIN, Deed::Pin),
        (UNPIN, Deed::Unpin),
        (DROP, Deed::Drop),
        (LOOK, Deed::Look),
    ];
    let (_, deed) = deeds.into_iter().find(|&(known, _)| known == Opcode::from(opcode))?;
    let Argument { offset, len, .. } = Argument::read_from_bytes(argument).ok()?;
    Some((deed, (offset, usize::try_from(len).ok()?.min(LEN_MAX))))
}

/// The answer to a call.
pub(crate) fn answer(Done { bytes, remote, source, pinned }: Done) -> impl AsRef<[u8]> {
    struct Answer(Argument);
    impl AsRef<[u8]> for Answer {
        fn as_ref(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }
    Answer(Argument { offset: 0, len: bytes, remote, source, pinned })
}
