//! A mount that is given one server, and learns of the others.

use std::fs;

use serde_json::Value;

use crate::support::{Keys, Mounted, Server, noise, read_at_random, wait_until};

/// Address and state of all servers that the mount knows.
fn servers(status: &Value) -> Vec<(String, String)> {
    let servers = status.pointer("/remote/servers").and_then(Value::as_array).unwrap();
    let text = |server: &Value, key: &str| server[key].as_str().unwrap().to_owned();
    servers.iter().map(|server| (text(server, "address"), text(server, "state"))).collect()
}

fn is(status: &Value, server: &Server, state: &str) -> bool {
    servers(status).contains(&(server.address.clone(), state.to_owned()))
}

#[test]
fn one_server_leads_to_all() {
    let keys = Keys::new();
    let one = Server::start(&keys.server(), "127.0.0.1:0");
    let two = Server::join(&keys.server(), "127.0.0.1:0", &[&one]);
    let contents = noise(3, 32 << 20);
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), &contents).unwrap();
    mounted.mount_with_servers(&keys, &[&one.address], &[]);
    let mut seed = 0;
    let mut read = |mounted: &Mounted| {
        seed += 1;
        read_at_random(&mounted.path("f"), &contents, 2_000, seed, |_| {});
    };
    mounted.wait_until("two is found", |status| is(status, &two, "connected"));
    let three = Server::join(&keys.server(), "127.0.0.1:0", &[&two]);
    mounted.wait_until("three is found", |status| {
        read(&mounted);
        is(status, &three, "connected")
    });
    mounted.wait_until("blocks are lent", |status| {
        read(&mounted);
        status.pointer("/remote/lent_blocks").and_then(Value::as_u64).unwrap() > 2_000
    });

    // The one that was given goes, and another; the third stays.
    one.end();
    two.end();
    mounted.wait_until("two are gone", |status| {
        read(&mounted);
        // Of those that were given it is tried for ever.
        is(status, &two, "gone")
            && is(status, &three, "connected")
            && !is(status, &one, "connected")
    });
    let before = mounted.number("/layers/remote/reads");
    mounted.wait_until("the third answers", |_| {
        read(&mounted);
        mounted.number("/layers/remote/reads") > before + 200
    });
    mounted.unmount();
}

#[test]
fn a_server_with_two_addresses_is_one() {
    let keys = Keys::new();
    let server = Server::start(&keys.server(), "0.0.0.0:0");
    let port = server.address.rsplit_once(':').unwrap().1;
    let mut mounted = Mounted::prepare();
    let client = keys.client();
    mounted.mount(&[
        "--keys",
        client.to_str().unwrap(),
        "--server",
        &format!("127.0.0.1:{port}"),
        "--server",
        &format!("127.0.0.2:{port}"),
    ]);
    mounted.wait_until("one of them is used", |status| {
        let servers = status.pointer("/remote/servers").and_then(Value::as_array).unwrap();
        let is_same = |server: &Value| {
            let error = server["last_error"].as_str();
            error.is_some_and(|error| error.starts_with("it is the same server as 127.0.0."))
        };
        let connected = servers.iter().filter(|server| server["state"] == "connected").count();
        (connected, servers.iter().filter(|server| is_same(server)).count()) == (1, 1)
    });
    mounted.unmount();
}

#[test]
fn a_mount_that_ends_says_goodbye_and_does_not_try_again() {
    let keys = Keys::new();
    let server = Server::start(&keys.server(), "127.0.0.1:0");
    let mut mounted = Mounted::prepare();
    mounted.mount_with_servers(&keys, &[&server.address], &[]);
    mounted.wait_until("it is connected", |status| is(status, &server, "connected"));
    mounted.unmount();
    wait_until("the server knows", || server.said().contains("left: "));
    assert!(server.said().contains("the mount ends"), "{}", server.said());
    assert!(!mounted.said().contains("WARN"), "{}", mounted.said());
}
