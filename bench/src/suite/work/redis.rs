//! Redis: starting with a dump that it has to load.

use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::{Task, Told, Work};
use crate::suite::figures::{Figures, Hole};
use crate::suite::peers::installed;
use crate::suite::place::shown;
use crate::tool::{Running, telling_line};

const DUMP: &str = "dump.rdb";
const VALUE_BYTES: usize = 1024;
/// How long loading may take.
const LIMIT: Duration = Duration::from_secs(600);
/// What Redis prints when it has loaded, before the seconds it took.
const LOADED: &str = "DB loaded from disk: ";

/// The workload.
pub(super) struct RedisLoad;

/// Redis holds in its memory all that it loads, with a fifth on top.
pub(super) fn own_memory(bytes: u64) -> u64 {
    bytes / 5 * 6 + (16 << 20)
}

impl Work for RedisLoad {
    fn prepare(&self, task: &Task<'_>, dir: &Path) -> Result<(), Hole> {
        let aside = task.aside()?;
        let socket = aside.path().join("redis.sock");
        let command = server(dir, &socket)?;
        let mut redis = Running::start(command, &aside.path().join("output"))?;
        wait(&mut redis, task, |_| socket.exists())?;
        fill(&socket, task.bytes)?;
        let mut command = Command::new(installed("redis-cli")?);
        command.arg("-s").arg(&socket).args(["SHUTDOWN", "SAVE"]);
        // The one that it is asked by gets no answer: the server ends.
        Running::start(command, &aside.path().join("cli"))?.wait(LIMIT, task.scene.stop)?;
        redis.wait(LIMIT, task.scene.stop)?;
        if !dir.join(DUMP).exists() {
            Err(anyhow::anyhow!("Redis left no dump"))?;
        }
        Ok(())
    }

    fn work(&self, task: &Task<'_>, seconds: u32) -> Result<Told, Hole> {
        let mut times = Vec::new();
        let mut typed = String::new();
        let begin = Instant::now();
        while times.is_empty() || begin.elapsed() < Duration::from_secs(u64::from(seconds)) {
            let aside = task.aside()?;
            let command = server(&task.dir, &aside.path().join("redis.sock"))?;
            typed = shown(&command);
            let mut redis = task.place.start(command, &aside.path().join("output"))?;
            wait(&mut redis, task, |output| output.contains(LOADED))?;
            let output = redis.output();
            times.push(seconds_in(&output).with_context(|| telling_line(&output))?);
            redis.end();
        }
        let commands = vec![typed];
        Ok(Told { figures: Figures::of_times(&times), commands })
    }
}

fn server(dir: &Path, socket: &Path) -> Result<Command, Hole> {
    let mut command = Command::new(installed("redis-server")?);
    command.args([
        "--port",
        "0",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dbfilename",
        DUMP,
        "--dir",
    ]);
    command.arg(dir).arg("--unixsocket").arg(socket);
    Ok(command)
}

fn wait(redis: &mut Running, task: &Task<'_>, done: impl Fn(&str) -> bool) -> Result<()> {
    let begin = Instant::now();
    loop {
        let output = redis.output();
        if done(&output) {
            return Ok(());
        }
        if !redis.is_running()? || begin.elapsed() > LIMIT {
            bail!("Redis does not start: {}", telling_line(&output));
        }
        task.scene.stop.check()?;
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sets so many bytes of values that do not compress.
fn fill(socket: &Path, bytes: u64) -> Result<(), Hole> {
    let mut command = Command::new(installed("redis-cli")?);
    command.arg("-s").arg(socket).arg("--pipe");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut cli = command.spawn().context("cannot start redis-cli")?;
    let written = || -> std::io::Result<()> {
        let Some(pipe) = cli.stdin.take() else { return Ok(()) };
        let mut pipe = BufWriter::new(pipe);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut value = vec![0; VALUE_BYTES];
        for number in 0..bytes / VALUE_BYTES as u64 {
            rng.fill_bytes(&mut value);
            let key = format!("key:{number:012}");
            write!(pipe, "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${VALUE_BYTES}\r\n", key.len())?;
            pipe.write_all(&value)?;
            pipe.write_all(b"\r\n")?;
        }
        pipe.flush()
    };
    let mut written = written;
    let result = written();
    let status = cli.wait().context("redis-cli is gone")?;
    result.context("cannot fill Redis")?;
    if !status.success() {
        Err(anyhow::anyhow!("redis-cli: {status}"))?;
    }
    Ok(())
}

/// "... DB loaded from disk: 0.123 seconds".
fn seconds_in(output: &str) -> Option<f64> {
    let (_, after) = output.split_once(LOADED)?;
    after.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_it_takes_is_found() {
        let line = "8:M 21 Nov 2026 23:00:00.123 * DB loaded from disk: 1.234 seconds\n";
        assert_eq!(seconds_in(line), Some(1.234));
        assert_eq!(seconds_in("Ready"), None);
    }
}
