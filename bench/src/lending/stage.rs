//! The machine on which it is played: a lender that has so much memory and not more, with its server
//! and its owner's processes; a client elsewhere; the disks of both.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rampool_protocol::size::ByteSize;

use super::owner::{Order, Work, Worker};
use crate::group::{Controller, Group};
use crate::pool::{Client, Lender, MountPlan, Pool};
use crate::stop::Stop;

/// The client's own cache: small, so that what it reads is lent.
const CLIENT_CACHE: ByteSize = ByteSize::mib(64);
/// What the client reads at once while it fills the lender's memory.
const FILL_BLOCK: usize = 32 << 10;
const FILL_MAX: Duration = Duration::from_secs(40);
/// Nothing more is lent when it has not grown for so long.
const FILL_SETTLED: Duration = Duration::from_millis(1500);

/// What is lent, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// Memory of the lender.
    pub(super) memory: u64,
    pub(super) disk_iops: u32,
    pub(super) owner_file: PathBuf,
    pub(super) client_dir: PathBuf,
    pub(super) client_file: &'static str,
    /// Begins with the first run.
    pub(super) runs: std::cell::Cell<u32>,
}

/// One run. The order in which things end is the order of the fields.
pub(super) struct Cast<'a> {
    stage: &'a Stage<'a>,
    pub(super) way: Way,
    pub(super) client: Client,
    pub(super) lender: Option<Lender>,
    _plain: Option<Worker>,
    owner: Group,
    _server: Option<Group>,
    pub(super) vm: Group,
    pub(super) elsewhere: Group,
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
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Beside => "in groups beside each other",
            Self::Together => "in one group",
        }
    }
}

impl<'a> Stage<'a> {
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
        let plan = MountPlan {
            source: &self.client_dir,
            name: "mnt",
            cache: CLIENT_CACHE,
            server: lender.as_ref().map(|lender| lender.address),
            read_only: true,
        };
        let mut client = self.pool.mount(&plan, self.stop)?;
        elsewhere.hold(client.daemon().pid())?;
        Ok(Cast {
            stage: self,
            way,
            client,
            lender,
            _plain: plain,
            owner,
            _server: server,
            vm,
            elsewhere,
        })
    }
}

impl Cast<'_> {
    /// A process of the lender's owner.
    pub(super) fn owner(&self, work: &Work) -> Result<Worker> {
        Worker::start(work, Some(&self.owner))
    }

    /// A process of the client.
    pub(super) fn client_reads(
        &self,
        second: bool,
        block: usize,
        per_second: u64,
    ) -> Result<Worker> {
        let file = self.client.path().join(if second { "data2" } else { self.stage.client_file });
        let work = Work::Read { file, block, threads: 4, per_second, order };
        Worker::start(&work, Some(&self.elsewhere))
    }

    /// The client reads until nothing more is lent. Returns what is lent then.
    pub(super) fn fill(&self) -> Result<u64> {
        let Some(lender) = &self.lender else { return Ok(0) };
        let _reader = self.client_reads(false, FILL_BLOCK, 0, Order::Each)?;
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
        eprintln!("filled in {:.1} s", (since - start).as_secs_f64());
        Ok(lender.glance()?.held_bytes)
    }

    /// What is lent now.
    pub(super) fn held(&self) -> Result<u64> {
        self.lender.as_ref().map_or(Ok(0), |lender| Ok(lender.glance()?.held_bytes))
    }

    /// Processes of the lender that were killed for want of memory.
    pub(super) fn oom_kills(&self) -> Result<u64> {
        let of_vm = self.vm.memory()?.oom_kills;
        let below = [Some(&self.owner), self._server.as_ref()];
        below.into_iter().flatten().try_fold(of_vm, |sum, group| {
            Ok(sum + group.memory().context("a group of the lender")?.oom_kills)
        })
    }
}

fn drop_caches() {
    rustix::fs::sync();
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
}
