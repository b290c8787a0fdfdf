//! Peers that break the protocol: each is told why and closed, and nobody else notices.

mod support;

use std::time::{Duration, Instant};

use rampool_protocol::certs::Role;
use rampool_protocol::control::{CloseCode, MESSAGE_BYTES_MAX, MountId, ToServer, VERSION};
use rampool_protocol::frame::{Header, RequestId};
use support::peer::{Data, Peer, close_reason, connect};
use support::pool::Pool;
use support::server::Server;
use support::{entry, key, sealed};

const MOUNT: MountId = MountId([7; 16]);

/// Sends `bytes` on a data stream of its own connection, ends the stream, and expects the
/// connection to be closed with `reason` while an honest client is served on.
async fn refused(bytes: &[u8], reason: &str) {
    let pool = Pool::new("one");
    let mut server = Server::start(&pool.issue("server", Role::Server), "8M");
    let honest =
        Peer::join(server.address, pool.client("honest"), MOUNT).await.expect("it may join");
    let mut honest = honest.data().await;
    honest.put(&[entry(1)]).await;

    let hostile = Peer::join(server.address, pool.client("hostile"), MountId([8; 16]));
    let hostile = hostile.await.expect("it may join");
    let Data { mut send, .. } = hostile.data().await;
    // The server may close the connection before all is sent.
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    assert_eq!(hostile.closed().await, (CloseCode::Protocol as u64, reason.to_owned()));
    let line = server.logged("closed the connection");
    assert!(line.contains(reason) && line.contains("hostile"), "{line}");
    assert_eq!(honest.get(&[key(1)]).await, [Some(sealed(1))]);
}

#[tokio::test]
async fn a_mount_that_is_another_clients() {
    let pool = Pool::new("one");
    let server = Server::start(&pool.issue("server", Role::Server), "8M");
    let honest =
        Peer::join(server.address, pool.client("honest"), MOUNT).await.expect("it may join");
    let hostile = Peer::join(server.address, pool.client("hostile"), MOUNT).await;
    let reason = "the mount is another client's".to_owned();
    let refused = close_reason(hostile.err().expect("it may not join"));
    assert_eq!(refused, (CloseCode::Protocol as u64, reason));
    assert_eq!(honest.data().await.get(&[key(1)]).await, [None]);
}

#[tokio::test]
async fn an_unknown_verb() {
    let mut bytes = Header::get(RequestId(1), 1).to_bytes();
    bytes[0] = 77;
    refused(&bytes, "unknown verb 77").await;
}

#[tokio::test]
async fn an_answer_instead_of_a_request() {
    let bytes = Header::stored(RequestId(1), 1).to_bytes();
    refused(&bytes, "an answer, where a request is expected").await;
}

#[tokio::test]
async fn a_count_above_the_limit() {
    let header = Header { count: 60_000, ..Header::get(RequestId(1), 1) };
    refused(&header.to_bytes(), "a run of 60000 blocks, where 1 to 256 are allowed").await;
}

#[tokio::test]
async fn a_body_length_that_lies() {
    let header = Header { body_len: 0xffff_ffff, ..Header::put(RequestId(1), 1) };
    let reason = "a body of 4294967295 bytes, which does not match its verb and count";
    refused(&header.to_bytes(), reason).await;
}

#[tokio::test]
async fn a_header_cut_short() {
    refused(&Header::get(RequestId(1), 1).to_bytes()[..9], "a frame that is cut short").await;
}

#[tokio::test]
async fn a_body_cut_short() {
    let mut bytes = Header::put(RequestId(1), 2).to_bytes().to_vec();
    bytes.resize(5000, 1);
    refused(&bytes, "a frame that is cut short").await;
}

#[tokio::test]
async fn garbage() {
    refused(&[0xee; 100_000], "unknown verb 238").await;
}

/// Sends `bytes` as the first on the control stream.
async fn hello_refused(bytes: &[u8], code: CloseCode, reason: &str) {
    let pool = Pool::new("one");
    let server = Server::start(&pool.issue("server", Role::Server), "8M");
    let (_endpoint, connection) =
        connect(server.address, pool.client("vm1")).await.expect("connected");
    let (mut send, _recv) = connection.open_bi().await.expect("a stream");
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    let (closed, why) = close_reason(connection.closed().await);
    assert_eq!(closed, code as u64);
    assert!(why.starts_with(reason), "{why}");
    Peer::join(server.address, pool.client("vm2"), MOUNT).await.expect("others are served");
}

