//! A mount without a kernel in front of it, of one file; and a record of who wrote what when.
//!
//! The file lies in memory (memfd_create(2)). Somebody else may go on before it is read or written,
//! and after, but not within.

use std::fs::File;
use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{MemfdFlags, Timespec, Timestamps, memfd_create};
use rustix::io::Errno;

use super::any;
use crate::actions::call;
use crate::behind::Behind;
use crate::block::{BLOCK_SIZE, BlockIndex, BlockKey};
use crate::caller::Deed;
use crate::contents::Contents;
use crate::demand::Demand;
use crate::epochs::Epochs;
use crate::filesystem::{Caller, Durability, Filesystem, Settings};
use crate::handles::{FileHandle, HandleId, Handles};
use crate::inodes::{Inode, Inodes, NodeId};
use rampool_cli::size::ByteSize;
use rampool_policy::Kind;

use crate::local::{Evicted, LocalCache, Use, metadata_bytes_per_block};
use crate::memory::{Memory, Shares};
use crate::metrics::{Layer, Metrics};
use crate::pins::Pins;
use crate::profile::Profiles;
use crate::read::ReadReply;
use crate::remote::races::tier_next_door;
use crate::remote::{Offer, Tier};
use crate::rules::Rules;
use crate::source::{Atime, DirectFile, NodeFd, Source, Stat, Way, WrittenFile};
use crate::staging::Staging;
use crate::timeouts::{LiveTimeouts, Timeouts};
use crate::workers::Workers;
use crate::write::{HowToWrite, Place, Written};

/// The mount and its file.
pub(super) struct World {
    fs: Arc<Filesystem>,
    file: File,
    inode: Arc<Inode>,
    size: u64,
    lends: bool,
    record: Mutex<Record>,
}

/// How a world is made.
#[derive(Clone, Copy)]
pub(super) struct Size {
    /// Blocks of the file.
    pub(super) blocks: u64,
    /// Blocks that there is memory for.
    pub(super) slots: u64,
}

/// What was written, in the order in which it was begun.
struct Record {
    now: u64,
    /// Changes of our own under way.
    own: u32,
    reads: Vec<Read>,
    writes: Vec<Wrote>,
    /// What the next write writes.
    value: u8,
}

struct Read {
    range: Range<u64>,
    bytes: Vec<u8>,
    began: u64,
    ended: u64,
}

struct Wrote {
    range: Range<u64>,
    value: u8,
    began: u64,
    acknowledged: Option<u64>,
}

/// Writes begin and end at multiples of this.
const STEP: u64 = BLOCK_SIZE as u64 / 4;

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 0 };

/// Passes the answer to a read on.
struct Answer(shuttle::sync::mpsc::Sender<Result<Vec<u8>, Errno>>);

impl World {
    /// A file of distinct blocks, none of them cached. The mount looks for changes by others at each
    /// read.
    pub(super) fn new(size: Size) -> Arc<Self> {
        Self::of(memfd(), size)
    }

    /// The same in `file`, which is empty.
    pub(super) fn of(file: File, size: Size) -> Arc<Self> {
        let epochs = Arc::new(Epochs::new());
        let remote = Tier::none(epochs.clone());
        Self::with(file, size, epochs, remote, 0)
    }

    /// The same, and a server to lend blocks to. As many as `queue_max` wait to be sent.
    pub(super) fn with_server(size: Size, queue_max: usize) -> Arc<Self> {
        let epochs = Arc::new(Epochs::new());
        let (remote, server) = tier_next_door(epochs.clone(), queue_max);
        // It ends when the world does.
        shuttle::thread::spawn(move || server.run());
        Self::with(memfd(), size, epochs, remote, queue_max)
    }

