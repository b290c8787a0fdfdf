//! Why a connection is not, in words.

use quinn::{ConnectionError, TransportErrorCode};

use super::Role;

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
        ConnectionError::ApplicationClosed(closed) if closed.reason.is_empty() => {
            format!("the {peer} closed the connection")
        }
        ConnectionError::ApplicationClosed(closed) => {
            format!("the {peer} closed the connection: {}", said(&closed.reason))
        }
        ConnectionError::TimedOut => format!("the {peer} does not answer"),
        other => other.to_string(),
    }
}

/// TLS alerts (RFC 8446, 6.2) as rustls raises them for a certificate.
fn refusal(code: TransportErrorCode) -> Option<&'static str> {
    const CERTIFICATE_ALERTS: [(u8, &str); 8] = [
        (42, "it is damaged"),
        (43, "it has the wrong role; issue one with the right --role"),
        (44, "it was revoked; its machine can join again, with a new token"),
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
