//! fio: job files that are kept beside the results, and what fio says of itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{Task, Told, Work, memcached};
use crate::scratch::Scratch;
use crate::suite::case::FioJob;
use crate::suite::figures::{Figures, Hole, Latency};
use crate::suite::peers::installed;
use crate::suite::plan::{Access, Mix, Spread};

/// Of Zipf's law.
const ZIPF_EXPONENT: f64 = 1.1;
/// Between two points of the timeline.
const LOG_EVERY_MS: u64 = 500;
/// What is read at once to warm a cache up.
const WARM_BLOCK: &str = "64k";

/// The file that is read and written.
const DATA: &str = "data";

impl Work for FioJob {
    fn prepare(&self, task: &Task<'_>, dir: &Path) -> Result<(), Hole> {
        installed("fio")?;
        Scratch::random_file_at(&dir.join(DATA), task.bytes, 1)?;
        Ok(())
    }

    fn work(&self, task: &Task<'_>, seconds: u32) -> Result<Told, Hole> {
        if let Some(port) = task.place.memcached_port() {
            return memcached::run(task, self, &task.dir.join(DATA), port, seconds);
        }
        let text = measuring(self, &task.dir.join(DATA), task.place.is_direct(), seconds);
        run(task, &text, seconds)
    }

    /// Reads everything once.
    fn warm(&self, task: &Task<'_>) -> Result<(), Hole> {
        if task.place.memcached_port().is_some() {
            return self.work(task, 0).map(drop);
        }
        read_once(task, &[task.dir.join(DATA)])
    }
}

/// Reads each file once, in any order.
pub(super) fn read_once(task: &Task<'_>, files: &[PathBuf]) -> Result<(), Hole> {
    run(task, &warming(files, task.place.is_direct()), 0).map(drop)
}

/// Runs a job file.
fn run(task: &Task<'_>, text: &str, seconds: u32) -> Result<Told, Hole> {
    let path = task.keep("fio", text)?;
    let mut command = Command::new(installed("fio")?);
    command.arg("--output-format=json").arg(&path);
    let ran = task.run(command, seconds)?;
    let mut logs = Vec::new();
    for entry in std::fs::read_dir(ran.aside.path()).context("fio's logs are gone")?.flatten() {
        if entry.file_name().to_string_lossy().ends_with(".log") {
            logs.push(std::fs::read_to_string(entry.path()).unwrap_or_default());
        }
    }
    let figures = Figures { timeline: timeline(logs), ..figures(&ran.printed)? };
    Ok(Told { figures, commands: vec![ran.typed] })
}

/// The job file of a measured stretch.
fn measuring(job: &FioJob, file: &Path, direct: bool, seconds: u32) -> String {
    let pattern = match (job.access, job.mix) {
        (Access::Random, Mix::Read) => "randread",
        (Access::Random, Mix::Write) => "randwrite",
        (Access::Random, Mix::Mixed) => "randrw",
        (Access::Sequential, Mix::Read) => "read",
        (Access::Sequential, Mix::Write) => "write",
        (Access::Sequential, Mix::Mixed) => "rw",
    };
    let mut text = begin(&[file.to_owned()], direct);
    let _ = writeln!(text, "rw={pattern}\nbs={}\ntime_based=1\nruntime={seconds}", job.block.0);
    if job.mix == Mix::Mixed {
        text.push_str("rwmixread=70\n");
    }
    if job.spread == Spread::Zipf {
        let _ = writeln!(text, "random_distribution=zipf:{ZIPF_EXPONENT}");
    }
    if job.access == Access::Random {
        text.push_str("norandommap=1\n");
    }
    // Threads that read in order begin at places of their own.
    if job.access == Access::Sequential && job.outstanding > 1 {
        let _ = writeln!(text, "offset_increment={}%", 100 / job.outstanding);
    }
    let _ = writeln!(text, "numjobs={}", job.outstanding);
    let _ = writeln!(text, "write_iops_log=log\nlog_avg_msec={LOG_EVERY_MS}\n[measured]");
    text
}

/// The job file that reads everything once, in any order.
fn warming(files: &[PathBuf], direct: bool) -> String {
    format!("{}rw=randread\nbs={WARM_BLOCK}\nnumjobs=1\n[warming]\n", begin(files, direct))
}

/// What both share: each read by a thread that waits for it, nothing dropped from the page cache beforehand.
fn begin(files: &[PathBuf], direct: bool) -> String {
    // A colon would begin the next name.
    let names = files.iter().map(|file| file.display().to_string().replace(':', "\\:"));
    let names: Vec<String> = names.collect();
    format!(
        "[global]\nfilename={}\nioengine=psync\ndirect={}\nthread=1\ngroup_reporting=1\ninvalidate=0\n\
         randrepeat=0\nfadvise_hint=0\n",
        names.join(":"),
        u8::from(direct)
    )
}

