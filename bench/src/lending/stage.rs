//! The machine on which it is played: a lender that has so much memory and not more, with its server
//! and its owner's processes; a client elsewhere; the disks of both.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rampool_cli::size::ByteSize;

use super::owner::{Order, Work, Worker};
use crate::group::{Controller, Group};
use crate::placement::Cpus;
use crate::pool::{Client, Lender, MountPlan, Pool};
use crate::progress::Progress;
use crate::stop::Stop;
use serde::Serialize;

/// The client's own cache: small, so that what it reads is lent.
const CLIENT_CACHE: ByteSize = ByteSize::mib(64);
/// What the client reads at once while it fills the lender's memory.
const FILL_BLOCK: usize = 32 << 10;
const FILL_MAX: Duration = Duration::from_secs(40);
/// Nothing more is lent when it has not grown for so long.
const FILL_SETTLED: Duration = Duration::from_secs(3);

/// What is lent, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    /// Nothing: there is no server.
    Nothing,
    /// Ordinary memory of a process, as much as can be.
    Plain,
    /// All that fits, always; the kernel alone takes it back.
    Kernel,
    /// `--detector refaults`.
    Refaults,
    /// `--detector pressure`.
    Pressure,
    /// `--detector both`, the default.
    Both,
}

/// Where server and owner live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Layout {
    /// Each in a group of its own, as services and containers are.
    Beside,
    /// In one group, as in a machine without groups.
    Together,
}

/// All that lasts longer than one run.
pub(super) struct Stage<'a> {
    pub(super) pool: &'a Pool,
    pub(super) stop: &'a Stop,
    pub(super) progress: &'a Progress,
    /// Memory of the lender.
    pub(super) memory: u64,
    /// Reads a second of each disk.
    pub(super) disk_iops: u32,
    owner_file: PathBuf,
    client_dir: PathBuf,
    runs: Cell<u32>,
}

/// What the client reads, one after the other. The second is one hole: how fast the lender takes memory
/// back for lending is not to be a matter of the client's disk.
const CLIENT_FILES: [&str; 2] = ["random", "hole"];

/// One run. The order in which things end is the order of the fields.
pub(super) struct Cast<'a> {
    pub(super) stage: &'a Stage<'a>,
    client: Client,
    lender: Option<Lender>,
    _plain: Option<Worker>,
    owner: Group,
    server: Option<Group>,
    pub(super) vm: Group,
    elsewhere: Group,
}

impl Way {
    pub(super) const ALL: [Self; 6] =
        [Self::Nothing, Self::Plain, Self::Kernel, Self::Refaults, Self::Pressure, Self::Both];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing lent",
            Self::Plain => "plain memory",
            Self::Kernel => "kernel alone",
            Self::Refaults => "refaults",
            Self::Pressure => "pressure",
            Self::Both => "both",
        }
    }

    /// Whether it is compared with what must hold.
    pub(super) fn has_bars(self) -> bool {
        matches!(self, Self::Nothing | Self::Both)
    }

    /// Whether a client can use it.
    pub(super) fn is_lent(self) -> bool {
        !matches!(self, Self::Nothing | Self::Plain)
    }

    fn arguments(self, memory: u64) -> Option<Vec<String>> {
        let all = |args: &[&str]| Some(args.iter().map(ToString::to_string).collect());
        match self {
            Self::Nothing | Self::Plain => None,
            Self::Kernel => all(&["--lend", &(memory / 10 * 9).to_string()]),
            Self::Refaults | Self::Pressure | Self::Both => {
                let most = (memory / 10 * 9).to_string();
                all(&["--detector", self.name(), "--lend-max", &most])
            }
        }
    }
}

impl Layout {
    pub(super) const ALL: [Self; 2] = [Self::Beside, Self::Together];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Beside => "in groups beside each other",
            Self::Together => "in one group",
        }
    }
}

impl<'a> Stage<'a> {
    /// Writes the files.
    pub(super) fn new(
        pool: &'a Pool,
        memory: u64,
        disk_iops: u32,
        progress: &'a Progress,
        stop: &'a Stop,
    ) -> Result<Self> {
        let client_dir = pool.scratch().join("client");
        std::fs::create_dir_all(&client_dir)?;
        let [random, hole] = CLIENT_FILES.map(|name| format!("client/{name}"));
        pool.scratch().random_file(&random, memory, 1)?;
        pool.scratch().hole(&hole, memory)?;
        let owner_file = pool.scratch().random_file("owner", memory / 2, 9)?;
        let runs = Cell::new(0);
        Ok(Self { pool, stop, progress, memory, disk_iops, owner_file, client_dir, runs })
    }

    /// What is going on now.
    pub(super) fn say(&self, way: Way, what: &str) {
        self.progress.say(format!("{}: {what}", way.name()));
        self.progress.step();
    }

