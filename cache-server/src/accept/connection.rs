//! One connection: handshake, first message, then what the peer is here for until it ends: data streams for a
//! client, gossip for another server.
//!
//! Whatever is wrong with the peer ends its connection, with a reason that it is told, and is
//! logged here, once.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quinn::{Connection, ConnectionError, Incoming, ReadError, RecvStream, SendStream};
use rampool_keys::renewal::{REVOKED, revoked};
use rampool_protocol::certs::{self, Role};
use rampool_protocol::control::{CloseCode, Greeting, Join, Probed, ToClient, ToServer, VERSION};
use rampool_protocol::endpoint;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::clients::{Client, Clients};
use super::{Hall, data};
use crate::messages::{End, read, tell};

/// Handshake and first message together must not take longer.
const HELLO_MAX: Duration = Duration::from_secs(5);

/// A client that comes back within this time finds its blocks, whatever it asks for.
const KEEP_MIN: Duration = Duration::from_secs(30);

/// The longest for which blocks are kept for a client that is gone.
const KEEP_MAX: Duration = Duration::from_secs(3600);

/// Probes on one connection.
const PROBES_MAX: usize = 1000;

/// What is said where no members are made.
const NO_AUTHORITY: &str = "this server makes no members: the authority's key is not here";

/// The first stream of a connection.
struct Control {
    send: SendStream,
    recv: RecvStream,
}

/// Serves a connection until it ends. `stranger` is its place until it has said what it is here for.
pub(super) async fn attend(incoming: Incoming, stranger: OwnedSemaphorePermit, hall: Hall) {
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
    let (name, role) = match certs::peer(&connection) {
        Some((name, role)) => {
            endpoint::welcome(&connection);
            (name, Some(role))
        }
        None => ("somebody new".to_owned(), None),
    };
    let name: Arc<str> = name.into();
    let seen_as = role.unwrap_or(Role::Client);
    let first = tokio::time::timeout_at(began + HELLO_MAX, first_message(&connection)).await;
    drop(stranger);
    let credentials = hall.credentials.clone();
    let served = async {
        match first {
            Ok(Ok((control, said))) => match (said, role) {
                (ToServer::Hello { version, .. }, _) if version != VERSION => {
                    End::other_version("client", version)
                }
                (ToServer::Join(join), _) => admit(&connection, control, &join, &hall).await,
                (ToServer::Renew { version, .. }, Some(role)) if version != VERSION => {
                    End::other_version(&role.to_string(), version)
                }
                (ToServer::Probe { version }, Some(role)) if version != VERSION => {
                    End::other_version(&role.to_string(), version)
                }
                (ToServer::Probe { .. }, Some(_)) => answer_probes(control, &hall).await,
                (ToServer::Renew { certificate, .. }, Some(_)) => {
                    renew(&connection, control, certificate, &name, &hall).await
                }
                (_, None) => End::violation("you have no certificate; this server needs one"),
                (ToServer::Hello { mount, keep_seconds, .. }, Some(Role::Client)) => {
                    let keep = Duration::from_secs(keep_seconds.into()).clamp(KEEP_MIN, KEEP_MAX);
                    let since = Instant::now();
                    let client = Client { name: name.clone(), address, mount, since, keep };
                    serve(&connection, control, client, hall).await
                }
                (ToServer::Greeting(Greeting { version, .. }), _) if version != VERSION => {
                    End::other_version("other server", version)
                }
                (ToServer::Greeting(greeting), Some(Role::Server)) => {
                    hall.gossip.attend(&connection, control.send, greeting).await
                }
                (ToServer::Hello { .. }, Some(Role::Server)) => End::violation(
                    "a server's certificate is no client's; issue one with --role client",
                ),
                (ToServer::Greeting(_), Some(Role::Client)) => End::violation(
                    "a client's certificate is no server's; issue one with --role server",
                ),
            },
            Ok(Err(end)) => end,
            Err(_) => End::violation(&format_args!("no hello within {HELLO_MAX:?}")),
        }
    };
    let mut served = std::pin::pin!(served);
    let end = tokio::select! {
        end = &mut served => end,
        () = revoked(&connection, credentials) => {
            warn!(%address, %name, "its certificate was revoked");
            connection.close(CloseCode::Refused.into(), REVOKED.as_bytes());
            served.await
        }
    };
    match end {
        End::Lost(
            error @ (ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed),
        ) => {
            info!(%address, %name, "left: {}", certs::explain(&error, seen_as));
        }
        End::Lost(error) => {
            warn!(%address, %name, "lost: {}", certs::explain(&error, seen_as));
        }
        End::Closed(code, reason) => {
            warn!(%address, %name, "closed the connection: {reason}");
            connection.close(code.into(), reason.as_bytes());
        }
    }
}

