//! What an authority has issued, and what of that it has revoked.
//!
//! Beside its key an authority has two lists, each a text of lines with fields between tabs, to which lines are only added: `issued`
//! (serial number, role, name, first and last second of validity since 1970, SHA-256 of the key's SubjectPublicKeyInfo)
//! and `revoked` (serial number, second). From both follows `revoked.pem`, the revocation list that members get.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use rampool_protocol::certs::Role;

pub(crate) const ISSUED_FILE: &str = "issued";
pub(crate) const REVOKED_LIST_FILE: &str = "revoked";

/// A certificate of a member that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issued {
    pub(crate) serial: Vec<u8>,
    pub(crate) role: Role,
    pub(crate) name: String,
    pub(crate) times: (SystemTime, SystemTime),
    pub(crate) key: KeyDigest,
}

/// Tells keys apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyDigest(String);

/// A certificate that was revoked, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Revocation {
    pub(crate) serial: Vec<u8>,
    pub(crate) when: SystemTime,
}

impl KeyDigest {
    /// Of a SubjectPublicKeyInfo in DER.
    pub(crate) fn of(key: &[u8]) -> Self {
        Self(HEXLOWER.encode(digest::digest(&digest::SHA256, key).as_ref()))
    }
}

impl Issued {
    /// All that the authority in `dir` has issued.
    ///
    /// # Errors
    /// The list cannot be read, or holds something else.
    pub(crate) fn list(dir: &Path) -> anyhow::Result<Vec<Self>> {
        read_list(&dir.join(ISSUED_FILE), |fields| {
            let &[serial, role, name, from, until, key] = fields else { return None };
            let role = match role {
                "client" => Role::Client,
                "server" => Role::Server,
                _ => return None,
            };
            Some(Self {
                serial: HEXLOWER.decode(serial.as_bytes()).ok()?,
                role,
                name: name.to_owned(),
                times: (time(from)?, time(until)?),
                key: KeyDigest(key.to_owned()),
            })
        })
    }

    /// Adds it to the list of `dir`, for good.
    ///
    /// # Errors
    /// The list cannot be written.
    pub(crate) fn note(&self, dir: &Path) -> anyhow::Result<()> {
        let Self { serial, role, name, times: (from, until), key: KeyDigest(key) } = self;
        let serial = HEXLOWER.encode(serial);
        let line =
            format!("{serial}\t{role}\t{name}\t{}\t{}\t{key}\n", seconds(*from), seconds(*until));
        append(&dir.join(ISSUED_FILE), &line)
    }

    pub(crate) fn is_valid(&self, now: SystemTime) -> bool {
        now < self.times.1
    }
}

impl Revocation {
    /// All that the authority in `dir` has revoked.
    ///
    /// # Errors
    /// The list cannot be read, or holds something else.
    pub(crate) fn list(dir: &Path) -> anyhow::Result<Vec<Self>> {
        read_list(&dir.join(REVOKED_LIST_FILE), |fields| {
            let &[serial, when] = fields else { return None };
            Some(Self { serial: HEXLOWER.decode(serial.as_bytes()).ok()?, when: time(when)? })
        })
    }

    /// Adds it to the list of `dir`, for good.
    ///
    /// # Errors
    /// The list cannot be written.
    pub(crate) fn note(&self, dir: &Path) -> anyhow::Result<()> {
        let line = format!("{}\t{}\n", HEXLOWER.encode(&self.serial), seconds(self.when));
        append(&dir.join(REVOKED_LIST_FILE), &line)
    }
}

fn read_list<T>(path: &Path, parse: impl Fn(&[&str]) -> Option<T>) -> anyhow::Result<Vec<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut all = Vec::new();
    for (n, line) in text[..whole_lines(&text)].lines().enumerate() {
        let fields: Vec<&str> = line.split('\t').collect();
        let parsed = parse(&fields);
        all.push(parsed.with_context(|| {
            format!("{}:{}: that is no line of such a list", path.display(), n + 1)
        })?);
    }
    Ok(all)
}

fn whole_lines(text: &str) -> usize {
    text.rfind('\n').map_or(0, |end| end + 1)
}

fn append(path: &Path, line: &str) -> anyhow::Result<()> {
    ensure!(line.matches('\n').count() == 1, "a field with a line end");
    let write = || {
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let mut before = String::new();
        file.read_to_string(&mut before)?;
        // A line that was cut off, by a full disk or a crash, was never promised.
        file.set_len(whole_lines(&before) as u64)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(text: &str) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(text.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_they_were_written() {
        let temp = tempfile::tempdir().unwrap();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(Issued::list(temp.path()).unwrap(), []);
        let one = Issued {
            serial: vec![1, 0xab],
            role: Role::Server,
            name: "vm1".to_owned(),
            times: (at(5), at(99)),
            key: KeyDigest::of(b"key"),
        };
        let two = Issued { name: "vm2".to_owned(), role: Role::Client, ..one.clone() };
        one.note(temp.path()).unwrap();
        two.note(temp.path()).unwrap();
        assert_eq!(Issued::list(temp.path()).unwrap(), [one.clone(), two]);
        assert!(one.is_valid(at(98)) && !one.is_valid(at(99)));
        let gone = Revocation { serial: one.serial, when: at(50) };
        gone.note(temp.path()).unwrap();
        assert_eq!(Revocation::list(temp.path()).unwrap(), [gone]);
    }

    #[test]
    fn a_list_that_is_damaged_is_no_empty_one() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(ISSUED_FILE), "01\tserver\n").unwrap();
        let error = Issued::list(temp.path()).unwrap_err().to_string();
        assert!(error.ends_with("issued:1: that is no line of such a list"), "{error}");
        // But for a last line that is cut off.
        fs::write(temp.path().join(REVOKED_LIST_FILE), "01\t5\n02").unwrap();
        Revocation { serial: vec![3], when: UNIX_EPOCH }.note(temp.path()).unwrap();
        let serials = Revocation::list(temp.path()).unwrap();
        assert_eq!(serials.iter().map(|gone| gone.serial[0]).collect::<Vec<_>>(), [1, 3]);
    }
}
