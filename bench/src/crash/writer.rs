//! A writer: random operations on the files of its directory, each noted in the model before and
//! after the system call.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::SmallRng};
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, fdatasync, fsync, ftruncate};
use rustix::io::{Errno, pwrite, write};

use super::change::Change;
use super::file::File;
use super::mapping::Desk;
use super::names::NameChange;
use super::scene::{Scene, Step};
use super::tally::{End, Finding, FindingKind, Kind};
use super::world::{Directory, SLOTS};

/// The longest file and the longest write.
const FILE_BYTES_MAX: u64 = 2 << 20;
const WRITE_BITS_MAX: u32 = 18;
const MAPPED_BYTES_MAX: u64 = 64 << 10;
/// What a replaced file is written to first.
const TEMPORARY: &str = "tmp";

/// One writer.
pub(super) struct Writer<'a> {
    pub(super) scene: &'a Scene<'a>,
    directory: &'a Directory,
    rng: SmallRng,
    desk: Desk,
    /// Of its records in the shared file; never used twice.
    next_record: u64,
}

impl<'a> Writer<'a> {
    /// The writer of directory `number`; `seed` decides what it does.
    pub(super) fn new(scene: &'a Scene<'a>, number: usize, seed: u64) -> rustix::io::Result<Self> {
        let directory = &scene.world.directories[number];
        let rng = SmallRng::seed_from_u64(seed);
        let next_record = (number as u64 + 1) << 32;
        Ok(Self { scene, directory, rng, desk: Desk::new()?, next_record })
    }

