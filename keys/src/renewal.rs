//! Keys that change while a program uses them.
//!
//! A certificate is renewed when two thirds of its time are over: by asking the server with the authority's key, or on the spot
//! where that key is. From the same server comes what was revoked. And whatever somebody else has put into the directory
//! of keys is read anew.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use quinn::Connection;
use rampool_protocol::certs::{
    CA_FILE, CERT_FILE, Credentials, Identity, KEY_FILE, REVOKED_FILE, Revoked, Role, in_words,
};
use rampool_protocol::control::{Renewed, ToClient, ToServer, VERSION};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::authority::{Authority, is_due};
use crate::whole::replace;
use crate::{SERVER_FILE, call, known_server, pem};

/// The directory is looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The authority is asked so often.
const ASK_EVERY: Duration = Duration::from_secs(600);

/// For the first time after up to so long: not by all machines at once that were started together.
const ASK_FIRST: Duration = Duration::from_secs(60);

/// A certificate that is valid for less than this, of those that could not be renewed, is worth a warning: once a day.
const WARN_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
/// So is an authority that has not answered for so long: what is revoked meanwhile is not known here.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);

/// What a peer is told that does not belong to the pool any more.
pub const REVOKED: &str = "your certificate was revoked";

/// Waits until the peer's certificate is revoked, perhaps for ever.
pub async fn revoked(connection: &Connection, mut credentials: watch::Receiver<Credentials>) {
    if credentials.wait_for(|now| now.revoked.has_peer(connection)).await.is_err() {
        // Nobody changes them any more.
        std::future::pending::<()>().await;
    }
}

/// A thread that looks after a directory of keys. It ends with this; nobody waits for it, because it may be waiting for a
/// server that does not answer.
#[derive(Debug)]
pub struct Renewal {
    _stop: Sender<()>,
}

/// The directory of keys that a program uses.
struct Keys {
    dir: PathBuf,
    role: Role,
}

/// Tells whether files have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp([Option<(u64, u64, i64, i64)>; 4]);

impl Renewal {
    /// Looks after the keys in `dir`, of which `identity` was loaded. When they change, `changed` gets the new ones.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(
        dir: &Path,
        role: Role,
        changed: impl Fn(Identity) + Send + 'static,
    ) -> io::Result<Self> {
        let keys = Keys { dir: dir.to_owned(), role };
        let (stop, stopped) = channel();
        // From before the thread runs: what changes from here on is noticed.
        let seen = keys.stamp();
        std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
            keys.keep(
                seen,
                |pause| stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout),
                changed,
            );
        })?;
        Ok(Self { _stop: stop })
    }
}

impl Keys {
    /// Until `pause` says that it is over.
    fn keep(self, mut seen: Stamp, pause: impl Fn(Duration) -> bool, changed: impl Fn(Identity)) {
        let mut ask_at = Instant::now() + ASK_FIRST.mul_f64(rand::random());
        let mut warn_at = Instant::now();
        let mut answered = Instant::now();
        let mut before = seen.clone();
        // The list that holds though it could not be written.
        let mut unwritten = 0;
        while pause(LOOK_EVERY) {
            if Instant::now() >= ask_at {
                ask_at = Instant::now() + ASK_EVERY;
                let renewed = self.renew(SystemTime::now());
                if renewed.is_ok() {
                    answered = Instant::now();
                }
                match renewed {
                    Ok(None) => {}
                    Ok(Some(identity)) if identity.revoked().number() > unwritten => {
                        unwritten = identity.revoked().number();
                        warn!(
                            "what was revoked holds, but cannot be written to {} and is forgotten at the next start",
                            self.dir.display()
                        );
                        changed(identity);
                    }
                    Ok(Some(_)) => {}
                    Err(why) => {
                        debug!("{why:#}");
                        warn_at = self.warn(&why, warn_at, answered);
                    }
                }
            }
            let now = self.stamp();
            // Whoever changes several files has done so when they have been the same for a while.
            if now != seen && now == before {
                seen = now.clone();
                match Identity::load(&self.dir, self.role) {
                    Ok(identity) => {
                        info!("the keys in {} were read anew", self.dir.display());
                        unwritten = 0;
                        changed(identity);
                    }
                    Err(why) => warn!("the old keys stay in use: {why}"),
                }
            }
            before = now;
        }
    }

