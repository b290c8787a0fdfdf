//! How the server is set up and looked after: configuration files, reloading, a service manager.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, and the helpers are not tests to the lint"
)]

mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use rampool_protocol::certs::Role;
use rustix::process::Signal;
use support::pool::Pool;
use support::server::{Server, run};

fn refused(config: &Path, what: &str) {
    let output = run(&["--config", config.to_str().unwrap()]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("rampool-server: ") && text.contains(what), "{text}");
}

#[test]
fn a_configuration_gives_way_to_the_command_line() {
    let pool = Pool::new("one");
    let keys = pool.issue("server", Role::Server);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("server.toml");
    fs::write(&config, "lend = \"16M\"\nmax-per-client = \"8M\"\n").unwrap();
    let config = config.to_str().unwrap();
    let server = Server::start_with(&keys, "12M", &["--config", config]);
    assert_eq!(server.status()["lend_bytes"], 12 << 20);
}

#[test]
fn what_is_wrong_in_a_configuration_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("server.toml");
    for (text, what) in [
        ("lent = \"1G\"", "server.toml, line 1: unknown key 'lent'; did you mean 'lend'?"),
        ("\nkeep-free = \"much\"", "server.toml, line 2: invalid value 'much' for '--keep-free"),
        (
            "keys = \"/nowhere\"",
            "cannot read /nowhere/ca.pem: No such file or directory; 'rampool-server --init' makes a pool",
        ),
        ("lend = \"1G", "server.toml: line 1: "),
        ("keys = \"/nowhere\"\nlog = \"loud\"", "--log: 'loud' is no level"),
    ] {
        fs::write(&config, text).unwrap();
        refused(&config, what);
    }
    refused(&dir.path().join("none.toml"), "none.toml: No such file or directory");
}

#[test]
fn the_example_names_every_option() {
    let text = String::from_utf8(run(&["generate", "config"]).stdout).unwrap();
    for key in ["keys", "lend", "lend-max", "listen", "join", "log-format", "drain-for"] {
        assert!(text.contains(&format!("\n#{key} = ")), "{key}: {text}");
    }
    assert!(!text.contains("#config ="));
}

#[test]
fn a_configuration_is_read_again_and_a_wrong_one_changes_nothing() {
    let pool = Pool::new("one");
    let keys = pool.issue("server", Role::Server);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("server.toml");
    let write = |text: &str| fs::write(&path, text).unwrap();
    write("lend-max = \"64M\"\n");
    let mut server = Server::start_with(&keys, "auto", &["--config", path.to_str().unwrap()]);
    let is_capacity = |most: u64| {
        move |status: &serde_json::Value| {
            let capacity = status["lending"]["capacity_bytes"].as_u64().unwrap();
            capacity > 0 && capacity <= most
        }
    };
    server.wait_until("it lends", is_capacity(64 << 20));
    write("lend-max = \"16M\"\njoin = [\"other\"]\nlog = \"debug\"");
    server.signal(Signal::HUP);
    server.logged("read the configuration again, and changed lend-max, log");
    server.logged("join will change when the server is started again");
    server.wait_until("it lends less", is_capacity(16 << 20));
    write("lend-max = \"16M\"\njoin = [\"other\"]\nlog = \"info\"\nmax-per-client = \"50%\"");
    server.signal(Signal::HUP);
    server.logged("read the configuration again, and changed max-per-client, log");
    write("lend-max = ");
    server.signal(Signal::HUP);
    server.logged("the old configuration stays: ");
    write("lend-max = \"1G\"");
    server.signal(Signal::HUP);
    server.logged("lend-max: there is room for 64 MiB until the server is started again");
    server.signal(Signal::TERM);
    assert!(server.wait().success());
}

#[test]
fn a_service_manager_is_told_how_it_is() {
    let pool = Pool::new("one");
    let keys = pool.issue("server", Role::Server);
    let dir = tempfile::tempdir().unwrap();
    let (notify, config) = (dir.path().join("notify"), dir.path().join("server.toml"));
    fs::write(&config, "").unwrap();
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let told = |wanted: &str| {
        let mut buffer = [0; 1024];
        loop {
            let len = manager.recv(&mut buffer).unwrap_or_else(|_| panic!("never {wanted}"));
            let text = String::from_utf8_lossy(&buffer[..len]);
            if text.lines().any(|line| line == wanted) {
                return;
            }
        }
    };
    let more = ["--config", config.to_str().unwrap()];
    let mut server = Server::start_notifying(&keys, &notify, Duration::from_millis(100), &more);
    told("READY=1");
    told("WATCHDOG=1");
    told("WATCHDOG=1");
    server.signal(Signal::HUP);
    told("RELOADING=1");
    told("READY=1");
    server.signal(Signal::TERM);
    told("STOPPING=1");
    assert!(server.wait().success());
}
