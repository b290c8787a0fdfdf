//! Certificates that are of no use any more although their time is not over.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use super::{KeysError, REVOKED_FILE, peer_certificate, read};

/// A pool's certificate revocation list (RFC 5280, 5). By default nothing is revoked.
#[derive(Clone, Debug, Default)]
pub struct Revoked {
    list: Option<CertificateRevocationListDer<'static>>,
    /// The CA's name, in DER.
    issuer: Vec<u8>,
    number: u64,
    serials: Arc<HashSet<Vec<u8>>>,
}

impl Revoked {
    /// The one in a directory of keys, in which there may be none.
    ///
    /// # Errors
    /// It cannot be read, or is no such list.
    pub fn load(dir: &Path) -> Result<Self, KeysError> {
        let path = dir.join(REVOKED_FILE);
        let pem = match read(&path) {
            Ok(pem) => pem,
            Err(KeysError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(error),
        };
        CertificateRevocationListDer::from_pem_slice(&pem)
            .map_err(|error| error.to_string())
            .and_then(Self::parse)
            .map_err(|reason| KeysError::Malformed { path, what: "revocation list", reason })
    }

    /// One that came over the network, in DER. Who signed it shows when it is used.
    ///
    /// # Errors
    /// It is no such list.
    pub fn from_der(der: Vec<u8>) -> Result<Self, String> {
        Self::parse(der.into())
    }

    fn parse(list: CertificateRevocationListDer<'static>) -> Result<Self, String> {
        let (_, parsed) =
            CertificateRevocationList::from_der(&list).map_err(|error| error.to_string())?;
        let number = parsed.crl_number().and_then(|number| number.iter_u64_digits().next());
        let serials = parsed.iter_revoked_certificates().map(|one| one.raw_serial().to_vec());
        let (number, serials) = (number.unwrap_or(0), Arc::new(serials.collect()));
        let issuer = parsed.issuer().as_raw().to_vec();
        Ok(Self { list: Some(list), issuer, number, serials })
    }

    /// As it is sent.
    pub fn der(&self) -> Option<&[u8]> {
        self.list.as_deref()
    }

    /// Rises with each list of a CA.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether a certificate with this number is on it.
    pub fn has_serial(&self, serial: &[u8]) -> bool {
        self.serials.contains(serial)
    }

    /// Whether a certificate is on it.
    pub fn has(&self, certificate: &CertificateDer<'_>) -> bool {
        let parsed = X509Certificate::from_der(certificate);
        parsed.is_ok_and(|(_, parsed)| self.has_serial(parsed.raw_serial()))
    }

    /// Whether the certificate is on it that the peer showed when it connected.
    pub fn has_peer(&self, connection: &quinn::Connection) -> bool {
        peer_certificate(connection).is_some_and(|certificate| self.has(&certificate))
    }

    /// Whether it says that it is of this CA, or is empty.
    pub(super) fn is_of(&self, ca: &CertificateDer<'_>) -> bool {
        let ca = X509Certificate::from_der(ca);
        self.list.is_none() || ca.is_ok_and(|(_, ca)| ca.subject().as_raw() == self.issuer)
    }

    pub(super) fn lists(&self) -> impl Iterator<Item = CertificateRevocationListDer<'static>> {
        self.list.clone().into_iter()
    }
}
