//! Changes behind the mount: seen at the next open, within the timeouts, or at once.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::{Mounted, noise, wait_until};

/// Long enough that nothing of a test is seen because time has passed.
const LONG: &str = "3600";

fn byte_at(file: &File, offset: u64) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0]
}

#[test]
fn new_contents_are_seen_at_the_next_open_and_kept_ones_within_the_timeout() {
    let mut mounted = Mounted::prepare();
    let (behind, through) = (mounted.source.join("f"), mounted.path("f"));
    fs::write(&behind, vec![1; 100_000]).unwrap();
    mounted.mount(&["--attr-timeout", LONG]);
    let open = File::open(&through).unwrap();
    assert_eq!(byte_at(&open, 50_000), 1);
    File::options().write(true).open(&behind).unwrap().write_all_at(&[2; 100_000], 0).unwrap();
    assert_eq!(byte_at(&open, 50_000), 1, "cached, and nobody asked");
    // The next open, for everybody.
    assert_eq!(byte_at(&File::open(&through).unwrap(), 50_000), 2);
    assert_eq!(byte_at(&open, 50_000), 2);
    mounted.unmount_lazily();
    drop(open);

    mounted.mount(&["--attr-timeout", "0.2"]);
    let open = File::open(&through).unwrap();
    assert_eq!(byte_at(&open, 0), 2);
    File::options().write(true).open(&behind).unwrap().write_all_at(&[3; 100_000], 0).unwrap();
    wait_until("it is seen without another open", || byte_at(&open, 0) == 3);
    drop(open);
    mounted.unmount();
}

#[test]
fn strict_sees_everything_at_once() {
    let mut mounted = Mounted::prepare();
    let (behind, through) = (mounted.source.join("f"), mounted.path("f"));
    fs::write(&behind, vec![0; 10_000]).unwrap();
    mounted.mount(&["-o", "cache=strict"]);
    let open = File::open(&through).unwrap();
    let other = File::options().write(true).open(&behind).unwrap();
    for n in 1..100u8 {
        other.write_all_at(&vec![n; 10_000 + usize::from(n)], 0).unwrap();
        assert_eq!(byte_at(&open, 9999), n);
        assert_eq!(open.metadata().unwrap().len(), 10_000 + u64::from(n));
        let name = format!("n{n}");
        assert!(!mounted.path(&name).exists());
        fs::write(mounted.source.join(&name), "new").unwrap();
        assert_eq!(fs::read_to_string(mounted.path(&name)).unwrap(), "new");
        fs::rename(mounted.source.join(&name), mounted.source.join("moved")).unwrap();
        assert!(!mounted.path(&name).exists());
    }
    assert!(mounted.number("/cache/blocks") > 0, "it is cached all the same");
    drop(open);
    mounted.unmount();
}

#[test]
fn names_are_kept_for_as_long_as_was_asked_for() {
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), "old").unwrap();
    fs::write(mounted.source.join("g"), "new").unwrap();
    fs::write(mounted.source.join("h"), "old").unwrap();
    mounted.mount(&["--entry-timeout", LONG, "--negative-timeout", LONG]);
    assert_eq!(fs::read_to_string(mounted.path("f")).unwrap(), "old");
    assert_eq!(fs::metadata(mounted.path("none")).unwrap_err().kind(), ErrorKind::NotFound);
    fs::rename(mounted.source.join("f"), mounted.source.join("f2")).unwrap();
    fs::write(mounted.source.join("none"), "").unwrap();
    assert_eq!(fs::read_to_string(mounted.path("f")).unwrap(), "old", "by the name it had");
    assert!(!mounted.path("none").exists());
    // Replaced, so that nothing has the old file any more: its name is looked up again.
    assert_eq!(fs::read_to_string(mounted.path("h")).unwrap(), "old");
    fs::write(mounted.source.join("h2"), "new").unwrap();
    fs::rename(mounted.source.join("h2"), mounted.source.join("h")).unwrap();
    assert_eq!(fs::read_to_string(mounted.path("h")).unwrap(), "new");
    // What is done through the mount is seen at once, however long names are kept.
    fs::rename(mounted.path("g"), mounted.path("f")).unwrap();
    assert_eq!(fs::read_to_string(mounted.path("f")).unwrap(), "new");
    fs::write(mounted.path("made"), "").unwrap();
    assert!(mounted.path("made").exists());
    mounted.unmount();

    mounted.mount(&["--entry-timeout", "0"]);
    assert!(!mounted.path("later").exists());
    fs::write(mounted.source.join("later"), "1").unwrap();
    assert_eq!(fs::read_to_string(mounted.path("later")).unwrap(), "1");
    fs::write(mounted.source.join("other"), "2").unwrap();
    fs::rename(mounted.source.join("other"), mounted.source.join("later")).unwrap();
    assert_eq!(fs::read_to_string(mounted.path("later")).unwrap(), "2");
    mounted.unmount();
}

#[test]
fn one_read_never_mixes_what_was_before_and_after_a_change() {
    const BLOCKS: usize = 32;
    let mut mounted = Mounted::prepare();
    let (behind, through) = (mounted.source.join("f"), mounted.path("f"));
    fs::write(&behind, vec![0; BLOCKS * 4096]).unwrap();
    mounted.mount(&["--attr-timeout", LONG]);
    let replace = File::options().write(true).open(&behind).unwrap();
    for round in 1..=100u8 {
        let open = File::open(&through).unwrap();
        // Some of its blocks are cached.
        for block in (0..BLOCKS).filter(|block| block % 3 == usize::from(round) % 3) {
            byte_at(&open, block as u64 * 4096);
        }
        replace.write_all_at(&vec![round; BLOCKS * 4096], 0).unwrap();
        let mut whole = vec![0; BLOCKS * 4096];
        open.read_exact_at(&mut whole, 0).unwrap();
        assert!(whole.iter().all(|&byte| byte == whole[0]), "round {round}");
        let again = fs::read(&through).unwrap();
        assert!(again.iter().all(|&byte| byte == round), "after the next open");
    }
    mounted.unmount();
}

