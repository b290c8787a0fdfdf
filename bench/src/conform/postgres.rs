//! PostgreSQL: a cluster with checksums under load, stopped in the middle, recovered and checked.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Signal, kill_process};

use super::site::Site;
use super::suite::{Case, Scene, Suite};
use crate::tool::{Need, Running, telling_line};

const LIMIT: Duration = Duration::from_secs(600);
/// How long recovery may take.
const START_LIMIT: Duration = Duration::from_secs(120);
const PORT: &str = "5999";

/// The suite.
pub(super) struct Postgres;

impl Suite for Postgres {
    fn name(&self) -> &'static str {
        "postgresql"
    }

    fn needs(&self) -> Vec<Need> {
        vec![need("initdb"), need("pgbench"), need("pg_amcheck"), Need::of("setpriv")]
    }

    fn run(&self, site: &mut Site<'_>, scene: &Scene<'_>) -> Result<Vec<Case>> {
        let cluster = Cluster::new(site, scene)?;
        let mut cases = Vec::new();
        let mut note = |name: &str, result: std::result::Result<(), String>| {
            let passed = result.is_ok();
            cases.push(Case::of(name, result));
            passed
        };
        let arguments = ["--data-checksums", "--auth=trust", "--no-locale", "--no-instructions"];
        if !note("initdb", cluster.client("initdb", &arguments)?) {
            return Ok(cases);
        }
        let server = cluster.start()?;
        let (scale, seconds) = if scene.quick { ("2", "4") } else { ("8", "30") };
        note("pgbench: fill", cluster.client("pgbench", &["-i", "-q", "-s", scale, "postgres"])?);
        let load = ["-c", "4", "-j", "2", "-T", seconds, "postgres"];
        note("pgbench: load", cluster.client("pgbench", &load)?);

        // Stopped in the middle of a second load, which leaves the history as it is (-n). Its log has a line for each acknowledged
        // transaction.
        let log = site.aside("postgres").join("load");
        let prefix = format!("--log-prefix={}", log.display());
        let arguments = ["-n", "-c", "4", "-T", "600", "-l", &prefix, "postgres"];
        let _ = cluster.query("TRUNCATE pgbench_history")?;
        let before =
            "INSERT INTO pgbench_history(delta) SELECT sum(abalance) FROM pgbench_accounts";
        note("the state before", cluster.query(before)?.map(|_| ()));
        let mut loading = cluster.running("pgbench", &arguments, "loading.out")?;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(if scene.quick { 3 } else { 15 }) {
            scene.stop.check()?;
            thread::sleep(Duration::from_millis(20));
        }
        cluster.stop(server, Signal::QUIT)?;
        let begin = Instant::now();
        while loading.is_running()? && begin.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(20));
        }
        drop(loading);
        let acknowledged = lines_of_logs(&log)?;

        // The mount too, where there is one, so that nothing comes from its cache.
        drop(cluster);
        site.remount(scene.stop)?;
        let cluster = Cluster::new(site, scene)?;
        let server = cluster.start().context("recovery")?;
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = ALL(ARRAY[\
            (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(tbalance) FROM pgbench_tellers), \
            (SELECT sum(delta) FROM pgbench_history)])";
        note("balances after recovery", is(cluster.query(sums)?, "t"));
        let kept = format!("SELECT count(*) - 1 >= {acknowledged} FROM pgbench_history");
        note("what was acknowledged is there", is(cluster.query(&kept)?, "t"));
        let check = ["--install-missing", "--heapallindexed", "postgres"];
        note("pg_amcheck", cluster.client("pg_amcheck", &check)?);
        note("vacuum full", cluster.query("VACUUM (FULL, ANALYZE)")?.map(|_| ()));
        cluster.stop(server, Signal::INT)?;
        note("pg_checksums", cluster.client("pg_checksums", &["--check"])?);
        Ok(cases)
    }
}

/// A cluster of databases at a place, and how to reach it.
struct Cluster<'a> {
    data: PathBuf,
    socket: PathBuf,
    output: PathBuf,
    aside: PathBuf,
    scene: &'a Scene<'a>,
}

