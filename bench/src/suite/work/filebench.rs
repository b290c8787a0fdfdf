//! filebench: personalities of our own, after those that come with it, sized to the plan.
//!
//! The usual sizes are of another time: filesets that fit into any memory, and processes of a megabyte for each of two
//! hundred threads. Here a fileset is as large as the working set. Files are made by a first call, behind the mount and
//! on a disk that is not held back, and used again by those that are measured. Three troubles of filebench are taken
//! care of: it maps memory at the same address in each of its processes, which the kernel must not move about; a
//! process that is killed leaves that memory behind in /tmp; and what it starts may outlive it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Task, Told, WARM_SECONDS, Work};
use crate::suite::figures::{Figures, Hole};
use crate::suite::peers::installed;
use crate::suite::plan::Personality;
use crate::tool::telling_line;

/// A mean file of the small ones, in bytes.
const SMALL: u64 = 16 << 10;
/// Of a file server.
const MEDIUM: u64 = 128 << 10;
/// Of videos, and of the files of a database.
const LARGE: u64 = 16 << 20;
const THREADS: u32 = 16;

/// Of filebench's processes: what they need at least, and for each file. Measured with 32,768 files: 72 MiB.
const OWN_MEMORY: u64 = 32 << 20;
const OWN_MEMORY_A_FILE: u64 = 1280;

/// Where filebench keeps its memory, as a file.
const SHARED: &str = "/tmp";
const SHARED_PREFIX: &str = "filebench-shm-";

impl Work for Personality {
    fn prepare(&self, task: &Task<'_>, dir: &Path) -> Result<(), Hole> {
        run(task, &text(*self, dir, task.bytes, Call::Prepare), 0).map(drop)
    }

    /// Works, and reads all files of its largest set besides: those that it has not come upon by chance would be found cold when it is
    /// measured, on a slow disk one after the other.
    fn warm(&self, task: &Task<'_>) -> Result<(), Hole> {
        self.work(task, WARM_SECONDS.max(task.scene.plan.seconds))?;
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "find data -type f -print0 | shuf -z | xargs -0 -P 4 -n 64 cat > /dev/null",
        ]);
        task.run_in(command, &task.dir, 0)?;
        Ok(())
    }

    fn work(&self, task: &Task<'_>, seconds: u32) -> Result<Told, Hole> {
        let text = text(*self, &task.dir, task.bytes, Call::Work { seconds });
        let (printed, typed) = run(task, &text, seconds)?;
        Ok(Told { figures: figures(&printed)?, commands: vec![typed] })
    }
}

/// How many files make up a working set.
pub(super) fn files(personality: Personality, bytes: u64) -> u64 {
    bytes / mean_file(personality, bytes)
}

/// Bytes that filebench needs for itself on so many files.
pub(super) fn own_memory(files: u64) -> u64 {
    OWN_MEMORY + files * OWN_MEMORY_A_FILE
}

/// Runs a personality; gives what was printed and typed.
fn run(task: &Task<'_>, text: &str, seconds: u32) -> Result<(String, String), Hole> {
    let program = installed("filebench")?;
    let path = task.keep("f", text)?;
    let _shared = Shared::now();
    let mut command = Command::new(installed("setarch")?);
    command.arg("--addr-no-randomize").arg(program).arg("-f").arg(path);
    let ran = task.run(command, seconds)?;
    Ok((ran.printed, ran.typed))
}

/// Removes what a killed filebench has left of its memory.
struct Shared {
    before: HashSet<OsString>,
}

impl Shared {
    fn now() -> Self {
        Self { before: Self::names() }
    }

    fn names() -> HashSet<OsString> {
        let entries = fs::read_dir(SHARED).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().starts_with(SHARED_PREFIX)).collect()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for name in Self::names().difference(&self.before) {
            let _ = fs::remove_file(Path::new(SHARED).join(name));
        }
    }
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// Makes the files.
    Prepare,
    /// Works on them for so many seconds.
    Work { seconds: u32 },
}

