//! What both programs offer on their command lines.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use rampool_protocol::certs::Role;

use crate::join::NewMember;
use crate::token::{Token, TokenError};
use crate::{CLIENT_KEYS, SERVER_KEYS, machine_name};

/// What `join` is told.
#[derive(Clone, Debug, Args)]
pub struct JoinArgs {
    /// What 'rampool-server token' has printed on a server of the pool; '-' to read it from stdin: what is on a command
    /// line, others can see
    token: TokenArg,
    /// What this machine is called in status and logs [default: its host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where its keys are put, a directory that is empty or not there [default: /etc/rampool/keys of one that mounts,
    /// /var/lib/rampool-server/keys of one that lends]
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
}

/// A token, or where it is.
#[derive(Clone, Debug)]
enum TokenArg {
    Given(Token),
    Stdin,
}

/// A role, on a command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RoleArg {
    /// Mounts
    Client,
    /// Lends
    Server,
}

impl JoinArgs {
    /// Makes this machine a member of the pool, and says so on stderr.
    ///
    /// # Errors
    /// There are keys already, or the token's server does not let it in.
    pub fn join(&self, role: Role) -> anyhow::Result<()> {
        let (program, usual) = match role {
            Role::Client => ("rampool", CLIENT_KEYS),
            Role::Server => ("rampool-server", SERVER_KEYS),
        };
        let token = match &self.token {
            TokenArg::Given(token) => token.clone(),
            TokenArg::Stdin => {
                let mut line = String::new();
                std::io::stdin().read_line(&mut line).context("cannot read a token from stdin")?;
                line.parse()?
            }
        };
        let keys = self.keys.as_deref().unwrap_or(Path::new(usual));
        let name = self.name.clone().unwrap_or_else(machine_name);
        NewMember::new(&name, role)?.join(&token, keys)?;
        let (server, keys) = (token.address(), keys.display());
        // That it cannot be said changes nothing.
        let _ = writeln!(
            std::io::stderr(),
            "{program}: {name} belongs to the pool of {server}; its keys are in {keys}"
        );
        Ok(())
    }
}

impl FromStr for TokenArg {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text == "-" { Ok(Self::Stdin) } else { text.parse().map(Self::Given) }
    }
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Client => Self::Client,
            RoleArg::Server => Self::Server,
        }
    }
}
