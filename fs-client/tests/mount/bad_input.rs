//! What is asked for wrongly: one line that says what and what to do, mount(8)'s exit code, and
//! nothing left mounted.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use crate::support::{Keys, Mounted, rampool, run};

/// Mounts, and expects a refusal.
fn refused(source: &Path, mountpoint: &Path, options: &[&str], code: i32, says: &str) {
    let output = rampool().arg("mount").args([source, mountpoint]).args(options).output().unwrap();
    expect(&output, code, says);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(&format!(" {} ", mountpoint.display())), "left mounted");
}

fn expect(output: &Output, code: i32, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("rampool: "), "{stderr}");
}

#[test]
fn a_source_or_mountpoint_that_does_not_fit_is_refused() {
    let place = Mounted::prepare();
    let (source, mountpoint) = (&place.source, &place.mountpoint);
    let missing = source.join("missing");
    refused(&missing, mountpoint, &[], 32, "No such file or directory");
    fs::write(source.join("file"), "").unwrap();
    refused(&source.join("file"), mountpoint, &[], 32, "is not a directory");
    refused(source, &missing, &[], 32, "No such file or directory");
    refused(source, &source.join("file"), &[], 32, "is not a directory");
    fs::write(mountpoint.join("file"), "").unwrap();
    refused(source, mountpoint, &[], 32, "is not empty");
}

#[test]
fn a_mountpoint_in_use_is_refused() {
    let mut place = Mounted::prepare();
    place.mount(&[]);
    let output = rampool().arg("mount").args([&place.source, &place.mountpoint]).output().unwrap();
    expect(&output, 32, "is busy");
}

#[test]
fn sizes_and_numbers_that_make_no_sense_are_refused() {
    let place = Mounted::prepare();
    let cases: [(&[&str], &str); 18] = [
        (&["--cache-size", "lots"], "is not a size"),
        (&["--cache-size", "1M"], "too little"),
        (&["--cache-size", "900T"], "is more than there is"),
        (&["--attr-timeout=-1"], "between 0 and"),
        (&["-o", "entry_timeout=soon"], "invalid value 'soon' for '--entry-timeout"),
        (&["-o", "cache=loose"], "[possible values: timed, strict]"),
        (&["--cache", "strict", "--negative-timeout", "1"], "contradicts --cache strict"),
        (&["--threads", "0"], "between 1 and"),
        (&["-o", "cache_size=nonsense"], "is not a size"),
        (&["-o", "no_such_option"], "unknown mount option"),
        (&["--cash-size", "1G"], "'--cash-size' found; a similar argument exists: '--cache-size'"),
        (&["--cache-size", "-1"], "is not a size"),
        (&["--attr-timeout", "-1"], "between 0 and"),
        (&["--threads", "-1"], "between 1 and"),
        (&["--threads", "many"], "write a number"),
        (&["-o", "ro=1"], "'ro' takes no value"),
        (&["-o", "remount,ro"], "a mount cannot be remounted"),
        (&["-o", "daemon"], "can only stand on the command line"),
    ];
    for (options, says) in cases {
        refused(&place.source, &place.mountpoint, options, 1, says);
    }
}

#[test]
fn servers_need_an_address_and_keys() {
    let place = Mounted::prepare();
    let keys = Keys::new();
    let (client, server) = (keys.client(), keys.server());
    let (client, server) = (client.to_str().unwrap(), server.to_str().unwrap());
    let refuse =
        |options: &[&str], says| refused(&place.source, &place.mountpoint, options, 1, says);
    // Unless this machine has joined a pool.
    if !Path::new(rampool_keys::CLIENT_KEYS).exists() {
        refuse(&["--server", "127.0.0.1:1"], "--server needs keys; join its pool");
    }
    refuse(&["--server", "no such host", "--keys", client], "does not resolve");
    refuse(&["--server", "127.0.0.1:99999", "--keys", client], "99999 is no port");
    refuse(&["--server", "127.0.0.1", "--keys", "/no/such/dir"], "cannot read");
    refuse(&["--server", "127.0.0.1", "--keys", server], "is not for a client");
    let key = keys.client().join("key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    refuse(&["--server", "127.0.0.1", "--keys", client], "chmod 600");
}

#[test]
fn an_unreachable_server_is_only_a_warning() {
    let keys = Keys::new();
    let client = keys.client();
    let mut place = Mounted::prepare();
    fs::write(place.source.join("f"), "there").unwrap();
    place.mount(&["--server", "127.0.0.1:9", "--keys", client.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(place.path("f")).unwrap(), "there");
    place.unmount();
}

#[test]
fn in_the_background_it_returns_when_the_mount_answers_and_tells_what_failed() {
    let place = Mounted::prepare();
    fs::write(place.source.join("f"), "there").unwrap();
    run(rampool()
        .args(["mount", "-d", "--cache-size", "16M"])
        .args([&place.source, &place.mountpoint]));
    assert_eq!(fs::read_to_string(place.path("f")).unwrap(), "there");
    let output =
        rampool().args(["mount", "-d"]).args([&place.source, &place.mountpoint]).output().unwrap();
    expect(&output, 32, "is busy");
    let output = rampool().arg("umount").arg(place.path("f")).output().unwrap();
    let lies =
        format!("nothing is mounted there; it lies on the mount at {}", place.mountpoint.display());
    expect(&output, 32, &lies);
    run(rampool().arg("umount").arg(&place.mountpoint));
    assert!(!place.path("f").exists());
    let output = rampool().arg("umount").arg(&place.mountpoint).output().unwrap();
    expect(&output, 32, "nothing is mounted there");
}

#[test]
fn a_signal_ends_it_cleanly_even_with_files_open() {
    for open in [false, true] {
        let mut place = Mounted::prepare();
        fs::write(place.source.join("f"), "there").unwrap();
        place.mount(&[]);
        let _held = open.then(|| fs::File::open(place.path("f")).unwrap());
        let pid = rustix::process::Pid::from_child(place.daemon());
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = crate::support::wait_for_exit(place.daemon());
        assert!(status.success(), "open: {open}, {status}");
        assert!(!place.path("f").exists());
    }
}

#[test]
fn a_mount_that_would_wait_for_itself_is_refused() {
    let mut first = Mounted::prepare();
    for name in ["x", "inside"] {
        fs::create_dir(first.source.join(name)).unwrap();
    }
    first.mount(&[]);
    refused(&first.path("x"), &first.source.join("inside"), &[], 32, "wait for the other");
    first.unmount();
}
