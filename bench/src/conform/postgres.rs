//! PostgreSQL: a cluster with checksums under load, stopped in the middle, recovered and checked.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::site::Site;
use super::suite::{Case, Scene, Suite};
use crate::postgres::{Cluster, need};
use crate::tool::Need;

/// Small, so that much is read and much is written back.
const SETTINGS: [&str; 3] = ["shared_buffers=8MB", "max_wal_size=64MB", "checkpoint_timeout=30s"];

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
        let cluster = cluster(site, scene)?;
        let mut cases = Vec::new();
        let mut note = |name: &str, result: std::result::Result<(), String>| {
            let passed = result.is_ok();
            cases.push(Case::of(name, result));
            passed
        };
        if !note("initdb", cluster.init()?.result()) {
            return Ok(cases);
        }
        let server = cluster.start()?;
        let (scale, seconds) = if scene.quick { ("2", "4") } else { ("8", "30") };
        note(
            "pgbench: fill",
            cluster.client("pgbench", &["-i", "-q", "-s", scale, "postgres"])?.result(),
        );
        let load = ["-c", "4", "-j", "2", "-T", seconds, "postgres"];
        note("pgbench: load", cluster.client("pgbench", &load)?.result());

        // Stopped in the middle of a second load, which leaves the history as it is (-n). Its log has a line for each acknowledged
        // transaction.
        let log = cluster.aside().join("load");
        let prefix = format!("--log-prefix={}", log.display());
        let arguments = ["-n", "-c", "4", "-T", "600", "-l", &prefix, "postgres"];
        let _ = cluster.query("TRUNCATE pgbench_history")?;
        let before =
            "INSERT INTO pgbench_history(delta) SELECT sum(abalance) FROM pgbench_accounts";
        note("the state before", cluster.query(before)?.map(|_| ()));
        let mut loading = cluster.running("pgbench", &arguments)?;
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
        let cluster = self::cluster(site, scene)?;
        let server = cluster.start().context("recovery")?;
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = ALL(ARRAY[\
            (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(tbalance) FROM pgbench_tellers), \
            (SELECT sum(delta) FROM pgbench_history)])";
        note("balances after recovery", is(cluster.query(sums)?, "t"));
        let kept = format!("SELECT count(*) - 1 >= {acknowledged} FROM pgbench_history");
        note("what was acknowledged is there", is(cluster.query(&kept)?, "t"));
        let check = ["--install-missing", "--heapallindexed", "postgres"];
        note("pg_amcheck", cluster.client("pg_amcheck", &check)?.result());
        note("vacuum full", cluster.query("VACUUM (FULL, ANALYZE)")?.map(|_| ()));
        cluster.stop(server, Signal::INT)?;
        note("pg_checksums", cluster.client("pg_checksums", &["--check"])?.result());
        Ok(cases)
    }
}

fn cluster<'a>(site: &Site<'_>, scene: &'a Scene<'a>) -> Result<Cluster<'a>> {
    let (data, aside) = (site.dir().join("data"), site.aside("postgres"));
    Cluster::new(data, aside, &SETTINGS, &|_| Ok(()), scene.stop)
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
