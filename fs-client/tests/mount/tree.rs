//! Random operations on the mount and the same on a plain directory: both must show the same,
//! at every step and at the end, and the source must hold it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::fs::{FallocateFlags, fallocate};

use crate::support::{Keys, Mounted, Server, noise};

const NAMES: u32 = 6;
const DIRECTORIES: [&str; 3] = ["", "d", "d/e"];

/// Together several times what the cache holds.
const FILE_BYTES_MAX: u64 = 10 << 20;

#[test]
fn the_mount_does_what_a_plain_directory_does() {
    let mut mounted = Mounted::prepare();
    mounted.mount(&[]);
    operate(&mounted, 1, 3_000);
    mounted.unmount();
}

#[test]
fn so_does_a_mount_with_a_server() {
    let keys = Keys::new();
    let server = Server::start(&keys.server(), "127.0.0.1:0");
    let mut mounted = Mounted::prepare();
    mounted.mount_with_servers(&keys, &[&server.address], &[]);
    mounted.wait_until("connected", |status| {
        status.pointer("/remote/servers/0/state").is_some_and(|state| state == "connected")
    });
    operate(&mounted, 2, 4_000);
    assert!(mounted.number("/layers/remote/bytes") > 0, "of use: {}", mounted.status());
    assert_eq!(mounted.number("/remote/unauthentic_blocks"), 0);
    mounted.unmount();
}

#[test]
fn the_source_itself_may_be_the_mountpoint() {
    let mut mounted = Mounted::prepare();
    mounted.mountpoint = mounted.source.clone();
    fs::write(mounted.source.join("before"), "before").unwrap();
    mounted.mount(&[]);
    assert_eq!(fs::read_to_string(mounted.path("before")).unwrap(), "before");
    operate(&mounted, 3, 500);
    mounted.unmount();
    assert_eq!(fs::read_to_string(mounted.source.join("before")).unwrap(), "before");
}

#[test]
fn a_change_behind_the_mount_is_seen_at_the_next_open() {
    let mut mounted = Mounted::prepare();
    let (behind, through) = (mounted.source.join("f"), mounted.path("f"));
    fs::write(&behind, vec![1; 10_000]).unwrap();
    mounted.mount(&["--attr-timeout", "0"]);
    assert_eq!(fs::read(&through).unwrap(), vec![1; 10_000]);
    fs::write(&behind, vec![2; 10_000]).unwrap();
    assert_eq!(fs::read(&through).unwrap(), vec![2; 10_000]);
    // Another file under the same name, of the same length.
    fs::write(mounted.source.join("g"), vec![3; 10_000]).unwrap();
    fs::rename(mounted.source.join("g"), &behind).unwrap();
    assert_eq!(fs::read(&through).unwrap(), vec![3; 10_000]);
    // An own write between must not hide what somebody else changed.
    let open = File::options().read(true).write(true).open(&through).unwrap();
    File::options().write(true).open(&behind).unwrap().write_all_at(&[4; 100], 0).unwrap();
    open.write_all_at(&[5; 100], 8000).unwrap();
    let mut bytes = vec![0; 10_000];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!((bytes[0], bytes[99], bytes[100], bytes[8000]), (4, 4, 3, 5));
}

#[test]
fn far_more_files_are_known_than_may_be_open() {
    many_files("exec \"$0\" \"$@\"");
}

#[test]
fn also_by_those_who_may_not_use_file_handles() {
    if rustix::process::geteuid().is_root() {
        many_files("exec setpriv --bounding-set -dac_read_search \"$0\" \"$@\"");
    }
}

fn many_files(start: &str) {
    let mut mounted = Mounted::prepare();
    for n in 0..2_000 {
        fs::write(mounted.source.join(format!("f{n}")), format!("{n}")).unwrap();
    }
    let mut limited = std::process::Command::new("sh");
    let start = format!("ulimit -n 200 && {start}");
    limited.args(["-c", &start, env!("CARGO_BIN_EXE_rampool")]);
    mounted.mount_with(limited, &[]);
    for _ in 0..2 {
        for n in 0..2_000 {
            let path = mounted.path(&format!("f{n}"));
            assert_eq!(fs::read_to_string(path).unwrap(), n.to_string());
        }
    }
    assert!(mounted.number("/cache/known_inodes") >= 2_000);
    // An open file takes one descriptor of the daemon, and one more when it is written and read.
    let open: Vec<_> = (0..60)
        .map(|n| {
            let path = mounted.path(&format!("f{n}"));
            File::options().read(true).write(true).open(path).unwrap()
        })
        .collect();
    for (n, mut file) in open.iter().enumerate() {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
        assert_eq!(text, n.to_string());
    }
    drop(open);
    // One that is open outlives its name, and its descriptor in the daemon.
    let held = File::open(mounted.path("f7")).unwrap();
    fs::remove_file(mounted.path("f7")).unwrap();
    for n in 100..1_000 {
        fs::metadata(mounted.path(&format!("f{n}"))).unwrap();
    }
    assert_eq!(held.metadata().unwrap().nlink(), 0);
    assert_eq!(std::io::read_to_string(held).unwrap(), "7");
    mounted.unmount();
}

