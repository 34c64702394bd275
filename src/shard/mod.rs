//! The policy of one thread's share of the flows: what happens to a frame, a UUID, a deadline.
//!
//! No I/O, no clock, no thread: frames, events and time come in by `handle_*` and `advance`; work for the archive goes out
//! by `poll_archive`. What happens to a flow depends only on its own packets, on its own announcements and on `now`, so that a
//! replay gives the same archive at any number of shards, as long as no budget is reached.

mod admission;
mod announcements;
mod duplicates;
mod events;
mod life;
mod names;
mod op;
mod place;
#[cfg(test)]
mod shunt_tests;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod sources_tests;
mod stats;
#[cfg(test)]
mod tests;

pub use crate::flow::outcome::{EndReason, FlowFlags, FlowSerial};
pub use events::Disagreement;
pub use op::{ArchiveOp, FlowSummary, ShuntOp};
pub use stats::{FlowOutcome, FrameOutcome, ShardMetrics, ShardStats, Told};

use crate::capture::Frame;
use crate::flow::fragments::Fragments;
use crate::flow::ledger::{Charge, Ledger};
use crate::flow::segment::Arena;
use crate::flow::state::{Phase, Timers};
use crate::flow::table::{FlowId, FlowTable, KeyHash, Queue};
use crate::flow::wheel::Wheel;
use crate::identity::kernel::LastWord;
use crate::key::{Address, Direction, FlowKey};
use crate::packet::{self, FrameBatch, Packet, Skip};
use crate::scrub::{ScrubPolicy, Scrubber};
use crate::time::Timestamp;
use admission::Admission;
use announcements::Announcements;
use duplicates::{Duplicates, fingerprint};
use foldhash::{HashMap, HashMapExt};
use names::Names;
use std::collections::{HashSet, VecDeque};
use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a shard is told at its start.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// Durations of a flow's life.
    pub timers: Timers,
    /// Who names flows.
    pub naming: Naming,
    /// How long an announcement waits for its first packet; `None`: until the end of the input.
    pub announcement_wait: Option<Duration>,
    /// Half-open flows held at once; one more pushes out the oldest.
    pub half_open_max: usize,
    /// What to remove from packets.
    pub scrub: ScrubPolicy,
    /// Whether frames may come from several interfaces that see the same packets.
    pub deduplicate: bool,
    /// Whether flows that the kernel has not named are asked about (see [`Shard::poll_question`]).
    pub ask: bool,
    /// Whether two sources name flows, so that what they say is compared (see [`Shard::poll_disagreement`]).
    pub compare: bool,
    /// Whether fewer flows are begun while the kernel drops frames, so that those begun are whole.
    pub shed: bool,
    /// Whether packets behind the capture duration may be dropped before they come (see [`Shard::poll_shunt`]).
    pub shunt: bool,
    /// Bytes that may stay allocated and unused after load.
    pub idle_bytes: usize,
}

/// Who names flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Naming {
    /// A UUID source announces them; what nobody announces is not archived.
    Announced,
    /// They are named by what they are, once established; and half-open ones at their end, if those are kept.
    Generated {
        /// Whether connections that never completed are archived.
        keep_half_open: bool,
    },
}

/// The number of established flows that all shards hold, and `-maxflows`.
#[derive(Debug)]
pub struct FlowLimit {
    held: AtomicU64,
    max: u64,
}

impl FlowLimit {
    /// A limit of `max` flows at once; 0 is no limit.
    pub fn new(max: u64) -> Arc<Self> {
        Arc::new(Self { held: AtomicU64::new(0), max: if max == 0 { u64::MAX } else { max } })
    }

    /// Established flows now, over all shards.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

/// One thread's share of the flows.
#[derive(Debug)]
pub struct Shard {
    config: ShardConfig,
    table: FlowTable,
    wheel: Wheel<FlowId>,
    arena: Arena,
    scrubber: Scrubber,
    ledger: Arc<Ledger>,
    limit: Arc<FlowLimit>,
    announcements: Announcements,
    fragments: Fragments<(FlowId, Direction)>,
    duplicates: Duplicates,
    names: Names,
    local: Arc<HashSet<Address>>,
    kernel_drops: u64,
    admission: Admission,
    next_serial: u64,
    ops: VecDeque<ArchiveOp>,
    questions: VecDeque<FlowKey>,
    /// Flows whose packets need not come: those that their capture duration has ended.
    shunted: HashMap<FlowKey, FlowId>,
    shunt_ops: VecDeque<ShuntOp>,
    /// The kernel's last words on flows that are about to end, on the ledger.
    last_words: HashMap<FlowSerial, (Arc<LastWord>, Charge)>,
    disagreements: VecDeque<Disagreement>,
    stats: ShardStats,
    /// Reused by each batch.
    marks: Vec<Marks>,
}

/// What a packet is looked up by.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    /// `None` for later fragments, which have no ports, and for what is no packet of ours.
    ends: Option<Ends>,
    /// Told apart by it from what other interfaces saw, where there are any.
    print: Option<u64>,
}