    fn with(
        file: File,
        Size { blocks, slots }: Size,
        epochs: Arc<Epochs>,
        remote: Tier,
        held_max: usize,
    ) -> Arc<Self> {
        let mut writes = Vec::new();
        for block in 0..blocks {
            let start = block * BLOCK_SIZE as u64;
            let value = 200 + block as u8;
            file.write_all_at(&[value; BLOCK_SIZE], start).unwrap();
            let range = start..start + BLOCK_SIZE as u64;
            writes.push(Wrote { range, value, began: 0, acknowledged: Some(0) });
        }
        let range = blocks * BLOCK_SIZE as u64..u64::MAX;
        writes.push(Wrote { range, value: 0, began: 0, acknowledged: Some(0) });
        // Nothing is asked of it by name.
        let source = Source::open(Path::new("/")).unwrap();
        let root = source.root().unwrap();
        let root_stat = Stat::of(root.as_fd()).unwrap();
        let remote = Arc::new(remote);
        let lend_to = remote.clone();
        let evicted = move |Evicted { key, block, seen, streamed }| {
            lend_to.offer(Offer { key, block, seen, streamed });
        };
        let cache_bytes = slots * (BLOCK_SIZE + metadata_bytes_per_block()) as u64;
        let fs = Arc::new(Filesystem {
            rules: Rules::new(root.as_fd(), None),
            inodes: Inodes::new(source.nodes(10).unwrap(), root, &root_stat),
            source,
            handles: Handles::default(),
            behind: Behind::default(),
            cache: LocalCache::new(
                cache_bytes.into(),
                Kind::default(),
                epochs,
                move || held_max,
                evicted,
            )
            .unwrap(),
            flights: Arc::default(),
            staging: Staging::default(),
            remote,
            workers: Workers::seats_only(100),
            metrics: Metrics::new(),
            demand: Demand::new(),
            memory: Memory::new(
                ByteSize(cache_bytes),
                &Shares::of(ByteSize(cache_bytes), false),
                0,
            ),
            pins: Pins::default(),
            profiles: Profiles::default(),
            settings: Settings {
                timeouts: LiveTimeouts::new(Timeouts {
                    attr: Duration::ZERO,
                    entry: Duration::ZERO,
                    negative: Duration::ZERO,
                }),
                no_atime: true,
                act_as_caller: false,
            },
        });
        let stat = Stat::of(file.as_fd()).unwrap();
        let inode = fs.inodes.looked_up(
            &fs.inodes.by_id(NodeId::ROOT).expect("never forgotten"),
            c"file",
            file.try_clone().unwrap().into(),
            &stat,
        );
        settle(&inode.contents, &file);
        let record = Mutex::new(Record { now: 1, own: 0, reads: Vec::new(), writes, value: 1 });
        let size = blocks * BLOCK_SIZE as u64;
        Arc::new(Self { fs, file, inode, size, lends: held_max > 0, record })
    }

    /// Opens the file.
    pub(super) fn open(&self) -> HandleId {
        let copy = || NodeFd::from(self.file.try_clone().unwrap());
        let written = WrittenFile::new(copy(), Way::Past);
        let handle = FileHandle::written(self.inode.clone(), Some(Atime::AsSource), written);
        handle.direct.set(DirectFile::buffered(copy(), Way::Through)).expect("not open yet");
        self.fs.handles.add_file(handle)
    }

    /// Reads. When all is over, each byte is asserted to be what the last write that was acknowledged
    /// before left there, or what one that was under way meanwhile wrote.
    pub(super) fn read(&self, handle: HandleId, range: Range<u64>) {
        let began = self.tick();
        let bytes = self.read_bytes(handle, &range);
        let ended = self.tick();
        self.record.lock().unwrap().reads.push(Read { range, bytes, began, ended });
    }

    /// Reads a range of whole steps, somewhere in the file.
    pub(super) fn read_anything(&self, handle: HandleId) {
        self.read(handle, self.any_range());
    }

    /// Writes a new value over a range, as our own mount does.
    pub(super) fn write(&self, handle: HandleId, range: Range<u64>) {
        let (number, value) = self.begin(range.clone());
        let data = vec![value; (range.end - range.start) as usize];
        let how = HowToWrite { place: Place::At(range.start), durability: Durability::None };
        self.record.lock().unwrap().own += 1;
        let written = self.fs.write(handle, &data, &how, ROOT).unwrap();
        self.record.lock().unwrap().own -= 1;
        self.acknowledge(number, range.start + written as u64);
    }

    /// Writes a new value over the first block. In the middle of it the contents get a new key, under which the block
    /// as it was is read and, if that can be seen to, lent.
    pub(super) fn write_while_the_key_changes(&self, handle: HandleId) {
        const BLOCK: u64 = BLOCK_SIZE as u64;
        let (number, value) = self.begin(0..BLOCK);
        let data = [value; BLOCK_SIZE];
        self.record.lock().unwrap().own += 1;
        let open = self.fs.handles.file(handle).unwrap();
        let change = self.inode.contents.begin_change(open.node.clone()).unwrap();
        let write = || {
            self.inode.contents.renew();
            let first = BlockKey { file: self.inode.contents.key(), index: BlockIndex(0) };
            // No reader in sequence: what passes is not lent. Each of the others pushes one out.
            for block in 0..self.size / BLOCK {
                self.read(self.open(), block * BLOCK..(block + 1) * BLOCK);
            }
            for _ in 0..50 {
                if self.fs.remote.has_lent(first) {
                    break;
                }
                shuttle::thread::yield_now();
            }
            self.file.write_all_at(&data, 0).unwrap();
            Ok(Written::certain(BLOCK_SIZE))
        };
        let whose = (ROOT, Deed::Change);
        self.fs.write_blocks(&open, (0, self.size), &data, whose, write).unwrap();
        drop(change);
        self.record.lock().unwrap().own -= 1;
        self.acknowledge(number, BLOCK);
    }

