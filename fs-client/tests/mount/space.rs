//! A source that is full, and what removing files gives back.

use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::Mounted;

/// A small filesystem of its own under a source, until dropped.
struct Small<'a>(&'a Path);

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_source_says_so_and_has_room_again_when_a_file_is_removed() {
    if !rustix::process::geteuid().is_root() {
        // Only root can make a source that is full without filling the machine's disk.
        return;
    }
    let mut mounted = Mounted::prepare();
    let source = mounted.source.clone();
    mount("none", &source, "tmpfs", MountFlags::empty(), c"size=4m").unwrap();
    let _small = Small(&source);
    mounted.mount(&[]);
    for _ in 0..3 {
        let full = fs::write(mounted.path("f"), vec![7; 8 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
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
