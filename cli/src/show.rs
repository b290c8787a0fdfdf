//! What a program shows on stdout.

use std::io::{self, Write as _};

/// Writes `text` to stdout. Whoever reads it may have seen enough and gone.
///
/// # Errors
/// It cannot be written for another reason.
pub fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
