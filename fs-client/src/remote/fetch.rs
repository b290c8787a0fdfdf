//! Blocks come from servers: whom to ask, and what is done with the answers.
//!
//! A reader of a few blocks leaves word what is to be done when they have come, and goes on; a reader of many asks, reads the
//! source for what nobody has, then waits, with the deadline, and opens the sealed blocks itself.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rampool_protocol::block::BLOCK_SIZE;
use rampool_protocol::frame::RUN_BLOCKS_USUAL;

use super::asker::{Asker, SourceRead, Told, Waits};
use super::breaker::Failure;
use super::hedge::Wait;
use super::lent::{Lent, ServerIndex};
use super::route::Way;
use super::server::{GetAnswer, GetRequest, Server};
use super::shared::Shared;
use super::{Tier, UseServers};
use crate::arena::Empty;
use crate::block::{BlockIndex, BlockKey, FileKey};
use crate::pace::Length;
use crate::read::OVER_MAX;
use crate::sync::{Receiver, RecvTimeoutError, sync_channel};

/// How long a reader that waits for servers does so at least, before it reads the source.
const DEADLINE: Duration = Duration::from_millis(20);

/// So many neighbours are read of the source together with what lies round them, rather than asked for: 256 KiB. On a disk
/// of 3,000 reads and 200 MB a second they take four times as long as one more read, on a slower one less than that.
const GAP_MAX: usize = 64;

/// A block that a reader misses, and where to put it.
pub(crate) struct Wanted<'a> {
    key: BlockKey,
    buffer: &'a mut [u8; BLOCK_SIZE],
    /// The buffer holds the block.
    pub(crate) arrived: bool,
}

/// Blocks of a short read that one server holds.
pub(crate) struct Held {
    server: Arc<Server>,
    blocks: Vec<(BlockKey, Lent)>,
    wait: Wait,
    /// The source is to be read as well, only to see what it takes.
    pub(crate) looks: bool,
}

/// Who holds blocks of a long read.
struct Holder {
    index: ServerIndex,
    /// None if it is not to be asked.
    ask: Option<(Arc<Server>, Wait)>,
    /// By their places in the read.
    blocks: Vec<(usize, Lent)>,
}

/// Blocks of a long read that servers were asked for.
pub(crate) struct OnTheWay {
    /// Those of one server follow each other.
    runs: Vec<AskedRun>,
    began: Instant,
    deadline: Duration,
}

/// What one frame asks a server for.
struct AskedRun {
    server: Arc<Server>,
    /// By their places in the read.
    blocks: Vec<(usize, Lent)>,
    /// The answer, and when it came.
    told: Receiver<(GetAnswer, Instant)>,
}

/// How to get the blocks of a short read.
pub(crate) enum WayTo {
    /// From a server.
    Server(Held),
    /// From the source, which is faster.
    Source,
    /// No server holds all of them.
    Nobody,
}

/// Whoever asked a server for the blocks of a short read.
pub(crate) trait Reader: Send + 'static {
    /// What came of it, on any thread. On the tier's own nothing must be waited for.
    fn told(self, outcome: Outcome);

    /// How to read the source as well, because the server is late.
    fn source_read(&self) -> SourceRead;

    /// The server has had its time, the source has not: who waits for the same blocks is not to wait for that.
    fn given_up(&mut self);
}

/// What came of asking.
pub(crate) enum Outcome {
    /// The server gave the blocks.
    Server(Vec<Empty>),
    /// The source gave them first.
    Source(Vec<Empty>),
    /// Nobody did.
    Nothing,
}

impl Tier {
    /// Asks for blocks of a long read, all servers at once. None if nobody is asked.
    pub(crate) fn ask(&self, keys: &[BlockKey]) -> Option<OnTheWay> {
        let shared = &*self.shared;
        let began = Instant::now();
        let mut runs = Vec::new();
        let mut deadline = DEADLINE;
        for Holder { ask, blocks: theirs, .. } in shared.holders(keys, began) {
            let Some((server, wait)) = ask.filter(|_| !theirs.is_empty()) else { continue };
            deadline = deadline.max(wait.deadline);
            let mut requests = Vec::new();
            let first = runs.len();
            // While the first are opened the others come.
            for blocks in theirs.chunks(RUN_BLOCKS_USUAL) {
                let names = blocks.iter().map(|&(n, lent)| {
                    let stays = |stay| server.asked_for(lent.count, stay);
                    shared.lent.asks(keys[n], lent, stays);
                    shared.sealer.remote_key(keys[n])
                });
                let (tell, told) = sync_channel(1);
                // Without an answer it lets go of its end, which tells us as well.
                let asker =
                    Asker::new(Passed(move |answer| tell.send((answer, Instant::now())).is_ok()));
                requests.push(GetRequest { keys: names.collect(), asker, began: None });
                runs.push(AskedRun { server: server.clone(), blocks: blocks.to_vec(), told });
            }
            if !server.ask(requests.into_iter(), &shared.drive) {
                // Too many others ask, which is nobody's fault.
                runs.truncate(first);
            }
        }
        if runs.is_empty() {
            return None;
        }
        shared.deadlines.tick();
        Some(OnTheWay { runs, began, deadline })
    }

