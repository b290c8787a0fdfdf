//! SQLite: several processes write and read one database and are killed in the middle; so is the
//! mount. What was acknowledged must be there, and the database whole.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::site::Site;
use super::suite::{Case, Scene, Suite};
use crate::tool::{Need, Running, telling_line};

const LIMIT: Duration = Duration::from_secs(300);
const WRITERS: usize = 3;
const READERS: usize = 2;
/// In one writer's script; more than it gets to.
const ROWS: usize = 100_000;

/// The suite.
pub(super) struct Sqlite;

/// Who is killed in the middle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Killed {
    Writers,
    /// At the source, the writers too.
    Mount,
}

impl Suite for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn needs(&self) -> Vec<Need> {
        vec![Need::of("sqlite3")]
    }

    fn with_server(&self) -> bool {
        true
    }

    fn run(&self, site: &mut Site<'_>, scene: &Scene<'_>) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for journal in ["WAL", "DELETE"] {
            for (killed, what) in [(Killed::Writers, "writers"), (Killed::Mount, "mount")] {
                let name = format!("journal {journal}, the {what} killed");
                scene.progress.say(format!("sqlite on the {}: {name}", site.side().label()));
                let file = format!("{journal}-{what}.db");
                cases.extend(round(journal, &file, killed, &name, site, scene)?);
            }
        }
        Ok(cases)
    }
}

fn round(
    journal: &str,
    file: &str,
    killed: Killed,
    name: &str,
    site: &mut Site<'_>,
    scene: &Scene<'_>,
) -> Result<Vec<Case>> {
    let database = site.dir().join(file);
    let create = format!(
        "PRAGMA journal_mode={journal}; CREATE TABLE t(writer, n, text, PRIMARY KEY(writer, n)); \
         CREATE INDEX by_text ON t(text);"
    );
    ask(&database, &create, site, scene)?.map_err(anyhow::Error::msg)?;

    let mut writers = start(WRITERS, "writer", &database, site, writes)?;
    let mut readers = start(READERS, "reader", &database, site, |_| reads())?;
    let time = Duration::from_secs(if scene.quick { 2 } else { 10 });
    let begin = Instant::now();
    while begin.elapsed() < time {
        scene.stop.check()?;
        thread::sleep(Duration::from_millis(20));
    }
    if killed == Killed::Mount {
        site.kill_and_remount(scene.stop)?;
    }
    writers.iter_mut().chain(&mut readers).for_each(Running::kill);

    let of = |what: &str| format!("{name}: {what}");
    let complaint = |tool: &Running| {
        let output = tool.output();
        let mut complaints = output.lines().filter(|line| line.contains("rror"));
        // Whoever works on a mount that is killed gets errors.
        (killed == Killed::Writers).then(|| complaints.next().map(str::to_owned)).flatten()
    };
    let complained = writers.iter().chain(&readers).find_map(complaint);
    let mut cases = vec![Case::of(of("no errors before"), complained.map_or(Ok(()), Err))];
    let went_back = readers.iter().find_map(|reader| decrease(&reader.output()));
    cases.push(Case::of(of("readers see no row vanish"), went_back.map_or(Ok(()), Err)));

    let database = site.dir().join(file);
    let sound = match ask(&database, "PRAGMA integrity_check;", site, scene)? {
        Ok(said) if said.trim() == "ok" => Ok(()),
        Ok(said) | Err(said) => Err(telling_line(&said)),
    };
    cases.push(Case::of(of("integrity_check"), sound));
    let mut lost = Ok(());
    for (number, writer) in writers.iter().enumerate() {
        let acknowledged = acknowledged(&writer.output());
        let query = format!("SELECT count(*), ifnull(max(n), 0) FROM t WHERE writer={number};");
        let said = ask(&database, &query, site, scene)?;
        lost = lost.and(match said {
            Ok(said) => nothing_lost(said.trim(), acknowledged),
            Err(said) => Err(telling_line(&said)),
        });
    }
    cases.push(Case::of(of("what was acknowledged is there"), lost));
    let whole = "VACUUM; REINDEX; PRAGMA integrity_check; SELECT count(*) > 0 FROM t;";
    let vacuumed = match ask(&database, whole, site, scene)? {
        Ok(said) if said.trim() == "ok\n1" => Ok(()),
        Ok(said) | Err(said) => Err(telling_line(&said)),
    };
    cases.push(Case::of(of("vacuum"), vacuumed));
    Ok(cases)
}

