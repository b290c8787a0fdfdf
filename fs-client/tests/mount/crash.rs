//! `kill -9` of the client right after writes were acknowledged: nothing of them is lost.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use crate::support::{Mounted, noise};

#[test]
fn what_was_acknowledged_survives_the_death_of_the_daemon() {
    let mut mounted = Mounted::prepare();
    let mut expected = vec![0; 1 << 20];
    fs::write(mounted.source.join("f"), &expected).unwrap();
    for round in 0..8u64 {
        mounted.mount(&[]);
        let file = File::options().read(true).write(true).open(mounted.path("f")).unwrap();
        for write in 0..20 {
            let seed = round * 100 + write;
            let bytes = noise(seed, 1 + (seed as usize * 7919) % 9_000);
            let offset = (seed as usize * 104_729) % (expected.len() - bytes.len());
            file.write_all_at(&bytes, offset as u64).unwrap();
            expected[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        mounted.crash();
        assert!(file.read_at(&mut [0; 10], 0).is_err(), "an error, not the directory underneath");
        assert!(fs::read(mounted.source.join("f")).unwrap() == expected, "round {round}");
    }
    mounted.mount(&[]);
    assert!(fs::read(mounted.path("f")).unwrap() == expected);
}