/// Bytes of one of the files that make up the working set.
fn mean_file(personality: Personality, bytes: u64) -> u64 {
    match personality {
        Personality::FileServer => MEDIUM,
        Personality::VarMail | Personality::WebProxy | Personality::WebServer => SMALL,
        // At least a few of them.
        Personality::VideoServer | Personality::Oltp => LARGE.min(bytes / 8),
        Personality::RandomRead => bytes,
    }
}

/// The text of a personality that works on `bytes` bytes in `dir`.
fn text(personality: Personality, dir: &Path, bytes: u64, call: Call) -> String {
    let mut text = format!("set $dir={}\nset mode quit timeout\n", dir.display());
    let size = mean_file(personality, bytes);
    let mut fileset = |name: &str, size: u64, entries: u64, prealloc: u32| {
        let _ = writeln!(
            text,
            "define fileset name={name},path=$dir,size={size},entries={entries},dirwidth=20,prealloc={prealloc},reuse"
        );
    };
    // Where files come and go, a part of them is not there at first.
    let there = match personality {
        Personality::FileServer | Personality::VarMail | Personality::WebProxy => 80,
        _ => 100,
    };
    fileset("data", size, bytes / size, there);
    match personality {
        Personality::WebServer => fileset("log", SMALL, 1, 100),
        Personality::VideoServer => fileset("new", size, 4, 50),
        Personality::Oltp => fileset("log", size, 1, 100),
        _ => {}
    }
    let work = match personality {
        Personality::FileServer => threads(&[
            "createfile name=create1,filesetname=data,fd=1",
            "writewholefile name=write1,srcfd=1,fd=1,iosize=1m",
            "closefile name=close1,fd=1",
            "openfile name=open1,filesetname=data,fd=1",
            "appendfilerand name=append1,iosize=16k,fd=1",
            "closefile name=close2,fd=1",
            "openfile name=open2,filesetname=data,fd=1",
            "readwholefile name=read1,fd=1,iosize=1m",
            "closefile name=close3,fd=1",
            "deletefile name=delete1,filesetname=data",
            "statfile name=stat1,filesetname=data",
        ]),
        Personality::VarMail => threads(&[
            "deletefile name=delete1,filesetname=data",
            "createfile name=create1,filesetname=data,fd=1",
            "appendfilerand name=append1,iosize=16k,fd=1",
            "fsync name=sync1,fd=1",
            "closefile name=close1,fd=1",
            "openfile name=open1,filesetname=data,fd=1",
            "readwholefile name=read1,fd=1,iosize=1m",
            "appendfilerand name=append2,iosize=16k,fd=1",
            "fsync name=sync2,fd=1",
            "closefile name=close2,fd=1",
            "openfile name=open2,filesetname=data,fd=1",
            "readwholefile name=read2,fd=1,iosize=1m",
            "closefile name=close3,fd=1",
        ]),
        Personality::WebProxy => {
            let mut flow = vec![
                "deletefile name=delete1,filesetname=data".to_owned(),
                "createfile name=create1,filesetname=data,fd=1".to_owned(),
                "appendfilerand name=append1,iosize=16k,fd=1".to_owned(),
                "closefile name=close1,fd=1".to_owned(),
            ];
            flow.extend((0..5).flat_map(read_whole));
            threads(&flow)
        }
        Personality::WebServer => {
            let mut flow: Vec<String> = (0..10).flat_map(read_whole).collect();
            flow.push("appendfilerand name=append1,filesetname=log,iosize=16k,fd=2".to_owned());
            threads(&flow)
        }
        Personality::VideoServer => {
            let serve = process(
                "serve",
                THREADS,
                &["read name=serve1,filesetname=data,iosize=256k,fd=1,opennext"],
            );
            let replace = [
                "deletefile name=delete1,filesetname=new",
                "createfile name=create1,filesetname=new,fd=1",
                "writewholefile name=write1,fd=1,iosize=1m",
                "closefile name=close1,fd=1",
                "delay name=wait,value=1",
            ];
            serve + &process("replace", 1, &replace)
        }
        Personality::Oltp => {
            let readers = ["read name=read1,filesetname=data,iosize=4k,random,opennext"];
            let writers = [
                "write name=write1,filesetname=data,iosize=4k,random,dsync,opennext",
                "delay name=wait,value=1",
            ];
            let log = [
                "write name=log1,filesetname=log,iosize=16k,random,dsync",
                "delay name=wait,value=1",
            ];
            process("readers", THREADS, &readers)
                + &process("writers", 2, &writers)
                + &process("log", 1, &log)
        }
        Personality::RandomRead => {
            process("readers", 1, &["read name=read1,filesetname=data,iosize=4k,random"])
        }
    };
    text.push_str(&work);
    match call {
        Call::Prepare => text.push_str("create files\n"),
        Call::Work { seconds } => {
            let _ = writeln!(text, "run {seconds}");
        }
    }
    text
}