    /// Works until the round is over or the mount is dead.
    pub(super) fn run(mut self) -> Result<(), Finding> {
        while self.scene.goes_on() {
            match self.step() {
                Ok(()) => {}
                Err(End::Dead) => {
                    self.scene.tally.interrupted.fetch_add(1, Relaxed);
                    return Ok(());
                }
                Err(End::Found(finding)) => return Err(*finding),
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Step<()> {
        match self.rng.random_range(0..100) {
            0..55 => self.edit(),
            55..65 => self.replace(),
            65..70 => self.unlink(),
            70..75 => self.create(),
            75..80 => self.rename(),
            80..85 => self.link(),
            85..90 => self.sync_directory(),
            _ => self.append_shared(),
        }
    }

    /// Opens a file and changes it several times.
    fn edit(&mut self) -> Step<()> {
        let Some((name, file)) = self.pick() else { return self.create() };
        let mut flags = OFlags::RDWR;
        let (append, dsync) = (self.rng.random_ratio(1, 5), self.rng.random_ratio(1, 6));
        flags.set(OFlags::APPEND, append);
        flags.set(OFlags::DSYNC, dsync);
        let fd = self.open(&name, flags)?;
        for _ in 0..self.rng.random_range(1..=6) {
            match self.rng.random_range(0..10) {
                _ if append => self.append(&name, &file, &fd)?,
                0..6 => self.write(
                    &name,
                    &file,
                    &fd,
                    if dsync { Kind::WriteDsync } else { Kind::Write },
                )?,
                6 => self.truncate(&name, &file, &fd)?,
                7 => self.punch(&name, &file, &fd)?,
                8 => self.store(&name, &file, &fd)?,
                _ => self.sync(&name, &fd)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, name: &str, file: &File, fd: &OwnedFd, kind: Kind) -> Step<()> {
        let data = self.data();
        let end = (file.len() + 16_384).min(FILE_BYTES_MAX - data.len() as u64);
        let at = self.rng.random_range(0..=end);
        file.begin("pwrite", Change::Write { at, data: data.clone() });
        let written = self.judge(pwrite(fd, &data, at), "pwrite to", name)?;
        self.whole(written, data.len(), name)?;
        file.acknowledge();
        self.scene.tally.count(kind);
        Ok(())
    }

    fn append(&mut self, name: &str, file: &File, fd: &OwnedFd) -> Step<()> {
        let (data, at) = (self.data(), file.len());
        if at + data.len() as u64 > FILE_BYTES_MAX {
            return Ok(());
        }
        file.begin("append", Change::Write { at, data: data.clone() });
        let written = self.judge(write(fd, &data), "append to", name)?;
        self.whole(written, data.len(), name)?;
        file.acknowledge();
        self.scene.tally.count(Kind::Append);
        Ok(())
    }

    fn truncate(&mut self, name: &str, file: &File, fd: &OwnedFd) -> Step<()> {
        let length = file.len();
        let to = self.rng.random_range(length / 2..=(length + 65_536).min(FILE_BYTES_MAX));
        file.begin("truncate", Change::Length(to));
        self.judge(ftruncate(fd, to), "truncate", name)?;
        file.acknowledge();
        self.scene.tally.count(Kind::Truncate);
        Ok(())
    }

    fn punch(&mut self, name: &str, file: &File, fd: &OwnedFd) -> Step<()> {
        let at = self.rng.random_range(0..=file.len());
        let len = self.rng.random_range(1..=65_536);
        file.begin("punch", Change::Punch { at, len });
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.judge(fallocate(fd, flags, at, len), "punch a hole into", name)?;
        file.acknowledge();
        self.scene.tally.count(Kind::Punch);
        Ok(())
    }

    fn store(&mut self, name: &str, file: &File, fd: &OwnedFd) -> Step<()> {
        let length = file.len();
        if length == 0 {
            return Ok(());
        }
        let at = self.rng.random_range(0..length);
        let len = self.rng.random_range(1..=(length - at).min(MAPPED_BYTES_MAX));
        let mut data = vec![0; len as usize];
        self.rng.fill_bytes(&mut data);
        file.begin("mapped store and msync", Change::Write { at, data: data.clone().into() });
        let stored = match self.desk.store(fd, at, &data) {
            Err(Errno::FAULT) if self.scene.may_be_dead() => return Err(End::Dead),
            stored => stored,
        };
        self.judge(stored, "mapped store into", name)?;
        file.acknowledge();
        self.scene.tally.count(Kind::MappedStore);
        Ok(())
    }

    fn sync(&mut self, name: &str, fd: &OwnedFd) -> Step<()> {
        let synced = if self.rng.random() { fsync(fd) } else { fdatasync(fd) };
        self.judge(synced, "fsync of", name)?;
        self.scene.tally.count(Kind::Fsync);
        Ok(())
    }

    /// The way in which careful programs save: a reader finds the old file or the new one.
    fn replace(&mut self) -> Step<()> {
        let Some((name, _)) = self.pick() else { return self.create() };
        if self.directory.names.get(TEMPORARY).is_some() {
            // A kill left it behind.
            self.remove(TEMPORARY)?;
        }
        let (file, fd) = self.make(TEMPORARY)?;
        for _ in 0..self.rng.random_range(1..=3) {
            self.append(TEMPORARY, &file, &fd)?;
        }
        self.judge(fsync(&fd), "fsync of", TEMPORARY)?;
        self.move_name(TEMPORARY, &name)?;
        if self.rng.random() {
            self.sync_directory()?;
        }
        self.scene.tally.count(Kind::Replace);
        Ok(())
    }

    fn create(&mut self) -> Step<()> {
        let Some(name) = self.free() else { return Ok(()) };
        let (file, fd) = self.make(name)?;
        self.scene.tally.count(Kind::Create);
        self.write(name, &file, &fd, Kind::Write)
    }

    fn make(&mut self, name: &str) -> Step<(Arc<File>, OwnedFd)> {
        let file = Arc::new(File::new(Vec::new()));
        self.directory.names.begin(NameChange::Add(name.to_owned(), file.clone()));
        // O_APPEND does no harm to pwrite at the end, which is where the first write goes.
        let append = if name == TEMPORARY { OFlags::APPEND } else { OFlags::empty() };
        let fd = self.open(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | append)?;
        self.directory.names.acknowledge();
        Ok((file, fd))
    }

    fn unlink(&mut self) -> Step<()> {
        let Some((name, _)) = self.pick() else { return Ok(()) };
        if self.directory.names.all().len() < 3 {
            return self.create();
        }
        self.remove(&name)?;
        self.scene.tally.count(Kind::Unlink);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Step<()> {
        self.directory.names.begin(NameChange::Remove(name.to_owned()));
        self.judge(rustix::fs::unlink(self.path(name)), "unlink", name)?;
        self.directory.names.acknowledge();
        Ok(())
    }

    fn rename(&mut self) -> Step<()> {
        let Some((from, file)) = self.pick() else { return Ok(()) };
        let to = SLOTS[self.rng.random_range(0..SLOTS.len())];
        let known = self.directory.names.get(to);
        // Two names of one file: rename(2) does nothing then.
        if known.is_some_and(|known| Arc::ptr_eq(&known, &file)) {
            return Ok(());
        }
        self.move_name(&from, to)?;
        self.scene.tally.count(Kind::Rename);
        Ok(())
    }

    fn move_name(&mut self, from: &str, to: &str) -> Step<()> {
        self.directory.names.begin(NameChange::Rename(from.to_owned(), to.to_owned()));
        let renamed = rustix::fs::rename(self.path(from), self.path(to));
        self.judge(renamed, "rename", from)?;
        self.directory.names.acknowledge();
        Ok(())
    }

    fn link(&mut self) -> Step<()> {
        let (Some((from, file)), Some(to)) = (self.pick(), self.free()) else { return Ok(()) };
        self.directory.names.begin(NameChange::Add(to.to_owned(), file));
        self.judge(rustix::fs::link(self.path(&from), self.path(to)), "link", &from)?;
        self.directory.names.acknowledge();
        self.scene.tally.count(Kind::Link);
        Ok(())
    }

    fn sync_directory(&mut self) -> Step<()> {
        let directory = self.open("", OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.judge(fsync(&directory), "fsync of the directory", "")?;
        self.scene.tally.count(Kind::FsyncDirectory);
        Ok(())
    }

    /// Appends records to the file that belongs to all.
    fn append_shared(&mut self) -> Step<()> {
        let name = super::shared::NAME;
        let flags = OFlags::WRONLY | OFlags::APPEND;
        let opened = rustix::fs::open(self.scene.root.join(name), flags, Mode::empty());
        let fd = self.judge(opened, "open", name)?;
        for _ in 0..self.rng.random_range(1..=6) {
            let (id, len) = (self.next_record, self.rng.random_range(12..20_000));
            self.next_record += 1;
            let record = self.scene.world.shared.begin(id, len);
            let written = self.judge(write(fd.as_fd(), &record), "append to", name)?;
            self.whole(written, record.len(), name)?;
            self.scene.world.shared.acknowledge(id);
            self.scene.tally.count(Kind::SharedAppend);
        }
        Ok(())
    }

    /// Some file with a name of it.
    fn pick(&mut self) -> Option<(String, Arc<File>)> {
        let mut all = self.directory.names.all();
        all.retain(|(name, _)| name != TEMPORARY);
        if all.is_empty() {
            return None;
        }
        let index = self.rng.random_range(0..all.len());
        Some(all.swap_remove(index))
    }

    /// A name that stands for nothing.
    fn free(&self) -> Option<&'static str> {
        SLOTS.into_iter().find(|name| self.directory.names.get(name).is_none())
    }

    /// Bytes to write: often few, at times many.
    fn data(&mut self) -> Arc<[u8]> {
        let most = 1_usize << self.rng.random_range(0..=WRITE_BITS_MAX);
        let mut data = vec![0; self.rng.random_range(1..=most)];
        self.rng.fill_bytes(&mut data);
        data.into()
    }

    fn open(&self, name: &str, flags: OFlags) -> Step<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let opened = rustix::fs::open(self.path(name), flags, Mode::from_raw_mode(0o644));
        self.judge(opened, "open", name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scene.root.join(&self.directory.path).join(name)
    }

    fn judge<T>(&self, result: rustix::io::Result<T>, what: &str, name: &str) -> Step<T> {
        self.scene.judge(result, || format!("{what} {}/{name}", self.directory.path))
    }

    fn whole(&self, written: usize, wanted: usize, name: &str) -> Step<()> {
        if written == wanted || self.scene.may_be_dead() {
            return if written == wanted { Ok(()) } else { Err(End::Dead) };
        }
        let what =
            format!("a write to {}/{name} took {written} of {wanted} bytes", self.directory.path);
        Err(End::found(FindingKind::Failed, what, Vec::new()))
    }
}