    /// Fills the buffers of those blocks that come before the deadline: `wanted` are those that were asked for, in
    /// the same order.
    pub(crate) fn collect(&self, asked: OnTheWay, wanted: &mut [Wanted<'_>]) {
        let OnTheWay { runs, began, deadline } = asked;
        // What came before that, came while its reader did something else.
        let collects = Instant::now();
        let of_one_server = |a: &AskedRun, b: &AskedRun| Arc::ptr_eq(&a.server, &b.server);
        for runs in runs.chunk_by(of_one_server) {
            let server = &runs[0].server;
            let (mut blocks, mut last, mut is_measured) = (0, began, true);
            for AskedRun { blocks: run, told, .. } in runs {
                blocks += run.len();
                match told.recv_timeout(deadline.saturating_sub(began.elapsed())) {
                    Ok((answer, came)) => {
                        self.shared.open(server, wanted, run, &answer);
                        last = if came < collects { came } else { Instant::now() };
                    }
                    Err(why) => {
                        last = Instant::now();
                        // A connection that is lost says nothing about how long answers take.
                        is_measured &= why == RecvTimeoutError::Timeout;
                        self.shared.gave_up(server);
                    }
                }
            }
            // All that was asked of it at once; what it takes at least, if it did not come in time.
            if is_measured {
                server.answered(blocks, last - began, Instant::now());
            }
        }
    }

    /// How to get the blocks of a short read.
    pub(crate) fn way_to(&self, file: FileKey, blocks: &[BlockIndex]) -> WayTo {
        let now = Instant::now();
        if self.shared.detour.holds(Length::Short, now) {
            return WayTo::Source;
        }
        let mut holder = None;
        let mut held = Vec::with_capacity(blocks.len());
        for &index in blocks {
            let key = BlockKey { file, index };
            let Some(lent) = self.shared.lent(key) else { return WayTo::Nobody };
            if *holder.get_or_insert(lent.server) != lent.server {
                return WayTo::Nobody;
            }
            held.push((key, lent));
        }
        let Some(holder) = holder else { return WayTo::Nobody };
        let Some(server) = self.shared.servers.get(holder) else { return WayTo::Nobody };
        let (source, use_servers) = (&self.shared.source, self.shared.use_servers);
        match server.way(Length::Short, source, use_servers, now) {
            None => WayTo::Nobody,
            Some((Way::Round, _)) => {
                self.shared.note_detour(Length::Short, now);
                WayTo::Source
            }
            Some((way, wait)) => {
                let looks = way == Way::AskAndLook;
                WayTo::Server(Held { server, blocks: held, wait, looks })
            }
        }
    }

    /// Asks for blocks to be put into `slots`, one for each. Who asks is told, on any thread, when they have come, the
    /// source was faster, the deadline is over, or at once if too many wait to ask.
    pub(crate) fn fetch_for(&self, held: Held, slots: Vec<Empty>, reader: impl Reader) {
        let Held { server, blocks, wait, .. } = held;
        let began = Instant::now();
        let shared = self.shared.clone();
        let keys = blocks.iter().map(|&(key, lent)| {
            shared.lent.asks(key, lent, |stay| server.asked_for(lent.count, stay));
            shared.sealer.remote_key(key)
        });
        let keys = keys.collect();
        let asker = Asker::new(Asked { shared, server: server.clone(), blocks, slots, reader });
        let request = GetRequest { keys, asker: asker.clone(), began: Some(began) };
        if server.ask([request].into_iter(), &self.shared.drive) {
            self.shared.deadlines.add(asker, server, wait, began);
        }
    }
}

impl Shared {
    /// Who holds which blocks of a long read. Where nobody is to be asked, not all of them are looked for.
    fn holders(&self, keys: &[BlockKey], now: Instant) -> Vec<Holder> {
        let length = Length::of(keys.len());
        let mut holders: Vec<Holder> = Vec::new();
        if self.detour.holds(length, now) {
            return holders;
        }
        for (n, &key) in keys.iter().enumerate() {
            let Some(lent) = self.lent(key) else { continue };
            let known = holders.iter().position(|holder| holder.index == lent.server);
            let place = known.unwrap_or_else(|| {
                let ask = self.servers.get(lent.server).and_then(|server| {
                    // Where the source is to be looked at, it is read this time.
                    match server.way(length, &self.source, self.use_servers, now) {
                        Some((Way::Ask, wait)) => Some((server, wait)),
                        _ => None,
                    }
                });
                holders.push(Holder { index: lent.server, ask, blocks: Vec::new() });
                holders.len() - 1
            });
            holders[place].blocks.push((n, lent));
            let nobody = holders.iter().all(|holder| holder.ask.is_none());
            if nobody && holders.len() == self.servers.all().count() {
                break;
            }
        }
        if holders.iter().all(|holder| holder.ask.is_none()) {
            self.note_detour(length, now);
        }
        if self.use_servers == UseServers::Auto {
            let mut comes = vec![false; keys.len()];
            for holder in holders.iter().filter(|holder| holder.ask.is_some()) {
                holder.blocks.iter().for_each(|&(n, _)| comes[n] = true);
            }
            leave_gaps(keys.len(), |n| keys[n].index, &mut comes);
            holders.iter_mut().for_each(|holder| holder.blocks.retain(|&(n, _)| comes[n]));
        }
        holders
    }

