//! What the cache costs: memory of the client when it is full, and bookkeeping on both sides.

use std::fs;

use anyhow::{Context as _, Result};
use rampool_cli::size::ByteSize;
use rustix::process::Pid;
use serde::Serialize;

use super::Bench;
use crate::pool::Client;
use crate::reads::{Places, shuffled_offsets};
use crate::status::ServerStatus;

/// More than the cache has left when the other files are in it.
const FILL: &str = "fill";
const FILL_BYTES: u64 = 384 << 20;

/// Bytes.
#[derive(Serialize)]
pub(crate) struct Memory {
    /// `--cache-size`.
    pub(crate) cache_bytes: u64,
    /// The part of the cache that was in use, 0 to 1.
    pub(crate) filled: f64,
    /// Resident size of the client, as the kernel counts it.
    pub(crate) resident_bytes: u64,
    /// The client's bookkeeping for a block.
    pub(crate) client_bytes_per_block: f64,
    /// The server's index for a block.
    pub(crate) server_bytes_per_block: f64,
}

impl Memory {
    /// With what the server says about itself.
    pub(super) fn with_server(self, server: &ServerStatus) -> Self {
        Self { server_bytes_per_block: server.index_bytes_per_block, ..self }
    }
}

/// Fills the cache of `client`, which has the other files in it, and looks at the process.
pub(super) fn client(bench: &Bench<'_>, client: &mut Client, cache: ByteSize) -> Result<Memory> {
    bench.progress.say("memory of a full cache");
    let fill = bench.pool.scratch().random_file(&format!("source/{FILL}"), FILL_BYTES, 4)?;
    bench.client(client, FILL, 4, Places::List(&shuffled_offsets(FILL_BYTES, 5)))?;
    let status = client.status()?;
    let resident_bytes = resident_bytes(client.daemon().pid())?;
    fs::remove_file(fill)?;
    bench.progress.step();
    Ok(Memory {
        cache_bytes: cache.bytes(),
        filled: status.cache.blocks as f64 / status.cache.capacity_blocks.max(1) as f64,
        resident_bytes,
        client_bytes_per_block: status.cache.metadata_bytes_per_block,
        server_bytes_per_block: f64::NAN,
    })
}

fn resident_bytes(process: Pid) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero()))
        .context("the mount has ended")?;
    parse_resident(&text).context("the kernel does not tell the resident size")
}

/// `VmRSS` of /proc/PID/status, which is in KiB.
fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_size_is_found() {
        let status = "Name:\tx\nVmHWM:\t  9 kB\nVmRSS:\t  1234 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(parse_resident(status), Some(1234 * 1024));
        assert_eq!(parse_resident("Name:\tkthreadd\n"), None);
    }
}
