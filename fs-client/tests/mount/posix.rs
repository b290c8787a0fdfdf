//! What POSIX and Linux say of files: the mount answers as the source does, to the last errno.
//!
//! Each test does the same on a plain directory and on a mount of an equal one, and compares what
//! it saw.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, StatVfsMountFlags,
    Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use crate::support::{Mounted, noise, root};

const NOBODY: u32 = 65_534;

/// What was seen, in words that must be the same on both sides.
#[derive(Default)]
struct Seen(Vec<String>);

impl Seen {
    fn note(&mut self, what: impl std::fmt::Debug) {
        self.0.push(format!("{what:?}"));
    }
}

/// Does the same in a plain directory and on a mount of an equal one.
fn same_on_both(act: impl Fn(&Path, &mut Seen)) {
    same_with(&[], act);
}

fn same_with(options: &[&str], act: impl Fn(&Path, &mut Seen)) {
    let mut mounted = Mounted::prepare();
    let top = mounted.mountpoint.parent().unwrap().to_owned();
    let plain = top.join("plain");
    fs::create_dir(&plain).unwrap();
    for directory in [&top, &plain, &mounted.source] {
        fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    }
    mounted.mount(options);
    let (mut expected, mut found) = (Seen::default(), Seen::default());
    act(&plain, &mut expected);
    act(&mounted.mountpoint, &mut found);
    assert_eq!(found.0, expected.0, "the mount on the left");
    assert!(!expected.0.is_empty());
    mounted.unmount();
}

/// What a shell says that an ordinary user runs.
fn as_nobody(directory: &Path, script: &str) -> String {
    let mut shell = Command::new("sh");
    let output = shell
        .args(["-c", &format!("{script} 2>&1")])
        .current_dir(directory)
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn mode(path: &Path) -> String {
    format!("{:o}", fs::metadata(path).unwrap().mode())
}

#[test]
fn extended_attributes_are_found_listed_and_removed() {
    same_on_both(|dir, seen| {
        let path = dir.join("f");
        fs::write(&path, "x").unwrap();
        let long = noise(1, 2000);
        for (name, value) in [("user.a", b"1".as_slice()), ("user.empty", b""), ("user.l", &long)] {
            rustix::fs::setxattr(&path, name, value, XattrFlags::CREATE).unwrap();
        }
        seen.note(rustix::fs::setxattr(&path, "user.a", b"2", XattrFlags::CREATE));
        seen.note(rustix::fs::setxattr(&path, "user.b", b"2", XattrFlags::REPLACE));
        seen.note(rustix::fs::getxattr_query(&path, "user.l"));
        seen.note(rustix::fs::getxattr(&path, "user.l", &mut [0u8; 10]));
        seen.note(rustix::fs::getxattr(&path, "user.l", &mut [0u8; 3000]));
        seen.note(rustix::fs::getxattr(&path, "user.empty", &mut [0u8; 10]));
        seen.note(rustix::fs::getxattr_query(&path, "user.none"));
        seen.note(rustix::fs::getxattr_query(&path, "no.such.kind"));
        if root() {
            rustix::fs::setxattr(&path, "trusted.t", b"t", XattrFlags::empty()).unwrap();
            seen.note(rustix::fs::listxattr_query(&path));
            seen.note(as_nobody(dir, "getfattr -m - f || true").contains("trusted"));
        }
        seen.note(rustix::fs::listxattr(&path, &mut [0u8; 2]));
        seen.note(rustix::fs::removexattr(&path, "user.a"));
        seen.note(rustix::fs::removexattr(&path, "user.a"));
        let mut names = [0u8; 500];
        let len = rustix::fs::listxattr(&path, &mut names).unwrap();
        let mut names: Vec<_> = names[..len].split(|&byte| byte == 0).map(<[u8]>::to_vec).collect();
        names.sort();
        seen.note(names);
    });
}

/// An ACL in the kernel's form (linux/posix_acl_xattr.h): tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// The owner, one user, the group, the mask and everybody else.
fn acl_with(user: u16, group: u16, mask: u16, other: u16) -> Vec<u8> {
    const NONE: u32 = u32::MAX;
    acl(&[
        (0x01, 6, NONE),
        (0x02, user, NOBODY),
        (0x04, group, NONE),
        (0x10, mask, NONE),
        (0x20, other, NONE),
    ])
}

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

#[test]
fn access_control_lists_give_and_deny() {
    if !root() {
        return;
    }
    same_on_both(|dir, seen| {
        for (name, bits, acl) in [
            ("denied", 0o644, acl_with(0, 4, 4, 4)),
            ("given", 0o600, acl_with(4, 0, 4, 0)),
            ("masked", 0o600, acl_with(6, 0, 4, 0)),
        ] {
            let path = dir.join(name);
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();
            seen.note(rustix::fs::setxattr(&path, ACCESS, &acl, XattrFlags::empty()));
            seen.note(mode(&path));
            seen.note(as_nobody(dir, &format!("cat {name}; echo y >> {name}; cat {name}")));
        }
        let path = dir.join("given");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        seen.note(as_nobody(dir, "cat given"));
        seen.note(rustix::fs::getxattr(&path, ACCESS, &mut [0u8; 100]));
        // A group that its giver is not in loses the bit that would run it as the group.
        let path = dir.join("own");
        fs::write(&path, "x").unwrap();
        std::os::unix::fs::chown(&path, Some(NOBODY), Some(1)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o2755)).unwrap();
        seen.note(as_nobody(dir, "setfacl -m u::rwx own || chmod g-s own"));
        seen.note(mode(&path));
    });
}

