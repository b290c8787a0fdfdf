//! What a mount tells those who watch it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::support::{Mounted, rampool};

fn get(address: SocketAddr, path: &str) -> String {
    let mut peer = TcpStream::connect(address).unwrap();
    write!(peer, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    peer.read_to_string(&mut answer).unwrap();
    answer
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
