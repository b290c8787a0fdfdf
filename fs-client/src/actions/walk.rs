//! The files that an action is for: those that were named, and all below the directories among them.

use std::fs::Metadata;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::failure::Failure;
use crate::mounts;
use rampool_cli::plain::plain;

/// A file, or why it could not be found.
pub(super) type Found = Result<(PathBuf, Metadata), String>;

/// What was named.
pub(super) struct Paths(Vec<PathBuf>);

impl Paths {
    /// Those named in words, and in a file's lines; `-` is standard input.
    pub(super) fn new(named: &[PathBuf], list: Option<&Path>) -> Result<Self, Failure> {
        let mut paths = named.to_vec();
        if let Some(list) = list {
            let cannot = |error: std::io::Error| {
                Failure::usage(format!("--from-list {}: {}", list.display(), plain(&error)))
            };
            let lines: Box<dyn Read> = match list.to_str() {
                Some("-") => Box::new(std::io::stdin()),
                _ => Box::new(std::fs::File::open(list).map_err(cannot)?),
            };
            for line in BufReader::new(lines).lines() {
                let line = line.map_err(cannot)?;
                if !line.is_empty() {
                    paths.push(line.into());
                }
            }
        }
        for path in &paths {
            let found = std::fs::canonicalize(path).map_err(|error| {
                Failure::usage(format!("{}: {}", path.display(), plain(&error)))
            })?;
            if mounts::holding(&found).is_none() {
                return Err(Failure::usage(format!(
                    "{} is on no mount of rampool; 'rampool status' shows what is mounted",
                    path.display()
                )));
            }
        }
        Ok(Self(paths))
    }

    /// All regular files, each directory's in the order of their names. Links are not followed, but for those named, and no other
    /// mount is entered.
    pub(super) fn files(&self) -> impl Iterator<Item = Found> {
        self.0.iter().flat_map(|path| {
            let walk = WalkDir::new(path).same_file_system(true).sort_by_file_name();
            walk.into_iter().filter_map(|entry| match entry {
                Ok(entry) => match std::fs::metadata(entry.path()) {
                    // A link that was named.
                    Ok(found) if found.is_file() && entry.depth() == 0 => {
                        Some(Ok((entry.into_path(), found)))
                    }
                    Ok(found) if entry.file_type().is_file() => {
                        Some(Ok((entry.into_path(), found)))
                    }
                    _ => None,
                },
                Err(error) => Some(Err(error.to_string())),
            })
        })
    }
}
