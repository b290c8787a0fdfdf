//! Whether two directories hold the same, byte for byte.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

const CHUNK_BYTES: usize = 1 << 20;

type Check = std::result::Result<(), String>;

/// Compares names, types, modes, owners, sizes, link counts, targets, attributes and contents.
/// Says where they differ first.
pub(super) fn difference(expected: &Path, seen: &Path) -> Check {
    if expected == seen {
        return Ok(());
    }
    directories(expected, seen)
}

fn directories(expected: &Path, seen: &Path) -> Check {
    let (expected_names, seen_names) = (names(expected)?, names(seen)?);
    if expected_names != seen_names {
        return Err(format!(
            "{}: {:?} instead of {:?}",
            seen.display(),
            seen_names.keys(),
            expected_names.keys()
        ));
    }
    for name in expected_names.keys() {
        entries(&expected.join(name), &seen.join(name))?;
    }
    Ok(())
}

fn names(dir: &Path) -> std::result::Result<BTreeMap<OsString, ()>, String> {
    let read = || fs::read_dir(dir)?.map(|entry| Ok((entry?.file_name(), ()))).collect();
    let result: std::io::Result<_> = read();
    result.map_err(|error| format!("{}: {error}", dir.display()))
}

fn entries(expected: &Path, seen: &Path) -> Check {
    let failed = |error: std::io::Error| format!("{}: {error}", seen.display());
    let of_expected = fs::symlink_metadata(expected).map_err(failed)?;
    let of_seen = fs::symlink_metadata(seen).map_err(failed)?;
    let (wanted, got) = (facts(&of_expected), facts(&of_seen));
    if wanted != got {
        return Err(format!("{}: {got} instead of {wanted}", seen.display()));
    }
    let kind = of_expected.file_type();
    if kind.is_dir() {
        directories(expected, seen)
    } else if kind.is_symlink() {
        let (wanted, got) =
            (fs::read_link(expected).map_err(failed)?, fs::read_link(seen).map_err(failed)?);
        same_or(wanted == got, || format!("{}: points to {got:?}, not {wanted:?}", seen.display()))
    } else if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device()
    {
        Ok(())
    } else {
        contents(expected, seen)
    }
}

fn facts(of: &Metadata) -> String {
    // The size and link count of a directory are the filesystem's own business, but these two
    // are of the same filesystem.
    let (mode, size, links) = (of.mode(), of.size(), of.nlink());
    let mtime = (of.mtime(), of.mtime_nsec());
    format!("mode {mode:o}, {}:{}, size {size}, {links} links, {mtime:?}", of.uid(), of.gid())
}

fn contents(expected: &Path, seen: &Path) -> Check {
    let open =
        |path: &Path| File::open(path).map_err(|error| format!("{}: {error}", path.display()));
    let (mut expected, mut through) = (open(expected)?, open(seen)?);
    let (mut wanted, mut got) = (Vec::new(), Vec::new());
    let mut offset = 0;
    loop {
        let failed = |error: std::io::Error| format!("{} at {offset}: {error}", seen.display());
        read_chunk(&mut expected, &mut wanted).map_err(failed)?;
        read_chunk(&mut through, &mut got).map_err(failed)?;
        if let Some(place) = wanted.iter().zip(&got).position(|(wanted, got)| wanted != got) {
            return Err(format!("{}: differs from byte {}", seen.display(), offset + place));
        }
        same_or(wanted.len() == got.len(), || {
            format!("{}: ends too early or too late", seen.display())
        })?;
        if wanted.is_empty() {
            return Ok(());
        }
        offset += wanted.len();
    }
}

fn read_chunk(file: &mut impl Read, chunk: &mut Vec<u8>) -> std::io::Result<()> {
    chunk.clear();
    file.take(CHUNK_BYTES as u64).read_to_end(chunk)?;
    Ok(())
}

fn same_or(same: bool, why: impl FnOnce() -> String) -> Check {
    if same { Ok(()) } else { Err(why()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_difference_is_found() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let both = |name: &str, left: &str, right: &str| {
            for (dir, text) in [(&a, left), (&b, right)] {
                let path = dir.path().join(name);
                fs::write(&path, text).unwrap();
                File::open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
            }
        };
        both("f", "same", "same");
        assert_eq!(difference(a.path(), b.path()), Ok(()));
        both("f", "same", "shame");
        assert!(difference(a.path(), b.path()).unwrap_err().contains("size 5"));
        both("f", "same", "sane");
        assert!(difference(a.path(), b.path()).unwrap_err().ends_with("from byte 2"));
        both("f", "same", "same");
        fs::write(b.path().join("g"), "").unwrap();
        assert!(difference(a.path(), b.path()).unwrap_err().contains("\"g\""));
    }
}
