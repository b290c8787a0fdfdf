//! SQLite: look-ups by key, in an order without order.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::files::large_files;
use super::fio::read_once;
use super::{Task, Told, Work};
use crate::suite::figures::{Figures, Hole};
use crate::suite::peers::installed;
use crate::suite::place::shown;
use crate::tool::telling_line;

const DATABASE: &str = "data.db";
/// A row with its key takes a ninth of a page of 4 KiB.
const VALUE_BYTES: u64 = 400;
const ROW_BYTES: u64 = 455;
/// In a script: more than are got through.
const LOOK_UPS: usize = 2_000_000;

/// The workload.
pub(super) struct Sqlite;

impl Work for Sqlite {
    fn prepare(&self, task: &Task<'_>, dir: &Path) -> Result<(), Hole> {
        let mut command = Command::new(installed("sqlite3")?);
        command.args(["-batch", "-bail"]).arg(dir.join(DATABASE)).arg(format!(
            "PRAGMA journal_mode=DELETE; CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB); \
             WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < {}) \
             INSERT INTO t SELECT k, randomblob({VALUE_BYTES}) FROM n;",
            rows(task)
        ));
        task.run(command, 0)?;
        Ok(())
    }

    /// Chance would leave some of it out for long.
    fn warm(&self, task: &Task<'_>) -> Result<(), Hole> {
        read_once(task, &large_files(&task.dir)?)
    }

    fn work(&self, task: &Task<'_>, seconds: u32) -> Result<Told, Hole> {
        let sqlite3 = installed("sqlite3")?;
        let aside = task.aside()?;
        let script = aside.path().join("look-ups.sql");
        std::fs::write(&script, look_ups(rows(task), &task.name))
            .context("cannot write a script")?;
        // A line for each look-up as soon as it is answered.
        let mut command = Command::new("sh");
        command.args(["-c", "exec stdbuf -oL \"$1\" -batch -bail -readonly \"$2\" < \"$3\"", "sh"]);
        command.arg(sqlite3).arg(task.dir.join(DATABASE)).arg(&script);
        let typed = shown(&command);
        let printed = aside.path().join("output");
        let mut running = task.place.start(command, &printed)?;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(u64::from(seconds)) && running.is_running()? {
            task.scene.stop.check()?;
            thread::sleep(Duration::from_millis(20));
        }
        let took = begin.elapsed().as_secs_f64();
        running.kill();
        let output = std::fs::read_to_string(&printed).context("what sqlite3 said is gone")?;
        let answered = output.lines().filter(|line| *line == VALUE_BYTES.to_string()).count();
        if answered == 0 {
            Err(anyhow::anyhow!("sqlite3: {}", telling_line(&output)))?;
        }
        let figures = Figures { per_second: answered as f64 / took, ..Figures::default() };
        Ok(Told { figures, commands: vec![typed] })
    }
}

fn rows(task: &Task<'_>) -> u64 {
    task.bytes / ROW_BYTES
}

/// Others for each name.
fn look_ups(rows: u64, name: &str) -> String {
    let seed = name.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut script = String::new();
    for _ in 0..LOOK_UPS {
        let key = rng.random_range(1..=rows);
        let _ = writeln!(script, "SELECT length(v) FROM t WHERE k={key};");
    }
    script
}
