//! fsx: random changes to one file, of which every read is compared with what was written.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::site::Site;
use super::suite::{Case, Scene, Suite};
use crate::tool::{Need, Running};

/// Of one run; the longest takes minutes.
const LIMIT: Duration = Duration::from_secs(1800);

/// What is done to the file, with its weight. All that Linux knows but the mappings.
const CALLS: &str = "close_open = 1\nread = 20\nwrite = 20\ntruncate = 1\nfsync = 0.05\n\
    fdatasync = 0.05\npunch_hole = 2\nsendfile = 3\nposix_fadvise = 1\n\
    copy_file_range = 3\n";

/// A kind of run.
struct Plan {
    name: &'static str,
    mapped: bool,
    /// Against a cache of 16 MiB.
    file_bytes: u32,
    call_bytes_max: u32,
    /// All offsets and lengths are multiples of it.
    align: u32,
    /// In a full run: most where a call costs least.
    calls: u32,
}

const PLANS: [Plan; 4] = [
    Plan {
        name: "mapped",
        mapped: true,
        file_bytes: 1 << 20,
        call_bytes_max: 64 << 10,
        align: 1,
        calls: 100_000,
    },
    Plan {
        name: "calls",
        mapped: false,
        file_bytes: 1 << 20,
        call_bytes_max: 64 << 10,
        align: 1,
        calls: 200_000,
    },
    Plan {
        name: "blocks",
        mapped: true,
        file_bytes: 8 << 20,
        call_bytes_max: 256 << 10,
        align: 4096,
        calls: 50_000,
    },
    Plan {
        name: "larger than the cache",
        mapped: true,
        file_bytes: 48 << 20,
        call_bytes_max: 256 << 10,
        align: 1,
        calls: 30_000,
    },
];

/// The suite.
pub(super) struct Fsx;

impl Suite for Fsx {
    fn name(&self) -> &'static str {
        "fsx"
    }

    fn needs(&self) -> Vec<Need> {
        vec![Need::built("fsx")]
    }

    fn with_server(&self) -> bool {
        true
    }

    fn run(&self, site: &mut Site<'_>, scene: &Scene<'_>) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for seed in 1..=2 {
            for plan in &PLANS {
                let calls = if scene.quick { 3_000 } else { plan.calls };
                // In quick runs the large file has one seed: most of its time goes into filling it.
                if scene.quick && seed > 1 && plan.file_bytes > 16 << 20 {
                    continue;
                }
                let name = format!("{}, seed {seed}, {calls} calls", plan.name);
                scene.progress.say(format!("fsx on the {}: {name}", site.side().label()));
                cases.push(run(plan, seed, calls, &name, site, scene)?);
            }
        }
        Ok(cases)
    }
}

fn run(
    plan: &Plan,
    seed: u64,
    calls: u32,
    name: &str,
    site: &Site<'_>,
    scene: &Scene<'_>,
) -> Result<Case> {
    let artifacts = site.aside("fsx");
    fs::create_dir_all(&artifacts)?;
    let configuration = artifacts.join("fsx.toml");
    fs::write(&configuration, plan.configuration())?;
    let file = site.dir().join("fsx-file");
    let mut command = Command::new(Need::built("fsx").find()?);
    command.arg("-f").arg(&configuration).arg("-P").arg(&artifacts);
    command.args(["-S", &seed.to_string(), "-N", &calls.to_string()]).arg(&file);
    let ended = Running::start(command, &site.aside("output"))?.wait(LIMIT, scene.stop)?;
    let _ = fs::remove_file(&file);
    Ok(Case::of(name, ended.result()))
}

impl Plan {
    fn configuration(&self) -> String {
        let Self { file_bytes, call_bytes_max, align, .. } = self;
        let mapped = if self.mapped {
            "mapread = 5\nmapwrite = 5\ninvalidate = 0.2\n"
        } else {
            "mapread = 0\nmapwrite = 0\n"
        };
        // With an alignment it sometimes asks for nothing, which is EINVAL everywhere.
        let allocate = u8::from(*align == 1);
        format!(
            "flen = {file_bytes}\n[opsize]\nmax = {call_bytes_max}\nalign = {align}\n[weights]\n{mapped}posix_fallocate = {allocate}\n{CALLS}"
        )
    }
}
