//! Who may talk to whom: certificates of the pool's own CA, with a role.
//!
//! A keys directory holds `ca.pem`, `cert.pem` and `key.pem`. The role is the certificate's
//! extended key usage (RFC 5280, 4.2.1.12): serverAuth for a server, clientAuth for a client, so
//! that ordinary TLS verification enforces it. A server also lets other servers in, which [`peer`]
//! tells from clients. Every server certificate carries the name
//! [`SERVER_NAME`]: a client trusts the pool, not an address, and one certificate goes on
//! working when its machine gets another.
//!
//! What the authority has revoked is in `revoked.pem`, where there is any ([`Revoked`]).
//!
//! A machine that is not of the pool yet knows its CA by a [`Fingerprint`], and is let in only to be made a member
//! ([`Admission::Strangers`]).

mod facts;
mod revoked;
mod verify;
mod words;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;
use serde::{Deserialize, Serialize};

use crate::endpoint;
pub use facts::{CertificateFacts, describe, in_words, peer, peer_certificate, read_der};
pub use revoked::Revoked;
pub use verify::verify_authority;
use verify::{FingerprintVerifier, PoolVerifier, servers_verifier};
pub use words::{explain, said};

/// The name that every server certificate of every pool carries.
pub const SERVER_NAME: &str = "server.rampool";

/// The name that the certificate of the server that makes members carries besides: who holds a token shows it to nobody else.
pub const AUTHORITY_NAME: &str = "authority.rampool";

/// The pool's CA certificate in a keys directory.
pub const CA_FILE: &str = "ca.pem";
/// The certificate of this machine in a keys directory.
pub const CERT_FILE: &str = "cert.pem";
/// The private key of this machine in a keys directory.
pub const KEY_FILE: &str = "key.pem";

/// Which certificates of the pool were revoked, in a keys directory.
pub const REVOKED_FILE: &str = "revoked.pem";

const ALPN: &[u8] = b"rampool";

/// What a certificate allows its holder to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Mounts, puts and gets.
    Client,
    /// Lends memory.
    Server,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// Whom a server lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Those who belong to the pool.
    Members,
    /// Those who have no certificate as well, of whom [`peer`] says nothing.
    Strangers,
}

/// Tells a pool's CA from others: the beginning of the SHA-256 of its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; Self::BYTES]);

impl Fingerprint {
    /// Its length. To find another certificate with the same takes 2^128 attempts.
    pub const BYTES: usize = 16;

    /// That of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let whole = digest::digest(&digest::SHA256, certificate);
        let mut bytes = [0; Self::BYTES];
        bytes.copy_from_slice(&whole.as_ref()[..Self::BYTES]);
        Self(bytes)
    }
}

/// The keys of one machine, loaded and found usable for a role.
#[derive(Debug)]
pub struct Identity {
    roots: Arc<RootCertStore>,
    ca: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    facts: CertificateFacts,
    revoked: Revoked,
}

/// What connections are made with, and whose are not to go on.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// For those that are made.
    pub config: quinn::ClientConfig,
    /// Whoever showed one of these is not to be talked to any more.
    pub revoked: Revoked,
    /// When our own certificate expires.
    pub expires: SystemTime,
}

/// Why a keys directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file is missing or unreadable.
    #[error("cannot read {}: {source}{}", path.display(), advice(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The private key can be read by others than its owner.
    #[error("{} can be read by others (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file holds no certificate or key.
    #[error("{} holds no usable {what}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why it does not.
        reason: String,
    },
    /// The certificate is for the other role.
    #[error("the certificate in {} is not for a {wanted}; issue one with 'rampool keys issue DIR NAME --role {wanted}'", path.display())]
    Role {
        /// The certificate.
        path: PathBuf,
        /// The role it should have.
        wanted: Role,
    },
    /// The certificate is no longer, or not yet, valid.
    #[error("the certificate in {} is valid from {from} to {to} only; check the clock or issue a new one", path.display())]
    Expired {
        /// The certificate.
        path: PathBuf,
        /// Start of validity.
        from: String,
        /// End of validity.
        to: String,
    },
    /// The authority has revoked the certificate.
    #[error("the certificate in {} was revoked; remove the directory and join again, with a new token", path.display())]
    Revoked {
        /// The certificate.
        path: PathBuf,
    },
    /// Certificate, key and CA do not belong together.
    #[error("the keys in {} do not fit together: {reason}", dir.display())]
    Mismatch {
        /// The keys directory.
        dir: PathBuf,
        /// What TLS says about them.
        reason: String,
    },
}