    /// Begins a run.
    pub(super) fn begin(&'a self, way: Way, layout: Layout) -> Result<Cast<'a>> {
        self.stop.check()?;
        drop_caches();
        let run = self.runs.replace(self.runs.get() + 1);
        let name = |part: &str| format!("rampool-bench-{}-{run}-{part}", std::process::id());
        let controllers = [Controller::Memory, Controller::Disk];
        let vm = Group::new(&name("vm"), &controllers)?;
        vm.limit_memory(self.memory)?;
        let owner = vm.child("owner")?;
        owner.limit_reads(&self.owner_file, self.disk_iops)?;
        let server = match layout {
            Layout::Beside => Some(vm.child("server")?),
            Layout::Together => None,
        };
        let place = server.as_ref().unwrap_or(&owner);
        let lender = match way.arguments(self.memory) {
            None => None,
            Some(arguments) => {
                let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
                Some(self.pool.lend_in(place, &arguments, self.stop)?)
            }
        };
        let plain = match way {
            Way::Plain => {
                let bytes = usize::try_from(self.memory / 100 * 85)?;
                let mut worker = Worker::start(&Work::Hold { bytes }, Some(place))?;
                while worker.figures().is_empty() && worker.is_running() {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Some(worker)
            }
            _ => None,
        };
        let elsewhere = Group::new(&name("client"), &controllers)?;
        let address = lender.as_ref().map(|lender| lender.address);
        let plan = MountPlan {
            servers: address.as_slice(),
            read_only: true,
            group: Some(&elsewhere),
            ..MountPlan::new(&self.client_dir, "mnt", CLIENT_CACHE)
        };
        let client = self.pool.mount(&plan, self.stop)?;
        Ok(Cast { stage: self, client, lender, _plain: plain, owner, server, vm, elsewhere })
    }
}

impl Cast<'_> {
    /// A process of the lender's owner.
    pub(super) fn owner(&self, work: &Work) -> Result<Worker> {
        Worker::start(work, Some(&self.owner))
    }

    /// Lets `command` begin as a process of the lender's owner.
    pub(super) fn place_owner(&self, command: &mut Command) -> Result<()> {
        self.owner.place_in(command)
    }

    /// Leaves the first CPU to the lender's owner.
    pub(super) fn leave_first_cpu(&mut self) {
        let Some(others) = Cpus::all_but_first() else { return };
        others.hold_process(self.client.daemon().pid());
        if let Some(lender) = &mut self.lender {
            others.hold_process(lender.daemon().pid());
        }
    }

    /// A process of the lender's owner reads its file at random.
    pub(super) fn owner_reads(&self) -> Result<Worker> {
        let file = self.stage.owner_file.clone();
        let order = Order::Random;
        self.owner(&Work::Read { file, block: 4096, threads: 4, per_second: 0, order })
    }

    /// A process of the client reads one of its files.
    pub(super) fn client_reads(
        &self,
        file: usize,
        block: usize,
        per_second: u64,
        order: Order,
    ) -> Result<Worker> {
        let file = self.client.path().join(CLIENT_FILES[file]);
        let work = Work::Read { file, block, threads: 4, per_second, order };
        Worker::start(&work, Some(&self.elsewhere))
    }

    /// From now on the client's disk is as slow as the lender's.
    pub(super) fn limit_client_disk(&self) -> Result<()> {
        self.elsewhere.limit_reads(&self.stage.client_dir, self.stage.disk_iops)
    }

    /// The client reads until nothing more is lent.
    pub(super) fn fill(&self) -> Result<()> {
        let Some(lender) = &self.lender else { return Ok(()) };
        let _reader = self.client_reads(0, FILL_BLOCK, 0, Order::Each)?;
        let start = Instant::now();
        let (mut most, mut since) = (0, Instant::now());
        while start.elapsed() < FILL_MAX {
            self.stage.stop.check()?;
            std::thread::sleep(Duration::from_millis(100));
            let held = lender.glance()?.held_bytes;
            if held > most + (4 << 20) {
                (most, since) = (held, Instant::now());
            }
            if most > 0 && since.elapsed() > FILL_SETTLED {
                break;
            }
        }
        Ok(())
    }

    /// What is lent now.
    pub(super) fn lent(&self) -> Result<u64> {
        self.lender.as_ref().map_or(Ok(0), |lender| Ok(lender.glance()?.held_bytes))
    }

    /// What the server has decided, and why.
    pub(super) fn decisions(&self) -> Result<Vec<String>> {
        let Some(lender) = &self.lender else { return Ok(Vec::new()) };
        Ok(lender.glance()?.lending.events.into_iter().map(|event| event.what).collect())
    }

    /// Processes of the lender that were killed for want of memory.
    pub(super) fn oom_kills(&self) -> Result<u64> {
        let of_vm = self.vm.memory()?.oom_kills;
        let below = [Some(&self.owner), self.server.as_ref()];
        below.into_iter().flatten().try_fold(of_vm, |sum, group| {
            Ok(sum + group.memory().context("a group of the lender")?.oom_kills)
        })
    }
}

fn drop_caches() {
    rustix::fs::sync();
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
}
