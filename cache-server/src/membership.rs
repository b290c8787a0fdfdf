//! Who this server is, and what lets others join its pool.

use std::net::SocketAddr;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, anyhow};
use rampool_cli::show::show;
use rampool_cli::status::fetch;
use rampool_keys::authority::Authority;
use rampool_keys::{known_server, pool};
use rampool_protocol::certs::{Identity, Role};
use rampool_protocol::endpoint::PORT_DEFAULT;

use crate::args::{RevokeArgs, TokenArgs};
use crate::gossip;
use crate::status::{Report, find_any_socket};

/// Who this server is.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) identity: Identity,
    /// Present where the pool's key is.
    pub(crate) authority: Option<Authority>,
    /// A server of the pool that it has joined by.
    pub(crate) known: Option<String>,
}

impl Membership {
    /// By the keys in `dir`. With `init` they are made first where there are none, and with them a pool.
    ///
    /// # Errors
    /// The keys are not there, or not what they should be.
    pub(crate) fn load(dir: &Path, init: bool) -> anyhow::Result<Self> {
        if init && pool::found(dir)? {
            tracing::warn!("made a new pool, with its keys in {}", dir.display());
        }
        // Its text has the cause already.
        let identity = Identity::load(dir, Role::Server).map_err(|error| anyhow!("{error}"))?;
        let known = known_server(dir).ok().flatten();
        Ok(Self { identity, authority: Authority::find(dir)?, known })
    }
}

/// The authority whose key is in `dir`.
fn authority(dir: &Path) -> anyhow::Result<Authority> {
    Authority::find(dir)?.with_context(|| {
        format!(
            "the pool's key is not in {}: it is where the pool was made, with 'rampool-server --init'",
            dir.display()
        )
    })
}

/// Takes a machine out of the pool.
///
/// # Errors
/// The authority's key is not here, or it has no such member.
pub(crate) fn revoke(args: &RevokeArgs) -> anyhow::Result<()> {
    let authority = authority(&args.keys)?;
    let count = authority.revoke(&args.name, args.role.map(Into::into), SystemTime::now())?;
    let certificates = if count == 1 { "certificate" } else { "certificates" };
    rampool_cli::say!(
        "rampool-server: {count} {certificates} of {} revoked; the server here knows at once, the others within ten minutes",
        args.name
    );
    Ok(())
}

/// Prints a token.
///
/// # Errors
/// The authority's key is not here.
pub(crate) fn token(args: &TokenArgs) -> anyhow::Result<()> {
    let authority = authority(&args.keys)?;
    let address = args.address.clone().unwrap_or_else(own_address);
    rampool_cli::say!(
        "rampool-server: machines ask {address} (see --address), for {} hours",
        args.hours
    );
    let role = args.role.map(Into::into);
    let token = authority.token(&address, role, args.hours)?;
    show(&format!("{token}\n")).context("cannot write to stdout")
}

/// Where others find the server of this machine: as it says itself, if it runs.
fn own_address() -> String {
    let says = fetch(&find_any_socket()).ok();
    let report = says.and_then(|document| serde_json::from_str::<Report>(&document).ok());
    let advertised = report.map(|report| report.advertised().to_owned());
    let guessed = || {
        let any = SocketAddr::from(([0, 0, 0, 0], PORT_DEFAULT));
        gossip::own_address(any).to_string()
    };
    advertised.filter(|address| !address.is_empty()).unwrap_or_else(guessed)
}
