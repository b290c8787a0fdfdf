//! `rampool-bench lending`: what it costs to lend.

mod owner;
mod scenarios;
mod stage;

use std::process::ExitCode;

use anyhow::Result;

use self::stage::{Layout, Stage, Way};
use crate::binaries::Binaries;
use crate::cli::Lending;
use crate::pool::Pool;
use crate::scratch::Scratch;
use crate::stop::Stop;
pub(crate) use owner::{Work, work as owner};

/// Measures and prints.
pub(crate) fn run(options: &Lending, stop: &Stop) -> Result<ExitCode> {
    let pool = Pool::new(
        Binaries::find(options.common.bin_dir.as_deref())?,
        Scratch::new(&options.common.dir)?,
    )?;
    let memory: u64 = 2 << 30;
    let client_dir = pool.scratch().join("client");
    std::fs::create_dir_all(&client_dir)?;
    pool.scratch().random_file("client/data", memory, 2)?;
    pool.scratch().random_file("client/data2", memory, 2)?;
    let stage = Stage {
        owner_file: pool.scratch().random_file("owner", memory / 2, 1)?,
        pool: &pool,
        stop,
        memory,
        disk_iops: options.disk_iops,
        client_dir,
        client_file: "data",
        runs: std::cell::Cell::new(0),
    };
    let only = std::env::var("WAYS").unwrap_or_default();
    let layout = if std::env::var("TOGETHER").is_ok() { Layout::Together } else { Layout::Beside };
    for _ in 0..options.runs {
        for way in Way::ALL.into_iter().filter(|way| only.is_empty() || only.contains(way.name())) {
            for scenario in std::env::var("SC").unwrap_or("1".into()).split(',') {
                match scenario {
                    "1" => scenarios::allocate(&stage, way, layout)?,
                    "2" => scenarios::lender_then_client(&stage, way, layout)?,
                    _ => scenarios::at_once(&stage, way, layout)?,
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
