//! A pool's CA, and keys directories such as `rampool keys` makes, good and bad ones.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rampool_protocol::certs::{CA_FILE, CERT_FILE, Identity, KEY_FILE, Role, SERVER_NAME};
use rampool_protocol::endpoint;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub const DAY: Duration = Duration::from_secs(86_400);

/// A CA, and a directory for what it issues.
pub struct Pool {
    pub dir: tempfile::TempDir,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pool {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let ca_pem = params.self_signed(&key).expect("signed").pem();
        let issuer = Issuer::new(params, key);
        Self { dir: tempfile::tempdir().expect("a directory"), ca_pem, issuer }
    }

    /// A keys directory that is good for a year.
    pub fn issue(&self, name: &str, role: Role) -> PathBuf {
        self.issue_until(name, role, SystemTime::now() + 365 * DAY)
    }

    pub fn issue_until(&self, name: &str, role: Role, end: SystemTime) -> PathBuf {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let (usage, alternative) = match role {
            Role::Client => (ExtendedKeyUsagePurpose::ClientAuth, "client.rampool"),
            Role::Server => (ExtendedKeyUsagePurpose::ServerAuth, SERVER_NAME),
        };
        params.extended_key_usages = vec![usage];
        params.subject_alt_names =
            vec![rcgen::SanType::DnsName(alternative.try_into().expect("plain"))];
        params.not_before = (SystemTime::now() - 2 * DAY).into();
        params.not_after = end.into();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let dir = self.dir.path().join(name);
        fs::create_dir(&dir).expect("a new name");
        for (file, text) in [
            (CA_FILE, &self.ca_pem),
            (CERT_FILE, &certificate.pem()),
            (KEY_FILE, &key.serialize_pem()),
        ] {
            fs::write(dir.join(file), text).expect("written");
            fs::set_permissions(dir.join(file), fs::Permissions::from_mode(0o600)).expect("ours");
        }
        dir
    }

    /// A client that may connect.
    pub fn client(&self, name: &str) -> quinn::ClientConfig {
        let dir = self.issue(name, Role::Client);
        Identity::load(&dir, Role::Client).expect("good keys").client_config()
    }
}

/// Connects with whatever lies in `dir`, or with no certificate at all.
pub fn careless_client(dir: &Path, show_certificate: bool) -> quinn::ClientConfig {
    let (roots, chain, key) = load(dir);
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut tls = if show_certificate {
        builder.with_client_auth_cert(chain, key).expect("they fit")
    } else {
        builder.with_no_client_auth()
    };
    tls.alpn_protocols = vec![b"rampool".to_vec()];
    let crypto = QuicClientConfig::try_from(tls).expect("a QUIC suite");
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(endpoint::transport_config());
    config
}

/// Serves with whatever lies in `dir`, and asks no client for a certificate.
pub fn careless_server(dir: &Path) -> quinn::ServerConfig {
    let (_, chain, key) = load(dir);
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they fit");
    tls.alpn_protocols = vec![b"rampool".to_vec()];
    let crypto = QuicServerConfig::try_from(tls).expect("a QUIC suite");
    quinn::ServerConfig::with_crypto(Arc::new(crypto))
}

fn load(dir: &Path) -> (RootCertStore, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(dir.join(CA_FILE)).expect("a CA");
    roots.add(ca).expect("a usable CA");
    let certificate = CertificateDer::from_pem_file(dir.join(CERT_FILE)).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(dir.join(KEY_FILE)).expect("a key");
    (roots, vec![certificate], key)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
