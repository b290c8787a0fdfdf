//! How a daemon tells about itself, and is told what to do: JSON over a Unix socket.
//!
//! Whoever connects writes a line and is answered with one document, upon which the connection is closed. An empty line
//! asks for the daemon's status. The socket is its owner's alone (mode 0600).

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A peer that does not write its line or take its document within this time is left.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);

/// No line is longer.
const LINE_MAX: u64 = 4096;

/// More peers at once are not answered.
const PEERS_MAX: usize = 16;

/// A status socket that is being served. Dropping it ends the service and removes the file.
#[derive(Debug)]
pub struct StatusSocket {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl StatusSocket {
    /// Serves what `answer` makes of a line at `path`, from threads of its own.
    ///
    /// # Errors
    /// `AddrInUse` when a living daemon serves there; a socket that a dead one left is replaced.
    pub fn serve(
        path: PathBuf,
        answer: impl Fn(&str, &Asker<'_>) -> String + Send + Sync + 'static,
    ) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            make_private_directory(dir)?;
        }
        if UnixStream::connect(&path).is_ok() {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;

        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let answer = Arc::new(answer);
        let server = thread::Builder::new().name("status".to_owned()).spawn(move || {
            for peer in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                // What answers may be told to end, and must not be kept by those who were asking.
                let (asked, serving) = (Arc::downgrade(&answer), Arc::strong_count(&answer));
                let Ok(peer) = peer else {
                    // No descriptors, perhaps; it may pass.
                    thread::sleep(Duration::from_millis(100));
                    continue;
                };
                if serving > PEERS_MAX {
                    continue;
                }
                let _ = thread::Builder::new().name("asked".to_owned()).spawn(move || {
                    // A peer that goes away early is its own affair.
                    if let Some(answer) = asked.upgrade() {
                        let _ = respond(peer, &*answer);
                    }
                });
            }
        })?;
        Ok(Self { path, stop, server: Some(server) })
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // The thread waits in accept(2): a connection of our own wakes it.
        let woken = UnixStream::connect(&self.path).is_ok();
        if let Some(server) = self.server.take()
            && woken
        {
            let _ = server.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// Who waits for an answer.
#[derive(Debug)]
pub struct Asker<'a>(&'a UnixStream);

impl Asker<'_> {
    /// Whether nobody waits any more.
    pub fn is_gone(&self) -> bool {
        // Asked for or not: that both directions are closed, or that it is broken. Who only has nothing more to say waits.
        let mut fds = [PollFd::new(self.0, PollFlags::empty())];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
    }
}

fn respond(mut peer: UnixStream, answer: &dyn Fn(&str, &Asker<'_>) -> String) -> io::Result<()> {
    peer.set_read_timeout(Some(PEER_TIMEOUT))?;
    peer.set_write_timeout(Some(PEER_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new((&peer).take(LINE_MAX)).read_line(&mut line)?;
    let document = answer(line.trim(), &Asker(&peer));
    peer.write_all(document.as_bytes())
}

/// Reads the status of the daemon at `path`.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when no daemon is there.
pub fn fetch(path: &Path) -> io::Result<String> {
    ask(path, "", Duration::ZERO)
}

/// Writes a line to the daemon at `path`, and reads its answer, which it takes so long for.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when no daemon is there.
pub fn ask(path: &Path, line: &str, takes: Duration) -> io::Result<String> {
    let mut peer = UnixStream::connect(path)?;
    peer.set_read_timeout(Some(PEER_TIMEOUT + takes))?;
    peer.write_all(format!("{line}\n").as_bytes())?;
    let mut document = String::new();
    peer.read_to_string(&mut document)?;
    Ok(document)
}

/// Where this user's daemons have their sockets: `/run/rampool` for root, else
/// `$XDG_RUNTIME_DIR/rampool`, else a directory under `/tmp` that carries the user's number.
pub fn directory(uid: u32) -> PathBuf {
    if uid == 0 {
        return PathBuf::from("/run/rampool");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("rampool"),
        _ => PathBuf::from(format!("/tmp/rampool-{uid}")),
    }
}

/// Makes `dir` with mode 0700, or finds it. One that is not a directory of ours is refused: under
/// `/tmp` anybody could have put it there.
fn make_private_directory(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Ok(()) => fs::set_permissions(dir, fs::Permissions::from_mode(0o700)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(dir)?;
            let ours = fs::metadata("/proc/self").map_or(found.uid(), |own| own.uid());
            if found.is_dir() && found.uid() == ours {
                Ok(())
            } else {
                Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!("{} is not a directory of ours", dir.display()),
                ))
            }
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_served_until_the_socket_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/status.sock");
        let socket = StatusSocket::serve(path.clone(), |line, _| format!("[{line}]")).unwrap();
        assert_eq!(fetch(&path).unwrap(), "[]");
        assert_eq!(ask(&path, "more", Duration::ZERO).unwrap(), "[more]");
        let second = StatusSocket::serve(path.clone(), |line, _| line.to_owned());
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert_eq!(fetch(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn who_goes_away_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.sock");
        let (tell, told) = std::sync::mpsc::channel();
        let _socket = StatusSocket::serve(path.clone(), move |_, asker| {
            tell.send(asker.is_gone()).unwrap();
            while !asker.is_gone() {
                thread::sleep(Duration::from_millis(1));
            }
            tell.send(true).unwrap();
            String::new()
        })
        .unwrap();
        let mut peer = UnixStream::connect(&path).unwrap();
        peer.write_all(b"\n").unwrap();
        assert!(!told.recv().unwrap());
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(told.recv_timeout(Duration::from_millis(50)).is_err(), "it still reads");
        drop(peer);
        assert!(told.recv().unwrap());
    }

    #[test]
    fn a_socket_that_a_dead_daemon_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.sock");
        drop(UnixListener::bind(&path).unwrap());
        let _socket = StatusSocket::serve(path.clone(), |_, _| "new".to_owned()).unwrap();
        assert_eq!(fetch(&path).unwrap(), "new");
    }
}
