//! Who is let in: each kind of bad certificate is refused, and both ends say which kind.

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::Endpoint;
use rampool_protocol::certs::{Identity, Role, explain};
use rampool_protocol::control::{self, CloseCode, Greeting, MountId, ToServer, VERSION};
use rampool_protocol::endpoint;
use support::peer::{Peer, close_reason, connect};
use support::pool::{DAY, Pool, careless_client, careless_server};
use support::server::Server;

const MOUNT: MountId = MountId([7; 16]);

const ANOTHER_POOL: &str = "it is of another pool";
const EXPIRED: &str = "it has expired or is not valid yet";
const WRONG_ROLE: &str = "it has the wrong role";

/// The server does not accept this client: what each of them says.
async fn client_refused(server: &mut Server, config: quinn::ClientConfig, why: &str) {
    let error = Peer::join(server.address, config, MOUNT).await.err().expect("it is refused");
    let told = explain(&error, Role::Server);
    assert!(told.starts_with("the server refused our certificate: "), "{told}");
    assert!(told.contains(why), "{told}");
    let line = server.logged("no connection");
    assert!(line.contains("refused the client's certificate: ") && line.contains(why), "{line}");
}

/// The client does not accept this server: what each of them says.
async fn server_refused(server: &mut Server, config: quinn::ClientConfig, why: &str) {
    let error = Peer::join(server.address, config, MOUNT).await.err().expect("it is refused");
    let told = explain(&error, Role::Server);
    assert!(told.starts_with("refused the server's certificate: "), "{told}");
    assert!(told.contains(why), "{told}");
    let line = server.logged("no connection");
    assert!(line.contains("the client refused our certificate: ") && line.contains(why), "{line}");
}

#[tokio::test]
async fn a_client_of_another_pool() {
    let (ours, theirs) = (Pool::new("ours"), Pool::new("theirs"));
    let mut server = Server::start(&ours.issue("server", Role::Server), "8M");
    // It trusts our server, but shows a certificate of its own pool.
    let keys = theirs.issue("vm1", Role::Client);
    std::fs::copy(ours.dir.path().join("server/ca.pem"), keys.join("ca.pem")).unwrap();
    let config = careless_client(&keys, true);
    client_refused(&mut server, config, ANOTHER_POOL).await;
    Peer::join(server.address, ours.client("vm2"), MOUNT).await.unwrap();
}

#[tokio::test]
async fn a_server_of_another_pool() {
    let (ours, theirs) = (Pool::new("ours"), Pool::new("theirs"));
    let mut server = Server::start(&theirs.issue("server", Role::Server), "8M");
    server_refused(&mut server, ours.client("vm1"), ANOTHER_POOL).await;
}

#[tokio::test]
async fn an_expired_client() {
    let pool = Pool::new("one");
    let mut server = Server::start(&pool.issue("server", Role::Server), "8M");
    let keys = pool.issue_until("vm1", Role::Client, SystemTime::now() - DAY);
    let error = Identity::load(&keys, Role::Client).unwrap_err().to_string();
    assert!(error.contains("is valid from"), "{error}");
    client_refused(&mut server, careless_client(&keys, true), EXPIRED).await;
}

#[tokio::test]
async fn a_server_whose_certificate_expires_while_it_runs() {
    let pool = Pool::new("one");
    let end = SystemTime::now() + Duration::from_secs(3);
    let mut server = Server::start(&pool.issue_until("server", Role::Server, end), "8M");
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    // Validity counts whole seconds, the last one included.
    tokio::time::sleep(left + Duration::from_secs(2)).await;
    server_refused(&mut server, pool.client("vm1"), EXPIRED).await;
}

#[tokio::test]
async fn a_server_that_comes_as_a_client() {
    let pool = Pool::new("one");
    let keys = pool.issue("server", Role::Server);
    let mut server = Server::start(&keys, "8M");
    // It is let in, to gossip and for nothing else.
    let refused = Peer::join(server.address, careless_client(&keys, true), MOUNT).await;
    let (code, told) = close_reason(refused.err().expect("it is refused"));
    assert_eq!(code, CloseCode::Protocol as u64);
    assert!(told.contains("issue one with --role client"), "{told}");
    server.logged("closed the connection: a server's certificate is no client's");
}

#[tokio::test]
async fn a_client_that_comes_as_a_server() {
    let pool = Pool::new("one");
    let mut server = Server::start(&pool.issue("server", Role::Server), "8M");
    let (_endpoint, connection) = connect(server.address, pool.client("vm1")).await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let address = "127.0.0.1:1".parse().unwrap();
    let greeting = ToServer::Greeting(Greeting { version: VERSION, address });
    send.write_all(&control::encode(&greeting)).await.unwrap();
    let (code, told) = close_reason(connection.closed().await);
    assert_eq!(code, CloseCode::Protocol as u64);
    assert!(told.contains("issue one with --role server"), "{told}");
    server.logged("closed the connection: a client's certificate is no server's");
}

#[tokio::test]
async fn a_client_that_plays_the_server() {
    let pool = Pool::new("one");
    let keys = pool.issue("vm1", Role::Client);
    let socket = endpoint::bind(([127, 0, 0, 1], 0).into()).unwrap().socket;
    let server = Endpoint::new(
        endpoint::endpoint_config(),
        Some(careless_server(&keys)),
        socket,
        Arc::new(quinn::TokioRuntime),
    )
    .unwrap();
    let address = server.local_addr().unwrap();
    let accept = tokio::spawn(async move { server.accept().await.unwrap().await.map(drop) });
    let error = connect(address, pool.client("vm2")).await.err().unwrap();
    let told = explain(&error, Role::Server);
    assert!(told.starts_with("refused the server's certificate: "), "{told}");
    assert!(told.contains(WRONG_ROLE), "{told}");
    let told = explain(&accept.await.unwrap().unwrap_err(), Role::Client);
    assert!(told.starts_with("the client refused our certificate: "), "{told}");
    assert!(told.contains(WRONG_ROLE), "{told}");
}

#[tokio::test]
async fn a_client_without_a_certificate() {
    let pool = Pool::new("one");
    let mut server = Server::start(&pool.issue("server", Role::Server), "8M");
    let config = careless_client(&pool.issue("vm1", Role::Client), false);
    client_refused(&mut server, config, "there was none; both sides need --keys").await;
}
