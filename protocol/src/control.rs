//! Control messages: who is there and what it lends.
//!
//! On the control stream each message is a length (u32, little-endian) and so many bytes of
//! bincode. bincode 1.3.3 is finished rather than maintained (RUSTSEC-2025-0141); this module is
//! the only place that uses it, always with a size limit.

use std::net::SocketAddr;

use bincode::Options as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::certs::Role;

/// The version of frames and messages. Raised when either changes in a way that an older peer
/// would misread.
pub const VERSION: u16 = 3;

/// The longest control message.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The most members that a server tells of at once.
pub const MEMBERS_MAX: usize = 255;

/// Names one mount for as long as it lives. Blocks of different mounts never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MountId(pub [u8; 16]);

/// What is said to a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToServer {
    /// The first message of a client.
    Hello {
        /// The client's [`VERSION`].
        version: u16,
        /// The mount that will put and get.
        mount: MountId,
        /// For how long its blocks are to be kept when the client is gone. The server may keep them for less.
        keep_seconds: u32,
    },
    /// The first message of another server, which is answered by a [`Greeting`]. What follows are datagrams.
    Greeting(Greeting),
    /// The first message of a machine that wants to belong to the pool, to a server with the authority's key; answered by
    /// [`ToClient::Joined`].
    Join(Join),
    /// The first message of a member, of either role, to the server with the authority's key; answered by
    /// [`ToClient::Renewed`].
    Renew {
        /// The member's [`VERSION`].
        version: u16,
        /// Whether it wants a new certificate: that with which it has connected will expire.
        certificate: bool,
    },
    /// A member, of either role, wants to know how the server is; answered by [`ToClient::Probed`], also when it is said
    /// again.
    Probe {
        /// The member's [`VERSION`].
        version: u16,
    },
}

/// What a machine asks for that wants to belong to the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Its [`VERSION`].
    pub version: u16,
    /// A join token, as its bytes.
    pub token: Vec<u8>,
    /// What it wants to be called.
    pub name: String,
    /// What it wants to be.
    pub role: Role,
    /// A PKCS #10 request (RFC 2986) in DER, of which only the key counts.
    pub request: Vec<u8>,
}

/// What a new member needs, in DER.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Its certificate.
    pub certificate: Vec<u8>,
    /// That of the pool's CA.
    pub ca: Vec<u8>,
}

/// What keeps a member up to date, in DER.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// A new certificate for the same key, if one was wanted.
    pub certificate: Option<Vec<u8>>,
    /// What was revoked: a list as in RFC 5280, 5, if there is one.
    pub revoked: Option<Vec<u8>>,
}

/// How a server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// What its clock says: milliseconds since 1970.
    pub unix_ms: u64,
    /// What it lends.
    pub lending: Lending,
    /// The other servers that it knows of.
    pub members: Vec<Member>,
}

/// How servers begin to gossip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The server's [`VERSION`].
    pub version: u16,
    /// Where the others find it: one server, one address.
    pub address: SocketAddr,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToClient {
    /// The answer to a hello: data streams may be opened.
    Welcome {
        /// The server's [`VERSION`].
        version: u16,
        /// Tells this run of the server from earlier ones, whose blocks are gone.
        instance: u64,
        /// What the server lends now; repeated as [`ToClient::Lending`] when it changes.
        lending: Lending,
    },
    /// What the server lends has changed.
    Lending(Lending),
    /// The other servers that it knows of, [`MEMBERS_MAX`] at most; repeated when that changes.
    Members(Vec<Member>),
    /// The answer to a join.
    Joined(Joined),
    /// The answer to a renewal.
    Renewed(Renewed),
    /// The answer to a probe.
    Probed(Probed),
}

/// A server, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// How it stands.
    pub standing: Standing,
    /// Where it serves.
    pub address: SocketAddr,
}

