//! Which CPUs a measured process may use.
//!
//! One outstanding read is a conversation of two processes. An idle virtual CPU takes tens of
//! microseconds to wake, a busy one none, so a one-job figure moves by a factor of four with the
//! scheduler's choice of putting the two on one CPU or on two, and that choice changes from one
//! second to the next. Unless told otherwise we take it away: with one job, reader and server
//! share one CPU, which is the placement that shows each microsecond of the server's own work.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Who chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Placement {
    /// With one outstanding request, all that take part share one CPU; else any CPU.
    Pinned,
    /// The scheduler, always.
    Free,
}

/// The CPUs for one measurement.
#[derive(Clone, Copy)]
pub(crate) struct Cpus(CpuSet);

impl Placement {
    /// Where a measurement with so many outstanding requests runs.
    pub(crate) fn cpus(self, outstanding: usize) -> Cpus {
        let all = sched_getaffinity(None).unwrap_or_else(|_| every_cpu());
        if self == Self::Free || outstanding > 1 {
            return Cpus(all);
        }
        let mut one = CpuSet::new();
        if let Some(cpu) = (0..CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu)) {
            one.set(cpu);
        }
        Cpus(one)
    }
}

impl Cpus {
    /// All but the first; none where there is one only.
    pub(crate) fn all_but_first() -> Option<Self> {
        let mut cpus = sched_getaffinity(None).unwrap_or_else(|_| every_cpu());
        let first = (0..CpuSet::MAX_CPU).find(|&cpu| cpus.is_set(cpu))?;
        cpus.unset(first);
        (cpus.count() > 0).then_some(Self(cpus))
    }

    /// Lets `command` begin there.
    pub(crate) fn place(self, command: &mut Command) {
        // SAFETY: between fork and exec one system call is made, sched_setaffinity(2), which is
        // async-signal-safe; nothing is allocated.
        unsafe {
            command.pre_exec(move || Ok(sched_setaffinity(None, &self.0)?));
        }
    }

    /// Holds the calling thread there.
    pub(crate) fn hold_this_thread(self) {
        // What cannot be held there runs elsewhere: a worse figure, not a wrong one.
        let _ = sched_setaffinity(None, &self.0);
    }

    /// Holds all threads of a process there, and those that they start later.
    pub(crate) fn hold_process(self, process: Pid) {
        let tasks = format!("/proc/{}/task", process.as_raw_nonzero());
        let Ok(tasks) = fs::read_dir(tasks) else { return };
        for task in tasks.flatten() {
            let id = task.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(thread) = id.and_then(Pid::from_raw) {
                let _ = sched_setaffinity(Some(thread), &self.0);
            }
        }
    }
}

fn every_cpu() -> CpuSet {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_single_outstanding_request_is_pinned() {
        assert_eq!(Placement::Pinned.cpus(1).0.count(), 1);
        let all = Placement::Free.cpus(1).0.count();
        assert_eq!(Placement::Pinned.cpus(4).0.count(), all);
    }
}