/// Whose packet it is.
#[derive(Clone, Copy, Debug)]
struct Ends {
    key: FlowKey,
    direction: Direction,
    hash: KeyHash,
}

impl Shard {
    /// The shard number `number`, which must be its own: flows are numbered by it.
    pub fn new(number: u16, config: ShardConfig, ledger: Arc<Ledger>, limit: Arc<FlowLimit>) -> Self {
        Self {
            config,
            table: FlowTable::new(),
            wheel: Wheel::new(),
            arena: Arena::new(Arc::clone(&ledger)),
            scrubber: Scrubber::new(config.scrub),
            announcements: Announcements::new(config.announcement_wait, Arc::clone(&ledger)),
            ledger,
            limit,
            fragments: Fragments::default(),
            duplicates: Duplicates::default(),
            names: Names::default(),
            local: Arc::default(),
            kernel_drops: 0,
            admission: Admission::default(),
            next_serial: u64::from(number) << 48,
            ops: VecDeque::new(),
            questions: VecDeque::new(),
            shunted: HashMap::new(),
            shunt_ops: VecDeque::new(),
            last_words: HashMap::new(),
            disagreements: VecDeque::new(),
            stats: ShardStats::default(),
            marks: Vec::new(),
        }
    }

    /// Handles a frame that came at `now`.
    pub fn handle_frame(&mut self, frame: &Frame<'_>, now: Timestamp) {
        let packet = packet::parse(frame.link, frame.data);
        let marks = self.marks(frame, &packet);
        self.handle_parsed(frame, &packet, &marks, now);
    }

    /// Handles some frames of a batch, as [`Shard::handle_frame`] would one after the other, but waits for the memory of
    /// their flows together: with many flows that wait is most of what a packet costs.
    pub fn handle_frames(&mut self, frames: &FrameBatch, range: Range<usize>) {
        let mut marks = std::mem::take(&mut self.marks);
        for start in range.clone().step_by(LOOKAHEAD) {
            let part = start..range.end.min(start + LOOKAHEAD);
            marks.clear();
            marks.extend(part.clone().map(|i| self.marks(&frames.get(i).0, frames.packet(i))));
            self.fetch(&marks);
            for (marks, i) in marks.iter().zip(part) {
                let (frame, now) = frames.get(i);
                self.handle_parsed(&frame, frames.packet(i), marks, now);
            }
        }
        self.marks = marks;
    }

    /// Lets timers fire up to `now`, which never goes back (see [`crate::time::Timeline`]).
    pub fn advance(&mut self, now: Timestamp) {
        if !self.wheel.is_due(now) {
            return;
        }
        while let Some((tick, mut timers)) = self.wheel.poll(now) {
            for id in timers.drain(..) {
                if self.table.get(id).is_none() || !Wheel::<FlowId>::same_slot(self.table.tick(id), tick) {
                    continue;
                }
                self.table.set_tick(id, u64::MAX);
                while self.fire(id, now) {}
                self.schedule(id);
            }
            self.wheel.recycle(timers);
        }
        self.announcements.expire(now);
    }

    /// Ends every flow, those that were ending with their own reason, the others with `reason`, and every announcement. Hands
    /// over the work for the archive as it goes, before a queue of all flows takes as much memory as they did.
    pub fn finish(&mut self, reason: EndReason, now: Timestamp, mut hand_over: impl FnMut(ArchiveOp)) {
        self.advance(now);
        for id in self.table.ids() {
            self.ops.drain(..).for_each(&mut hand_over);
            while self.fire(id, now) {}
            let Some(flow) = self.table.get(id) else { continue };
            if flow.is_live() {
                let reason = match flow.phase {
                    Phase::Closing { reason, .. } => reason,
                    _ => reason,
                };
                self.end(id, reason, now);
            }
            self.forget(id, FlowOutcome::HalfOpen);
        }
        self.ops.drain(..).for_each(hand_over);
        self.announcements.clear();
    }

    /// The next piece of work for the archive.
    pub fn poll_archive(&mut self) -> Option<ArchiveOp> {
        self.ops.pop_front()
    }

    /// The next flow that a UUID source should be asked about: one that was just established, or met in the middle.
    pub fn poll_question(&mut self) -> Option<FlowKey> {
        self.questions.pop_front()
    }