impl<'a> Cluster<'a> {
    /// Makes its directories, owned by the user that may run it, if they are not there.
    fn new(site: &Site<'_>, scene: &'a Scene<'a>) -> Result<Self> {
        let (data, socket) = (site.dir().join("data"), site.aside("postgres"));
        for dir in [&data, &socket] {
            if !dir.exists() {
                fs::create_dir(dir)?;
                let mut chown = Command::new("chown");
                chown.arg("postgres").arg(dir);
                crate::binaries::output(chown).context("PostgreSQL needs a user 'postgres'")?;
            }
        }
        Ok(Self { data, socket, output: site.aside("output"), aside: site.aside("."), scene })
    }

    /// Starts the server and waits until it answers.
    fn start(&self) -> Result<Running> {
        let socket = self.socket.to_string_lossy();
        let mut command = self.command("postgres")?;
        command.args(["-p", PORT, "-k", &socket, "-c", "listen_addresses="]);
        command.args([
            "-c",
            "shared_buffers=8MB",
            "-c",
            "max_wal_size=64MB",
            "-c",
            "checkpoint_timeout=30s",
        ]);
        let mut server = Running::start(command, &self.aside.join("server.out"))?;
        let begin = Instant::now();
        while self.query("SELECT 1")?.is_err() {
            self.scene.stop.check()?;
            if !server.is_running()? || begin.elapsed() > START_LIMIT {
                anyhow::bail!("PostgreSQL does not start: {}", telling_line(&server.output()));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    /// Tells the server to end: SIGINT in order, SIGQUIT at once.
    fn stop(&self, server: Running, signal: Signal) -> Result<()> {
        kill_process(server.pid(), signal)?;
        server.wait(LIMIT, self.scene.stop)?;
        Ok(())
    }

    /// Runs one of PostgreSQL's programs to its end.
    fn client(
        &self,
        program: &'static str,
        arguments: &[&str],
    ) -> Result<std::result::Result<(), String>> {
        let mut command = self.command(program)?;
        command.args(arguments);
        Ok(Running::start(command, &self.output)?.wait(LIMIT, self.scene.stop)?.result())
    }

    fn running(&self, program: &'static str, arguments: &[&str], output: &str) -> Result<Running> {
        let mut command = self.command(program)?;
        command.args(arguments);
        Running::start(command, &self.aside.join(output))
    }

    /// What a query gives.
    fn query(&self, sql: &str) -> Result<std::result::Result<String, String>> {
        let mut command = self.command("psql")?;
        command.args(["-XAtqc", sql, "postgres"]);
        let ended = Running::start(command, &self.output)?.wait(LIMIT, self.scene.stop)?;
        Ok(ended.result().map(|()| ended.output.trim().to_owned()))
    }

    /// As the user, with everything about the cluster in the environment.
    fn command(&self, program: &'static str) -> Result<Command> {
        let mut command = Command::new(Need::of("setpriv").find()?);
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]);
        command.arg(need(program).find()?).current_dir(&self.socket);
        command.env("PGDATA", &self.data).env("PGHOST", &self.socket).env("PGPORT", PORT);
        command.env("LC_ALL", "C");
        Ok(command)
    }
}

/// Debian has them in a directory of their version, outside of `PATH`.
fn need(program: &'static str) -> Need {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    Need { program, also_in: versions.map(|version| version.path().join("bin")).collect() }
}

fn is(said: std::result::Result<String, String>, wanted: &str) -> std::result::Result<(), String> {
    match said {
        Ok(said) if said == wanted => Ok(()),
        Ok(said) => Err(format!("said '{said}' instead of '{wanted}'")),
        Err(why) => Err(why),
    }
}

/// Whole lines in all files that begin with the name of `prefix`; removes the files.
fn lines_of_logs(prefix: &std::path::Path) -> Result<usize> {
    let (dir, name) = (prefix.parent(), prefix.file_name());
    let (dir, name) = (dir.context("a directory")?, name.context("a name")?.to_string_lossy());
    let mut lines = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&*name) {
            lines += fs::read_to_string(entry.path())?.matches('\n').count();
            fs::remove_file(entry.path())?;
        }
    }
    Ok(lines)
}
