//! Starting and ending the programs under test, and files to use them on.

use std::fs::{self, File};
use std::io::{BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tempfile::TempDir;

/// The smallest cache that a mount takes.
pub(crate) const SMALL_CACHE: &str = "16M";

/// What is waited for happens within this time, or never.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn rampool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_rampool"))
}

fn rampool_server() -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_rampool")).with_file_name("rampool-server");
    assert!(program.exists(), "{} is missing: cargo build --workspace", program.display());
    Command::new(program)
}

/// A place with a source and a mountpoint, and the mount while there is one.
pub(crate) struct Mounted {
    pub(crate) source: PathBuf,
    pub(crate) mountpoint: PathBuf,
    daemon: Option<Child>,
    /// Daemons whose mounts are gone.
    ending: Vec<Child>,
    said: Said,
    _dir: TempDir,
}

impl Mounted {
    /// An empty source, not mounted yet.
    pub(crate) fn prepare() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (source, mountpoint) = (dir.path().join("source"), dir.path().join("mount"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&mountpoint).unwrap();
        Self {
            source,
            mountpoint,
            daemon: None,
            ending: Vec::new(),
            said: Said::default(),
            _dir: dir,
        }
    }

    /// Mounts it and waits until the mount answers.
    pub(crate) fn mount(&mut self, options: &[&str]) {
        self.mount_with(rampool(), options);
    }

    /// Mounts it by `program`, which passes its arguments on to rampool.
    pub(crate) fn mount_with(&mut self, mut program: Command, options: &[&str]) {
        // This machine may belong to a pool.
        let is_pooled = options.iter().any(|option| ["--server", "--keys"].contains(option));
        let alone: &[&str] = if is_pooled { &[] } else { &["--server", "none"] };
        let mut daemon = program
            .arg("mount")
            .args([&self.source, &self.mountpoint])
            .args(["--cache-size", SMALL_CACHE])
            .args(alone)
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(daemon.stderr.take().unwrap());
        wait_for_line(lines, "is mounted at", &self.said).expect("the mount answers");
        self.daemon = Some(daemon);
    }

    /// Mounts with servers, which are used whatever they take.
    pub(crate) fn mount_with_servers(&mut self, keys: &Keys, servers: &[&str], more: &[&str]) {
        let client = keys.client();
        let mut options = vec!["--keys", client.to_str().unwrap(), "-o", "use_servers=always"];
        options.extend(servers.iter().flat_map(|address| ["--server", address]));
        options.extend(more);
        self.mount(&options);
    }

    /// A file's path on the mount.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mountpoint.join(name)
    }

    /// What `rampool status` says.
    pub(crate) fn status(&self) -> Value {
        let output =
            rampool().args(["status", "-w", "json"]).arg(&self.mountpoint).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// One number of the status.
    pub(crate) fn number(&self, pointer: &str) -> u64 {
        self.status()
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("{pointer}"))
    }

    /// Waits until the status is as wanted.
    pub(crate) fn wait_until(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) {
        wait_until(what, || wanted(&self.status()));
    }

    /// What its daemons have said so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Kills the daemon as a crash would, and takes the dead mount away.
    pub(crate) fn crash(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        unmount(&self.mountpoint);
    }

    /// Unmounts and expects the daemon to end well.
    pub(crate) fn unmount(&mut self) {
        wait_until("it is unmounted", || {
            let output = rampool().arg("umount").arg(&self.mountpoint).output().unwrap();
            let says = String::from_utf8_lossy(&output.stderr);
            // A program that another test is starting holds our files until it runs.
            assert!(output.status.success() || says.contains("files are open"), "{says}");
            output.status.success()
        });
        let mut daemon = self.daemon.take().unwrap();
        assert!(wait_for_exit(&mut daemon).success());
    }

    /// Takes the mount out of the tree, files open or not, and waits for nothing.
    pub(crate) fn unmount_lazily(&mut self) {
        unmount(&self.mountpoint);
        self.ending.extend(self.daemon.take());
    }

    /// Leaves the end of the daemon to the caller.
    pub(crate) fn take_daemon(&mut self) -> Child {
        self.daemon.take().unwrap()
    }

    pub(crate) fn daemon(&mut self) -> &mut Child {
        self.daemon.as_mut().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for daemon in self.daemon.iter_mut().chain(&mut self.ending) {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // Also one whose daemon a test has taken.
        unmount(&self.mountpoint);
    }
}

/// The keys of a pool: one client's and one server's.
pub(crate) struct Keys(TempDir);

impl Keys {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pool = dir.path().join("pool");
        run(rampool().args(["keys", "init"]).arg(&pool));
        for role in ["client", "server"] {
            run(rampool().args(["keys", "issue"]).arg(&pool).args([role, "--role", role]));
        }
        Self(dir)
    }

    pub(crate) fn client(&self) -> PathBuf {
        self.0.path().join("pool/client")
    }

    pub(crate) fn server(&self) -> PathBuf {
        self.0.path().join("pool/server")
    }
}