    /// Renews what is due, and fetches what was revoked. Returns what holds from here on if it could not be written.
    ///
    /// # Errors
    /// The keys in the directory cannot be used, or changed; the server with the authority's key cannot be asked.
    fn renew(&self, now: SystemTime) -> anyhow::Result<Option<Identity>> {
        let identity = Identity::load(&self.dir, self.role)?;
        let is_due = is_due(identity.facts(), now);
        if let Some(authority) = Authority::find(&self.dir)? {
            if is_due {
                let certificate = authority.renew_own(identity.facts())?;
                self.put(CERT_FILE, "CERTIFICATE", certificate.der())?;
            }
            return Ok(None);
        }
        let Some(server) = known_server(&self.dir)? else {
            if is_due {
                bail!("nobody knows where to renew it; issue a new one with 'rampool keys issue'");
            }
            return Ok(None);
        };
        let message = ToServer::Renew { version: VERSION, certificate: is_due };
        let answer = call::authority(&server, &identity.client_config(), &message)?;
        let ToClient::Renewed(Renewed { certificate, revoked }) = answer else {
            bail!("{server} answered with something else: {answer:?}");
        };
        self.take(identity, certificate, revoked)
            .with_context(|| format!("what {server} has answered is of no use"))
    }

    /// Keeps what a server has answered, if it is of use.
    fn take(
        &self,
        mut identity: Identity,
        certificate: Option<Vec<u8>>,
        revoked: Option<Vec<u8>>,
    ) -> anyhow::Result<Option<Identity>> {
        if let Some(certificate) = certificate {
            identity = identity.with_certificate(self.role, certificate.clone())?;
            self.put(CERT_FILE, "CERTIFICATE", &certificate)?;
        }
        let Some(list) = revoked else { return Ok(None) };
        let revoked = Revoked::from_der(list.clone()).map_err(anyhow::Error::msg)?;
        if revoked.number() <= identity.revoked().number() {
            return Ok(None);
        }
        let identity = identity.with_revoked(self.role, revoked)?;
        // What is written is read anew. Where it cannot be, the machine is put out all the same.
        Ok(self.put(REVOKED_FILE, "X509 CRL", &list).is_err().then_some(identity))
    }

    fn put(&self, file: &str, what: &str, der: &[u8]) -> anyhow::Result<()> {
        replace(&self.dir.join(file), &pem(what, der))
    }

    /// Says that a certificate will expire, if it will soon, or that the authority has long been silent, and when to say so
    /// again.
    fn warn(&self, why: &anyhow::Error, at: Instant, answered: Instant) -> Instant {
        let now = Instant::now();
        let Ok(identity) = Identity::load(&self.dir, self.role) else { return at };
        let left = identity.facts().times.1.duration_since(SystemTime::now()).unwrap_or_default();
        let dir = self.dir.display();
        if now < at {
            return at;
        } else if left <= WARN_BEFORE {
            let until = in_words(identity.facts().times.1);
            warn!(
                "the certificate in {dir} is valid until {until} only, and cannot be renewed: {why:#}"
            );
        } else if now.duration_since(answered) >= WARN_EVERY {
            warn!(
                "for a day nobody could say what was revoked; {dir}/{SERVER_FILE} names who is asked: {why:#}"
            );
        } else {
            return at;
        }
        now + WARN_EVERY
    }

    fn stamp(&self) -> Stamp {
        let stamp = |file| {
            let found = fs::metadata(self.dir.join(file)).ok()?;
            Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
        };
        Stamp([CA_FILE, CERT_FILE, KEY_FILE, REVOKED_FILE].map(stamp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool;
    use rampool_protocol::certs::Revoked;

    #[test]
    fn what_was_revoked_holds_even_where_it_cannot_be_written() {
        let temp = tempfile::tempdir().unwrap();
        let pool = temp.path().join("pool");
        assert!(pool::found(&pool).unwrap());
        for (name, role) in [("lender", Role::Server), ("mount", Role::Client)] {
            pool::issue(&pool, name, role, None, 30).unwrap();
        }
        Authority::load(&pool).unwrap().revoke("mount", None, SystemTime::now()).unwrap();
        let list = Revoked::load(&pool).unwrap();
        let der = pem::parse(fs::read(pool.join(REVOKED_FILE)).unwrap()).unwrap().into_contents();
        let keys = Keys { dir: pool.join("lender"), role: Role::Server };
        let identity = || Identity::load(&keys.dir, Role::Server).unwrap();

        let lender = identity();
        fs::create_dir_all(keys.dir.join(REVOKED_FILE).join("in the way")).unwrap();
        let holds = keys.take(lender, None, Some(der.clone())).unwrap().unwrap();
        assert_eq!(holds.revoked().number(), list.number());
        fs::remove_dir_all(keys.dir.join(REVOKED_FILE)).unwrap();
        assert!(keys.take(identity(), None, Some(der.clone())).unwrap().is_none(), "written");
        assert_eq!(identity().revoked().number(), list.number());
        assert!(keys.take(identity(), None, Some(der)).unwrap().is_none(), "nothing new");
    }
}
