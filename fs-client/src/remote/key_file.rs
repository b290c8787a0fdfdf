//! A file with the secret of a mount: with it, a later run finds the blocks of an earlier one. And so does whoever
//! else can read it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::seal::Secret;

/// When a mount is gone its process is not yet: it is given so long to save what it knows.
const FORMER_ENDS: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The file, which nobody else uses while this exists.
pub(crate) struct KeyFile {
    pub(super) secret: Secret,
    path: PathBuf,
    _locked: File,
}

impl KeyFile {
    /// Reads the file at `path`, or makes it.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let failed = |what: &str, error: io::Error| format!("{what} {shown}: {error}");
        let mut options = File::options();
        // Not truncated: whose it is shows when it is locked.
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(|error| failed("cannot open", error))?;
        let start = Instant::now();
        while let Err(error) = file.try_lock() {
            match error {
                TryLockError::WouldBlock if start.elapsed() < FORMER_ENDS => {
                    thread::sleep(LOOK_EVERY);
                }
                TryLockError::WouldBlock => {
                    return Err(format!("{shown} is another mount's, which is running"));
                }
                TryLockError::Error(error) => return Err(failed("cannot lock", error)),
            }
        }
        let metadata = file.metadata().map_err(|error| failed("cannot look at", error))?;
        let mode = metadata.permissions().mode() & 0o777;
        if !metadata.is_file() {
            return Err(format!("{shown} is no file"));
        }
        if mode & 0o077 != 0 {
            return Err(format!(
                "{shown} can be read by others (mode {mode:03o}); run: chmod 600 {shown}"
            ));
        }
        let mut text = String::new();
        (&mut file)
            .take(4096)
            .read_to_string(&mut text)
            .map_err(|error| failed("cannot read", error))?;
        let secret = if text.is_empty() {
            let secret = Secret::random();
            let written = writeln!(file, "{}", hex(secret.bytes())).and_then(|()| file.sync_all());
            written.map_err(|error| failed("cannot write", error))?;
            secret
        } else {
            let bytes = from_hex(text.trim_end());
            bytes.map(Secret::from_bytes).ok_or_else(|| {
                format!("{shown} holds no key of a mount; give the name of a new file")
            })?
        };
        let path = fs::canonicalize(path).map_err(|error| failed("cannot find", error))?;
        Ok(Self { secret, path, _locked: file })
    }

    /// Where what the secret is of use for is written down.
    pub(super) fn state_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".lent");
        path.into()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_read_again_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let first = KeyFile::open(&path).unwrap();
        let why = KeyFile::open(&path).err().unwrap();
        assert!(why.ends_with("is another mount's, which is running"), "{why}");
        let secret = *first.secret.bytes();
        drop(first);
        assert_eq!(*KeyFile::open(&path).unwrap().secret.bytes(), secret);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_no_key_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for text in ["precious".to_owned(), "0".repeat(63), "g".repeat(64), "é".repeat(32)] {
            fs::write(&path, &text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(KeyFile::open(&path).is_err());
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let why = KeyFile::open(&path).err().unwrap();
        assert!(why.contains("mode 640"), "{why}");
        assert!(KeyFile::open(dir.path()).is_err());
    }
}
