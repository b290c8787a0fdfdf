//! A target that is set up: its directory, its daemon, its lenders, each in a control group that holds it to the
//! memory that every row has.

use std::cell::Cell;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, anyhow};
use rampool_cli::size::ByteSize;

use super::figures::{Hole, Shares};
use super::peers::Memcached;
use super::plan::{Disk, Plan, Size};
use super::target::Target;
use crate::group::{Controller, DiskLimit, Group};
use crate::image::{Image, JOURNAL_BYTES};
use crate::mounted::Mounted;
use crate::placement::{Cpus, Placement};
use crate::pool::{Client, Lender, MountPlan, Pool};
use crate::status::ClientStatus;
use crate::stop::Stop;
use crate::tool::Running;

/// Of a row's memory, for the application and for what the daemon needs besides its cache.
pub(crate) const BESIDES_CACHE: u64 = 32 << 20;
/// Left to the kernel for each file that a workload uses: two inodes and two names take 2.4 KB, and the daemon 0.4 KB. With
/// 32,768 files and caches of 96 or 64 MiB in rows of 128, each open waited for its inode on a disk of 150 IOPS.
const FILE_MEMORY: u64 = 2 << 10;
/// A lender's own, besides what it lends.
const LENDER_OWN: u64 = 64 << 20;
/// Of a disk, besides one and a half times the working set.
const DISK_ROOM: u64 = (256 << 20) + JOURNAL_BYTES;
/// Lenders lend so many per cent of the working set: what is overwritten or left behind takes room as well.
const LENT_PER_CENT: u64 = 115;

/// What a workload needs of a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// Bytes of its files.
    pub(crate) bytes: u64,
    /// Bytes of memory that its programs take for themselves.
    pub(crate) own_memory: u64,
    /// How many files it works on, roughly.
    pub(crate) files: u64,
}

/// One set-up. The order in which things end is the order of the fields.
pub(crate) struct Place<'a> {
    pub(crate) target: Target,
    mount: Option<Mount>,
    lenders: Vec<Lender>,
    memcached: Option<Memcached>,
    lender_groups: Vec<Group>,
    pub(crate) group: Group,
    /// Whether its disk is held back now.
    is_limited: Cell<bool>,
    /// Where all that take part run.
    cpus: Cpus,
    /// The case that has written since its caches were filled.
    pub(super) written_by: Option<String>,
    pool: &'a Pool,
    pub(super) source: PathBuf,
    /// Where to work.
    pub(crate) dir: PathBuf,
    /// How it was set up, for the report.
    pub(crate) commands: Vec<String>,
    _disk: Image,
}

impl Needs {
    /// What a daemon is told to cache in a row with so much memory: what it needs besides and room for what is known of
    /// files taken off.
    pub(super) fn cache(&self, memory: u64, besides: u64) -> u64 {
        memory.saturating_sub(besides + self.files * FILE_MEMORY).max(memory / 4)
    }
}

enum Mount {
    Rampool(Client),
    Other(Mounted),
}

