//! Who is let in: certificates of another pool, of the wrong role, expired.

use std::fs;

use serde_json::Value;

use crate::support::{Keys, Mounted, Server, rampool, run};

#[test]
fn a_machine_that_has_joined_needs_no_more_words() {
    let dir = tempfile::tempdir().unwrap();
    let (founder, keys) = (dir.path().join("founder"), dir.path().join("keys"));
    let server = Server::found(&founder);
    let token = server.token(&founder);
    let output = run(rampool().args(["join", &token, "--name", "vm1", "--keys"]).arg(&keys));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("vm1 belongs to the pool of"), "{said}");
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), "there").unwrap();
    mounted.mount(&["--keys", keys.to_str().unwrap()]);
    mounted.wait_until("its server is connected", |status| {
        status.pointer("/remote/servers/0/state").and_then(Value::as_str) == Some("connected")
    });
    mounted.unmount();
    mounted.mount(&["--keys", keys.to_str().unwrap(), "--server", "none"]);
    assert_eq!(mounted.status()["remote"]["servers"].as_array().map(Vec::len), Some(0));
    mounted.unmount();
}

#[test]
fn a_server_of_another_pool_is_refused_with_the_reason() {
    let (ours, theirs) = (Keys::new(), Keys::new());
    let server = Server::start(&theirs.server(), "127.0.0.1:0");
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), "there").unwrap();
    mounted.mount_with_servers(&ours, &[&server.address], &[]);
    mounted.wait_until("the reason is shown", |status| {
        let error = status.pointer("/remote/servers/0/last_error").and_then(Value::as_str);
        error.is_some_and(|error| error.contains("another pool"))
    });
    assert_eq!(fs::read_to_string(mounted.path("f")).unwrap(), "there");
    mounted.unmount();
}
