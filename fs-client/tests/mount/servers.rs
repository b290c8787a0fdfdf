//! Servers that come, go, freeze and come back while an application reads.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Keys, Mounted, Server, noise, rampool, read_at_random, read_by_blocks, root};

/// Three times the cache.
const FILE_BYTES: usize = 48 << 20;

struct Pool {
    keys: Keys,
    mounted: Mounted,
    contents: Vec<u8>,
}

impl Pool {
    fn new(servers: &[&Server], keys: Keys) -> Self {
        let contents = noise(7, FILE_BYTES);
        let mut mounted = Mounted::prepare();
        fs::write(mounted.source.join("f"), &contents).unwrap();
        let addresses: Vec<&str> = servers.iter().map(|server| &*server.address).collect();
        mounted.mount_with_servers(&keys, &addresses, &[]);
        let pool = Self { keys, mounted, contents };
        pool.wait_until_connected();
        pool
    }

    fn wait_until_connected(&self) {
        self.mounted.wait_until("connected", |status| {
            let servers = status.pointer("/remote/servers").and_then(Value::as_array).unwrap();
            servers.iter().all(|server| server["state"] == "connected")
        });
    }

    /// Reads at random until the servers hold most of what the cache does not.
    fn fill(&self) {
        let mut seed = 100;
        self.mounted.wait_until("blocks are lent", |status| {
            seed += 1;
            self.read(4_000, seed, |_| {});
            status.pointer("/remote/lent_blocks").and_then(Value::as_u64).unwrap() > 6_000
        });
    }

    fn read(&self, reads: usize, seed: u64, each: impl FnMut(usize)) {
        read_at_random(&self.mounted.path("f"), &self.contents, reads, seed, each);
    }
}

#[test]
fn how_long_the_source_takes_is_measured_by_whole_reads_and_not_by_their_pieces() {
    const PIECE: usize = 32 * 4096;
    let keys = Keys::new();
    let server = Server::start(&keys.server(), "127.0.0.1:0");
    let pool = Pool::new(&[&server], keys);
    let file = fs::File::open(pool.mounted.path("f")).unwrap();
    let mut bytes = vec![0; PIECE];
    for n in 0..200 {
        // In no order, and in each piece 16 blocks that are cached between 8 that are not and 8 more.
        let at = n * 61 % (FILE_BYTES / PIECE) * PIECE;
        file.read_exact_at(&mut bytes[..PIECE / 2], (at + PIECE / 4) as u64).unwrap();
        file.read_exact_at(&mut bytes, at as u64).unwrap();
        assert!(bytes == pool.contents[at..at + PIECE]);
    }
    let source = &pool.mounted.status()["remote"]["source_us"];
    assert!(source["medium"]["mean"].as_f64() > Some(0.0), "{source}");
    assert!(source["short"].is_null(), "{source}");
}

#[test]
fn blocks_come_back_from_the_servers_as_they_were() {
    let keys = Keys::new();
    let servers = [0, 1].map(|_| Server::start(&keys.server(), "127.0.0.1:0"));
    let pool = Pool::new(&[&servers[0], &servers[1]], keys);
    pool.fill();
    let before = pool.mounted.number("/layers/remote/reads");
    pool.read(4_000, 1, |_| {});
    let remote = pool.mounted.number("/layers/remote/reads") - before;
    assert!(remote > 500, "{remote} of 4,000 reads came from the servers");
    assert_eq!(pool.mounted.number("/remote/unauthentic_blocks"), 0);
    assert!(read_by_blocks(&pool.mounted.path("f")).unwrap() == pool.contents);
}

#[test]
fn a_server_is_not_asked_for_what_it_has_evicted() {
    let keys = Keys::new();
    let server = Server::lending(&keys.server(), "16M");
    let pool = Pool::new(&[&server], keys);
    // More is lent than it can hold.
    let sent = || pool.mounted.number("/remote/sent_blocks");
    for seed in 0.. {
        if sent() > 16_000 {
            break;
        }
        pool.read(4_000, seed, |_| {});
    }
    let numbers =
        || ["/remote/missed_blocks", "/layers/remote/reads"].map(|n| pool.mounted.number(n));
    let before = numbers();
    pool.read(8_000, 1_000, |_| {});
    let after = numbers();
    let [missed, given] = [0, 1].map(|n| after[n] - before[n]);
    assert!(missed < given / 10, "{missed} were not there, {given} were");
}