#[test]
fn a_default_access_control_list_takes_the_place_of_the_mask() {
    same_on_both(|dir, seen| {
        let set = |acl: &[u8]| rustix::fs::setxattr(dir, DEFAULT, acl, XattrFlags::empty());
        let make = |name: &str, seen: &mut Seen| {
            let script = format!("umask 027; : > {name}f; mkdir {name}d; mkfifo {name}p");
            let made = Command::new("sh").args(["-c", &script]).current_dir(dir).status().unwrap();
            seen.note(made.success());
            for kind in ["f", "d", "p"] {
                seen.note(mode(&dir.join(format!("{name}{kind}"))));
            }
        };
        make("masked", seen);
        seen.note(set(&acl_with(7, 7, 7, 6)));
        make("listed", seen);
        seen.note(rustix::fs::getxattr(dir.join("listedd"), DEFAULT, &mut [0u8; 100]));
        seen.note(rustix::fs::removexattr(dir, DEFAULT));
        make("again", seen);
    });
}

#[test]
fn a_change_by_others_takes_set_id_bits_and_capabilities_away() {
    if !root() {
        return;
    }
    same_on_both(|dir, seen| {
        let change = ["echo y >> f", "truncate -s 1 f", "fallocate -o 0 -l 9000 f", ": > f"];
        for bits in [0o4777, 0o2777, 0o6777, 0o2767, 0o4666] {
            for change in change {
                let path = dir.join("f");
                fs::write(&path, "x").unwrap();
                fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();
                as_nobody(dir, change);
                seen.note((mode(&path), change));
                fs::remove_file(&path).unwrap();
            }
        }
        let path = dir.join("own");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o6755)).unwrap();
        fs::write(&path, "by root").unwrap();
        seen.note(mode(&path));
        std::os::unix::fs::chown(&path, Some(NOBODY), None).unwrap();
        seen.note(mode(&path));
        // A capability in the kernel's form (linux/capability.h, revision 2): CAP_NET_RAW.
        let capability = [0x0200_0001u32, 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
        let name = "security.capability";
        seen.note(rustix::fs::setxattr(&path, name, &capability, XattrFlags::empty()));
        seen.note(rustix::fs::getxattr(&path, name, &mut [0u8; 40]));
        fs::write(&path, "changed").unwrap();
        seen.note(rustix::fs::getxattr(&path, name, &mut [0u8; 40]));
    });
}

