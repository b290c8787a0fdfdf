//! Who belongs to a pool.
//!
//! A pool is a certificate authority: whoever has a certificate of it belongs to the pool, as a client or as a server
//! ([`pool`]). A new machine gets its certificate over the network from the server that has the authority's key
//! ([`authority`]), by showing a token ([`token`]) that somebody has carried there ([`join`], [`command`]). While its programs run they
//! renew it, and learn what was revoked ([`renewal`]).

pub mod authority;
mod call;
pub mod command;
mod issued;
pub mod join;
pub mod pool;
pub mod renewal;
pub mod token;
mod whole;

use std::io;
use std::path::Path;

/// Where a machine that mounts has its keys, unless told otherwise.
pub const CLIENT_KEYS: &str = "/etc/rampool/keys";

/// Where a server has its keys, unless told otherwise.
pub const SERVER_KEYS: &str = "/var/lib/rampool-server/keys";

/// In a directory of keys: a server of the pool, `HOST:PORT`.
const SERVER_FILE: &str = "server";

/// A server of the pool that the keys in `dir` belong to, as far as that is known there.
///
/// # Errors
/// The directory, or what is in it, cannot be read by this user.
pub fn known_server(dir: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(dir.join(SERVER_FILE)) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|server| !server.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// As it lies in a file.
fn pem(what: &str, der: &[u8]) -> String {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(what, der), lines)
}

/// What this machine is called.
pub fn machine_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    // What a certificate's name cannot have.
    let fit = |c: char| if pool::may_be_in_a_name(c) { c } else { '-' };
    let name: String = name.chars().take(pool::NAME_BYTES_MAX).map(fit).collect();
    if name.is_empty() { "machine".to_owned() } else { name }
}