impl<'a> Place<'a> {
    /// Sets a target up, with nothing in it.
    pub(crate) fn new(
        target: Target,
        plan: &Plan,
        needs: Needs,
        pool: &'a Pool,
        stop: &Stop,
    ) -> Result<Self, Hole> {
        let name = |part: &str| format!("rampool-bench-{}-{target}-{part}", std::process::id());
        let scratch = pool.scratch();
        // What databases write ahead and leave behind takes room as well.
        let Needs { bytes, own_memory, .. } = needs;
        let disk_bytes = bytes + bytes / 2 + DISK_ROOM;
        let free = rustix::fs::statvfs(scratch.path()).map_err(anyhow::Error::from)?;
        let free = free.f_bavail * free.f_frsize;
        if free < disk_bytes {
            let (free, wanted) = (ByteSize(free), ByteSize(disk_bytes));
            let dir = scratch.path().parent().unwrap_or(Path::new("/")).display();
            Err(anyhow!("{free} free in {dir}, {wanted} wanted; choose another place with --dir"))?;
        }
        let source = scratch.join(&format!("source-{target}"));
        let disk = scratch.join(&format!("disk-{target}.img"));
        let disk = Image::mount_direct(&disk, disk_bytes, &source)?;
        let lent_max = plan.lent_max.map_or(u64::MAX, |size| size.0);
        let lent = (bytes / 100 * LENT_PER_CENT).min(lent_max);
        let memory = match target {
            Target::PageCacheTotal => plan.memory.0 + own_memory + lent,
            _ => plan.memory.0 + own_memory,
        };
        let group = Group::new(&name("client"), &[Controller::Memory, Controller::Disk])?;
        group.limit_memory(memory)?;
        let mut place = Self {
            target,
            mount: None,
            lenders: Vec::new(),
            memcached: None,
            lender_groups: Vec::new(),
            group,
            is_limited: Cell::new(false),
            cpus: Placement::Free.cpus(1),
            written_by: None,
            pool,
            dir: source.clone(),
            source,
            commands: Vec::new(),
            _disk: disk,
        };
        for n in 0..target.lenders() {
            let each = lent / u64::from(target.lenders());
            let group = Group::new(&name(&format!("lender-{n}")), &[Controller::Memory])?;
            group.limit_memory(each + LENDER_OWN)?;
            let arguments = ["--lend", &each.to_string()];
            place.commands.push(format!("rampool-server {}", arguments.join(" ")));
            place.lenders.push(pool.lend_in(&group, &arguments, stop)?);
            place.lender_groups.push(group);
        }
        if target == Target::Memcached {
            let group = Group::new(&name("lender"), &[Controller::Memory])?;
            group.limit_memory(lent + LENDER_OWN)?;
            let (memcached, typed) = Memcached::start(&group, scratch, lent, stop)?;
            place.memcached = Some(memcached);
            place.commands.push(typed);
            place.lender_groups.push(group);
        }
        place.mount(plan, needs, stop)?;
        Ok(place)
    }

    fn mount(&mut self, plan: &Plan, needs: Needs, stop: &Stop) -> Result<(), Hole> {
        let name = format!("mnt-{}", self.target);
        let mountpoint = self.pool.scratch().join(&name);
        let mount = match self.target {
            Target::PageCache | Target::PageCacheTotal | Target::Direct | Target::Memcached => {
                return Ok(());
            }
            Target::Local | Target::Pool(_) => {
                let servers: Vec<SocketAddr> =
                    self.lenders.iter().map(|lender| lender.address).collect();
                let cache = ByteSize(needs.cache(plan.memory.0, BESIDES_CACHE));
                let mount = MountPlan {
                    servers: &servers,
                    by_measure: true,
                    group: Some(&self.group),
                    ..MountPlan::new(&self.source, &name, cache)
                };
                self.commands.push(format!(
                    "rampool mount SOURCE MOUNTPOINT --cache-size {}{}",
                    cache.bytes(),
                    " --server LENDER".repeat(servers.len())
                ));
                Mount::Rampool(self.pool.mount(&mount, stop)?)
            }
            Target::Passthrough | Target::Rclone | Target::JuiceFs => {
                Mount::Other(self.mount_peer(plan, needs, &mountpoint, stop)?)
            }
        };
        self.dir = match &mount {
            Mount::Rampool(client) => client.path().to_owned(),
            Mount::Other(mounted) => mounted.path().to_owned(),
        };
        self.mount = Some(mount);
        Ok(())
    }

    /// The directory below a mount, where files are made without the mount's doing; none where the mount keeps
    /// them in a way of its own.
    pub(crate) fn source(&self) -> Option<&Path> {
        (self.target != Target::JuiceFs).then_some(&*self.source)
    }

    /// Where memcached listens, if that is the target.
    pub(crate) fn memcached_port(&self) -> Option<u16> {
        self.memcached.as_ref().map(|memcached| memcached.port)
    }

    /// Whether the application is to go round the page cache by itself.
    pub(crate) fn is_direct(&self) -> bool {
        self.target == Target::Direct
    }

