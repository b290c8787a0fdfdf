//! `rampool profile`: which files and directories are read most from where it is slow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, TableStyle};
use rampool_cli::size::ByteSize;
use serde_json::{Value, json};

use super::FileReads;
use crate::args::Format;
use crate::control::{PROFILE_SECONDS_MAX, Request, request};
use crate::failure::Failure;
use crate::tell;

/// Count which files are read for a while, and name those that miss most.
#[derive(Debug, clap::Args)]
pub(crate) struct ProfileArgs {
    /// Where it is mounted
    mountpoint: PathBuf,
    /// For how long
    #[arg(short, long, default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// So many files, and directories
    #[arg(short = 'n', long, default_value_t = 15)]
    lines: usize,
    /// How to show it; all files are in the JSON
    #[arg(short = 'w', long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    if (0.1..=PROFILE_SECONDS_MAX).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("between 0.1 and {PROFILE_SECONDS_MAX}"))
    }
}

/// Instead of a path: all files beyond those that are counted singly.
const OTHERS: &str = "(others)";

/// Counts and shows.
pub(crate) fn run(args: &ProfileArgs) -> Result<(), Failure> {
    let takes = Duration::from_secs_f64(args.seconds);
    let mut answer = request(&args.mountpoint, &Request::ProfileSeconds(args.seconds), takes)?;
    let files = answer.get_mut("files").map(Value::take).unwrap_or_default();
    let source = answer.get("source").and_then(Value::as_str).unwrap_or_default();
    let mut files: Vec<FileReads> = serde_json::from_value(files).map_err(|_| {
        Failure::system("the daemon's answer is damaged; is it of another version?")
    })?;
    for file in &mut files {
        file.path = below(Path::new(source), &file.path);
    }
    let directories = by_directory(&files);
    if args.format == Format::Json {
        let all = json!({ "seconds": args.seconds, "files": files, "directories": directories });
        return tell(&format!("{all}\n"));
    }
    if files.is_empty() {
        return tell(&format!("nothing was read in {} s\n", args.seconds));
    }
    let tables = [("file", &files), ("directory", &directories)];
    let tables = tables.map(|(of, reads)| table(of, &reads[..reads.len().min(args.lines)]));
    tell(&format!("{}\n", tables.join("\n\n")))
}

/// A path of the source as it is on the mount.
fn below(source: &Path, path: &str) -> String {
    let below = Path::new(path).strip_prefix(source).map(Path::to_string_lossy);
    match below {
        Ok(below) => below.into_owned(),
        Err(_) if path.is_empty() => OTHERS.to_owned(),
        Err(_) => path.to_owned(),
    }
}

/// The same by directory, those that miss most first.
fn by_directory(files: &[FileReads]) -> Vec<FileReads> {
    let mut directories: BTreeMap<String, FileReads> = BTreeMap::new();
    for file in files {
        if file.path == OTHERS {
            continue;
        }
        let parent = Path::new(&file.path).parent().map(Path::to_string_lossy);
        let path = parent.filter(|parent| !parent.is_empty()).unwrap_or(".".into()).into_owned();
        let of = directories.entry(path.clone()).or_default();
        of.path = path;
        of.local += file.local;
        of.remote += file.remote;
        of.source += file.source;
        of.bytes += file.bytes;
    }
    let mut directories: Vec<FileReads> = directories.into_values().collect();
    FileReads::sort(&mut directories);
    directories
}

fn table(of: &str, reads: &[FileReads]) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(["reads", "local", "remote", "source", "bytes", of]);
    for FileReads { path, local, remote, source, bytes } in reads {
        let all = local + remote + source;
        let share = |part: &u64| format!("{:.0} %", *part as f64 * 100.0 / all.max(1) as f64);
        let size = ByteSize(*bytes).to_string();
        table.add_row([
            all.to_string(),
            share(local),
            share(remote),
            share(source),
            size,
            path.clone(),
        ]);
    }
    for column in 0..=4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_the_sums_of_their_files() {
        let file = |path: &str, local, source| FileReads {
            path: path.to_owned(),
            local,
            remote: 0,
            source,
            bytes: 10,
        };
        let files = [file("db/a", 5, 1), file("db/b", 5, 1), file("top", 0, 1)];
        let expected = [FileReads { bytes: 20, ..file("db", 10, 2) }, file(".", 0, 1)];
        assert_eq!(by_directory(&files), expected);
        assert_eq!(below(Path::new("/data"), "/data/db/a"), "db/a");
        assert_eq!(below(Path::new("/data"), "/elsewhere (deleted)"), "/elsewhere (deleted)");
    }
}
