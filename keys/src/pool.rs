//! A pool's certificate authority, and the certificates of its machines, as files.
//!
//! A pool's CA directory holds `ca.pem`, `ca.key` and a directory for each certificate issued,
//! ready to be copied to its machine: `ca.pem`, `cert.pem` and `key.pem`. Nothing is ever
//! overwritten; keys are made with mode 0600, never made so afterwards.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use rampool_protocol::certs::{
    self, CA_FILE, CERT_FILE, CertificateFacts, KEY_FILE, REVOKED_FILE, Revoked, Role,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

use crate::authority::{Authority, Holder};
use crate::issued::{ISSUED_FILE, Issued, REVOKED_LIST_FILE};
use crate::whole::make_whole;

/// The CA's private key in a pool's CA directory.
pub(crate) const CA_KEY_FILE: &str = "ca.key";

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_DAYS: u32 = 3650;
/// Members have their certificates for so long, unless told otherwise.
pub const MEMBER_DAYS: u32 = 825;

/// Validity begins so much before now, for machines whose clocks are behind.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60 * 60);

/// A name becomes a directory and a certificate's subject.
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// Makes a new pool: a CA in `dir`.
///
/// # Errors
/// When there is a CA or anything else already, or the directory cannot be written.
pub fn init(dir: &Path) -> anyhow::Result<()> {
    let (certificate, key) = (dir.join(CA_FILE), dir.join(CA_KEY_FILE));
    for file in [&certificate, &key] {
        if file.symlink_metadata().is_ok() {
            bail!(
                "{} exists already; a new CA would cut off every machine of that pool, \
                 so choose another directory",
                file.display()
            );
        }
    }
    match new_directory(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {
            let mut entries =
                fs::read_dir(dir).with_context(|| format!("cannot look into {}", dir.display()))?;
            ensure!(
                entries.next().is_none(),
                "{} is not empty; a pool's keys need a directory of their own",
                dir.display()
            );
        }
        made => made.with_context(|| format!("cannot make {}", dir.display()))?,
    }
    write_ca(dir)
}

fn write_ca(dir: &Path) -> anyhow::Result<()> {
    let (certificate, key) = (dir.join(CA_FILE), dir.join(CA_KEY_FILE));
    // Pools differ in their CA's name, so that a certificate of another pool is refused as such.
    let mut params = params(&format!("rampool pool {:08x}", rand::random::<u32>()), CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pair = new_key()?;
    let ca = params.self_signed(&pair).context("cannot sign the CA's certificate")?;
    write_new(&key, &pair.serialize_pem())?;
    write_new(&certificate, &ca.pem())
}

/// Issues a certificate of the CA in `dir` to `name`, into `out` or else `dir/name`.
///
/// # Errors
/// When there is no CA, the name is unfit, the directory exists or cannot be written.
pub fn issue(
    dir: &Path,
    name: &str,
    role: Role,
    out: Option<&Path>,
    days: u32,
) -> anyhow::Result<()> {
    check_name(name)?;
    if days == 0 {
        bail!("a certificate must be valid for a day at least");
    }
    let authority = Authority::load(dir)?;
    let pair = new_key()?;
    let certificate = authority.certificate(&pair, name, Holder::Member(role), days)?;

    let out = out.map_or_else(|| dir.join(name), Path::to_owned);
    new_directory(&out).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow::anyhow!(
            "{} exists already; choose another name, or remove it first",
            out.display()
        ),
        _ => anyhow::anyhow!("cannot make {}: {error}", out.display()),
    })?;
    write_new(&out.join(CA_FILE), authority.ca_pem())?;
    write_new(&out.join(KEY_FILE), &pair.serialize_pem())?;
    write_new(&out.join(CERT_FILE), &certificate.pem())
}

/// Makes a new pool in `dir`, and this machine its first server, with its keys in the same directory. False if there
/// are keys already.
///
/// # Errors
/// The directory cannot be written, or holds a part of what it should.
pub fn found(dir: &Path) -> anyhow::Result<bool> {
    if dir.join(CERT_FILE).exists() {
        return Ok(false);
    }
    make_whole(dir, |new| {
        write_ca(new)?;
        let authority = Authority::load(new)?;
        let pair = new_key()?;
        let name = crate::machine_name();
        let certificate = authority.certificate(&pair, &name, Holder::Authority, MEMBER_DAYS)?;
        write_new(&new.join(KEY_FILE), &pair.serialize_pem())?;
        write_new(&new.join(CERT_FILE), &certificate.pem())
    })?;
    Ok(true)
}