#[test]
fn a_server_that_is_killed_costs_nothing_but_time_and_is_used_again_when_it_is_back() {
    let keys = Keys::new();
    let mut server = Server::start(&keys.server(), "127.0.0.1:0");
    let address = server.address.clone();
    let pool = Pool::new(&[&server], keys);
    pool.fill();
    pool.read(3_000, 2, |n| {
        if n == 1_000 {
            server.kill();
        }
    });
    let _again = Server::start(&pool.keys.server(), &address);
    pool.wait_until_connected();
    let before = pool.mounted.number("/layers/remote/reads");
    let mut seed = 1_000;
    pool.mounted.wait_until("the new server gives blocks", |status| {
        seed += 1;
        pool.read(3_000, seed, |_| {});
        status.pointer("/layers/remote/reads").and_then(Value::as_u64).unwrap() > before + 500
    });
}

#[test]
fn a_server_that_is_restarted_under_load_says_so_first_and_hardly_a_read_waits_for_it() {
    let keys = Keys::new();
    let server = Server::start(&keys.server(), "127.0.0.1:0");
    let address = server.address.clone();
    let pool = Pool::new(&[&server], keys);
    pool.fill();
    let timeouts = pool.mounted.number("/remote/timeouts");
    server.end();
    // It answers for a second more, and takes nothing.
    pool.mounted.wait_until("the client was told", |status| {
        status.pointer("/remote/servers/0/state").is_some_and(|state| state != "connected")
    });
    let mut seed = 500;
    pool.mounted.wait_until("it has ended", |status| {
        seed += 1;
        pool.read(500, seed, |_| {});
        status.pointer("/remote/servers/0/state").is_some_and(|state| state == "not connected")
    });
    server.wait();
    let _again = Server::start(&pool.keys.server(), &address);
    pool.wait_until_connected();
    pool.read(2_000, 3, |_| {});
    // Those that are on the way when it ends may wait for their deadline, nobody else.
    let waited = pool.mounted.number("/remote/timeouts") - timeouts;
    assert!(waited <= 8, "{waited} reads waited for it");
    pool.fill();
}

#[test]
fn a_server_that_freezes_delays_few_reads_and_those_by_the_deadline() {
    let keys = Keys::new();
    let server = Server::start(&keys.server(), "127.0.0.1:0");
    let pool = Pool::new(&[&server], keys);
    pool.fill();
    server.freeze(true);
    let mut last = Instant::now();
    let mut slow = 0;
    pool.read(3_000, 4, |_| {
        if last.elapsed() > Duration::from_millis(15) {
            slow += 1;
        }
        last = Instant::now();
    });
    server.freeze(false);
    assert!(pool.mounted.number("/remote/timeouts") > 0);
    // Three before it is left alone, then one a second: far fewer than the thousands of reads
    // that would have gone to it.
    assert!(slow < 300, "{slow} of 3,000 reads were slow");
    pool.wait_until_connected();
    pool.fill();
}

#[test]
fn what_is_written_is_read_back_and_never_an_older_state_from_a_server() {
    let keys = Keys::new();
    let server = Server::start(&keys.server(), "127.0.0.1:0");
    let mut pool = Pool::new(&[&server], keys);
    pool.fill();
    for round in 0..5u64 {
        use std::os::unix::fs::FileExt as _;
        let file = fs::File::options().write(true).open(pool.mounted.path("f")).unwrap();
        for n in 0..400u64 {
            let seed = round * 1_000 + n;
            let bytes = noise(seed, 1 + (seed as usize * 31) % 6_000);
            let offset = (seed as usize * 7_919_993) % (FILE_BYTES - bytes.len());
            file.write_all_at(&bytes, offset as u64).unwrap();
            pool.contents[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        drop(file);
        pool.read(6_000, round, |_| {});
    }
    assert!(pool.mounted.number("/layers/remote/reads") > 0);
    assert!(fs::read(pool.mounted.source.join("f")).unwrap() == pool.contents);
}

#[test]
fn a_name_that_nobody_can_be_asked_about_is_no_reason_not_to_mount() {
    if !root() {
        return;
    }
    let keys = Keys::new();
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), "here").unwrap();
    // A network without anything, and so without anybody who knows names.
    let mut program = Command::new("unshare");
    program.arg("--net").arg(rampool().get_program());
    let client = keys.client();
    let options = ["--server", "lender.example", "--keys", client.to_str().unwrap()];
    mounted.mount_with(program, &options);
    assert_eq!(fs::read_to_string(mounted.path("f")).unwrap(), "here");
    assert_eq!(mounted.status()["remote"]["servers"], serde_json::json!([]));
    mounted.unmount();
}
