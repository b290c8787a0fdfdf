//! Space on the source: a full one, what removing gives back, reserves; and space in the kernel's
//! page cache, which is not used twice.

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use memmap2::MmapMut;
use rustix::mount::{MountFlags, mount};

use crate::own::Own;
use crate::support::{Mounted, noise, root, run, wait_until};

const NOBODY: u32 = 65_534;

#[test]
fn a_full_source_says_so_and_has_room_again_when_a_file_is_removed() {
    if !root() {
        return;
    }
    let mut mounted = Mounted::prepare();
    let source = mounted.source.clone();
    mount("none", &source, "tmpfs", MountFlags::empty(), c"size=4m").unwrap();
    let _own = Own::mounted(&source);
    mounted.mount(&[]);
    for _ in 0..3 {
        let full = fs::write(mounted.path("f"), vec![7; 8 << 20]).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        let (there, seen) = (fs::read(source.join("f")), fs::read(mounted.path("f")));
        assert!(there.unwrap() == seen.unwrap(), "nothing is cached that is not there");
        fs::remove_file(mounted.path("f")).unwrap();
        crate::support::wait_until("the space is free", || {
            fs::write(mounted.path("g"), vec![8; 3 << 20]).is_ok()
        });
        fs::remove_file(mounted.path("g")).unwrap();
    }
    mounted.unmount();
}

#[test]
fn what_is_reserved_for_root_is_not_for_users_neither_by_writing_nor_by_a_mapping() {
    if !root() {
        return;
    }
    let mut mounted = Mounted::prepare();
    let mkfs = ["mkfs.ext4", "-q", "-F", "-m", "50"];
    let _own = Own::on_disk(&mounted.source, "ext4", &mkfs, "512");
    let top = mounted.mountpoint.parent().unwrap();
    for (directory, mode) in [(top, 0o755), (&mounted.source, 0o777)] {
        fs::set_permissions(directory, Permissions::from_mode(mode)).unwrap();
    }
    mounted.mount(&[]);
    // Room for it was there, until the disk was filled.
    let mapped = mounted.path("mapped");
    File::create(&mapped).unwrap().set_len(8 << 20).unwrap();
    chown(&mapped, Some(NOBODY), Some(NOBODY)).unwrap();
    for name in ["fill", "more"] {
        let filled = Command::new("dd")
            .args(["if=/dev/zero", "bs=64k", &format!("of={name}")])
            .current_dir(&mounted.mountpoint)
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap();
        let says = String::from_utf8_lossy(&filled.stderr);
        assert!(says.contains("No space left on device"), "{says}");
    }
    // Pages of a mapping are written in the name of the file's owner.
    let file = File::options().read(true).write(true).open(&mapped).unwrap();
    // SAFETY: nobody truncates the file while it is mapped.
    if let Ok(mut map) = unsafe { MmapMut::map_mut(&file) } {
        map.fill(7);
        assert!(map.flush().is_err(), "half a disk is free, and none of it for its owner");
    }
    drop(file);
    fs::write(mounted.path("roots"), vec![1; 16 << 20]).expect("root has half of the disk");
    mounted.unmount_lazily();
}

/// How many pages of a file the kernel keeps.
fn cached_pages(path: &Path) -> u64 {
    let output = run(Command::new("fincore").args(["-n", "-o", "PAGES"]).arg(path));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn long_writes_and_reads_leave_nothing_in_the_page_cache() {
    // Since Linux 6.14 writes can be asked to.
    let version = rustix::system::uname();
    let version = version.release().to_string_lossy().into_owned();
    let mut numbers = version.split(['.', '-']).map_while(|word| word.parse::<u32>().ok());
    let since = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let fincore = Command::new("fincore").arg("-V").stdout(Stdio::null()).status();
    if since < (6, 14) || fincore.is_err() || !root() {
        return;
    }
    let mut mounted = Mounted::prepare();
    let _own = Own::on_disk(&mounted.source, "ext4", &["mkfs.ext4", "-q", "-F"], "512");
    mounted.mount(&[]);
    // From an aligned address: the kernel hands 256 pages on at once, and what lies on 257 of them
    // as a long write and a short one.
    let mut bytes = MmapMut::map_anon(32 << 20).unwrap();
    bytes.copy_from_slice(&noise(1, 32 << 20));
    let file = File::create(mounted.path("f")).unwrap();
    for (n, piece) in bytes.chunks(1 << 20).enumerate() {
        file.write_all_at(piece, (n as u64) << 20).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let source = mounted.source.join("f");
    // The kernel drops pages as far as it can without waiting: somebody else may hold one.
    let stray = bytes.len() as u64 / 4096 / 100;
    wait_until("what was written has left", || cached_pages(&source) <= stray);
    assert!(fs::read(mounted.path("f")).unwrap() == *bytes);
    wait_until("what was read has left", || cached_pages(&source) <= stray);
    mounted.unmount();
}
