//! The programs of others that a workload can be run on.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::figures::Hole;
use super::place::{Needs, Place, shown};
use super::plan::Plan;
use super::target::Target;
use crate::daemon::Daemon;
use crate::group::Group;
use crate::mounted::Mounted;
use crate::passthrough;
use crate::scratch::Scratch;
use crate::stop::Stop;
use crate::tool::Need;

/// Of a row's memory, for what JuiceFS needs besides its cache.
const BESIDES_CACHE_OF_JUICEFS: u64 = 80 << 20;

impl Place<'_> {
    /// Mounts the filesystem of others that is the target.
    pub(super) fn mount_peer(
        &mut self,
        plan: &Plan,
        needs: Needs,
        mountpoint: &Path,
        stop: &Stop,
    ) -> Result<Mounted, Hole> {
        let (name, mut command) = match self.target {
            Target::Rclone => ("rclone", self.rclone(mountpoint)?),
            Target::JuiceFs => ("juicefs", self.juicefs(plan, needs, mountpoint)?),
            _ => ("passthrough", self.passthrough(mountpoint)?),
        };
        self.commands.push(shown(&command));
        self.group.place_in(&mut command)?;
        Ok(Mounted::start(name, command, mountpoint, stop)?)
    }

    fn passthrough(&self, mountpoint: &Path) -> Result<Command, Hole> {
        match passthrough::find(None, None)? {
            Some(program) => Ok(passthrough::command(&program, &self.source, mountpoint)?),
            None => Err(Hole::NotInstalled(
                "libfuse's passthrough (deploy/passthrough builds it)".to_owned(),
            )),
        }
    }

    fn rclone(&self, mountpoint: &Path) -> Result<Command, Hole> {
        let mut command = Command::new(installed("rclone")?);
        command.arg("mount").arg(&self.source).arg(mountpoint);
        // It caches files in files; what of them is in memory is the page cache.
        command.args(["--allow-other", "--vfs-cache-mode", "full", "--cache-dir"]);
        command.arg(self.source.join(".rclone-cache"));
        Ok(command)
    }

    fn juicefs(&mut self, plan: &Plan, needs: Needs, mountpoint: &Path) -> Result<Command, Hole> {
        let program = installed("juicefs")?;
        let volume = format!("sqlite3://{}", self.source.join("meta.db").display());
        let mut format = Command::new(&program);
        format.args(["format", "--storage", "file", "--bucket"]).arg(&self.source);
        format.args([&volume, "bench"]);
        self.commands.push(shown(&format));
        crate::binaries::output(format)?;
        let cache = needs.cache(plan.memory.0, BESIDES_CACHE_OF_JUICEFS) >> 20;
        let mut command = Command::new(&program);
        command.args(["mount", "--cache-dir", "memory", "--cache-size", &cache.to_string()]);
        command.arg(&volume).arg(mountpoint);
        Ok(command)
    }
}

/// A running memcached.
pub(super) struct Memcached {
    pub(super) daemon: Daemon,
    pub(super) port: u16,
}

impl Memcached {
    /// Starts one for so many bytes of blocks, and says what was typed.
    pub(super) fn start(
        group: &Group,
        scratch: &Scratch,
        bytes: u64,
        stop: &Stop,
    ) -> Result<(Self, String), Hole> {
        let says = scratch.join("memcached-port");
        let mut command = Command::new(installed("memcached")?);
        // Any free port. It has 63 sizes of items: they begin at 4 KiB and follow closely, so that little is lost to
        // rounding.
        command.args(["-u", "root", "-l", "127.0.0.1", "-U", "0", "-p", "-1"]);
        command.args(["-n", "4032", "-f", "1.08"]);
        command.args(["-m", &(bytes >> 20).to_string()]);
        let typed = shown(&command);
        command.env("MEMCACHED_PORT_FILENAME", &says);
        group.place_in(&mut command)?;
        let mut daemon = Daemon::start("memcached", command)?;
        let port = daemon.wait_until(stop, |_| {
            let text = std::fs::read_to_string(&says).ok()?;
            text.lines().find_map(|line| line.strip_prefix("TCP INET: ")?.trim().parse().ok())
        })?;
        let _ = std::fs::remove_file(&says);
        Ok((Self { daemon, port }, typed))
    }
}

/// A program that is installed.
pub(super) fn installed(name: &'static str) -> Result<PathBuf, Hole> {
    Need::of(name).find().map_err(|_| Hole::NotInstalled(name.to_owned()))
}