    /// If all servers are gone round by reads of a length, that holds for a moment.
    fn note_detour(&self, length: Length, now: Instant) {
        if self.servers.all().all(|(_, server)| server.is_gone_round(length)) {
            self.detour.begins(length, now);
        }
    }

    /// Opens what a server answered into the readers' buffers.
    fn open(
        &self,
        server: &Server,
        wanted: &mut [Wanted<'_>],
        run: &[(usize, Lent)],
        answer: &GetAnswer,
    ) {
        let Some(blocks) = answer.blocks(run.len()) else {
            return server.failed(Failure::Wrong, Instant::now());
        };
        let mut is_genuine = true;
        for (&(n, lent), block) in run.iter().zip(blocks) {
            let wanted = &mut wanted[n];
            let Some(block) = block else {
                self.counts.missed.fetch_add(1, Relaxed);
                self.lent.forget_this(wanted.key, lent);
                continue;
            };
            wanted.arrived = self.sealer.open(wanted.key, lent.count, block, wanted.buffer);
            if !wanted.arrived {
                self.counts.unauthentic.fetch_add(1, Relaxed);
                // Where it has been written and sent anew since, the server is not to blame.
                is_genuine &= !self.lent.forget_this(wanted.key, lent);
            }
        }
        match is_genuine {
            true => server.succeeded(Instant::now()),
            false => server.failed(Failure::Wrong, Instant::now()),
        }
    }
}

/// Of the blocks that could come from servers, leaves those to the source that lie in short gaps of what it has to
/// give anyway, or beside it: one long read is better than many short ones, and of what servers are asked for, not all
/// comes. Few blocks between that nobody wants are read over.
fn leave_gaps(count: usize, index: impl Fn(usize) -> BlockIndex, comes: &mut [bool]) {
    let is_near = |n: usize| index(n + 1).0 - index(n).0 <= OVER_MAX + 1;
    // Runs with so many near neighbours that the source gives, up to so many blocks in all.
    let mut leave = |neighbours: usize, mut blocks: usize| {
        let mut at = 0;
        while let Some(start) = (at..count).find(|&n| comes[n]) {
            at = (start..count).find(|&n| !comes[n]).unwrap_or(count);
            let near = [start > 0 && is_near(start - 1), at < count && is_near(at - 1)];
            let near = near.iter().filter(|&&near| near).count();
            let is_short = at - start <= GAP_MAX.min(blocks);
            if is_short && near >= neighbours && (start..at - 1).all(is_near) {
                comes[start..at].fill(false);
                blocks -= at - start;
            }
        }
        comes.iter().filter(|&&comes| !comes).count()
    };
    let from_source = leave(2, usize::MAX);
    // Beside it, no more than that again.
    leave(1, from_source);
}

/// Who has asked a server for the blocks of a short read.
struct Asked<R> {
    shared: Arc<Shared>,
    server: Arc<Server>,
    blocks: Vec<(BlockKey, Lent)>,
    slots: Vec<Empty>,
    reader: R,
}

impl<R: Reader> Waits for Asked<R> {
    fn told(self: Box<Self>, told: Told) -> bool {
        let Self { shared, server, blocks, mut slots, reader } = *self;
        let outcome = match told {
            Told::Answer(answer) => {
                let wanted = blocks.iter().zip(&mut slots);
                let mut wanted: Vec<_> =
                    wanted.map(|((key, _), slot)| Wanted::new(*key, slot.bytes_mut())).collect();
                let run: Vec<_> = blocks.iter().map(|&(_, lent)| lent).enumerate().collect();
                shared.open(&server, &mut wanted, &run, &answer);
                match wanted.iter().all(|wanted| wanted.arrived) {
                    true => Outcome::Server(slots),
                    false => Outcome::Nothing,
                }
            }
            Told::Source(slots) => Outcome::Source(slots),
            Told::Nothing => Outcome::Nothing,
        };
        reader.told(outcome);
        true
    }

