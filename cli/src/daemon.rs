//! A daemon of this machine, found by its status socket.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A running process, by a descriptor, because numbers of processes are used again.
#[derive(Debug)]
pub struct Daemon {
    pid: Pid,
    process: OwnedFd,
}

impl Daemon {
    /// The one that serves the status socket at `path`.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` when there is none; `ESRCH` when it has just ended; when it is in another
    /// process namespace.
    pub fn at(path: &Path) -> io::Result<Self> {
        let pid = served_by(&UnixStream::connect(path)?)?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pid, process })
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// `ESRCH` when it has ended, `EPERM` when it is somebody else's.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.process, signal)?)
    }

    /// Waits until it has ended, for so long at most; None for ever. Says whether it has.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn wait(&self, at_most: Option<Duration>) -> io::Result<bool> {
        let began = Instant::now();
        loop {
            let left = at_most.map(|at_most| at_most.saturating_sub(began.elapsed()));
            let left = left.map(|left| Timespec::try_from(left).expect("not for centuries"));
            let mut ends = [PollFd::new(&self.process, PollFlags::IN)];
            match poll(&mut ends, left.as_ref()) {
                Ok(ended) => return Ok(ended > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The process at the other end of a status socket.
fn served_by(peer: &UnixStream) -> io::Result<Pid> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: a socket of ours, and room for as many bytes as `len` says, which both outlive the call.
    // rustix would take a process that cannot be seen, number 0, for a Pid, which it cannot be.
    let done = unsafe {
        libc::getsockopt(
            peer.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut len,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Pid::from_raw(credentials.pid)
        .ok_or_else(|| io::Error::other("its process cannot be seen from here"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_daemon_is_found_by_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.sock");
        assert_eq!(Daemon::at(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = Daemon::at(&path).unwrap();
        assert_eq!(daemon.pid(), std::process::id());
        assert!(!daemon.wait(Some(Duration::from_millis(1))).unwrap(), "it lives");
        drop(listener);
        assert_eq!(Daemon::at(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
