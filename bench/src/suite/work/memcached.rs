//! memcached as a store of blocks: what a program does that was rewritten for it.
//!
//! A block that memcached does not have is read from the file, past the page cache, and stored there. This runs as a
//! process of its own, so that a row's memory and its disk are those of its control group. It speaks memcached's text
//! protocol (doc/protocol.txt there) itself, one write for a request: the client libraries at hand take ten system
//! calls for one, which would be held against memcached.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use rand::{RngExt as _, rngs::SmallRng};

use super::{Task, Told};
use crate::latency::Latencies;
use crate::pages::PageBuffer;
use crate::reads::{Open, open};
use crate::suite::case::FioJob;
use crate::suite::figures::{Figures, Hole, Latency};

/// Threads that fill it.
const WARM_THREADS: u32 = 4;

/// What the process is told.
#[derive(Args)]
pub(crate) struct Reading {
    /// Where memcached listens on this machine.
    #[arg(long)]
    port: u16,
    #[arg(long)]
    file: PathBuf,
    /// In bytes.
    #[arg(long)]
    block: usize,
    #[arg(long)]
    threads: u32,
    /// Blocks in any order for so long; 0 for each block once.
    #[arg(long)]
    seconds: u32,
}

/// Reads blocks of `file` as `job` has it; for 0 seconds, each once.
pub(super) fn run(
    task: &Task<'_>,
    job: &FioJob,
    file: &Path,
    port: u16,
    seconds: u32,
) -> Result<Told, Hole> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let threads = if seconds == 0 { WARM_THREADS } else { job.outstanding };
    let numbers = [
        ("--port", u64::from(port)),
        ("--block", job.block.0),
        ("--threads", u64::from(threads)),
        ("--seconds", u64::from(seconds)),
    ];
    let mut command = Command::new(own);
    command.arg("memcached-reads").arg("--file").arg(file);
    for (name, number) in numbers {
        command.args([name, &number.to_string()]);
    }
    let ran = task.run(command, seconds)?;
    let figures = serde_json::from_str(&ran.printed).context("its figures are not understood")?;
    Ok(Told { figures, commands: vec![ran.typed] })
}

/// The process: reads, and prints its figures.
pub(crate) fn read(reading: &Reading) -> Result<()> {
    let bytes = reading.file.metadata().context("the file is not there")?.len();
    let blocks = bytes / reading.block as u64;
    let begin = Instant::now();
    let parts = thread::scope(|scope| {
        let threads = (0..reading.threads).map(|number| {
            scope.spawn(move || Reader::new(reading)?.run(reading, number, blocks, begin))
        });
        let threads: Vec<_> = threads.collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(part) => part,
            Err(_) => Err(anyhow!("a thread ended")),
        });
        joined.collect::<Result<Vec<Latencies>>>()
    })?;
    let elapsed = begin.elapsed().as_secs_f64();
    let mut all = Latencies::new();
    parts.iter().for_each(|part| all.add(part));
    let per_second = all.count() as f64 / elapsed;
    let at = |quantile: f64| all.quantile_us(quantile);
    let figures = Figures {
        per_second,
        bytes_per_second: Some(per_second * reading.block as f64),
        latency: Some(Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999) }),
        ..Figures::default()
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// One thread, with a connection of its own.
struct Reader {
    client: BufReader<TcpStream>,
    file: File,
    buffer: PageBuffer,
    block: usize,
}

impl Reader {
    fn new(reading: &Reading) -> Result<Self> {
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, reading.port))
            .context("memcached does not answer")?;
        client.set_nodelay(true)?;
        let client = BufReader::with_capacity(2 * reading.block, client);
        let file = open(&reading.file, Open::Direct)?;
        let buffer = PageBuffer::new(reading.block);
        Ok(Self { client, file, buffer, block: reading.block })
    }

    fn run(
        &mut self,
        reading: &Reading,
        number: u32,
        blocks: u64,
        begin: Instant,
    ) -> Result<Latencies> {
        let mut latencies = Latencies::new();
        let mut one = |block: u64| -> Result<()> {
            let start = Instant::now();
            self.get(block)?;
            latencies.record(start.elapsed());
            Ok(())
        };
        if reading.seconds == 0 {
            let step = reading.threads as usize;
            (u64::from(number)..blocks).step_by(step).try_for_each(&mut one)?;
        } else {
            let mut rng: SmallRng = rand::make_rng();
            let long = Duration::from_secs(u64::from(reading.seconds));
            while begin.elapsed() < long {
                one(rng.random_range(0..blocks))?;
            }
        }
        Ok(latencies)
    }

    /// Reads a block into the buffer.
    fn get(&mut self, block: u64) -> Result<()> {
        write!(self.client.get_mut(), "get b{block}\r\n")?;
        let found = self.line()?.starts_with("VALUE ");
        if found {
            self.client.read_exact(&mut self.buffer.bytes_mut()[..self.block])?;
            // The end of its line, and of the answer.
            self.line()?;
            self.line()?;
            return Ok(());
        }
        let buffer = &mut self.buffer.bytes_mut()[..self.block];
        self.file.read_exact_at(buffer, block * self.block as u64)?;
        let mut request = format!("set b{block} 0 0 {}\r\n", self.block).into_bytes();
        request.extend_from_slice(buffer);
        request.extend_from_slice(b"\r\n");
        self.client.get_mut().write_all(&request)?;
        match self.line()?.as_str() {
            "STORED" => Ok(()),
            said => bail!("memcached said '{said}'"),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.client.read_line(&mut line).context("memcached is gone")?;
        Ok(line.trim_end().to_owned())
    }
}