/// What `fio --output-format=json` says.
#[derive(Deserialize)]
struct Output {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    error: i32,
    read: Side,
    write: Side,
}

#[derive(Deserialize)]
struct Side {
    iops: f64,
    bw_bytes: f64,
    total_ios: u64,
    clat_ns: Times,
}

#[derive(Deserialize)]
struct Times {
    #[serde(default)]
    percentile: BTreeMap<String, f64>,
}

/// The figures in what fio printed.
fn figures(printed: &str) -> Result<Figures> {
    // Warnings come before it.
    let start = printed.find('{').context("fio printed no figures")?;
    let output: Output =
        serde_json::from_str(&printed[start..]).context("fio's figures are not understood")?;
    let [job] = output.jobs.as_slice() else { bail!("fio told of {} jobs", output.jobs.len()) };
    if job.error != 0 {
        bail!("fio: {}", std::io::Error::from_raw_os_error(job.error));
    }
    // What there was most of.
    let side = if job.read.total_ios >= job.write.total_ios { &job.read } else { &job.write };
    let us = |name: &str| side.clat_ns.percentile.get(name).map(|ns| ns / 1e3);
    let latency = match (us("50.000000"), us("99.000000"), us("99.900000")) {
        (Some(p50), Some(p99), Some(p999)) => Some(Latency { p50, p99, p999 }),
        _ => None,
    };
    Ok(Figures {
        per_second: job.read.iops + job.write.iops,
        bytes_per_second: Some(job.read.bw_bytes + job.write.bw_bytes),
        latency,
        ..Figures::default()
    })
}

/// Operations a second by time, from the logs of all threads: milliseconds, operations a second, and more.
fn timeline(logs: impl IntoIterator<Item = String>) -> Vec<(f64, f64)> {
    let mut points: BTreeMap<u64, f64> = BTreeMap::new();
    for log in logs {
        for line in log.lines() {
            let mut fields = line.split(',').map(str::trim);
            let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
            let (Some(at), Some(count)) = (number(fields.next()), number(fields.next())) else {
                continue;
            };
            *points.entry((at + LOG_EVERY_MS / 2) / LOG_EVERY_MS).or_default() += count as f64;
        }
    }
    points.into_iter().map(|(at, count)| ((at * LOG_EVERY_MS) as f64 / 1e3, count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::plan::Size;

    fn mixed() -> FioJob {
        FioJob {
            access: Access::Random,
            mix: Mix::Mixed,
            block: Size(4096),
            outstanding: 16,
            spread: Spread::Zipf,
        }
    }

    #[test]
    fn a_job_file_says_all_that_matters() {
        let text = measuring(&mixed(), Path::new("/m/data"), false, 5);
        for line in [
            "filename=/m/data",
            "rw=randrw",
            "rwmixread=70",
            "bs=4096",
            "numjobs=16",
            "direct=0",
            "random_distribution=zipf:1.1",
            "runtime=5",
            "invalidate=0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        let order = FioJob { access: Access::Sequential, mix: Mix::Read, ..mixed() };
        assert!(measuring(&order, Path::new("/m"), true, 5).contains("offset_increment=6%"));
    }

    #[test]
    fn what_fio_prints_is_understood() {
        let side = |ios: u64, iops: f64, ns: f64| {
            format!(
                r#"{{"iops":{iops},"bw_bytes":{},"total_ios":{ios},"clat_ns":{{"mean":1,"percentile":
                   {{"50.000000":{ns},"99.000000":{},"99.900000":{}}}}}}}"#,
                iops * 4096.0,
                ns * 10.0,
                ns * 20.0
            )
        };
        let text = |error: i32| {
            format!(
                r#"note: both iodepth >= 1 and synchronous I/O engine
                   {{"fio version":"fio-3.33","jobs":[{{"jobname":"x","error":{error},"read":{},"write":{}}}]}}"#,
                side(70, 700.0, 5000.0),
                side(30, 300.0, 9000.0)
            )
        };
        let figures = figures(&text(0)).unwrap();
        assert_eq!(figures.per_second, 1000.0);
        assert_eq!(figures.bytes_per_second, Some(4_096_000.0));
        assert_eq!(figures.latency, Some(Latency { p50: 5.0, p99: 50.0, p999: 100.0 }));
        assert!(super::figures(&text(5)).unwrap_err().to_string().contains("Input/output"));
        assert!(super::figures("nothing").is_err());
    }

    #[test]
    fn the_logs_of_all_threads_make_one_line() {
        let logs = ["500, 10, 0, 0\n1000, 20, 0, 0\n", "501, 5, 0, 0\n999, 7, 1, 0\n"];
        assert_eq!(timeline(logs.map(str::to_owned)), [(0.5, 15.0), (1.0, 27.0)]);
    }
}
