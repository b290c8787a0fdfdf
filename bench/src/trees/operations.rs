//! What is timed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::input::TOP;

/// What the operations work with.
pub(super) struct Inputs {
    pub(super) archive: PathBuf,
    pub(super) repository: PathBuf,
    /// The program and its configuration.
    pub(super) pjdfstest: Option<(PathBuf, PathBuf)>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Extract,
    FindCold,
    FindWarm,
    DuCold,
    ReadCold,
    Clone,
    Status,
    Pjdfstest,
    Remove,
}

impl Operation {
    /// In the order in which they are done; each pass in all rounds before the next. Removal comes
    /// last because ext4 keeps the number of a removed file back for a minute or more, and who makes
    /// files meanwhile has to look past all of those (`recently_deleted` in fs/ext4/ialloc.c): right
    /// after a removal, `tar x` takes several times as long.
    pub(super) const PASSES: [&[Self]; 3] = [
        &[
            Self::Extract,
            Self::FindCold,
            Self::FindWarm,
            Self::DuCold,
            Self::ReadCold,
            Self::Clone,
            Self::Status,
        ],
        &[Self::Pjdfstest],
        &[Self::Remove],
    ];

    /// All of them.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Self::PASSES.into_iter().flatten().copied()
    }

    /// Its row.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Extract => "tar x",
            Self::FindCold => "find -size, cold",
            Self::FindWarm => "find -size, warm",
            Self::DuCold => "du -s, cold",
            Self::ReadCold => "tar c, cold",
            Self::Clone => "git clone",
            Self::Status => "git status",
            Self::Pjdfstest => "pjdfstest",
            Self::Remove => "rm -rf",
        }
    }

    /// Whether it is done at all.
    pub(super) fn is_done(self, inputs: &Inputs) -> bool {
        self != Self::Pjdfstest || inputs.pjdfstest.is_some()
    }

    /// Whether nothing may be in memory before.
    pub(super) fn is_cold(self) -> bool {
        matches!(self, Self::FindCold | Self::DuCold | Self::ReadCold)
    }

    /// Does it in `dir` and says how long it took.
    pub(super) fn time(self, inputs: &Inputs, dir: &Path) -> Result<Duration> {
        let mut command = self.command(inputs, dir);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command.stdout(match self {
            Self::Pjdfstest => Stdio::piped(),
            _ => Stdio::null(),
        });
        let start = Instant::now();
        let done = command
            .output()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let elapsed = start.elapsed();
        if self == Self::Pjdfstest {
            // Which cases fail, 'conform' tells; here its time counts, if it got through.
            let words = String::from_utf8_lossy(&done.stdout);
            if !words.contains("Summary:") {
                bail!("pjdfstest in {} did not get through", dir.display());
            }
        } else if !done.status.success() {
            let words = String::from_utf8_lossy(&done.stderr);
            let last = words.lines().next_back().unwrap_or("it said nothing");
            bail!("{} in {} failed: {last}", self.name(), dir.display());
        }
        Ok(elapsed)
    }

    fn command(self, inputs: &Inputs, dir: &Path) -> Command {
        let (tree, clone) = (dir.join(TOP), dir.join("clone"));
        let program = match (self, &inputs.pjdfstest) {
            (Self::Extract, _) => Path::new("tar"),
            (Self::FindCold | Self::FindWarm, _) => Path::new("find"),
            (Self::DuCold, _) => Path::new("du"),
            // tar itself would see that nobody wants the contents.
            (Self::ReadCold, _) => Path::new("sh"),
            (Self::Clone | Self::Status, _) => Path::new("git"),
            (Self::Remove, _) => Path::new("rm"),
            (Self::Pjdfstest, Some((program, _))) => program,
            (Self::Pjdfstest, None) => Path::new("pjdfstest"),
        };
        let mut command = Command::new(program);
        match self {
            Self::Extract => command.arg("xf").arg(&inputs.archive).arg("-C").arg(dir),
            Self::FindCold | Self::FindWarm => command.arg(tree).args(["-size", "+1000k"]),
            Self::DuCold => command.arg("-s").arg(tree),
            Self::ReadCold => command.args(["-c", "tar cf - -C \"$0\" . | cat"]).arg(tree),
            Self::Clone => command.args(["clone", "-q"]).arg(&inputs.repository).arg(clone),
            Self::Status => command.arg("-C").arg(clone).args(["status", "--short"]),
            Self::Pjdfstest => {
                if let Some((_, configuration)) = &inputs.pjdfstest {
                    command.arg("-c").arg(configuration);
                }
                command.arg("-p").arg(dir)
            }
            Self::Remove => command.arg("-rf").arg(tree).arg(clone),
        };
        command
    }
}

/// Forgets what the kernel keeps in memory, or says that it may not.
pub(super) fn drop_caches() -> bool {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}
