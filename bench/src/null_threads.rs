//! How many FUSE threads are best here: the null server, measured with each number of them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::latency::median;
use crate::mounted::Mounted;
use crate::null_fuse;
use crate::placement::Placement;
use crate::reads::{self, Load, Open, Places};
use crate::scratch::Scratch;
use crate::stop::Stop;

const THREADS: [usize; 6] = [1, 2, 3, 4, 8, 16];
const ROUNDS: usize = 5;
const FILE_BYTES: usize = 256 << 20;
const WARM_UP: Duration = Duration::from_millis(100);

/// Prints a table: a line for each number of threads.
pub(crate) fn run(seconds: f64, stop: &Stop) -> Result<()> {
    let scratch = Scratch::new(&std::env::temp_dir())?;
    let mut servers = Vec::new();
    for threads in THREADS {
        let mountpoint = scratch.join(&format!("null-{threads}"));
        servers.push(null_server(&mountpoint, FILE_BYTES, threads, stop)?);
    }
    let measured = Duration::from_secs_f64(seconds);
    let random = Places::Random { warm_up: WARM_UP, measured };
    let sequential = Places::Sequential { warm_up: WARM_UP, measured };
    let loads = [
        (1, random, Placement::Pinned),
        (1, random, Placement::Free),
        (4, random, Placement::Free),
        (1, sequential, Placement::Pinned),
        (1, sequential, Placement::Free),
    ];
    let mut figures = vec![[const { Vec::new() }; 5]; THREADS.len()];
    for _ in 0..ROUNDS {
        for (column, (jobs, places, placement)) in loads.into_iter().enumerate() {
            for (row, server) in servers.iter_mut().enumerate() {
                let cpus = placement.cpus(jobs);
                cpus.hold_process(server.daemon().pid());
                let file = server.path().join(null_fuse::FILE_NAME);
                let result =
                    reads::run(&file, Load { jobs, places, open: Open::Plain, cpus }, stop)?;
                figures[row][column].push(match places {
                    Places::Sequential { .. } => result.megabytes_per_second(),
                    _ => result.iops(),
                });
            }
        }
    }
    println!("threads  1 job, one CPU  1 job, any CPU     4 jobs  MB/s, one CPU  MB/s, any CPU");
    for (threads, row) in THREADS.iter().zip(&figures) {
        let [pinned, free, four, near, far] = row.each_ref().map(|values| median(values));
        println!(
            "{threads:>7}  {pinned:>14.0}  {free:>14.0}  {four:>9.0}  {near:>13.0}  {far:>13.0}"
        );
    }
    Ok(())
}

/// Starts the null server, this program again, with a file of `bytes` bytes.
pub(crate) fn null_server(
    mountpoint: &Path,
    bytes: usize,
    threads: usize,
    stop: &Stop,
) -> Result<Mounted> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("null-fuse").arg(mountpoint);
    command.args([bytes.to_string(), threads.to_string()]);
    Mounted::start("the null FUSE server", command, mountpoint, stop)
}
