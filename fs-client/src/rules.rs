//! Which files are cached: patterns over their places in the source.

use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use parking_lot::RwLock;
use rustix::fs::FileType;

use crate::inodes::Inode;
use crate::sync::atomic::Ordering;

/// The patterns of a mount, which may be changed while it is used: then they hold for a file when it is looked up again.
#[derive(Debug)]
pub(crate) struct Rules {
    /// The source, as the system names it.
    root: PathBuf,
    patterns: RwLock<Option<Arc<Patterns>>>,
}

/// What is included, and of that what is not.
#[derive(Clone, Debug)]
pub(crate) struct Patterns {
    include: Option<Gitignore>,
    exclude: Gitignore,
}

impl Patterns {
    /// Patterns as in .gitignore. None if there are none, so that everything is included.
    ///
    /// # Errors
    /// Says which option's pattern is none.
    pub(crate) fn new(include: &[String], exclude: &[String]) -> Result<Option<Self>, String> {
        if include.is_empty() && exclude.is_empty() {
            return Ok(None);
        }
        let include = (!include.is_empty()).then(|| compile("--include", include)).transpose()?;
        Ok(Some(Self { include, exclude: compile("--exclude", exclude)? }))
    }

    /// Whether the file at this place in the source is cached.
    fn includes(&self, place: &Path) -> bool {
        let matches = |of: &Gitignore| of.matched_path_or_any_parents(place, false).is_ignore();
        self.include.as_ref().is_none_or(matches) && !matches(&self.exclude)
    }
}

fn compile(option: &str, patterns: &[String]) -> Result<Gitignore, String> {
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        let is_none = pattern.trim().is_empty() || pattern.starts_with('#');
        if is_none {
            return Err(format!("{option} '{pattern}' is no pattern"));
        }
        builder
            .add_line(None, pattern)
            .map_err(|error| format!("{option} '{pattern}': {error}"))?;
    }
    builder.build().map_err(|error| format!("{option}: {error}"))
}

impl Rules {
    /// For the source that is open as `root`.
    pub(crate) fn new(root: BorrowedFd<'_>, patterns: Option<Patterns>) -> Self {
        Self {
            root: place(root).unwrap_or_default(),
            patterns: RwLock::new(patterns.map(Arc::new)),
        }
    }

    /// Has these patterns hold from now on.
    pub(crate) fn set(&self, patterns: Option<Patterns>) {
        *self.patterns.write() = patterns.map(Arc::new);
    }

    /// Notes whether a file, which was just found as `name` in `directory`, is cached.
    pub(crate) fn apply(&self, inode: &Inode, directory: BorrowedFd<'_>, name: &CStr) {
        if inode.file_type != FileType::RegularFile {
            return;
        }
        let patterns = self.patterns.read().clone();
        let is_excluded = patterns.is_some_and(|patterns| {
            let name = std::ffi::OsStr::from_bytes(name.to_bytes());
            let place = place(directory).map(|directory| directory.join(name));
            // What the system has no name for is cached, as everything is by itself.
            let place = place.as_deref().and_then(|place| place.strip_prefix(&self.root).ok());
            place.is_some_and(|place| !patterns.includes(place))
        });
        inode.is_excluded.store(is_excluded, Ordering::Relaxed);
    }
}

/// The path of what is open (proc(5)).
pub(crate) fn place(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn includes(include: &[&str], exclude: &[&str], place: &str) -> bool {
        let owned =
            |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
        let patterns = Patterns::new(&owned(include), &owned(exclude)).unwrap();
        patterns.is_none_or(|patterns| patterns.includes(Path::new(place)))
    }

    #[test]
    fn patterns_are_those_of_gitignore() {
        assert!(includes(&[], &[], "a"));
        assert!(!includes(&[], &["*.log"], "a/b.log") && includes(&[], &["*.log"], "a/b.logs"));
        assert!(!includes(&[], &["/tmp/"], "tmp/a/b") && includes(&[], &["/tmp/"], "x/tmp/a"));
        assert!(includes(&["/db"], &[], "db/a/b") && !includes(&["/db"], &[], "x/db"));
        assert!(!includes(&["/db"], &["wal-*"], "db/wal-1"), "excluding goes before");
        assert!(includes(&[], &["*.log", "!keep.log"], "a/keep.log"));
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_its_option() {
        for bad in ["", "# a", "a{b"] {
            let error = Patterns::new(&[], &[bad.to_owned()]).unwrap_err();
            assert!(error.starts_with("--exclude"), "{error}");
        }
    }
}
