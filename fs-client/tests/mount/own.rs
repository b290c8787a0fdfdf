//! Filesystems of the tests' own: in memory, and on loop devices.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::run;

/// A filesystem of its own at a directory, until dropped.
pub(crate) struct Own {
    at: PathBuf,
    /// The loop device below it.
    device: Option<String>,
}

impl Own {
    /// One that is mounted already.
    pub(crate) fn mounted(at: &Path) -> Self {
        Self { at: at.to_owned(), device: None }
    }

    /// One that lives in memory.
    pub(crate) fn in_memory(at: &Path, kind: &str) -> Self {
        mount("none", at, kind, MountFlags::empty(), None).unwrap();
        Self::mounted(at)
    }

    /// One on a loop device with sectors of `sector` bytes, made by `mkfs`.
    pub(crate) fn on_disk(at: &Path, kind: &str, mkfs: &[&str], sector: &str) -> Self {
        let image = at.with_extension("image");
        File::create(&image).unwrap().set_len(320 << 20).unwrap();
        let output = run(Command::new("losetup")
            .args(["--find", "--show", "--sector-size", sector])
            .arg(&image));
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let own = Self { at: at.to_owned(), device: Some(device.clone()) };
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&device));
        mount(&device, at, kind, MountFlags::empty(), None).unwrap();
        own
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = unmount(&self.at, UnmountFlags::DETACH);
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").args(["--detach", device]).status();
        }
    }
}
