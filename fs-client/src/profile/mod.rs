//! Which files are read, and from where: counted for as long as somebody wants to know.

pub(crate) mod show;

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rampool_cli::status::Asker;
use serde::{Deserialize, Serialize};

use crate::filesystem::Filesystem;
use crate::handles::FileHandle;
use crate::inodes::NodeId;
use crate::metrics::Layer;
use crate::rules;

/// Files that one profile counts; reads of further ones are counted together.
const FILES_MAX: usize = 100_000;

/// And so many bytes of their paths.
const PATH_BYTES_MAX: usize = 16 << 20;

/// Each read costs more with each that counts it.
const RUNNING_MAX: usize = 4;

/// What is being counted at present.
#[derive(Debug, Default)]
pub(crate) struct Profiles {
    /// Nothing is, mostly, and a read is not to take a lock for that.
    is_on: AtomicBool,
    running: Mutex<Vec<Arc<Profile>>>,
}

/// One count.
#[derive(Debug, Default)]
struct Profile(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    files: HashMap<NodeId, FileReads>,
    path_bytes: usize,
}

/// What was read of a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileReads {
    /// Its path in the source when it was first read; empty for all files beyond those that are counted singly.
    pub(crate) path: String,
    /// Reads by the slowest place that they needed.
    pub(crate) local: u64,
    pub(crate) remote: u64,
    pub(crate) source: u64,
    pub(crate) bytes: u64,
}

impl Profiles {
    /// Counts a read of `len` bytes, if somebody wants to know.
    pub(crate) fn note(&self, handle: &FileHandle, layer: Layer, len: usize) {
        if self.is_on.load(Ordering::Relaxed) {
            self.count(handle, layer, len);
        }
    }

    /// Counts into `profile` as well. False where as many count as may.
    fn begin(&self, profile: &Arc<Profile>) -> bool {
        let mut running = self.running.lock();
        let has_room = running.len() < RUNNING_MAX;
        if has_room {
            running.push(profile.clone());
            self.is_on.store(true, Ordering::Relaxed);
        }
        has_room
    }

    fn end(&self, profile: &Arc<Profile>) {
        let mut running = self.running.lock();
        running.retain(|other| !Arc::ptr_eq(other, profile));
        self.is_on.store(!running.is_empty(), Ordering::Relaxed);
    }

    #[cold]
    fn count(&self, handle: &FileHandle, layer: Layer, len: usize) {
        for profile in self.running.lock().iter() {
            let mut counted = profile.0.lock();
            let Counted { files, path_bytes } = &mut *counted;
            let has_room = files.len() < FILES_MAX && *path_bytes < PATH_BYTES_MAX;
            let id = handle.inode.id;
            // No inode has the number 0.
            let id = if has_room || files.contains_key(&id) { id } else { NodeId(0) };
            let reads = files.entry(id).or_insert_with(|| {
                let place = (id != NodeId(0)).then(|| rules::place(handle.node.as_fd())).flatten();
                let path = place.map(|place| place.to_string_lossy().into_owned());
                let path = path.unwrap_or_default();
                *path_bytes += path.len();
                FileReads { path, ..FileReads::default() }
            });
            *match layer {
                Layer::Local => &mut reads.local,
                Layer::Remote => &mut reads.remote,
                Layer::Source => &mut reads.source,
            } += 1;
            reads.bytes += len as u64;
        }
    }
}

/// Counts for so long, unless the mount ends or nobody waits for it any more; most reads past the cache first.
///
/// # Errors
/// In words: others are counting, or the mount has ended.
pub(crate) fn profile(
    filesystem: &Weak<Filesystem>,
    time: Duration,
    asker: &Asker<'_>,
) -> Result<Vec<FileReads>, &'static str> {
    const STEP: Duration = Duration::from_millis(100);
    let profile = Arc::new(Profile::default());
    // Not held: the mount may end meanwhile.
    if !filesystem.upgrade().ok_or("the mount ends")?.profiles.begin(&profile) {
        return Err("others are counting already; try again when they are done");
    }
    let end = Instant::now() + time;
    while filesystem.strong_count() > 0 && !asker.is_gone() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(STEP));
    }
    if let Some(filesystem) = filesystem.upgrade() {
        filesystem.profiles.end(&profile);
    }
    let mut files: Vec<FileReads> =
        std::mem::take(&mut profile.0.lock().files).into_values().collect();
    FileReads::sort(&mut files);
    Ok(files)
}

impl FileReads {
    /// Most reads past the caches first.
    fn sort(reads: &mut [Self]) {
        reads.sort_by(|a, b| {
            (b.source, b.remote, b.local, &a.path).cmp(&(a.source, a.remote, a.local, &b.path))
        });
    }
}