#[tokio::test]
async fn a_control_message_that_is_too_long() {
    let length = u32::try_from(MESSAGE_BYTES_MAX + 1).unwrap().to_le_bytes();
    let reason = "a control message of 65537 bytes, where 65536 are allowed";
    hello_refused(&length, CloseCode::Protocol, reason).await;
}

#[tokio::test]
async fn a_hello_that_makes_no_sense() {
    let reason = "a control message that makes no sense";
    hello_refused(&[3, 0, 0, 0, 9, 9, 9], CloseCode::Protocol, reason).await;
}

#[tokio::test]
async fn a_hello_cut_short() {
    let reason = "a control message that is cut short";
    hello_refused(&[22, 0], CloseCode::Protocol, reason).await;
}

#[tokio::test]
async fn another_version_is_told_both() {
    let pool = Pool::new("one");
    let server = Server::start(&pool.issue("server", Role::Server), "8M");
    let hello = ToServer::Hello { version: VERSION + 1, mount: MOUNT, keep_seconds: 0 };
    let refused = Peer::hello(server.address, pool.client("vm1"), hello).await;
    let (code, reason) = close_reason(refused.err().unwrap());
    assert_eq!(code, CloseCode::Version as u64);
    let both = [VERSION + 1, VERSION].map(|version| format!("version {version}"));
    assert!(both.iter().all(|version| reason.contains(version)), "{reason}");
}

#[tokio::test]
async fn a_second_message_on_the_control_stream() {
    let pool = Pool::new("one");
    let server = Server::start(&pool.issue("server", Role::Server), "8M");
    let mut peer = Peer::join(server.address, pool.client("vm1"), MOUNT).await.unwrap();
    peer.control.0.write_all(&[0; 4]).await.unwrap();
    let reason = "a second message on the control stream".to_owned();
    assert_eq!(peer.closed().await, (CloseCode::Protocol as u64, reason));
}

#[tokio::test]
async fn no_hello_in_time() {
    let pool = Pool::new("one");
    let server = Server::start(&pool.issue("server", Role::Server), "8M");
    let began = Instant::now();
    let (_endpoint, connection) = connect(server.address, pool.client("vm1")).await.unwrap();
    let (code, reason) = close_reason(connection.closed().await);
    assert_eq!((code, &*reason), (CloseCode::Protocol as u64, "no hello within 5s"));
    assert!((4..9).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn one_client_too_many() {
    let pool = Pool::new("one");
    let mut server = Server::start(&pool.issue("server", Role::Server), "8M");
    let config = pool.client("vm1");
    let mut peers = Vec::new();
    for id in 0..64 {
        peers.push(Peer::join(server.address, config.clone(), MountId([id; 16])).await.unwrap());
    }
    let refused = Peer::join(server.address, config.clone(), MOUNT).await.err().unwrap();
    let reason = "this server serves 64 clients already".to_owned();
    assert_eq!(close_reason(refused), (CloseCode::Busy as u64, reason));
    peers[3].connection.close(CloseCode::Done.into(), b"the mount ends");
    let deadline = Instant::now() + Duration::from_secs(10);
    while Peer::join(server.address, config.clone(), MOUNT).await.is_err() {
        assert!(Instant::now() < deadline, "a seat that was left is free");
    }
    server.logged("the client closed the connection: the mount ends");
}

#[tokio::test]
async fn an_abandoned_stream_is_no_offence() {
    let pool = Pool::new("one");
    let server = Server::start(&pool.issue("server", Role::Server), "8M");
    let peer = Peer::join(server.address, pool.client("vm1"), MOUNT).await.unwrap();
    let mut data = peer.data().await;
    data.send.write_all(&Header::put(RequestId(1), 5).to_bytes()).await.unwrap();
    data.send.reset(0u32.into()).unwrap();
    data.recv.stop(0u32.into()).unwrap();
    let mut data = peer.data().await;
    data.put(&[entry(1)]).await;
    assert_eq!(data.get(&[key(1)]).await, [Some(sealed(1))]);
}