    fn source_read(&self) -> Option<SourceRead> {
        self.shared.counts.hedged.fetch_add(1, Relaxed);
        Some(self.reader.source_read())
    }

    fn given_up(&mut self) {
        self.reader.given_up();
    }
}

/// Passes an answer on to a reader who waits. Without one it is told as well, because this goes.
struct Passed<F>(F);

impl<F: FnOnce(GetAnswer) -> bool + Send> Waits for Passed<F> {
    fn told(self: Box<Self>, told: Told) -> bool {
        match told {
            Told::Answer(answer) => (self.0)(answer),
            Told::Source(_) | Told::Nothing => false,
        }
    }

    fn source_read(&self) -> Option<SourceRead> {
        None
    }

    fn given_up(&mut self) {}
}

impl OnTheWay {
    /// Which of the `count` blocks of the read may come.
    pub(crate) fn blocks(&self, count: usize) -> Vec<bool> {
        let mut comes = vec![false; count];
        self.runs.iter().flat_map(|run| &run.blocks).for_each(|&(n, _)| comes[n] = true);
        comes
    }
}

impl<'a> Wanted<'a> {
    /// Wants the block `key` in `buffer`, whose bytes mean nothing until it has arrived.
    pub(crate) fn new(key: BlockKey, buffer: &'a mut [u8; BLOCK_SIZE]) -> Self {
        Self { key, buffer, arrived: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of those blocks that servers have, `x`, come from them. The source gives the others, `.`; a space is a block
    /// that nobody wants.
    fn left(blocks: &str) -> String {
        let wanted = blocks.bytes().enumerate().filter(|&(_, byte)| byte != b' ');
        let wanted: Vec<(usize, bool)> = wanted.map(|(n, byte)| (n, byte == b'x')).collect();
        let mut comes: Vec<bool> = wanted.iter().map(|&(_, held)| held).collect();
        leave_gaps(wanted.len(), |n| BlockIndex(wanted[n].0 as u64), &mut comes);
        let mut text = " ".repeat(blocks.len()).into_bytes();
        for (&(n, _), comes) in wanted.iter().zip(comes) {
            text[n] = if comes { b'x' } else { b'.' };
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_source_is_read_over_short_gaps() {
        assert_eq!(left("..xx..x.x."), "..........");
        assert_eq!(left(".x. .x.x."), "... .....");
        assert_eq!(left(".x .x ."), ".. .. .", "over a block that is here already");
        let far = " ".repeat(OVER_MAX as usize + 1);
        let [apart, long] = [format!(".{far}x{far}."), format!(".{}.", "x".repeat(GAP_MAX + 1))];
        assert_eq!([left(&apart), left(&long)], [apart, long]);
    }

    #[test]
    fn the_source_is_read_beyond_what_it_has_to_give_anyway() {
        assert_eq!(left("xx.x.x.xx"), ".........");
        assert_eq!(left("xx...xx"), ".....xx", "no more than as much again");
        assert_eq!(left("xx."), "xx.");
        for same in ["", "xxx", "...", "x"] {
            assert_eq!(left(same), same);
        }
    }
}