/// Revokes the certificates of the member called `name`, in one role or in both, of the pool whose CA is in `dir`.
///
/// # Errors
/// When there is no CA, or no such member; the lists cannot be written.
pub fn revoke(dir: &Path, name: &str, role: Option<Role>) -> anyhow::Result<usize> {
    Authority::load(dir)?.revoke(name, role, SystemTime::now())
}

/// What the certificates in a CA's or a machine's directory say, and what a CA has issued, one line each.
///
/// # Errors
/// When there is none, or one cannot be read.
pub fn show(dir: &Path) -> anyhow::Result<String> {
    ensure!(dir.is_dir(), "there is no directory {}", dir.display());
    let revoked = Revoked::load(dir)?;
    let mut issued = Issued::list(dir)?;
    let mut rows = Vec::new();
    let own = [CA_FILE, CERT_FILE].map(|file| dir.join(file));
    for file in own.iter().filter(|file| file.is_file()) {
        let facts = certs::describe(file)?;
        if !issued.iter().any(|issued| issued.serial == facts.serial) {
            rows.push(Row::of(facts, &revoked));
        }
    }
    issued.sort_by(|a, b| (&a.name, a.times.0).cmp(&(&b.name, b.times.0)));
    let authority = rows.first().map_or_else(String::new, |ca| ca.name.clone());
    rows.extend(issued.into_iter().map(|issued| Row::of_issued(issued, &authority, &revoked)));
    if rows.is_empty() {
        bail!(
            "there are no certificates in {}; make some with 'rampool keys init' and \
             'rampool keys issue'",
            dir.display()
        );
    }
    Ok(table(rows))
}

/// What is shown of a certificate.
struct Row {
    name: String,
    role: Option<Role>,
    issuer: String,
    times: (SystemTime, SystemTime),
    is_revoked: bool,
}

impl Row {
    fn of(facts: CertificateFacts, revoked: &Revoked) -> Self {
        let CertificateFacts { name, issuer, role, times, serial, .. } = facts;
        Self { name, role, issuer, times, is_revoked: revoked.has_serial(&serial) }
    }

    fn of_issued(issued: Issued, issuer: &str, revoked: &Revoked) -> Self {
        let Issued { serial, role, name, times, .. } = issued;
        let is_revoked = revoked.has_serial(&serial);
        Self { name, role: Some(role), issuer: issuer.to_owned(), times, is_revoked }
    }

    fn cells(self, now: SystemTime) -> [String; 6] {
        let is_valid = match () {
            () if self.is_revoked => "revoked",
            () if (self.times.0..self.times.1).contains(&now) => "yes",
            () => "no",
        };
        [
            self.name,
            self.role.map_or_else(|| "CA".to_owned(), |role| role.to_string()),
            self.issuer,
            certs::in_words(self.times.0),
            certs::in_words(self.times.1),
            is_valid.to_owned(),
        ]
    }
}

fn table(certificates: Vec<Row>) -> String {
    let now = SystemTime::now();
    let mut rows = vec![["NAME", "ROLE", "ISSUER", "FROM", "TO", "VALID NOW"].map(str::to_owned)];
    rows.extend(certificates.into_iter().map(|row| row.cells(now)));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut lines = Vec::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            write!(line, "{cell:width$}  ").expect("a String takes all");
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

pub(crate) fn params(name: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_TOLERANCE).into();
    params.not_after = (now + DAY * days).into();
    params
}

/// Whether a name may have this in it.
pub(crate) fn may_be_in_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// A name must be fit for a directory and a certificate.
pub(crate) fn check_name(name: &str) -> anyhow::Result<()> {
    let files = [CA_FILE, CA_KEY_FILE, CERT_FILE, KEY_FILE, REVOKED_FILE, ISSUED_FILE];
    let reserved = [&files[..], &["", ".", "..", REVOKED_LIST_FILE]].concat();
    if name.len() > NAME_BYTES_MAX
        || reserved.contains(&name)
        || !name.chars().all(may_be_in_a_name)
    {
        // It may come from anybody, and is logged.
        let shown: String = name.escape_debug().take(2 * NAME_BYTES_MAX).collect();
        bail!(
            "'{shown}' cannot be a name; take up to {NAME_BYTES_MAX} letters, digits, '.', '_' and '-'"
        );
    }
    Ok(())
}

