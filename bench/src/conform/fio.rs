//! fio: writes blocks that carry their own checksum, from several jobs at once, and reads them
//! back, also after a remount.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::same;
use super::site::Site;
use super::suite::{Case, Scene, Suite};
use crate::tool::{Need, Running};

const LIMIT: Duration = Duration::from_secs(900);

/// By name: what differs between the runs. The files of all jobs together are larger than the
/// cache.
const PLANS: [(&str, &str); 12] = [
    ("random blocks, direct, psync", "--rw=randwrite --bs=4k --direct=1 --ioengine=psync"),
    (
        "random blocks, direct, libaio",
        "--rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=16",
    ),
    (
        "random blocks, direct, io_uring",
        "--rw=randrw --bsrange=4k-64k --direct=1 --ioengine=io_uring --iodepth=16",
    ),
    (
        "random lengths, buffered, psync",
        "--rw=randwrite --bsrange=1k-60k --bs_unaligned=1 --ioengine=psync",
    ),
    (
        "random lengths, buffered, io_uring",
        "--rw=randwrite --bsrange=512-60k --bs_unaligned=1 --ioengine=io_uring --iodepth=8",
    ),
    ("odd blocks in sequence, buffered", "--rw=write --bs=4133 --ioengine=psync"),
    (
        "large blocks in sequence, direct",
        "--rw=write --bs=1m --direct=1 --ioengine=libaio --iodepth=4",
    ),
    ("large blocks in sequence, buffered", "--rw=write --bs=3m --ioengine=sync"),
    ("mapped, random", "--rw=randwrite --bs=4k --ioengine=mmap"),
    ("mapped, in sequence", "--rw=write --bs=64k --ioengine=mmap"),
    (
        "verified while written",
        "--rw=randwrite --bs=8k --direct=1 --ioengine=libaio --iodepth=8 --verify_backlog=64 --verify_backlog_batch=32",
    ),
    (
        "synchronous, fdatasync now and then",
        "--rw=randwrite --bs=16k --ioengine=psync --sync=1 --fdatasync=32 --io_size=4m",
    ),
];

/// Where lengths are random, do not divide the file, or not all is written, fio itself does not
/// know later what it wrote: these are not read again after a remount.
const FORGOTTEN: [&str; 5] = [
    "random lengths, buffered, psync",
    "random lengths, buffered, io_uring",
    "odd blocks in sequence, buffered",
    "large blocks in sequence, buffered",
    "synchronous, fdatasync now and then",
];

/// In quick runs, these only.
const QUICK: [usize; 5] = [1, 2, 3, 6, 8];

/// The suite.
pub(super) struct Fio;

impl Suite for Fio {
    fn name(&self) -> &'static str {
        "fio"
    }

    fn needs(&self) -> Vec<Need> {
        vec![Need::of("fio")]
    }

    fn with_server(&self) -> bool {
        true
    }

    fn run(&self, site: &mut Site<'_>, scene: &Scene<'_>) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for (index, (name, plan)) in PLANS.iter().enumerate() {
            if scene.quick && !QUICK.contains(&index) {
                continue;
            }
            scene.progress.say(format!("fio on the {}: {name}", site.side().label()));
            cases.push(Case::of(*name, fio(plan, "--do_verify=1", site, scene)?));
            let same = same::difference(site.source(), site.dir());
            cases.push(Case::of(format!("{name}, in the source below"), same));
            if !FORGOTTEN.contains(name) {
                site.remount(scene.stop)?;
                let again = fio(plan, "--verify_only", site, scene)?;
                cases.push(Case::of(format!("{name}, after a remount"), again));
            }
            for entry in std::fs::read_dir(site.dir())? {
                std::fs::remove_file(entry?.path())?;
            }
        }
        Ok(cases)
    }
}

fn fio(
    plan: &str,
    verify: &str,
    site: &Site<'_>,
    scene: &Scene<'_>,
) -> Result<std::result::Result<(), String>> {
    let size = if scene.quick { "12m" } else { "32m" };
    let mut command = Command::new(Need::of("fio").find()?);
    command.args([
        "--name=job",
        "--numjobs=3",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--randseed=7",
    ]);
    command.args(["--minimal", "--overwrite=0", "--fallocate=none", "--randrepeat=1"]);
    command.arg(format!("--size={size}")).arg(verify).args(plan.split(' '));
    command.arg(format!("--directory={}", site.dir().display()));
    // It leaves a file of its state where it is.
    command.current_dir(site.aside("."));
    let ended = Running::start(command, &site.aside("output"))?.wait(LIMIT, scene.stop)?;
    Ok(ended.result())
}