/// Opens a file, reads all of it and closes it.
fn read_whole(n: u32) -> [String; 3] {
    [
        format!("openfile name=open{n},filesetname=data,fd=1"),
        format!("readwholefile name=read{n},fd=1,iosize=1m"),
        format!("closefile name=close{n},fd=1"),
    ]
}

fn threads(flow: &[impl AsRef<str>]) -> String {
    process("work", THREADS, flow)
}

/// Its own words are no names: "create" is none, "create1" is one.
fn process(name: &str, threads: u32, flow: &[impl AsRef<str>]) -> String {
    let mut text = format!(
        "define process name={name},instances=1\n{{\n  thread name={name},memsize=1m,instances={threads}\n  {{\n"
    );
    for operation in flow {
        let _ = writeln!(text, "    flowop {}", operation.as_ref());
    }
    text + "  }\n}\n"
}

/// The figures in what filebench printed: its summary line, of the form
/// `IO Summary: 12345 ops 123.4 ops/s 100/20 rd/wr 5.6mb/s 1.2ms/op`.
fn figures(printed: &str) -> Result<Figures> {
    let line = printed.lines().find(|line| line.contains("IO Summary"));
    let line = line.with_context(|| format!("filebench: {}", telling_line(printed)))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let before = |word: &str| {
        let place = words.iter().position(|found| *found == word)?;
        words[..place].last()?.parse::<f64>().ok()
    };
    let per_second = before("ops/s").with_context(|| format!("filebench said '{line}'"))?;
    let bandwidth = words.iter().find_map(|word| word.strip_suffix("mb/s")?.parse::<f64>().ok());
    Ok(Figures {
        per_second,
        bytes_per_second: bandwidth.map(|mib| mib * f64::from(1 << 20)),
        ..Figures::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_understood() {
        let text = "61.2: Per-Operation Breakdown\n\
                    61.2: IO Summary: 12345 ops 2057.123 ops/s 1870/187 rd/wr  31.5mb/s 4.2ms/op\n";
        let figures = figures(text).unwrap();
        assert_eq!(figures.per_second, 2057.123);
        assert_eq!(figures.bytes_per_second, Some(31.5 * 1_048_576.0));
        assert!(super::figures("Failed to create").is_err());
    }

    #[test]
    fn filesets_are_as_large_as_the_working_set() {
        let all = [
            Personality::FileServer,
            Personality::WebServer,
            Personality::WebProxy,
            Personality::VarMail,
            Personality::VideoServer,
            Personality::Oltp,
            Personality::RandomRead,
        ];
        let number = |line: &str, name: &str| -> u64 {
            let value = line.split([',', ' ']).find_map(|part| part.strip_prefix(name)).unwrap();
            value.parse().unwrap()
        };
        for personality in all {
            let text = text(personality, Path::new("/m"), 1 << 30, Call::Work { seconds: 7 });
            let line = text.lines().find(|line| line.contains("name=data,path")).unwrap();
            let bytes = number(line, "size=") * number(line, "entries=");
            assert!((bytes as f64 / f64::from(1 << 30) - 1.0).abs() < 0.1, "{line}");
            assert!(
                text.ends_with("run 7\n") && text.matches('{').count() == text.matches('}').count()
            );
        }
    }
}
