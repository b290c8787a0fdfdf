//! stress-ng: its stressors for filesystems, one after another, each with its own checks.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::site::Site;
use super::suite::{Case, Scene, Suite};
use crate::tool::{Need, Running, telling_line};

/// Of a stressor; they are told to end after seconds, but some tidy up for long.
const LIMIT: Duration = Duration::from_secs(180);

/// Stressors that touch no filesystem of ours, or other mounts of the machine.
const LEFT_OUT: [&str; 8] =
    ["bind-mount", "binderfs", "dup", "eventfd", "ioprio", "io", "procfs", "fiemap"];
/// Of other classes, but about files.
const ADDED: [&str; 9] =
    ["aio", "aiol", "mmap", "mmapfork", "msync", "readahead", "revio", "seek", "sendfile"];
/// The quick ones that find most.
const QUICK: [&str; 14] = [
    "access",
    "chmod",
    "copy-file",
    "dentry",
    "dirdeep",
    "fallocate",
    "filename",
    "fpunch",
    "getdent",
    "hdd",
    "iomix",
    "link",
    "rename",
    "xattr",
];

/// The suite.
pub(super) struct Stress;

impl Suite for Stress {
    fn name(&self) -> &'static str {
        "stress-ng"
    }

    fn needs(&self) -> Vec<Need> {
        vec![Need::of("stress-ng")]
    }

    fn run(&self, site: &mut Site<'_>, scene: &Scene<'_>) -> Result<Vec<Case>> {
        let (stressors, seconds) =
            if scene.quick { (QUICK.map(str::to_owned).to_vec(), 1) } else { (all()?, 4) };
        stressors
            .iter()
            .map(|stressor| {
                scene.progress.say(format!("stress-ng on the {}: {stressor}", site.side().label()));
                run(stressor, seconds, site, scene)
            })
            .collect()
    }
}

/// The stressors of the class, and ours.
fn all() -> Result<Vec<String>> {
    let mut command = Command::new(Need::of("stress-ng").find()?);
    // Prints "class 'filesystem' stressors: access bind-mount ..."; with which exit code differs.
    command.args(["--class", "filesystem?"]);
    let listed = command.output()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned()
        + &String::from_utf8_lossy(&listed.stderr);
    let names = listed
        .split_once("stressors:")
        .context("stress-ng does not list its filesystem stressors; install Debian 12's stress-ng")?
        .1;
    let ours = names.split_whitespace().filter(|name| !LEFT_OUT.contains(name));
    Ok(ours.chain(ADDED).map(str::to_owned).collect())
}

fn run(stressor: &str, seconds: u32, site: &Site<'_>, scene: &Scene<'_>) -> Result<Case> {
    let dir = site.dir().join("stress");
    fs::create_dir_all(&dir)?;
    let mut command = Command::new(Need::of("stress-ng").find()?);
    command.args([&format!("--{stressor}"), "2", "--verify", "--timeout", &seconds.to_string()]);
    command.arg("--temp-path").arg(&dir);
    let ended = Running::start(command, &site.aside("output"))?.wait(LIMIT, scene.stop)?;
    let skipped = ended.output.contains("skipping stress") || ended.status.code() == Some(4);
    let case = match ended.result() {
        Ok(()) if skipped => Case::skipped(stressor, telling_line(&ended.output)),
        Err(_) if skipped => Case::skipped(stressor, telling_line(&ended.output)),
        result => Case::of(stressor, result),
    };
    // What a stressor leaves behind is its own affair, as long as it can be removed.
    Ok(match fs::remove_dir_all(&dir) {
        Err(error) if case.verdict == super::suite::Verdict::Passed => {
            Case::failed(stressor, format!("what it left cannot be removed: {error}"))
        }
        _ => case,
    })
}
