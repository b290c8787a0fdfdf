//! What the other suites leave out: ACLs, extended attributes, unusual calls. Small scripts, whose
//! words must be the same on the source and through the mount.
//!
//! Left out is what the kernel does not pass on to any FUSE filesystem, or the `fuser` crate cannot
//! take: files without a name (O_TMPFILE), flags of files (chattr), collapsing and inserting ranges.

mod calls;
mod permissions;

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::site::Site;
use super::suite::{Case, Scene, Suite, Verdict};
use crate::tool::{Need, Running};

const LIMIT: Duration = Duration::from_secs(60);

/// Before each script, which starts in an empty directory.
const PRELUDE: &str = r#"
umask 022
exec 2>&1
export LC_ALL=C
as() { user=$1; shift; setpriv --reuid "$user" --regid "$user" --clear-groups "$@"; }
"#;

/// A name and what it runs.
type Script = (&'static str, &'static str);

/// The suite.
pub(super) struct Attributes;

impl Suite for Attributes {
    fn name(&self) -> &'static str {
        "attributes"
    }

    fn needs(&self) -> Vec<Need> {
        ["setfattr", "setfacl", "setcap", "setpriv", "chattr", "flock", "python3"]
            .map(Need::of)
            .into()
    }

    fn run(&self, site: &mut Site<'_>, scene: &Scene<'_>) -> Result<Vec<Case>> {
        let scripts = permissions::SCRIPTS.iter().chain(calls::SCRIPTS);
        scripts
            .map(|(name, script)| {
                let dir = site.dir().join("script");
                fs::create_dir(&dir)?;
                let mut command = Command::new("sh");
                command.arg("-c").arg(format!("{PRELUDE}{script}")).current_dir(&dir);
                let ended =
                    Running::start(command, &site.aside("output"))?.wait(LIMIT, scene.stop)?;
                let verdict = if ended.late {
                    Verdict::Failed(ended.result().err().unwrap_or_default())
                } else {
                    Verdict::Says(ended.output)
                };
                fs::remove_dir_all(&dir)?;
                Ok(Case { name: (*name).to_owned(), verdict })
            })
            .collect()
    }
}
