//! One question to the server that has the authority's key.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, TokioRuntime, TransportErrorCode};
use rampool_protocol::certs::{AUTHORITY_NAME, Role, explain, said};
use rampool_protocol::control::{self, CloseCode, ToClient, ToServer};
use rampool_protocol::endpoint;
use tokio::time::timeout;

/// A server that has not answered within this time does not.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Asks each address of `server` in turn.
///
/// # Errors
/// It cannot be reached, is not the authority's, or refuses.
pub(crate) fn authority(
    server: &str,
    config: &ClientConfig,
    message: &ToServer,
) -> anyhow::Result<ToClient> {
    let addresses = server.to_socket_addrs().with_context(|| format!("cannot look up {server}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut why = anyhow!("{server} has no address");
        for address in addresses {
            match timeout(ANSWERS_WITHIN, ask(address, config, message)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => why = error,
                Err(_) => {
                    why = anyhow!(
                        "{address} does not answer; is rampool-server running there, and can UDP reach it?"
                    );
                }
            }
        }
        Err(why)
    })
}

async fn ask(
    address: SocketAddr,
    config: &ClientConfig,
    message: &ToServer,
) -> anyhow::Result<ToClient> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = endpoint::bind(any).context("cannot make a socket")?.socket;
    let endpoint = Endpoint::new(endpoint::endpoint_config(), None, socket, Arc::new(TokioRuntime))
        .context("cannot make a socket")?;
    let connecting = endpoint.connect_with(config.clone(), address, AUTHORITY_NAME)?;
    let connection = connecting.await.map_err(|error| refusal(address, &error))?;
    let answer = converse(&connection, message).await;
    let closed = connection.close_reason();
    connection.close(CloseCode::Done.into(), b"");
    endpoint.wait_idle().await;
    answer.map_err(|error| match closed {
        Some(why) => refusal(address, &why),
        None => error,
    })
}

async fn converse(connection: &Connection, message: &ToServer) -> anyhow::Result<ToClient> {
    let (mut ask, mut told) = connection.open_bi().await?;
    ask.write_all(&control::encode(message)).await?;
    read(&mut told).await
}

async fn read(told: &mut RecvStream) -> anyhow::Result<ToClient> {
    let mut length = [0; 4];
    told.read_exact(&mut length).await?;
    let mut body = vec![0; control::parse_length(length)?];
    told.read_exact(&mut body).await?;
    Ok(control::decode(&body)?)
}

fn refusal(address: SocketAddr, why: &quinn::ConnectionError) -> anyhow::Error {
    if let quinn::ConnectionError::ApplicationClosed(closed) = why {
        return anyhow!("{address} refuses: {}", said(&closed.reason));
    }
    // TLS alerts (RFC 8446, 6.2): bad_certificate, unknown_ca.
    let ours = [42, 48].map(TransportErrorCode::crypto);
    if matches!(why, quinn::ConnectionError::TransportError(error) if ours.contains(&error.code)) {
        return anyhow!(
            "the server at {address} is of another pool, or does not have the authority's key (ca.key)"
        );
    }
    anyhow!("{address}: {}", explain(why, Role::Server))
}
