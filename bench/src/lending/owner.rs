//! What processes of the lender, and of the client, do: take memory, hold it, read a file.
//!
//! Each is this program once more, in a control group of its own, and tells its figures line by line.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::group::Group;
use crate::pages::{PAGE_BYTES, PageBuffer};

/// The time between two counts.
pub(super) const COUNT_EVERY: Duration = Duration::from_millis(100);

/// The distance between two blocks that are read one after the other, in blocks: a prime.
const FAR: u64 = 1_000_003;

/// What such a process does.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Work {
    /// Takes memory step by step, tells the microseconds of each step, and ends.
    Take { bytes: usize, step: usize },
    /// Takes memory, tells that it has it, and keeps it.
    Hold { bytes: usize },
    /// Reads at random places, a few times a second tells how often it has read, until it is ended.
    Read { file: PathBuf, block: usize, threads: usize, per_second: u64, order: Order },
}

/// Where reads go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Order {
    /// Anywhere, any time.
    Random,
    /// All over the file, each block once before any is read again.
    Each,
}

/// Does it.
pub(crate) fn work(work: &Work) -> Result<()> {
    match work {
        Work::Take { bytes, step } => take(*bytes, *step),
        Work::Hold { bytes } => {
            let mut memory = vec![0_u8; *bytes];
            touch(&mut memory);
            println!("0");
            loop {
                thread::park();
                std::hint::black_box(&memory);
            }
        }
        Work::Read { file, block, threads, per_second, order } => {
            read(file, *block, *threads, *per_second, *order)
        }
    }
}

fn take(bytes: usize, step: usize) -> Result<()> {
    let mut taken = Vec::new();
    let mut times = Vec::new();
    for _ in 0..bytes / step {
        let start = Instant::now();
        // Zeros that the kernel gives page by page as they are touched.
        let mut memory = vec![0_u8; step];
        touch(&mut memory);
        times.push(start.elapsed());
        taken.push(memory);
    }
    let mut out = io::stdout().lock();
    for time in times {
        writeln!(out, "{}", time.as_micros())?;
    }
    Ok(())
}

fn touch(memory: &mut [u8]) {
    for page in memory.chunks_mut(PAGE_BYTES) {
        page[0] = 1;
    }
    std::hint::black_box(memory);
}

fn read(path: &Path, block: usize, threads: usize, per_second: u64, order: Order) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let blocks = file.metadata()?.len() / block as u64;
    if blocks == 0 {
        bail!("{} is too short", path.display());
    }
    // What is read at random is not to be read ahead.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
    let count = AtomicU64::new(0);
    let failed = Mutex::new(None);
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            let (file, count, failed) = (&file, &count, &failed);
            scope.spawn(move || {
                let mut rng =
                    SmallRng::seed_from_u64(thread as u64 ^ u64::from(std::process::id()));
                let mut buffer = PageBuffer::new(block);
                for own in 0.. {
                    let due = Duration::from_secs_f64(
                        (own * threads as u64) as f64 / per_second.max(1) as f64,
                    );
                    if let Some(early) = due.checked_sub(start.elapsed()).filter(|_| per_second > 0)
                    {
                        thread::sleep(early);
                    }
                    let number = match order {
                        Order::Random => rng.random_range(0..blocks),
                        // A prime that no number of blocks is a multiple of: every block comes up once.
                        Order::Each => (own * threads as u64 + thread as u64) * FAR % blocks,
                    };
                    let place = number * block as u64;
                    if let Err(error) = file.read_exact_at(&mut buffer.bytes_mut()[..block], place)
                    {
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        return;
                    }
                    count.fetch_add(1, Relaxed);
                }
            });
        }
        loop {
            thread::sleep(COUNT_EVERY);
            if failed.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                // The others would go on for ever.
                eprintln!("a read of {} failed", path.display());
                std::process::exit(1);
            }
            // Nobody listens any more: time to end.
            if writeln!(io::stdout(), "{}", count.load(Relaxed)).is_err() {
                std::process::exit(0);
            }
        }
    })
}

/// Such a process at work. Dropping it ends it.
pub(super) struct Worker {
    child: Child,
    figures: Arc<Mutex<Vec<(Instant, u64)>>>,
    reader: Option<JoinHandle<()>>,
}

/// How one ended that ends by itself.
pub(super) enum Ended {
    /// With these figures.
    Well(Vec<u64>),
    /// The kernel killed it.
    Killed,
}

impl Worker {
    pub(super) fn start(work: &Work, group: Option<&Group>) -> Result<Self> {
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        let mut command = Command::new(own);
        command.arg("owner");
        match work {
            Work::Take { bytes, step } => {
                command.args(["take", &bytes.to_string(), &step.to_string()])
            }
            Work::Hold { bytes } => command.args(["hold", &bytes.to_string()]),
            Work::Read { file, block, threads, per_second, order } => {
                let order = if *order == Order::Each { "each" } else { "random" };
                let numbers = [block.to_string(), threads.to_string(), per_second.to_string()];
                command.arg("read").arg(file).args(numbers).arg(order)
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        // SAFETY: between fork and exec one system call is made, prctl(2), which is async-signal-safe.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
        }
        if let Some(group) = group {
            group.place_in(&mut command)?;
        }
        let mut child = command.spawn().context("cannot start this program once more")?;
        let lines = BufReader::new(child.stdout.take().expect("a pipe was asked for")).lines();
        let figures = Arc::new(Mutex::new(Vec::new()));
        let kept = figures.clone();
        let reader = thread::spawn(move || {
            for figure in lines.map_while(Result::ok).filter_map(|line| line.parse().ok()) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), figure));
            }
        });
        Ok(Self { child, figures, reader: Some(reader) })
    }

    /// What it has told so far.
    pub(super) fn figures(&self) -> Vec<(Instant, u64)> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether it still works.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    pub(super) fn end_by_itself(mut self) -> Result<Ended> {
        let status = self.child.wait()?;
        self.join();
        match status.signal() {
            Some(_) => Ok(Ended::Killed),
            None if status.success() => {
                Ok(Ended::Well(self.figures().into_iter().map(|(_, figure)| figure).collect()))
            }
            None => bail!("a process that takes memory failed ({status})"),
        }
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = kill_process(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
        self.join();
    }
}
