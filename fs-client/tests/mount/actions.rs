//! What is done to a running mount: files are warmed, pinned and dropped, others excluded, its memory is limited, and it tells
//! what is read.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{
    Keys, Mounted, Server, noise, rampool, read_at_random, root, run, wait_for_exit, wait_until,
};

const MIB: usize = 1 << 20;

/// A mount of a file of so many MiB at each name.
fn with_files(files: &[(&str, usize)]) -> Mounted {
    let mounted = Mounted::prepare();
    for (n, (name, mib)) in files.iter().enumerate() {
        let path = mounted.source.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(n as u64, mib * MIB)).unwrap();
    }
    mounted
}

/// Runs `rampool VERB ... -w json` on paths of the mount.
fn act(mounted: &Mounted, words: &[&str], paths: &[&str]) -> Value {
    let paths = paths.iter().map(|path| mounted.path(path));
    let output = run(rampool().args(words).args(["-w", "json"]).args(paths));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn source_bytes(mounted: &Mounted) -> u64 {
    mounted.number("/layers/source/bytes")
}

/// Reads a file of the mount whole; how much of it the source had to give.
#[track_caller]
fn read(mounted: &Mounted, name: &str) -> u64 {
    let before = source_bytes(mounted);
    let (found, expected) = (fs::read(mounted.path(name)), fs::read(mounted.source.join(name)));
    assert!(found.unwrap() == expected.unwrap(), "{name}");
    source_bytes(mounted) - before
}

fn says(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_is_warmed_is_not_read_from_the_source_again() {
    let mut mounted = with_files(&[("db/a", 3), ("db/deep/b", 2), ("c", 1), ("empty", 0)]);
    mounted.mount(&[]);
    let done = act(&mounted, &["warm"], &["db", "empty"]);
    assert_eq!((&done["files"], &done["failed"]), (&Value::from(3), &Value::from(0)), "{done}");
    assert_eq!(done["cached_bytes"], 5 * MIB);
    assert_eq!((read(&mounted, "db/a"), read(&mounted, "db/deep/b")), (0, 0));
    assert_eq!(read(&mounted, "c"), MIB as u64);
    let again = act(&mounted, &["warm"], &["db"]);
    assert_eq!(again["from_bytes"]["local"], 5 * MIB, "{again}");
    mounted.unmount();
}

#[test]
fn warmed_files_outlive_a_scan_and_come_from_servers_too() {
    let keys = Keys::new();
    let server = Server::start(&keys.server(), "127.0.0.1:0");
    let mut mounted = with_files(&[("hot", 6), ("scanned", 40)]);
    mounted.mount_with_servers(&keys, &[&server.address], &[]);
    let hot = fs::read(mounted.source.join("hot")).unwrap();
    read_at_random(&mounted.path("hot"), &hot, 3000, 1, |_| {});
    let scanned = fs::read(mounted.source.join("scanned")).unwrap();
    read_at_random(&mounted.path("scanned"), &scanned, 20_000, 2, |_| {});
    mounted.wait_until("blocks are lent", |status| {
        status["remote"]["lent_blocks"].as_u64() > Some(3000)
            && status["remote"]["queued_blocks"] == 0
    });
    let done = act(&mounted, &["warm"], &["scanned", "hot"]);
    assert!(done["from_bytes"]["remote"].as_u64() > Some(0), "{done}");
    assert_eq!(done["failed"], 0);
    // What was warmed last is here.
    assert_eq!(read(&mounted, "hot"), 0);
    mounted.unmount();
}

#[test]
fn a_list_names_what_is_warmed() {
    let mut mounted = with_files(&[("a", 1), ("b", 1)]);
    mounted.mount(&[]);
    let list = mounted.source.join("list");
    fs::write(&list, format!("{}\n\n", mounted.path("b").display())).unwrap();
    let done = act(&mounted, &["warm", "--from-list", list.to_str().unwrap()], &[]);
    assert_eq!((&done["files"], &done["bytes"]), (&Value::from(1), &Value::from(MIB)));
    assert_eq!((read(&mounted, "b"), read(&mounted, "a")), (0, MIB as u64));
    mounted.unmount();
}

#[test]
fn what_is_pinned_stays_whatever_else_is_read() {
    let mut mounted = with_files(&[("pinned", 4), ("other", 60)]);
    mounted.mount(&[]);
    let done = act(&mounted, &["pin"], &["pinned"]);
    assert_eq!(done["cached_bytes"], 4 * MIB, "{done}");
    assert_eq!(mounted.number("/cache/pinned_blocks"), 1024);
    let other = fs::read(mounted.source.join("other")).unwrap();
    read_at_random(&mounted.path("other"), &other, 40_000, 1, |_| {});
    assert_eq!(read(&mounted, "pinned"), 0);

    // So does what is written to it, and what somebody else makes of it.
    fs::write(mounted.path("pinned"), noise(7, 2 * MIB)).unwrap();
    read_at_random(&mounted.path("other"), &other, 20_000, 2, |_| {});
    assert_eq!(read(&mounted, "pinned"), 0);
    fs::write(mounted.source.join("pinned"), noise(8, 3 * MIB)).unwrap();
    // Younger, it would be taken for changed at each look.
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(read(&mounted, "pinned"), 3 * MIB as u64);
    mounted.wait_until("the old blocks go", |status| status["cache"]["pinned_blocks"] == 768);
    read_at_random(&mounted.path("other"), &other, 20_000, 3, |_| {});
    assert_eq!(read(&mounted, "pinned"), 0);

    let cached = act(&mounted, &["cached"], &["pinned", ""]);
    assert_eq!(cached[0]["pinned_bytes"], 3 * MIB, "{cached}");
    assert_eq!((&cached[1]["files"], &cached[1]["bytes"]), (&2.into(), &(63 * MIB).into()));
    let here = cached[1]["cached_bytes"].as_u64().unwrap();
    assert_eq!(here, mounted.number("/cache/blocks") * 4096);

    act(&mounted, &["unpin"], &["pinned"]);
    assert_eq!(mounted.number("/cache/pinned_blocks"), 0);
    read_at_random(&mounted.path("other"), &other, 60_000, 4, |_| {});
    assert!(read(&mounted, "pinned") > 0);
    mounted.unmount();
}

#[test]
fn a_pinned_file_that_is_removed_is_let_go_of() {
    let mut mounted = with_files(&[("pinned", 4)]);
    mounted.mount(&[]);
    act(&mounted, &["pin"], &["pinned"]);
    fs::remove_file(mounted.path("pinned")).unwrap();
    mounted.wait_until("its blocks go", |status| status["cache"]["pinned_blocks"] == 0);
    mounted.unmount();
}

#[test]
fn a_pinned_file_that_somebody_else_replaces_is_let_go_of() {
    let mut mounted = with_files(&[("pinned", 4), ("kept", 1)]);
    mounted.mount(&[]);
    act(&mounted, &["pin"], &["pinned", "kept"]);
    // It is looked at while it is still there, too.
    std::thread::sleep(std::time::Duration::from_secs(6));
    let [old, new] = ["pinned", "new"].map(|name| mounted.source.join(name));
    fs::write(&new, noise(9, MIB)).unwrap();
    fs::rename(new, old).unwrap();
    mounted.wait_until("its blocks go", |status| status["cache"]["pinned_blocks"] == 256);
    assert_eq!(read(&mounted, "pinned"), MIB as u64);
    mounted.unmount();
}

#[test]
fn no_more_is_pinned_than_leaves_room_for_others() {
    let mut mounted = with_files(&[("large", 30), ("other", 1)]);
    mounted.mount(&[]);
    let mut pin = rampool();
    let output = pin.args(["pin", "-w", "json"]).arg(mounted.path("large")).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "not all of it is");
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    let pinned = done["cached_bytes"].as_u64().unwrap();
    assert!((10..13).contains(&(pinned as usize / MIB)), "three quarters of 16 MiB: {done}");
    act(&mounted, &["warm"], &["other"]);
    assert_eq!(read(&mounted, "other"), 0);
    let text = rampool().arg("pin").arg(mounted.path("other")).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("1 MiB are not pinned"), "{text}");
    // What found no place is not pinned later either.
    act(&mounted, &["unpin"], &["large"]);
    read(&mounted, "other");
    assert_eq!(mounted.number("/cache/pinned_blocks"), 0);
    mounted.unmount();
}