    pub(super) fn write_anything(&self, handle: HandleId) {
        self.write(handle, self.any_range());
    }

    /// Writes at the end, wherever that is.
    pub(super) fn append(&self, handle: HandleId, len: usize) {
        // Where that was is known when all is over.
        let (number, value) = self.begin(0..0);
        let how = HowToWrite { place: Place::End, durability: Durability::None };
        self.fs.write(handle, &vec![value; len], &how, ROOT).unwrap();
        self.acknowledge(number, u64::MAX);
    }

    /// Cuts the file, or makes it longer.
    pub(super) fn truncate(&self, handle: HandleId, size: u64) {
        let number = self.begin_zeros(size..u64::MAX);
        self.fs.truncate(&self.inode, Some(handle), size, ROOT).unwrap();
        self.acknowledge(number, u64::MAX);
    }

    /// Makes a hole.
    pub(super) fn punch(&self, handle: HandleId, range: Range<u64>) {
        let number = self.begin_zeros(range.clone());
        let mode = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32;
        let len = range.end - range.start;
        self.fs.allocate(handle, mode, range.start, len, ROOT).unwrap();
        self.acknowledge(number, range.end);
    }

    /// Writes a new value over a range behind the mount, unless a write of our own is under way,
    /// which would hide it.
    pub(super) fn write_behind(&self, range: Range<u64>) {
        if self.record.lock().unwrap().own > 0 {
            return;
        }
        let (number, value) = self.begin(range.clone());
        let data = vec![value; (range.end - range.start) as usize];
        self.file.write_all_at(&data, range.start).unwrap();
        // Two changes within the source's clock tick look like one; this is not about that.
        touch(&self.file, u64::from(value));
        self.acknowledge(number, range.end);
    }

    /// Has the cache hold so many blocks from now on.
    pub(super) fn resize(&self, slots: u64) {
        self.fs.cache.resize(slots * (BLOCK_SIZE + metadata_bytes_per_block()) as u64).unwrap();
    }

    /// Does to the cached blocks of the file what somebody asks for.
    pub(super) fn act(&self, handle: HandleId, deed: call::Deed) {
        self.fs.act(handle, deed, (0, self.size as usize), ROOT).unwrap();
    }

    pub(super) fn any_range(&self) -> Range<u64> {
        let steps = self.size / STEP;
        let from = any(steps);
        // Whole blocks take another way than parts.
        let (from, to) = match any(3) {
            0 => (from & !3, (from & !3) + 4),
            1 => (from, from + 1 + any(steps - from)),
            _ => (0, steps),
        };
        from * STEP..to * STEP
    }

    /// When all threads have ended: what is cached is what the source holds.
    pub(super) fn assert_settled(&self) {
        let (fs, contents) = (&self.fs, &self.inode.contents);
        contents.revalidate(self.file.as_fd()).unwrap();
        assert_eq!(contents.size(), self.file.metadata().unwrap().len(), "size");
        let file = contents.key();
        for block in 0..self.size / BLOCK_SIZE as u64 + 4 {
            let key = BlockKey { file, index: BlockIndex(block) };
            let mut truth = [0; BLOCK_SIZE];
            read_to_end(&self.file, &mut truth, key.index.offset());
            if let Some(cached) = fs.cache.get(key, Use::Random) {
                assert_same(&cached[..], &truth, &format!("block {block} in the cache"));
            }
        }
        let (mut truth, len) = (vec![0; 1 << 16], contents.size());
        read_to_end(&self.file, &mut truth[..len as usize], 0);
        let found = self.read_bytes(self.open(), &(0..len));
        assert_same(&found, &truth[..len as usize], "the file, read");
        self.record.lock().unwrap().assert_read(&truth);

        if !self.lends {
            // No slot was lost: all can be had again.
            let all = fs.cache.capacity_blocks();
            let key = BlockKey { file, index: BlockIndex(0) };
            assert_eq!(fs.cache.room(key, all).len(), all, "slots");
        }
    }

