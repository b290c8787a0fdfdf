//! Who may talk to whom: certificates of the pool's own CA, with a role.
//!
//! A keys directory holds `ca.pem`, `cert.pem` and `key.pem`. The role is the certificate's
//! extended key usage (RFC 5280, 4.2.1.12): serverAuth for a server, clientAuth for a client, so
//! that ordinary TLS verification enforces it. A server also lets other servers in, which [`peer`]
//! tells from clients. Every server certificate carries the name
//! [`SERVER_NAME`]: a client trusts the pool, not an address, and one certificate goes on
//! working when its machine gets another.
//!
//! A machine that is not of the pool yet knows its CA by a [`Fingerprint`], and is let in only to be made a member
//! ([`Admission::Strangers`]).

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, TransportErrorCode};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Error};

use crate::endpoint;

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
    /// Certificate, key and CA do not belong together.
    #[error("the keys in {} do not fit together: {reason}", dir.display())]
    Mismatch {
        /// The keys directory.
        dir: PathBuf,
        /// What TLS says about them.
        reason: String,
    },
}

/// What a certificate says, for people.
#[derive(Clone, Debug)]
pub struct CertificateFacts {
    /// The name it was issued to.
    pub name: String,
    /// The pool's CA.
    pub issuer: String,
    /// None for the CA itself.
    pub role: Option<Role>,
    /// First and last moment of validity.
    pub validity: (String, String),
    /// Whether now is within them.
    pub valid_now: bool,
}

