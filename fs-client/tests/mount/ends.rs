//! How a mount ends: orderly, while it is used, by a crash, and when the source is taken away.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Mounted, SMALL_CACHE, rampool, run, wait_for_exit, wait_until};

fn umount(mountpoint: &Path, options: &[&str]) -> Output {
    rampool().arg("umount").args(options).arg(mountpoint).output().unwrap()
}

fn with_a_file() -> Mounted {
    let mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), vec![1; 100_000]).unwrap();
    mounted
}

#[test]
fn an_unmount_is_refused_while_files_are_open_unless_it_may_be_lazy() {
    let mut mounted = with_a_file();
    mounted.mount(&[]);
    let open = File::open(mounted.path("f")).unwrap();
    let refused = umount(&mounted.mountpoint, &[]);
    assert_eq!(refused.status.code(), Some(32));
    let says = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(says.contains("files are open on it: "), "{says}");
    let holder = format!("(pid {}) has {} open", std::process::id(), mounted.path("f").display());
    assert!(says.contains(&holder) && says.contains("--lazy"), "{says}");
    let daemon = format!("(pid {})", mounted.daemon().id());
    assert!(!says.contains(&daemon), "the daemon is no reason: {says}");
    assert!(umount(&mounted.mountpoint, &["--lazy"]).status.success());
    assert!(!mounted.path("f").exists(), "it is out of the tree");
    assert_eq!(open.read_at(&mut [0; 10], 50_000).unwrap(), 10, "and still served");
    drop(open);
    assert!(wait_for_exit(&mut mounted.take_daemon()).success(), "with the last file it ends");
}

