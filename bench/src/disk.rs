//! Which disk a directory lies on: the number of the whole disk, as I/O limits want it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Dev, major, minor};

/// A block device, by its major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockDevice {
    /// Of the driver.
    pub(crate) major: u32,
    /// Of the disk.
    pub(crate) minor: u32,
}

/// The whole disk that `path` lies on.
pub(crate) fn disk_of(path: &Path) -> Result<BlockDevice> {
    let numbers = BlockDevice::from_dev(path.metadata()?.dev());
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let device = if numbers.major == 0 {
        // A filesystem with a number of its own, such as btrfs: its mount names the device.
        let node = mount_source(&mountinfo, numbers)
            .with_context(|| format!("{} is not on a block device", path.display()))?;
        BlockDevice::from_dev(fs::metadata(node)?.rdev())
    } else {
        numbers
    };
    whole_disk(Path::new("/sys/dev/block"), device)
}

impl BlockDevice {
    fn from_dev(dev: Dev) -> Self {
        Self { major: major(dev), minor: minor(dev) }
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// As the kernel packs both into one number.
    #[cfg(test)]
    fn dev(self) -> Dev {
        rustix::fs::makedev(self.major, self.minor)
    }
}

impl std::fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The disk of which `device` is a partition, or `device` itself. `table` is /sys/dev/block, where
/// a link for each device leads to its directory; a partition's is inside its disk's.
fn whole_disk(table: &Path, device: BlockDevice) -> Result<BlockDevice> {
    let entry = table.join(device.to_string());
    let Ok(directory) = fs::canonicalize(&entry) else {
        bail!("the kernel knows no block device {device}");
    };
    if !directory.join("partition").exists() {
        return Ok(device);
    }
    let disk = directory.parent().unwrap_or(&directory).join("dev");
    let text =
        fs::read_to_string(&disk).with_context(|| format!("cannot read {}", disk.display()))?;
    BlockDevice::parse(&text).with_context(|| format!("{} holds no device number", disk.display()))
}

/// The device node behind the mount with this number.
fn mount_source(mountinfo: &str, numbers: BlockDevice) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let found = BlockDevice::parse(mount.split(' ').nth(2)?)?;
        let source = filesystem.split(' ').nth(1)?;
        (found == numbers && source.starts_with("/dev/")).then(|| PathBuf::from(source))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const fn device(major: u32, minor: u32) -> BlockDevice {
        BlockDevice { major, minor }
    }

    #[test]
    fn a_partition_leads_to_its_disk_and_a_disk_to_itself() {
        let sys = tempfile::tempdir().unwrap();
        let disk = sys.path().join("devices/virtio0/block/vda");
        fs::create_dir_all(disk.join("vda3")).unwrap();
        fs::write(disk.join("dev"), "254:0\n").unwrap();
        fs::write(disk.join("vda3/dev"), "254:3\n").unwrap();
        fs::write(disk.join("vda3/partition"), "3\n").unwrap();
        let table = sys.path().join("dev");
        fs::create_dir(&table).unwrap();
        symlink(&disk, table.join("254:0")).unwrap();
        symlink(disk.join("vda3"), table.join("254:3")).unwrap();

        assert_eq!(whole_disk(&table, device(254, 3)).unwrap(), device(254, 0));
        assert_eq!(whole_disk(&table, device(254, 0)).unwrap(), device(254, 0));
        assert!(whole_disk(&table, device(8, 0)).is_err());
    }

    #[test]
    fn a_filesystem_with_its_own_number_is_found_by_its_mount() {
        let table = "30 1 0:42 /root / rw,relatime shared:1 - btrfs /dev/sda2 rw,subvol=/root\n\
                     31 30 0:5 / /dev rw - devtmpfs udev rw\n";
        assert_eq!(mount_source(table, device(0, 42)), Some("/dev/sda2".into()));
        assert_eq!(mount_source(table, device(0, 5)), None);
        assert_eq!(mount_source(table, device(0, 7)), None);
    }

    #[test]
    fn numbers_survive_being_packed() {
        for numbers in [device(254, 0), device(8, 17), device(259, 300_000)] {
            assert_eq!(BlockDevice::from_dev(numbers.dev()), numbers);
            assert_eq!(BlockDevice::parse(&numbers.to_string()), Some(numbers));
        }
    }
}
