//! What a program shows on stdout and says on stderr.

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

/// Writes a line to stderr, if it can be: a log's disk may be full, which must not end a program, as it would with
/// `eprintln!`.
#[macro_export]
macro_rules! say {
    ($($line:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::writeln!(::std::io::stderr(), $($line)*);
    }};
}
