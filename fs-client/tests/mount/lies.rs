//! A server that answers with anything but the truth: the application reads what it wrote.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, mpsc};
use std::thread;

use crate::liar::{Liar, Lie};
use crate::support::{Keys, Mounted, PATIENCE, noise, read_at_random};

const FILE_BYTES: usize = 40 << 20;

/// Reads and writes while the only server lies, until it has lied often.
fn reads_are_right_although_the_server_answers(lie: Lie) {
    let keys = Keys::new();
    let liar = Liar::start(&keys.server(), lie, false);
    let mut contents = noise(3, FILE_BYTES);
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), &contents).unwrap();
    mounted.mount_with_servers(&keys, &[&liar.address.to_string()], &[]);
    let file = fs::File::options().read(true).write(true).open(mounted.path("f")).unwrap();
    for round in 0..100u64 {
        read_at_random(&mounted.path("f"), &contents, 3_000, round, |_| {});
        // Every block gets new states now and then, so that the server holds older ones.
        for n in 0..300 {
            let seed = round * 1_000 + n;
            let bytes = noise(seed, 4096);
            let offset = (seed as usize * 7_919) % (FILE_BYTES / 4096) * 4096;
            file.write_all_at(&bytes, offset as u64).unwrap();
            contents[offset..offset + 4096].copy_from_slice(&bytes);
        }
        let enough = match lie {
            // Each of these costs the connection, or a deadline.
            Lie::Garbage | Lie::Truncated | Lie::Silent | Lie::WrongCount => liar.lies() >= 3,
            _ => mounted.number("/remote/unauthentic_blocks") >= 20,
        };
        if enough && round >= 2 {
            return;
        }
    }
    panic!("{lie:?}: it hardly ever lied: {}", mounted.status());
}

#[test]
fn whoever_only_lies_is_left_alone() {
    let keys = Keys::new();
    let liar = Liar::start(&keys.server(), Lie::Random, true);
    let contents = noise(3, FILE_BYTES);
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), &contents).unwrap();
    mounted.mount_with_servers(&keys, &[&liar.address.to_string()], &[]);
    let mut seed = 0;
    mounted.wait_until("it is left alone", |status| {
        seed += 1;
        read_at_random(&mounted.path("f"), &contents, 3_000, seed, |_| {});
        status["remote"]["servers"][0]["state"] == "not answering"
    });
    // One reader, one request at a time: three to be found out, and one after each pause.
    assert!((3..8).contains(&liar.lies()), "{} lies", liar.lies());
}

#[test]
fn many_readers_of_a_block_that_does_not_come_do_not_wait_for_each_other() {
    // More than there are threads in the mount: all of them may wait for the flight of the first.
    const READERS: u64 = 64;
    let keys = Keys::new();
    let liar = Liar::start(&keys.server(), Lie::Forgetful, false);
    let contents = noise(3, FILE_BYTES);
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), &contents).unwrap();
    mounted.mount_with_servers(&keys, &[&liar.address.to_string()], &[]);
    let mut seed = 0;
    mounted.wait_until("blocks are lent", |status| {
        seed += 1;
        read_at_random(&mounted.path("f"), &contents, 3_000, seed, |_| {});
        status["remote"]["lent_blocks"].as_u64() > Some(5_000)
    });
    let file = Arc::new(fs::File::open(mounted.path("f")).unwrap());
    let blocks = (FILE_BYTES / 4096) as u64;
    let (lies, hedged) = (liar.lies(), mounted.number("/remote/hedged_reads"));
    let mut round = 0;
    while liar.lies() < lies + 10 || mounted.number("/remote/hedged_reads") < hedged + 5 {
        round += 1;
        assert!(round < 5_000, "it hardly ever kept silent: {}", mounted.status());
        let block = round * 7_919 % blocks;
        let (tell, told) = mpsc::channel();
        for _ in 0..READERS {
            let (file, tell) = (file.clone(), tell.clone());
            thread::spawn(move || {
                let mut bytes = vec![0; 4096];
                let read = file.read_exact_at(&mut bytes, block * 4096);
                let _ = tell.send(read.map(|()| bytes));
            });
        }
        let at = block as usize * 4096;
        for _ in 0..READERS {
            let read = told.recv_timeout(PATIENCE).expect("every reader is answered").unwrap();
            assert!(read == contents[at..at + 4096]);
        }
    }
}

#[test]
fn old_bytes() {
    reads_are_right_although_the_server_answers(Lie::Old);
}

#[test]
fn swapped_blocks() {
    reads_are_right_although_the_server_answers(Lie::Swapped);
}

#[test]
fn cut_blocks() {
    reads_are_right_although_the_server_answers(Lie::Cut);
}

#[test]
fn random_bytes() {
    reads_are_right_although_the_server_answers(Lie::Random);
}

#[test]
fn another_number_of_blocks() {
    reads_are_right_although_the_server_answers(Lie::WrongCount);
}

#[test]
fn no_frames() {
    reads_are_right_although_the_server_answers(Lie::Garbage);
}

#[test]
fn truncated_frames() {
    reads_are_right_although_the_server_answers(Lie::Truncated);
}

#[test]
fn nothing_ever() {
    reads_are_right_although_the_server_answers(Lie::Silent);
}