#[test]
fn directories_pass_their_group_on_and_sticky_ones_keep_what_is_others() {
    if !root() {
        return;
    }
    same_on_both(|dir, seen| {
        let grouped = dir.join("grouped");
        fs::create_dir(&grouped).unwrap();
        std::os::unix::fs::chown(&grouped, None, Some(7)).unwrap();
        fs::set_permissions(&grouped, Permissions::from_mode(0o2777)).unwrap();
        as_nobody(&grouped, "umask 0; : > f; mkdir d; install -m 2755 /bin/true x");
        for name in ["f", "d", "x"] {
            let made = fs::metadata(grouped.join(name)).unwrap();
            seen.note((made.uid(), made.gid(), format!("{:o}", made.mode())));
        }
        let sticky = dir.join("sticky");
        fs::create_dir(&sticky).unwrap();
        fs::set_permissions(&sticky, Permissions::from_mode(0o1777)).unwrap();
        fs::write(sticky.join("roots"), "").unwrap();
        seen.note(as_nobody(&sticky, "rm -f roots; mv roots other; : > own; rm own; ls"));
    });
}

#[test]
fn times_are_kept_to_the_nanosecond_and_reading_moves_the_time_of_access_as_on_the_source() {
    same_on_both(|dir, seen| {
        let path = dir.join("f");
        fs::write(&path, noise(1, 5000)).unwrap();
        for seconds in [0, 1, -1, 1 << 31, 1_700_000_000] {
            let at = Timespec { tv_sec: seconds, tv_nsec: 987_654_321 };
            let times = Timestamps { last_access: at, last_modification: at };
            rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
            let now = fs::metadata(&path).unwrap();
            seen.note((now.atime(), now.atime_nsec(), now.mtime(), now.mtime_nsec()));
        }
        let accessed = || fs::metadata(&path).unwrap().accessed().unwrap();
        let old = UNIX_EPOCH + Duration::from_secs(1000);
        for (flags, twice) in
            [(OFlags::empty(), false), (OFlags::NOATIME, false), (OFlags::empty(), true)]
        {
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            file.set_times(fs::FileTimes::new().set_accessed(old).set_modified(old)).unwrap();
            let open = || {
                let mut options = OpenOptions::new();
                options.read(true).custom_flags(flags.bits().cast_signed()).open(&path).unwrap()
            };
            if twice {
                // Now it is cached for certain.
                open().read_at(&mut [0; 10], 0).unwrap();
                file.set_times(fs::FileTimes::new().set_accessed(old).set_modified(old)).unwrap();
            }
            open().read_at(&mut [0; 10], 0).unwrap();
            seen.note(accessed() == old);
        }
        seen.note(fs::metadata(&path).unwrap().mtime());
    });
}

#[test]
fn no_atime_leaves_the_time_of_access_alone() {
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), "x").unwrap();
    mounted.mount(&["-o", "noatime"]);
    let old = UNIX_EPOCH + Duration::from_secs(1000);
    let file = File::options().write(true).open(mounted.path("f")).unwrap();
    file.set_times(fs::FileTimes::new().set_accessed(old)).unwrap();
    assert_eq!(fs::read(mounted.path("f")).unwrap(), b"x");
    assert_eq!(fs::metadata(mounted.source.join("f")).unwrap().accessed().unwrap(), old);
    drop(file);
    mounted.unmount();
}

