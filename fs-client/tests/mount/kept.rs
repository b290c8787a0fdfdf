//! A mount with a key file that is ended and started again.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Keys, Mounted, Server, noise, rampool, read_at_random, wait_for_exit};

const FILE_BYTES: usize = 32 << 20;

struct Scene {
    keys: Keys,
    server: Server,
    mounted: Mounted,
    contents: Vec<u8>,
    key_file: PathBuf,
    seed: u64,
}

impl Scene {
    /// A mount whose server holds most of what its cache does not.
    fn new() -> Self {
        let keys = Keys::new();
        let server = Server::start(&keys.server(), "127.0.0.1:0");
        let mounted = Mounted::prepare();
        let contents = noise(3, FILE_BYTES);
        fs::write(mounted.source.join("f"), &contents).unwrap();
        let key_file = keys.client().join("mount.key");
        let mut scene = Self { keys, server, mounted, contents, key_file, seed: 0 };
        let key_file = scene.key_file.clone();
        scene.mount(&key_file);
        loop {
            scene.read(4_000);
            if scene.mounted.number("/remote/lent_blocks") > 4_000 {
                return scene;
            }
        }
    }

    fn mount(&mut self, key_file: &Path) {
        let more = ["--key-file", key_file.to_str().unwrap()];
        self.mounted.mount_with_servers(&self.keys, &[&self.server.address], &more);
        self.mounted.wait_until("connected", |status| {
            status.pointer("/remote/servers/0/state").and_then(Value::as_str) == Some("connected")
        });
    }

    fn read(&mut self, reads: usize) {
        self.seed += 1;
        read_at_random(&self.mounted.path("f"), &self.contents, reads, self.seed, |_| {});
    }

    /// Reads of a fresh mount that servers answered, of so many.
    fn found(&mut self, reads: usize) -> u64 {
        let before = self.mounted.number("/layers/remote/reads");
        self.read(reads);
        self.mounted.number("/layers/remote/reads") - before
    }
}

#[test]
fn what_was_lent_is_found_again() {
    let mut scene = Scene::new();
    scene.mounted.unmount();
    let key_file = scene.key_file.clone();
    scene.mount(&key_file);
    let lent = scene.mounted.number("/remote/lent_blocks");
    assert!(lent > 4_000, "{lent} blocks");
    let found = scene.found(1_000);
    assert!(found > 400, "{found} of 1,000 reads; {}", scene.mounted.status());

    // And once more: blocks of two runs.
    scene.read(8_000);
    // The former process is still saving when the next begins.
    scene.mounted.unmount_lazily();
    scene.mount(&key_file);
    let found = scene.found(1_000);
    assert!(found > 400, "{found} of 1,000 reads; {}", scene.mounted.status());
    assert_eq!(scene.mounted.number("/remote/unauthentic_blocks"), 0);
    scene.mounted.unmount();
}

#[test]
fn what_has_changed_meanwhile_is_not() {
    let mut scene = Scene::new();
    scene.mounted.unmount();
    scene.contents = noise(4, FILE_BYTES);
    fs::write(scene.mounted.source.join("f"), &scene.contents).unwrap();
    let key_file = scene.key_file.clone();
    scene.mount(&key_file);
    assert_eq!(scene.found(300), 0, "they are of the former state");
    scene.mounted.unmount();
}

#[test]
fn without_the_key_or_after_a_crash_nothing_is_found() {
    let mut scene = Scene::new();
    scene.mounted.unmount();
    let key_file = scene.key_file.clone();
    let other = key_file.with_file_name("other.key");
    fs::rename(key_file.with_file_name("mount.key.lent"), other.with_file_name("other.key.lent"))
        .unwrap();
    scene.mount(&other);
    assert_eq!(scene.mounted.number("/remote/lent_blocks"), 0);
    scene.mounted.crash();
    assert!(!other.with_file_name("other.key.lent").exists(), "it is of use once");
    scene.mount(&other);
    assert_eq!(scene.found(300), 0);
    scene.mounted.unmount();
}

#[test]
fn the_key_file_is_one_mounts_and_its_owners() {
    let scene = Scene::new();
    let second = tempfile::tempdir().unwrap();
    let try_with = |key_file: &Path| {
        let mut child = rampool()
            .arg("mount")
            .args([scene.mounted.source.as_path(), second.path()])
            .args(["--server", &scene.server.address, "--keys"])
            .arg(scene.keys.client())
            .arg("--key-file")
            .arg(key_file)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let status = wait_for_exit(&mut child);
        let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
        (status.code(), said)
    };
    let (code, said) = try_with(&scene.key_file);
    assert!(code == Some(1) && said.contains("is another mount's"), "{code:?} {said}");
    let open = scene.key_file.with_file_name("open.key");
    fs::write(&open, "").unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = try_with(&open);
    assert!(code == Some(1) && said.contains("chmod 600"), "{code:?} {said}");
}
