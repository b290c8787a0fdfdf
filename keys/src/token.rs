//! Join tokens: what a new machine must know to find its pool, to trust it and to be let in.
//!
//! As text a token is `rampool-` and base64url (RFC 4648, 5) without padding of: a version (1), who may join with it (0 for
//! all, 1 client, 2 server), the second since 1970 at which it expires (u64, little-endian), the fingerprint of the pool's CA
//! (16 bytes), the length of an address and the address of the server to ask (`HOST:PORT`), then a seal (16 bytes). The seal is the
//! beginning of an HMAC-SHA-256 of all before it, with a key that only the authority has: it keeps no list of its tokens. Any
//! number of machines may join with one until it expires.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use rampool_protocol::certs::{Fingerprint, Role};

const PREFIX: &str = "rampool-";
const VERSION: u8 = 1;
const SEAL_BYTES: usize = 16;
/// Of all but the address.
const FIXED_BYTES: usize = 1 + 1 + 8 + Fingerprint::BYTES + 1 + SEAL_BYTES;

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Who may join with it; None for both.
    pub(crate) role: Option<Role>,
    expires: u64,
    pub(crate) ca: Fingerprint,
    pub(crate) address: String,
    pub(crate) seal: [u8; SEAL_BYTES],
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is something else.
    #[error(
        "that is no join token; one begins with '{PREFIX}' and comes from 'rampool-server token'"
    )]
    Other,
    /// Something is missing, or too much.
    #[error("the token is not complete; copy all of it")]
    Incomplete,
    /// It is of another version.
    #[error(
        "the token is of version {0}, this program knows version {VERSION}; install the same release on both"
    )]
    Version(u8),
}

impl Token {
    /// A token without its seal.
    pub(crate) fn unsealed(
        role: Option<Role>,
        expires: SystemTime,
        ca: Fingerprint,
        address: &str,
    ) -> Self {
        let expires = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { role, expires, ca, address: address.to_owned(), seal: [0; SEAL_BYTES] }
    }

    /// The server to ask, `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// For how long it has been of no use any more; None while it is.
    pub fn expired_for(&self, now: SystemTime) -> Option<Duration> {
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(self.expires))?;
        now.duration_since(expires).ok()
    }

    /// What the seal is of.
    pub(crate) fn sealed_bytes(&self) -> Vec<u8> {
        let role = match self.role {
            None => 0,
            Some(Role::Client) => 1,
            Some(Role::Server) => 2,
        };
        let mut bytes = vec![VERSION, role];
        bytes.extend(self.expires.to_le_bytes());
        bytes.extend(self.ca.0);
        // An address that is longer is refused when a token is made.
        bytes.push(self.address.len() as u8);
        bytes.extend(self.address.as_bytes());
        bytes
    }

    /// As it is sent.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.sealed_bytes();
        bytes.extend(self.seal);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, TokenError> {
        let version = *bytes.first().ok_or(TokenError::Incomplete)?;
        if version != VERSION {
            return Err(TokenError::Version(version));
        }
        let mut rest = bytes;
        let mut take = |count: usize| rest.split_off(..count).ok_or(TokenError::Incomplete);
        let role = match take(2)?[1] {
            0 => None,
            1 => Some(Role::Client),
            2 => Some(Role::Server),
            _ => return Err(TokenError::Incomplete),
        };
        let expires = take(8)?.try_into().map_err(|_| TokenError::Incomplete)?;
        let ca = take(Fingerprint::BYTES)?.try_into().map_err(|_| TokenError::Incomplete)?;
        let length = usize::from(take(1)?[0]);
        if bytes.len() != FIXED_BYTES + length {
            return Err(TokenError::Incomplete);
        }
        let address = String::from_utf8(take(length)?.to_vec())
            .ok()
            .filter(|address| address.chars().all(|c| c.is_ascii_graphic()));
        Ok(Self {
            role,
            expires: u64::from_le_bytes(expires),
            ca: Fingerprint(ca),
            address: address.ok_or(TokenError::Incomplete)?,
            seal: take(SEAL_BYTES)?.try_into().map_err(|_| TokenError::Incomplete)?,
        })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE64URL_NOPAD.encode(&self.to_bytes()))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Other)?;
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| TokenError::Incomplete)?;
        Self::from_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let expires = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let ca = Fingerprint([7; Fingerprint::BYTES]);
        Token::unsealed(Some(Role::Client), expires, ca, "lender.example:7167")
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let token = Token { seal: [9; SEAL_BYTES], ..token() };
        let text = token.to_string();
        assert!(text.starts_with("rampool-") && text.len() < 120, "{text}");
        assert_eq!(text.parse(), Ok(token.clone()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token));
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_no_token() {
        let text = token().to_string();
        for length in "rampool-".len()..text.len() {
            let error = text[..length].parse::<Token>().unwrap_err();
            assert_eq!(error, TokenError::Incomplete, "{length}");
        }
        assert_eq!(format!("{text}AAAA").parse::<Token>(), Err(TokenError::Incomplete));
        for other in ["", "10.0.0.2:7167", "RAMPOOL-AA"] {
            assert_eq!(other.parse::<Token>(), Err(TokenError::Other));
        }
        let newer = format!("rampool-{}", BASE64URL_NOPAD.encode(&[2; 60]));
        assert_eq!(newer.parse::<Token>(), Err(TokenError::Version(2)));
    }

    #[test]
    fn it_expires() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(token().expired_for(at(1_799_999_999)), None);
        assert_eq!(token().expired_for(at(1_800_000_060)), Some(Duration::from_secs(60)));
    }
}
