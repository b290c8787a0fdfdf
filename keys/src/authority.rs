//! The authority of a pool: makes members, by hand or for those who show a token.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::hmac;
use rampool_protocol::certs::{AUTHORITY_NAME, CA_FILE, Fingerprint, Role, SERVER_NAME};
use rampool_protocol::control::{Join, Joined};
use rcgen::{
    Certificate, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::pool::{self, CA_KEY_FILE};
use crate::token::Token;

/// The name that every client certificate carries. Nobody checks it; a certificate must have one.
const CLIENT_NAME: &str = "client.rampool";

/// The longest for which a token is good: 30 days.
pub const TOKEN_HOURS_MAX: u16 = 720;

/// What the tokens' key is made for.
const TOKEN_KEY: &[u8] = b"rampool join token";

/// Whose certificate it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Holder {
    Member(Role),
    /// The server that lets others in.
    Authority,
}

/// An authority, with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    ca: CertificateDer<'static>,
    tokens: hmac::Key,
}

impl Authority {
    /// The one whose `ca.pem` and `ca.key` are in `dir`.
    ///
    /// # Errors
    /// They are not there, or not what they should be.
    pub fn load(dir: &Path) -> anyhow::Result<Self> {
        let ca_pem = pool::read(&dir.join(CA_FILE))?;
        let key_file = dir.join(CA_KEY_FILE);
        let key = KeyPair::from_pem(&pool::read(&key_file)?)
            .with_context(|| format!("{} holds no private key", key_file.display()))?;
        let tokens =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.serialized_der()), TOKEN_KEY);
        let no_certificate = || format!("{} holds no certificate", dir.join(CA_FILE).display());
        let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).with_context(no_certificate)?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).with_context(no_certificate)?;
        let tokens = hmac::Key::new(hmac::HMAC_SHA256, tokens.as_ref());
        Ok(Self { issuer, ca_pem, ca, tokens })
    }

    /// The same, if the directory has an authority's key.
    ///
    /// # Errors
    /// It has one, which cannot be used.
    pub fn find(dir: &Path) -> anyhow::Result<Option<Self>> {
        let key = dir.join(CA_KEY_FILE);
        let is_there =
            key.try_exists().with_context(|| format!("cannot look for {}", key.display()))?;
        if is_there { Self::load(dir).map(Some) } else { Ok(None) }
    }

    #[cfg(test)]
    pub(crate) fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// The authority's own certificate.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Certifies that `key` is that of `name`, for so many days.
    pub(crate) fn certificate(
        &self,
        key: &impl PublicKeyData,
        name: &str,
        holder: Holder,
        days: u32,
    ) -> anyhow::Result<Certificate> {
        let mut params = pool::params(name, days);
        let (usage, names): (_, &[&str]) = match holder {
            Holder::Member(Role::Client) => (ExtendedKeyUsagePurpose::ClientAuth, &[CLIENT_NAME]),
            Holder::Member(Role::Server) => (ExtendedKeyUsagePurpose::ServerAuth, &[SERVER_NAME]),
            Holder::Authority => {
                (ExtendedKeyUsagePurpose::ServerAuth, &[SERVER_NAME, AUTHORITY_NAME])
            }
        };
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let dns_name =
            |name: &&str| SanType::DnsName((*name).try_into().expect("a plain ASCII name"));
        params.subject_alt_names = names.iter().map(dns_name).collect();
        params.use_authority_key_identifier_extension = true;
        params.signed_by(key, &self.issuer).context("cannot sign the certificate")
    }

    /// A token with which machines join within so many hours, in one role or either, by asking the server at `address`, which must
    /// have this authority's key.
    ///
    /// # Errors
    /// The time or the address is too long.
    pub fn token(&self, address: &str, role: Option<Role>, hours: u16) -> anyhow::Result<Token> {
        ensure!(address.len() <= 255, "an address of more than 255 bytes");
        ensure!(hours <= TOKEN_HOURS_MAX, "a token is good for {TOKEN_HOURS_MAX} hours at most");
        let time = Duration::from_secs(3600 * u64::from(hours));
        let ca = Fingerprint::of(&self.ca);
        let mut token = Token::unsealed(role, SystemTime::now() + time, ca, address);
        let seal = hmac::sign(&self.tokens, &token.sealed_bytes());
        let length = token.seal.len();
        token.seal.copy_from_slice(&seal.as_ref()[..length]);
        Ok(token)
    }

    /// Makes a member of whoever asks `join`, if its token is good.
    ///
    /// # Errors
    /// Why not, for the one who asks.
    pub fn admit(&self, join: &Join, now: SystemTime) -> anyhow::Result<Joined> {
        self.check(join, now)?;
        pool::check_name(&join.name)?;
        let request = join.request.as_slice().into();
        let request = CertificateSigningRequestParams::from_der(&request)
            .context("the request for a certificate makes no sense")?;
        // Of the request only the key is taken: the rest is ours to say.
        let certificate = self.certificate(
            &request.public_key,
            &join.name,
            Holder::Member(join.role),
            pool::MEMBER_DAYS,
        )?;
        Ok(Joined { certificate: certificate.der().to_vec(), ca: self.ca.to_vec() })
    }

    fn check(&self, join: &Join, now: SystemTime) -> anyhow::Result<()> {
        let token = Token::from_bytes(&join.token)?;
        let seal = hmac::sign(&self.tokens, &token.sealed_bytes());
        let seal = &seal.as_ref()[..token.seal.len()];
        if aws_lc_rs::constant_time::verify_slices_are_equal(seal, &token.seal).is_err() {
            bail!("the token is not of this pool");
        }
        if token.expired_for(now).is_some() {
            bail!("the token has expired; 'rampool-server token' makes a new one");
        }
        if let Some(role) = token.role.filter(|role| *role != join.role) {
            bail!("the token is for a {role}");
        }
        Ok(())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("ca", &Fingerprint::of(&self.ca)).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::NewMember;
    use rampool_protocol::certs;

    const HOUR: Duration = Duration::from_secs(3600);

    fn authority() -> (tempfile::TempDir, Authority) {
        let temp = tempfile::tempdir().unwrap();
        pool::init(&temp.path().join("pool")).unwrap();
        let authority = Authority::load(&temp.path().join("pool")).unwrap();
        (temp, authority)
    }

    fn refused(authority: &Authority, join: &Join, now: SystemTime) -> String {
        authority.admit(join, now).unwrap_err().to_string()
    }

    #[test]
    fn a_token_lets_in_until_it_expires_in_its_role_and_by_its_authority() {
        let (_temp, authority) = authority();
        let now = SystemTime::now();
        let token = authority.token("10.0.0.2:7167", Some(Role::Client), 1).unwrap();
        let join = |role| NewMember::new("vm1", role).unwrap().asks(&token);
        authority.admit(&join(Role::Client), now).unwrap();
        let late = refused(&authority, &join(Role::Client), now + 2 * HOUR);
        assert!(late.contains("has expired"), "{late}");
        assert_eq!(refused(&authority, &join(Role::Server), now), "the token is for a client");
        let (_other, others) = self::authority();
        let theirs = refused(&others, &join(Role::Client), now);
        assert_eq!(theirs, "the token is not of this pool");
        let either = authority.token("10.0.0.2:7167", None, 1).unwrap();
        let join = NewMember::new("vm1", Role::Server).unwrap().asks(&either);
        authority.admit(&join, now).unwrap();
    }

    #[test]
    fn a_token_cannot_be_changed() {
        let (_temp, authority) = authority();
        let token = authority.token("10.0.0.2:7167", Some(Role::Client), 1).unwrap();
        let bytes = token.to_bytes();
        let join = NewMember::new("vm1", Role::Client).unwrap().asks(&token);
        for n in 0..bytes.len() {
            let mut changed = bytes.clone();
            for bit in 0..8 {
                changed[n] = bytes[n] ^ 1 << bit;
                let join = Join { token: changed.clone(), ..join.clone() };
                assert!(authority.admit(&join, SystemTime::now()).is_err(), "byte {n}");
            }
        }
    }

    #[test]
    fn what_is_asked_must_make_sense() {
        let (_temp, authority) = authority();
        let token = authority.token("10.0.0.2:7167", None, 1).unwrap();
        let join = NewMember::new("vm1", Role::Client).unwrap().asks(&token);
        let now = SystemTime::now();
        for name in ["", "../x", "a b", &"x".repeat(65)] {
            let join = Join { name: name.to_owned(), ..join.clone() };
            assert!(refused(&authority, &join, now).contains("cannot be a name"), "{name}");
        }
        let join = Join { request: vec![1, 2, 3], ..join };
        assert!(refused(&authority, &join, now).contains("makes no sense"));
        assert!(authority.token("10.0.0.2:7167", None, TOKEN_HOURS_MAX + 1).is_err());
    }

    /// Whether somebody with a token of `pool` shows it to a server with the keys in `own` that sends `ca` besides.
    fn trusts(pool: &Authority, own: &Path, ca: &CertificateDer<'static>) -> bool {
        let certificate = CertificateDer::from_pem_file(own.join("cert.pem")).unwrap();
        certs::verify_authority(Fingerprint::of(&pool.ca), &certificate, std::slice::from_ref(ca))
            .is_ok()
    }

    #[test]
    fn a_token_is_shown_to_the_authority_of_its_pool_and_to_nobody_else() {
        let temp = tempfile::tempdir().unwrap();
        let (ours, theirs) = (temp.path().join("ours"), temp.path().join("theirs"));
        for dir in [&ours, &theirs] {
            assert!(pool::found(dir).unwrap());
        }
        let (pool, others) = (Authority::load(&ours).unwrap(), Authority::load(&theirs).unwrap());
        assert!(trusts(&pool, &ours, &pool.ca));
        assert!(!trusts(&pool, &theirs, &others.ca), "another pool's");
        assert!(!trusts(&pool, &theirs, &pool.ca), "our CA's certificate is known to all");
        assert!(!trusts(&pool, &ours, &others.ca));
        for (name, role) in [("lender", Role::Server), ("mount", Role::Client)] {
            pool::issue(&ours, name, role, None, 1).unwrap();
            assert!(!trusts(&pool, &ours.join(name), &pool.ca), "a member, but not the authority");
        }
    }
}
