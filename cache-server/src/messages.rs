//! Control messages on a stream, and why a connection ends.

use std::fmt;

use quinn::{ConnectionError, ReadError, ReadExactError, RecvStream, SendStream, WriteError};
use rampool_protocol::control::{self, CloseCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a connection ends.
#[derive(Debug)]
pub(crate) enum End {
    /// The peer closed it, went away or was refused by TLS.
    Lost(ConnectionError),
    /// We close it, and say why.
    Closed(CloseCode, String),
}

/// The next message.
///
/// # Errors
/// The connection is lost, or what came is no such message.
pub(crate) async fn read<M: DeserializeOwned>(recv: &mut RecvStream) -> Result<M, End> {
    let mut length = [0; 4];
    read_exact(recv, &mut length).await?;
    let length = control::parse_length(length).map_err(|error| End::violation(&error))?;
    let mut body = vec![0; length];
    read_exact(recv, &mut body).await?;
    control::decode(&body).map_err(|error| End::violation(&error))
}

/// Says something to the peer.
///
/// # Errors
/// The connection is lost, or the peer has closed the stream.
pub(crate) async fn tell(send: &mut SendStream, message: &impl Serialize) -> Result<(), End> {
    send.write_all(&control::encode(message)).await.map_err(|error| match error {
        WriteError::ConnectionLost(lost) => End::Lost(lost),
        _ => End::violation("the control stream was closed"),
    })
}

async fn read_exact(recv: &mut RecvStream, buffer: &mut [u8]) -> Result<(), End> {
    recv.read_exact(buffer).await.map_err(|error| match error {
        ReadExactError::ReadError(error) => End::lost_or_violation(error),
        ReadExactError::FinishedEarly(_) => End::violation("a control message that is cut short"),
    })
}

impl End {
    /// The peer broke the protocol in this way.
    pub(crate) fn violation(reason: &(impl fmt::Display + ?Sized)) -> Self {
        Self::Closed(CloseCode::Protocol, reason.to_string())
    }

    /// The peer speaks another version of the protocol than we do.
    pub(crate) fn other_version(peer: &str, theirs: u16) -> Self {
        let ours = control::VERSION;
        let reason = format!(
            "the {peer} speaks version {theirs} of the protocol, this server version {ours}; \
             install the same release on both"
        );
        Self::Closed(CloseCode::Version, reason)
    }

    /// The control stream could not be read.
    pub(crate) fn lost_or_violation(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(lost) => Self::Lost(lost),
            other => Self::violation(&format_args!("the control stream failed: {other}")),
        }
    }
}
