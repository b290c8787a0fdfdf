//! What a certificate says.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate, X509Error};
use x509_parser::x509::X509Name;

use super::{KeysError, Role, read_certificate};

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
    pub times: (SystemTime, SystemTime),
    /// Whether now is within them.
    pub valid_now: bool,
    /// What tells it from others of its CA.
    pub serial: Vec<u8>,
    /// The key that it is for: a SubjectPublicKeyInfo (RFC 5280, 4.1) in DER.
    pub key: Vec<u8>,
}

/// Reads the certificate at `path` and says what it is.
pub fn describe(path: &Path) -> Result<CertificateFacts, KeysError> {
    facts(path, &read_certificate(path)?)
}

/// The certificate that the peer showed.
pub fn peer_certificate(connection: &quinn::Connection) -> Option<CertificateDer<'static>> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.into_iter().next()
}

/// Name and role in the certificate that the peer showed.
pub fn peer(connection: &quinn::Connection) -> Option<(String, Role)> {
    let certificate = peer_certificate(connection)?;
    let facts = facts(Path::new(""), &certificate).ok()?;
    Some((facts.name, facts.role?))
}

/// What a certificate says that came over the network.
///
/// # Errors
/// It is none.
pub fn read_der(certificate: &[u8]) -> Result<CertificateFacts, KeysError> {
    facts(Path::new("the answer"), &CertificateDer::from(certificate))
}

pub(super) fn facts(path: &Path, der: &CertificateDer<'_>) -> Result<CertificateFacts, KeysError> {
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
        times: (time(parsed.validity().not_before), time(parsed.validity().not_after)),
        valid_now: parsed.validity().is_valid(),
        serial: parsed.raw_serial().to_vec(),
        key: parsed.public_key().raw.to_vec(),
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

fn common_name(name: &X509Name<'_>) -> Option<String> {
    let value = name.iter_common_name().next()?;
    value.as_str().ok().map(str::to_owned)
}

/// A time as it is shown.
pub fn in_words(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time =
        i64::try_from(seconds).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
    time.map_or_else(|| format!("{seconds} s after 1970"), |time| time.to_string())
}

fn time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_secs(seconds)
}
