//! One connection: handshake, hello, then data streams until it ends.
//!
//! Whatever is wrong with the peer ends its connection, with a reason that it is told, and is
//! logged here, once.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{
    Connection, ConnectionError, Incoming, ReadError, ReadExactError, RecvStream, SendStream,
};
use rampool_protocol::certs::{self, Role};
use rampool_protocol::control::{self, CloseCode, MountId, ToClient, ToServer, VERSION};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::clients::{Client, Clients};
use super::{Hall, data};

/// Handshake and hello together must not take longer.
const HELLO_MAX: Duration = Duration::from_secs(5);

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// The peer closed it, went away or was refused by TLS.
    Lost(ConnectionError),
    /// We close it, and say why.
    Closed(CloseCode, String),
}

/// The first stream of a connection.
struct Control {
    send: SendStream,
    recv: RecvStream,
}

/// Serves a connection until it ends.
pub(super) async fn attend(incoming: Incoming, hall: Hall) {
    let address = incoming.remote_address();
    let began = tokio::time::Instant::now();
    let connection = match tokio::time::timeout_at(began + HELLO_MAX, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            warn!(%address, "no connection: {}", certs::explain(&error, Role::Client));
            return;
        }
        Err(_) => {
            warn!(%address, "no connection: the handshake took longer than {HELLO_MAX:?}");
            return;
        }
    };
    let name: Arc<str> = certs::peer_name(&connection).unwrap_or_default().into();
    let hello = tokio::time::timeout_at(began + HELLO_MAX, hello(&connection)).await;
    let end = match hello {
        Ok(Ok((control, mount))) => {
            let client = Client { name: name.clone(), address, mount, since: Instant::now() };
            serve(&connection, control, client, hall).await
        }
        Ok(Err(end)) => end,
        Err(_) => End::violation(&format_args!("no hello within {HELLO_MAX:?}")),
    };
    match end {
        End::Lost(
            error @ (ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed),
        ) => {
            info!(%address, %name, "left: {}", certs::explain(&error, Role::Client));
        }
        End::Lost(error) => {
            warn!(%address, %name, "lost: {}", certs::explain(&error, Role::Client));
        }
        End::Closed(code, reason) => {
            warn!(%address, %name, "closed the connection: {reason}");
            connection.close(code.into(), reason.as_bytes());
        }
    }
}

/// The client opens the control stream and says which version it speaks, for which mount.
async fn hello(connection: &Connection) -> Result<(Control, MountId), End> {
    let (send, mut recv) = connection.accept_bi().await.map_err(End::Lost)?;
    let mut length = [0; 4];
    read(&mut recv, &mut length).await?;
    let length = control::parse_length(length).map_err(|error| End::violation(&error))?;
    let mut body = vec![0; length];
    read(&mut recv, &mut body).await?;
    let ToServer::Hello { version, mount } =
        control::decode(&body).map_err(|error| End::violation(&error))?;
    if version != VERSION {
        let reason = format!(
            "the client speaks version {version} of the protocol, this server version {VERSION}; \
             install the same release on both"
        );
        return Err(End::Closed(CloseCode::Version, reason));
    }
    Ok((Control { send, recv }, mount))
}

/// Welcomes the client, then serves its data streams and tells it how much is lent.
async fn serve(connection: &Connection, control: Control, client: Client, mut hall: Hall) -> End {
    let Control { mut send, mut recv } = control;
    let (mount, address, name) = (client.mount, client.address, client.name.clone());
    let Some(_seat) = hall.clients.seat(client) else {
        let reason = format!("this server serves {} clients already", Clients::MAX);
        return End::Closed(CloseCode::Busy, reason);
    };
    // After the seat: see `Follower`, which dismisses those without one.
    if !hall.service.state().store.admit(mount, &name) {
        return End::violation("the mount is another client's");
    }
    let lending = *hall.lending.borrow_and_update();
    let instance = hall.service.instance;
    let welcome = ToClient::Welcome { version: VERSION, instance, lending };
    if let Err(end) = tell(&mut send, &welcome).await {
        return end;
    }
    info!(%address, %name, "connected");

    let mut streams = JoinSet::new();
    let mut listening = true;
    let mut byte = [0];
    loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((send, recv)) => {
                    let service = hall.service.clone();
                    streams.spawn(async move { data::serve(&service, mount, send, recv).await });
                }
                Err(error) => return End::Lost(error),
            },
            Some(stream) = streams.join_next() => match stream {
                Ok(Ok(())) => debug!(%address, "a data stream ended"),
                Ok(Err(end)) => return end,
                // We cancel none; what is left is a bug in the task, which ends this client only.
                Err(error) => return End::violation(&format_args!("the server failed: {error}")),
            },
            said = recv.read(&mut byte), if listening => match said {
                Ok(Some(_)) => return End::violation("a second message on the control stream"),
                // A client may end its side: it has nothing more to say.
                Ok(None) | Err(ReadError::Reset(_)) => listening = false,
                Err(error) => return End::lost_or_violation(error),
            },
            Ok(()) = hall.lending.changed() => {
                let lending = *hall.lending.borrow_and_update();
                if let Err(end) = tell(&mut send, &ToClient::Lending(lending)).await {
                    return end;
                }
            }
        }
    }
}

async fn tell(send: &mut SendStream, message: &ToClient) -> Result<(), End> {
    send.write_all(&control::encode(message)).await.map_err(|error| match error {
        quinn::WriteError::ConnectionLost(lost) => End::Lost(lost),
        _ => End::violation("the control stream was closed"),
    })
}

async fn read(recv: &mut RecvStream, buffer: &mut [u8]) -> Result<(), End> {
    recv.read_exact(buffer).await.map_err(|error| match error {
        ReadExactError::ReadError(error) => End::lost_or_violation(error),
        ReadExactError::FinishedEarly(_) => End::violation("a control message that is cut short"),
    })
}

impl End {
    /// The peer broke the protocol in this way.
    pub(super) fn violation(reason: &(impl fmt::Display + ?Sized)) -> Self {
        Self::Closed(CloseCode::Protocol, reason.to_string())
    }

    fn lost_or_violation(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(lost) => Self::Lost(lost),
            other => Self::violation(&format_args!("the control stream failed: {other}")),
        }
    }
}
