//! Shared and private mappings beside reads and writes of the same file.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use memmap2::{Mmap, MmapMut, MmapOptions};

use crate::support::{Mounted, wait_until};

const LEN: usize = 64 * 1024;

/// None on kernels before 6.6, which have no shared mappings of files past the page cache.
fn shared(file: &File) -> Option<MmapMut> {
    // SAFETY: nobody truncates the file while it is mapped.
    unsafe { MmapOptions::new().len(LEN).map_mut(file) }.ok()
}

fn prepared() -> (Mounted, File) {
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), vec![0; LEN]).unwrap();
    mounted.mount(&[]);
    let file = File::options().read(true).write(true).open(mounted.path("f")).unwrap();
    (mounted, file)
}

fn number_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

#[test]
fn a_mapping_shows_what_was_written_although_somebody_touches_it_all_the_time() {
    let (mut mounted, file) = prepared();
    let Some(map) = shared(&file) else { return };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (toucher, done) = (&map, &done);
        // Faults its pages in again while they are being replaced.
        scope.spawn(move || {
            let mut sum = 0;
            while !done.load(Ordering::Relaxed) {
                for page in toucher.chunks(4096) {
                    sum ^= std::hint::black_box(page[0]);
                }
            }
            std::hint::black_box(sum);
        });
        for n in 1..1000u64 {
            let offset = (n as usize * 4104) % (LEN - 8);
            file.write_all_at(&n.to_le_bytes(), offset as u64).unwrap();
            assert_eq!(number_at(&map, offset), n);
        }
        done.store(true, Ordering::Relaxed);
    });
    drop((map, file));
    mounted.unmount();
}

#[test]
fn a_store_into_a_mapping_is_read_and_reaches_the_source() {
    let (mut mounted, file) = prepared();
    let Some(mut map) = shared(&file) else { return };
    let other = File::open(mounted.path("f")).unwrap();
    for n in 1..500u64 {
        let offset = (n as usize * 4104) % (LEN - 8);
        map[offset..offset + 8].copy_from_slice(&n.to_le_bytes());
        let mut read = [0; 8];
        other.read_exact_at(&mut read, offset as u64).unwrap();
        assert_eq!(u64::from_le_bytes(read), n);
    }
    // SAFETY: nobody truncates the file while it is mapped.
    let second = unsafe { Mmap::map(&other) }.unwrap();
    map[100] = 77;
    assert_eq!(second[100], 77, "two mappings are one");
    map.flush().unwrap();
    assert!(fs::read(mounted.source.join("f")).unwrap() == map[..]);
    drop((map, second, other, file));
    mounted.unmount();
}

#[test]
fn a_private_mapping_changes_nothing_and_programs_run() {
    let (mut mounted, file) = prepared();
    // SAFETY: nobody truncates the file while it is mapped.
    let mut private = unsafe { MmapOptions::new().len(LEN).map_copy(&file) }.unwrap();
    private[0] = 1;
    assert_eq!(fs::read(mounted.path("f")).unwrap()[0], 0);
    drop((private, file));
    fs::copy("/bin/sh", mounted.path("sh")).unwrap();
    let output = Command::new(mounted.path("sh")).args(["-c", "echo runs"]).output().unwrap();
    assert_eq!(output.stdout, b"runs\n");
    // A program that runs cannot be written.
    let mut running = Command::new(mounted.path("sh"))
        .args(["-c", "read line"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let busy = File::options().write(true).open(mounted.path("sh"));
    assert_eq!(busy.unwrap_err().kind(), std::io::ErrorKind::ExecutableFileBusy);
    drop(running.stdin.take());
    running.wait().unwrap();
    mounted.unmount();
}

#[test]
fn after_a_change_behind_the_mount_the_next_open_shows_new_pages() {
    let (mut mounted, file) = prepared();
    let Some(map) = shared(&file) else { return };
    assert_eq!(map[5000], 0);
    fs::write(mounted.source.join("f"), vec![7; LEN]).unwrap();
    wait_until("the attributes are asked for again", || {
        let again = File::open(mounted.path("f")).unwrap();
        again.metadata().unwrap();
        // SAFETY: nobody truncates the file while it is mapped.
        let new = unsafe { Mmap::map(&again) }.unwrap();
        new[5000] == 7 && map[5000] == 7
    });
    drop((map, file));
    mounted.unmount();
}
