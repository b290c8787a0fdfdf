//! The command line: raw flags here, resolved values for the rest.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use clap::{Parser, Subcommand, ValueEnum};
use rampool_protocol::endpoint::PORT_DEFAULT;
use rampool_protocol::size::ByteSize;

use crate::lend::{Limit, sense};
use crate::status;

/// Lends a machine's idle memory to the clients of a rampool pool.
///
/// Memory is lent such that the kernel can take it back at any moment without asking.
#[derive(Debug, Parser)]
#[command(
    name = "rampool-server",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// Where to listen: ADDRESS or ADDRESS:PORT; port 0 takes any free one
    #[arg(long, value_name = "ADDR:PORT", default_value_t = default_listen())]
    listen: String,

    /// The most memory to lend, such as 512M or 2G (powers of 1024)
    #[arg(long, value_name = "SIZE", required = true)]
    lend: Option<String>,

    /// Directory with ca.pem, cert.pem and key.pem, made by 'rampool keys issue --role server'
    #[arg(long, value_name = "DIR", required = true)]
    keys: Option<PathBuf>,

    /// Where `rampool-server status` finds this server, instead of the usual place
    #[arg(long, value_name = "PATH")]
    status_socket: Option<PathBuf>,

    /// Log more; twice for all. RUST_LOG says it in detail
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what a running server of this user does
    Status {
        /// The server's status socket
        #[arg(long, value_name = "PATH")]
        status_socket: Option<PathBuf>,

        /// Where the server listens; its port tells servers apart
        #[arg(long, value_name = "ADDR:PORT", default_value_t = default_listen(), conflicts_with = "status_socket")]
        listen: String,

        /// How to show it
        #[arg(short, value_name = "HOW", value_enum, default_value_t = Shape::Table)]
        write: Shape,
    },
}

/// How a report is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Task {
    /// Serve.
    Serve(Settings),
    /// Show the status of the server at this socket.
    Status(PathBuf, Shape),
}

/// How to serve.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    pub(crate) limit: Limit,
    pub(crate) keys: PathBuf,
    /// None for the usual place, which depends on the port.
    pub(crate) status_socket: Option<PathBuf>,
    pub(crate) verbose: u8,
}

impl Args {
    /// Checks the flags and makes values of them.
    ///
    /// # Errors
    /// One line that names the flag and says what is wrong with it.
    pub(crate) fn resolve(self) -> anyhow::Result<Task> {
        if let Some(Command::Status { status_socket, listen, write }) = self.command {
            let socket = match status_socket {
                Some(path) => path,
                None => status::default_socket(resolve_address(&listen)?.port()),
            };
            return Ok(Task::Status(socket, write));
        }
        let (Some(lend), Some(keys)) = (self.lend, self.keys) else {
            bail!("--lend and --keys are needed");
        };
        let asked = lend.parse::<ByteSize>().map_err(|error| anyhow!("--lend: {error}"))?;
        let machine = sense::machine_memory().context("cannot tell how much memory there is")?;
        Ok(Task::Serve(Settings {
            listen: resolve_address(&self.listen)?,
            limit: Limit::new(asked, machine).map_err(|error| anyhow!("--lend: {error}"))?,
            keys,
            status_socket: self.status_socket,
            verbose: self.verbose,
        }))
    }
}

fn default_listen() -> String {
    format!("0.0.0.0:{PORT_DEFAULT}")
}

/// An address with or without a port, or a name that has one.
fn resolve_address(text: &str) -> anyhow::Result<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, PORT_DEFAULT).into());
    }
    let named = if text.contains(':') {
        text.to_socket_addrs()
    } else {
        (text, PORT_DEFAULT).to_socket_addrs()
    };
    let mut addresses =
        named.map_err(|error| anyhow!("--listen: cannot resolve '{text}': {error}"))?;
    addresses.next().ok_or_else(|| anyhow!("--listen: '{text}' has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn an_address_may_lack_its_port() {
        for (text, address) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("127.0.0.1", "127.0.0.1:7167"),
            ("::1", "[::1]:7167"),
            ("[::1]:5", "[::1]:5"),
        ] {
            assert_eq!(resolve_address(text).unwrap(), address.parse().unwrap(), "{text}");
        }
        let error = resolve_address("127.0.0.1:99999").unwrap_err().to_string();
        assert!(error.starts_with("--listen: cannot resolve '127.0.0.1:99999': "), "{error}");
    }
}
