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
fn the_doctor_looks_at_machine_pool_and_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (founder, keys) = (dir.path().join("founder"), dir.path().join("keys"));
    let server = Server::found(&founder);
    let token = server.token(&founder);
    run(rampool().args(["join", &token, "--name", "vm1", "--keys"]).arg(&keys));
    // On a disk, which can be read past the page cache.
    let source = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::write(source.path().join("f"), vec![7; 2 << 20]).unwrap();
    let doctor = |more: &[&str]| {
        let mut command = rampool();
        command.arg("doctor").arg(source.path()).arg("--keys").arg(&keys);
        let output = command.args(["-w", "json"]).args(more).output().unwrap();
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), findings)
    };
    let of = |findings: &[Value], what: &str| {
        let is_it = |finding: &&Value| finding["what"].as_str().unwrap().starts_with(what);
        let finding = findings.iter().find(is_it).unwrap();
        [&finding["state"], &finding["found"]].map(|text| text.as_str().unwrap().to_owned())
    };
    let (code, findings) = doctor(&[]);
    assert_eq!(code, Some(0), "{findings:?}");
    assert!(of(&findings, "keys")[1].starts_with("vm1, of rampool pool"), "{findings:?}");
    let [state, found] = of(&findings, &format!("server {}", server.address));
    assert!(state == "good" && found.contains("lends 256 MiB"), "{findings:?}");
    assert!(of(&findings, "source")[1].contains("4 KiB at random take"), "{findings:?}");

    let (code, findings) = doctor(&["--server", "127.0.0.1:9"]);
    assert_eq!(code, Some(1));
    let [state, found] = of(&findings, "server 127.0.0.1:9");
    assert!(state == "bad" && found.contains("does not answer"), "{findings:?}");
    fs::remove_file(keys.join("cert.pem")).unwrap();
    let (code, findings) = doctor(&[]);
    assert_eq!((code, &*of(&findings, "keys")[0]), (Some(1), "bad"));
}

#[test]
fn a_mount_leaves_a_server_that_was_revoked() {
    let keys = Keys::new();
    let server = Server::start(&keys.server(), "127.0.0.1:0");
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), "there").unwrap();
    mounted.mount_with_servers(&keys, &[&server.address], &[]);
    let error_of = |status: &Value| {
        let error = status.pointer("/remote/servers/0/last_error").and_then(Value::as_str);
        error.unwrap_or_default().to_owned()
    };
    mounted.wait_until("it is connected", |status| {
        status.pointer("/remote/servers/0/state").and_then(Value::as_str) == Some("connected")
    });
    let pool = keys.client().parent().unwrap().to_owned();
    run(rampool().args(["keys", "revoke"]).arg(&pool).arg("server"));
    fs::copy(pool.join("revoked.pem"), keys.client().join("revoked.pem")).unwrap();
    mounted.wait_until("it has left", |status| error_of(status).contains("revoked"));
    assert_eq!(fs::read_to_string(mounted.path("f")).unwrap(), "there");
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
