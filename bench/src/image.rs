//! An ext4 of our own in a file.
//!
//! It has ACLs, extended attributes and holes whatever the machine's disk has, who fills it harms nobody, and its disk
//! is nobody else's. The loop device goes with the mount.

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

/// How long processes that were ended may still hold it.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// Of a journal: what mke2fs gives a disk of 20 GB.
pub(crate) const JOURNAL_BYTES: u64 = 128 << 20;

const NO_LOOP: &str = "cannot mount an image: that takes a loop device ('modprobe loop')";

/// The mounted image. Dropping it unmounts it, frees its loop device and removes the file.
pub(crate) struct Image {
    file: PathBuf,
    mountpoint: PathBuf,
}

impl Image {
    /// Makes a file that takes what is written to it, up to `bytes` bytes, and mounts it at `mountpoint`.
    pub(crate) fn mount(file: &Path, bytes: u64, mountpoint: &Path) -> Result<Self> {
        Self::make(file, mountpoint, &[], |image| image.set_len(bytes))?;
        let mut mount = Command::new(Need::of("mount").find()?);
        // Nobody pulls the plug here, so a flush need not reach the disk below.
        mount.args(["-t", "ext4", "-o", "loop,acl,user_xattr,nobarrier"]).arg(file).arg(mountpoint);
        output(mount).context(NO_LOOP)?;
        Ok(Self { file: file.to_owned(), mountpoint: mountpoint.to_owned() })
    }

    /// The same, with room for all of it beforehand, where each read and write of its disk is one of the disk below,
    /// past the page cache, and a flush is a flush. Its journal is that of a disk of an ordinary size: a small one
    /// holds up whoever makes and writes many files at once.
    pub(crate) fn mount_direct(file: &Path, bytes: u64, mountpoint: &Path) -> Result<Self> {
        let journal = format!("size={}", JOURNAL_BYTES >> 20);
        Self::make(file, mountpoint, &["-J", &journal], |image| {
            Ok(rustix::fs::fallocate(image, rustix::fs::FallocateFlags::empty(), 0, bytes)?)
        })?;
        let mut attach = Command::new(Need::of("losetup").find()?);
        attach.args(["--find", "--show", "--direct-io=on"]).arg(file);
        let device = output(attach).context(NO_LOOP)?;
        let device = device.trim();
        let mut mount = Command::new(Need::of("mount").find()?);
        mount.args(["-t", "ext4", device]).arg(mountpoint);
        let mounted = output(mount).context("cannot mount an image");
        // While it is mounted this only says that the device is to go with the mount.
        let mut detach = Command::new(Need::of("losetup").find()?);
        detach.args(["--detach", device]);
        output(detach).context("cannot let go of a loop device")?;
        mounted?;
        Ok(Self { file: file.to_owned(), mountpoint: mountpoint.to_owned() })
    }

    fn make(
        file: &Path,
        mountpoint: &Path,
        options: &[&str],
        size: impl FnOnce(&File) -> std::io::Result<()>,
    ) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            bail!("only root may mount filesystems; run this as root");
        }
        File::create(file)
            .and_then(|image| size(&image))
            .with_context(|| format!("cannot make {}", file.display()))?;
        std::fs::create_dir_all(mountpoint)?;
        let mut mkfs = Command::new(Need::of("mkfs.ext4").find()?);
        mkfs.args(["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"])
            .args(options)
            .arg(file);
        output(mkfs).context("cannot make an ext4 in a file")?;
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let start = Instant::now();
        while let Err(Errno::BUSY) = unmount(&self.mountpoint, UnmountFlags::empty()) {
            if start.elapsed() > BUSY_MAX {
                let _ = unmount(&self.mountpoint, UnmountFlags::DETACH);
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        // A loop device that is still in use keeps it until then.
        let _ = std::fs::remove_file(&self.file);
    }
}