/// The peer opens the control stream and says what it is here for.
async fn first_message(connection: &Connection) -> Result<(Control, ToServer), End> {
    let (send, mut recv) = connection.accept_bi().await.map_err(End::Lost)?;
    let said = read(&mut recv).await?;
    Ok((Control { send, recv }, said))
}

/// Makes a member of who shows a good token.
async fn admit(connection: &Connection, mut control: Control, join: &Join, hall: &Hall) -> End {
    if join.version != VERSION {
        return End::other_version("new machine", join.version);
    }
    let Some(authority) = &hall.authority else { return End::violation(NO_AUTHORITY) };
    let joined = match authority.admit(join, SystemTime::now()) {
        Ok(joined) => joined,
        Err(why) => return End::Closed(CloseCode::Refused, format!("{why:#}")),
    };
    if let Err(end) = tell(&mut control.send, &ToClient::Joined(joined)).await {
        return end;
    }
    info!(address = %connection.remote_address(), name = join.name, role = %join.role, "joined the pool");
    hangs_up(connection).await
}

/// Brings a member up to date.
async fn renew(
    connection: &Connection,
    mut control: Control,
    wants_certificate: bool,
    name: &str,
    hall: &Hall,
) -> End {
    let Some(authority) = &hall.authority else { return End::violation(NO_AUTHORITY) };
    let Some(certificate) = certs::peer_certificate(connection) else {
        return End::violation("you have no certificate; this server needs one");
    };
    let renewed = match authority.renew(&certificate, wants_certificate, SystemTime::now()) {
        Ok(renewed) => renewed,
        Err(why) => return End::Closed(CloseCode::Refused, format!("{why:#}")),
    };
    if let Err(end) = tell(&mut control.send, &ToClient::Renewed(renewed)).await {
        return end;
    }
    if wants_certificate {
        info!(address = %connection.remote_address(), name, "has a new certificate");
    }
    hangs_up(connection).await
}

/// Says how this server is, as often as it is asked.
async fn answer_probes(mut control: Control, hall: &Hall) -> End {
    for _ in 0..PROBES_MAX {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let probed = Probed {
            unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            lending: *hall.lending.borrow(),
            members: hall.gossip.members().borrow().to_vec(),
        };
        if let Err(end) = tell(&mut control.send, &ToClient::Probed(probed)).await {
            return end;
        }
        match timeout(HELLO_MAX, read(&mut control.recv)).await {
            Ok(Ok(ToServer::Probe { .. })) => {}
            Ok(Ok(_)) => return End::violation("a probe is followed by another, or by nothing"),
            Ok(Err(end)) => return end,
            Err(_) => {
                return End::violation(&format_args!("no further probe within {HELLO_MAX:?}"));
            }
        }
    }
    End::violation(&format_args!("more than {PROBES_MAX} probes"))
}

/// Whoever has got what it wanted hangs up.
async fn hangs_up(connection: &Connection) -> End {
    match timeout(HELLO_MAX, connection.closed()).await {
        Ok(error) => End::Lost(error),
        Err(_) => End::violation("nothing is expected after the answer"),
    }
}

/// Welcomes the client, then serves its data streams and tells it how much is lent, and who else lends.
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

    let mut members = hall.gossip.members();
    if !members.borrow().is_empty() {
        members.mark_changed();
    }
    let mut streams = JoinSet::new();
    let mut listening = true;
    let mut byte = [0];
    loop {
        let news = tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((send, recv)) => {
                    let service = hall.service.clone();
                    streams.spawn(async move { data::serve(&service, mount, send, recv).await });
                    continue;
                }
                Err(error) => return End::Lost(error),
            },
            Some(stream) = streams.join_next() => match stream {
                Ok(Ok(())) => {
                    debug!(%address, "a data stream ended");
                    continue;
                }
                Ok(Err(end)) => return end,
                // We cancel none; what is left is a bug in the task, which ends this client only.
                Err(error) => return End::violation(&format_args!("the server failed: {error}")),
            },
            said = recv.read(&mut byte), if listening => match said {
                Ok(Some(_)) => return End::violation("a second message on the control stream"),
                // A client may end its side: it has nothing more to say.
                Ok(None) | Err(ReadError::Reset(_)) => {
                    listening = false;
                    continue;
                }
                Err(error) => return End::lost_or_violation(error),
            },
            Ok(()) = hall.lending.changed() => {
                ToClient::Lending(*hall.lending.borrow_and_update())
            }
            Ok(()) = members.changed() => {
                ToClient::Members(members.borrow_and_update().to_vec())
            }
        };
        if let Err(end) = tell(&mut send, &news).await {
            return end;
        }
    }
}
