//! The authority of a pool: makes members, by hand or for those who show a token.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::hmac;
use rampool_protocol::certs::{
    AUTHORITY_NAME, CA_FILE, CertificateFacts, Fingerprint, REVOKED_FILE, Revoked, Role,
    SERVER_NAME, read_der,
};
use rampool_protocol::control::{Join, Joined, Renewed};
use rcgen::{
    Certificate, CertificateRevocationListParams, CertificateSigningRequestParams,
    ExtendedKeyUsagePurpose, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData,
    RevokedCertParams, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::issued::{Issued, KeyDigest, Revocation};
use crate::pool::{self, CA_KEY_FILE};
use crate::token::Token;
use crate::whole::{as_owner_of, replace};

/// The name that every client certificate carries. Nobody checks it; a certificate must have one.
const CLIENT_NAME: &str = "client.rampool";

/// The longest for which a token is good: 30 days.
pub const TOKEN_HOURS_MAX: u16 = 720;

/// A certificate is renewed when so much of its time is over, in thirds, and not before.
const RENEWED_AFTER_THIRDS: u32 = 2;

/// Certificates that are revoked and would be valid otherwise: the list of them must fit into a message.
const REVOKED_MAX: usize = 1000;

/// Nobody looks whether a list is old: members ask for it much more often.
const NEXT_LIST_DAYS: u32 = 3650;

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
    dir: PathBuf,
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
        Ok(Self { dir: dir.to_owned(), issuer, ca_pem, ca, tokens })
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

    /// Certifies that `key` is that of `name`, for so many days, and notes it.
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
        let serial = new_serial();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let certificate =
            params.signed_by(key, &self.issuer).context("cannot sign the certificate")?;
        let issued = Issued {
            serial,
            role: holder.role(),
            name: name.to_owned(),
            times: read_der(certificate.der())?.times,
            key: KeyDigest::of(&key.subject_public_key_info()),
        };
        as_owner_of(&self.dir, || issued.note(&self.dir))?;
        Ok(certificate)
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
        let key = KeyDigest::of(&request.public_key.subject_public_key_info());
        if self.valid(&join.name, now)?.iter().any(|held| held.role == join.role && held.key != key)
        {
            let Join { name, role, .. } = join;
            bail!(
                "a {role} called {name} belongs to the pool already; take another --name or, if it is no more, \
                 'rampool-server revoke {name}' there"
            );
        }
        // Of the request only the key is taken: the rest is ours to say.
        let certificate = self.certificate(
            &request.public_key,
            &join.name,
            Holder::Member(join.role),
            pool::MEMBER_DAYS,
        )?;
        Ok(Joined { certificate: certificate.der().to_vec(), ca: self.ca.to_vec() })
    }

    /// Brings a member up to date that has shown `certificate`, which is of this pool and not revoked.
    ///
    /// # Errors
    /// Why not, for the one who asks.
    pub fn renew(
        &self,
        certificate: &CertificateDer<'_>,
        wants_certificate: bool,
        now: SystemTime,
    ) -> anyhow::Result<Renewed> {
        let facts = read_der(certificate)?;
        let role = facts.role.context("the CA's own certificate is not renewed")?;
        let certificate = match wants_certificate {
            false => None,
            true if !is_due(&facts, now) => {
                bail!("a certificate is renewed when two thirds of its time are over")
            }
            true => Some(self.renewed(&facts, Holder::Member(role))?),
        };
        let revoked = Revoked::load(&self.dir)?;
        Ok(Renewed {
            certificate: certificate.map(|new| new.der().to_vec()),
            revoked: revoked.der().map(<[u8]>::to_vec),
        })
    }

    /// A new certificate of the authority's own server, whose present one says `facts`.
    pub(crate) fn renew_own(&self, facts: &CertificateFacts) -> anyhow::Result<Certificate> {
        self.renewed(facts, Holder::Authority)
    }

    fn renewed(&self, facts: &CertificateFacts, holder: Holder) -> anyhow::Result<Certificate> {
        let key = SubjectPublicKeyInfo::from_der(&facts.key).context("a key of another kind")?;
        self.certificate(&key, &facts.name, holder, pool::MEMBER_DAYS)
    }

    /// Revokes all certificates of the member called `name`, in one role or in both: whoever has one of them does not belong
    /// to the pool any more. Says how many.
    ///
    /// # Errors
    /// There is no such member; too many were revoked; the lists cannot be written.
    pub fn revoke(&self, name: &str, role: Option<Role>, now: SystemTime) -> anyhow::Result<usize> {
        let mut theirs = self.valid(name, now)?;
        theirs.retain(|issued| role.is_none_or(|role| issued.role == role));
        if theirs.is_empty() {
            let what = role.map_or_else(|| "machine".to_owned(), |role| role.to_string());
            bail!(
                "there is no {what} called {name} in the pool, or it was revoked; see 'rampool keys show'"
            );
        }
        as_owner_of(&self.dir, || {
            for Issued { serial, .. } in &theirs {
                Revocation { serial: serial.clone(), when: now }.note(&self.dir)?;
            }
            self.publish(now)
        })?;
        Ok(theirs.len())
    }

    /// What `name` has that is neither revoked nor over.
    fn valid(&self, name: &str, now: SystemTime) -> anyhow::Result<Vec<Issued>> {
        let revoked = Revocation::list(&self.dir)?;
        let mut issued = Issued::list(&self.dir)?;
        issued.retain(|issued| {
            let is_revoked = revoked.iter().any(|gone| gone.serial == issued.serial);
            issued.name == name && issued.is_valid(now) && !is_revoked
        });
        Ok(issued)
    }

    /// Signs the list of what is revoked.
    fn publish(&self, now: SystemTime) -> anyhow::Result<()> {
        let (issued, revoked) = (Issued::list(&self.dir)?, Revocation::list(&self.dir)?);
        let number = revoked.len() as u64;
        let is_over = |serial: &[u8]| {
            issued.iter().any(|issued| issued.serial == serial && !issued.is_valid(now))
        };
        let revoked = revoked.into_iter().filter(|gone| !is_over(&gone.serial));
        let revoked_certs: Vec<RevokedCertParams> = revoked
            .map(|gone| RevokedCertParams {
                serial_number: SerialNumber::from_slice(&gone.serial),
                revocation_time: gone.when.into(),
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        ensure!(
            revoked_certs.len() <= REVOKED_MAX,
            "more than {REVOKED_MAX} certificates are revoked, which no list holds; make a new pool"
        );
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + pool::DAY * NEXT_LIST_DAYS).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).context("cannot sign what is revoked")?;
        let pem = list.pem().context("cannot write down what is revoked")?;
        replace(&self.dir.join(REVOKED_FILE), &pem)
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

impl Holder {
    fn role(self) -> Role {
        match self {
            Self::Member(role) => role,
            Self::Authority => Role::Server,
        }
    }
}

/// Whether a certificate is to be renewed.
pub(crate) fn is_due(facts: &CertificateFacts, now: SystemTime) -> bool {
    let (from, until) = facts.times;
    let whole = until.duration_since(from).unwrap_or_default();
    now >= from + whole * RENEWED_AFTER_THIRDS / 3
}

/// A serial number that no other certificate has: 126 random bits (RFC 5280, 4.1.2.2), without a sign.
fn new_serial() -> Vec<u8> {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x3f | 0x40;
    serial.to_vec()
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

    fn der(file: &Path) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(file).unwrap()
    }

    #[test]
    fn a_name_is_taken_until_its_machine_is_revoked() {
        let (temp, authority) = authority();
        let now = SystemTime::now();
        let token = authority.token("10.0.0.2:7167", None, 1).unwrap();
        let join = |role| NewMember::new("vm1", role).unwrap().asks(&token);
        let first = join(Role::Client);
        authority.admit(&first, now).unwrap();
        authority.admit(&first, now).unwrap();
        authority.admit(&join(Role::Server), now).unwrap();
        let taken = refused(&authority, &join(Role::Client), now);
        assert!(taken.contains("a client called vm1 belongs to the pool already"), "{taken}");
        assert_eq!(authority.revoke("vm1", Some(Role::Client), now).unwrap(), 2);
        authority.admit(&join(Role::Client), now).unwrap();
        assert_eq!(authority.revoke("vm1", None, now).unwrap(), 2);
        let gone = authority.revoke("vm1", None, now).unwrap_err().to_string();
        assert!(gone.contains("there is no machine called vm1"), "{gone}");
        let shown = pool::show(&temp.path().join("pool")).unwrap();
        assert_eq!(shown.matches("revoked").count(), 4, "{shown}");
        // What is over by itself is on no list.
        let years = Duration::from_secs(3600 * 24 * 1000);
        pool::issue(&temp.path().join("pool"), "vm2", Role::Client, None, 2000).unwrap();
        assert_eq!(authority.revoke("vm2", None, now + years).unwrap(), 1);
        let list = Revoked::load(&temp.path().join("pool")).unwrap();
        assert!(list.has(&der(&temp.path().join("pool/vm2/cert.pem"))));
        assert_eq!(list.number(), 5);
    }

    #[test]
    fn a_certificate_is_renewed_when_most_of_its_time_is_over() {
        let (temp, authority) = authority();
        let pool = temp.path().join("pool");
        pool::issue(&pool, "vm1", Role::Client, None, 30).unwrap();
        let old = certs::Identity::load(&pool.join("vm1"), Role::Client).unwrap();
        let certificate = der(&pool.join("vm1/cert.pem"));
        let day = |n: u32| SystemTime::now() + pool::DAY * n;
        let early = authority.renew(&certificate, true, day(19)).unwrap_err().to_string();
        assert!(early.contains("two thirds"), "{early}");
        assert_eq!(authority.renew(&certificate, false, day(0)).unwrap().certificate, None);
        let new = authority.renew(&certificate, true, day(21)).unwrap().certificate.unwrap();
        let until = old.facts().times.1;
        let renewed = old.with_certificate(Role::Client, new).unwrap();
        assert!(renewed.facts().times.1 > until + pool::DAY * 700);
        let (_temp, others) = self::authority();
        let theirs = others.renew(&certificate, true, day(21)).unwrap().certificate.unwrap();
        assert!(renewed.with_certificate(Role::Client, theirs).is_err(), "of another pool");
    }

    #[test]
    fn who_is_revoked_knows_it_and_others_do() {
        let (temp, authority) = authority();
        let pool = temp.path().join("pool");
        for (name, role) in [("lender", Role::Server), ("mount", Role::Client)] {
            pool::issue(&pool, name, role, None, 30).unwrap();
        }
        let lender = || certs::Identity::load(&pool.join("lender"), Role::Server).unwrap();
        let mount = der(&pool.join("mount/cert.pem"));
        authority.revoke("mount", None, SystemTime::now()).unwrap();
        let list = authority.renew(&mount, false, SystemTime::now()).unwrap().revoked.unwrap();
        let list = Revoked::from_der(list).unwrap();
        let knowing = lender().with_revoked(Role::Server, list.clone()).unwrap();
        assert!(knowing.revoked().has(&mount) && !lender().revoked().has(&mount));
        std::fs::copy(pool.join(REVOKED_FILE), pool.join("mount").join(REVOKED_FILE)).unwrap();
        let error = certs::Identity::load(&pool.join("mount"), Role::Client).unwrap_err();
        assert!(error.to_string().contains("was revoked"), "{error}");

        let (other, others) = self::authority();
        pool::issue(&other.path().join("pool"), "x", Role::Client, None, 30).unwrap();
        others.revoke("x", None, SystemTime::now()).unwrap();
        let theirs = Revoked::load(&other.path().join("pool")).unwrap();
        assert!(lender().with_revoked(Role::Server, theirs).is_err(), "another pool's list");
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
