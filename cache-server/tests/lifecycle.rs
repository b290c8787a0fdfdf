//! How the server starts, refuses to start, and ends.

mod support;

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant, SystemTime};

use rampool_protocol::certs::Role;
use rampool_protocol::control::{CloseCode, Lending, MountId, ToClient};
use rampool_protocol::frame::PutOutcome;
use rustix::process::Signal;
use support::peer::Peer;
use support::pool::{DAY, Pool};
use support::server::{Server, run};
use support::{entry, key, sealed};

/// The program ends with `code` and one line that says `what`.
fn refused(args: &[&str], code: i32, what: &str) {
    let output = run(args);
    let text = String::from_utf8(output.stderr).expect("plain text");
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    assert!(text.starts_with("rampool-server: ") && text.contains(what), "{args:?}: {text}");
}

#[tokio::test]
async fn a_signal_ends_it_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let pool = Pool::new("one");
        let mut server = Server::start(&pool.issue("server", Role::Server), "8M");
        let config = pool.client("vm1");
        let peer = Peer::join(server.address, config, MountId([7; 16])).await.unwrap();
        server.signal(signal);
        assert_eq!(peer.closed().await, (CloseCode::Done as u64, "server ends".to_owned()));
        assert_eq!(server.wait().code(), Some(0));
        assert!(!server.socket.exists());
    }
}

#[tokio::test]
async fn each_run_has_a_number_of_its_own() {
    let pool = Pool::new("one");
    let keys = pool.issue("server", Role::Server);
    let config = pool.client("vm1");
    let mount = MountId([7; 16]);
    let server = Server::start(&keys, "8M");
    let first = Peer::join(server.address, config.clone(), mount).await.unwrap().instance;
    let again = Peer::join(server.address, config.clone(), mount).await.unwrap().instance;
    assert_eq!(first, again);
    let other = Server::start(&keys, "8M");
    let other = Peer::join(other.address, config, mount).await.unwrap().instance;
    assert_ne!(first, other);
}