impl Identity {
    /// Loads `ca.pem`, `cert.pem` and `key.pem` from `dir` and checks that they serve `role`.
    pub fn load(dir: &Path, role: Role) -> Result<Self, KeysError> {
        let ca = read_certificate(&dir.join(CA_FILE))?;
        let cert_path = dir.join(CERT_FILE);
        let cert = read_certificate(&cert_path)?;
        let key = read_key(&dir.join(KEY_FILE))?;

        let facts = facts(&cert_path, &cert)?;
        if facts.role != Some(role) {
            return Err(KeysError::Role { path: cert_path, wanted: role });
        }
        if !facts.valid_now {
            let (from, to) = facts.validity;
            return Err(KeysError::Expired { path: cert_path, from, to });
        }

        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).map_err(|error| KeysError::Malformed {
            path: dir.join(CA_FILE),
            what: "CA certificate",
            reason: error.to_string(),
        })?;
        let identity = Self { roots: Arc::new(roots), ca, chain: vec![cert], key };
        // What does not fit together shows here, not at the first connection.
        identity.check(role).map_err(|error| KeysError::Mismatch {
            dir: dir.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(identity)
    }

    /// Whether the others of the pool would let it in, and its key fits.
    fn check(&self, role: Role) -> Result<(), rustls::Error> {
        let verifier = PoolVerifier::new(&self.roots, Admission::Members)?;
        verifier.verify_client_cert(&self.chain[0], &[], UnixTime::now())?;
        match role {
            Role::Client => self.client_tls().map(drop),
            Role::Server => self.server_tls(Admission::Members).map(drop),
        }
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
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        Ok(tls)
    }

    fn server_tls(&self, admission: Admission) -> Result<rustls::ServerConfig, rustls::Error> {
        let verifier = PoolVerifier::new(&self.roots, admission)?;
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

/// Whether `certificate` is that of the server that makes members of the pool whose CA has this fingerprint: it carries
/// [`AUTHORITY_NAME`], and the CA's own certificate, which signed it, is among those that came with it.
///
/// # Errors
/// It is not.
pub fn verify_authority(
    ca: Fingerprint,
    certificate: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
) -> Result<(), rustls::Error> {
    let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
    let ca = others.iter().find(|other| Fingerprint::of(other) == ca).ok_or(unknown)?;
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    let name = ServerName::try_from(AUTHORITY_NAME).expect("a plain name");
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?
        .verify_server_cert(certificate, &[], &name, &[], UnixTime::now())
        .map(drop)
}

/// Trusts whom [`verify_authority`] finds to be the authority.
#[derive(Debug)]
struct FingerprintVerifier(Fingerprint);

impl ServerCertVerifier for FingerprintVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_authority(self.0, certificate, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Lets in who has a certificate of the pool, for either role.
#[derive(Debug)]
struct PoolVerifier {
    admission: Admission,
    clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<WebPkiServerVerifier>,
}

impl PoolVerifier {
    fn new(roots: &Arc<RootCertStore>, admission: Admission) -> Result<Self, rustls::Error> {
        let general =
            |error: rustls::server::VerifierBuilderError| rustls::Error::General(error.to_string());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider());
        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider());
        Ok(Self {
            admission,
            clients: clients.build().map_err(general)?,
            servers: servers.build().map_err(general)?,
        })
    }
}

impl ClientCertVerifier for PoolVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.admission == Admission::Members
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let as_client = self.clients.verify_client_cert(certificate, intermediates, now);
        if as_client.is_ok() {
            return as_client;
        }
        let name = ServerName::try_from(SERVER_NAME).expect("a plain name");
        match self.servers.verify_server_cert(certificate, intermediates, &name, &[], now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(_) => as_client,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}

/// Reads the certificate at `path` and says what it is.
pub fn describe(path: &Path) -> Result<CertificateFacts, KeysError> {
    facts(path, &read_certificate(path)?)
}

/// Name and role in the certificate that the peer showed.
pub fn peer(connection: &quinn::Connection) -> Option<(String, Role)> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let (_, parsed) = X509Certificate::from_der(chain.first()?).ok()?;
    Some((common_name(parsed.subject()).unwrap_or_default(), role(&parsed).ok()??))
}

/// What a peer said, fit to be shown and logged.
pub fn said(bytes: &[u8]) -> String {
    const CHARS_MAX: usize = 300;
    String::from_utf8_lossy(bytes).chars().take(CHARS_MAX).flat_map(char::escape_debug).collect()
}

/// Why a connection could not be made or was lost, in words that say what to do. `peer` is what
/// the other end is to us.
pub fn explain(error: &ConnectionError, peer: Role) -> String {
    match error {
        ConnectionError::TransportError(ours) => match refusal(ours.code) {
            Some(why) => format!("refused the {peer}'s certificate: {why}"),
            None => ours.to_string(),
        },
        ConnectionError::ConnectionClosed(theirs) => match refusal(theirs.error_code) {
            Some(why) => format!("the {peer} refused our certificate: {why}"),
            None => theirs.to_string(),
        },
        ConnectionError::ApplicationClosed(closed) => {
            format!("the {peer} closed the connection: {}", said(&closed.reason))
        }
        ConnectionError::TimedOut => format!("the {peer} does not answer"),
        other => other.to_string(),
    }
}

/// TLS alerts (RFC 8446, 6.2) as rustls raises them for a certificate.
fn refusal(code: TransportErrorCode) -> Option<&'static str> {
    const CERTIFICATE_ALERTS: [(u8, &str); 7] = [
        (42, "it is damaged"),
        (43, "it has the wrong role; issue one with the right --role"),
        (45, "it has expired or is not valid yet; check the clock or issue a new one"),
        (46, "it cannot be verified"),
        (48, "it is of another pool; both sides need keys of the same CA ('rampool keys show')"),
        (51, "it is not signed by this pool's CA"),
        (116, "there was none; both sides need --keys"),
    ];
    CERTIFICATE_ALERTS
        .iter()
        .find(|(alert, _)| TransportErrorCode::crypto(*alert) == code)
        .map(|&(_, why)| why)
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
            "; join a pool with 'rampool join TOKEN' or 'rampool-server join TOKEN', make one with 'rampool-server --init', or see 'rampool keys'"
        }
        io::ErrorKind::PermissionDenied => "; they must belong to the user who runs this",
        _ => "",
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KeysError> {
    fs::read(path).map_err(|source| KeysError::Read { path: path.to_owned(), source })
}

fn facts(path: &Path, der: &CertificateDer<'_>) -> Result<CertificateFacts, KeysError> {
    let malformed = |reason: String| KeysError::Malformed {
        path: path.to_owned(),
        what: "certificate",
        reason,
    };
    let (_, parsed) =
        X509Certificate::from_der(der).map_err(|error| malformed(error.to_string()))?;
    Ok(CertificateFacts {
        name: common_name(parsed.subject()).unwrap_or_default(),
        issuer: common_name(parsed.issuer()).unwrap_or_default(),
        role: role(&parsed).map_err(|error| malformed(error.to_string()))?,
        validity: (
            parsed.validity().not_before.to_string(),
            parsed.validity().not_after.to_string(),
        ),
        valid_now: parsed.validity().is_valid(),
    })
}

fn role(certificate: &X509Certificate<'_>) -> Result<Option<Role>, X509Error> {
    let usage = certificate.extended_key_usage()?;
    Ok(usage.and_then(|usage| match (usage.value.client_auth, usage.value.server_auth) {
        (true, _) => Some(Role::Client),
        (_, true) => Some(Role::Server),
        _ => None,
    }))
}

fn common_name(name: &x509_parser::x509::X509Name<'_>) -> Option<String> {
    let value = name.iter_common_name().next()?;
    value.as_str().ok().map(str::to_owned)
}
