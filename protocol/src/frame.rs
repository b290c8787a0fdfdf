//! Data frames: how blocks travel on a data stream.
//!
//! Every frame is a header of 16 bytes, little-endian, and a body whose length follows from the
//! header, so that a frame that lies about itself is refused before its body is read:
//!
//! | verb | from | body |
//! |---|---|---|
//! | `Get` | client | `count` keys of 16 bytes |
//! | `Put` | client | `count` times key (16), tag (16), data (4096) |
//! | `Got` | server | `count` bytes, each 1 (here) or 0 (not here), then tag and data of those that are here |
//! | `Stored` | server | `count` bytes, each a [`PutOutcome`], then the number of the oldest `Put` that is kept (8) |
//!
//! An answer carries its request's number. Answers may come in any order. The numbers of a mount's `Put`s rise, on all its
//! connections. What was put before the oldest that is kept is gone, but for blocks that somebody has asked for since.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::{PutEntry, RemoteKey, SealedBlock};

/// The most blocks that one frame names: 1 MiB of data.
pub const RUN_BLOCKS_MAX: usize = 256;

/// Blocks in a frame of our clients: few enough that nobody waits long behind one (128 KiB). Longer frames are as right.
pub const RUN_BLOCKS_USUAL: usize = 32;

/// Bytes in a frame's header.
pub const HEADER_SIZE: usize = size_of::<RawHeader>();

/// Bytes of the number that ends a `Stored`.
pub const OLDEST_SIZE: usize = size_of::<u64>();

/// The longest body of any frame.
pub const BODY_BYTES_MAX: usize = RUN_BLOCKS_MAX * size_of::<PutEntry>();

/// Ties an answer to its request. Chosen by the client, unique on its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verb {
    /// The client asks for blocks.
    Get = 1,
    /// The client hands over sealed blocks.
    Put = 2,
    /// The server's answer to a `Get`.
    Got = 3,
    /// The server's answer to a `Put`.
    Stored = 4,
}

/// What became of one block of a `Put`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PutOutcome {
    /// The server took it; a `Get` may find it for a while.
    Stored = 0,
    /// The server has no memory to lend right now.
    Rejected = 1,
}

impl PutOutcome {
    /// Reads the byte of a `Stored` body. Anything unknown counts as rejected: a block that may
    /// not be there is only a miss, a block wrongly thought to be there too.
    pub fn from_byte(byte: u8) -> Self {
        if byte == Self::Stored as u8 { Self::Stored } else { Self::Rejected }
    }
}

/// A frame's header, parsed and found consistent with the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is about.
    pub verb: Verb,
    /// How many blocks it names: 1 to [`RUN_BLOCKS_MAX`].
    pub count: usize,
    /// The request that this frame is, or answers.
    pub request: RequestId,
    /// Bytes of body that follow.
    pub body_len: usize,
}

/// Why a frame was refused. The connection that sent it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A verb of no version that we know.
    #[error("unknown verb {0}")]
    UnknownVerb(u8),
    /// Zero blocks, or more than [`RUN_BLOCKS_MAX`].
    #[error("a run of {0} blocks, where 1 to {RUN_BLOCKS_MAX} are allowed")]
    Count(usize),
    /// The body's length does not follow from verb and count.
    #[error("a body of {0} bytes, which does not match its verb and count")]
    BodyLength(usize),
    /// The body is not what its header announced.
    #[error("a body that contradicts its header")]
    Body,
}

impl Header {
    /// The header of a `Get` for `count` blocks.
    pub fn get(request: RequestId, count: usize) -> Self {
        Self { verb: Verb::Get, count, request, body_len: count * size_of::<RemoteKey>() }
    }

    /// The header of a `Put` of `count` blocks.
    pub fn put(request: RequestId, count: usize) -> Self {
        Self { verb: Verb::Put, count, request, body_len: count * size_of::<PutEntry>() }
    }