impl Identity {
    /// Loads `ca.pem`, `cert.pem`, `key.pem` and, if there is one, `revoked.pem` from `dir` and checks that they serve `role`.
    pub fn load(dir: &Path, role: Role) -> Result<Self, KeysError> {
        let ca = read_certificate(&dir.join(CA_FILE))?;
        let cert_path = dir.join(CERT_FILE);
        let cert = read_certificate(&cert_path)?;
        let key = read_key(&dir.join(KEY_FILE))?;

        let revoked = Revoked::load(dir)?;

        let facts = facts::facts(&cert_path, &cert)?;
        if facts.role != Some(role) {
            return Err(KeysError::Role { path: cert_path, wanted: role });
        }
        if !facts.valid_now {
            let (from, to) = (in_words(facts.times.0), in_words(facts.times.1));
            return Err(KeysError::Expired { path: cert_path, from, to });
        }

        if revoked.has(&cert) {
            return Err(KeysError::Revoked { path: cert_path });
        }

        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).map_err(|error| KeysError::Malformed {
            path: dir.join(CA_FILE),
            what: "CA certificate",
            reason: error.to_string(),
        })?;
        let roots = Arc::new(roots);
        let identity = Self { roots, ca, chain: vec![cert], key, facts, revoked };
        // What does not fit together shows here, not at the first connection.
        identity.check(role).map_err(|error| KeysError::Mismatch {
            dir: dir.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(identity)
    }

    /// Whether the others of the pool would let it in, and its key fits.
    fn check(&self, role: Role) -> Result<(), rustls::Error> {
        if !self.revoked.is_of(&self.ca) {
            return Err(rustls::Error::General(format!("{REVOKED_FILE} is of another pool")));
        }
        let verifier = PoolVerifier::new(&self.roots, &self.revoked, Admission::Members)?;
        verifier.verify_client_cert(&self.chain[0], &[], UnixTime::now())?;
        match role {
            Role::Client => self.client_tls().map(drop),
            Role::Server => self.server_tls(Admission::Members).map(drop),
        }
    }

    /// The same with another certificate for the same key, which came over the network.
    ///
    /// # Errors
    /// It is not for this machine in this role, or not of this pool.
    pub fn with_certificate(self, role: Role, certificate: Vec<u8>) -> Result<Self, rustls::Error> {
        let unfit = |what: &str| rustls::Error::General(what.to_owned());
        let facts = read_der(&certificate).map_err(|error| unfit(&error.to_string()))?;
        let machine =
            |facts: &CertificateFacts| (facts.name.clone(), facts.role, facts.key.clone());
        if machine(&facts) != machine(&self.facts) {
            return Err(unfit("it is another machine's"));
        }
        let changed = Self { chain: vec![certificate.into()], facts, ..self };
        changed.check(role)?;
        Ok(changed)
    }

    /// The same with another list of what was revoked, which came over the network.
    ///
    /// # Errors
    /// It is not of this pool's CA, or this machine's own certificate is on it.
    pub fn with_revoked(self, role: Role, revoked: Revoked) -> Result<Self, rustls::Error> {
        let changed = Self { revoked, ..self };
        changed.check(role)?;
        Ok(changed)
    }

    /// What its certificate says.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// What was revoked.
    pub fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// What it takes to connect.
    pub fn credentials(&self) -> Credentials {
        let (revoked, expires) = (self.revoked.clone(), self.facts.times.1);
        Credentials { config: self.client_config(), revoked, expires }
    }

    /// What a client connects with, or a server that talks to other servers.
    pub fn client_config(&self) -> quinn::ClientConfig {
        let tls = self.client_tls().expect("built once when the identity was loaded");
        let crypto = QuicClientConfig::try_from(tls).expect("TLS 1.3 with AES-128-GCM is offered");
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(endpoint::transport_config());
        config
    }

    /// What a server accepts with. The identity must have been loaded as a server's.
    pub fn server_config(&self, admission: Admission) -> quinn::ServerConfig {
        let tls = self.server_tls(admission).expect("built once when the identity was loaded");
        let crypto = QuicServerConfig::try_from(tls).expect("TLS 1.3 with AES-128-GCM is offered");
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(match admission {
            Admission::Members => endpoint::transport_config(),
            Admission::Strangers => endpoint::transport_config_for_strangers(),
        });
        config
    }

    fn client_tls(&self) -> Result<rustls::ClientConfig, rustls::Error> {
        let mut tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_webpki_verifier(servers_verifier(&self.roots, &self.revoked)?)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        Ok(tls)
    }

    fn server_tls(&self, admission: Admission) -> Result<rustls::ServerConfig, rustls::Error> {
        let verifier = PoolVerifier::new(&self.roots, &self.revoked, admission)?;
        let mut chain = self.chain.clone();
        if admission == Admission::Strangers {
            // They know it by its fingerprint only.
            chain.push(self.ca.clone());
        }
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(chain, self.key.clone_key())?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        Ok(tls)
    }
}

/// What a machine connects with that does not belong to the pool yet, and knows its CA by `ca`.
pub fn stranger_config(ca: Fingerprint) -> quinn::ClientConfig {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is offered")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(FingerprintVerifier(ca)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).expect("TLS 1.3 with AES-128-GCM is offered");
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(endpoint::transport_config());
    config
}

/// AES-128-GCM first: the blocks are sealed with AES-256 already, and it is the fastest.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
    ];
    Arc::new(provider)
}

fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, KeysError> {
    let pem = read(path)?;
    CertificateDer::from_pem_slice(&pem).map_err(|error| KeysError::Malformed {
        path: path.to_owned(),
        what: "certificate",
        reason: error.to_string(),
    })
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, KeysError> {
    let pem = read(path)?;
    let metadata =
        fs::metadata(path).map_err(|source| KeysError::Read { path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Exposed { path: path.to_owned(), mode });
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| KeysError::Malformed {
        path: path.to_owned(),
        what: "private key",
        reason: error.to_string(),
    })
}

/// What to do where keys cannot be read.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "; 'rampool-server --init' makes a pool, 'rampool-server join TOKEN' and 'rampool join TOKEN' join one; see also 'rampool keys --help'"
        }
        io::ErrorKind::PermissionDenied => "; they must belong to the user who runs this",
        _ => "",
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KeysError> {
    fs::read(path).map_err(|source| KeysError::Read { path: path.to_owned(), source })
}
