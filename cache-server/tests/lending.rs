//! How much is lent, to whom, and that it goes back when the machine wants it.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rampool_protocol::certs::Role;
use rampool_protocol::control::MountId;
use rampool_protocol::frame::PutOutcome;
use support::peer::{Data, Peer};
use support::pool::Pool;
use support::server::Server;
use support::{entry, key};

const MIB: u64 = 1 << 20;
const BLOCKS_A_MIB: u64 = 256;
const PATIENCE: Duration = Duration::from_secs(120);

/// Puts blocks until `mib` MiB were stored or the server takes no more. Returns how many blocks were.
async fn fill(data: &mut Data, first: u64, mib: u64) -> u64 {
    let mut stored = 0;
    for run in 0..mib * BLOCKS_A_MIB / 32 {
        let entries: Vec<_> = (0..32).map(|n| entry(first + run * 32 + n)).collect();
        let outcomes = data.put(&entries).await;
        stored += outcomes.iter().filter(|&&outcome| outcome == PutOutcome::Stored).count() as u64;
    }
    stored
}

fn held(server: &Server, client: &str) -> u64 {
    let status = server.status();
    let clients = status["clients"].as_array().expect("a list").iter();
    clients.filter(|is| is["name"] == client).filter_map(|is| is["held_bytes"].as_u64()).sum()
}

#[tokio::test]
async fn two_clients_end_with_equal_shares_and_keep_what_is_read() {
    let pool = Pool::new("one");
    let server = Server::start(&pool.issue("server", Role::Server), "64M");
    let one = Peer::join(server.address, pool.client("vm1"), MountId([1; 16])).await.unwrap();
    let two = Peer::join(server.address, pool.client("vm2"), MountId([2; 16])).await.unwrap();
    let (mut one, mut two) = (one.data().await, two.data().await);
    assert_eq!(fill(&mut one, 0, 100).await, 100 * BLOCKS_A_MIB);
    assert!(held(&server, "vm1") > 60 * MIB);
    fill(&mut two, 0, 20).await;
    assert!(held(&server, "vm1") > 40 * MIB, "who wants little takes little");
    fill(&mut two, 0, 100).await;
    fill(&mut one, 1_000_000, 100).await;
    for client in ["vm1", "vm2"] {
        let held = held(&server, client);
        assert!((30 * MIB..=34 * MIB).contains(&held), "{client} holds {held}");
    }
    // However much the other puts, the last of each is there.
    let last = 1_000_000 + 100 * BLOCKS_A_MIB - 1;
    assert!(one.get(&[key(last)]).await[0].is_some());
    assert!(two.get(&[key(100 * BLOCKS_A_MIB - 1)]).await[0].is_some());
}

#[tokio::test]
async fn a_client_may_have_no_more_than_it_is_allowed() {
    let pool = Pool::new("one");
    let keys = pool.issue("server", Role::Server);
    let server = Server::start_with(&keys, "64M", &["--max-per-client", "25%"]);
    let peer = Peer::join(server.address, pool.client("vm1"), MountId([1; 16])).await.unwrap();
    fill(&mut peer.data().await, 0, 40).await;
    assert_eq!(held(&server, "vm1"), 16 * MIB);
}

/// A memory cgroup of version 1 or 2, if this machine and this user have any.
struct Group(PathBuf);

impl Group {
    fn new(limit: u64) -> Option<Self> {
        let roots = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"];
        for root in roots.map(Path::new) {
            let dir = root.join(format!("rampool-test-{}", std::process::id()));
            for (file, needed) in
                [("memory.limit_in_bytes", "memory.stat"), ("memory.max", "cgroup.controllers")]
            {
                if !root.join(needed).exists() || fs::create_dir(&dir).is_err() {
                    continue;
                }
                let group = Self(dir.clone());
                if fs::write(dir.join(file), limit.to_string()).is_ok() {
                    return Some(group);
                }
            }
        }
        None
    }

    fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("a process of ours");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A process that takes so much memory once it is told to, and keeps it.
struct Taker(Child);

impl Taker {
    fn new(mib: u64) -> Self {
        // dd fills a buffer of this size, and then waits: nobody reads what it writes.
        let script = format!("read go; dd if=/dev/zero bs={mib}M count=1 2>/dev/null | sleep 600");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null());
        Self(command.spawn().expect("a shell"))
    }

    fn go(&mut self) {
        use std::io::Write as _;
        self.0.stdin.take().expect("piped").write_all(b"go\n").expect("the shell reads");
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        // The shell's children are in its group of processes only if it had been asked for one.
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        let children = fs::read_to_string(children).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            if let Some(pid) = rustix::process::Pid::from_raw(child) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_a_neighbour_takes_is_given_back_and_nobody_is_killed() {
    let Some(group) = Group::new(400 * MIB) else {
        eprintln!("not run: no memory cgroup can be made here");
        return;
    };
    let pool = Pool::new("one");
    let keys = pool.issue("server", Role::Server);
    let server = Server::start_in(&group.0, &keys, "auto", &["--keep-free", "40M"]);
    let mut taker = Taker::new(250);
    group.take(taker.0.id());
    let peer = Peer::join(server.address, pool.client("vm1"), MountId([1; 16])).await.unwrap();
    let mut data = peer.data().await;
    let began = Instant::now();
    let mut next = 0;
    while held(&server, "vm1") < 250 * MIB && began.elapsed() < PATIENCE {
        fill(&mut data, next, 20).await;
        next += 20 * BLOCKS_A_MIB;
    }
    let before = held(&server, "vm1");
    taker.go();
    let began = Instant::now();
    while held(&server, "vm1") + 150 * MIB > before && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = server.status();
    assert!(held(&server, "vm1") + 150 * MIB <= before, "{status}");
    // Not only because the kernel took it.
    let given = status["given_back_blocks"].as_u64().unwrap() / BLOCKS_A_MIB;
    assert!(given > 64 && status.to_string().contains("processes took"), "{given} MiB: {status}");
    assert!(taker.0.try_wait().expect("our child").is_none(), "it was killed");
}
