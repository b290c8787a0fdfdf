//! From what is written after --server to addresses.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use rampool_protocol::endpoint::PORT_DEFAULT;

/// The most addresses that one name stands for.
const ADDRESSES_MAX: usize = 255;

/// Servers as they were given: an address, a host, or the name of an SRV record.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    text: String,
    /// What it stands for, as far as is known. Empty while nobody could be asked.
    found: Vec<SocketAddr>,
}

impl Given {
    /// Looks up what `text` stands for. Waits for the network.
    ///
    /// # Errors
    /// Why it stands for nothing. That nobody can be asked at present is none: the network may be late, and is no reason
    /// not to mount.
    pub(crate) fn look_up(text: &str) -> Result<Self, String> {
        let found = match text.starts_with('_') {
            true => services(text),
            false => host(text, None),
        };
        let found = match found {
            Err(Unknown::Now(why)) => {
                tracing::warn!("--server {text}: {why}; it is looked up again and again");
                Vec::new()
            }
            Err(Unknown::Always(why)) => return Err(why),
            Ok(found) => found,
        };
        Ok(Self { text: text.to_owned(), found })
    }

    /// Looks it up again; what it stood for stays where nobody can be asked.
    ///
    /// # Errors
    /// Why it stands for nothing.
    pub(super) fn look_up_again(self) -> Result<Self, String> {
        let found = match self.text.starts_with('_') {
            true => services(&self.text),
            false => host(&self.text, None),
        };
        let found = found.map_err(|(Unknown::Now(why) | Unknown::Always(why))| why)?;
        Ok(Self { found, ..self })
    }

    /// Whether it is not known what it stands for.
    pub(super) fn is_unknown(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether it may stand for something else later.
    pub(super) fn is_name(&self) -> bool {
        let is_ip = self.text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        !is_ip && self.text.parse::<SocketAddr>().is_err()
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.found
    }
}

/// Why a name stands for nothing.
enum Unknown {
    /// Nobody can be asked.
    Now(String),
    /// It is no name, or there is nothing of that name.
    Always(String),
}

/// All addresses of a host, with `port`, or the one that is written, or the usual one.
fn host(text: &str, port: Option<u16>) -> Result<Vec<SocketAddr>, Unknown> {
    if let Some((host, written)) = text.rsplit_once(':')
        && port.is_none()
        && host.contains(':') == host.starts_with('[')
        && written.parse::<u64>().is_ok_and(|port| !(1..=65_535).contains(&port))
    {
        return Err(Unknown::Always(format!("{written} is no port")));
    }
    let found = match port {
        Some(port) => (text, port).to_socket_addrs(),
        // A bare IPv6 address has colons of its own.
        None => text
            .to_socket_addrs()
            .or_else(|_| (text.trim_matches(['[', ']']), PORT_DEFAULT).to_socket_addrs()),
    };
    match found {
        // getaddrinfo(3) says EAI_AGAIN, for which the standard library has no kind.
        Err(error) if error.to_string().contains("Temporary failure") => {
            Err(Unknown::Now("names cannot be looked up at present".to_owned()))
        }
        Err(_) => Err(Unknown::Always("the address does not resolve".to_owned())),
        Ok(found) => Ok(found.take(ADDRESSES_MAX).collect()),
    }
}

/// The addresses of all targets of an SRV record (RFC 2782). Priorities and weights are not used: who lends how much is
/// learned from the servers. A target without an address is left out, as long as another has one.
fn services(name: &str) -> Result<Vec<SocketAddr>, Unknown> {
    let failed = |error: &dyn std::fmt::Display| Unknown::Now(format!("no SRV record: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let looked_up = runtime.map_err(|error| failed(&error))?.block_on(async {
        let resolver = TokioResolver::builder_tokio()?.build()?;
        resolver.srv_lookup(name).await
    });
    let looked_up = looked_up.map_err(|error| match error.is_no_records_found() {
        true => Unknown::Always(format!("no SRV record: {error}")),
        false => failed(&error),
    })?;
    let targets = looked_up.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(service) => Some((service.target.to_utf8(), service.port)),
        _ => None,
    });
    let mut found: Vec<SocketAddr> = targets
        .filter_map(|(target, port)| host(target.trim_end_matches('.'), Some(port)).ok())
        .flatten()
        .take(ADDRESSES_MAX)
        .collect();
    found.sort_unstable();
    found.dedup();
    match found.is_empty() {
        false => Ok(found),
        true => Err(Unknown::Now("its SRV record names no host that has an address".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_given_with_or_without_a_port() {
        let found = |given| Given::look_up(given).unwrap().found[0].to_string();
        assert_eq!(found("127.0.0.1"), "127.0.0.1:7167");
        assert_eq!(found("127.0.0.1:80"), "127.0.0.1:80");
        assert_eq!(found("[::1]:80"), "[::1]:80");
        assert_eq!(found("::1"), "[::1]:7167");
        assert!(Given::look_up("no such host").is_err());
        assert!(Given::look_up("127.0.0.1:99999").is_err());
    }

    #[test]
    fn names_may_stand_for_something_else_later() {
        for (text, is_name) in
            [("::1", false), ("[::1]:5", false), ("1.2.3.4:5", false), ("localhost", true)]
        {
            assert_eq!(Given::look_up(text).unwrap().is_name(), is_name, "{text}");
        }
    }
}
