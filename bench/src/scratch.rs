//! A directory of our own for mount points, keys and test files, gone at the end.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use crate::mounted::mounts_below;

/// The directory. Dropping it removes it with all that is in it, but never what is mounted there:
/// removal must not reach through a mount into somebody's files.
pub(crate) struct Scratch {
    dir: Option<TempDir>,
    path: PathBuf,
}

impl Scratch {
    /// Makes a new directory in `parent`.
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("rampool-bench-").tempdir_in(parent);
        let dir = dir.with_context(|| {
            format!("cannot make a directory in {}; choose another place", parent.display())
        })?;
        let path = fs::canonicalize(dir.path())?;
        Ok(Self { dir: Some(dir), path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A new file of `bytes` random bytes, on the disk and not in the page cache.
    pub(crate) fn random_file(&self, name: &str, bytes: u64, seed: u64) -> Result<PathBuf> {
        let path = self.join(name);
        Self::random_file_at(&path, bytes, seed)?;
        Ok(path)
    }

    /// The same anywhere.
    pub(crate) fn random_file_at(path: &Path, bytes: u64, seed: u64) -> Result<()> {
        write_random(path, bytes, seed).with_context(|| {
            format!("cannot write a test file of {} MiB at {}", bytes >> 20, path.display())
        })
    }

    /// A new file of `bytes` bytes that are all a hole: no disk is too slow for it.
    pub(crate) fn hole(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.join(name);
        let made = std::fs::File::create_new(&path).and_then(|file| file.set_len(bytes));
        made.with_context(|| format!("cannot make a test file at {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for mountpoint in mounts_below(&self.path) {
            let _ = unmount(&mountpoint, UnmountFlags::DETACH);
        }
        let Some(dir) = self.dir.take() else { return };
        if mounts_below(&self.path).is_empty() {
            drop(dir);
        } else {
            let path = dir.keep();
            eprintln!("{} still has a mount in it; unmount it and remove it", path.display());
        }
    }
}

fn write_random(path: &Path, bytes: u64, seed: u64) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = fs::File::create(path)?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut chunk = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(chunk.len() as u64);
        rng.fill_bytes(&mut chunk);
        file.write_all(&chunk[..now as usize])?;
        left -= now;
    }
    file.sync_all()?;
    Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_goes_with_its_files() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let file = scratch.random_file("data", (1 << 20) + 5, 1).unwrap();
        assert_eq!(file.metadata().unwrap().len(), (1 << 20) + 5);
        let path = scratch.path.clone();
        drop(scratch);
        assert!(!path.exists());
    }
}
