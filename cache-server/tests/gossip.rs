//! Servers that find each other, and tell of each other.

mod support;

use rampool_protocol::certs::Role;
use rampool_protocol::control::{Member, MountId, Standing, ToClient};
use rustix::process::Signal;
use support::peer::Peer;
use support::pool::Pool;
use support::server::Server;

/// Starts a server that joins others, at a free port of one address.
fn start(pool: &Pool, name: &str, others: &[&Server]) -> Server {
    start_at(pool, name, "127.0.0.1:0", others)
}

fn start_at(pool: &Pool, name: &str, listen: &str, others: &[&Server]) -> Server {
    let joined: Vec<String> = others.iter().map(|server| server.address.to_string()).collect();
    let mut more = vec!["--listen", listen];
    more.extend(joined.iter().flat_map(|address| ["--join", address]));
    let keys = pool.dir.path().join(name);
    let keys = if keys.exists() { keys } else { pool.issue(name, Role::Server) };
    Server::start_with(&keys, "8M", &more)
}

/// Waits until `server` thinks so of `others`, and knows nobody else.
fn wait_for(server: &Server, others: &[(&Server, &str)]) {
    let state = |server: &Server, state: &str| (server.address.to_string(), state.to_owned());
    let mut wanted: Vec<_> = others.iter().map(|(other, how)| state(other, how)).collect();
    wanted.sort();
    server.wait_until(&format!("{wanted:?}"), |status| {
        let members = status["members"].as_array().expect("a list");
        let text = |member: &serde_json::Value, key: &str| {
            member[key].as_str().expect("a text").to_owned()
        };
        let mut known: Vec<_> =
            members.iter().map(|member| (text(member, "address"), text(member, "state"))).collect();
        known.sort();
        known == wanted
    });
}

#[tokio::test]
async fn all_know_each_other_and_tell_their_clients() {
    let pool = Pool::new("one");
    let one = start(&pool, "one", &[]);
    let mut peer = Peer::join(one.address, pool.client("vm1"), MountId([1; 16])).await.unwrap();
    let two = start(&pool, "two", &[&one]);
    let three = start(&pool, "three", &[&two]);
    wait_for(&one, &[(&two, "alive"), (&three, "alive")]);
    wait_for(&two, &[(&one, "alive"), (&three, "alive")]);
    wait_for(&three, &[(&one, "alive"), (&two, "alive")]);

    let mut addresses = [two.address, three.address];
    addresses.sort();
    let alive = |address: &_| Member { standing: Standing::Alive, address: *address };
    let all: Vec<Member> = addresses.iter().map(alive).collect();
    loop {
        match peer.told().await.unwrap() {
            ToClient::Members(members) if members == all => break,
            _ => {}
        }
    }
    // Who comes later is told at once.
    let mut peer = Peer::join(one.address, pool.client("vm2"), MountId([2; 16])).await.unwrap();
    assert_eq!(peer.told().await.unwrap(), ToClient::Members(all));
}

#[test]
fn who_is_killed_is_gone_and_comes_back_at_its_address() {
    let pool = Pool::new("one");
    let one = start(&pool, "one", &[]);
    let two = start(&pool, "two", &[&one]);
    let mut three = start(&pool, "three", &[&one]);
    wait_for(&two, &[(&one, "alive"), (&three, "alive")]);
    three.signal(Signal::KILL);
    three.wait();
    wait_for(&one, &[(&two, "alive"), (&three, "gone")]);
    wait_for(&two, &[(&one, "alive"), (&three, "gone")]);
    let three = start_at(&pool, "three", &three.address.to_string(), &[&two]);
    for (server, other) in [(&one, &two), (&two, &one)] {
        wait_for(server, &[(other, "alive"), (&three, "alive")]);
    }
    wait_for(&three, &[(&one, "alive"), (&two, "alive")]);
}

#[test]
fn who_was_only_frozen_is_back_when_it_goes_on() {
    let pool = Pool::new("one");
    let one = start(&pool, "one", &[]);
    let two = start(&pool, "two", &[&one]);
    let three = start(&pool, "three", &[&one]);
    wait_for(&two, &[(&one, "alive"), (&three, "alive")]);
    three.signal(Signal::STOP);
    wait_for(&one, &[(&two, "alive"), (&three, "gone")]);
    three.signal(Signal::CONT);
    wait_for(&one, &[(&two, "alive"), (&three, "alive")]);
    wait_for(&three, &[(&one, "alive"), (&two, "alive")]);
}

#[test]
fn who_ends_says_so_and_nobody_is_lost_with_whoever_was_joined() {
    let pool = Pool::new("one");
    let mut one = start(&pool, "one", &[]);
    let two = start(&pool, "two", &[&one]);
    let three = start(&pool, "three", &[&one]);
    wait_for(&two, &[(&one, "alive"), (&three, "alive")]);
    one.signal(Signal::TERM);
    assert!(one.wait().success());
    wait_for(&two, &[(&one, "gone"), (&three, "alive")]);
    wait_for(&three, &[(&one, "gone"), (&two, "alive")]);
}

#[test]
fn a_server_of_another_pool_is_not_joined() {
    let (ours, theirs) = (Pool::new("ours"), Pool::new("theirs"));
    let one = start(&ours, "one", &[]);
    let mut other = start(&theirs, "other", &[&one]);
    let said = other.logged("cannot join");
    assert!(said.contains("another pool"), "{said}");
    wait_for(&one, &[]);
    wait_for(&other, &[]);
}
