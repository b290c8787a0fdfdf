//! What a mount tells those who watch it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use serde_json::Value;

use crate::support::{Mounted, rampool, run, wait_until};

fn get(address: SocketAddr, path: &str) -> String {
    let mut peer = TcpStream::connect(address).unwrap();
    write!(peer, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    peer.read_to_string(&mut answer).unwrap();
    answer
}

/// A terminal of 80 columns and 24 lines. It goes with this.
struct Screen(String);

impl Screen {
    fn new(command: &str) -> Self {
        let screen = Self(format!("rampool-test-{}", std::process::id()));
        screen.tmux(&["new-session", "-d", "-x", "80", "-y", "24", command]);
        screen
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        let output = command.args(["-f", "/dev/null", "-L", &self.0]).args(args).output();
        let output = output.expect("tmux, which 'make tools' installs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn top_shows_a_mount_on_a_small_terminal_until_q_is_pressed() {
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), vec![7; 64 << 10]).unwrap();
    mounted.mount(&[]);
    let program = rampool();
    let program = program.get_program().to_str().unwrap();
    let screen = Screen::new(&format!("{program} top {}", mounted.mountpoint.display()));
    let shown = || screen.tmux(&["capture-pane", "-p"]);
    wait_until("what is read is shown", || {
        fs::read(mounted.path("f")).unwrap();
        shown().contains("answered from memory: 100.0 %")
    });
    let text = shown();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains(mounted.mountpoint.to_str().unwrap()), "{text}");
    screen.tmux(&["send-keys", "q"]);
    wait_until("it ends", || screen.tmux(&["list-sessions"]).is_empty());
    mounted.unmount();
}

#[test]
fn stats_are_a_line_each_time() {
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), vec![7; 64 << 10]).unwrap();
    mounted.mount(&[]);
    let stats = |more: &[&str]| {
        let mut command = rampool();
        command.args(["stats", "0.3", "2", "--mountpoint"]).arg(&mounted.mountpoint).args(more);
        String::from_utf8(run(&mut command).stdout).unwrap()
    };
    let reads = std::thread::scope(|scope| {
        let stats = scope.spawn(|| stats(&["-w", "json"]));
        while !stats.is_finished() {
            fs::read(mounted.path("f")).unwrap();
        }
        stats.join().unwrap()
    });
    let lines: Vec<Value> = reads.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for line in &lines {
        assert_eq!(line["mountpoint"].as_str(), mounted.mountpoint.to_str());
        assert!(line["reads_per_second"].as_f64() > Some(0.0), "{line}");
        assert!(line["local"].as_f64() > Some(0.9), "{line}");
    }
    let table = stats(&[]);
    assert!(table.starts_with("   reads/s  local%"), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
    mounted.unmount();
}

#[test]
fn prometheus_is_told_what_a_mount_does() {
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), vec![7; 64 << 10]).unwrap();
    mounted.mount(&["--metrics", &address.to_string()]);
    assert_eq!(fs::read(mounted.path("f")).unwrap().len(), 64 << 10);
    let metrics = get(address, "/metrics");
    for line in [
        "rampool_read_bytes_total{layer=\"source\"} 65536".to_owned(),
        format!("rampool_mount_info{{mountpoint=\"{}\"}} 1", mounted.mountpoint.display()),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
    assert!(get(address, "/status").contains("\"hit_ratio\""));

    let other = Mounted::prepare();
    let mut command = rampool();
    command.arg("mount").arg(&other.source).arg(&other.mountpoint);
    command.args(["--server", "none", "--metrics", &address.to_string()]);
    let refused = command.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("--metrics") && said.contains("choose another"), "{said}");
    assert_eq!(refused.status.code(), Some(2));
    mounted.unmount();
}
