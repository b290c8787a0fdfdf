//! One data stream: requests in, answers out, until the client ends it.
//!
//! A stream holds one answer and a few blocks at most: the next request is read when the last
//! answer was taken by QUIC, whose windows bound the rest. The blocks of a PUT are stored as they
//! arrive.

use quinn::{ReadError, ReadExactError, RecvStream, SendStream, WriteError};
use rampool_protocol::block::PutEntry;
use rampool_protocol::control::MountId;
use rampool_protocol::frame::{self, HEADER_SIZE, Header, RUN_BLOCKS_MAX, Verb};

use crate::messages::End;
use crate::serve::Service;

/// Blocks of a PUT that are read at once.
const PART_BLOCKS: usize = 8;
/// One part of a PUT; the keys of the largest GET fit as well.
const BUFFER_BYTES: usize = PART_BLOCKS * size_of::<PutEntry>();

/// Blocks served in a row before other streams get their turn.
const TURN_BLOCKS: usize = RUN_BLOCKS_MAX;

/// Serves requests until the client ends or abandons the stream.
pub(super) async fn serve(
    service: &Service,
    mount: MountId,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<(), End> {
    match requests(service, mount, &mut send, &mut recv).await {
        Ok(()) | Err(Stop::Abandoned) => {
            // It fails if the client reset the stream, and then there is nothing to end.
            let _ = send.finish();
            Ok(())
        }
        Err(Stop::End(end)) => Err(end),
    }
}

/// Why a stream is not served on.
enum Stop {
    /// The client does not want the rest of it.
    Abandoned,
    /// The whole connection is to end.
    End(End),
}

async fn requests(
    service: &Service,
    mount: MountId,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> Result<(), Stop> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut turn = 0;
    while let Some(header) = next_header(recv).await? {
        let answer = match header.verb {
            Verb::Get => {
                let body = &mut buffer[..header.body_len];
                recv.read_exact(body).await?;
                let keys = frame::get_body(body).map_err(|error| End::violation(&error))?;
                service.get(mount, header.request, keys)
            }
            Verb::Put => {
                let mut run = service.put(mount, header.request, header.count);
                let mut missing = header.body_len;
                while missing > 0 {
                    let body = &mut buffer[..missing.min(BUFFER_BYTES)];
                    recv.read_exact(body).await?;
                    run.take(frame::put_body(body).map_err(|error| End::violation(&error))?);
                    missing -= body.len();
                }
                run.answer()
            }
            Verb::Got | Verb::Stored => {
                return Err(End::violation("an answer, where a request is expected").into());
            }
        };
        send.write_chunk(answer).await?;
        turn += header.count;
        if turn >= TURN_BLOCKS {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// The header of the next request, or none where the client has ended the stream.
async fn next_header(recv: &mut RecvStream) -> Result<Option<Header>, Stop> {
    let mut bytes = [0; HEADER_SIZE];
    match recv.read_exact(&mut bytes).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    Ok(Some(Header::parse(&bytes).map_err(|error| End::violation(&error))?))
}

impl From<End> for Stop {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

impl From<ReadExactError> for Stop {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => End::violation("a frame that is cut short").into(),
            ReadExactError::ReadError(ReadError::ConnectionLost(lost)) => End::Lost(lost).into(),
            ReadExactError::ReadError(_) => Self::Abandoned,
        }
    }
}

impl From<WriteError> for Stop {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(lost) => End::Lost(lost).into(),
            _ => Self::Abandoned,
        }
    }
}

const _: () =
    assert!(BUFFER_BYTES >= RUN_BLOCKS_MAX * size_of::<rampool_protocol::block::RemoteKey>());
