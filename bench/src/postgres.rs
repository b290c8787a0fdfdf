//! PostgreSQL: a cluster of databases in a directory, and its programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Signal, kill_process};

use crate::stop::Stop;
use crate::tool::{Ended, Need, Running, telling_line};

const LIMIT: Duration = Duration::from_secs(1800);
/// How long starting may take, recovery included.
const START_LIMIT: Duration = Duration::from_secs(120);
const PORT: &str = "5999";

/// What every cluster is made with.
const INITIAL: [&str; 4] = ["--data-checksums", "--auth=trust", "--no-locale", "--no-instructions"];

/// A cluster, and how to reach it.
pub(crate) struct Cluster<'a> {
    data: PathBuf,
    /// For its socket and what its programs print.
    aside: PathBuf,
    /// As `name=value`.
    settings: &'a [&'a str],
    /// What is done to each command before it runs.
    enter: &'a dyn Fn(&mut Command) -> Result<()>,
    stop: &'a Stop,
}

impl<'a> Cluster<'a> {
    /// Makes its directories, owned by the user that may run it, if they are not there.
    pub(crate) fn new(
        data: PathBuf,
        aside: PathBuf,
        settings: &'a [&'a str],
        enter: &'a dyn Fn(&mut Command) -> Result<()>,
        stop: &'a Stop,
    ) -> Result<Self> {
        for dir in [&data, &aside] {
            if !dir.exists() {
                fs::create_dir(dir)?;
                let mut chown = Command::new("chown");
                chown.arg("postgres").arg(dir);
                crate::binaries::output(chown).context("PostgreSQL needs a user 'postgres'")?;
            }
        }
        Ok(Self { data, aside, settings, enter, stop })
    }

    /// Where its socket is, and where its user may write.
    pub(crate) fn aside(&self) -> &Path {
        &self.aside
    }

    /// Makes the databases.
    pub(crate) fn init(&self) -> Result<Ended> {
        self.client("initdb", &INITIAL)
    }

    /// Starts the server and waits until it answers.
    pub(crate) fn start(&self) -> Result<Running> {
        let mut command = self.command("postgres")?;
        command.args(["-p", PORT, "-c", "listen_addresses=", "-k"]).arg(&self.aside);
        for setting in self.settings {
            command.args(["-c", setting]);
        }
        let mut server = Running::start(command, &self.aside.join("server.out"))?;
        let begin = Instant::now();
        while self.query("SELECT 1")?.is_err() {
            self.stop.check()?;
            if !server.is_running()? || begin.elapsed() > START_LIMIT {
                bail!("PostgreSQL does not start: {}", telling_line(&server.output()));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    /// Tells the server to end: SIGINT in order, SIGQUIT at once.
    pub(crate) fn stop(&self, server: Running, signal: Signal) -> Result<()> {
        kill_process(server.pid(), signal)?;
        server.wait(LIMIT, self.stop)?;
        Ok(())
    }

    /// Runs one of PostgreSQL's programs to its end.
    pub(crate) fn client(&self, program: &'static str, arguments: &[&str]) -> Result<Ended> {
        self.running(program, arguments)?.wait(LIMIT, self.stop)
    }

    /// The same, and does not wait.
    pub(crate) fn running(&self, program: &'static str, arguments: &[&str]) -> Result<Running> {
        let mut command = self.command(program)?;
        command.args(arguments);
        Running::start(command, &self.aside.join(format!("{program}.out")))
    }

    /// What a query gives.
    pub(crate) fn query(&self, sql: &str) -> Result<std::result::Result<String, String>> {
        let ended = self.client("psql", &["-XAtqc", sql, "postgres"])?;
        Ok(ended.result().map(|()| ended.output.trim().to_owned()))
    }

    /// As the user, with everything about the cluster in the environment.
    fn command(&self, program: &'static str) -> Result<Command> {
        let mut command = Command::new(Need::of("setpriv").find()?);
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]);
        command.arg(need(program).find()?).current_dir(&self.aside);
        command.env("PGDATA", &self.data).env("PGHOST", &self.aside).env("PGPORT", PORT);
        command.env("LC_ALL", "C");
        (self.enter)(&mut command)?;
        Ok(command)
    }
}

/// Debian has them in a directory of their version, outside of `PATH`.
pub(crate) fn need(program: &'static str) -> Need {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    Need { program, also_in: versions.map(|version| version.path().join("bin")).collect() }
}
