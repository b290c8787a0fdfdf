//! Directories of keys, which are made whole or not at all, and belong to the owner of their place.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, ensure};
use rustix::process::{Gid, Uid, getegid, geteuid, getgroups};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Makes `dir`, which must be empty or not there, of what `fill` puts into another directory beside it.
///
/// # Errors
/// Those of `fill`; `dir` cannot be made, or has something in it.
pub(crate) fn make_whole<T>(
    dir: &Path,
    fill: impl FnOnce(&Path) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let cannot = || format!("cannot make {}", dir.display());
    fs::create_dir_all(parent).with_context(cannot)?;
    // What root makes in the place of a service is the service's; and as that user root cannot be lured elsewhere.
    let _owner = ActsAs::owner_of(parent).with_context(cannot)?;
    check_vacant(dir)?;
    let name = dir.file_name().context("a directory for keys needs a name")?.to_string_lossy();
    let beside = parent.join(format!(".{name}.{}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&beside).with_context(cannot)?;
    let filled =
        fill(&beside).and_then(|made| fs::rename(&beside, dir).map(|()| made).with_context(cannot));
    if filled.is_err() {
        let _ = fs::remove_dir_all(&beside);
    }
    filled
}

/// Does something in `dir` as its owner.
///
/// # Errors
/// Those of `act`; nobody knows whose it is.
pub(crate) fn as_owner_of<T>(
    dir: &Path,
    act: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let _owner =
        ActsAs::owner_of(dir).with_context(|| format!("cannot look into {}", dir.display()))?;
    act()
}

/// Puts a text into a file, in place of what is there: whole, or not at all.
///
/// # Errors
/// It cannot be written.
pub(crate) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let name = path.file_name().context("a file needs a name")?.to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || {
        let _ = fs::remove_file(&beside);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Keys are not overwritten.
///
/// # Errors
/// There is something in `dir`.
fn check_vacant(dir: &Path) -> anyhow::Result<()> {
    let is_empty = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look into {}", dir.display()));
        }
    };
    ensure!(
        is_empty,
        "{} is not empty; if its keys are of no use any more, remove it, or use another --keys",
        dir.display()
    );
    Ok(())
}

/// While it lives, this thread of root is somebody else to the kernel.
struct ActsAs {
    group: Gid,
    groups: Vec<Gid>,
}

impl ActsAs {
    /// None if it need not be.
    fn owner_of(dir: &Path) -> io::Result<Option<Self>> {
        let found = fs::metadata(dir)?;
        let owner = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
        if !geteuid().is_root() || owner.0.is_root() {
            return Ok(None);
        }
        let acts = Self { group: getegid(), groups: getgroups()? };
        set_thread_groups(&[owner.1])?;
        set_thread_res_gid(None, owner.1, None)?;
        set_thread_res_uid(None, owner.0, None)?;
        Ok(Some(acts))
    }
}

impl Drop for ActsAs {
    fn drop(&mut self) {
        // The saved user is root, who may do so.
        let back = set_thread_res_uid(None, Uid::ROOT, None)
            .and_then(|()| set_thread_res_gid(None, self.group, None))
            .and_then(|()| set_thread_groups(&self.groups));
        debug_assert!(back.is_ok(), "{back:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::os::unix::fs::{PermissionsExt as _, chown};

    fn entries(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn a_directory_is_there_whole_or_not_at_all() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a/keys");
        let failed: anyhow::Result<()> = make_whole(&dir, |new| {
            fs::write(new.join("key"), "k")?;
            bail!("no")
        });
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert_eq!(entries(&temp.path().join("a")), 0);
        make_whole(&dir, |new| Ok(fs::write(new.join("key"), "k")?)).unwrap();
        assert_eq!((entries(&temp.path().join("a")), entries(&dir)), (1, 1));
        let again = make_whole(&dir, |_| Ok(())).unwrap_err().to_string();
        assert!(again.contains("is not empty"), "{again}");
    }

    #[test]
    fn what_root_makes_belongs_to_the_owner_of_the_place() {
        if !geteuid().is_root() {
            return;
        }
        const SOMEBODY: u32 = 12_345;
        let temp = tempfile::tempdir().unwrap();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = temp.path().join("service");
        fs::create_dir(&place).unwrap();
        chown(&place, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        let dir = place.join("keys");
        make_whole(&dir, |new| Ok(fs::write(new.join("key"), "k")?)).unwrap();
        for path in [&dir, &dir.join("key")] {
            let made = fs::metadata(path).unwrap();
            assert_eq!((made.uid(), made.gid()), (SOMEBODY, SOMEBODY));
        }
        assert!(geteuid().is_root(), "root again");
    }
}