#[test]
fn who_holds_a_mount_is_said() {
    let mut mounted = with_a_file();
    fs::create_dir(mounted.source.join("inner")).unwrap();
    mounted.mount(&[]);
    let mut sleeper =
        Command::new("sleep").arg("60").current_dir(&mounted.mountpoint).spawn().unwrap();
    let refused = || {
        let output = umount(&mounted.mountpoint, &[]);
        (output.status.code() == Some(32))
            .then(|| String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let wanted = format!("sleep (pid {}) has its directory there", sleeper.id());
    wait_until("its name is its own", || refused().unwrap().contains(&wanted));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    if rustix::process::geteuid().is_root() {
        let inner = mounted.path("inner");
        mount("none", &inner, "tmpfs", MountFlags::empty(), None).unwrap();
        let says = refused().unwrap();
        assert!(says.contains(&format!("a filesystem at {}", inner.display())), "{says}");
        unmount(&inner, UnmountFlags::empty()).unwrap();
    }
    mounted.unmount();
}

#[test]
fn an_unmount_waits_until_the_daemon_has_ended() {
    let mut mounted = with_a_file();
    for _ in 0..5 {
        mounted.mount(&[]);
        assert!(umount(&mounted.mountpoint, &[]).status.success());
        let ended = mounted.take_daemon().try_wait().unwrap();
        assert!(ended.expect("it has ended").success());
    }
}

#[test]
fn a_dead_daemon_means_errors_and_mounting_again_cleans_up() {
    let mut mounted = with_a_file();
    for _ in 0..2 {
        mounted.mount(&[]);
        let open = File::open(mounted.path("f")).unwrap();
        assert_eq!(open.read_at(&mut [0; 10], 0).unwrap(), 10);
        let mut daemon = mounted.take_daemon();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        assert!(open.read_at(&mut [0; 10], 0).is_err());
        let error = fs::read(mounted.path("f")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected, "never the directory underneath");
        assert!(fs::write(mounted.path("g"), "lost").is_err());
    }
    mounted.mount(&[]);
    assert_eq!(fs::read(mounted.path("f")).unwrap(), [1; 100_000]);
    mounted.unmount();
    assert!(fs::read_dir(&mounted.mountpoint).unwrap().next().is_none(), "nothing is left below");
}

#[test]
fn a_mount_over_its_own_source_is_cleaned_up_as_well() {
    let mut mounted = with_a_file();
    mounted.mountpoint = mounted.source.clone();
    mounted.mount(&[]);
    let mut daemon = mounted.take_daemon();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(fs::read(mounted.path("f")).unwrap_err().kind(), ErrorKind::NotConnected);
    mounted.mount(&[]);
    assert_eq!(fs::read(mounted.path("f")).unwrap(), [1; 100_000]);
    mounted.unmount();
    assert_eq!(fs::read(mounted.path("f")).unwrap(), [1; 100_000], "the source itself");
}

#[test]
fn a_daemon_that_hangs_can_be_taken_away_and_nobody_hangs_with_it() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut mounted = with_a_file();
    mounted.mount(&[]);
    assert!(mounted.path("f").exists());
    let pid = Pid::from_child(mounted.daemon());
    kill_process(pid, Signal::STOP).unwrap();
    let mut reader = Command::new("cat")
        .arg(mounted.path("f"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let waiting = format!("/proc/{}/wchan", reader.id());
    wait_until("it waits for the daemon", || {
        fs::read_to_string(&waiting).is_ok_and(|place| place.contains("fuse") || place == "0")
    });
    assert!(umount(&mounted.mountpoint, &["--force", "--lazy"]).status.success());
    assert!(!wait_for_exit(&mut reader).success(), "an error, and an end");
    kill_process(pid, Signal::CONT).unwrap();
    wait_for_exit(&mut mounted.take_daemon());
}

#[test]
fn a_source_in_use_is_not_unmounted_and_lives_on_when_it_is_all_the_same() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut mounted = Mounted::prepare();
    let source = mounted.source.clone();
    mount("none", &source, "tmpfs", MountFlags::empty(), c"size=4m").unwrap();
    fs::write(source.join("f"), "there").unwrap();
    mounted.mount(&[]);
    assert_eq!(unmount(&source, UnmountFlags::empty()), Err(rustix::io::Errno::BUSY));
    unmount(&source, UnmountFlags::DETACH).unwrap();
    assert!(!source.join("f").exists());
    assert_eq!(fs::read_to_string(mounted.path("f")).unwrap(), "there");
    fs::write(mounted.path("g"), "too").unwrap();
    assert_eq!(fs::read_to_string(mounted.path("g")).unwrap(), "too");
    mounted.unmount();
}

#[test]
fn without_memory_for_its_cache_it_says_so_and_mounts_nothing() {
    let place = Mounted::prepare();
    let script = "ulimit -v 2000000; exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_rampool"), "mount", "--cache-size", "2G"])
        .args([&place.source, &place.mountpoint])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("cannot reserve memory for the cache"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_mountpoint_inside_the_source_shows_the_directory_that_it_covers() {
    let mut mounted = Mounted::prepare();
    let inside = mounted.source.join("deep/inside");
    fs::create_dir_all(&inside).unwrap();
    fs::write(mounted.source.join("f"), "f").unwrap();
    mounted.mountpoint = inside.clone();
    mounted.mount(&["--threads", "1"]);
    assert_eq!(fs::read_to_string(inside.join("f")).unwrap(), "f");
    let below = inside.join("deep/inside");
    assert!(fs::read_dir(&below).unwrap().next().is_none(), "and not itself again");
    run(Command::new("find").arg(&inside));
    fs::write(below.join("covered"), "c").unwrap();
    assert!(fs::remove_dir(&below).is_err());
    mounted.unmount();
    assert_eq!(fs::read_to_string(inside.join("covered")).unwrap(), "c");
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), "here").unwrap();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut daemon = rampool()
        .args(["mount", "-v", "--server", "none", "--cache-size", SMALL_CACHE])
        .args([&mounted.source, &mounted.mountpoint])
        .stderr(full())
        .spawn()
        .unwrap();
    wait_until("it is mounted", || mounted.path("f").exists());
    for _ in 0..3 {
        kill_process(Pid::from_child(&daemon), Signal::HUP).unwrap();
        assert_eq!(fs::read_to_string(mounted.path("f")).unwrap(), "here");
        thread::sleep(Duration::from_millis(100));
    }
    let refused = rampool().args(["mount", "/none", "/none"]).stderr(full()).status().unwrap();
    assert_eq!(refused.code(), Some(32), "not the code of a panic");
    run(rampool().arg("umount").arg(&mounted.mountpoint));
    assert!(wait_for_exit(&mut daemon).success());
}