#[test]
fn a_read_that_meets_a_truncation_is_short_or_old_and_never_zeros() {
    let mut mounted = Mounted::prepare();
    let bytes = vec![0xaa; 1 << 20];
    fs::write(mounted.source.join("f"), &bytes).unwrap();
    mounted.mount(&[]);
    let path = mounted.path("f");
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 0..2 {
            let (path, done) = (&path, &done);
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                let mut buffer = vec![0; 20_000];
                let places = noise(seed, 1 << 16);
                let mut places = places.chunks_exact(4).cycle();
                while !done.load(Ordering::Relaxed) {
                    let place = places.next().unwrap();
                    let place = u32::from_le_bytes(place.try_into().unwrap());
                    let offset = u64::from(place) % (1 << 20);
                    let got = file.read_at(&mut buffer, offset).unwrap();
                    let wrong = buffer[..got].iter().position(|&byte| byte != 0xaa);
                    assert_eq!(wrong, None, "of {got} bytes at {offset}");
                }
            });
        }
        for n in 0..400u64 {
            let cut = (n * 7919) % 300 * 3000;
            file.set_len(cut).unwrap();
            // Never a hole: grown by writing behind the end only.
            file.write_all_at(&bytes[cut as usize..], cut).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    drop(file);
    mounted.unmount();
}

#[test]
fn who_reads_a_growing_file_finds_every_byte_or_its_end_and_never_zeros() {
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), "").unwrap();
    mounted.mount(&[]);
    let path = mounted.path("f");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            let (path, done) = (&path, &done);
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                let (mut buffer, mut end) = (vec![0; 50_000], 0u64);
                while !done.load(Ordering::Relaxed) {
                    let from = end.saturating_sub(10_000);
                    let got = file.read_at(&mut buffer, from).unwrap();
                    let wrong = buffer[..got].iter().position(|&byte| byte != 0xaa);
                    assert_eq!(wrong, None, "of {got} bytes at {from}");
                    end = from + got as u64;
                }
            });
        }
        let file = File::options().append(true).open(&path).unwrap();
        let direct = File::options().write(true).open(&path).unwrap();
        let mut end = 0;
        for n in 0..1500usize {
            let bytes = vec![0xaa; 1 + n * 7919 % 9000];
            if n % 2 == 0 {
                assert_eq!((&file).write(&bytes).unwrap(), bytes.len());
            } else {
                direct.write_all_at(&bytes, end).unwrap();
            }
            end += bytes.len() as u64;
        }
        done.store(true, Ordering::Relaxed);
    });
    mounted.unmount();
}

#[test]
fn who_creates_what_is_there_already_is_asked_for_permission() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut mounted = Mounted::prepare();
    let top = mounted.mountpoint.parent().unwrap();
    for directory in [top, &mounted.source] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    }
    mounted.mount(&["--negative-timeout", LONG, "--entry-timeout", LONG]);
    let as_nobody = |script: &str| {
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", script]).current_dir(&mounted.mountpoint);
        shell.uid(65_534).gid(65_534).output().unwrap()
    };
    // The kernel believes that there is nothing.
    as_nobody("cat secret; cat open");
    for (name, bits) in [("secret", 0o600), ("open", 0o666)] {
        fs::write(mounted.source.join(name), "roots").unwrap();
        let path = mounted.source.join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
    }
    assert!(!as_nobody("echo mine >> secret").status.success());
    assert!(!as_nobody("echo mine > secret").status.success());
    assert_eq!(fs::read_to_string(mounted.source.join("secret")).unwrap(), "roots");
    assert!(as_nobody("echo mine >> open").status.success());
    assert_eq!(fs::read_to_string(mounted.source.join("open")).unwrap(), "rootsmine\n");
    mounted.unmount();
}

#[test]
fn a_replaced_file_is_not_emptied_by_who_opens_its_name() {
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), "old").unwrap();
    mounted.mount(&["--entry-timeout", LONG, "--attr-timeout", LONG]);
    assert!(mounted.path("f").exists());
    let old = File::open(mounted.source.join("f")).unwrap();
    fs::write(mounted.source.join("g"), "new").unwrap();
    fs::rename(mounted.source.join("g"), mounted.source.join("f")).unwrap();
    let truncate = File::options().write(true).truncate(true).open(mounted.path("f")).unwrap();
    assert_eq!(std::io::read_to_string(old).unwrap(), "old");
    assert_eq!(fs::read_to_string(mounted.source.join("f")).unwrap(), "");
    drop(truncate);
    mounted.unmount();
}

#[test]
fn blocks_read_after_a_change_do_not_join_those_from_before_it() {
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), vec![1; 1 << 20]).unwrap();
    mounted.mount(&["--attr-timeout", LONG]);
    let open = File::open(mounted.path("f")).unwrap();
    assert_eq!(byte_at(&open, 100 * 4096), 1);
    let replace = File::options().write(true).open(mounted.source.join("f")).unwrap();
    replace.write_all_at(&vec![2; 1 << 20], 0).unwrap();
    assert_eq!(byte_at(&open, 101 * 4096), 2);
    let mut both = [0; 8192];
    open.read_exact_at(&mut both, 100 * 4096).unwrap();
    assert!(both.iter().all(|&byte| byte == both[0]), "old and new in one answer");
    drop(open);
    mounted.unmount();
}
