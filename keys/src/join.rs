//! How a machine joins a pool: it makes a key, asks the server that its token names for a certificate, and keeps both.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail, ensure};
use quinn::{Connection, Endpoint, RecvStream, TokioRuntime, TransportErrorCode};
use rampool_protocol::certs::{
    AUTHORITY_NAME, CA_FILE, CERT_FILE, Fingerprint, Identity, KEY_FILE, Role, explain, said,
    stranger_config,
};
use rampool_protocol::control::{self, CloseCode, Join, Joined, ToClient, ToServer, VERSION};
use rampool_protocol::endpoint;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::SERVER_FILE;
use crate::pool::{self, write_new};
use crate::token::Token;
use crate::whole::make_whole;

/// A server that has not answered within this time does not.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// A machine that wants to join.
#[derive(Debug)]
pub struct NewMember {
    name: String,
    role: Role,
    key: KeyPair,
}

impl NewMember {
    /// A machine called `name`, with a new key.
    ///
    /// # Errors
    /// The name is unfit, or there is no key to be had.
    pub fn new(name: &str, role: Role) -> anyhow::Result<Self> {
        pool::check_name(name)?;
        Ok(Self { name: name.to_owned(), role, key: pool::new_key()? })
    }

    /// What it asks for.
    pub(crate) fn asks(&self, token: &Token) -> Join {
        let request = CertificateParams::default().serialize_request(&self.key);
        let request = request.expect("a key signs").der().to_vec();
        let (name, role) = (self.name.clone(), self.role);
        Join { version: VERSION, token: token.to_bytes(), name, role, request }
    }

    /// Asks the server that `token` names to be let in, and keeps the keys in `dir`, which must be empty or not there. All of
    /// them, or none.
    ///
    /// # Errors
    /// The directory cannot be made; the server cannot be reached or is not of the token's pool; it refuses.
    pub fn join(self, token: &Token, dir: &Path) -> anyhow::Result<()> {
        if let Some(ago) = token.expired_for(SystemTime::now()) {
            bail!(
                "the token expired {} ago; 'rampool-server token' on {} makes a new one",
                in_words(ago),
                token.address()
            );
        }
        make_whole(dir, |new| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            let joined = runtime.block_on(ask(self.asks(token), token))?;
            self.keep(&joined, token, new)
        })
    }

    fn keep(&self, joined: &Joined, token: &Token, dir: &Path) -> anyhow::Result<()> {
        let ca = CertificateDer::from(joined.ca.as_slice());
        ensure!(Fingerprint::of(&ca) == token.ca, "the server's answer is of another pool");
        write_new(&dir.join(KEY_FILE), &self.key.serialize_pem())?;
        write_new(&dir.join(CERT_FILE), &pem(&joined.certificate))?;
        write_new(&dir.join(CA_FILE), &pem(&joined.ca))?;
        write_new(&dir.join(SERVER_FILE), &format!("{}\n", token.address()))?;
        Identity::load(dir, self.role).context("what the server has answered is of no use")?;
        Ok(())
    }
}

fn pem(certificate: &[u8]) -> String {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", certificate), lines)
}

/// Asks each address of the server in turn.
async fn ask(join: Join, token: &Token) -> anyhow::Result<Joined> {
    let server = token.address();
    let addresses = server
        .to_socket_addrs()
        .with_context(|| format!("cannot look up {server}, which the token names"))?;
    let mut why = anyhow!("{server}, which the token names, has no address");
    for address in addresses {
        match timeout(ANSWERS_WITHIN, ask_at(address, &join, token)).await {
            Ok(Ok(joined)) => return Ok(joined),
            Ok(Err(error)) => why = error,
            Err(_) => {
                why = anyhow!(
                    "{address} does not answer; is rampool-server running there, and can UDP reach it?"
                );
            }
        }
    }
    Err(why)
}

async fn ask_at(address: SocketAddr, join: &Join, token: &Token) -> anyhow::Result<Joined> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = endpoint::bind(any).context("cannot make a socket")?.socket;
    let endpoint = Endpoint::new(endpoint::endpoint_config(), None, socket, Arc::new(TokioRuntime))
        .context("cannot make a socket")?;
    let connecting = endpoint.connect_with(stranger_config(token.ca), address, AUTHORITY_NAME)?;
    let connection = connecting.await.map_err(|error| refusal(address, &error))?;
    let joined = converse(&connection, join).await;
    let closed = connection.close_reason();
    connection.close(CloseCode::Done.into(), b"");
    endpoint.wait_idle().await;
    joined.map_err(|error| match closed {
        Some(why) => refusal(address, &why),
        None => error,
    })
}

async fn converse(connection: &Connection, join: &Join) -> anyhow::Result<Joined> {
    let (mut ask, mut told) = connection.open_bi().await?;
    ask.write_all(&control::encode(&ToServer::Join(join.clone()))).await?;
    match read(&mut told).await? {
        ToClient::Joined(joined) => Ok(joined),
        other => bail!("the server answered with something else: {other:?}"),
    }
}

async fn read(told: &mut RecvStream) -> anyhow::Result<ToClient> {
    let mut length = [0; 4];
    told.read_exact(&mut length).await?;
    let mut body = vec![0; control::parse_length(length)?];
    told.read_exact(&mut body).await?;
    Ok(control::decode(&body)?)
}

fn refusal(address: SocketAddr, why: &quinn::ConnectionError) -> anyhow::Error {
    if let quinn::ConnectionError::ApplicationClosed(closed) = why {
        return anyhow!("{address} refuses: {}", said(&closed.reason));
    }
    // TLS alerts (RFC 8446, 6.2): bad_certificate, unknown_ca.
    let ours = [42, 48].map(TransportErrorCode::crypto);
    if matches!(why, quinn::ConnectionError::TransportError(error) if ours.contains(&error.code)) {
        return anyhow!(
            "the server at {address} is not of the token's pool, or does not have its authority's key (ca.key)"
        );
    }
    anyhow!("{address}: {}", explain(why, Role::Server))
}

/// A time, roughly.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let temp = tempfile::tempdir().unwrap();
        let authority = |name: &str| {
            let dir = temp.path().join(name);
            pool::init(&dir).unwrap();
            Authority::load(&dir).unwrap()
        };
        let (ours, others) = (authority("ours"), authority("others"));
        let token = |authority: &Authority| authority.token("10.0.0.2:7167", None, 1).unwrap();
        let member = NewMember::new("vm1", Role::Client).unwrap();
        let dir = |name: &str| {
            let dir = temp.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            dir
        };
        let now = SystemTime::now();
        let joined = ours.admit(&member.asks(&token(&ours)), now).unwrap();
        member.keep(&joined, &token(&ours), &dir("right")).unwrap();
        assert_eq!(
            crate::known_server(&temp.path().join("right")).unwrap().as_deref(),
            Some("10.0.0.2:7167")
        );
        let error = member.keep(&joined, &token(&others), &dir("wrong")).unwrap_err();
        assert_eq!(error.to_string(), "the server's answer is of another pool");
        let mixed = Joined { ca: others.ca().to_vec(), ..joined };
        assert!(member.keep(&mixed, &token(&others), &dir("mixed")).is_err());
    }
}
