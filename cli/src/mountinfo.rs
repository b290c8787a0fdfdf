//! Paths as `/proc/self/mountinfo` shows them (proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// What would end a field is written as a backslash and three octal digits.
pub fn escape(path: &Path) -> String {
    path.to_string_lossy()
        .replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012")
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
    }
}
