//! `rampool cached`: how much of files is in the cache, pinned, and with servers.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, TableStyle};
use rampool_cli::size::ByteSize;
use rustix::io::Errno;
use serde::Serialize;
use serde_json::json;

use super::call::{Deed, LEN_MAX, call};
use super::explain;
use super::walk::{Entry, Paths};
use crate::args::Format;
use crate::failure::Failure;
use crate::tell;

/// Show how much of files is in the cache, and with servers.
#[derive(Debug, clap::Args)]
pub(crate) struct CachedArgs {
    /// Files and directories of a mount
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Each file singly, and not only what was named
    #[arg(short, long)]
    each: bool,
    /// How to show it
    #[arg(short = 'w', long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// How much of some files is where.
#[derive(Debug, Default, Serialize)]
struct Where {
    /// JSON is text; of other paths, what can be shown.
    path: String,
    files: u64,
    bytes: u64,
    cached_bytes: u64,
    /// Of those.
    pinned_bytes: u64,
    /// Not in the cache, and believed to be with servers.
    lent_bytes: u64,
}

/// Looks and shows.
pub(crate) fn run(args: &CachedArgs) -> Result<ExitCode, Failure> {
    let mut failed = false;
    let mut all = Vec::new();
    for named in &args.paths {
        let mut whole = Where { path: named.to_string_lossy().into_owned(), ..Where::default() };
        for found in Paths::new(std::slice::from_ref(named), None)?.files() {
            let file = found.and_then(|entry| {
                look(&entry).map_err(|why| format!("{}: {}", entry.path.display(), explain(why)))
            });
            match file {
                Ok(file) if args.each => all.push(file),
                Ok(file) => whole.add(&file),
                Err(why) => {
                    rampool_cli::say!("rampool: {why}");
                    failed = true;
                }
            }
        }
        if !args.each {
            all.push(whole);
        }
    }
    match args.format {
        Format::Json => tell(&format!("{}\n", json!(all)))?,
        Format::Table => tell(&format!("{}\n", table(&all)))?,
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Where {
    fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.cached_bytes += other.cached_bytes;
        self.pinned_bytes += other.pinned_bytes;
        self.lent_bytes += other.lent_bytes;
    }
}

fn look(entry: &Entry) -> Result<Where, Errno> {
    let (file, size) = (entry.open()?, entry.size);
    let path = entry.path.to_string_lossy().into_owned();
    let mut found = Where { path, files: 1, bytes: size, ..Where::default() };
    for offset in (0..size).step_by(LEN_MAX) {
        let len = (size - offset).min(LEN_MAX as u64);
        let done = call(file.as_fd(), Deed::Look, offset, len as usize)?;
        found.cached_bytes += done.bytes;
        found.pinned_bytes += done.pinned;
        found.lent_bytes += done.remote;
    }
    Ok(found)
}

fn table(all: &[Where]) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(["size", "cached", "", "pinned", "lent", "", "path"]);
    for of in all {
        let share = |part: u64| match of.bytes {
            0 => "-".to_owned(),
            bytes => format!("{:.0} %", part as f64 * 100.0 / bytes as f64),
        };
        let size = |bytes: u64| ByteSize(bytes).to_string();
        table.add_row([
            size(of.bytes),
            size(of.cached_bytes),
            share(of.cached_bytes),
            size(of.pinned_bytes),
            size(of.lent_bytes),
            share(of.lent_bytes),
            of.path.clone(),
        ]);
    }
    for column in 0..=5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}