    /// The next connection whose packets need not come any more, or must come again.
    pub fn poll_shunt(&mut self) -> Option<ShuntOp> {
        self.shunt_ops.pop_front()
    }

    /// Notes that packets of a connection have passed by `now` which were dropped because [`Shard::poll_shunt`] said so. They
    /// count as discarded, and the connection is not idle.
    pub fn handle_unseen(&mut self, key: &FlowKey, packets: u64, now: Timestamp) {
        self.stats.shunted += packets;
        if let Some(flow) = self.shunted.get(key).and_then(|id| self.table.get_mut(*id)) {
            flow.last_seen = flow.last_seen.max(now);
        }
    }

    /// The next two names that two sources gave one connection; only the first few that nobody took are kept.
    pub fn poll_disagreement(&mut self) -> Option<Disagreement> {
        self.disagreements.pop_front()
    }

    fn marks(&self, frame: &Frame<'_>, packet: &Result<Packet, Skip>) -> Marks {
        let Ok(packet) = packet else { return Marks::default() };
        let ends = packet.endpoints().map(|(src, dst)| {
            let (key, direction) = FlowKey::new(src, dst);
            Ends { key, direction, hash: self.table.hash(&key) }
        });
        Marks { ends, print: self.config.deduplicate.then(|| fingerprint(frame, packet)) }
    }

    fn handle_parsed(&mut self, frame: &Frame<'_>, packet: &Result<Packet, Skip>, marks: &Marks, now: Timestamp) {
        self.advance(now);
        let outcome = match packet {
            Ok(packet) => self.place(frame, packet, marks, now),
            Err(skip) => FrameOutcome::Skipped(*skip),
        };
        self.stats.frame(outcome);
    }

    /// Reads what handling these frames will read first. No read needs the result of another of its round, so the
    /// processor waits for all of a round at once.
    fn fetch(&self, marks: &[Marks]) {
        let mut ids = [None; LOOKAHEAD];
        for (id, marks) in ids.iter_mut().zip(marks) {
            *id = marks.ends.as_ref().and_then(|ends| self.table.guess(ends.hash));
            marks.print.iter().for_each(|print| self.duplicates.fetch(*print));
        }
        let mut tails = [None; LOOKAHEAD];
        for (tail, id) in tails.iter_mut().zip(ids) {
            *tail = id.and_then(|id| self.table.fetch(id)).map(|flow| flow.records);
        }
        for tail in tails.iter().flatten() {
            black_box(self.arena.fetch(tail));
        }
    }

    /// Gives unused memory back to the system; returns how many bytes.
    pub fn give_back(&mut self) -> usize {
        self.arena.give_back(self.config.idle_bytes)
    }

    /// Takes the addresses of this host, which are never masked; flows that exist keep what they had.
    pub fn set_local_addresses(&mut self, local: Arc<HashSet<Address>>) {
        self.local = local;
    }

    /// Takes the number of frames that the kernel has dropped on this shard's rings so far; to be told every tenth of a
    /// second.
    pub fn set_kernel_drops(&mut self, total: u64) {
        if self.config.shed {
            self.admission.handle_drops(total > self.kernel_drops);
        }
        self.kernel_drops = total;
    }

    /// The counts since the start.
    pub fn stats(&mut self) -> &ShardStats {
        let (waiting, ended) = (self.table.queued(Queue::HalfOpen), self.table.queued(Queue::Ended));
        self.stats.waiting = waiting + self.table.queued(Queue::Unnamed) - self.stats.parked;
        self.stats.ended = ended;
        self.stats.named = self.table.len() - waiting - ended - self.table.queued(Queue::Unnamed);
        self.stats.announcements = self.announcements.len();
        &self.stats
    }

    /// Whether flows are refused because the kernel drops frames.
    pub fn is_shedding(&self) -> bool {
        !self.admission.admits_all()
    }

    /// Whether a flow is being kept that has a name, or that is open and may still get one in time.
    pub fn is_busy(&self) -> bool {
        let [half_open, ended, unnamed] = [Queue::HalfOpen, Queue::Ended, Queue::Unnamed].map(|q| self.table.queued(q));
        // A look at the oldest is enough: if all of those wait for a name that will hardly come, so do the others.
        let may_be_named = || self.table.iter(Queue::Unnamed).take(BUSY_LOOK).any(|flow| flow.phase == Phase::Open);
        self.table.len() > half_open + ended + unnamed || may_be_named()
    }

    /// How many flows the shard holds, ended ones included.
    pub fn flows(&self) -> usize {
        self.table.len()
    }
}

/// Frames whose flows are fetched together: memory answers some twenty reads at once.
const LOOKAHEAD: usize = 32;
/// Nameless flows that are looked at to see whether any may be named.
const BUSY_LOOK: usize = 64;
