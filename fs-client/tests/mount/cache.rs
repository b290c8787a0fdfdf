//! What a mount tells about its cache.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use crate::support::{Mounted, noise};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 16_384;

#[test]
fn status_tells_what_more_memory_would_answer() {
    let mut mounted = Mounted::prepare();
    fs::write(mounted.source.join("f"), noise(1, (BLOCKS * BLOCK) as usize)).unwrap();
    mounted.mount(&[]);
    assert_eq!(mounted.status()["demand"], serde_json::json!([]), "nothing was read");
    let file = File::open(mounted.path("f")).unwrap();
    let mut block = [0; BLOCK as usize];
    // Each block twice, and none of them after its neighbour: the step and the number of blocks have no divisor in
    // common.
    for n in 0..2 * BLOCKS {
        file.read_exact_at(&mut block, n * 3001 % BLOCKS * BLOCK).unwrap();
    }
    drop(file);
    let status = mounted.status();
    let demand: Vec<(u64, f64)> = status["demand"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| (of["cache_bytes"].as_u64().unwrap(), of["hit_ratio"].as_f64().unwrap()))
        .collect();
    let at = |mib: u64| demand.iter().find(|(bytes, _)| *bytes == mib << 20).unwrap().1;
    // A loop: of no use to a cache that it does not fit into. Estimated from a quarter of the blocks, more or less.
    assert!(at(8) < 0.1 && at(16) < 0.1 && at(32) < 0.1, "{demand:?}");
    assert!((at(128) - 0.5).abs() < 0.1, "{demand:?}");
    mounted.unmount();
}
