//! `-d`: return when the mount answers, go on in the background.
//!
//! The program starts itself once more; that process mounts and says so through a pipe. Nothing
//! is forked in the middle, so no thread or lock is lost.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::failure::Failure;
use crate::helper;

/// Starts the mount in the background and waits until it answers or has failed; its own words
/// are on stderr then.
pub(crate) fn start() -> Result<ExitCode, Failure> {
    let system =
        |error: std::io::Error| Failure::system(format!("cannot go on in the background: {error}"));
    let (ready, tells) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| system(error.into()))?;
    fcntl_setfd(&tells, FdFlags::empty()).map_err(|error| system(error.into()))?;
    let program = std::env::current_exe().map_err(system)?;
    let mut child = Command::new(program)
        .args(helper::arguments(std::env::args_os()).iter().skip(1))
        .arg(format!("--ready-fd={}", tells.as_raw_fd()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(system)?;
    drop(tells);
    let mut word = Vec::new();
    let read = File::from(ready).read_to_end(&mut word);
    if read.is_ok() && !word.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait().map_err(system)?;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(2))),
        (None, signal) => Err(Failure::system(format!(
            "the mount was ended by signal {} before it answered",
            signal.unwrap_or(0)
        ))),
    }
}

/// A stream whose lines go to systemd's journal, as sd_journal_stream_fd(3) makes it.
fn journal() -> std::io::Result<UnixStream> {
    const INFO: u8 = 6;
    let mut stream = UnixStream::connect("/run/systemd/journal/stdout")?;
    stream.shutdown(Shutdown::Read)?;
    // Identifier, unit, priority, whether lines have one of their own, and where else they are to go.
    stream.write_all(format!("rampool\n\n{INFO}\n0\n0\n0\n0\n").as_bytes())?;
    Ok(stream)
}

/// The pipe through which the background process says that the mount answers.
#[derive(Debug)]
pub(crate) struct Ready(OwnedFd);

impl Ready {
    /// Takes over the descriptor that [`start`] left open.
    pub(crate) fn from_number(number: i32) -> Result<Self, Failure> {
        let refuse = || Failure::usage("--ready-fd is for the program itself");
        if number <= 2 {
            return Err(refuse());
        }
        // SAFETY: F_GETFD on any number is harmless; a bad one is refused by the kernel.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            return Err(refuse());
        }
        // SAFETY: as above. fusermount3, which may be started, has no use for it.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        // SAFETY: the descriptor is open and was left to this process for this purpose alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(number) }))
    }

    /// Says so, and lets go of the terminal.
    pub(crate) fn tell(self) {
        // A session of its own: no signals from the terminal that it was started from. Not before it is mounted: on an
        // automount point all wait for that but systemd's own process group, in which mount(8) was started.
        let _ = rustix::process::setsid();
        if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdin(&null);
            let _ = rustix::stdio::dup2_stdout(&null);
            // Without a journal nobody hears what it has to say from here on.
            let _ = match journal() {
                Ok(journal) => rustix::stdio::dup2_stderr(&journal),
                Err(_) => rustix::stdio::dup2_stderr(&null),
            };
        }
        // The one who waits may have been killed: the mount stands all the same.
        let _ = File::from(self.0).write_all(b"1");
    }
}
