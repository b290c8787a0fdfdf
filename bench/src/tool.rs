//! Programs of others: whether they are there, and running them to their end.
//!
//! A tool gets a process group of its own, which is ended as a whole when its time is over, when
//! the run is interrupted and when it leaves children behind. Its output goes to a file, so that
//! nothing waits for a reader.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};

use crate::stop::Stop;

const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// After SIGTERM, before SIGKILL.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// Of a tool's output, this much of the end is read.
const OUTPUT_BYTES_MAX: u64 = 4 << 20;

/// A program that a suite needs.
pub(crate) struct Need {
    /// The file to look for.
    pub(crate) program: &'static str,
    /// Where it may be besides `PATH`.
    pub(crate) also_in: Vec<PathBuf>,
}

impl Need {
    /// A program in `PATH`.
    pub(crate) fn of(program: &'static str) -> Self {
        Self { program, also_in: Vec::new() }
    }

    /// A program that `deploy/conformance` builds into the target directory.
    pub(crate) fn built(program: &'static str) -> Self {
        Self { program, also_in: built_tools().into_iter().collect() }
    }

    /// Where it is.
    pub(crate) fn find(&self) -> Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let in_path = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
        let found = self.also_in.iter().cloned().chain(in_path).map(|dir| dir.join(self.program));
        match found.into_iter().find(|file| file.is_file()) {
            Some(file) => Ok(file),
            None => bail!("{} is not installed", self.program),
        }
    }
}

/// `tools/bin` in the target directory that this program was built into.
fn built_tools() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    Some(own.parent()?.parent()?.join("tools/bin"))
}

/// A tool at work. Dropping it ends it with all its children.
pub(crate) struct Running {
    program: String,
    child: Child,
    output: PathBuf,
    started: Instant,
    ended: Option<ExitStatus>,
}

/// A tool that has ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Standard output and standard error.
    pub(crate) output: String,
    /// The time for it was over before it had ended.
    pub(crate) late: bool,
}

impl Running {
    /// Starts `command`; what it prints goes to the file `output`.
    pub(crate) fn start(mut command: Command, output: &Path) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let file =
            File::create(output).with_context(|| format!("cannot write {}", output.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        // SAFETY: between fork and exec only one system call is made, prctl(2), which is
        // async-signal-safe; nothing is allocated and no lock is taken.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let (output, started) = (output.to_owned(), Instant::now());
        Ok(Self { program, child, output, started, ended: None })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it has printed so far.
    pub(crate) fn output(&self) -> String {
        end_of(&self.output)
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended.is_none())
    }

    /// Waits for its end, at most until `limit` after its start; then it is ended.
    pub(crate) fn wait(mut self, limit: Duration, stop: &Stop) -> Result<Ended> {
        let mut late = false;
        while self.is_running()? {
            stop.check()?;
            if self.started.elapsed() > limit {
                late = true;
                self.end();
                break;
            }
            thread::sleep(POLL_INTERVAL);
        }
        let Some(status) = self.ended else {
            bail!("{} cannot be ended: it waits in the kernel", self.program);
        };
        Ok(Ended { status, output: end_of(&self.output), late })
    }

    /// SIGKILL, to it and its children.
    pub(crate) fn kill(&mut self) {
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.wait_until_ended(END_TIMEOUT);
    }

    /// SIGTERM, and SIGKILL if that does not help.
    pub(crate) fn end(&mut self) {
        if self.ended.is_none() {
            let _ = kill_process_group(self.pid(), Signal::TERM);
            if !self.wait_until_ended(END_TIMEOUT) {
                self.kill();
            }
        }
    }

    fn wait_until_ended(&mut self, limit: Duration) -> bool {
        let start = Instant::now();
        while self.is_running().unwrap_or(false) {
            if start.elapsed() > limit {
                return false;
            }
            thread::sleep(POLL_INTERVAL);
        }
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
        // Children that outlived it; the group is ours as long as one of them lives.
        let _ = kill_process_group(self.pid(), Signal::KILL);
    }
}

impl Ended {
    /// Nothing if it succeeded, else the line that says most.
    pub(crate) fn result(&self) -> std::result::Result<(), String> {
        if self.status.success() && !self.late {
            return Ok(());
        }
        let why =
            if self.late { "did not end in time".to_owned() } else { self.status.to_string() };
        Err(format!("{}  ({why})", telling_line(&self.output)))
    }
}

/// Of what a tool printed, the first line that sounds like a complaint, or else the last.
pub(crate) fn telling_line(output: &str) -> String {
    const WORDS: [&str; 7] = ["fail", "error", "mismatch", "corrupt", "bad ", "fatal", "cannot"];
    let lines = || output.lines().map(str::trim).filter(|line| !line.is_empty());
    let complains = |line: &&str| {
        let line = line.to_lowercase();
        WORDS.iter().any(|word| line.contains(word))
    };
    let line = lines().find(complains).or_else(|| lines().next_back()).unwrap_or("it said nothing");
    line.chars().take(240).collect()
}

fn end_of(path: &Path) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(OUTPUT_BYTES_MAX)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Running) {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let running = Running::start(command, &dir.path().join("output")).unwrap();
        (dir, running)
    }

    #[test]
    fn a_tool_is_run_to_its_end_and_its_complaint_is_found() {
        let (_dir, running) = shell("echo begins; echo 'an Error: 5' >&2; echo over; exit 3");
        let ended = running.wait(Duration::from_secs(60), &Stop::default()).unwrap();
        assert_eq!(ended.result().unwrap_err(), "an Error: 5  (exit status: 3)");
    }

    #[test]
    fn a_tool_that_hangs_is_ended_with_its_children() {
        let (_dir, running) = shell("sleep 1000 & echo $!; wait");
        let ended = running.wait(Duration::from_millis(200), &Stop::default()).unwrap();
        assert!(ended.late);
        let child = ended.output.trim();
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    }
}