/// What servers think of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Standing {
    /// It answers.
    Alive,
    /// It does not answer, and has a few seconds to prove that it can.
    Suspected,
    /// It has left, or does not answer any more.
    Gone,
}

/// How much a server lends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lending {
    /// The most that it will hold, in bytes of blocks: its weight in the choice of servers.
    pub capacity_bytes: u64,
    /// True while it takes no new blocks.
    pub pausing: bool,
}

/// Why an end of the connection closed it: QUIC application error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// The mount or the server ends.
    Done = 0,
    /// The peer speaks another [`VERSION`].
    Version = 1,
    /// The peer broke the protocol; the reason says how.
    Protocol = 2,
    /// The server serves as many clients as it may.
    Busy = 3,
    /// The server does not let the machine in, because it may not belong to the pool, or does not any more.
    Refused = 4,
}

impl From<CloseCode> for quinn::VarInt {
    fn from(code: CloseCode) -> Self {
        Self::from_u32(code as u32)
    }
}

/// Why a control message was refused. The connection that sent it is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("a control message of {0} bytes, where {MESSAGE_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Not a message that we know.
    #[error("a control message that makes no sense: {0}")]
    Malformed(String),
}

/// A message with its length in front, ready to be written to the control stream.
pub fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    let body = options().serialize(message).expect("our own messages are small and serialisable");
    let mut bytes = u32::try_from(body.len()).expect("limited to 64 KiB").to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    bytes
}

/// Reads the length in front of a message and checks it against the limit.
pub fn parse_length(bytes: [u8; 4]) -> Result<usize, ControlError> {
    let length = u32::from_le_bytes(bytes) as usize;
    if length > MESSAGE_BYTES_MAX { Err(ControlError::TooLong(length)) } else { Ok(length) }
}

/// Reads a message, without the length in front. Trailing bytes are refused.
pub fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<M, ControlError> {
    if body.len() > MESSAGE_BYTES_MAX {
        return Err(ControlError::TooLong(body.len()));
    }
    options().deserialize(body).map_err(|error| ControlError::Malformed(error.to_string()))
}

fn options() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(MESSAGE_BYTES_MAX as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_read_back_as_they_were_written() {
        let hello = ToServer::Hello { version: VERSION, mount: MountId([7; 16]), keep_seconds: 30 };
        let bytes = encode(&hello);
        let length = parse_length(bytes[..4].try_into().unwrap()).unwrap();
        assert_eq!(length, bytes.len() - 4);
        assert_eq!(decode::<ToServer>(&bytes[4..]), Ok(hello));

        let lending = Lending { capacity_bytes: 2 << 30, pausing: true };
        let welcome = ToClient::Welcome { version: VERSION, instance: 9, lending };
        assert_eq!(decode::<ToClient>(&encode(&welcome)[4..]), Ok(welcome));
    }

    #[test]
    fn as_many_members_as_there_may_be_are_one_message() {
        let address = SocketAddr::from(([0xfd; 16], u16::MAX));
        let members = vec![Member { standing: Standing::Gone, address }; MEMBERS_MAX];
        let message = ToClient::Members(members);
        assert_eq!(decode::<ToClient>(&encode(&message)[4..]), Ok(message));
    }

    #[test]
    fn what_is_too_long_or_has_a_tail_is_refused() {
        assert_eq!(
            parse_length(u32::MAX.to_le_bytes()),
            Err(ControlError::TooLong(u32::MAX as usize))
        );
        let mut bytes = encode(&ToClient::Lending(Lending { capacity_bytes: 1, pausing: false }));
        bytes.push(0);
        assert!(matches!(decode::<ToClient>(&bytes[4..]), Err(ControlError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read_back(body in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(message) = decode::<ToClient>(&body) {
                prop_assert_eq!(&encode(&message)[4..], &body[..]);
            }
            if let Ok(message) = decode::<ToServer>(&body) {
                prop_assert_eq!(&encode(&message)[4..], &body[..]);
            }
        }
    }
}
