//! How a machine joins a pool: it makes a key, asks the server that its token names for a certificate, and keeps both.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use rampool_protocol::certs::{
    CA_FILE, CERT_FILE, Fingerprint, Identity, KEY_FILE, Role, stranger_config,
};
use rampool_protocol::control::{Join, Joined, ToClient, ToServer, VERSION};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;

use crate::pool::{self, write_new};
use crate::token::Token;
use crate::whole::make_whole;
use crate::{SERVER_FILE, call, pem};

/// A machine that wants to join.
#[derive(Debug)]
pub struct NewMember {
    name: String,
    role: Role,
    key: KeyPair,
}

impl NewMember {
    /// A machine called `name`, with a new key.
    ///
    /// # Errors
    /// The name is unfit, or there is no key to be had.
    pub fn new(name: &str, role: Role) -> anyhow::Result<Self> {
        pool::check_name(name)?;
        Ok(Self { name: name.to_owned(), role, key: pool::new_key()? })
    }

    /// What it asks for.
    pub(crate) fn asks(&self, token: &Token) -> Join {
        let request = CertificateParams::default().serialize_request(&self.key);
        let request = request.expect("a key signs").der().to_vec();
        let (name, role) = (self.name.clone(), self.role);
        Join { version: VERSION, token: token.to_bytes(), name, role, request }
    }

    /// Asks the server that `token` names to be let in, and keeps the keys in `dir`, which must be empty or not there. All of
    /// them, or none.
    ///
    /// # Errors
    /// The directory cannot be made; the server cannot be reached or is not of the token's pool; it refuses.
    pub fn join(self, token: &Token, dir: &Path) -> anyhow::Result<()> {
        if let Some(ago) = token.expired_for(SystemTime::now()) {
            bail!(
                "the token expired {} ago; 'rampool-server token' on {} makes a new one",
                in_words(ago),
                token.address()
            );
        }
        make_whole(dir, |new| {
            let asks = ToServer::Join(self.asks(token));
            match call::authority(token.address(), &stranger_config(token.ca), &asks)? {
                ToClient::Joined(joined) => self.keep(&joined, token, new),
                other => bail!("the server answered with something else: {other:?}"),
            }
        })
    }

    fn keep(&self, joined: &Joined, token: &Token, dir: &Path) -> anyhow::Result<()> {
        let ca = CertificateDer::from(joined.ca.as_slice());
        ensure!(Fingerprint::of(&ca) == token.ca, "the server's answer is of another pool");
        write_new(&dir.join(KEY_FILE), &self.key.serialize_pem())?;
        write_new(&dir.join(CERT_FILE), &pem("CERTIFICATE", &joined.certificate))?;
        write_new(&dir.join(CA_FILE), &pem("CERTIFICATE", &joined.ca))?;
        write_new(&dir.join(SERVER_FILE), &format!("{}\n", token.address()))?;
        Identity::load(dir, self.role).context("what the server has answered is of no use")?;
        Ok(())
    }
}

/// A time, roughly.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let temp = tempfile::tempdir().unwrap();
        let authority = |name: &str| {
            let dir = temp.path().join(name);
            pool::init(&dir).unwrap();
            Authority::load(&dir).unwrap()
        };
        let (ours, others) = (authority("ours"), authority("others"));
        let token = |authority: &Authority| authority.token("10.0.0.2:7167", None, 1).unwrap();
        let member = NewMember::new("vm1", Role::Client).unwrap();
        let dir = |name: &str| {
            let dir = temp.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            dir
        };
        let now = SystemTime::now();
        let joined = ours.admit(&member.asks(&token(&ours)), now).unwrap();
        member.keep(&joined, &token(&ours), &dir("right")).unwrap();
        assert_eq!(
            crate::known_server(&temp.path().join("right")).unwrap().as_deref(),
            Some("10.0.0.2:7167")
        );
        let error = member.keep(&joined, &token(&others), &dir("wrong")).unwrap_err();
        assert_eq!(error.to_string(), "the server's answer is of another pool");
        let mixed = Joined { ca: others.ca().to_vec(), ..joined };
        assert!(member.keep(&mixed, &token(&others), &dir("mixed")).is_err());
    }
}
