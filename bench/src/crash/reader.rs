//! A reader: random reads of all files, each compared with what may be there at that moment.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, pread};

use super::file::File;
use super::scene::{Scene, Step};
use super::tally::{End, Finding, FindingKind, Kind, wrong_words};
use super::world::SLOTS;

const READ_BYTES_MAX: usize = 256 << 10;

/// One reader.
pub(super) struct Reader<'a> {
    scene: &'a Scene<'a>,
    rng: SmallRng,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    /// `seed` decides what it reads.
    pub(super) fn new(scene: &'a Scene<'a>, seed: u64) -> Self {
        Self { scene, rng: SmallRng::seed_from_u64(seed), buffer: vec![0; READ_BYTES_MAX] }
    }

    /// Reads until the round is over or the mount is dead.
    pub(super) fn run(mut self) -> Result<(), Finding> {
        while self.scene.goes_on() {
            match self.step() {
                Ok(()) => {}
                Err(End::Dead) => return Ok(()),
                Err(End::Found(finding)) => return Err(*finding),
            }
        }
        Ok(())
    }

    /// Opens a file and reads it several times.
    fn step(&mut self) -> Step<()> {
        let directories = &self.scene.world.directories;
        let directory = &directories[self.rng.random_range(0..directories.len())];
        let name = SLOTS[self.rng.random_range(0..SLOTS.len())];
        let label = format!("{}/{name}", directory.path);
        let Some(moment) = directory.names.moment() else { return Ok(()) };
        let file = directory.names.get(name);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(self.scene.root.join(&label), flags, Mode::empty());
        if directory.names.moment() != Some(moment) {
            // The name may stand for something else by now.
            return match opened {
                Err(Errno::NOENT) => Ok(()),
                opened => self.scene.judge(opened, || format!("open {label}")).map(drop),
            };
        }
        let Some(file) = file else {
            return match opened {
                Err(Errno::NOENT) => Ok(()),
                Ok(_) => {
                    let what = format!("{label} was removed, and can be opened");
                    Err(End::found(FindingKind::Wrong, what, directory.names.log()))
                }
                opened => self.scene.judge(opened, || format!("open {label}")).map(drop),
            };
        };
        let fd = self.scene.judge(opened, || format!("open {label}"))?;
        let mut at = self.rng.random_range(0..=file.len() + 4096);
        for _ in 0..self.rng.random_range(1..=6) {
            let got = self.read(&label, &file, &fd, at)?;
            // Half of them go on in sequence.
            at = if self.rng.random() { at + got } else { self.rng.random_range(0..=file.len()) };
        }
        Ok(())
    }

    fn read(&mut self, label: &str, file: &File, fd: &OwnedFd, at: u64) -> Step<u64> {
        let most = 1_usize << self.rng.random_range(0..=READ_BYTES_MAX.ilog2());
        let wanted = self.rng.random_range(1..=most);
        let before = file.before_read(at, wanted as u64);
        let read = pread(fd, &mut self.buffer[..wanted], at);
        let got = self.scene.judge(read, || format!("pread of {label}"))?;
        let tally = self.scene.tally;
        match file.after_read(&before, &self.buffer[..got]) {
            None => {
                tally.unjudged.fetch_add(1, Relaxed);
            }
            Some(Ok(())) => {
                tally.count(Kind::Read);
                tally.live_bytes.fetch_add(got as u64, Relaxed);
            }
            Some(Err(wrong)) => {
                let what = format!(
                    "a read of {wanted} bytes at {at} that gave {got}: {}",
                    wrong_words(label, &wrong)
                );
                return Err(End::found(FindingKind::Wrong, what, file.log()));
            }
        }
        Ok(got as u64)
    }
}
