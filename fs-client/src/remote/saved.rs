//! What is kept of a mount with a key file while it is not mounted: where its blocks are, and notes of whoever saves it.
//!
//! The file: a header, the runs, servers and notes that it counts, entries of the lent table, and HMAC-SHA256 of all that.
//! Numbers are little-endian. It is of use once, so it is removed before the
//! first request is served, and until the machine is booted anew: what a crash leaves of the source
//! may be newer than its time of change says.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aws_lc_rs::{constant_time, hmac};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::SERVERS_MAX;
use super::lent::{RawEntry, ServerIndex};
use super::seal::{Run, SealCount};

const MAGIC: [u8; 8] = *b"rampool\x02";
const TAG_BYTES: u64 = 32;

/// The most runs whose blocks are found: those of earlier ones have been sent anew by then, or evicted.
pub(super) const RUNS_MAX: usize = 16;
const NOTES_MAX: usize = 1 << 20;

/// Something about a file.
pub(crate) type Note = [u64; 8];

/// All but the lent table.
pub(super) struct State {
    /// The last sealing.
    pub(super) last: SealCount,
    pub(super) runs: Vec<Run>,
    pub(super) servers: Vec<Remembered>,
    pub(super) left: Left,
}

/// What whoever saves it wants to know again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// File keys from here on were never used.
    pub(crate) next_key: u64,
    pub(crate) notes: Vec<Note>,
}

/// A server with a place in the lent table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) index: ServerIndex,
    pub(super) address: SocketAddr,
    /// Which run of it holds our blocks.
    pub(super) instance: u64,
}

/// The entries of the lent table, as they are read.
pub(super) struct Entries {
    file: BufReader<File>,
    left: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    boot: [u8; 40],
    last_seal: U64,
    next_key: U64,
    runs: U64,
    servers: U64,
    notes: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RunRecord {
    from: U64,
    id: [u8; 16],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ServerRecord {
    instance: U64,
    /// As IPv6, mapped if it is IPv4.
    ip: [u8; 16],
    port: U16,
    index: u8,
    unused: [u8; 5],
}

/// Writes and signs.
struct Signed<W> {
    file: W,
    signature: hmac::Context,
}

impl<W: Write> Signed<W> {
    fn put(&mut self, record: &(impl IntoBytes + Immutable + ?Sized)) -> io::Result<()> {
        self.signature.update(record.as_bytes());
        self.file.write_all(record.as_bytes())
    }
}

/// Writes it all to `path`, and says how many entries those were.
///
/// # Errors
/// The file cannot be written.
pub(super) fn save(
    path: &Path,
    key: &hmac::Key,
    state: &State,
    entries: impl Iterator<Item = Vec<RawEntry>>,
) -> io::Result<usize> {
    let new = path.with_added_extension("new");
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let mut out = Signed { file: BufWriter::new(file), signature: hmac::Context::with_key(key) };
    let Left { next_key, notes } = &state.left;
    let notes = &notes[notes.len().saturating_sub(NOTES_MAX)..];
    out.put(&Header {
        magic: MAGIC,
        boot: boot()?,
        last_seal: U64::new(state.last.0),
        next_key: U64::new(*next_key),
        runs: U64::new(state.runs.len() as u64),
        servers: U64::new(state.servers.len() as u64),
        notes: U64::new(notes.len() as u64),
    })?;
    for run in &state.runs {
        out.put(&RunRecord { from: U64::new(run.from.0), id: run.id })?;
    }
    for server in &state.servers {
        out.put(&ServerRecord::from(server))?;
    }
    for note in notes {
        out.put(&note.map(U64::new))?;
    }
    let mut saved = 0;
    for part in entries {
        saved += part.len();
        let part: Vec<[U64; 2]> = part.into_iter().map(|entry| entry.map(U64::new)).collect();
        out.put(&part[..])?;
    }
    let Signed { mut file, signature } = out;
    file.write_all(signature.sign().as_ref())?;
    file.flush()?;
    fs::rename(new, path)?;
    Ok(saved)
}

/// Reads what [`save`] wrote.
///
/// # Errors
/// Why it is of no use.
pub(super) fn read(path: &Path, key: &hmac::Key) -> io::Result<(State, Entries)> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged, or of another key");
    let mut file = BufReader::new(File::open(path)?);
    let signed = file.get_ref().metadata()?.len().checked_sub(TAG_BYTES).ok_or_else(damaged)?;
    let mut signature = hmac::Context::with_key(key);
    let mut buffer = vec![0; 64 << 10];
    let mut left = signed;
    while left > 0 {
        let part = (buffer.len() as u64).min(left) as usize;
        file.read_exact(&mut buffer[..part])?;
        signature.update(&buffer[..part]);
        left -= part as u64;
    }
    let mut tag = [0; TAG_BYTES as usize];
    file.read_exact(&mut tag)?;
    constant_time::verify_slices_are_equal(signature.sign().as_ref(), &tag)
        .map_err(|_| damaged())?;
    file.rewind()?;

    let header: Header = get(&mut file)?;
    if header.magic != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is of another version"));
    }
    if header.boot != boot()? {
        return Err(io::Error::other("the machine was booted since"));
    }
    let count = |count: U64, max: usize| {
        usize::try_from(count.get()).ok().filter(|&count| count <= max).ok_or_else(damaged)
    };
    let runs = (0..count(header.runs, RUNS_MAX)?).map(|_| get::<RunRecord>(&mut file));
    let runs = runs.map(|run| Ok(Run::from(run?))).collect::<io::Result<Vec<_>>>()?;
    let servers = (0..count(header.servers, SERVERS_MAX)?).map(|_| get::<ServerRecord>(&mut file));
    let servers =
        servers.map(|server| Ok(Remembered::from(server?))).collect::<io::Result<Vec<_>>>()?;
    let notes = (0..count(header.notes, NOTES_MAX)?).map(|_| get::<[U64; 8]>(&mut file));
    let notes = notes.map(|note| Ok(note?.map(U64::get))).collect::<io::Result<Vec<Note>>>()?;
    let left = signed.saturating_sub(file.stream_position()?) / size_of::<RawEntry>() as u64;
    let left_over = Left { next_key: header.next_key.get(), notes };
    let last = SealCount(header.last_seal.get());
    let state = State { last, runs, servers, left: left_over };
    Ok((state, Entries { file, left }))
}

