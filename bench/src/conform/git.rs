//! Git: a repository of thousands of files and commits is cloned, checked, wound back and packed.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::site::Site;
use super::suite::{Case, Scene, Suite};
use crate::tool::{Need, Running};

const LIMIT: Duration = Duration::from_secs(600);

/// The suite.
pub(super) struct Git;

impl Suite for Git {
    fn name(&self) -> &'static str {
        "git"
    }

    fn needs(&self) -> Vec<Need> {
        vec![Need::of("git")]
    }

    fn run(&self, site: &mut Site<'_>, scene: &Scene<'_>) -> Result<Vec<Case>> {
        let (files, commits) = if scene.quick { (1_000, 100) } else { (5_000, 1_500) };
        let origin = site.aside("origin.git");
        if !origin.exists() {
            make_repository(&origin, files, commits, site, scene)?;
        }
        let clone = site.dir().join("clone");
        let (from, to) = (origin.to_string_lossy(), clone.to_string_lossy());
        let old = format!("main~{}", commits / 2);
        let mut cases = Vec::new();
        let mut step = |name: &str, dir: &Path, script: &str| -> Result<()> {
            let mut command = Command::new("sh");
            command.args(["-ec", script]).current_dir(dir);
            let ended = run(command, site, scene)?;
            cases.push(Case::of(name, ended));
            Ok(())
        };
        let clean = "test -z \"$(git status --porcelain)\" || { git status --porcelain; exit 1; }";
        step("clone", site.dir(), &format!("git clone -q --no-local '{from}' '{to}'"))?;
        step("fsck", &clone, "git fsck --full --strict")?;
        step("status is clean", &clone, clean)?;
        step(
            "an older state",
            &clone,
            &format!("git checkout -q {old}; {clean}; git diff --quiet {old}"),
        )?;
        step(
            "back, and forth by stash",
            &clone,
            "git checkout -q main; echo x >> d0/f0; git stash -q; git stash pop -q; git diff --stat; git checkout -q .",
        )?;
        step(
            "a branch and a merge",
            &clone,
            "git checkout -q -b side main~9; echo s > side; git add side; git commit -qm side; git merge -q -m merge main; git fsck",
        )?;
        step(
            "gc",
            &clone,
            &format!("git gc -q --aggressive --prune=now; git fsck --full --strict; {clean}"),
        )?;
        step(
            "a second clone, hard-linked",
            site.dir(),
            "git clone -q clone second; git -C second fsck --full",
        )?;
        step(
            "files are those of the origin",
            site.dir(),
            &format!(
                "git --git-dir='{from}' archive main | tar -t | sort > origin-list; git -C second checkout -q main 2>/dev/null || git -C second checkout -q -b main origin/main; \
             git -C second archive main | tar -t | sort | cmp - origin-list"
            ),
        )?;
        step(
            "worktree",
            &clone,
            &format!(
                "git worktree add -q ../tree {old}; test -z \"$(git -C ../tree status --porcelain)\""
            ),
        )?;
        Ok(cases)
    }
}

/// A bare repository from one stream, the same every time.
fn make_repository(
    path: &Path,
    files: usize,
    commits: usize,
    site: &Site<'_>,
    scene: &Scene<'_>,
) -> Result<()> {
    scene.progress.say("makes a repository");
    let stream = site.aside("origin.stream");
    fs::write(&stream, fast_import(files, commits))?;
    let mut command = Command::new("sh");
    command.args([
        "-ec",
        "git init -q --bare -b main \"$1\"; git --git-dir=\"$1\" fast-import --quiet < \"$2\"",
        "sh",
    ]);
    command.arg(path).arg(&stream);
    run(command, site, scene)?.map_err(anyhow::Error::msg).context("cannot make a repository")
}

fn run(
    mut command: Command,
    site: &Site<'_>,
    scene: &Scene<'_>,
) -> Result<std::result::Result<(), String>> {
    // Not the settings of whoever runs this.
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "nobody");
        command.env(format!("GIT_{who}_EMAIL"), "nobody@localhost");
    }
    command.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE").env_remove("GIT_INDEX_FILE");
    Ok(Running::start(command, &site.aside("output"))?.wait(LIMIT, scene.stop)?.result())
}

/// The first commit has all files; each of the others changes some, and removes one.
fn fast_import(files: usize, commits: usize) -> String {
    let mut stream = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        writeln!(stream, "{text}").expect("a string takes everything");
    };
    for commit in 0..commits {
        line(format_args!("commit refs/heads/main"));
        line(format_args!(
            "committer nobody <nobody@localhost> {} +0000",
            1_700_000_000 + commit * 60
        ));
        line(format_args!("data 6\ncommit"));
        let changed = if commit == 0 { 0..files } else { 0..7 };
        for index in changed {
            let file = if commit == 0 { index } else { (commit * 31 + index * 97) % files };
            let text = format!("file {file} at {commit}\n").repeat(1 + file % 300);
            line(format_args!(
                "M 100644 inline d{}/f{file}\ndata {}\n{text}",
                file % 50,
                text.len()
            ));
        }
        if commit > 0 {
            line(format_args!("D d{}/f{}", commit % files % 50, commit % files));
        }
    }
    stream
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_says_how_long_its_texts_are() {
        let stream = fast_import(3, 2);
        assert_eq!(stream.matches("commit refs/heads/main").count(), 2);
        assert!(stream.contains("data 12\nfile 0 at 0\n"));
        assert!(stream.contains("D d1/f1\n"));
    }
}
