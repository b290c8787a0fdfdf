//! The real server as a process.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running server. It ends with this value.
pub struct Server {
    child: Child,
    log: Receiver<String>,
    pub address: SocketAddr,
    pub socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Server {
    /// Starts one on a free port.
    pub fn start(keys: &Path, lend: &str) -> Self {
        Self::start_with(keys, lend, &[])
    }

    /// Starts one with further arguments.
    pub fn start_with(keys: &Path, lend: &str, more: &[&str]) -> Self {
        Self::start_as(command(), keys, lend, more)
    }

    /// Starts one that is told where to tell how it is, and how often it is looked at.
    pub fn start_notifying(keys: &Path, notify: &Path, looked_at: Duration, more: &[&str]) -> Self {
        let mut command = command();
        command.env("NOTIFY_SOCKET", notify);
        command.env("WATCHDOG_USEC", looked_at.as_micros().to_string());
        Self::start_as(command, keys, "8M", more)
    }

    /// Starts one in a control group.
    pub fn start_in(group: &Path, keys: &Path, lend: &str, more: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        command.args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\""]).arg(group);
        command.arg(env!("CARGO_BIN_EXE_rampool-server"));
        Self::start_as(command, keys, lend, more)
    }

    fn start_as(mut command: Command, keys: &Path, lend: &str, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("status.sock");
        if !more.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let mut child = command
            .args(["--lend", lend, "--keys"])
            .arg(keys)
            .arg("--status-socket")
            .arg(&socket)
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let stderr = child.stderr.take().expect("piped");
        let (tell, log) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("    {line}");
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let address = ([127, 0, 0, 1], 0).into();
        let mut server = Self { child, log, address, socket, _dir: dir };
        let line = server.logged("listening on ");
        let (_, rest) = line.split_once("listening on ").expect("just found");
        let (address, _) = rest.split_once(',').expect("the size follows");
        server.address = address.parse().expect("an address");
        server
    }

    /// Waits for a line of the log.
    pub fn logged(&mut self, text: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("the server never says '{text}'"));
            if line.contains(text) {
                return line;
            }
        }
    }

    pub fn status(&self) -> serde_json::Value {
        let document = rampool_cli::status::fetch(&self.socket).expect("a status");
        serde_json::from_str(&document).expect("JSON")
    }

    /// Waits until the status is as `wanted`.
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) {
        let began = Instant::now();
        loop {
            let status = self.status();
            if wanted(&status) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "never: {what}; {status}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our child");
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("our child")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program to its end, which must come by itself.
pub fn run(args: &[&str]) -> Output {
    let mut child = command()
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdout = child.stdout.take().expect("piped");
    let mut stderr = child.stderr.take().expect("piped");
    let (done, wait) = mpsc::channel();
    thread::spawn(move || {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let _ = stdout.read_to_end(&mut out);
        let _ = stderr.read_to_end(&mut err);
        let _ = done.send((out, err));
    });
    let ended = wait.recv_timeout(PATIENCE);
    if ended.is_err() {
        let _ = child.kill();
    }
    let (stdout, stderr) = ended.unwrap_or_else(|_| panic!("{args:?} does not end"));
    Output { status: child.wait().expect("our child"), stdout, stderr }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rampool-server"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}
