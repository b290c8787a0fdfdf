//! The blocks that are read at random, and what each must hold.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::seq::IndexedRandom as _;
use rand::{SeedableRng as _, rngs::SmallRng};

use super::source::Source;
use super::tally::Tally;
use super::whole::{Whole, checksum};
use crate::pages::{PAGE_BYTES, PageBuffer};
use crate::pool::Client;
use crate::reads::shuffle;

/// One block of one of the large files.
#[derive(Clone, Copy)]
pub(super) struct Place {
    file: u32,
    block: u32,
}

/// The blocks to read, and what they must hold.
pub(super) struct WorkingSet<'a> {
    files: Vec<File>,
    names: Vec<&'a Path>,
    checksums: &'a [Vec<u64>],
    places: Vec<Place>,
}

impl<'a> WorkingSet<'a> {
    /// All blocks that step one has seen, opened through the mount.
    pub(super) fn new(source: &'a Source, whole: &'a Whole, client: &Client) -> Result<Self> {
        let mut set = Self {
            files: Vec::new(),
            names: Vec::new(),
            checksums: &whole.checksums,
            places: Vec::new(),
        };
        for (index, checksums) in whole.checksums.iter().enumerate() {
            let name = source.files[index].path.as_path();
            let file = File::open(client.path().join(name))
                .with_context(|| format!("cannot open {} through the mount", name.display()))?;
            set.files.push(file);
            set.names.push(name);
            let (file, blocks) = (u32::try_from(index)?, u32::try_from(checksums.len())?);
            set.places.extend((0..blocks).map(|block| Place { file, block }));
        }
        Ok(set)
    }

    /// How many blocks there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Every block once, in random order.
    pub(super) fn shuffled(&mut self, seed: u64) -> Vec<Place> {
        shuffle(&mut self.places, seed);
        self.places.clone()
    }

    /// Leaves only the first `count` blocks of the last random order.
    pub(super) fn keep_first(&mut self, count: usize) {
        self.places.truncate(count);
    }

    /// So many blocks drawn at random, any of them any number of times.
    pub(super) fn draw(&self, count: usize, seed: u64) -> Vec<Place> {
        let mut rng = SmallRng::seed_from_u64(seed);
        (0..count).filter_map(|_| self.places.choose(&mut rng).copied()).collect()
    }

    /// Reads and compares one block.
    pub(super) fn read(&self, place: Place, buffer: &mut PageBuffer, tally: &Tally) -> Duration {
        let (file, block) = (place.file as usize, place.block as usize);
        let offset = u64::from(place.block) * PAGE_BYTES as u64;
        let before = Instant::now();
        let read = self.files[file].read_at(buffer.bytes_mut(), offset);
        let latency = before.elapsed();
        match read {
            Ok(PAGE_BYTES) => {
                tally.compared(PAGE_BYTES);
                if checksum(buffer.bytes()) != self.checksums[file][block] {
                    tally.mismatch(|| {
                        format!("{} differs in the 4 KiB at {offset}", self.names[file].display())
                    });
                }
            }
            Ok(short) => tally.mismatch(|| {
                format!("{} gave {short} bytes at {offset}", self.names[file].display())
            }),
            Err(error) => {
                tally.error(|| format!("{} at {offset}: {error}", self.names[file].display()));
            }
        }
        latency
    }
}
