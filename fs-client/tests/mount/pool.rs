//! Who is let in: certificates of another pool, of the wrong role, expired.

use std::fs;

use serde_json::Value;

use crate::support::{Keys, Mounted, Server};

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