#[test]
fn what_is_dropped_comes_from_the_source_and_not_from_servers() {
    let keys = Keys::new();
    let server = Server::start(&keys.server(), "127.0.0.1:0");
    let mut mounted = with_files(&[("a", 40)]);
    mounted.mount_with_servers(&keys, &[&server.address], &[]);
    let all = fs::read(mounted.source.join("a")).unwrap();
    read_at_random(&mounted.path("a"), &all, 20_000, 1, |_| {});
    mounted.wait_until("blocks are lent", |status| {
        status["remote"]["lent_blocks"].as_u64() > Some(1000)
    });
    let lent = || act(&mounted, &["cached", "--each"], &["a"])[0]["lent_bytes"].as_u64().unwrap();
    assert!(lent() > MIB as u64);
    act(&mounted, &["drop"], &["a"]);
    assert_eq!(lent(), 0);
    assert_eq!(mounted.number("/cache/blocks"), 0);
    let before = mounted.number("/layers/remote/bytes");
    assert_eq!(read(&mounted, "a"), 40 * MIB as u64);
    assert_eq!(mounted.number("/layers/remote/bytes"), before);
    mounted.unmount();
}

#[test]
fn others_may_warm_what_they_can_read_and_no_more() {
    if !root() {
        return;
    }
    let mut mounted = with_files(&[("a", 1)]);
    mounted.mount(&[]);
    // For the way to it.
    let dir = mounted.mountpoint.parent().unwrap();
    run(Command::new("chmod").arg("755").arg(dir));
    let as_nobody = |verb: &str| {
        let mut command = rampool();
        command.arg(verb).arg(mounted.path("a")).uid(65_534).gid(65_534).output().unwrap()
    };
    assert!(as_nobody("warm").status.success(), "{}", says(&as_nobody("warm")));
    for verb in ["pin", "unpin", "drop"] {
        let output = as_nobody(verb);
        assert_eq!(output.status.code(), Some(1));
        assert!(says(&output).contains("only who has mounted it, and root"), "{}", says(&output));
    }
    mounted.unmount();
}