    /// From now on its disk is as fast as this, and has nothing left to write from before.
    pub(crate) fn limit(&self, disk: &Disk) -> Result<()> {
        self.write_out()?;
        if disk.iops.is_some() || disk.bandwidth.is_some() {
            self.limit_disk(disk.iops, disk.bandwidth)?;
            self.is_limited.set(true);
        }
        Ok(())
    }

    /// Brings to its disk what is left to be written, as fast as that can be.
    pub(crate) fn write_out(&self) -> Result<()> {
        if self.is_limited.take() {
            self.limit_disk(None, None)?;
        }
        Ok(rustix::fs::syncfs(File::open(&self.source)?)?)
    }

    fn limit_disk(&self, iops: Option<u32>, bandwidth: Option<Size>) -> Result<()> {
        let (iops, bandwidth) = (iops.map(u64::from), bandwidth.map(|size| size.0));
        let limits = [
            (DiskLimit::Reads, iops),
            (DiskLimit::Writes, iops),
            (DiskLimit::BytesRead, bandwidth),
            (DiskLimit::BytesWritten, bandwidth),
        ];
        self.group.limit_own_disk(&self.source, &limits)
    }

    /// From now on application, daemon and lenders share one CPU if only one request is outstanding at a time, and
    /// have all CPUs if more are. Where one request at a time is read ahead of, lenders work while the application does: then
    /// they have the other CPUs.
    pub(crate) fn share_cpus(&mut self, outstanding: u32, is_read_ahead: bool) {
        self.cpus = Placement::Pinned.cpus(outstanding as usize);
        let apart = Cpus::all_but_first().filter(|_| outstanding == 1 && is_read_ahead);
        for lender in &mut self.lenders {
            apart.unwrap_or(self.cpus).hold_process(lender.daemon().pid());
        }
        if let Some(memcached) = &self.memcached {
            self.cpus.hold_process(memcached.daemon.pid());
        }
        match &mut self.mount {
            Some(Mount::Rampool(client)) => self.cpus.hold_process(client.daemon().pid()),
            Some(Mount::Other(mounted)) => self.cpus.hold_process(mounted.daemon().pid()),
            None => {}
        }
    }

    /// Waits until all that was evicted has been lent.
    pub(crate) fn settle(&self, stop: &Stop) -> Result<()> {
        if let Some(Mount::Rampool(client)) = &self.mount {
            client.settle(stop)?;
        }
        Ok(())
    }

    /// What rampool says of itself; none of the others.
    pub(crate) fn status(&self) -> Result<Option<ClientStatus>> {
        match &self.mount {
            Some(Mount::Rampool(client)) => client.status().map(Some),
            _ => Ok(None),
        }
    }

    /// Lets a command of the application begin where the row's programs run: in its group, on its CPUs.
    pub(crate) fn enter(&self, command: &mut Command) -> Result<()> {
        self.group.place_in(command)?;
        self.cpus.place(command);
        Ok(())
    }

    /// Starts a command of the application there; what it prints goes to the file `output`.
    pub(crate) fn start(&self, mut command: Command, output: &Path) -> Result<Running> {
        self.enter(&mut command)?;
        Running::start(command, output)
    }

    /// Whether the kernel has killed a process of the row, or of its lenders, for want of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let mut groups = self.lender_groups.iter().chain([&self.group]);
        groups.any(|group| group.memory().is_ok_and(|memory| memory.oom_kills > 0))
    }

    /// Bytes that the row uses now, and that are lent to it.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        let used = self.group.memory()?.used;
        if self.memcached.is_some() {
            let groups = self.lender_groups.iter().map(|group| Ok(group.memory()?.used));
            return Ok((used, groups.sum::<Result<u64>>()?));
        }
        let lent = self.lenders.iter().map(|lender| Ok(lender.glance()?.held_bytes));
        Ok((used, lent.sum::<Result<u64>>()?))
    }
}

/// The parts of the reads between two statuses.
pub(crate) fn shares(before: &ClientStatus, after: &ClientStatus) -> Option<Shares> {
    let layers = after.layers_since(before);
    (layers.reads() > 0).then(|| Shares {
        local: layers.share(&layers.local),
        remote: layers.share(&layers.remote),
        source: layers.share(&layers.source),
    })
}

/// As one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = [program].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