pub(crate) fn new_key() -> anyhow::Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key")
}

fn new_directory(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(dir)
}

pub(crate) fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| {
        format!("cannot read {}; make a pool with 'rampool keys init'", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rampool_protocol::certs::Identity;
    use std::os::unix::fs::PermissionsExt as _;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn issued_keys_serve_their_role_and_are_their_owners_alone() {
        let temp = tempfile::tempdir().unwrap();
        let pool = temp.path().join("pool");
        init(&pool).unwrap();
        issue(&pool, "vm-1.lab", Role::Server, None, 825).unwrap();
        let out = temp.path().join("elsewhere");
        issue(&pool, "vm_2", Role::Client, Some(&out), 825).unwrap();

        Identity::load(&pool.join("vm-1.lab"), Role::Server).unwrap();
        Identity::load(&out, Role::Client).unwrap();
        let wrong = Identity::load(&out, Role::Server).unwrap_err().to_string();
        assert!(wrong.contains("is not for a server"), "{wrong}");

        for dir in [&pool, &pool.join("vm-1.lab"), &out] {
            assert_eq!(mode(dir), 0o700);
            for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
                assert_eq!(mode(&entry), if entry.is_dir() { 0o700 } else { 0o600 }, "{entry:?}");
            }
        }
        assert!(!pool.join("vm_2").exists());
    }

    #[test]
    fn nothing_is_overwritten() {
        let temp = tempfile::tempdir().unwrap();
        let pool = temp.path();
        init(pool).unwrap();
        let ca = fs::read(pool.join(CA_FILE)).unwrap();
        let error = init(pool).unwrap_err().to_string();
        assert!(error.contains("ca.pem exists already"), "{error}");
        assert_eq!(fs::read(pool.join(CA_FILE)).unwrap(), ca);

        issue(pool, "a", Role::Client, None, 1).unwrap();
        let cert = fs::read(pool.join("a/cert.pem")).unwrap();
        let error = issue(pool, "a", Role::Server, None, 1).unwrap_err().to_string();
        assert!(error.contains("/a exists already"), "{error}");
        assert_eq!(fs::read(pool.join("a/cert.pem")).unwrap(), cert);
    }

    #[test]
    fn a_pool_has_a_directory_of_its_own() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("file"), "").unwrap();
        let error = init(temp.path()).unwrap_err().to_string();
        assert!(error.contains("is not empty"), "{error}");
        assert!(!temp.path().join(CA_FILE).exists());
    }

    #[test]
    fn a_pool_is_founded_once() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("keys");
        assert!(found(&dir).unwrap());
        Identity::load(&dir, Role::Server).unwrap();
        let cert = fs::read(dir.join(CERT_FILE)).unwrap();
        assert!(!found(&dir).unwrap());
        assert_eq!(fs::read(dir.join(CERT_FILE)).unwrap(), cert);
    }

    #[test]
    fn unfit_names_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        init(temp.path()).unwrap();
        for name in ["", ".", "..", "a/b", "../x", "a b", "ä", "ca.pem", "a\n", &"x".repeat(65)] {
            assert!(issue(temp.path(), name, Role::Client, None, 1).is_err(), "{name:?}");
        }
        let error = issue(&temp.path().join("none"), "a", Role::Client, None, 1).unwrap_err();
        assert!(error.to_string().contains("rampool keys init"), "{error}");
    }

    #[test]
    fn pools_differ_and_are_shown() {
        let temp = tempfile::tempdir().unwrap();
        let (one, two) = (temp.path().join("one"), temp.path().join("two"));
        init(&one).unwrap();
        init(&two).unwrap();
        assert!(show(temp.path()).unwrap_err().to_string().contains("no certificates"));
        issue(&one, "server1", Role::Server, None, 30).unwrap();
        issue(&one, "client1", Role::Client, None, 30).unwrap();
        let text = show(&one).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].starts_with("rampool pool ") && lines[1].contains("  CA  "), "{text}");
        assert!(lines[2].starts_with("client1") && lines[2].contains("  client  "), "{text}");
        assert!(lines[3].starts_with("server1") && lines[3].ends_with("  yes"), "{text}");
        assert_eq!(show(&one.join("client1")).unwrap().lines().count(), 3);
        let issuer = |dir: &Path| certs::describe(&dir.join(CA_FILE)).unwrap().issuer;
        assert_ne!(issuer(&one), issuer(&two));
    }
}