#[test]
fn what_cannot_be_done_is_said_and_the_rest_done() {
    let mut mounted = with_files(&[("a", 1), ("b", 1)]);
    mounted.mount(&["--exclude", "b"]);
    let refuse = |paths: &[&Path], why: &str| {
        let output = rampool().arg("warm").args(paths).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(says(&output).contains(why), "{}", says(&output));
    };
    refuse(&[&mounted.source], "is on no mount of rampool");
    refuse(&[&mounted.path("none")], "none: No such file or directory");
    refuse(&[&mounted.path("b"), &mounted.path("a")], "b: is excluded from the cache");
    assert_eq!(read(&mounted, "a"), 0, "the other one was warmed");
    let output = rampool().arg("warm").arg(&mounted.mountpoint).output().unwrap();
    assert!(output.status.success() && says(&output).is_empty(), "{}", says(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("warmed 1 file,") && said.contains("1 are excluded"), "{said}");
    let fifo = mounted.source.join("fifo");
    run(Command::new("mkfifo").arg(&fifo));
    refuse(&[&mounted.path("fifo")], "fifo: is no regular file");
    let list = mounted.source.join("list");
    let lines = [mounted.path("none"), mounted.path("a")].map(|path| path.display().to_string());
    fs::write(&list, lines.join("\n")).unwrap();
    refuse(&[Path::new("--from-list"), &list], "none: No such file or directory");
    let output = rampool().args(["warm", "--rate", "0"]).arg(mounted.path("a")).output().unwrap();
    assert!(says(&output).contains("would never end"), "{}", says(&output));
    mounted.unmount();
}

#[test]
fn what_warms_can_be_interrupted() {
    let mut mounted = with_files(&[("a", 20)]);
    mounted.mount(&[]);
    let mut command = rampool();
    // For the pause behind the first piece alone it would be asked to wait for minutes.
    command.args(["warm", "--rate", "10K", "-w", "json"]).arg(mounted.path("a"));
    let mut warming = command.stdout(Stdio::piped()).spawn().unwrap();
    mounted.wait_until("it has begun", |status| status["cache"]["blocks"].as_u64() > Some(0));
    let pid = rustix::process::Pid::from_child(&warming);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(wait_for_exit(&mut warming).code(), Some(130));
    let output = warming.wait_with_output().unwrap();
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(done["interrupted"], true);
    assert!(done["bytes"].as_u64() < Some(20 * MIB as u64), "{done}");
    mounted.unmount();
}

#[test]
fn excluded_files_are_read_and_written_and_not_cached() {
    let mut mounted = with_files(&[("db/a", 1), ("db/wal", 1), ("log/x", 1), ("top", 1)]);
    mounted.mount(&[
        "--include",
        "/db",
        "--include",
        "/log",
        "--exclude",
        "wal",
        "--exclude",
        "/log/",
    ]);
    for name in ["db/wal", "log/x", "top"] {
        assert_eq!([read(&mounted, name), read(&mounted, name)], [MIB as u64; 2], "{name}");
    }
    assert_eq!([read(&mounted, "db/a"), read(&mounted, "db/a")], [MIB as u64, 0]);
    fs::write(mounted.path("db/wal"), noise(9, MIB / 2)).unwrap();
    fs::write(mounted.path("db/new"), noise(9, MIB / 2)).unwrap();
    assert!(fs::read(mounted.source.join("db/wal")).unwrap() == noise(9, MIB / 2));
    let half = MIB as u64 / 2;
    assert_eq!((read(&mounted, "db/wal"), read(&mounted, "db/new")), (half, 0));
    // The pattern is for the name that it has now.
    fs::rename(mounted.path("db/a"), mounted.path("top.a")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!([read(&mounted, "top.a"), read(&mounted, "top.a")], [MIB as u64; 2]);
    mounted.unmount();
}

#[test]
fn the_kernel_caches_what_is_excluded() {
    let mut mounted = with_files(&[("excluded", 2), ("cached", 2)]);
    mounted.mount(&["--exclude", "excluded"]);
    let in_page_cache = |name: &str| {
        let mut fincore = Command::new("fincore");
        fincore.args(["--noheadings", "--bytes", "--output", "RES"]).arg(mounted.source.join(name));
        let output = String::from_utf8(run(&mut fincore).stdout).unwrap();
        output.trim().parse::<usize>().unwrap()
    };
    for name in ["excluded", "cached"] {
        let file = fs::File::open(mounted.source.join(name)).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert_eq!(in_page_cache(name), 0);
        fs::read(mounted.path(name)).unwrap();
    }
    assert_eq!([in_page_cache("excluded"), in_page_cache("cached")], [2 * MIB, 0]);
    mounted.unmount();
}

#[test]
fn the_memory_of_a_mount_is_limited_and_given_back() {
    let mut mounted = with_files(&[("a", 60)]);
    mounted.mount(&["--cache-size", "128M"]);
    let all = fs::read(mounted.source.join("a")).unwrap();
    act(&mounted, &["warm"], &["a"]);
    let resident = || mounted.number("/memory/resident_bytes") / MIB as u64;
    let full = resident();
    assert!(full >= 60, "{full}");
    let limit = |size: &str| {
        rampool().args(["limit", "--cache-size", size]).arg(&mounted.mountpoint).output().unwrap()
    };
    assert!(limit("32M").status.success());
    assert_eq!(mounted.number("/cache/size_bytes"), 32 * MIB as u64);
    let small = resident();
    assert!(small + 25 < full, "{full} MiB, then {small}");
    read_at_random(&mounted.path("a"), &all, 20_000, 1, |_| {});
    assert!(resident() < small + 8, "{small} MiB, then {}", resident());
    assert!(limit("128M").status.success());
    act(&mounted, &["warm"], &["a"]);
    assert_eq!(read(&mounted, "a"), 0, "all of it is here again");

    let machine = fs::read_to_string("/proc/meminfo").unwrap();
    let machine: f64 = machine.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(limit("1%").status.success());
    let share = mounted.number("/cache/size_bytes") as f64 / (machine * 1024.0);
    assert!(share <= 0.0101, "{share} of the machine, or less in a cgroup");
    let refused = limit("900T");
    assert!(says(&refused).contains("more than there is"), "{}", says(&refused));
    let refused = limit("1M");
    assert_eq!(refused.status.code(), Some(1));
    assert!(says(&refused).contains("too little"), "{}", says(&refused));
    let elsewhere = rampool().args(["limit", "--cache-size", "32M", "/"]).output().unwrap();
    assert!(says(&elsewhere).contains("no rampool of this user is mounted at /"));
    mounted.unmount();
}

#[test]
fn a_limit_while_everything_is_used_serves_no_wrong_byte() {
    let keys = Keys::new();
    let server = Server::start(&keys.server(), "127.0.0.1:0");
    let mut mounted = with_files(&[("a", 60)]);
    mounted.mount_with_servers(&keys, &[&server.address], &["--cache-size", "64M"]);
    let all = fs::read(mounted.source.join("a")).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (path, all) = (mounted.path("a"), &all);
            scope.spawn(move || read_at_random(&path, all, 30_000, seed, |_| {}));
        }
        for size in ["24M", "48M", "20M", "96M", "24M", "64M"] {
            let limit = ["limit", "--cache-size", size];
            run(rampool().args(limit).arg(&mounted.mountpoint));
        }
    });
    assert_eq!(mounted.number("/remote/unauthentic_blocks"), 0);
    mounted.unmount();
}

