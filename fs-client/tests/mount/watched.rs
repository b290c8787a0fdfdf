//! What a mount tells those who watch it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::Value;

use crate::support::{Mounted, rampool, run};

fn get(address: SocketAddr, path: &str) -> String {
    let mut peer = TcpStream::connect(address).unwrap();
    write!(peer, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    peer.read_to_string(&mut answer).unwrap();
    answer
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