/// Starts so many processes, each with a script of its own.
fn start(
    count: usize,
    role: &str,
    database: &Path,
    site: &Site<'_>,
    script: impl Fn(usize) -> String,
) -> Result<Vec<Running>> {
    (0..count)
        .map(|number| {
            let path = site.aside(&format!("{role}-{number}.sql"));
            std::fs::write(&path, script(number)).context("cannot write a script for sqlite3")?;
            let output = site.aside(&format!("{role}-{number}.out"));
            // Its lines must not wait in a buffer. After an error it ends: the next row would be
            // acknowledged though this one was not.
            let mut command = Command::new("sh");
            let script =
                "exec stdbuf -oL sqlite3 -batch -bail -cmd '.timeout 60000' \"$1\" < \"$2\"";
            command.args(["-c", script, "sh"]).arg(database).arg(path);
            Running::start(command, &output)
        })
        .collect()
}

/// Each row is a transaction; its number is printed once it is committed.
fn writes(writer: usize) -> String {
    let mut script = String::new();
    for n in 1..=ROWS {
        script += &format!(
            "INSERT INTO t VALUES({writer},{n},hex(randomblob({})));\nSELECT 'ack', {n};\n",
            100 + n * 37 % 1900
        );
    }
    script
}

fn reads() -> String {
    "SELECT 'rows', count(*) FROM t;
SELECT count(*) FROM t WHERE text > 'A';
"
    .repeat(20_000)
}

fn ask(
    database: &Path,
    sql: &str,
    site: &Site<'_>,
    scene: &Scene<'_>,
) -> Result<std::result::Result<String, String>> {
    let mut command = Command::new(sqlite3()?);
    command.args(["-batch", "-bail", "-cmd", ".timeout 60000"]).arg(database).arg(sql);
    let ended = Running::start(command, &site.aside("output"))?.wait(LIMIT, scene.stop)?;
    Ok(match ended.result() {
        Ok(()) => Ok(ended.output),
        Err(why) => Err(why),
    })
}

fn sqlite3() -> Result<PathBuf> {
    Need::of("sqlite3").find()
}

/// The last row that a writer was told is committed.
fn acknowledged(output: &str) -> u64 {
    let whole_lines = output.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let acknowledged = whole_lines.lines().rev().find_map(|line| line.strip_prefix("ack|"));
    acknowledged.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// `counted` is "count|highest": all rows up to the highest, and at least those acknowledged.
fn nothing_lost(counted: &str, acknowledged: u64) -> std::result::Result<(), String> {
    let mut numbers = counted.split('|').map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(count)), Some(Ok(highest))) if count == highest && highest >= acknowledged => {
            Ok(())
        }
        _ => Err(format!("'{counted}' rows and highest, but {acknowledged} were acknowledged")),
    }
}

/// Where a reader saw fewer rows than before.
fn decrease(output: &str) -> Option<String> {
    let counts = output.lines().filter_map(|line| line.strip_prefix("rows|")?.parse::<u64>().ok());
    let counts: Vec<_> = counts.collect();
    // The last line may be cut short.
    let whole = &counts[..counts.len().saturating_sub(1)];
    let back = whole.windows(2).find(|pair| pair[1] < pair[0])?;
    Some(format!("{} rows, then {}", back[0], back[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_and_counts_are_read() {
        assert_eq!(acknowledged("ack|1\nack|2\nack|3"), 2);
        assert_eq!(acknowledged(""), 0);
        assert!(nothing_lost("5|5", 5).is_ok());
        assert!(nothing_lost("5|5", 6).is_err());
        assert!(nothing_lost("4|5", 3).is_err());
        assert_eq!(
            decrease("rows|3\n9\nrows|5\nrows|4\nrows|1"),
            Some("5 rows, then 4".to_owned())
        );
        assert_eq!(decrease("rows|3\nrows|5\nrows|1"), None);
    }
}