    /// How many blocks were read from the source.
    pub(super) fn blocks_from_source(&self) -> u64 {
        self.fs.metrics.report(Layer::Source).bytes / BLOCK_SIZE as u64
    }

    fn read_bytes(&self, handle: HandleId, range: &Range<u64>) -> Vec<u8> {
        let (answer, answered) = shuttle::sync::mpsc::channel();
        self.fs.read(handle, range.start, (range.end - range.start) as usize, Answer(answer));
        answered.recv().expect("each read is answered").unwrap()
    }

    fn begin(&self, range: Range<u64>) -> (usize, u8) {
        let mut record = self.record.lock().unwrap();
        let value = record.next_value();
        (record.begin(range, value), value)
    }

    fn begin_zeros(&self, range: Range<u64>) -> usize {
        self.record.lock().unwrap().begin(range, 0)
    }

    /// What reaches only to `end` changed nothing behind it.
    fn acknowledge(&self, number: usize, end: u64) {
        let mut record = self.record.lock().unwrap();
        record.now += 1;
        let now = record.now;
        let write = &mut record.writes[number];
        write.range.end = write.range.end.min(end);
        write.acknowledged = Some(now);
    }

    fn tick(&self) -> u64 {
        let mut record = self.record.lock().unwrap();
        record.now += 1;
        record.now
    }
}

impl Record {
    fn next_value(&mut self) -> u8 {
        self.value += 1;
        self.value
    }

    fn begin(&mut self, range: Range<u64>, value: u8) -> usize {
        self.now += 1;
        self.writes.push(Wrote { range, value, began: self.now, acknowledged: None });
        self.writes.len() - 1
    }

    fn assert_read(&mut self, truth: &[u8]) {
        for appended in self.writes.iter_mut().filter(|write| write.range.is_empty()) {
            let from = truth.iter().position(|&byte| byte == appended.value).unwrap_or(0);
            let len = truth.iter().filter(|&&byte| byte == appended.value).count();
            appended.range = from as u64..(from + len) as u64;
        }
        for read in &self.reads {
            // What lies beyond the end was cut off, or not there yet.
            let value =
                |at: u64| read.bytes.get((at - read.range.start) as usize).copied().unwrap_or(0);
            for step in read.range.clone().step_by(STEP as usize) {
                for at in [step, step + STEP - 1] {
                    self.assert_readable(at, value(at), read.began..read.ended);
                }
            }
        }
    }

    fn assert_readable(&self, at: u64, value: u8, read: Range<u64>) {
        let here = || self.writes.iter().filter(|write| write.range.contains(&at));
        let overwritten = |write: &Wrote| {
            let Some(acknowledged) = write.acknowledged else { return false };
            here().any(|later| {
                later.began > acknowledged && later.acknowledged.is_some_and(|at| at < read.start)
            })
        };
        let fits = here()
            .any(|write| write.value == value && write.began < read.end && !overwritten(write));
        assert!(fits, "byte {at} was read as {value}, which it was not any more, or never");
    }
}

impl ReadReply for Answer {
    fn parts(self, parts: &[IoSlice<'_>]) {
        let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        let _ = self.0.send(Ok(parts.concat()));
    }

    fn error(self, errno: Errno) {
        let _ = self.0.send(Err(errno));
    }
}

/// An empty file in memory.
pub(super) fn memfd() -> File {
    memfd_create(c"races", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap().into()
}

/// Has the contents take the file as it is: a stamp that is so young is not trusted unless it was
/// left by a change of our own.
pub(super) fn settle(contents: &Contents, file: &File) {
    drop(contents.begin_change(NodeFd::from(file.try_clone().unwrap())).unwrap());
}

/// Gives a file a time of change that no other state of it has.
pub(super) fn touch(file: &File, number: u64) {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(0, rustix::fs::UTIME_OMIT),
        last_modification: time(number as i64, 0),
    };
    rustix::fs::futimens(file, &times).unwrap();
}

/// Runs each of `threads` in a thread, and waits for all.
pub(super) fn all_at_once(threads: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> = threads.into_iter().map(shuttle::thread::spawn).collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

fn read_to_end(file: &File, buffer: &mut [u8], offset: u64) {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64).unwrap() {
            0 => break,
            got => done += got,
        }
    }
}

fn assert_same(found: &[u8], truth: &[u8], what: &str) {
    assert_eq!(found.len(), truth.len(), "{what}: length");
    if found != truth {
        let differs = |&at: &usize| found[at] != truth[at];
        let at = (0..found.len()).find(differs).expect("they differ");
        panic!("{what}: byte {at} is {}, the source's is {}", found[at], truth[at]);
    }
}
