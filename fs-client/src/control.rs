//! What a mount is asked and told over its socket: for its status, to use another amount of memory, which files it reads.

use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Duration;

use rampool_cli::plain::plain;
use rampool_cli::size::ByteSize;
use rampool_cli::status::{Asker, ask};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::filesystem::Filesystem;
use crate::mounts::holding;
use crate::plan::check_cache;
use crate::profile::profile;
use crate::status::{self, Facts, socket_path};
use crate::tell;

/// How long a change of size may take.
const LIMIT_TAKES: Duration = Duration::from_secs(60);

/// The longest time for which reads are counted.
pub(crate) const PROFILE_SECONDS_MAX: f64 = 3600.0;

/// A line that the daemon is written. None is a question for its status.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// To use so much memory from now on, as `--cache-size` has it.
    CacheSize(String),
    /// To tell which files are read in so many seconds.
    ProfileSeconds(f64),
}

/// Change how much memory a mount uses, until it is mounted again.
#[derive(Debug, clap::Args)]
pub(crate) struct LimitArgs {
    /// Where it is mounted
    mountpoint: PathBuf,
    /// Memory for the local cache, with all that belongs to it: a size, or a part of what there is for the mount
    #[arg(long, value_name = "SIZE|PER%", allow_negative_numbers = true)]
    cache_size: String,
}

/// The daemon's answer.
pub(crate) fn answer(
    facts: &Facts,
    mount: &Weak<Filesystem>,
    line: &str,
    asker: &Asker<'_>,
) -> String {
    let refuse = |why: String| json!({ "error": why }).to_string();
    let Some(filesystem) = mount.upgrade() else { return refuse("the mount ends".to_owned()) };
    if line.is_empty() {
        return status::document(facts, &filesystem);
    }
    match serde_json::from_str(line) {
        Ok(Request::CacheSize(text)) => {
            // What there is, is what there is for this process.
            let size = check_cache(Some(&text)).map_err(|failure| failure.to_string());
            match size.and_then(|size| filesystem.limit(size).map(|()| size)) {
                Ok(size) => json!({ "cache_bytes": size.bytes() }).to_string(),
                Err(why) => refuse(why),
            }
        }
        Ok(Request::ProfileSeconds(seconds)) if (0.0..=PROFILE_SECONDS_MAX).contains(&seconds) => {
            // The mount may end meanwhile.
            drop(filesystem);
            match profile(mount, Duration::from_secs_f64(seconds), asker) {
                Ok(files) => {
                    json!({ "source": facts.source.to_string_lossy(), "files": files }).to_string()
                }
                Err(why) => refuse(why.to_owned()),
            }
        }
        _ => refuse("the daemon does not know that; is it of another version?".to_owned()),
    }
}

/// Asks the mount at `mountpoint`, whose answer takes so long.
pub(crate) fn request(
    mountpoint: &Path,
    request: &Request,
    takes: Duration,
) -> Result<Value, Failure> {
    let shown = mountpoint.display();
    let found = std::fs::canonicalize(mountpoint)
        .map_err(|error| Failure::usage(format!("{shown}: {}", plain(&error))))?;
    let found = holding(&found).unwrap_or(found);
    let line = serde_json::to_string(request)
        .map_err(|error| Failure::system(format!("cannot ask: {error}")))?;
    let answer = ask(&socket_path(&found), &line, takes).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            Failure::usage(format!("no rampool of this user is mounted at {shown}"))
        }
        _ => Failure::system(format!("{shown} does not answer: {error}")),
    })?;
    let answer: Value = serde_json::from_str(&answer)
        .map_err(|_| Failure::system(format!("{shown} has ended, or its answer is damaged")))?;
    match answer.get("error").and_then(Value::as_str) {
        Some(why) => Err(Failure::usage(why)),
        None => Ok(answer),
    }
}

/// `rampool limit`.
pub(crate) fn limit(args: &LimitArgs) -> Result<(), Failure> {
    let asked = Request::CacheSize(args.cache_size.clone());
    let answer = request(&args.mountpoint, &asked, LIMIT_TAKES)?;
    let size = ByteSize(answer.get("cache_bytes").and_then(Value::as_u64).unwrap_or_default());
    tell(&format!(
        "{} uses {size} from now on, until it is mounted again\n",
        args.mountpoint.display()
    ))
}
