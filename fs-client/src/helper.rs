//! Called by mount(8): as `mount.rampool` or `mount.fuse.rampool`, with the words that it has for such helpers.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Names under which mount(8) looks for the helper of a type of filesystem.
const NAMES: [&str; 2] = ["mount.rampool", "mount.fuse.rampool"];

/// What mount(8) may say beside source, mountpoint and `-o`.
const FLAGS: &[u8] = b"sfnv";

/// The command line as `rampool` reads it, of that with which the program was started.
pub(crate) fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut given: Vec<OsString> = given.collect();
    let name = given.first().map(Path::new).and_then(Path::file_name);
    if !name.is_some_and(|name| NAMES.iter().any(|&known| name == known)) {
        return given;
    }
    let mut arguments: Vec<OsString> = ["rampool", "mount", "--daemon"].map(Into::into).to_vec();
    let mut rest = given.drain(1..);
    while let Some(word) = rest.next() {
        match word.as_bytes() {
            // The type, which the name says already.
            b"-t" => drop(rest.next()),
            [b'-', flags @ ..]
                if !flags.is_empty() && flags.iter().all(|flag| FLAGS.contains(flag)) =>
            {
                arguments.extend(flags.iter().filter_map(|flag| flag_meant(*flag)).map(Into::into));
            }
            _ => arguments.push(word),
        }
    }
    arguments
}

fn flag_meant(flag: u8) -> Option<&'static str> {
    match flag {
        b's' => Some("--sloppy"),
        b'f' => Some("--fake"),
        b'v' => Some("--verbose"),
        // Not to be noted in /etc/mtab: the kernel keeps that.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> String {
        let words = arguments(line.split(' ').map(OsString::from));
        words.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn what_mount_says_is_understood() {
        let start = "rampool mount --daemon";
        assert_eq!(read("/sbin/mount.rampool /a /b"), format!("{start} /a /b"));
        assert_eq!(
            read("/sbin/mount.fuse.rampool /a /b -n -v -o rw,cache_size=1G -t fuse.rampool"),
            format!("{start} /a /b --verbose -o rw,cache_size=1G")
        );
        assert_eq!(read("mount.rampool /a /b -sfn"), format!("{start} /a /b --sloppy --fake"));
        assert_eq!(read("mount.rampool -x /a"), format!("{start} -x /a"));
    }

    #[test]
    fn nothing_else_is_touched() {
        for line in ["rampool mount /a /b -f", "/usr/bin/rampool -t", "umount.rampool /a", ""] {
            assert_eq!(read(line), line);
        }
    }
}
