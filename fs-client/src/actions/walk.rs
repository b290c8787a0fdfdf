//! The files that an action is for: those that were named, and all below the directories among them.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{BufRead as _, BufReader, Read};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rampool_cli::plain::plain;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use walkdir::WalkDir;

use crate::failure::Failure;
use crate::mounts::Ours;

/// A file of a mount.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    /// Its length when it was found.
    pub(super) size: u64,
    /// The device that it was found on, below a directory; none if it was named itself.
    pub(super) found_on: Option<u64>,
}

/// What was named.
pub(super) struct Paths {
    named: Vec<PathBuf>,
    /// What is said of a file that is not there when its turn comes, rather than of all at once.
    ours: Ours,
}

impl Entry {
    /// Opens it to read. Whoever may change the tree meanwhile, or a directory above it, leads nowhere else: what is found
    /// there now is looked at before it is opened, and must be a regular file on the same filesystem.
    pub(super) fn open(&self) -> Result<File, Errno> {
        let links = if self.found_on.is_none() { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::PATH | OFlags::CLOEXEC | links;
        let there = File::from(openat(CWD, &self.path, flags, Mode::empty())?);
        let found =
            there.metadata().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        if !found.is_file() || self.found_on.is_some_and(|device| device != found.dev()) {
            return Err(Errno::STALE);
        }
        let path = format!("/proc/self/fd/{}", there.as_raw_fd());
        Ok(File::from(openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
    }
}

impl Paths {
    /// Those named in words, and in a file's lines; `-` is standard input.
    ///
    /// # Errors
    /// A word that is on no mount of ours; the list cannot be read.
    pub(super) fn new(words: &[PathBuf], list: Option<&Path>) -> Result<Self, Failure> {
        let ours = Ours::now();
        for path in words {
            check(&ours, path).map_err(Failure::usage)?;
        }
        let mut named = words.to_vec();
        if let Some(list) = list {
            let cannot = |error: std::io::Error| {
                Failure::usage(format!("--from-list {}: {}", list.display(), plain(&error)))
            };
            let lines: Box<dyn Read> = match list.to_str() {
                Some("-") => Box::new(std::io::stdin()),
                _ => Box::new(File::open(list).map_err(cannot)?),
            };
            for line in BufReader::new(lines).split(b'\n') {
                let line = line.map_err(cannot)?;
                if !line.is_empty() {
                    named.push(OsString::from_vec(line).into());
                }
            }
        }
        Ok(Self { named, ours })
    }

    /// All regular files, each directory's in the order of their names, or why one could not be found. Links are not followed, but
    /// for those named, and no other mount is entered.
    pub(super) fn files(&self) -> impl Iterator<Item = Result<Entry, String>> {
        self.named.iter().flat_map(|path| {
            let bad = check(&self.ours, path).err().map(Err);
            let walk = bad
                .is_none()
                .then(|| WalkDir::new(path).same_file_system(true).sort_by_file_name().into_iter());
            let found = walk.into_iter().flatten().filter_map(|entry| match entry {
                Ok(entry) if entry.depth() == 0 && !entry.file_type().is_dir() => {
                    named(entry.into_path())
                }
                Ok(entry) if entry.file_type().is_file() => {
                    let found = entry.metadata().map_err(|error| plain(&error));
                    Some(found.map(|found| Entry {
                        path: entry.into_path(),
                        size: found.len(),
                        found_on: Some(found.dev()),
                    }))
                }
                Ok(_) => None,
                Err(error) => Some(Err(plain(&error))),
            });
            bad.into_iter().chain(found)
        })
    }
}

/// What was named and is no directory; a link to a directory was walked.
fn named(path: PathBuf) -> Option<Result<Entry, String>> {
    let found: std::io::Result<Metadata> = std::fs::metadata(&path);
    match found {
        Ok(found) if found.is_file() => Some(Ok(Entry { path, size: found.len(), found_on: None })),
        Ok(found) if found.is_dir() => None,
        Ok(_) => Some(Err(format!("{}: is no regular file", path.display()))),
        Err(error) => Some(Err(format!("{}: {}", path.display(), plain(&error)))),
    }
}

/// Whether a path is there, and on a mount of ours.
fn check(ours: &Ours, path: &Path) -> Result<(), String> {
    let found = std::fs::canonicalize(path)
        .map_err(|error| format!("{}: {}", path.display(), plain(&error)))?;
    if !ours.hold(&found) {
        return Err(format!(
            "{} is on no mount of rampool; 'rampool status' shows what is mounted",
            path.display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_was_replaced_meanwhile_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        symlink("file", path("link")).unwrap();
        rustix::fs::mkfifoat(CWD, path("fifo"), Mode::RUSR).unwrap();
        let open =
            |name: &str, found_on| Entry { path: path(name), size: 0, found_on }.open().map(drop);
        let here = Some(std::fs::metadata(dir.path()).unwrap().dev());
        assert_eq!([open("file", here), open("link", None)], [Ok(()), Ok(())]);
        assert_eq!(open("link", here), Err(Errno::STALE));
        // It does not wait for a writer.
        assert_eq!(open("fifo", here), Err(Errno::STALE));
        // By a directory above it that leads elsewhere.
        symlink("/proc/self", path("elsewhere")).unwrap();
        assert_eq!(open("elsewhere/status", here), Err(Errno::STALE));
    }
}
