//! A whole tree as text, a line an entry: type, mode, link count, size, attributes, contents.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{lgetxattr, llistxattr};

/// All entries below a directory, by their path.
pub(super) type Snapshot = BTreeMap<String, String>;

/// Looks at everything below `root`.
pub(super) fn take(root: &Path) -> Result<Snapshot> {
    let mut entries = Snapshot::new();
    walk(root, "", &mut entries).with_context(|| format!("looking at {}", root.display()))?;
    Ok(entries)
}

/// Says where two snapshots differ first.
pub(super) fn compare(
    place: &str,
    wanted: &Snapshot,
    got: &Snapshot,
) -> std::result::Result<(), String> {
    let none = String::from("nothing");
    for path in wanted.keys().chain(got.keys()) {
        let [wanted, got] = [wanted, got].map(|entries| entries.get(path).unwrap_or(&none));
        if wanted != got {
            return Err(format!("in the end, {place}, {path} is {got} instead of {wanted}"));
        }
    }
    Ok(())
}

fn walk(dir: &Path, prefix: &str, entries: &mut Snapshot) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let path = entry.path();
        entries.insert(name.clone(), describe(&path)?);
        if entry.file_type()?.is_dir() {
            walk(&path, &format!("{name}/"), entries)?;
        }
    }
    Ok(())
}

fn describe(path: &Path) -> Result<String> {
    let metadata = fs::symlink_metadata(path)?;
    let contents = if metadata.is_file() {
        let mut hasher = DefaultHasher::new();
        hasher.write(&fs::read(path)?);
        format!("contents {:016x}", hasher.finish())
    } else if metadata.is_symlink() {
        format!("to {}", fs::read_link(path)?.display())
    } else {
        String::new()
    };
    Ok(format!(
        "mode {:o}, {} links, {} bytes, {contents}, {}",
        metadata.mode(),
        metadata.nlink(),
        metadata.len(),
        attributes(path)?
    ))
}

/// All extended attributes with their values, sorted.
fn attributes(path: &Path) -> Result<String> {
    let mut names = vec![0; 4096];
    let len = llistxattr(path, names.as_mut_slice())?;
    let names = String::from_utf8_lossy(&names[..len]).into_owned();
    let mut attributes = BTreeMap::new();
    for name in names.split_terminator('\0') {
        let mut value = vec![0; 4096];
        let len = lgetxattr(path, name, value.as_mut_slice())?;
        attributes.insert(name.to_owned(), value[..len].len());
    }
    Ok(format!("{attributes:?}"))
}
