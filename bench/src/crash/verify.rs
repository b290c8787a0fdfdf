//! After a kill: is everything there that was acknowledged, and nothing else?

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context as _, Result};
use rand::{RngExt as _, rngs::SmallRng};

use super::file::File;
use super::tally::{Finding, FindingKind, Tally, wrong_words};
use super::world::World;

const PIECE_BYTES: usize = 64 << 10;

/// What is compared: a directory's number, a name, the file.
pub(super) type Selection = Vec<(usize, String, Arc<File>)>;

/// What came of a comparison. An error of the outer result is one of the harness.
pub(super) type Compared = Result<std::result::Result<(), Finding>>;

/// Compares the names below `root`. `via` says which way `root` leads.
pub(super) fn names(world: &World, root: &Path, via: &str) -> Compared {
    for directory in &world.directories {
        let path = root.join(&directory.path);
        let mut found = BTreeSet::new();
        let entries =
            fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()));
        for entry in entries? {
            found.insert(entry?.file_name().to_string_lossy().into_owned());
        }
        if let Err(what) = directory.names.settle(&found) {
            let what = format!("{} through {via}: {what}", directory.path);
            return Ok(Err(lost(what, directory.names.log())));
        }
    }
    Ok(Ok(()))
}

/// The files that changed, and a few others; or all.
pub(super) fn select(world: &World, all: bool, rng: &mut SmallRng) -> Selection {
    let mut selection = Vec::new();
    for (number, directory) in world.directories.iter().enumerate() {
        for (name, file) in directory.names.all() {
            if all | file.take_touched() | rng.random_ratio(1, 8) {
                selection.push((number, name, file));
            }
        }
    }
    selection
}

/// Compares whole files, byte for byte, and the number of their names.
pub(super) fn contents(
    world: &World,
    selection: &Selection,
    root: &Path,
    via: &str,
    tally: &Tally,
) -> Compared {
    for (number, name, file) in selection {
        let directory = &world.directories[*number];
        let label = format!("{}/{name} through {via}", directory.path);
        let path = root.join(&directory.path).join(name);
        let cannot = || format!("{label} cannot be read");
        let got = read_backwards(&path).with_context(cannot)?;
        tally.settled_bytes.fetch_add(got.len() as u64, Relaxed);
        if let Err(wrong) = file.settle(&got) {
            return Ok(Err(lost(wrong_words(&label, &wrong), file.log())));
        }
        let (links, wanted) =
            (fs::metadata(&path).with_context(cannot)?.nlink(), directory.names.links(file));
        if links != wanted {
            let what = format!("{label} has {links} names, expected {wanted}");
            return Ok(Err(lost(what, directory.names.log())));
        }
    }
    let shared = fs::read(root.join(super::shared::NAME)).context("the shared file")?;
    tally.settled_bytes.fetch_add(shared.len() as u64, Relaxed);
    if let Err(what) = world.shared.check(&shared) {
        return Ok(Err(lost(format!("the shared file through {via}: {what}"), Vec::new())));
    }
    Ok(Ok(()))
}

/// Reads a whole file, the end first: a cache gives what is read in sequence to nobody, and here
/// it is to lend as much as it can.
fn read_backwards(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    for (number, piece) in bytes.chunks_mut(PIECE_BYTES).enumerate().rev() {
        file.read_exact_at(piece, (number * PIECE_BYTES) as u64)?;
    }
    // Should there be more than the length says, it is compared as well.
    let mut beyond = [0];
    if file.read_at(&mut beyond, bytes.len() as u64)? > 0 {
        bytes.extend(beyond);
    }
    Ok(bytes)
}

fn lost(what: String, log: Vec<String>) -> Finding {
    Finding { kind: FindingKind::Lost, what, log }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    fn compare(world: &World, root: &Path) -> std::result::Result<(), Finding> {
        names(world, root, "the source").unwrap()?;
        let selection = select(world, true, &mut SmallRng::seed_from_u64(1));
        contents(world, &selection, root, "the source", &Tally::default()).unwrap()
    }

    #[test]
    fn one_flipped_byte_one_missing_name_one_lost_record_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::make(dir.path(), 7).unwrap();
        compare(&world, dir.path()).unwrap();

        let path = dir.path().join("w1/c");
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 70_000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 70_000).unwrap();
        let finding = compare(&world, dir.path()).unwrap_err();
        assert!(finding.what.contains("w1/c through the source, offset 70000"), "{}", finding.what);
        file.write_all_at(&byte, 70_000).unwrap();
        compare(&world, dir.path()).unwrap();

        fs::hard_link(&path, dir.path().join("linked")).unwrap();
        assert!(compare(&world, dir.path()).unwrap_err().what.contains("2 names"));
        fs::remove_file(dir.path().join("linked")).unwrap();

        world.shared.begin(1, 100);
        world.shared.acknowledge(1);
        assert!(compare(&world, dir.path()).unwrap_err().what.contains("record"));
        world.shared.clear();

        fs::remove_file(path).unwrap();
        assert!(compare(&world, dir.path()).unwrap_err().what.contains("\"c\""));
    }
}