/// A running `rampool-server`.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: String,
    said: Said,
    _dir: TempDir,
}

/// More than any test lends.
const USUAL: &str = "256M";

impl Server {
    /// Starts one on a free port, or on the one that is given.
    pub(crate) fn start(keys: &Path, listen: &str) -> Self {
        Self::join(keys, listen, &[])
    }

    /// Starts the first of a new pool, with its keys in a directory.
    pub(crate) fn found(keys: &Path) -> Self {
        Self::start_with(keys, "127.0.0.1:0", USUAL, &["--init"])
    }

    /// What machines join with.
    pub(crate) fn token(&self, keys: &Path) -> String {
        let mut command = rampool_server();
        command.args(["token", "--address", &self.address, "--keys"]).arg(keys);
        String::from_utf8(run(&mut command).stdout).unwrap().trim().to_owned()
    }

    /// Starts one that joins others.
    pub(crate) fn join(keys: &Path, listen: &str, others: &[&Self]) -> Self {
        let joined: Vec<&str> =
            others.iter().flat_map(|other| ["--join", &other.address]).collect();
        Self::start_with(keys, listen, USUAL, &joined)
    }

    /// Starts one that lends so much.
    pub(crate) fn lending(keys: &Path, bytes: &str) -> Self {
        Self::start_with(keys, "127.0.0.1:0", bytes, &[])
    }

    fn start_with(keys: &Path, listen: &str, lends: &str, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut process = rampool_server()
            .args(["--listen", listen, "--lend", lends])
            .arg("--keys")
            .arg(keys)
            .arg("--status-socket")
            .arg(dir.path().join("status.sock"))
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap());
        let said = Said::default();
        let line = wait_for_line(lines, "listening on ", &said).expect("the server listens");
        let (_, rest) = line.split_once("listening on ").unwrap();
        let (address, _) = rest.split_once(',').unwrap();
        let address = address.to_owned();
        Self { process, address, said, _dir: dir }
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Tells it to end, and does not wait.
    pub(crate) fn end(&self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(mut self) {
        assert!(self.process.wait().unwrap().success());
    }

    /// Stops it in the middle of whatever it does; it goes on when told.
    pub(crate) fn freeze(&self, frozen: bool) {
        let signal =
            if frozen { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// All lines of a program, one after the other.
type Said = Arc<Mutex<String>>;

/// Runs a program that must succeed.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Reads until a line holds `text`, and goes on reading in the background so that the writer
/// never waits for us.
fn wait_for_line(lines: impl BufReadSend, text: &str, said: &Said) -> Option<String> {
    let (tell, told) = std::sync::mpsc::channel();
    let (text, said) = (text.to_owned(), said.clone());
    thread::spawn(move || {
        for line in lines.lines() {
            let Ok(line) = line else { return };
            eprintln!("{line}");
            said.lock().unwrap().extend([&*line, "\n"]);
            if line.contains(&text) {
                let _ = tell.send(line);
            }
        }
    });
    told.recv_timeout(PATIENCE).ok()
}

trait BufReadSend: std::io::BufRead + Send + 'static {}
impl<T: std::io::BufRead + Send + 'static> BufReadSend for T {}

pub(crate) fn wait_for_exit(child: &mut Child) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(start.elapsed() < PATIENCE, "the program does not end");
        thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn wait_until(what: &str, mut wanted: impl FnMut() -> bool) {
    let start = Instant::now();
    while !wanted() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Takes away whatever is mounted there, dead or alive.
pub(crate) fn unmount(mountpoint: &Path) {
    use rustix::mount::{UnmountFlags, unmount};
    if unmount(mountpoint, UnmountFlags::DETACH).is_err() {
        let _ = Command::new("fusermount3").args(["-uzq", "--"]).arg(mountpoint).status();
    }
}

/// Bytes that look random and are the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

/// Reads a whole file in pieces of one block.
pub(crate) fn read_by_blocks(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    let mut block = [0; 4096];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(bytes),
            got => bytes.extend_from_slice(&block[..got]),
        }
    }
}

/// Reads blocks of a file in a random order and compares each with what it should be. Calls
/// `each` after every block.
pub(crate) fn read_at_random(
    path: &Path,
    expected: &[u8],
    reads: usize,
    seed: u64,
    mut each: impl FnMut(usize),
) {
    let file = File::open(path).unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let blocks = expected.len() / 4096;
    let mut block = [0; 4096];
    for n in 0..reads {
        let index = random.random_range(0..blocks);
        file.read_exact_at(&mut block, index as u64 * 4096).unwrap();
        assert!(block[..] == expected[index * 4096..(index + 1) * 4096], "block {index}");
        each(n);
    }
}

/// Only root can mount filesystems for a test, give files away and be somebody else.
pub(crate) fn root() -> bool {
    rustix::process::geteuid().is_root()
}
