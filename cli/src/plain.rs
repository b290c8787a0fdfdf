//! Errors as people read them.

use std::fmt::Display;

/// Without the numbers that Rust adds to the errors of the system.
pub fn plain(error: impl Display) -> String {
    const BEGINS: &str = " (os error ";
    let mut text = error.to_string();
    let mut from = 0;
    while let Some(begin) = text[from..].find(BEGINS).map(|at| from + at) {
        let number = begin + BEGINS.len();
        let rest = text[number..].trim_start_matches(|c: char| c.is_ascii_digit());
        let end = text.len() - rest.len();
        from = number;
        if rest.starts_with(')') {
            text.replace_range(begin..=end, "");
            from = begin;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_system_are_left_out() {
        let gone = std::io::Error::from_raw_os_error(2);
        assert_eq!(plain(&gone), "No such file or directory");
        assert_eq!(plain(format!("/a: {gone}; /b: {gone}!")), {
            "/a: No such file or directory; /b: No such file or directory!"
        });
        for text in ["", "a (os error b)", "a (os error 2", "(os error 2)"] {
            assert_eq!(plain(text), text);
        }
    }
}
