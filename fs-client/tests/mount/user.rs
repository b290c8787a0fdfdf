//! An ordinary user mounts, through fusermount3, and root mounts for all users.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::support::{Mounted, run, unmount};

const NOBODY: u32 = 65_534;

/// A program, run as somebody without privileges. None when we have none to give up.
fn as_nobody(program: &str) -> Option<Command> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let mut command = Command::new(program);
    command.uid(NOBODY).gid(NOBODY).env_remove("XDG_RUNTIME_DIR");
    Some(command)
}

#[test]
fn an_ordinary_user_mounts_uses_and_unmounts() {
    let Some(mut mount) = as_nobody(env!("CARGO_BIN_EXE_rampool")) else { return };
    // A directory of its own, outside of what only root may search, with a copy of the program.
    let place = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("rampool");
    // By another process: what other tests start meanwhile would hold it open for writing, and it could not be run.
    run(Command::new("cp").args([env!("CARGO_BIN_EXE_rampool"), program.to_str().unwrap()]));
    let (source, mountpoint) = (place.path().join("source"), place.path().join("mount"));
    for directory in [&source, &mountpoint] {
        fs::create_dir(directory).unwrap();
        chown(directory, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    drop(mount);
    mount = as_nobody(program.to_str().unwrap()).unwrap();
    run(mount.args(["mount", "-d", "--cache-size", "16M"]).args([&source, &mountpoint]));
    let script = format!("cd {} && echo there > f && cat f && mv f g && ls", mountpoint.display());
    let output = run(as_nobody("sh").unwrap().args(["-c", &script]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "there\ng\n");
    let mut status = as_nobody(program.to_str().unwrap()).unwrap();
    run(status.arg("status").arg(&mountpoint).args(["-w", "json"]));
    let mut umount = as_nobody(program.to_str().unwrap()).unwrap();
    let output = umount.arg("umount").arg(&mountpoint).output().unwrap();
    unmount(&mountpoint);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut again = as_nobody(program.to_str().unwrap()).unwrap();
    let says = again.arg("umount").arg(&mountpoint).output().unwrap().stderr;
    let says = String::from_utf8_lossy(&says).into_owned();
    assert!(says.ends_with("nothing is mounted there\n"), "{says}");
    assert_eq!(fs::read_to_string(source.join("g")).unwrap(), "there\n");
    assert_eq!(fs::metadata(source.join("g")).unwrap().uid(), NOBODY);
}

#[test]
fn what_a_user_makes_on_roots_mount_is_the_users() {
    let Some(mut shell) = as_nobody("sh") else { return };
    let mut mounted = Mounted::prepare();
    let top = mounted.mountpoint.parent().unwrap();
    fs::set_permissions(top, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&mounted.source, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(mounted.source.join("secret"), "roots").unwrap();
    fs::set_permissions(mounted.source.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    mounted.mount(&[]);
    let script =
        "umask 027; echo mine > f && mkdir d && ln -s f l && mkfifo p && cat f; cat secret";
    let output = shell.current_dir(&mounted.mountpoint).args(["-c", script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "mine\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"));
    for (name, mode) in [("f", 0o100_640), ("d", 0o040_750), ("p", 0o010_640), ("l", 0o120_777)] {
        let made = fs::symlink_metadata(mounted.source.join(name)).unwrap();
        assert_eq!((made.uid(), made.gid(), made.mode()), (NOBODY, NOBODY, mode), "{name}");
    }
    mounted.unmount();
}