    /// The header of the answer to a `Get` for `count` blocks, `hits` of which are here.
    pub fn got(request: RequestId, count: usize, hits: usize) -> Self {
        let body_len = count + hits * size_of::<SealedBlock>();
        Self { verb: Verb::Got, count, request, body_len }
    }

    /// The header of the answer to a `Put` of `count` blocks.
    pub fn stored(request: RequestId, count: usize) -> Self {
        Self { verb: Verb::Stored, count, request, body_len: count + OLDEST_SIZE }
    }

    /// Reads a header and checks it against the limits; a body of `body_len` bytes follows.
    pub fn parse(bytes: &[u8; HEADER_SIZE]) -> Result<Self, FrameError> {
        let raw = RawHeader::read_from_bytes(bytes)
            .expect("the array is as long as the header and any bytes are a raw header");
        let verb = match raw.verb {
            1 => Verb::Get,
            2 => Verb::Put,
            3 => Verb::Got,
            4 => Verb::Stored,
            other => return Err(FrameError::UnknownVerb(other)),
        };
        let count = usize::from(raw.count.get());
        if count == 0 || count > RUN_BLOCKS_MAX {
            return Err(FrameError::Count(count));
        }
        let body_len = raw.body_len.get() as usize;
        let fits = match verb {
            Verb::Get => body_len == count * size_of::<RemoteKey>(),
            Verb::Put => body_len == count * size_of::<PutEntry>(),
            Verb::Stored => body_len == count + OLDEST_SIZE,
            Verb::Got => body_len.checked_sub(count).is_some_and(|blocks| {
                blocks % size_of::<SealedBlock>() == 0 && blocks / size_of::<SealedBlock>() <= count
            }),
        };
        if !fits {
            return Err(FrameError::BodyLength(body_len));
        }
        Ok(Self { verb, count, request: RequestId(raw.request.get()), body_len })
    }

    /// The header as it goes on the wire.
    pub fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let raw = RawHeader {
            verb: self.verb as u8,
            reserved: 0,
            count: U16::new(u16::try_from(self.count).expect("a run is at most 256 blocks")),
            body_len: U32::new(
                u32::try_from(self.body_len).expect("a body is about 1 MiB at most"),
            ),
            request: U64::new(self.request.0),
        };
        zerocopy::transmute!(raw)
    }
}

/// The keys in the body of a `Get`.
pub fn get_body(body: &[u8]) -> Result<&[RemoteKey], FrameError> {
    <[RemoteKey]>::ref_from_bytes(body).map_err(|_| FrameError::Body)
}

/// The entries in the body of a `Put`.
pub fn put_body(body: &[u8]) -> Result<&[PutEntry], FrameError> {
    <[PutEntry]>::ref_from_bytes(body).map_err(|_| FrameError::Body)
}

/// The answer of a `Got`, block by block in the order of the request: sealed, or not here.
pub fn got_body(
    header: Header,
    body: &[u8],
) -> Result<impl Iterator<Item = Option<&SealedBlock>>, FrameError> {
    let (present, blocks) = body.split_at_checked(header.count).ok_or(FrameError::Body)?;
    let blocks = <[SealedBlock]>::ref_from_bytes(blocks).map_err(|_| FrameError::Body)?;
    let hits = present.iter().filter(|&&byte| byte == 1).count();
    if present.iter().any(|&byte| byte > 1) || hits != blocks.len() {
        return Err(FrameError::Body);
    }
    let mut blocks = blocks.iter();
    Ok(present.iter().map(move |&byte| if byte == 1 { blocks.next() } else { None }))
}

/// Ends the body of a `Stored`, after its outcomes: the oldest `Put` that is kept.
pub fn stored_oldest(oldest: RequestId) -> [u8; OLDEST_SIZE] {
    oldest.0.to_le_bytes()
}

/// The outcomes in the body of a `Stored`, each a [`PutOutcome`], and the oldest `Put` that is kept.
pub fn stored_body(header: Header, body: &[u8]) -> Result<(&[u8], RequestId), FrameError> {
    let (outcomes, oldest) = body.split_at_checked(header.count).ok_or(FrameError::Body)?;
    let oldest = oldest.try_into().map_err(|_| FrameError::Body)?;
    Ok((outcomes, RequestId(u64::from_le_bytes(oldest))))
}