#[tokio::test]
async fn draining_tells_the_clients_and_blocks_can_still_be_had_until_it_ends() {
    let pool = Pool::new("one");
    let keys = pool.issue("server", Role::Server);
    let mut server = Server::start_with(&keys, "8M", &["--drain-for", "2"]);
    let socket = server.socket.clone();
    let mut peer = Peer::join(server.address, pool.client("vm1"), MountId([7; 16])).await.unwrap();
    let mut data = peer.data().await;
    assert_eq!(data.put(&[entry(1)]).await, [PutOutcome::Stored]);

    let began = Instant::now();
    let drain = tokio::task::spawn_blocking(move || {
        run(&["drain", "--status-socket", socket.to_str().unwrap()])
    });
    let lending = Lending { capacity_bytes: 0, pausing: true };
    assert_eq!(peer.told().await, Some(ToClient::Lending(lending)));
    assert_eq!(data.put(&[entry(2)]).await, [PutOutcome::Rejected]);
    assert_eq!(data.get(&[key(1), key(2)]).await, [Some(sealed(1)), None]);
    assert_eq!(server.status()["lending"]["state"], "draining");
    assert_eq!(peer.closed().await, (CloseCode::Done as u64, "server ends".to_owned()));
    assert!(drain.await.unwrap().status.success());
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn without_clients_a_drained_server_ends_at_once_and_auto_is_the_default() {
    let pool = Pool::new("one");
    let keys = pool.issue("server", Role::Server);
    let mut server = Server::start_with(&keys, "auto", &["--drain-for", "600", "--lend-max", "1%"]);
    assert_eq!(server.status()["lending"]["mode"], "auto");
    while server.status()["lending"]["domains"][0]["name"] != "machine" {
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = run(&["drain", "--status-socket", server.socket.to_str().unwrap()]);
    assert!(output.status.success());
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_first_line_says_what_is_lent_and_where() {
    let pool = Pool::new("one");
    let server = Server::start(&pool.issue("server", Role::Server), "0.01G");
    assert_ne!(server.address.port(), 0);
    assert_eq!(server.status()["lend_bytes"], 10 << 20);
}

#[test]
fn nonsense_is_refused_in_one_line() {
    let pool = Pool::new("one");
    let keys = pool.issue("server", Role::Server);
    let keys = keys.to_str().unwrap();
    let lend = |size| ["--listen", "127.0.0.1:0", "--keys", keys, "--lend", size];
    refused(&lend("lots"), 1, "--lend: 'lots' is not a size; write a number with K, M, G or T");
    refused(&lend("0"), 1, "--lend: 0 B is too little to lend; the least is 8 MiB");
    refused(&lend("7M"), 1, "--lend: 7 MiB is too little to lend; the least is 8 MiB");
    refused(&lend("900T"), 1, "--lend: 900 TiB is more than this machine has: ");
    let auto = |flag, value| ["--listen", "127.0.0.1:0", "--keys", keys, flag, value];
    refused(&auto("--lend-max", "1M"), 1, "--lend-max: 1 MiB is too little to lend");
    refused(&auto("--keep-free", "120%"), 1, "'120%' is no part of a whole; write 0% to 100%");
    refused(&auto("--resume-after", "soon"), 1, "write seconds, or a number with ms");
    refused(&auto("--detector", "4"), 1, "invalid value '4'");
    let both = ["--keys", keys, "--lend", "8M", "--keep-free", "1%"];
    refused(&both, 1, "--keep-free goes with '--lend auto'; a size is lent always");
    refused(
        &["drain", "--status-socket", "/nonexistent"],
        1,
        "no server is running at /nonexistent",
    );
    refused(&["--lend", "8M", "--keys", keys, "--frob"], 1, "unexpected argument '--frob'");
    let at = |listen| ["--keys", keys, "--lend", "8M", "--listen", listen];
    refused(&at("no.such.host.invalid:1"), 1, "cannot resolve 'no.such.host.invalid:1'");
    refused(&at("7168"), 1, "--listen 7168: write ADDRESS or ADDRESS:PORT");
    refused(&lend("50%"), 1, "for a part of what is idle: --lend-max 50%");
    refused(&["--join", "_rampool._udp.a"], 1, "SRV records are for mounts");
    refused(&["status", "--status-socket", "/nowhere"], 1, "no server is running at /nowhere");
    refused(&["generate", "man", "/nowhere"], 1, "cannot write into /nowhere: No such file");
    refused(&at("127.0.0.1:x"), 1, "--listen: cannot resolve '127.0.0.1:x'");
    refused(&at("192.0.2.1:7167"), 2, "192.0.2.1:7167 is no address of this machine");
}

#[test]
fn a_port_in_use_is_named() {
    let pool = Pool::new("one");
    let keys = pool.issue("server", Role::Server);
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let args = ["--listen", &listen, "--keys", keys.to_str().unwrap(), "--lend", "8M"];
    let what = format!("address already in use: {listen}; choose another --listen");
    refused(&args, 2, &what);
}

#[test]
fn two_servers_do_not_share_a_status_socket() {
    let pool = Pool::new("one");
    let keys = pool.issue("server", Role::Server);
    let server = Server::start(&keys, "8M");
    let socket = server.socket.to_str().unwrap();
    let keys = keys.to_str().unwrap();
    let args =
        ["--listen", "127.0.0.1:0", "--keys", keys, "--lend", "8M", "--status-socket", socket];
    let output = run(&args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("choose another --status-socket"), "{text}");
}

#[test]
fn keys_that_cannot_serve_are_refused_with_the_reason() {
    let pool = Pool::new("one");
    let with = |dir: &std::path::Path, what: &str| {
        let dir = dir.to_str().unwrap();
        refused(&["--listen", "127.0.0.1:0", "--lend", "8M", "--keys", dir], 1, what);
    };
    with(&pool.dir.path().join("nowhere"), "'rampool-server --init' makes a pool");
    with(&pool.issue("client", Role::Client), "is not for a server");
    let expired = pool.issue_until("expired", Role::Server, SystemTime::now() - DAY);
    with(&expired, "check the clock or issue a new one");
    let exposed = pool.issue("exposed", Role::Server);
    fs::set_permissions(exposed.join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    with(&exposed, "can be read by others (mode 644); run: chmod 600 ");
    let mixed = pool.issue("mixed", Role::Server);
    fs::copy(expired.join("key.pem"), mixed.join("key.pem")).unwrap();
    with(&mixed, "do not fit together");
    let empty = pool.issue("empty", Role::Server);
    fs::write(empty.join("cert.pem"), "").unwrap();
    with(&empty, "holds no usable certificate");
}

#[test]
fn a_status_of_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let socket = socket.to_str().unwrap();
    refused(
        &["status", "--status-socket", socket],
        1,
        &format!("no server is running at {socket}"),
    );
    let help = run(&["--help"]);
    assert!(help.status.success() && help.stderr.is_empty());
}
