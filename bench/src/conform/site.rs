//! Places to run suites at: a fresh directory, bare or through a mount.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rampool_cli::size::ByteSize;

use super::suite::Side;
use crate::binaries::Binaries;
use crate::image::Image;
use crate::pool::{Client, Lender, MountPlan, Pool};
use crate::scratch::Scratch;
use crate::stop::Stop;

/// Smaller than what the suites write.
const CACHE: ByteSize = ByteSize::mib(16);
const IMAGE_BYTES: u64 = 8 << 30;
const LEND: ByteSize = ByteSize::mib(512);

/// The filesystem of all sources, and the pool. Dropping it removes everything.
pub(super) struct Stage {
    // Unmounted before the scratch directory in the pool goes.
    _image: Image,
    root: PathBuf,
    pool: Pool,
    /// Made so far.
    sites: Cell<u32>,
}

/// A place: a fresh directory on the stage, and for some a mount over it. Dropping it unmounts
/// and removes what is in it.
pub(super) struct Site<'a> {
    stage: &'a Stage,
    side: Side,
    source: PathBuf,
    client: Option<Client>,
    lender: Option<Lender>,
}

impl Stage {
    /// Makes an empty filesystem and a pool in `dir`.
    pub(super) fn new(dir: &Path, binaries: Binaries) -> Result<Self> {
        let scratch = Scratch::new(dir)?;
        // Some suites act as other users, who must be able to come here.
        let open_to_all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(scratch.join("."), open_to_all)?;
        let pool = Pool::new(binaries, scratch)?;
        let root = pool.scratch().join("e");
        let image = Image::mount(&pool.scratch().join("ext4.img"), IMAGE_BYTES, &root)?;
        Ok(Self { _image: image, root, pool, sites: Cell::new(0) })
    }

    /// A new place for a suite.
    pub(super) fn site(&self, side: Side, stop: &Stop) -> Result<Site<'_>> {
        // Short names, because the path of a socket may have 107 bytes only.
        let number = self.sites.get();
        self.sites.set(number + 1);
        let source = self.root.join(number.to_string());
        fs::create_dir(&source)
            .with_context(|| format!("cannot make {} on the image", source.display()))?;
        let mut site = Site { stage: self, side, source, client: None, lender: None };
        if side == Side::MountWithServer {
            site.lender = Some(self.pool.lend(LEND, stop)?);
        }
        site.mount(stop)?;
        Ok(site)
    }
}

impl Site<'_> {
    /// The directory to test.
    pub(super) fn dir(&self) -> &Path {
        self.client.as_ref().map_or(&self.source, Client::path)
    }

    /// The directory below it: the same, where nothing is mounted.
    pub(super) fn source(&self) -> &Path {
        &self.source
    }

    /// Which kind of place it is.
    pub(super) fn side(&self) -> Side {
        self.side
    }

    /// A path for a suite's own files, beside all that is tested.
    pub(super) fn aside(&self, name: &str) -> PathBuf {
        self.stage.pool.scratch().join(name)
    }

    /// A new directory on the same filesystem, never mounted over. The suite removes it.
    pub(super) fn model(&self) -> Result<PathBuf> {
        let path = self.source.with_extension("model");
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Unmounts and mounts again, where anything is mounted.
    pub(super) fn remount(&mut self, stop: &Stop) -> Result<()> {
        // Ended first: there is one mount point.
        self.client = None;
        self.mount(stop)
    }

    /// Kills the process behind the mount, where there is one, and mounts again.
    pub(super) fn kill_and_remount(&mut self, stop: &Stop) -> Result<()> {
        if let Some(client) = &mut self.client {
            client.daemon().kill()?;
        }
        self.remount(stop)
    }

    /// Whether the mount, where there is one, still answers.
    pub(super) fn is_alive(&mut self) -> bool {
        self.client.as_mut().is_none_or(|client| client.daemon().is_running())
    }

    fn mount(&mut self, stop: &Stop) -> Result<()> {
        if self.side == Side::Source {
            return Ok(());
        }
        let server = self.lender.as_ref().map(|lender| lender.address);
        let plan =
            MountPlan { servers: server.as_slice(), ..MountPlan::new(&self.source, "mnt", CACHE) };
        self.client = Some(self.stage.pool.mount(&plan, stop)?);
        Ok(())
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        self.client = None;
        let _ = fs::remove_dir_all(&self.source);
        let _ = fs::remove_dir_all(self.source.with_extension("model"));
    }
}