#[test]
fn what_has_lost_its_name_can_be_used_as_long_as_somebody_holds_it() {
    same_on_both(|dir, seen| {
        let path = dir.join("f");
        let mut file =
            OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        file.write_all(&noise(1, 9000)).unwrap();
        file.set_len(8000).unwrap();
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        seen.note((bytes == noise(1, 9000)[..8000], file.metadata().unwrap().nlink()));
        seen.note(file.set_permissions(Permissions::from_mode(0o640)).is_ok());

        // Replaced, not removed.
        fs::write(dir.join("old"), "old").unwrap();
        fs::write(dir.join("new"), "new").unwrap();
        let old = File::open(dir.join("old")).unwrap();
        fs::rename(dir.join("new"), dir.join("old")).unwrap();
        seen.note((
            std::io::read_to_string(&old).unwrap(),
            fs::read_to_string(dir.join("old")).unwrap(),
        ));

        // Held by name only, and by somebody who is in it.
        fs::write(dir.join("held"), "held").unwrap();
        let held = rustix::fs::open(dir.join("held"), OFlags::PATH, Mode::empty()).unwrap();
        fs::remove_file(dir.join("held")).unwrap();
        seen.note(rustix::fs::fstat(&held).map(|stat| stat.st_nlink));
        let inside = dir.join("inside");
        fs::create_dir(&inside).unwrap();
        let script = "rmdir ../inside; stat -c %h .; ls -A; : > f; cd .. && ls -d inside";
        let output = Command::new("sh").args(["-c", script]).current_dir(&inside).output().unwrap();
        seen.note(String::from_utf8_lossy(&output.stdout).into_owned());

        // Its inode may be given to the next at once.
        for n in 0..200 {
            fs::write(dir.join("a"), n.to_string()).unwrap();
            fs::remove_file(dir.join("a")).unwrap();
            fs::write(dir.join("b"), format!("b{n}")).unwrap();
            assert_eq!(fs::read_to_string(dir.join("b")).unwrap(), format!("b{n}"));
            fs::remove_file(dir.join("b")).unwrap();
        }
    });
}

#[test]
fn names_are_bytes_and_renames_have_their_flags() {
    same_on_both(|dir, seen| {
        let named = |bytes: &[u8]| dir.join(std::ffi::OsStr::from_bytes(bytes));
        let long = [b'n'; 255];
        for name in [b"\xff\xfe\x80".as_slice(), b"new\nline", "ü€".as_bytes(), &long] {
            fs::write(named(name), name).unwrap();
            seen.note(fs::read(named(name)).unwrap() == name);
        }
        seen.note(fs::write(named(&[b'n'; 256]), "").map_err(|error| error.raw_os_error()));
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
            .collect();
        names.sort();
        seen.note(names);

        let rename = |from: &str, to: &str, flags| {
            rustix::fs::renameat_with(CWD, dir.join(from), CWD, dir.join(to), flags)
        };
        for name in ["a", "b"] {
            fs::write(dir.join(name), name).unwrap();
        }
        fs::hard_link(dir.join("a"), dir.join("a2")).unwrap();
        seen.note(rename("a", "b", RenameFlags::NOREPLACE));
        seen.note(rename("a", "b", RenameFlags::EXCHANGE));
        seen.note(rename("a", "none", RenameFlags::EXCHANGE));
        seen.note(
            fs::read_to_string(dir.join("a")).unwrap()
                + &fs::read_to_string(dir.join("b")).unwrap(),
        );
        // The same file under two names: nothing happens.
        seen.note(rename("a2", "b", RenameFlags::empty()));
        seen.note((dir.join("a2").exists(), fs::metadata(dir.join("b")).unwrap().nlink()));
        fs::create_dir_all(dir.join("d/e")).unwrap();
        seen.note(rename("d", "d/e/f", RenameFlags::empty()));
        seen.note(rename("a", "d", RenameFlags::empty()));
        seen.note(rename("d/e", "d", RenameFlags::empty()));
        fs::create_dir(dir.join("empty")).unwrap();
        seen.note(rename("d", "empty", RenameFlags::empty()));
        seen.note(dir.join("empty/e").exists());
        let target = "t".repeat(4000);
        std::os::unix::fs::symlink(&target, dir.join("link")).unwrap();
        seen.note(fs::read_link(dir.join("link")).unwrap() == Path::new(&target));
    });
}