/// The header as it lies on the wire.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    verb: u8,
    reserved: u8,
    count: U16,
    body_len: U32,
    request: U64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_header_reads_back_as_it_was_written() {
        let request = RequestId(0x0123_4567_89ab_cdef);
        for count in [1, 2, 17, RUN_BLOCKS_MAX] {
            for header in [
                Header::get(request, count),
                Header::put(request, count),
                Header::got(request, count, 0),
                Header::got(request, count, count),
                Header::stored(request, count),
            ] {
                assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
                assert!(header.body_len <= BODY_BYTES_MAX);
            }
        }
    }

    #[test]
    fn the_wire_is_little_endian_at_fixed_places() {
        let bytes = Header::get(RequestId(0x0807_0605_0403_0201), 0x0100).to_bytes();
        assert_eq!(bytes, [1, 0, 0x00, 0x01, 0x00, 0x10, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_header_that_lies_is_refused() {
        let request = RequestId(1);
        let zero = Header { count: 0, ..Header::get(request, 1) };
        assert_eq!(Header::parse(&zero.to_bytes()), Err(FrameError::Count(0)));
        let many = Header { count: 257, ..Header::get(request, 1) };
        assert_eq!(Header::parse(&many.to_bytes()), Err(FrameError::Count(257)));
        let long = Header { body_len: 17, ..Header::get(request, 1) };
        assert_eq!(Header::parse(&long.to_bytes()), Err(FrameError::BodyLength(17)));
        let hits = Header { count: 1, ..Header::got(request, 2, 2) };
        assert!(matches!(Header::parse(&hits.to_bytes()), Err(FrameError::BodyLength(_))));
        let mut verb = Header::get(request, 1).to_bytes();
        verb[0] = 9;
        assert_eq!(Header::parse(&verb), Err(FrameError::UnknownVerb(9)));
    }

    #[test]
    fn an_answer_that_contradicts_itself_is_refused() {
        let header = Header::got(RequestId(1), 2, 1);
        let mut body = vec![0; header.body_len];
        assert_eq!(got_body(header, &body).err(), Some(FrameError::Body), "a block nobody named");
        body[1] = 1;
        let blocks: Vec<_> = got_body(header, &body).unwrap().map(|b| b.is_some()).collect();
        assert_eq!(blocks, [false, true]);
        body[0] = 1;
        assert_eq!(got_body(header, &body).err(), Some(FrameError::Body), "a block too few");
        body[0] = 7;
        assert_eq!(got_body(header, &body).err(), Some(FrameError::Body), "not a flag");
        assert_eq!(got_body(header, &[0]).err(), Some(FrameError::Body), "cut short");
    }

    #[test]
    fn a_stored_says_what_is_kept() {
        let header = Header::stored(RequestId(9), 2);
        let body = [&[0, 1][..], &stored_oldest(RequestId(7))].concat();
        assert_eq!(stored_body(header, &body), Ok((&[0, 1][..], RequestId(7))));
        assert_eq!(stored_body(header, &body[..9]), Err(FrameError::Body));
        assert_eq!(stored_body(header, &[0]), Err(FrameError::Body));
    }

    proptest! {
        #[test]
        fn any_header_is_refused_or_bounded(bytes in any::<[u8; HEADER_SIZE]>()) {
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert!((1..=RUN_BLOCKS_MAX).contains(&header.count));
                prop_assert!(header.body_len <= BODY_BYTES_MAX);
                prop_assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
            }
        }

        #[test]
        fn any_answer_is_refused_or_whole(count in 1usize..8, body in prop::collection::vec(any::<u8>(), 0..9000)) {
            let header = Header::got(RequestId(0), count, 0);
            if let Ok(blocks) = got_body(header, &body) {
                prop_assert_eq!(blocks.count(), count);
            }
        }
    }
}
