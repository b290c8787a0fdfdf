//! Files that a workload has made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The large files below a directory: those that make up a database.
pub(super) fn large_files(dir: &Path) -> Result<Vec<PathBuf>> {
    const LARGE: u64 = 1 << 20;
    let mut large = files_below(dir)?;
    large.retain(|file| file.metadata().is_ok_and(|metadata| metadata.len() >= LARGE));
    Ok(large)
}

/// Lets the kernel forget the contents of all files below a directory: what has made them does not count.
pub(super) fn forget(dir: &Path) -> Result<()> {
    let root = fs::File::open(dir).context("the files that were made are gone")?;
    rustix::fs::syncfs(&root).context("cannot write to the disk what was made")?;
    for path in files_below(dir)? {
        let file = fs::File::open(&path).context("files that were made are gone")?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).context("cannot list what was made")?.flatten() {
            match entry.file_type()? {
                kind if kind.is_dir() => dirs.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    Ok(files)
}