#[test]
fn holes_are_found_punched_and_zeroed_and_files_may_be_huge() {
    same_on_both(|dir, seen| {
        let path = dir.join("f");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        let far = 5 << 30;
        file.write_all_at(&noise(1, 300_000), 0).unwrap();
        file.write_all_at(b"beyond four GiB", far).unwrap();
        seen.note(fs::metadata(&path).unwrap().len());
        let mut bytes = [0; 15];
        file.read_exact_at(&mut bytes, far).unwrap();
        seen.note(bytes);
        let change = |flags, offset, len| rustix::fs::fallocate(&file, flags, offset, len);
        seen.note(change(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 8192, 100_000));
        seen.note(change(FallocateFlags::ZERO_RANGE, 150_000, 5000));
        let seek = |from| rustix::fs::seek(&file, from);
        for at in [0, 8191, 8192, 50_000, far, far + 20] {
            seen.note((seek(rustix::fs::SeekFrom::Data(at)), seek(rustix::fs::SeekFrom::Hole(at))));
        }
        let mut whole = vec![0; 300_000];
        file.read_exact_at(&mut whole, 0).unwrap();
        seen.note(crc(&whole));
        seen.note(change(FallocateFlags::KEEP_SIZE, 0, 1 << 20));
        seen.note(change(FallocateFlags::PUNCH_HOLE, 0, 4096));
        file.set_len(100).unwrap();
        file.set_len(5000).unwrap();
        let mut grown = vec![1; 5000];
        file.read_exact_at(&mut grown, 0).unwrap();
        seen.note(grown[100..].iter().all(|&byte| byte == 0));
        seen.note(file.set_len(1 << 62).map_err(|error| error.raw_os_error()));
        seen.note(file.write_at(b"x", 1 << 61).map_err(|error| error.raw_os_error()));
    });
}

/// Enough to tell two contents apart.
fn crc(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum: u64, &byte| sum.rotate_left(7) ^ u64::from(byte))
}

#[test]
fn a_range_is_copied_inside_a_file_and_between_files() {
    same_on_both(|dir, seen| {
        let open = |name: &str| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(dir.join(name))
        };
        let (a, b) = (open("a").unwrap(), open("b").unwrap());
        a.write_all_at(&noise(1, 50_000), 0).unwrap();
        b.write_all_at(&noise(2, 10_000), 0).unwrap();
        // Cached on both sides before.
        seen.note((crc(&fs::read(dir.join("a")).unwrap()), crc(&fs::read(dir.join("b")).unwrap())));
        let copy = |from: &File, at: u64, to: &File, to_at: u64, len| {
            let (mut at, mut to_at) = (at, to_at);
            rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut to_at), len)
        };
        seen.note(copy(&a, 5, &b, 7777, 30_000));
        seen.note(copy(&a, 0, &a, 45_000, 20_000));
        seen.note(copy(&a, 0, &a, 10, 20));
        seen.note(copy(&a, 1 << 30, &b, 0, 20));
        seen.note(copy(&a, 0, &File::open(dir.join("b")).unwrap(), 0, 20));
        seen.note((crc(&fs::read(dir.join("a")).unwrap()), crc(&fs::read(dir.join("b")).unwrap())));
    });
}

