//! The directory that the demo reads: which files it has, and which of them are read at random.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rampool_cli::size::ByteSize;

use crate::binaries::output;
use crate::stop::Stop;

/// What is read at random, in all: several times the local cache.
const RANDOM_BYTES: u64 = 512 << 20;
/// Below it, the local cache holds too much of it for anything to be seen.
const RANDOM_BYTES_MIN: u64 = 256 << 20;
/// Smaller files are not read at random.
const LARGE_BYTES: u64 = 64 << 10;
/// All of them are open at once.
const LARGE_FILES_MAX: usize = 400;
/// A demo is over in two minutes, however large the source.
const LISTING_MAX: Duration = Duration::from_secs(8);
const FILES_MAX: usize = 200_000;

/// A directory and its regular files.
pub(super) struct Source {
    pub(super) root: PathBuf,
    /// The largest first.
    pub(super) files: Vec<SourceFile>,
    /// So many of the first files are read at random.
    pub(super) large: usize,
    /// Whether the listing was cut short.
    pub(super) partial: bool,
}

/// One regular file.
pub(super) struct SourceFile {
    /// From the root.
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

impl Source {
    /// Lists `root`, or the Rust toolchain if there is none.
    pub(super) fn find(root: Option<&Path>, stop: &Stop) -> Result<Self> {
        let root = match root {
            Some(root) => root.to_owned(),
            None => toolchain()?,
        };
        let metadata = fs::metadata(&root).with_context(|| {
            format!("cannot read {}; say which directory with --source", root.display())
        })?;
        if !metadata.is_dir() {
            bail!("{} is not a directory; say which one with --source", root.display());
        }
        let root = fs::canonicalize(root)?;
        let (mut files, partial) = list(&root, metadata.dev(), stop)?;
        files.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
        let large = count_large(&files);
        let random_bytes: u64 = files[..large].iter().map(|file| file.bytes).sum();
        if random_bytes < RANDOM_BYTES_MIN {
            bail!(
                "{} is too small: it has {} in files of 64 KiB and more, and the demo needs {}; \
                 choose a larger directory with --source",
                root.display(),
                ByteSize(random_bytes),
                ByteSize(RANDOM_BYTES_MIN)
            );
        }
        Ok(Self { root, files, large, partial })
    }
}

fn toolchain() -> Result<PathBuf> {
    let mut command = Command::new("rustc");
    command.args(["--print", "sysroot"]);
    let sysroot = output(command)
        .context("cannot find the Rust toolchain; say which directory to read with --source")?;
    Ok(PathBuf::from(sysroot.trim()))
}

/// Regular files on the filesystem `device`; no symbolic link is followed.
fn list(root: &Path, device: u64, stop: &Stop) -> Result<(Vec<SourceFile>, bool)> {
    let start = Instant::now();
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        stop.check()?;
        if start.elapsed() > LISTING_MAX || files.len() > FILES_MAX {
            return Ok((files, true));
        }
        // What cannot be listed cannot be read either.
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != device {
                continue;
            }
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.is_file()
                && let Ok(path) = entry.path().strip_prefix(root)
            {
                files.push(SourceFile { path: path.to_owned(), bytes: metadata.len() });
            }
        }
    }
    Ok((files, false))
}

/// How many of the largest files make up the bytes to be read at random.
fn count_large(files: &[SourceFile]) -> usize {
    let mut sum = 0;
    let large = files.iter().take(LARGE_FILES_MAX).take_while(|file| {
        let wanted = sum < RANDOM_BYTES && file.bytes >= LARGE_BYTES;
        sum += file.bytes;
        wanted
    });
    large.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: u64) -> SourceFile {
        SourceFile { path: PathBuf::from("f"), bytes }
    }

    #[test]
    fn enough_large_files_are_taken_and_no_small_ones() {
        let files = [file(300 << 20), file(200 << 20), file(100 << 20), file(50 << 20)];
        assert_eq!(count_large(&files), 3);
        assert_eq!(count_large(&[file(300 << 20), file(100 << 10), file(1)]), 2);
        assert_eq!(count_large(&[]), 0);
    }

    #[test]
    fn a_source_that_cannot_serve_is_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let stop = Stop::default();
        let refusal = |path: &Path| match Source::find(Some(path), &stop) {
            Ok(_) => panic!("{} was taken", path.display()),
            Err(error) => format!("{error:#}"),
        };
        assert!(refusal(dir.path()).contains("too small"));
        fs::write(dir.path().join("file"), "x").unwrap();
        assert!(refusal(&dir.path().join("file")).contains("not a directory"));
        assert!(refusal(&dir.path().join("none")).contains("cannot read"));
        assert!(!refusal(&dir.path().join("none")).contains('\n'));
    }
}
