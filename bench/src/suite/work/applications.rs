//! Commands that end by themselves, run again and again: `grep -r`, `git status`, `cargo build`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{Task, Told, Work};
use crate::suite::figures::{Figures, Hole};
use crate::suite::peers::installed;

/// Of a source file, in bytes.
const TEXT_BYTES: usize = 16 << 10;
const FILES_A_DIRECTORY: u64 = 50;
/// What `grep` looks for: it is in the first file.
const NEEDLE: &str = "a line that is there once";
/// What is built: so many crates of so many types.
const CRATES: usize = 24;
const KINDS: usize = 20;
/// What cargo, rustc and the linker take for the crates below. Measured: 60 MiB, and their own files.
pub(super) const BUILD_MEMORY: u64 = 128 << 20;

/// Looking for a line in a tree of text.
pub(super) struct Grep;
/// Whether anything was changed in a working tree.
pub(super) struct GitStatus;
/// Building a crate from nothing. Its files are of one size, whatever the working set.
pub(super) struct CargoBuild;

impl Work for Grep {
    fn prepare(&self, task: &Task<'_>, dir: &Path) -> Result<(), Hole> {
        installed("grep")?;
        Ok(write_texts(dir, task.bytes)?)
    }

    fn work(&self, task: &Task<'_>, seconds: u32) -> Result<Told, Hole> {
        repeat(task, seconds, "grep", &["-rF", NEEDLE, "tree"], || Ok(()))
    }
}

impl Work for GitStatus {
    fn prepare(&self, task: &Task<'_>, dir: &Path) -> Result<(), Hole> {
        installed("git")?;
        write_texts(dir, task.bytes)?;
        let script = "cd \"$1\"; git init -q; git add .; \
                      git -c user.name=b -c user.email=b@b -c gc.auto=0 commit -qm files";
        let mut command = Command::new("sh");
        command.args(["-ec", script, "sh"]).arg(dir.join(TREE));
        task.run(command, 0)?;
        Ok(())
    }

    fn work(&self, task: &Task<'_>, seconds: u32) -> Result<Told, Hole> {
        repeat(task, seconds, "git", &["-C", TREE, "status", "--porcelain"], || Ok(()))
    }
}

impl Work for CargoBuild {
    fn prepare(&self, _: &Task<'_>, dir: &Path) -> Result<(), Hole> {
        installed("cargo")?;
        write_crate(&dir.join("crate")).context("cannot write a crate")?;
        Ok(())
    }

    fn work(&self, task: &Task<'_>, seconds: u32) -> Result<Told, Hole> {
        let built = task.dir.join("crate/target");
        let arguments = ["build", "--offline", "--quiet", "--manifest-path", "crate/Cargo.toml"];
        repeat(task, seconds, "cargo", &arguments, || match fs::remove_dir_all(&built) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        })
    }
}

/// How many texts make up a working set.
pub(super) fn texts(bytes: u64) -> u64 {
    (bytes / TEXT_BYTES as u64).max(1)
}

/// Runs a command in the directory of the files, at least once and for so many seconds, each time after `before`.
fn repeat(
    task: &Task<'_>,
    seconds: u32,
    program: &'static str,
    arguments: &[&str],
    before: impl Fn() -> Result<()>,
) -> Result<Told, Hole> {
    let program = installed(program)?;
    let mut times = Vec::new();
    let mut told = Told::default();
    let begin = Instant::now();
    while times.is_empty() || begin.elapsed() < Duration::from_secs(u64::from(seconds)) {
        before()?;
        let mut command = Command::new(&program);
        command.args(arguments);
        for variable in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "RUSTFLAGS"] {
            command.env_remove(variable);
        }
        let start = Instant::now();
        let ran = task.run_in(command, &task.dir, seconds)?;
        times.push(start.elapsed().as_secs_f64());
        told.commands = vec![ran.typed];
    }
    told.figures = Figures::of_times(&times);
    Ok(told)
}

const TREE: &str = "tree";

/// A tree of text files, so many bytes together, the same every time.
fn write_texts(dir: &Path, bytes: u64) -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(1);
    for number in 0..texts(bytes) {
        let directory = dir.join(format!("{TREE}/d{}", number / FILES_A_DIRECTORY));
        if number.is_multiple_of(FILES_A_DIRECTORY) {
            fs::create_dir_all(&directory)?;
        }
        let mut text = String::with_capacity(TEXT_BYTES);
        if number == 0 {
            let _ = writeln!(text, "{NEEDLE}");
        }
        while text.len() < TEXT_BYTES {
            let _ = write!(text, "{:x} ", rng.random::<u32>() >> rng.random_range(0..16));
            if text.len().is_multiple_of(7) {
                text.push('\n');
            }
        }
        text.truncate(TEXT_BYTES);
        fs::write(directory.join(format!("f{number}.txt")), text)
            .context("cannot write a tree of files")?;
    }
    Ok(())
}

/// A crate that depends on others beside it, and on nothing else.
fn write_crate(root: &Path) -> std::io::Result<()> {
    let manifest = |name: &str, more: &str| {
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n{more}")
    };
    let mut dependencies = String::new();
    for number in 0..CRATES {
        let part = root.join(format!("part{number}"));
        fs::create_dir_all(part.join("src"))?;
        fs::write(part.join("Cargo.toml"), manifest(&format!("part{number}"), ""))?;
        let mut text = String::new();
        for kind in 0..KINDS {
            let _ = writeln!(
                text,
                "#[derive(Clone, Debug, Default, PartialEq, PartialOrd, Eq, Ord, Hash)]\n\
                 pub struct Kind{kind} {{ pub a: u64, pub b: String, pub c: Vec<Option<u32>> }}\n\
                 impl Kind{kind} {{ pub fn sum(&self) -> u64 {{ \
                 self.c.iter().flatten().map(|&n| u64::from(n)).sum::<u64>() + self.a }} }}"
            );
        }
        let sums = (0..KINDS).map(|kind| format!("Kind{kind}::default().sum()"));
        let sums: Vec<String> = sums.collect();
        let _ = writeln!(text, "pub fn sum() -> u64 {{ {} }}", sums.join(" + "));
        fs::write(part.join("src/lib.rs"), text)?;
        let _ = writeln!(dependencies, "part{number} = {{ path = \"part{number}\" }}");
    }
    fs::create_dir_all(root.join("src"))?;
    let more = format!("[workspace]\n[dependencies]\n{dependencies}");
    fs::write(root.join("Cargo.toml"), manifest("built", &more))?;
    let sums: Vec<String> = (0..CRATES).map(|number| format!("part{number}::sum()")).collect();
    let main = format!("fn main() {{ println!(\"{{}}\", {}); }}\n", sums.join(" + "));
    fs::write(root.join("src/main.rs"), main)
}
