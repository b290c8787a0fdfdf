//! Sources of all kinds: what they cannot do, the mount cannot, and says so as they do.

use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::XattrFlags;
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

use crate::own::Own;
use crate::support::{Mounted, noise, root, run};

/// Uses a source as applications do, and compares what is read through the mount with what is
/// there.
fn use_it(mounted: &mut Mounted) {
    let source = mounted.source.clone();
    mounted.mount(&[]);
    for (n, len) in [0, 1, 511, 512, 4095, 4096, 4097, 100_000, 3_000_001].into_iter().enumerate() {
        let (bytes, name) = (noise(n as u64, len), format!("f{n}"));
        fs::write(mounted.path(&name), &bytes).unwrap();
        assert!(fs::read(source.join(&name)).unwrap() == bytes, "{len} bytes");
        assert!(fs::read(mounted.path(&name)).unwrap() == bytes, "{len} bytes");
        // Read for the first time, in parts that are not aligned.
        let (other, name) = (noise(n as u64 + 100, len), format!("g{n}"));
        fs::write(source.join(&name), &other).unwrap();
        let file = File::options().read(true).write(true).open(mounted.path(&name)).unwrap();
        let mut part = vec![0; len.min(5000)];
        let from = len - part.len();
        file.read_exact_at(&mut part, from as u64).unwrap();
        assert!(part == other[from..]);
        file.write_all_at(b"+", len as u64).unwrap();
        file.sync_all().unwrap();
        assert_eq!(fs::metadata(source.join(&name)).unwrap().size(), len as u64 + 1);
        file.set_len(len as u64 / 2).unwrap();
        assert!(fs::read(mounted.path(&name)).unwrap() == other[..len / 2]);
    }
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe not UTF-8 \x01");
    fs::create_dir(mounted.mountpoint.join(odd)).unwrap();
    fs::hard_link(mounted.path("f1"), mounted.mountpoint.join(odd).join("l")).unwrap();
    assert_eq!(fs::metadata(source.join(odd).join("l")).unwrap().nlink(), 2);
    let attribute =
        |path: &Path| rustix::fs::setxattr(path.join("f1"), "user.x", b"1", XattrFlags::empty());
    assert_eq!(attribute(&mounted.mountpoint), attribute(&source));
    let acl = |path: &Path| rustix::fs::getxattr_query(path, "system.posix_acl_access").is_ok();
    assert_eq!(acl(&mounted.path("f1")), acl(&source.join("f1")));
    fs::set_permissions(mounted.path("f1"), Permissions::from_mode(0o640)).unwrap();
    fs::remove_dir_all(mounted.mountpoint.join(odd)).unwrap();
    mounted.unmount();
}

#[test]
fn memory_without_direct_reads_or_attributes() {
    if !root() {
        return;
    }
    for kind in ["tmpfs", "ramfs"] {
        let mut mounted = Mounted::prepare();
        let _own = Own::in_memory(&mounted.source, kind);
        use_it(&mut mounted);
    }
}

#[test]
fn disks_with_sectors_of_512_bytes_and_of_4_kib() {
    if !root() {
        return;
    }
    for sector in ["512", "4096"] {
        for (kind, mkfs) in [
            ("ext4", &["mkfs.ext4", "-q", "-F"][..]),
            ("xfs", &["mkfs.xfs", "-q", "-f"]),
            ("btrfs", &["mkfs.btrfs", "-q", "-f"]),
        ] {
            let mut mounted = Mounted::prepare();
            let _own = Own::on_disk(&mounted.source, kind, mkfs, sector);
            use_it(&mut mounted);
        }
    }
}

#[test]
fn an_overlay() {
    if !root() {
        return;
    }
    let mut mounted = Mounted::prepare();
    let top = mounted.source.parent().unwrap().to_owned();
    // Layers in memory: an overlay may be below already, and is no place for them.
    let layers = top.join("layers");
    fs::create_dir(&layers).unwrap();
    let _layers = Own::in_memory(&layers, "tmpfs");
    for layer in ["lower", "upper", "work"] {
        fs::create_dir(layers.join(layer)).unwrap();
    }
    let below = layers.display();
    let options = format!("lowerdir={below}/lower,upperdir={below}/upper,workdir={below}/work");
    let options = std::ffi::CString::new(options).unwrap();
    mount("none", &mounted.source, "overlay", MountFlags::empty(), options.as_c_str()).unwrap();
    let _own = Own::mounted(&mounted.source);
    use_it(&mut mounted);
}