#[test]
fn files_are_opened_as_their_flags_say() {
    same_on_both(|dir, seen| {
        let path = dir.join("f");
        let open = |name: &str, flags: OFlags| {
            rustix::fs::open(dir.join(name), flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))
        };
        let new = OFlags::CREATE | OFlags::EXCL;
        seen.note(open("f", OFlags::WRONLY | new).is_ok());
        seen.note(open("f", OFlags::WRONLY | new).map(drop));
        fs::write(&path, "0123456789").unwrap();
        let append = open("f", OFlags::RDWR | OFlags::APPEND).unwrap();
        seen.note(rustix::io::pwrite(&append, b"ab", 3));
        seen.note(fs::read_to_string(&path).unwrap());
        seen.note(rustix::io::read(open("f", OFlags::WRONLY).unwrap(), &mut [0u8; 4]));
        seen.note(rustix::io::write(open("f", OFlags::RDONLY).unwrap(), b"x"));
        seen.note(open("f", OFlags::RDONLY | OFlags::DIRECTORY).map(drop));
        seen.note(open("", OFlags::RDWR).map(drop));
        seen.note(open("none", OFlags::RDONLY).map(drop));
        seen.note(open("f/x", OFlags::RDONLY).map(drop));
        std::os::unix::fs::symlink("f", dir.join("l")).unwrap();
        std::os::unix::fs::symlink("m", dir.join("m")).unwrap();
        seen.note(open("l", OFlags::RDONLY | OFlags::NOFOLLOW).map(drop));
        seen.note(open("m", OFlags::RDONLY).map(drop));
        seen.note(open("f", OFlags::WRONLY | OFlags::TRUNC).is_ok());
        seen.note(fs::metadata(&path).unwrap().len());
        for flags in [OFlags::SYNC, OFlags::DSYNC] {
            let file = open("s", OFlags::WRONLY | OFlags::CREATE | flags).unwrap();
            seen.note(rustix::io::write(&file, b"on the disk"));
        }
        // Whole blocks from aligned memory, as O_DIRECT wants them.
        let direct = open("d", OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT).unwrap();
        let mut memory = vec![7u8; 3 * 4096];
        let start = memory.as_ptr().align_offset(4096);
        let block = &mut memory[start..start + 4096];
        seen.note(rustix::io::pwrite(&direct, block, 4096));
        block.fill(0);
        seen.note(rustix::io::pread(&direct, &mut *block, 4096));
        seen.note(block.iter().all(|&byte| byte == 7));
        let exec = dir.join("run");
        fs::copy("/bin/true", &exec).unwrap();
        seen.note(spawn_copied(&mut Command::new(&exec)).wait().map(|status| status.code()).ok());
    });
}

/// Starts a program that was just written. A child of another test may hold it open for writing
/// until it is a program itself.
fn spawn_copied(command: &mut Command) -> Child {
    loop {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {}
            running => break running.unwrap(),
        }
    }
}

#[test]
fn a_program_that_runs_is_not_changed() {
    same_on_both(|dir, seen| {
        let path = dir.join("run");
        fs::copy("/bin/sleep", &path).unwrap();
        let mut running = spawn_copied(Command::new(&path).arg("60"));
        for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY, OFlags::WRONLY] {
            let flags = flags | OFlags::TRUNC | OFlags::CLOEXEC;
            seen.note(rustix::fs::open(&path, flags, Mode::empty()).map(drop));
        }
        seen.note(rustix::fs::open(&path, OFlags::RDWR, Mode::empty()).map(drop));
        seen.note(crc(&fs::read(&path).unwrap()));
        running.kill().unwrap();
        seen.note(running.wait().unwrap().code());
        seen.note(rustix::fs::open(&path, OFlags::TRUNC, Mode::empty()).map(drop));
        seen.note(fs::metadata(&path).unwrap().len());
    });
}

#[test]
fn locks_of_both_kinds_are_held_against_others() {
    same_on_both(|dir, seen| {
        let path = dir.join("f");
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let (one, two) = (open().unwrap(), open().unwrap());
        let lock = |file: &File, how| rustix::fs::flock(file, how);
        seen.note(lock(&one, FlockOperation::LockExclusive));
        seen.note(lock(&two, FlockOperation::NonBlockingLockShared));
        seen.note(lock(&one, FlockOperation::Unlock));
        seen.note(lock(&two, FlockOperation::NonBlockingLockShared));
        seen.note(rustix::fs::fcntl_lock(&one, FlockOperation::NonBlockingLockExclusive));
        // Of another process, since a process has its own record locks.
        let python = "import fcntl,sys\nf=open('f','r+')\ntry:\n fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB)\n print('got')\nexcept OSError as e:\n print(e.errno)";
        let other = || {
            let output = Command::new("python3").args(["-c", python]).current_dir(dir).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).ok()
        };
        seen.note(other());
        seen.note(rustix::fs::fcntl_lock(&one, FlockOperation::Unlock));
        seen.note(other());
    });
}