/// Does the same random things to the mount and to a plain directory.
fn operate(mounted: &Mounted, seed: u64, steps: usize) {
    let plain = tempfile::tempdir().unwrap();
    let roots = [mounted.mountpoint.clone(), plain.path().to_owned()];
    for root in &roots {
        fs::create_dir_all(root.join("d/e")).unwrap();
    }
    let mut random = StdRng::seed_from_u64(seed);
    for step in 0..steps {
        let choice: u32 = random.random_range(0..100);
        let operation_seed: u64 = random.random();
        let [on_mount, on_plain] = [0, 1]
            .map(|n| one_operation(&roots[n], choice, &mut StdRng::seed_from_u64(operation_seed)));
        assert_eq!(on_mount, on_plain, "seed {seed}, step {step}, operation {choice}");
    }
    let trees = [0, 1].map(|n| tree(&roots[n]));
    assert_eq!(names(&trees[0]), names(&trees[1]), "seed {seed}");
    assert!(trees[0] == trees[1], "seed {seed}: contents or attributes differ at the end");
    if mounted.mountpoint != mounted.source {
        assert!(tree(&mounted.source) == trees[1], "seed {seed}: the source does not hold it");
    }
    if mounted.mountpoint == mounted.source {
        fs::remove_dir_all(mounted.path("d")).unwrap();
    }
}

/// One operation, and what an application sees of it.
fn one_operation(root: &Path, choice: u32, random: &mut StdRng) -> Result<Vec<u8>, Option<i32>> {
    let any_name = |random: &mut StdRng| {
        let directory = DIRECTORIES[random.random_range(0..DIRECTORIES.len())];
        root.join(directory).join(format!("f{}", random.random_range(0..NAMES)))
    };
    let name = any_name(random);
    let offset = random.random_range(0..FILE_BYTES_MAX);
    let len = match random.random_range(0..4) {
        0 => random.random_range(1..5_000),
        1 => 4096,
        2 => random.random_range(1..100),
        _ => random.random_range(1..300_000),
    };
    let offset = if random.random_bool(0.5) { offset / 4096 * 4096 } else { offset };
    let fill = random.random::<u64>();
    let open = |write: bool| OpenOptions::new().read(true).write(write).open(&name);
    let result = (|| -> std::io::Result<Vec<u8>> {
        match choice {
            0..30 => {
                let file =
                    OpenOptions::new().create(true).truncate(false).write(true).open(&name)?;
                file.write_all_at(&noise(fill, len), offset)?;
            }
            30..65 => {
                let mut bytes = vec![0; len];
                let got = open(false)?.read_at(&mut bytes, offset)?;
                bytes.truncate(got);
                return Ok(bytes);
            }
            65..70 => open(true)?.set_len(offset)?,
            70..74 => {
                let file = OpenOptions::new().append(true).open(&name)?;
                std::io::Write::write_all(&mut &file, &noise(fill, len))?;
            }
            74..78 => {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&open(true)?, punch, offset, len as u64)?;
            }
            78..81 => {
                fallocate(&open(true)?, FallocateFlags::empty(), offset, len as u64)?;
            }
            81..84 => {
                // Read and write through one open file.
                let file = open(true)?;
                let mut before = vec![0; 4096];
                let got = file.read_at(&mut before, offset)?;
                file.write_all_at(&noise(fill, 1000), offset)?;
                let mut after = vec![0; 2000];
                file.read_exact_at(&mut after[..1000], offset)?;
                before.truncate(got);
                before.extend(after);
                return Ok(before);
            }
            84..88 => fs::rename(&name, any_name(random))?,
            88..90 => fs::hard_link(&name, any_name(random))?,
            90..93 => fs::remove_file(&name)?,
            93..94 => symlink("f1", any_name(random))?,
            94..96 => {
                let from = File::open(&name)?;
                let to = OpenOptions::new().write(true).open(any_name(random))?;
                let mut place = 0;
                let copied = rustix::fs::copy_file_range(&from, None, &to, Some(&mut place), len)?;
                return Ok(copied.to_le_bytes().to_vec());
            }
            96..97 => fs::set_permissions(&name, fs::Permissions::from_mode(0o640))?,
            97..98 => open(true)?.sync_all()?,
            98..99 => {
                rustix::fs::setxattr(
                    &name,
                    "user.test",
                    &noise(fill, 20),
                    rustix::fs::XattrFlags::empty(),
                )?;
                let mut value = [0; 64];
                let got = rustix::fs::getxattr(&name, "user.test", &mut value)?;
                return Ok(value[..got].to_vec());
            }
            _ => {
                let directory = root.join(format!("x{}", random.random_range(0..2)));
                fs::create_dir(&directory)?;
                fs::remove_dir(&directory)?;
            }
        }
        Ok(Vec::new())
    })();
    result.map_err(|error| error.raw_os_error())
}

type Tree = BTreeMap<String, (u32, u64, u64, Vec<u8>)>;

/// Every entry below `root`: mode, links of files, length, contents.
fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let contents = if about.is_file() {
                fs::read(&path).unwrap()
            } else if about.is_symlink() {
                fs::read_link(&path).unwrap().to_string_lossy().as_bytes().to_vec()
            } else {
                pending.push(path.clone());
                Vec::new()
            };
            let (links, len) = if about.is_dir() { (0, 0) } else { (about.nlink(), about.len()) };
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            if name != "before" {
                found.insert(name, (about.mode(), links, len, contents));
            }
        }
    }
    found
}

fn names(tree: &Tree) -> Vec<&String> {
    tree.keys().collect()
}
