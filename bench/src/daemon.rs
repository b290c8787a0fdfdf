//! Child processes that cannot outlive us.
//!
//! Each is a guard: dropping it ends the process by its id, with SIGTERM first. The kernel is
//! asked to do the same should we die without a chance to (`PR_SET_PDEATHSIG`). That signal is
//! tied to the thread that started the child, so daemons are started on the main thread only.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::stop::Stop;

/// How long a daemon may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long it may take to end after SIGTERM, before SIGKILL.
const END_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// What is kept of its standard error, in lines.
const LINES_MAX: usize = 40;

/// A running child process. Dropping it ends the process.
pub(crate) struct Daemon {
    name: &'static str,
    child: Child,
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Daemon {
    /// Starts `command` in a process group of its own, so that Ctrl-C reaches us alone and we
    /// decide in which order things end. `name` is what to call it in messages.
    pub(crate) fn start(name: &'static str, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        // SAFETY: between fork and exec only one system call is made, prctl(2), which is
        // async-signal-safe; nothing is allocated and no lock is taken.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
        }
        let mut child = command.spawn().with_context(|| {
            format!("cannot start {name} ({})", command.get_program().to_string_lossy())
        })?;
        let stderr = child.stderr.take().expect("stderr was asked for as a pipe");
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let kept = lines.clone();
        // Ends by itself when the child closes the pipe.
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == LINES_MAX {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        });
        Ok(Self { name, child, lines })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until `probe`, which is shown what the daemon has written so far, finds that it is
    /// ready.
    pub(crate) fn wait_until<T>(
        &mut self,
        stop: &Stop,
        mut probe: impl FnMut(&VecDeque<String>) -> Option<T>,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            if let Some(ready) = probe(&self.lines.lock().unwrap_or_else(PoisonError::into_inner)) {
                return Ok(ready);
            }
            if let Some(status) = self.child.try_wait()? {
                // The last lines may still be on their way through the pipe.
                thread::sleep(POLL_INTERVAL);
                bail!("{} ended at once ({status}): {}", self.name, self.last_words());
            }
            stop.check()?;
            if start.elapsed() > START_TIMEOUT {
                bail!(
                    "{} was not ready after {} s: {}",
                    self.name,
                    START_TIMEOUT.as_secs(),
                    self.last_words()
                );
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Whether the process is still there.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, without a chance to say goodbye.
    pub(crate) fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        Ok(self.child.wait()?)
    }

    /// SIGTERM, and SIGKILL if that does not help. Does nothing when it has ended already.
    pub(crate) fn end(&mut self) {
        if !self.is_running() {
            return;
        }
        let _ = kill_process(self.pid(), Signal::TERM);
        let start = Instant::now();
        while self.is_running() {
            if start.elapsed() > END_TIMEOUT {
                let _ = self.kill();
                return;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn last_words(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let last = lines.iter().rev().find(|line| !line.trim().is_empty());
        last.map_or_else(|| "it said nothing".to_owned(), Clone::clone)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}
