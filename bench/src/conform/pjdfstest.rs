//! pjdfstest: what POSIX says about names, modes, owners and errors, case by case.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::site::Site;
use super::suite::{Case, Scene, Suite, Verdict};
use crate::tool::{Need, Running};

/// A run takes seconds.
const LIMIT: Duration = Duration::from_secs(300);

/// What ext4 can do. The two users are in every Debian. Remounting is done by our own `mount`, see
/// below.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}
secondary_fs = "SECONDARY"
[settings]
naptime = 0.02
allow_remount = true
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// `mount -o remount` looks for a helper by the name of the filesystem; the kernel needs none.
const MOUNT: &str = "#!/bin/sh\nexec /usr/bin/mount -i \"$@\"\n";

/// In the names of cases that mount read-only for a while.
const READ_ONLY: &str = "erofs";

/// The C library tells how many links a file may have by the kind of filesystem, of which it does
/// not know FUSE.
const LEFT_OUT: [&str; 1] = ["link::link_count_max"];

/// The suite.
pub(super) struct Pjdfstest;

impl Suite for Pjdfstest {
    fn name(&self) -> &'static str {
        "pjdfstest"
    }

    fn needs(&self) -> Vec<Need> {
        vec![Need::built("pjdfstest")]
    }

    fn run(&self, site: &mut Site<'_>, scene: &Scene<'_>) -> Result<Vec<Case>> {
        let helpers = site.aside("pjdfstest");
        fs::create_dir_all(&helpers)?;
        let mount = helpers.join("mount");
        fs::write(&mount, MOUNT)?;
        fs::set_permissions(&mount, fs::Permissions::from_mode(0o755))?;
        let mut cases = pjdfstest(&[], &helpers, site, scene)?;
        // Some cases leave a file open for writing, and what is written to cannot be made
        // read-only: these have a process of their own.
        let read_only = pjdfstest(&[READ_ONLY], &helpers, site, scene)?;
        cases.retain(|case| !case.name.contains(READ_ONLY) && !LEFT_OUT.contains(&&*case.name));
        cases.extend(read_only);
        Ok(cases)
    }
}

fn pjdfstest(
    patterns: &[&str],
    helpers: &Path,
    site: &Site<'_>,
    scene: &Scene<'_>,
) -> Result<Vec<Case>> {
    let configuration = helpers.join("pjdfstest.toml");
    // Another filesystem than the image, for links and renames that must fail.
    let secondary = helpers.to_string_lossy();
    fs::write(&configuration, CONFIGURATION.replace("SECONDARY", &secondary))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(Need::built("pjdfstest").find()?);
    command.arg("-c").arg(&configuration).arg("-p").arg(site.dir()).args(patterns);
    command.env("PATH", format!("{}:{path}", helpers.display()));
    command.env("RUST_BACKTRACE", "0");
    let ended = Running::start(command, &site.aside("output"))?.wait(LIMIT, scene.stop)?;
    let cases = parse(&ended.output);
    if cases.is_empty() || ended.late {
        bail!("pjdfstest did not get through: {:?}", ended.result());
    }
    Ok(cases)
}

/// A case is a line of its name and verdict; what was wrong follows, indented.
fn parse(output: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in output.lines() {
        if let Some(more) = line.strip_prefix('\t') {
            if let Some(Verdict::Failed(why) | Verdict::Skipped(why)) =
                cases.last_mut().map(|case| &mut case.verdict)
                && why.is_empty()
            {
                more.clone_into(why);
            }
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(name), Some(verdict), None) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        match verdict {
            "ok" => cases.push(Case::passed(name)),
            "FAILED" => cases.push(Case::failed(name, "")),
            "skipped" => cases.push(Case::skipped(name, "")),
            _ => {}
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_read_with_their_reasons() {
        let output = "unlink::eperm     ok\nopen::etxtbsy     FAILED\n\tassertion failed: 3\n\tmore\n\
                      link::max     skipped\n\tno limit\n\nSummary: 1 failed, 1 skipped, 1 passed, 3 total\n";
        let cases = parse(output);
        let verdicts: Vec<_> = cases.into_iter().map(|case| (case.name, case.verdict)).collect();
        assert_eq!(
            verdicts,
            [
                ("unlink::eperm".to_owned(), Verdict::Passed),
                ("open::etxtbsy".to_owned(), Verdict::Failed("assertion failed: 3".to_owned())),
                ("link::max".to_owned(), Verdict::Skipped("no limit".to_owned())),
            ]
        );
    }
}
