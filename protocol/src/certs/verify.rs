//! How the other end's certificate is looked at.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
};

use super::{AUTHORITY_NAME, Admission, Fingerprint, Revoked, SERVER_NAME, provider};

/// Trusts servers of the pool.
pub(super) fn servers_verifier(
    roots: &Arc<RootCertStore>,
    revoked: &Revoked,
) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    WebPkiServerVerifier::builder_with_provider(roots.clone(), provider())
        .with_crls(revoked.lists())
        .only_check_end_entity_revocation()
        .allow_unknown_revocation_status()
        .build()
        .map_err(general)
}

fn general(error: impl std::fmt::Display) -> rustls::Error {
    rustls::Error::General(error.to_string())
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
pub(super) struct FingerprintVerifier(pub(super) Fingerprint);

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
pub(super) struct PoolVerifier {
    admission: Admission,
    clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<WebPkiServerVerifier>,
}

impl PoolVerifier {
    pub(super) fn new(
        roots: &Arc<RootCertStore>,
        revoked: &Revoked,
        admission: Admission,
    ) -> Result<Self, rustls::Error> {
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .with_crls(revoked.lists())
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()
            .map_err(general)?;
        Ok(Self { admission, clients, servers: servers_verifier(roots, revoked)? })
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
