//! Paths as `/proc/self/mountinfo` shows them (proc(5)).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// The table of this process, as text: of names that are none, the bytes are escaped.
///
/// # Errors
/// Those of reading it.
pub fn table() -> io::Result<String> {
    Ok(as_text(&fs::read("/proc/self/mountinfo")?, str::to_owned))
}

/// A path as [`table`] has it: what would end a field, or is no text, is written as a backslash and three octal digits.
pub fn escape(path: &Path) -> String {
    as_text(path.as_os_str().as_bytes(), |text| {
        text.replace('\\', "\\134")
            .replace(' ', "\\040")
            .replace('\t', "\\011")
            .replace('\n', "\\012")
    })
}

fn as_text(bytes: &[u8], part: impl Fn(&str) -> String) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(&part(chunk.valid()));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\{byte:03o}"));
        }
    }
    text
}

/// The reverse.
pub fn unescape(text: &str) -> PathBuf {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        path.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_paths_come_back() {
        for path in ["/a b", "/a\\b\\040", "/tab\tline\nend ", "/", "/é"] {
            let escaped = escape(Path::new(path));
            assert!(!escaped.contains([' ', '\t', '\n']), "{escaped}");
            assert_eq!(unescape(&escaped), Path::new(path));
        }
        assert_eq!(unescape("/a\\x2db\\"), Path::new("/a\\x2db\\"), "no octal digits");
        let no_text = Path::new(std::ffi::OsStr::from_bytes(b"/\xe4 \xff"));
        assert_eq!(escape(no_text), "/\\344\\040\\377");
        assert_eq!(unescape(&escape(no_text)), no_text);
        assert!(table().unwrap().lines().count() > 0);
    }
}