#[test]
fn a_profile_names_what_is_read_and_from_where() {
    let mut mounted = with_files(&[("db/hot", 1), ("db/cold", 1), ("c", 1)]);
    mounted.mount(&[]);
    read(&mounted, "db/hot");
    let mut command = rampool();
    command.args(["profile", "--seconds", "3", "-w", "json"]).arg(&mounted.mountpoint);
    let profile = command.stdout(Stdio::piped()).spawn().unwrap();
    // It says nothing when it begins.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let cold = fs::read(mounted.source.join("db/cold")).unwrap();
    read_at_random(&mounted.path("db/cold"), &cold, 200, 1, |_| {});
    read(&mounted, "db/hot");
    let output = profile.wait_with_output().unwrap();
    let profile: Value = serde_json::from_slice(&output.stdout).unwrap();
    let files = profile["files"].as_array().unwrap();
    let names: Vec<&str> = files.iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["db/cold", "db/hot"], "{profile}");
    assert!(files[0]["source"].as_u64() > Some(50) && files[1]["source"] == 0, "{profile}");
    assert_eq!(profile["directories"][0]["path"], "db");
    let late = rampool().args(["profile", "--seconds", "0.2"]).arg(&mounted.mountpoint).output();
    assert_eq!(String::from_utf8(late.unwrap().stdout).unwrap(), "nothing was read in 0.2 s\n");
    mounted.unmount();
}

#[test]
fn who_stops_waiting_for_a_profile_is_not_counted_for() {
    let mut mounted = with_files(&[("a", 1)]);
    mounted.mount(&[]);
    let profile = |seconds: &str| {
        let mut command = rampool();
        command.args(["profile", "--seconds", seconds]).arg(&mounted.mountpoint);
        command
    };
    let quiet =
        |mut command: Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut waiting = Vec::new();
    wait_until("as many count as may", || {
        let one_more = profile("0.1").output().unwrap();
        let is_full = says(&one_more).contains("others are counting already");
        if !is_full {
            waiting.push(quiet(profile("3600")));
        }
        is_full
    });
    for waits in &mut waiting {
        waits.kill().unwrap();
        waits.wait().unwrap();
    }
    wait_until("nobody counts", || profile("0.1").output().unwrap().status.success());
    mounted.unmount();
}
