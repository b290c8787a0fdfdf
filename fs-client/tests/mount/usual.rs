//! Mounted the usual ways: by mount(8), from /etc/fstab, from a configuration.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Mounted, SMALL_CACHE, rampool, run, wait_for_exit, wait_until};

/// Runs `script` where mount(8) finds us as its helper: SOURCE and MOUNTPOINT are in its environment.
fn with_helper(mounted: &Mounted, script: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    for name in ["upper", "work"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    // An overlay cannot have one below it as its upper directory.
    let begin = r#"
        # Mounts of other tests are not to be held here.
        findmnt -n -l -o TARGET -t fuse.rampool | while read -r other; do umount -l "$other"; done
        mount -t tmpfs none "$DIR"; mkdir "$DIR/upper" "$DIR/work"
        mount -t overlay -o "lowerdir=/usr/sbin,upperdir=$DIR/upper,workdir=$DIR/work" none /usr/sbin
        ln -s "$RAMPOOL" /usr/sbin/mount.rampool
        ln -s "$RAMPOOL" /usr/sbin/mount.fuse.rampool
    "#;
    Command::new("unshare")
        .args(["--mount", "sh", "-eu", "-c", &format!("{begin}\n{script}")])
        .env("DIR", dir.path())
        .env("RAMPOOL", rampool().get_program())
        .env("SOURCE", &mounted.source)
        .env("MOUNTPOINT", &mounted.mountpoint)
        .env("CACHE", SMALL_CACHE)
        .output()
        .unwrap()
}

fn with_a_file() -> Mounted {
    let mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), "here").unwrap();
    mounted
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[track_caller]
fn assert_done(output: &Output) -> String {
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{says}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn mount_8_mounts_by_either_name_of_the_type() {
    if !is_root() {
        return;
    }
    let mounted = with_a_file();
    let output = with_helper(
        &mounted,
        r#"
        for type in rampool fuse.rampool; do
            mount -t "$type" "$SOURCE" "$MOUNTPOINT" -o "cache_size=$CACHE,nosuid,_netdev,x-systemd.automount"
            findmnt -n -o FSTYPE,SOURCE,OPTIONS "$MOUNTPOINT"
            cat "$MOUNTPOINT/f"; echo
            umount "$MOUNTPOINT"
        done
        "#,
    );
    let says = assert_done(&output);
    let lines: Vec<&str> = says.lines().collect();
    assert_eq!((lines.len(), lines[1], lines[3]), (4, "here", "here"), "{says}");
    for line in [lines[0], lines[2]] {
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(fields[..2], ["fuse.rampool", mounted.source.to_str().unwrap()]);
        assert!(fields[2].contains("nosuid"), "{line}");
    }
}

#[test]
fn a_line_of_fstab_mounts_once() {
    if !is_root() {
        return;
    }
    let mounted = with_a_file();
    let output = with_helper(
        &mounted,
        r#"
        echo "$SOURCE $MOUNTPOINT rampool cache_size=$CACHE,ro,nofail,_netdev 0 0" > "$DIR/fstab"
        mount -a -T "$DIR/fstab"
        mount -a -T "$DIR/fstab"
        findmnt -n -l -o TARGET -t fuse.rampool | grep -c -x "$MOUNTPOINT"
        if touch "$MOUNTPOINT/new" 2>/dev/null; then echo written; fi
        umount "$MOUNTPOINT"
        mount -t rampool "$SOURCE" "$MOUNTPOINT" -o "read_only,cache_size=$CACHE"
        if touch "$MOUNTPOINT/new" 2>/dev/null; then echo written; fi
        umount "$MOUNTPOINT"
        "#,
    );
    assert_eq!(assert_done(&output).trim(), "1");
}

#[test]
fn mount_8_is_told_what_is_wrong_and_passes_our_code_on() {
    if !is_root() {
        return;
    }
    let mounted = with_a_file();
    let output = with_helper(
        &mounted,
        r#"
        try() { code=0; "$@" 2>&1 || code=$?; echo "= $code"; }
        try mount -t rampool "$SOURCE" "$MOUNTPOINT" -o cash_size=1G
        try mount -t rampool "$SOURCE/f" "$MOUNTPOINT"
        try mount -t rampool "$SOURCE" "$MOUNTPOINT" -f -o cache_size=1K
        try mount -t rampool "$SOURCE" "$MOUNTPOINT" -f -o "cache_size=$CACHE"
        try mount -t rampool "$SOURCE" "$MOUNTPOINT" -s -o "cash_size=1G,cache_size=$CACHE"
        try mount -t rampool "$SOURCE" "$MOUNTPOINT" -o "cache_size=$CACHE"
        umount "$MOUNTPOINT"
        "#,
    );
    let says = assert_done(&output);
    let lines: Vec<&str> = says.lines().filter(|line| !line.contains(" is mounted at ")).collect();
    let wanted = [
        "rampool: -o: unknown mount option 'cash_size'; did you mean 'cache-size'?",
        "= 1",
        &format!("rampool: source {} is not a directory", mounted.source.join("f").display()),
        "= 32",
        "rampool: --cache-size 1 KiB is too little; at least 16 MiB",
        "= 1",
        "= 0",
        "= 0",
        &format!(
            "rampool: mountpoint {} is busy: rampool is mounted there; run: rampool umount {0}",
            mounted.mountpoint.display()
        ),
        "= 32",
    ];
    assert_eq!(lines, wanted);
}

fn configuration(mounted: &Mounted, more: &str) -> String {
    format!(
        "source = {:?}\nmountpoint = {:?}\ncache-size = \"{SMALL_CACHE}\"\n{more}\n",
        mounted.source, mounted.mountpoint
    )
}

fn mount_by(path: &Path, more: &[&str]) -> Output {
    rampool().args(["mount", "-d", "--config"]).arg(path).args(more).output().unwrap()
}

#[test]
fn a_configuration_has_all_that_a_mount_needs() {
    let mounted = with_a_file();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.toml");
    fs::write(&path, configuration(&mounted, "options = [\"ro\"]\npolicy = 'lru'")).unwrap();
    let cache = |path: &Path| {
        let output = run(rampool().args(["status", "-w", "json"]).arg(path));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["cache"]["size_bytes"].as_u64().unwrap() >> 20
    };
    assert_done(&mount_by(&path, &[]));
    assert_eq!(fs::read(mounted.path("f")).unwrap(), b"here");
    assert!(fs::write(mounted.path("new"), "").is_err(), "it is read-only");
    assert_eq!(cache(&mounted.mountpoint), 16);
    wait_until("nobody uses it", || {
        rampool().arg("umount").arg(&mounted.mountpoint).output().unwrap().status.success()
    });
    assert_done(&mount_by(&path, &["--cache-size", "20M"]));
    assert_eq!(cache(&mounted.mountpoint), 20, "the command line goes before it");
    wait_until("nobody uses it", || {
        rampool().arg("umount").arg(&mounted.mountpoint).output().unwrap().status.success()
    });
    assert_done(&mount_by(&path, &["-o", "nodev"]));
    assert!(fs::write(mounted.path("new"), "").is_err(), "it is read-only with other options too");
    wait_until("nobody uses it", || {
        rampool().arg("umount").arg(&mounted.mountpoint).output().unwrap().status.success()
    });
    assert_done(&mount_by(&path, &["-o", "rw"]));
    fs::write(mounted.path("new"), "").unwrap();
    wait_until("nobody uses it", || {
        rampool().arg("umount").arg(&mounted.mountpoint).output().unwrap().status.success()
    });
}

#[test]
fn what_is_wrong_in_a_configuration_is_said_in_one_line() {
    let mounted = with_a_file();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.toml");
    let place = path.display();
    for (text, says) in [
        (
            "cash-size = '1G'",
            format!("{place}, line 4: unknown key 'cash-size'; did you mean 'cache-size'?"),
        ),
        (
            "threads = 'many'",
            format!(
                "{place}, line 4: invalid value 'many' for '--threads <N>': write a number (see --help)"
            ),
        ),
        ("threads = 99", "--threads 99: between 1 and 64".to_owned()),
        (
            "options = ['cache_sise=1G']",
            "-o: unknown mount option 'cache_sise'; did you mean 'cache-size'?".to_owned(),
        ),
        ("policy = ", format!("{place}: line 4: ")),
        (
            "[mount]\npolicy = 'lru'",
            format!("{place}, line 4: there are no tables here; write the keys without [mount]"),
        ),
        ("daemon = true", format!("{place}, line 4: 'daemon' can only stand on the command line")),
    ] {
        fs::write(&path, configuration(&mounted, text)).unwrap();
        let output = mount_by(&path, &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&format!("rampool: {says}")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    fs::write(&path, format!("source = {:?}", mounted.source)).unwrap();
    let said = mount_by(&path, &[]).stderr;
    assert_eq!(said, b"rampool: the configuration lacks 'mountpoint'\n");
    let missing = mount_by(&dir.path().join("none.toml"), &[]);
    assert!(
        String::from_utf8_lossy(&missing.stderr)
            .ends_with("none.toml: No such file or directory\n")
    );
}

#[test]
fn the_example_of_a_configuration_names_every_option() {
    let text = run(rampool().args(["generate", "config"])).stdout;
    let text = String::from_utf8(text).unwrap();
    for key in ["source", "mountpoint", "cache-size", "server", "keys", "log-format", "options"] {
        assert!(text.contains(&format!("\n#{key} = ")), "{key}: {text}");
    }
    assert!(!text.contains("ready-fd") && !text.contains("#daemon"));
}

#[test]
fn a_link_as_the_helper_needs_no_mount_8() {
    let mounted = with_a_file();
    let dir = tempfile::tempdir().unwrap();
    let helper = dir.path().join("mount.rampool");
    symlink(rampool().get_program(), &helper).unwrap();
    let mut command = Command::new(&helper);
    command.args([&mounted.source, &mounted.mountpoint]);
    assert_done(&command.args(["-o", &format!("rw,cache_size={SMALL_CACHE}")]).output().unwrap());
    assert_eq!(fs::read(mounted.path("f")).unwrap(), b"here");
    wait_until("nobody uses it", || {
        rampool().arg("umount").arg(&mounted.mountpoint).output().unwrap().status.success()
    });
}

#[test]
fn a_configuration_is_read_again_and_a_wrong_one_changes_nothing() {
    let mounted = with_a_file();
    let dir = tempfile::tempdir().unwrap();
    let (path, log) = (dir.path().join("data.toml"), dir.path().join("log"));
    let write = |more: &str| fs::write(&path, configuration(&mounted, more)).unwrap();
    write("attr-timeout = 1");
    let mut daemon = rampool()
        .args(["mount", "--config"])
        .arg(&path)
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let says = |what: &str| wait_until(what, || fs::read_to_string(&log).unwrap().contains(what));
    let reload = || {
        kill_process(Pid::from_child(&daemon), Signal::HUP).unwrap();
    };
    says("is mounted at");
    write("attr-timeout = 2\nthreads = 3\nlog = 'debug'");
    reload();
    says("read the configuration again, and changed attr-timeout, log");
    says("threads will change with the next mount");
    write("attr-timeout = 2\nthreads = 3\nlog = 'info'");
    reload();
    says("read the configuration again, and changed log");
    for (more, why) in [
        ("cache_size = '1K'", "'cache-size' is set twice"),
        ("log = 'loud'\nentry-timeout = 7", "--log: 'loud' is no level"),
        ("threads = 99", "--threads 99: between 1 and 64"),
        ("policy = 'best'", "--policy: "),
    ] {
        write(more);
        reload();
        says(why);
    }
    write("attr-timeout = ");
    reload();
    says("data.toml: line 4: ");
    write("attr-timeout = 3\nentry-timeout = -1");
    reload();
    says("the old configuration stays: --entry-timeout -1: between 0 and 86400 seconds");
    assert_eq!(fs::read(mounted.path("f")).unwrap(), b"here", "it is served all the time");
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert!(wait_for_exit(&mut daemon).success());
}

/// How the kernel says that it is mounted.
fn options_of(mounted: &Mounted) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let at = mounted.mountpoint.to_str().unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(1) == Some(at)).unwrap();
    line.split(' ').nth(3).unwrap().split(',').map(str::to_owned).collect()
}

#[test]
fn a_mount_of_root_is_as_its_source_unless_told_otherwise() {
    if !is_root() {
        return;
    }
    let mut mounted = with_a_file();
    let has = |mounted: &Mounted, option: &str| options_of(mounted).iter().any(|o| o == option);
    mounted.mount(&[]);
    assert!(!has(&mounted, "nosuid") && !has(&mounted, "nodev") && has(&mounted, "rw"));
    mounted.unmount();
    mounted.mount(&["-o", "nosuid", "--read-only"]);
    assert!(has(&mounted, "nosuid") && !has(&mounted, "nodev") && has(&mounted, "ro"));
    mounted.unmount();
}

#[test]
fn a_mount_is_found_by_a_link_to_it_and_by_what_is_in_it() {
    let mut mounted = with_a_file();
    mounted.mount(&["--attr-timeout", "200ms", "--cache-size", "1%"]);
    let link = mounted.source.parent().unwrap().join("link");
    symlink(&mounted.mountpoint, &link).unwrap();
    for path in [&link, &mounted.path("f")] {
        run(rampool().arg("status").arg(path));
    }
    let daemon = mounted.take_daemon();
    run(rampool().arg("umount").arg(&link));
    let mut daemon = daemon;
    assert!(wait_for_exit(&mut daemon).success());
}

#[test]
fn an_automount_point_is_mounted_over_by_the_group_that_it_waits_for() {
    if !is_root() || !fs::read_to_string("/proc/filesystems").unwrap().contains("autofs") {
        return;
    }
    let mounted = with_a_file();
    let mut waits = Command::new("sh");
    let script = "read -r _; exec \"$@\"";
    let program = rampool().get_program().to_owned();
    waits.args(["-c", script, "sh"]).arg(program).args(["mount", "-d", "--server", "none"]);
    waits.args(["--cache-size", SMALL_CACHE]).args([&mounted.source, &mounted.mountpoint]);
    let mut group = waits.process_group(0).stdin(Stdio::piped()).spawn().unwrap();

    // Whoever looks there and is not of this group waits for ever: nobody reads what the kernel asks for.
    let (reads, tells) = rustix::pipe::pipe().unwrap();
    let (fd, pgrp) = (tells.as_raw_fd(), group.id());
    let options = format!("fd={fd},pgrp={pgrp},minproto=5,maxproto=5,direct");
    let options = std::ffi::CString::new(options).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", &mounted.mountpoint, "autofs", flags, Some(options.as_c_str()))
        .unwrap();
    drop(group.stdin.take());
    assert!(wait_for_exit(&mut group).success());
    assert_eq!(fs::read_to_string(mounted.path("f")).unwrap(), "here");
    run(rampool().arg("umount").arg(&mounted.mountpoint));
    rustix::mount::unmount(&mounted.mountpoint, rustix::mount::UnmountFlags::DETACH).unwrap();
    drop((reads, tells));
}

#[test]
fn paths_need_not_be_text() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Where nobody else sees the mount: programs that read the table of mounts as text would stumble over it.
    let script = r#"
        name=$(printf '\344\377')
        mkdir -p "$DIR/source/$name" "$DIR/mount/$name"
        echo here >"$DIR/source/$name/$name"
        $RAMPOOL mount -d --cache-size 16M --server none "$DIR/source/$name" "$DIR/mount/$name"
        for words in status cached 'profile -s 0.1'; do
            $RAMPOOL $words -w json "$DIR/mount/$name"
        done
        $RAMPOOL warm "$DIR/mount/$name"
        cat "$DIR/mount/$name/$name"
        $RAMPOOL umount "$DIR/mount/$name"
    "#;
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--propagation", "private", "sh", "-euc", script]);
    shell.env("DIR", dir.path()).env("RAMPOOL", env!("CARGO_BIN_EXE_rampool"));
    let said = assert_done(&shell.output().unwrap());
    assert!(said.contains("warmed 1 file,") && said.ends_with("here\n"), "{said}");
    let is_json = |line: &&str| serde_json::from_str::<serde_json::Value>(line).is_ok();
    assert_eq!(said.lines().filter(is_json).count(), 3, "{said}");
}