#[test]
fn a_source_that_is_read_only() {
    if !root() {
        return;
    }
    let mut mounted = Mounted::prepare();
    let source = mounted.source.clone();
    let _own = Own::in_memory(&source, "tmpfs");
    fs::write(source.join("f"), "f").unwrap();
    mount_remount(&source, MountFlags::RDONLY, "").unwrap();
    mounted.mount(&[]);
    assert_eq!(fs::read_to_string(mounted.path("f")).unwrap(), "f");
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(errno(fs::write(mounted.path("f"), "g")), Some(libc::EROFS));
    assert_eq!(errno(fs::write(mounted.path("g"), "g")), Some(libc::EROFS));
    assert_eq!(errno(fs::remove_file(mounted.path("f"))), Some(libc::EROFS));
    assert_eq!(errno(fs::create_dir(mounted.path("d"))), Some(libc::EROFS));
    mounted.unmount();
}

#[test]
fn other_mounts_inside_the_source() {
    if !root() {
        return;
    }
    let mut mounted = Mounted::prepare();
    let top = mounted.source.parent().unwrap().to_owned();
    let (elsewhere, bound, memory) =
        (top.join("elsewhere"), mounted.source.join("bound"), mounted.source.join("memory"));
    for directory in [&elsewhere, &bound, &memory] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(elsewhere.join("f"), "bound").unwrap();
    mount_bind(&elsewhere, &bound).unwrap();
    let _bound = Own::mounted(&bound);
    let _memory = Own::in_memory(&memory, "tmpfs");
    // Two filesystems give the same numbers to different files.
    for n in 0..50 {
        fs::write(memory.join(n.to_string()), format!("memory {n}")).unwrap();
        fs::write(mounted.source.join(n.to_string()), format!("source {n}")).unwrap();
    }
    mounted.mount(&[]);
    assert_eq!(fs::read_to_string(mounted.path("bound/f")).unwrap(), "bound");
    let mut seen = std::collections::HashMap::new();
    for n in 0..50 {
        for (place, says) in [("memory/", "memory"), ("", "source")] {
            let path = mounted.path(&format!("{place}{n}"));
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{says} {n}"));
            let number = fs::metadata(&path).unwrap().ino();
            assert_eq!(seen.insert(number, path), None, "one number, two files");
        }
    }
    let across = fs::rename(mounted.path("0"), mounted.path("memory/x")).unwrap_err();
    assert_eq!(across.raw_os_error(), Some(libc::EXDEV));
    fs::write(mounted.path("memory/new"), "new").unwrap();
    assert_eq!(fs::read_to_string(memory.join("new")).unwrap(), "new");
    mounted.unmount();
}

#[test]
fn files_that_tell_no_length_read_as_empty() {
    let mut mounted = Mounted::prepare();
    mounted.source = PathBuf::from("/proc/sys/kernel");
    assert!(!fs::read(mounted.source.join("ostype")).unwrap().is_empty());
    mounted.mount(&["-o", "ro"]);
    assert_eq!(fs::read(mounted.path("ostype")).unwrap(), b"");
    mounted.unmount();
}

#[test]
fn a_directory_that_is_mounted_twice_in_the_source_stays_usable_under_both_names() {
    if !root() {
        return;
    }
    let mut mounted = Mounted::prepare();
    let [first, second] = ["first", "second"].map(|name| mounted.source.join(name));
    for dir in [&first, &second] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(first.join("f"), "here").unwrap();
    mount_bind(&first, &second).unwrap();
    let _bound = Own::mounted(&second);
    mounted.mount(&[]);
    let script = "stat ../second ../second/f && ls && cat f ../second/f && cd ../second && cat f";
    run(Command::new("sh").args(["-ec", script]).current_dir(mounted.path("first")));
    mounted.unmount();
}

#[test]
fn nested_subvolumes_in_a_snapshot() {
    if !root() {
        return;
    }
    let mut mounted = Mounted::prepare();
    let _own = Own::on_disk(&mounted.source, "btrfs", &["mkfs.btrfs", "-q", "-f"], "512");
    let script = "btrfs subvolume create one && btrfs subvolume create one/inner && \
                  echo f > one/inner/f && btrfs subvolume snapshot one two";
    run(Command::new("sh").args(["-ec", script]).current_dir(&mounted.source));
    mounted.mount(&[]);
    // In the snapshot there is an empty directory instead, which no handle opens.
    run(Command::new("sh")
        .args(["-ec", "ls two/inner && find . && cp -a two three"])
        .current_dir(&mounted.mountpoint));
    assert_eq!(fs::read_to_string(mounted.path("one/inner/f")).unwrap(), "f\n");
    mounted.unmount();
}
