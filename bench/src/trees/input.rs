//! What is extracted and cloned: an archive of small files and a repository.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::binaries::output;
use crate::scratch::Scratch;

/// Lengths of the files, each as often as the others.
const LENGTHS: [usize; 5] = [200, 900, 2000, 4000, 9000];
const FILES_A_DIRECTORY: u32 = 100;
const DIRECTORIES_A_DIRECTORY: u32 = 25;
/// Files of the generated repository.
const REPOSITORY_FILES: u32 = 3000;

/// The directory at the top of the archive.
pub(super) const TOP: &str = "small";

/// A record of an archive, and the unit of its contents.
const RECORD_BYTES: usize = 512;

/// Writes an archive of `files` small files.
pub(super) fn archive(scratch: &Scratch, name: &str, files: u32) -> Result<PathBuf> {
    let path = scratch.join(name);
    write_archive(&path, files)
        .with_context(|| format!("cannot write the archive {}", path.display()))?;
    Ok(path)
}

/// Makes a repository with one commit.
pub(super) fn repository(scratch: &Scratch) -> Result<PathBuf> {
    let path = scratch.join("repository");
    std::fs::create_dir(&path)?;
    let archive = archive(scratch, "repository.tar", REPOSITORY_FILES)?;
    let mut tar = Command::new("tar");
    tar.arg("xf").arg(&archive).arg("-C").arg(&path);
    output(tar)?;
    std::fs::remove_file(archive)?;
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(&path).args([
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@localhost",
        ]);
        git.args(arguments);
        output(git).context("cannot make a repository to clone")
    };
    git(&["init", "-q"])?;
    git(&["add", "."])?;
    git(&["commit", "-q", "-m", "files"])?;
    git(&["gc", "-q"])?;
    Ok(path)
}

fn write_archive(path: &Path, files: u32) -> std::io::Result<()> {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut archive = BufWriter::new(File::create(path)?);
    archive.write_all(&header(&format!("{TOP}/"), 0, b'5'))?;
    let mut directory = String::new();
    for number in 0..files {
        let (d, f) = (number / FILES_A_DIRECTORY, number % FILES_A_DIRECTORY);
        let upper = d / DIRECTORIES_A_DIRECTORY;
        if f == 0 {
            if d % DIRECTORIES_A_DIRECTORY == 0 {
                archive.write_all(&header(&format!("{TOP}/d{upper}/"), 0, b'5'))?;
            }
            directory = format!("{TOP}/d{upper}/e{d}/");
            archive.write_all(&header(&directory, 0, b'5'))?;
        }
        let len = LENGTHS[rng.random_range(0..LENGTHS.len())];
        archive.write_all(&header(&format!("{directory}f{f}"), len, b'0'))?;
        let mut contents = vec![0; len.next_multiple_of(RECORD_BYTES)];
        rng.fill_bytes(&mut contents[..len]);
        archive.write_all(&contents)?;
    }
    archive.write_all(&[0; 2 * RECORD_BYTES])?;
    archive.into_inner()?.sync_all()
}

/// A header as POSIX (ustar) has it.
fn header(name: &str, len: usize, kind: u8) -> [u8; RECORD_BYTES] {
    let mut header = [0; RECORD_BYTES];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name);
    put(100, if kind == b'5' { "0000755" } else { "0000644" });
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{len:011o}"));
    put(136, &format!("{:011o}", 1_700_000_000));
    put(148, "        ");
    put(257, "ustar\x0000");
    header[156] = kind;
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_understands_the_archive() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let archive = archive(&scratch, "a.tar", 250).unwrap();
        let mut tar = Command::new("tar");
        tar.arg("tvf").arg(archive);
        let listed = output(tar).unwrap();
        assert_eq!(listed.lines().filter(|line| line.starts_with('-')).count(), 250);
        assert_eq!(listed.lines().filter(|line| line.starts_with('d')).count(), 5);
        assert!(listed.contains("small/d0/e2/f49"));
    }
}
