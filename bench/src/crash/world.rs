//! The files of the harness: as they are made, and as they must be.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::file::File;
use super::names::Names;
use super::shared::Shared;

/// Directories with a writer each.
pub(super) const WRITERS: usize = 4;
/// Files of a writer at the start.
const FILES: usize = 5;
const FILE_BYTES: usize = 1 << 20;
/// Files that never change, so that there is more than the cache can hold.
const WALL_FILES: usize = 6;
const WALL_BYTES: usize = 4 << 20;

/// Names that a writer uses.
pub(super) const SLOTS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// Everything below the source.
pub(super) struct World {
    /// The directories: one for each writer, the last for nobody.
    pub(super) directories: Vec<Directory>,
    /// The file that all writers append to.
    pub(super) shared: Shared,
}

/// A directory with its name.
pub(super) struct Directory {
    pub(super) path: String,
    pub(super) names: Names,
}

impl World {
    /// Makes the files in `source`.
    pub(super) fn make(source: &Path, seed: u64) -> Result<Self> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut directories = Vec::new();
        for writer in 0..WRITERS {
            let names = SLOTS.iter().take(FILES);
            directories.push(directory(
                source,
                &format!("w{writer}"),
                names,
                FILE_BYTES,
                &mut rng,
            )?);
        }
        let wall = SLOTS.iter().take(WALL_FILES);
        directories.push(directory(source, "wall", wall, WALL_BYTES, &mut rng)?);
        fs::write(source.join(super::shared::NAME), "")?;
        Ok(Self { directories, shared: Shared::default() })
    }
}

fn directory<'a>(
    source: &Path,
    path: &str,
    names: impl Iterator<Item = &'a &'a str>,
    bytes: usize,
    rng: &mut SmallRng,
) -> Result<Directory> {
    let dir = source.join(path);
    fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut files = BTreeMap::new();
    for &name in names {
        let mut contents = vec![0; bytes];
        rng.fill_bytes(&mut contents);
        fs::write(dir.join(name), &contents)
            .with_context(|| format!("cannot write below {}", dir.display()))?;
        files.insert(name.to_owned(), Arc::new(File::new(contents)));
    }
    Ok(Directory { path: path.to_owned(), names: Names::new(files) })
}
