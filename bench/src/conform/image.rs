//! An ext4 of our own in a file: what the source is in all suites.
//!
//! It has ACLs, extended attributes and holes whatever the machine's disk has, and a suite that
//! fills it harms nobody. The loop device goes with the mount.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::binaries::output;
use crate::tool::Need;

/// Sparse: it takes what is written to it.
const IMAGE_BYTES: u64 = 8 << 30;
/// How long processes that were ended may still hold it.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// The mounted image. Dropping it unmounts and frees its loop device.
pub(super) struct Image {
    mountpoint: PathBuf,
}

impl Image {
    /// Makes the file and mounts it at `mountpoint`.
    pub(super) fn mount(file: &Path, mountpoint: &Path) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("the suites mount filesystems and change owners; run this as root");
        }
        File::create(file)
            .and_then(|image| image.set_len(IMAGE_BYTES))
            .with_context(|| format!("cannot make {}", file.display()))?;
        std::fs::create_dir_all(mountpoint)?;
        let mut mkfs = Command::new(Need::of("mkfs.ext4").find()?);
        mkfs.args(["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"]).arg(file);
        output(mkfs).context("cannot make an ext4 for the suites")?;
        let mut mount = Command::new(Need::of("mount").find()?);
        // Nobody pulls the plug here, so a flush need not reach the disk below.
        mount.args(["-t", "ext4", "-o", "loop,acl,user_xattr,nobarrier"]);
        output({
            mount.arg(file).arg(mountpoint);
            mount
        })
        .context("cannot mount an image: the suites need a loop device ('modprobe loop')")?;
        Ok(Self { mountpoint: mountpoint.to_owned() })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let start = Instant::now();
        while let Err(Errno::BUSY) = unmount(&self.mountpoint, UnmountFlags::empty()) {
            if start.elapsed() > BUSY_MAX {
                let _ = unmount(&self.mountpoint, UnmountFlags::DETACH);
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