#[test]
fn the_filesystem_s_figures_are_the_source_s() {
    same_on_both(|dir, seen| {
        let figures = rustix::fs::statvfs(dir).unwrap();
        seen.note((figures.f_bsize, figures.f_frsize, figures.f_blocks, figures.f_files));
        seen.note(figures.f_namemax);
        seen.note(figures.f_flag.contains(StatVfsMountFlags::RDONLY));
        let device = CString::new("pipe").unwrap();
        let made = rustix::fs::mknodat(
            rustix::fs::open(dir, OFlags::PATH, Mode::empty()).unwrap(),
            device.as_c_str(),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        );
        seen.note(made);
    });
}

#[test]
fn a_directory_can_be_listed_while_entries_come_and_go() {
    const LASTING: usize = 5000;
    same_on_both(|dir, seen| {
        for n in 0..LASTING {
            File::create(dir.join(format!("lasting-{n}"))).unwrap();
            File::create(dir.join(format!("going-{n}"))).unwrap();
        }
        let mut names = Vec::new();
        for (n, entry) in fs::read_dir(dir).unwrap().enumerate() {
            names.push(entry.unwrap().file_name().into_string().unwrap());
            if n % 2 == 0 {
                let _ = fs::remove_file(dir.join(format!("going-{}", n / 2)));
                File::create(dir.join(format!("coming-{n}"))).unwrap();
            }
        }
        let mut lasting: Vec<_> =
            names.iter().filter(|name| name.starts_with("lasting-")).collect();
        let found = lasting.len();
        lasting.sort();
        lasting.dedup();
        seen.note((found, lasting.len()));
        // One position, gone back to.
        let mut listing = rustix::fs::Dir::new(File::open(dir).unwrap()).unwrap();
        let first: Vec<_> =
            listing.by_ref().take(10).map(|entry| entry.unwrap().file_name().to_owned()).collect();
        listing.rewind();
        let again: Vec<_> =
            listing.take(10).map(|entry| entry.unwrap().file_name().to_owned()).collect();
        seen.note(first == again);
    });
}

#[test]
fn what_fuse_does_not_carry_is_refused_as_an_unsupported_operation() {
    let mut mounted = Mounted::prepare();
    mounted.mount(&[]);
    let temporary = rustix::fs::open(
        &mounted.mountpoint,
        OFlags::TMPFILE | OFlags::RDWR,
        Mode::from_raw_mode(0o600),
    );
    assert_eq!(temporary.map(drop), Err(Errno::OPNOTSUPP));
    let file = File::create(mounted.path("f")).unwrap();
    file.set_len(1 << 20).unwrap();
    for flags in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        assert_eq!(rustix::fs::fallocate(&file, flags, 4096, 4096), Err(Errno::OPNOTSUPP));
    }
    drop(file);
    mounted.unmount();
}

#[test]
fn a_seek_to_the_end_finds_what_others_appended() {
    same_on_both(|dir, seen| {
        let path = dir.join("f");
        fs::write(&path, "1").unwrap();
        let mut reader = File::open(&path).unwrap();
        let mut appender = OpenOptions::new().append(true).open(&path).unwrap();
        appender.write_all(b"23").unwrap();
        seen.note(reader.seek(SeekFrom::End(0)).unwrap());
        appender.write_all(b"45").unwrap();
        reader.rewind().unwrap();
        seen.note(std::io::read_to_string(reader).unwrap());
    });
}

#[test]
fn a_file_that_may_only_be_appended_to_can_be() {
    let mut mounted = Mounted::prepare();
    let path = mounted.source.join("f");
    fs::write(&path, "1").unwrap();
    let mark = |how: &str| Command::new("chattr").arg(how).arg(&path).output().unwrap();
    if !mark("+a").status.success() {
        // Not root, or a filesystem without such marks.
        return;
    }
    mounted.mount(&[]);
    let appended = OpenOptions::new().append(true).open(mounted.path("f"));
    let appended = appended.and_then(|mut file| file.write_all(b"2"));
    let written = OpenOptions::new().write(true).open(mounted.path("f")).map(drop);
    mark("-a");
    appended.unwrap();
    assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EPERM));
    assert_eq!(fs::read_to_string(mounted.path("f")).unwrap(), "12");
    mounted.unmount();
}