impl Iterator for Entries {
    type Item = RawEntry;

    /// The next one; none at the end, or if it cannot be read.
    fn next(&mut self) -> Option<RawEntry> {
        self.left = self.left.checked_sub(1)?;
        get::<[U64; 2]>(&mut self.file).ok().map(|entry| entry.map(U64::get))
    }
}

fn get<T: FromBytes + IntoBytes>(file: &mut BufReader<File>) -> io::Result<T> {
    let mut record = T::new_zeroed();
    file.read_exact(record.as_mut_bytes())?;
    Ok(record)
}

/// Which boot of the machine this is.
fn boot() -> io::Result<[u8; 40]> {
    let id = fs::read("/proc/sys/kernel/random/boot_id")?;
    let mut boot = [0; 40];
    let length = id.len().min(boot.len());
    boot[..length].copy_from_slice(&id[..length]);
    Ok(boot)
}

impl From<RunRecord> for Run {
    fn from(record: RunRecord) -> Self {
        Self { from: SealCount(record.from.get()), id: record.id }
    }
}

impl From<&Remembered> for ServerRecord {
    fn from(server: &Remembered) -> Self {
        let ip = match server.address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self {
            instance: U64::new(server.instance),
            ip: ip.octets(),
            port: U16::new(server.address.port()),
            index: server.index.0,
            unused: [0; 5],
        }
    }
}

impl From<ServerRecord> for Remembered {
    fn from(record: ServerRecord) -> Self {
        let ip = IpAddr::from(record.ip).to_canonical();
        Self {
            index: ServerIndex(record.index),
            address: SocketAddr::new(ip, record.port.get()),
            instance: record.instance.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::seal::Secret;

    fn state() -> State {
        let remembered = |index, address: &str| Remembered {
            index: ServerIndex(index),
            address: address.parse().unwrap(),
            instance: 7,
        };
        State {
            last: SealCount(9),
            runs: vec![Run::after(SealCount(0)), Run::after(SealCount(5))],
            servers: vec![remembered(0, "10.0.0.1:7167"), remembered(3, "[fd00::1]:1")],
            left: Left { next_key: 70, notes: vec![[1, 2, 3, 4, 5, 6, 7, 8]] },
        }
    }

    #[test]
    fn it_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("lent"), Secret::random().signing_key());
        let state = state();
        let entries = vec![vec![[1, 2], [3, 4]], vec![], vec![[5, 6]]];
        assert_eq!(save(&path, &key, &state, entries.clone().into_iter()).unwrap(), 3);
        let (found, entries_found) = read(&path, &key).unwrap();
        assert_eq!((found.last, &found.runs), (state.last, &state.runs));
        assert_eq!((&found.servers, &found.left), (&state.servers, &state.left));
        assert_eq!(entries_found.collect::<Vec<_>>(), entries.concat());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn what_is_damaged_cut_or_of_another_key_is_of_no_use() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("lent"), Secret::random().signing_key());
        save(&path, &key, &state(), [vec![[1, 2]; 100]].into_iter()).unwrap();
        let good = fs::read(&path).unwrap();
        let is_refused = |bytes: &[u8], key: &hmac::Key| {
            fs::write(&path, bytes).unwrap();
            read(&path, key).is_err()
        };
        assert!(!is_refused(&good, &key));
        assert!(is_refused(&good, &Secret::random().signing_key()));
        for length in [0, 31, 32, 100, good.len() - 16, good.len() - 1] {
            assert!(is_refused(&good[..length], &key), "{length} bytes");
        }
        for place in (0..good.len()).step_by(97) {
            let mut bad = good.clone();
            bad[place] ^= 1;
            assert!(is_refused(&bad, &key), "byte {place}");
        }
    }
}
