//! A network of our own: machines with an address each, on one switch. Each is a network namespace, and all are gone at
//! the end.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::binaries::output;
use crate::tool::Need;

/// Where ip(8) keeps namespaces.
const NAMESPACES: &str = "/run/netns";
/// What all names of ours begin with; the number of the process follows.
const PREFIX: &str = "rampool-faults-";

/// The switch. Dropping it takes it away.
pub(super) struct Switch {
    ip: PathBuf,
    namespace: String,
}

/// A machine on the switch. Dropping it takes it away; what runs in it goes on.
pub(super) struct Machine {
    ip: PathBuf,
    namespace: String,
    pub(super) address: IpAddr,
}

impl Switch {
    /// Makes one, and takes away what processes that were killed have left.
    pub(super) fn new() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("only root can make networks; run this as root");
        }
        let ip = Need::of("ip").find().context("run deploy/faults")?;
        remove_leftovers(&ip);
        let switch = Self { ip, namespace: format!("{PREFIX}{}-switch", std::process::id()) };
        switch.ip(&["netns", "add", &switch.namespace])?;
        switch.inside(&["link", "add", "switch", "type", "bridge"])?;
        switch.inside(&["link", "set", "switch", "up"])?;
        Ok(switch)
    }

    /// Puts a machine on it, whose address ends with `number`.
    pub(super) fn machine(&self, number: u8) -> Result<Machine> {
        let address = Ipv4Addr::new(10, 77, 0, number);
        let namespace = format!("{PREFIX}{}-{number}", std::process::id());
        self.ip(&["netns", "add", &namespace])?;
        let machine = Machine { ip: self.ip.clone(), namespace, address: address.into() };
        let port = format!("port{number}");
        self.inside(&[
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &machine.namespace,
        ])?;
        self.inside(&["link", "set", &port, "master", "switch", "up"])?;
        for settings in [
            &["address", "add", &format!("{address}/24"), "dev", "eth0"][..],
            &["link", "set", "eth0", "up"],
            &["link", "set", "lo", "up"],
        ] {
            let arguments = [&["-n", &machine.namespace], settings].concat();
            self.ip(&arguments)?;
        }
        Ok(machine)
    }

    fn inside(&self, arguments: &[&str]) -> Result<()> {
        self.ip(&[&["-n", &*self.namespace], arguments].concat())
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.ip);
        command.args(arguments);
        output(command).map(drop).context("cannot make a network")
    }
}

impl Machine {
    /// A command that runs on this machine, with all but the network shared.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={NAMESPACES}/{}", self.namespace)).arg(program);
        command
    }

    /// Does `act` on this machine: sockets that it makes stay there.
    pub(super) fn on<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = File::open(Path::new(NAMESPACES).join(&self.namespace))?;
        let done = std::thread::scope(|scope| {
            let act = || {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind)?;
                Ok(act())
            };
            scope.spawn(act).join()
        });
        done.map_err(|_| anyhow!("a thread has failed"))?
    }

    /// Cuts the way to and from `other`, or mends it.
    pub(super) fn cut(&self, other: IpAddr, is_cut: bool) -> Result<()> {
        let rules = match is_cut {
            true => format!(
                "table ip faults {{ \
                   chain inbound {{ type filter hook input priority 0; ip saddr {other} drop; }} ; \
                   chain outbound {{ type filter hook output priority 0; ip daddr {other} drop; }} ; }}"
            ),
            false => "delete table ip faults".to_owned(),
        };
        let nft = Need::of("nft").find().context("run deploy/faults")?;
        let mut command = self.command(&nft);
        command.arg(rules);
        output(command).map(drop).context("cannot cut the way")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        remove(&self.ip, &self.namespace);
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        remove(&self.ip, &self.namespace);
    }
}

fn remove(ip: &Path, namespace: &str) {
    let _ = Command::new(ip).args(["netns", "delete", namespace]).output();
}

fn remove_leftovers(ip: &Path) {
    for entry in std::fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            remove(ip, &name);
        }
    }
}
