//! Blocks in and out of the real server.

mod support;

use rampool_protocol::certs::Role;
use rampool_protocol::control::MountId;
use rampool_protocol::frame::{PutOutcome, RUN_BLOCKS_MAX};
use support::peer::Peer;
use support::pool::Pool;
use support::server::{Server, run};
use support::{entry, key, sealed};

const MOUNT: MountId = MountId([7; 16]);

fn start(pool: &Pool, lend: &str) -> Server {
    Server::start(&pool.issue("server", Role::Server), lend)
}

#[tokio::test]
async fn what_was_put_is_got_and_the_rest_is_a_miss() {
    let pool = Pool::new("one");
    let server = start(&pool, "8M");
    let peer = Peer::join(server.address, pool.client("vm1"), MOUNT).await.unwrap();
    assert_eq!((peer.lending.capacity_bytes, peer.lending.pausing), (8 << 20, false));
    let mut data = peer.data().await;
    assert_eq!(data.get(&[key(1)]).await, [None]);
    assert_eq!(data.put(&[entry(1), entry(2)]).await, [PutOutcome::Stored; 2]);
    let got = data.get(&[key(2), key(9), key(1)]).await;
    assert_eq!(got, [Some(sealed(2)), None, Some(sealed(1))]);

    let newer = rampool_protocol::block::PutEntry { key: key(1), block: sealed(50) };
    data.put(&[newer]).await;
    assert_eq!(data.get(&[key(1)]).await, [Some(sealed(50))]);
}

#[tokio::test]
async fn the_longest_runs_go_through() {
    let pool = Pool::new("one");
    let server = start(&pool, "16M");
    let peer = Peer::join(server.address, pool.client("vm1"), MOUNT).await.unwrap();
    let mut data = peer.data().await;
    let run: Vec<_> = (0..RUN_BLOCKS_MAX as u64).collect();
    let entries: Vec<_> = run.iter().map(|&id| entry(id)).collect();
    let keys: Vec<_> = run.iter().map(|&id| key(id)).collect();
    assert_eq!(data.put(&entries).await, [PutOutcome::Stored; RUN_BLOCKS_MAX]);
    let got = data.get(&keys).await;
    assert!(got.iter().zip(&run).all(|(got, &id)| *got == Some(sealed(id))));

    // Many requests under way on many streams.
    let mut streams = Vec::new();
    for _ in 0..7 {
        let mut data = peer.data().await;
        streams.push(tokio::spawn(async move {
            for id in 0..RUN_BLOCKS_MAX as u64 {
                data.ask_get(&[key(id)]).await;
            }
            for id in 0..RUN_BLOCKS_MAX as u64 {
                let (header, body) = data.answer().await.unwrap();
                let got = rampool_protocol::frame::got_body(header, &body).unwrap().next();
                assert_eq!(got, Some(Some(&sealed(id))), "answers keep their order here");
            }
        }));
    }
    for stream in streams {
        stream.await.unwrap();
    }
}

#[tokio::test]
async fn clients_with_equal_keys_do_not_meet() {
    let pool = Pool::new("one");
    let server = start(&pool, "8M");
    let one = Peer::join(server.address, pool.client("vm1"), MOUNT).await.unwrap();
    let two = Peer::join(server.address, pool.client("vm2"), MountId([8; 16])).await.unwrap();
    let (mut one, mut two) = (one.data().await, two.data().await);
    one.put(&[entry(1)]).await;
    assert_eq!(two.get(&[key(1)]).await, [None]);
    let other = rampool_protocol::block::PutEntry { key: key(1), block: sealed(2) };
    two.put(&[other]).await;
    assert_eq!(one.get(&[key(1)]).await, [Some(sealed(1))]);
    assert_eq!(two.get(&[key(1)]).await, [Some(sealed(2))]);
}

#[tokio::test]
async fn a_full_server_goes_on_and_tells_its_status() {
    let pool = Pool::new("one");
    let server = start(&pool, "9M");
    let peer = Peer::join(server.address, pool.client("vm1"), MOUNT).await.unwrap();
    let mut data = peer.data().await;
    for first in (0..4096u64).step_by(256) {
        let entries: Vec<_> = (first..first + 256).map(entry).collect();
        assert_eq!(data.put(&entries).await, [PutOutcome::Stored; 256]);
    }
    assert_eq!(data.get(&[key(0), key(4095)]).await, [None, Some(sealed(4095))]);

    let status = server.status();
    assert_eq!(status["listen"], server.address.to_string());
    assert_eq!(status["pid"], server.pid());
    assert_eq!(status["lend_bytes"], 8 << 20, "rounded down to whole segments");
    assert_eq!(status["segments"]["total"], 4);
    assert_eq!(status["segments"]["full"], 4);
    assert_eq!(status["blocks"], 2048);
    assert_eq!(status["held_bytes"], 2048 * 4096);
    assert_eq!(status["evicted_blocks"], 2048);
    assert_eq!(status["puts"]["stored"], 4096);
    assert_eq!(status["gets"]["requests"], 1);
    assert_eq!(status["gets"]["hits"], 1);
    assert_eq!(status["clients"][0]["name"], "vm1");
    assert_eq!(status["clients"][0]["mount"], "07".repeat(16));
    assert!(status["index_bytes_per_block"].as_f64().unwrap() <= 40.0);
    let resident = status["resident_bytes"].as_u64().unwrap();
    assert!((1..=8 << 20).contains(&resident), "{resident}");
    assert!(status["latency_us"]["get"]["p50"].as_f64().unwrap() > 0.0);
    for key in ["uptime_seconds", "huge_pages", "lazily_freeable", "second_chances"] {
        assert!(!status[key].is_null(), "{key}");
    }

    let socket = server.socket.to_str().unwrap();
    let table = run(&["status", "--status-socket", socket]);
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(table.status.success() && text.contains("vm1") && text.contains("8 MiB"), "{text}");
    let json = run(&["status", "--status-socket", socket, "-w", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["blocks"], 2048);
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_no_other() {
    let pool = Pool::new("one");
    let server = start(&pool, "8M");
    let lazy = Peer::join(server.address, pool.client("vm1"), MOUNT).await.unwrap();
    let mut data = lazy.data().await;
    let entries: Vec<_> = (0..256).map(entry).collect();
    let keys: Vec<_> = (0..256).map(key).collect();
    data.put(&entries).await;
    for _ in 0..100 {
        data.ask_get(&keys).await;
    }
    let other = Peer::join(server.address, pool.client("vm2"), MountId([8; 16])).await.unwrap();
    let mut data = other.data().await;
    for id in 0..200 {
        data.put(&[entry(id)]).await;
        assert_eq!(data.get(&[key(id)]).await, [Some(sealed(id))]);
    }
}
