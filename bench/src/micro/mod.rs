//! `rampool-bench micro`: each way of a read beside the least that it could cost, from one run.

mod bars;
mod busy;
mod cold;
mod hits;
mod memory;
mod remote;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rampool_cli::size::ByteSize;

use self::report::Report;
use crate::binaries::Binaries;
use crate::cli::{Format, Micro};
use crate::latency::Measured;
use crate::mounted::Mounted;
use crate::null_fuse;
use crate::null_threads::null_server;
use crate::placement::Placement;
use crate::pool::{Client, MountPlan, Pool};
use crate::progress::Progress;
use crate::reads::{self, Load, Open, Places};
use crate::scratch::Scratch;
use crate::stop::Stop;

/// The file that is read; the null server answers from as much memory.
const FILE: &str = "data";
const FILE_BYTES: u64 = 256 << 20;
/// Holds the file twice.
const CACHE: ByteSize = ByteSize::mib(512);
/// Before each measured stretch, and not counted.
const WARM_UP: Duration = Duration::from_millis(100);

const STEPS_HITS: u64 = hits::ROWS as u64;
const STEPS_REMOTE: u64 = 3;

/// Measures, prints, and says with the exit code whether all bars hold if that was asked.
pub(crate) fn run(options: &Micro, stop: &Stop) -> Result<ExitCode> {
    let binaries = Binaries::find(options.common.place.bin_dir.as_deref())?;
    let pool = Pool::new(binaries, Scratch::new(&options.common.place.dir)?)?;
    let rounds = u64::from(options.rounds);
    let progress = Progress::new(rounds * (STEPS_HITS + STEPS_REMOTE + 1) + 4);
    let mut bench = Bench::new(pool, options, progress, stop)?;

    let mut client = bench.mount("local", None, CACHE)?;
    let hits = hits::measure(&mut bench, &mut client)?;
    let memory = memory::client(&bench, &mut client, CACHE)?;
    drop(client);
    let cold = cold::measure(&mut bench)?;
    let (remote, busy, server) = remote::measure(&mut bench)?;
    let memory = memory.with_server(&server);
    let report = Report::new(options, hits, cold, remote, busy, memory);
    drop(bench);

    match options.common.format {
        Format::Table => report.print(options.check),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(if options.check && !report.holds() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What all measurements work with.
struct Bench<'a> {
    null: Mounted,
    pool: Pool,
    file: PathBuf,
    rounds: u32,
    measured: Duration,
    placement: Placement,
    progress: Progress,
    stop: &'a Stop,
}

impl<'a> Bench<'a> {
    fn new(pool: Pool, options: &Micro, progress: Progress, stop: &'a Stop) -> Result<Self> {
        progress.say("writes the test file");
        std::fs::create_dir(pool.scratch().join("source"))?;
        let file = pool.scratch().random_file(&format!("source/{FILE}"), FILE_BYTES, 1)?;
        let threads = usize::from(options.null_threads);
        let bytes = usize::try_from(FILE_BYTES).context("a 64-bit machine is needed")?;
        let null = null_server(&pool.scratch().join("null"), bytes, threads, stop)?;
        progress.step();
        let measured = Duration::from_secs_f64(options.seconds);
        let (rounds, placement) = (options.rounds, options.placement);
        Ok(Self { null, pool, file, rounds, measured, placement, progress, stop })
    }

    /// The directory that is mounted.
    fn source(&self) -> &Path {
        self.file.parent().expect("the file was made in a directory")
    }

    fn mount(
        &self,
        name: &'static str,
        server: Option<std::net::SocketAddr>,
        cache: ByteSize,
    ) -> Result<Client> {
        let plan =
            MountPlan { servers: server.as_slice(), ..MountPlan::new(self.source(), name, cache) };
        self.pool.mount(&plan, self.stop)
    }

    /// Reads from the null server.
    fn null(&mut self, jobs: usize, places: Places<'_>) -> Result<Measured> {
        let cpus = self.placement.cpus(jobs);
        cpus.hold_process(self.null.daemon().pid());
        let file = self.null.path().join(null_fuse::FILE_NAME);
        reads::run(&file, Load { jobs, places, open: Open::Plain, cpus }, self.stop)
    }

    /// Reads the file of this name through a mount.
    fn client(
        &self,
        client: &mut Client,
        name: &str,
        jobs: usize,
        places: Places<'_>,
    ) -> Result<Measured> {
        let cpus = self.placement.cpus(jobs);
        cpus.hold_process(client.daemon().pid());
        let file = client.path().join(name);
        reads::run(&file, Load { jobs, places, open: Open::Plain, cpus }, self.stop)
    }

    /// One 4 KiB read after the other, at random.
    fn random(&self) -> Places<'static> {
        Places::Random { warm_up: WARM_UP, measured: self.measured }
    }

    /// One 1 MiB read after the other, in order.
    fn sequential(&self) -> Places<'static> {
        Places::Sequential { warm_up: WARM_UP, measured: self.measured }
    }
}
