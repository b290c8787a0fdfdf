//! Making a pool, letting machines in, and keeping others out.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, and the helpers are not tests to the lint"
)]

mod support;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rampool_keys::pool;
use rampool_protocol::certs::{Identity, Revoked, Role};
use rampool_protocol::control::{Greeting, MountId, ToClient, ToServer, VERSION};
use support::peer::{Peer, ask};
use support::pool::Pool;
use support::server::{Server, run};

/// A server that makes its own pool, in a directory.
fn founder(dir: &Path) -> (PathBuf, Server) {
    fs::create_dir_all(dir).unwrap();
    let keys = dir.join("founder");
    let server = Server::start_with(&keys, "8M", &["--init"]);
    (keys, server)
}

fn token(keys: &Path, address: &str, more: &[&str]) -> String {
    let keys = keys.to_str().unwrap();
    let output = run(&[&["token", "--keys", keys, "--address", address], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What is said to a server that tries to join, and its keys' directory if that succeeds.
fn join(token: &str, keys: &Path) -> Result<(), String> {
    let output = run(&["join", token, "--name", "new", "--keys", keys.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    if output.status.success() { Ok(()) } else { Err(said) }
}

#[test]
fn a_new_server_joins_by_a_token_and_finds_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, server) = founder(dir.path());
    let token = token(&keys, &server.address.to_string(), &[]);
    let new = dir.path().join("new");
    join(&token, &new).unwrap();
    assert!(!new.join("ca.key").exists(), "the pool's key stays where it is");
    let other = Server::start_with(&new, "8M", &[]);
    let alone = |status: &serde_json::Value| status["members"].as_array().unwrap().is_empty();
    server.wait_until("they know each other", |status| !alone(status));
    other.wait_until("they know each other", |status| !alone(status));
    let again = join(&token, &new).unwrap_err();
    assert!(again.contains("is not empty"), "{again}");
}

#[test]
fn a_token_may_come_from_stdin() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, server) = founder(dir.path());
    let token = token(&keys, &server.address.to_string(), &[]);
    let new = dir.path().join("new");
    let join = |text: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rampool-server"));
        command.args(["join", "-", "--name", "new", "--keys"]).arg(&new);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        writeln!(child.stdin.take().unwrap(), "{text}").unwrap();
        child.wait_with_output().unwrap()
    };
    let refused = join("what is this?");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("no join token"), "{said}");
    assert!(join(&token).status.success());
    Identity::load(&new, Role::Server).unwrap();
}

#[test]
fn a_pool_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, server) = founder(dir.path());
    let ca = fs::read(keys.join("ca.pem")).unwrap();
    drop(server);
    let (keys, _server) = founder(dir.path());
    assert_eq!(fs::read(keys.join("ca.pem")).unwrap(), ca);
}

#[test]
fn who_may_not_join_is_told_why() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, server) = founder(dir.path());
    let address = server.address.to_string();
    let new = dir.path().join("new");
    let refused = |token: &str, why: &str| {
        let said = join(token, &new).unwrap_err();
        assert!(said.contains(why), "{said}");
        assert!(!new.exists(), "nothing is left behind");
    };
    refused("10.0.0.1:7167", "that is no join token");
    let good = token(&keys, &address, &[]);
    refused(&good[..good.len() - 9], "the token is not complete");
    refused(&token(&keys, &address, &["--role", "client"]), "refuses: the token is for a client");

    let (other_keys, _other) = founder(&dir.path().join("elsewhere"));
    let lured = token(&other_keys, &address, &[]);
    refused(&lured, "is of another pool");
}

#[tokio::test]
async fn who_is_revoked_is_put_out_and_stays_out() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, server) = founder(dir.path());
    let config = |name: &str| {
        let out = dir.path().join(name);
        pool::issue(&keys, name, Role::Client, Some(&out), 30).unwrap();
        Identity::load(&out, Role::Client).unwrap().client_config()
    };
    let [good, bad] = ["good", "bad"].map(config);
    let kept = Peer::join(server.address, good, MountId([1; 16])).await.unwrap();
    let out = Peer::join(server.address, bad.clone(), MountId([2; 16])).await.unwrap();
    let revoke = |name| run(&["revoke", name, "--keys", keys.to_str().unwrap()]);
    let output = revoke("bad");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 certificate of bad revoked"), "{said}");
    let why = out.connection.closed().await.to_string();
    assert!(why.contains("your certificate was revoked"), "{why}");
    let again = Peer::join(server.address, bad, MountId([2; 16])).await;
    assert!(again.is_err());
    assert!(kept.connection.close_reason().is_none());
    let output = revoke("nobody");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("no machine called nobody"), "{said}");
}

#[tokio::test]
async fn a_member_hears_what_was_revoked_and_gets_no_new_certificate_before_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, server) = founder(dir.path());
    let member = dir.path().join("member");
    let token = token(&keys, &server.address.to_string(), &["--role", "server"]);
    join(&token, &member).unwrap();
    pool::issue(&keys, "bad", Role::Client, None, 30).unwrap();
    pool::revoke(&keys, "bad", None).unwrap();
    let config = Identity::load(&member, Role::Server).unwrap().client_config();
    let renew = |certificate| ToServer::Renew { version: VERSION, certificate };
    let answer = ask(server.address, config.clone(), renew(false)).await.unwrap();
    let ToClient::Renewed(renewed) = answer else { panic!("{answer:?}") };
    assert_eq!(renewed.certificate, None);
    let revoked = Revoked::from_der(renewed.revoked.unwrap()).unwrap();
    assert!(revoked.has(&certificate(&keys.join("bad/cert.pem"))));
    let why = ask(server.address, config, renew(true)).await.unwrap_err().to_string();
    assert!(why.contains("two thirds"), "{why}");
}

#[test]
fn a_server_without_the_pools_key_makes_no_members() {
    let pool = Pool::new("one");
    let keys = pool.issue("server", Role::Server);
    let output = run(&["token", "--keys", keys.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("the pool's key is not in"), "{said}");
}

#[tokio::test]
async fn without_a_certificate_nobody_mounts() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, server) = founder(dir.path());
    let ca = rampool_protocol::certs::Fingerprint::of(&certificate(&keys.join("ca.pem")));
    let stranger = || rampool_protocol::certs::stranger_config(ca);
    let refused = Peer::join(server.address, stranger(), MountId([1; 16])).await;
    let why = refused.err().expect("it is refused").to_string();
    assert!(why.contains("no certificate"), "{why}");
    let greeting = Greeting { version: VERSION, address: ([127, 0, 0, 1], 9).into() };
    let refused = Peer::hello(server.address, stranger(), ToServer::Greeting(greeting)).await;
    let why = refused.err().expect("it is refused").to_string();
    assert!(why.contains("no certificate"), "{why}");
    // Members are let in as ever.
    let member = dir.path().join("member");
    let token = token(&keys, &server.address.to_string(), &["--role", "server"]);
    join(&token, &member).unwrap();
    Identity::load(&member, Role::Server).unwrap();
}

fn certificate(path: &Path) -> rustls::pki_types::CertificateDer<'static> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::from_pem_file(path).unwrap()
}
