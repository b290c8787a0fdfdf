//! Many at once: what one writer was acknowledged, nobody's cache hides.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::{Mounted, noise};

/// Eight to a block, so that writers of different records share blocks.
const RECORD: usize = 512;
const RECORDS: usize = 8 * 600;

#[test]
fn parallel_writers_of_one_block_read_back_what_they_wrote() {
    let mut mounted = Mounted::prepare();
    let path = mounted.path("f");
    fs::write(mounted.source.join("f"), vec![0; RECORD * RECORDS]).unwrap();
    mounted.mount(&["--threads", "4"]);
    const WRITERS: usize = 8;
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let path = &path;
            scope.spawn(move || {
                let file = File::options().read(true).write(true).open(path).unwrap();
                let mut random = StdRng::seed_from_u64(writer as u64);
                let mut back = [0; RECORD];
                for round in 0..4_000u64 {
                    // Its own record of any block: the eighth of the block that bears its number.
                    let block = random.random_range(0..RECORDS / WRITERS);
                    let offset = ((block * WRITERS + writer) * RECORD) as u64;
                    let record = noise(round * WRITERS as u64 + writer as u64, RECORD);
                    file.write_all_at(&record, offset).unwrap();
                    file.read_exact_at(&mut back, offset).unwrap();
                    assert!(back[..] == record[..], "writer {writer}, round {round}");
                }
            });
        }
    });
    assert!(fs::read(&path).unwrap() == fs::read(mounted.source.join("f")).unwrap());
    mounted.unmount();
}

#[test]
fn readers_of_one_file_all_come_to_the_end() {
    let mut mounted = Mounted::prepare();
    let contents = noise(5, 40 << 20);
    fs::write(mounted.source.join("f"), &contents).unwrap();
    mounted.mount(&["--threads", "3"]);
    let path = mounted.path("f");
    thread::scope(|scope| {
        for reader in 0..6usize {
            let (path, contents) = (&path, &contents);
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                let piece = [4096, 16 << 10, 128 << 10][reader % 3];
                let mut bytes = vec![0; piece];
                for _ in 0..2 {
                    for offset in (0..contents.len()).step_by(piece) {
                        file.read_exact_at(&mut bytes, offset as u64).unwrap();
                        assert!(bytes == contents[offset..offset + piece], "at {offset}");
                    }
                }
            });
        }
    });
    mounted.unmount();
}

#[test]
fn whoever_appends_loses_nothing() {
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("log"), "").unwrap();
    mounted.mount(&[]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // Somebody appends behind the mount all the while.
        let behind = mounted.source.join("log");
        let stopped = &stop;
        scope.spawn(move || {
            let file = File::options().append(true).open(behind).unwrap();
            for n in 0..2_000 {
                std::io::Write::write_all(&mut &file, format!("b{n:06}\n").as_bytes()).unwrap();
            }
            stopped.store(true, Ordering::Release);
        });
        for writer in 0..3 {
            let path = mounted.path("log");
            scope.spawn(move || {
                let file = File::options().append(true).open(path).unwrap();
                for n in 0..500 {
                    let line = format!("{writer}{n:06}\n");
                    std::io::Write::write_all(&mut &file, line.as_bytes()).unwrap();
                }
            });
        }
    });
    assert!(stop.load(Ordering::Acquire));
    let text = fs::read_to_string(mounted.source.join("log")).unwrap();
    assert_eq!(text.lines().count(), 2_000 + 3 * 500);
    for writer in ["b", "0", "1", "2"] {
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with(writer)).collect();
        assert!(lines.is_sorted(), "each writer's lines are in order, none torn");
        assert!(lines.iter().all(|line| line.len() == 7));
    }
    assert_eq!(fs::read_to_string(mounted.path("log")).unwrap(), text);
    mounted.unmount();
}

#[test]
fn a_mapping_of_a_file_that_is_open_for_appending_keeps_its_place() {
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), vec![b'.'; 8192]).unwrap();
    mounted.mount(&[]);
    let script = "import mmap, os, sys\n\
        fd = os.open(sys.argv[1], os.O_RDWR | os.O_APPEND)\n\
        m = mmap.mmap(fd, 8192)\n\
        m[100:104] = b'here'\n\
        m.flush()\n";
    let python =
        std::process::Command::new("python3").args(["-c", script]).arg(mounted.path("f")).output();
    // Python is a convenience here: the standard library has no mappings.
    let Ok(output) = python else { return };
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    // Linux before 6.6 has no shared mappings of such files.
    if stderr.contains("No such device") {
        return;
    }
    assert!(output.status.success(), "{stderr}");
    let bytes = fs::read(mounted.source.join("f")).unwrap();
    assert_eq!((bytes.len(), &bytes[100..104]), (8192, &b"here"[..]));
    assert_eq!(fs::read(mounted.path("f")).unwrap(), bytes);
    mounted.unmount();
}

#[test]
fn writes_that_must_be_on_the_disk_are_accepted() {
    let mut mounted = Mounted::prepare();
    mounted.mount(&[]);
    for flags in [libc::O_SYNC, libc::O_DSYNC, libc::O_DIRECT] {
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(mounted.path("f"))
            .unwrap();
        let bytes = noise(flags.unsigned_abs().into(), 8192);
        file.write_all_at(&bytes, 0).unwrap();
        assert!(fs::read(mounted.source.join("f")).unwrap() == bytes);
        assert!(fs::read(mounted.path("f")).unwrap() == bytes);
    }
    mounted.unmount();
}
