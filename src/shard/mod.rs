//! The policy of one thread's share of the flows: what happens to a frame, a UUID, a deadline.
//!
//! No I/O, no clock, no thread: frames, events and time come in by `handle_*` and `advance`; work for the archive goes out
//! by `poll_archive`. What happens to a flow depends only on its own packets, on its own announcements and on `now`, so that a
//! replay gives the same archive at any number of shards, as long as no budget is reached.

mod announcements;
mod duplicates;
mod events;
mod fragments;
mod op;
mod stats;
#[cfg(test)]
mod tests;

pub use crate::flow::outcome::{EndReason, FlowFlags, FlowSerial};
pub use op::{ArchiveOp, FlowSummary};
pub use stats::{FlowOutcome, FrameOutcome, ShardMetrics, ShardStats};

use crate::capture::Frame;
use crate::flow::ledger::Ledger;
use crate::flow::segment::{Arena, CHUNK, Chain, SEGMENT_LEN};
use crate::flow::state::{Due, Flow, Names, Phase, Proof, Relation, TcpTrack, Timers};
use crate::flow::table::{FlowId, FlowTable, Queue};
use crate::flow::wheel::Wheel;
use crate::identity::generated;
use crate::key::{Address, Direction, Endpoint, FlowKey, FlowUuid, Name};
use crate::packet::{self, Packet, Tcp, Transport};
use crate::scrub::{Anonymize, ScrubPolicy, Scrubber};
use crate::time::Timestamp;
use announcements::Announcements;
use duplicates::Duplicates;
use fragments::Fragments;
use std::collections::{BTreeMap, HashSet, VecDeque};
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
    fragments: Fragments,
    duplicates: Duplicates,
    /// Flows by name, for Close events. A hostile source may give one name to several flows.
    by_uuid: BTreeMap<(FlowUuid, FlowSerial), FlowId>,
    local: Arc<HashSet<Address>>,
    kernel_drops: u64,
    next_serial: u64,
    ops: VecDeque<ArchiveOp>,
    stats: ShardStats,
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
            by_uuid: BTreeMap::new(),
            local: Arc::default(),
            kernel_drops: 0,
            next_serial: u64::from(number) << 48,
            ops: VecDeque::new(),
            stats: ShardStats::default(),
        }
    }

    /// Handles a frame that came at `now`.
    pub fn handle_frame(&mut self, frame: &Frame<'_>, now: Timestamp) {
        self.advance(now);
        let outcome = match packet::parse(frame.link, frame.data) {
            Ok(packet) => self.place(frame, &packet, now),
            Err(skip) => FrameOutcome::Skipped(skip),
        };
        self.stats.frame(outcome);
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

    /// Ends every flow, those that were ending with their own reason, the others with `reason`, and every announcement.
    pub fn finish(&mut self, reason: EndReason, now: Timestamp) {
        self.advance(now);
        for id in self.table.ids() {
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
        self.announcements.clear();
    }

    /// The next piece of work for the archive.
    pub fn poll_archive(&mut self) -> Option<ArchiveOp> {
        self.ops.pop_front()
    }

    /// Gives unused memory back to the system; returns how many bytes.
    pub fn give_back(&mut self) -> usize {
        self.arena.give_back(self.config.idle_bytes)
    }

    /// Takes the addresses of this host, which are never masked; flows that exist keep what they had.
    pub fn set_local_addresses(&mut self, local: Arc<HashSet<Address>>) {
        self.local = local;
    }

    /// Takes the number of frames that the kernel has dropped on this shard's rings so far.
    pub fn set_kernel_drops(&mut self, total: u64) {
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

    /// Whether a flow is being kept that is more than half-open and has a name or may still get one in time.
    pub fn is_busy(&self) -> bool {
        self.table.len() > self.table.queued(Queue::HalfOpen) + self.table.queued(Queue::Ended) + self.stats.parked
    }

    /// How many flows the shard holds, ended ones included.
    pub fn flows(&self) -> usize {
        self.table.len()
    }

    fn place(&mut self, frame: &Frame<'_>, packet: &Packet, now: Timestamp) -> FrameOutcome {
        if self.config.deduplicate && self.duplicates.is_duplicate(frame, packet, now) {
            if let Some((src, dst)) = packet.endpoints()
                && let Some(id) = self.table.find(&FlowKey::new(src, dst).0)
                && let Some(flow) = self.table.get_mut(id)
            {
                flow.flags.set(FlowFlags::DEDUPLICATED);
            }
            return FrameOutcome::Duplicate;
        }
        match packet.transport {
            Transport::Tcp { tcp, first_fragment } => {
                let src = Endpoint { addr: packet.src, port: tcp.src_port };
                let dst = Endpoint { addr: packet.dst, port: tcp.dst_port };
                let (key, direction) = FlowKey::new(src, dst);
                let Some(id) = self.flow_of(&key, direction, &tcp, frame, now) else {
                    return FrameOutcome::NoRoomForFlow;
                };
                if let Some(fragment) = first_fragment {
                    self.fragments.note(fragment, id, direction, now);
                }
                self.track(id, direction, &tcp, now);
                let outcome = self.keep(id, direction, frame, packet, now);
                self.settle(id);
                outcome
            }
            Transport::LaterFragment(fragment) => match self.fragments.find(&fragment, now) {
                Some((id, direction)) if self.table.get(id).is_some() => self.keep(id, direction, frame, packet, now),
                _ => FrameOutcome::NoFirstFragment,
            },
        }
    }

    /// The flow that a packet belongs to, a new one if need be; `None` if there is no room for one.
    fn flow_of(&mut self, key: &FlowKey, direction: Direction, tcp: &Tcp, frame: &Frame<'_>, now: Timestamp) -> Option<FlowId> {
        loop {
            let Some(id) = self.table.find(key) else {
                return self.begin(key, tcp, frame, now, None);
            };
            if self.fire(id, now) {
                continue;
            }
            let flow = self.table.get(id).expect("found just now and its timer did not fire");
            if let Some(older) = self.contested(flow)
                && !flow.tcp.confirms(direction, tcp)
            {
                if self.fire(older, now) {
                    continue;
                }
                let rival = self.table.get(older).expect("contested flows are there").tcp.relation(direction, tcp, false);
                if rival == Relation::Contested {
                    self.forget(id, FlowOutcome::HalfOpen);
                    continue;
                }
                return Some(older);
            }
            let over = matches!(flow.phase, Phase::Closing { .. } | Phase::Ended { .. });
            return match flow.tcp.relation(direction, tcp, over) {
                Relation::Same => {
                    if let Some(older) = self.contested(flow)
                        && (!tcp.has(Tcp::SYN) || tcp.has(Tcp::ACK))
                    {
                        self.end(older, EndReason::Reused, now);
                        self.forget(older, FlowOutcome::NoUuid);
                    }
                    Some(id)
                }
                Relation::Contested => self.begin(key, tcp, frame, now, Some(id)),
                Relation::New => {
                    let older = self.supersede(id, now);
                    self.begin(key, tcp, frame, now, older)
                }
            };
        }
    }

    /// The living connection that a lone SYN on the same addresses and ports has put in question.
    fn contested(&self, flow: &Flow) -> Option<FlowId> {
        let older = flow.older?;
        let lives = matches!(self.table.get(older)?.phase, Phase::Open | Phase::Parked);
        (flow.proof == Proof::HalfOpen && lives).then_some(older)
    }

    /// Makes way for the next connection on the same addresses and ports. Returns the flow if it must stay, because its
    /// name may still come.
    fn supersede(&mut self, id: FlowId, now: Timestamp) -> Option<FlowId> {
        let flow = self.table.get(id)?;
        match flow.phase {
            Phase::Closing { .. } if !flow.is_named() && flow.proof == Proof::Established => {
                if self.chain_len(id) < OLDER_MAX {
                    return Some(id);
                }
                self.forget(id, FlowOutcome::NoUuid);
            }
            phase => {
                let reason = if let Phase::Closing { reason, .. } = phase { reason } else { EndReason::Reused };
                self.end(id, reason, now);
                self.forget(id, FlowOutcome::HalfOpen);
            }
        }
        None
    }

    fn chain_len(&self, mut id: FlowId) -> usize {
        let mut n = 1;
        while let Some(older) = self.table.get(id).and_then(|f| f.older) {
            id = older;
            n += 1;
        }
        n
    }

    fn begin(&mut self, key: &FlowKey, tcp: &Tcp, frame: &Frame<'_>, now: Timestamp, older: Option<FlowId>) -> Option<FlowId> {
        if !self.make_room(FlowTable::FLOW_COST + CHUNK, Ledger::admits_new_flow, older) {
            return None;
        }
        let older = older.filter(|id| self.table.get(*id).is_some());
        let announced = self.announcements.take(key, now);
        // An old announcement, of a connection that was idle, must not use up the capture duration.
        let announced_at = announced.iter().map(|a| a.since).min().unwrap_or(now);
        let began = announced_at.clamp(now - self.config.timers.uuid_wait, now);
        let mut flags = FlowFlags::default();
        if !tcp.has(Tcp::SYN) {
            flags.set(FlowFlags::MIDSTREAM);
        }
        let hide = self.hide(key);
        if hide != [false, false] {
            flags.set(FlowFlags::ANONYMIZED);
        }
        let link = self.scrubber.file_link(frame.link);
        if link != frame.link {
            flags.set(FlowFlags::SYNTHETIC_LINK);
        }
        let s = self.config.scrub;
        if s.mac || s.ip_id || s.tcp_timestamps {
            flags.set(FlowFlags::SCRUBBED);
        }
        self.next_serial += 1;
        self.stats.flows_started += 1;
        self.ledger.add(FlowTable::FLOW_COST);
        let id = self.table.insert(Flow {
            key: *key,
            phase: Phase::Open,
            proof: Proof::HalfOpen,
            tcp: TcpTrack::default(),
            hide,
            flags,
            segment_sent: false,
            serial: FlowSerial(self.next_serial),
            link,
            first: frame.ts,
            last: frame.ts,
            began,
            first_seen: now,
            last_seen: now,
            unsealed_since: now,
            records: Chain::EMPTY,
            seen: 0,
            kept: 0,
            drops_before: self.kernel_drops,
            names: None,
            older,
            newer: None,
        });
        if let Some(older) = older.and_then(|o| self.table.get_mut(o)) {
            older.newer = Some(id);
        }
        self.table.enqueue(id, Some(Queue::HalfOpen));
        if self.table.queued(Queue::HalfOpen) > self.config.half_open_max
            && let Some(oldest) = self.table.oldest(Queue::HalfOpen)
        {
            self.forget(oldest, FlowOutcome::EvictedHalfOpen);
        }
        self.schedule(id);
        for waiting in announced {
            self.open(&waiting.announcement, now);
        }
        self.table.get(id).is_some().then_some(id)
    }

    fn hide(&self, key: &FlowKey) -> [bool; 2] {
        match self.config.scrub.anonymize {
            Anonymize::None => [false, false],
            Anonymize::Netblock => [key.lo(), key.hi()].map(|end| !self.local.contains(&end.addr)),
        }
    }

    /// Takes what a packet says of its connection's life.
    fn track(&mut self, id: FlowId, direction: Direction, tcp: &Tcp, now: Timestamp) {
        let Some(flow) = self.table.get_mut(id) else { return };
        flow.tcp.observe(direction, tcp);
        if flow.tcp.handshake() {
            flow.flags.set(FlowFlags::HANDSHAKE);
        }
        match (flow.phase, flow.tcp.end()) {
            (Phase::Open | Phase::Parked, Some(reason)) => {
                self.set_phase(id, Phase::Closing { reason, at: now + self.config.timers.linger });
            }
            (Phase::Closing { reason: EndReason::Reset, .. }, None) => self.set_phase(id, Phase::Open),
            _ => {}
        }
    }

    /// Moves a live flow to another phase of its life.
    fn set_phase(&mut self, id: FlowId, phase: Phase) {
        let Some(flow) = self.table.get_mut(id) else { return };
        self.stats.parked += usize::from(phase == Phase::Parked);
        self.stats.parked -= usize::from(flow.phase == Phase::Parked);
        flow.phase = phase;
        self.schedule(id);
    }

    /// Promotes a flow that has proved itself.
    fn settle(&mut self, id: FlowId) {
        let Some(flow) = self.table.get(id) else { return };
        if flow.proof == Proof::HalfOpen && flow.is_live() && flow.tcp.established() {
            self.establish(id);
            // A flow that there was no place for has ended.
            if self.config.naming != Naming::Announced && self.table.get(id).is_some_and(Flow::is_live) {
                self.generate_name(id);
            }
        }
    }

    fn establish(&mut self, id: FlowId) {
        if self.limit.held() >= self.limit.max {
            match self.table.oldest(Queue::Unnamed) {
                Some(oldest) => self.forget(oldest, FlowOutcome::EvictedNoUuid),
                None => {
                    self.refuse(id);
                    return;
                }
            }
        }
        let Some(flow) = self.table.get_mut(id) else { return };
        flow.proof = Proof::Established;
        let named = flow.is_named();
        self.limit.held.fetch_add(1, Ordering::Relaxed);
        self.table.enqueue(id, if named { None } else { Some(Queue::Unnamed) });
        self.schedule(id);
    }

    /// Ends a flow that there is no place for; its record absorbs its later packets.
    fn refuse(&mut self, id: FlowId) {
        self.set_phase(id, Phase::Ended { keep: self.config.timers.unnamed_idle });
        let Some(flow) = self.table.get_mut(id) else { return };
        self.arena.clear(&mut flow.records);
        self.stats.flow(FlowOutcome::OverMaxFlows);
        self.table.enqueue(id, Some(Queue::Ended));
    }

    fn generate_name(&mut self, id: FlowId) {
        let Some(flow) = self.table.get(id) else { return };
        if flow.is_named() {
            return;
        }
        let isn = [Direction::LoToHi, Direction::HiToLo].map(|d| flow.tcp.isn(d));
        let name = generated::name(&flow.key, flow.hide, flow.first, isn[0].or(isn[1]).unwrap_or(0));
        self.give_name(id, name, None);
    }

    fn give_name(&mut self, id: FlowId, name: Name, local: Option<Endpoint>) {
        let charge = self.ledger.charge(NAME_COST + name.uuid.as_str().len());
        let Some(flow) = self.table.get_mut(id) else { return };
        match &mut flow.names {
            Some(names) => {
                names.names.push(name.clone());
                flow.flags.set(FlowFlags::BOTH_LOCAL);
            }
            None => flow.names = Some(Box::new(Names { names: vec![name.clone()], local, charge })),
        }
        let (phase, proof, serial) = (flow.phase, flow.proof, flow.serial);
        self.by_uuid.insert((name.uuid, serial), id);
        if phase == Phase::Parked {
            self.set_phase(id, Phase::Open);
        }
        if proof == Proof::HalfOpen {
            self.establish(id);
        } else {
            self.table.enqueue(id, None);
            self.schedule(id);
        }
    }

    /// Appends a packet to its flow.
    fn keep(&mut self, id: FlowId, direction: Direction, frame: &Frame<'_>, packet: &Packet, now: Timestamp) -> FrameOutcome {
        let Some(flow) = self.table.get_mut(id) else { return FrameOutcome::NoRoomForFlow };
        flow.last_seen = now;
        if !flow.is_live() {
            return FrameOutcome::AfterEnd;
        }
        flow.seen = flow.seen.saturating_add(1);
        if flow.phase == Phase::Parked && flow.records.len() >= PARKED_MAX {
            return FrameOutcome::AwaitingUuid;
        }
        if self.scrubber.file_link(frame.link) != flow.link {
            return FrameOutcome::LinkChanged;
        }
        let cost = Arena::cost(&flow.records, packet.header_len + SYNTHETIC_MAX);
        if !self.ledger.fits(cost) && !self.make_room(cost, Ledger::fits, Some(id)) {
            if let Some(flow) = self.table.get_mut(id) {
                flow.flags.set(FlowFlags::TRUNCATED);
            }
            return FrameOutcome::NoRoomForPacket;
        }
        let flow = self.table.get_mut(id).expect("room is never made by removing the flow it is for");
        let scrubbed = self.scrubber.scrub(frame.link, frame.data, frame.wire_len, packet, flow.hide(direction));
        let first_unsealed = flow.records.is_empty();
        self.arena.append(&mut flow.records, frame.ts, &scrubbed);
        flow.kept = flow.kept.saturating_add(1);
        flow.last = flow.last.max(frame.ts);
        flow.first = flow.first.min(frame.ts);
        if first_unsealed {
            flow.unsealed_since = now;
        }
        if flow.records.len() >= SEGMENT_LEN {
            self.send_segment(id);
        } else if first_unsealed && self.config.timers.seal.is_some() {
            self.schedule(id);
        }
        FrameOutcome::Kept
    }

    fn send_segment(&mut self, id: FlowId) {
        let Some(flow) = self.table.get_mut(id) else { return };
        let records = self.arena.take(&mut flow.records);
        flow.segment_sent = true;
        self.ops.push_back(ArchiveOp::Segment {
            flow: flow.serial,
            link: flow.link,
            name: flow.names.as_ref().map(|n| n.names[0].clone()),
            records,
        });
    }

    /// Frees memory until `bytes` fit, half-open flows first, then ended ones, then nameless ones; never `spare`.
    fn make_room(&mut self, bytes: usize, fits: fn(&Ledger, usize) -> bool, spare: Option<FlowId>) -> bool {
        for (queue, outcome) in [
            (Queue::HalfOpen, FlowOutcome::EvictedHalfOpen),
            (Queue::Ended, FlowOutcome::NoUuid),
            (Queue::Unnamed, FlowOutcome::EvictedNoUuid),
        ] {
            while !fits(&self.ledger, bytes) {
                match self.table.oldest(queue) {
                    Some(id) if Some(id) != spare => self.forget(id, outcome),
                    _ => break,
                }
            }
        }
        fits(&self.ledger, bytes)
    }

    /// Does what a flow's timer says, if its time has come; then the caller must look again.
    fn fire(&mut self, id: FlowId, now: Timestamp) -> bool {
        let Some(flow) = self.table.get_mut(id) else { return false };
        let (at, due) = flow.deadline(&self.config.timers);
        if at > now {
            return false;
        }
        match due {
            Due::Seal => self.send_segment(id),
            Due::Park => {
                self.stats.uuid_timeouts += 1;
                self.set_phase(id, Phase::Parked);
            }
            Due::End(reason) => {
                self.stats.ended_by_timer += 1;
                self.end(id, reason, at);
            }
            Due::Forget => {
                if flow.is_live() {
                    self.stats.ended_by_timer += 1;
                }
                self.name_half_open(id);
                self.end(id, EndReason::Idle, at);
                self.forget(id, FlowOutcome::HalfOpen);
            }
        }
        true
    }

    fn name_half_open(&mut self, id: FlowId) {
        if self.config.naming == (Naming::Generated { keep_half_open: true })
            && self.table.get(id).is_some_and(|f| f.is_live() && !f.is_named())
        {
            self.generate_name(id);
        }
    }

    /// Ends a live flow at this time: hands it to the archive if it has a name. Its record stays, to absorb later packets.
    fn end(&mut self, id: FlowId, reason: EndReason, at: Timestamp) {
        if self.table.get(id).is_some_and(|f| f.proof == Proof::HalfOpen) {
            self.name_half_open(id);
        }
        let Some(flow) = self.table.get_mut(id) else { return };
        if !flow.is_live() || (flow.proof == Proof::HalfOpen && !flow.is_named()) {
            return;
        }
        let keep = match reason {
            EndReason::Fin | EndReason::Reset | EndReason::Closed => self.config.timers.uuid_wait,
            _ => self.config.timers.idle,
        };
        flow.last_seen = flow.last_seen.max(at);
        self.set_phase(id, Phase::Ended { keep });
        let flow = self.table.get_mut(id).expect("it was there above");
        self.limit.held.fetch_sub(1, Ordering::Relaxed);
        match &flow.names {
            Some(names) => {
                let records = self.arena.take(&mut flow.records);
                self.ops.push_back(ArchiveOp::Finish {
                    flow: flow.serial,
                    records,
                    summary: FlowSummary {
                        names: names.names.clone(),
                        link: flow.link,
                        end: reason,
                        first: flow.first,
                        last: flow.last,
                        packets_seen: flow.seen.into(),
                        packets_kept: flow.kept.into(),
                        kernel_drops: self.kernel_drops - flow.drops_before,
                        flags: flow.flags,
                    },
                });
                self.stats.flow(FlowOutcome::Archived);
            }
            None => {
                self.arena.clear(&mut flow.records);
                if flow.segment_sent {
                    self.ops.push_back(ArchiveOp::Discard { flow: flow.serial });
                }
                self.stats.flow(FlowOutcome::NoUuid);
            }
        }
        self.table.enqueue(id, Some(Queue::Ended));
    }

    /// Removes a flow's record. If it had not ended, it is lost with `outcome`.
    fn forget(&mut self, id: FlowId, outcome: FlowOutcome) {
        let Some(flow) = self.table.get_mut(id) else { return };
        let (key, older, newer) = (flow.key, flow.older, flow.newer);
        if flow.is_live() {
            if flow.phase == Phase::Parked {
                self.stats.parked -= 1;
            }
            self.arena.clear(&mut flow.records);
            if flow.segment_sent {
                self.ops.push_back(ArchiveOp::Discard { flow: flow.serial });
            }
            if flow.proof == Proof::Established {
                self.limit.held.fetch_sub(1, Ordering::Relaxed);
            }
            self.stats.flow(outcome);
        }
        if let Some(names) = &flow.names {
            for name in &names.names {
                self.by_uuid.remove(&(name.uuid.clone(), flow.serial));
            }
        }
        let older = older.filter(|o| self.table.get(*o).is_some());
        match newer.and_then(|n| self.table.get_mut(n)) {
            Some(newer) => newer.older = older,
            None => self.table.point(&key, older),
        }
        if let Some(flow) = older.and_then(|o| self.table.get_mut(o)) {
            flow.newer = newer;
        }
        self.table.remove(id);
        self.ledger.sub(FlowTable::FLOW_COST);
    }

    /// Sees to it that a flow's next deadline has a timer.
    fn schedule(&mut self, id: FlowId) {
        let Some(flow) = self.table.get(id) else { return };
        let (at, _) = flow.deadline(&self.config.timers);
        if Wheel::<FlowId>::tick_of(at) < self.table.tick(id) {
            let tick = self.wheel.schedule(at, id);
            self.table.set_tick(id, tick);
        }
    }
}

/// Bytes of a flow's beginning that are kept for a name that comes after the UUID wait.
const PARKED_MAX: usize = 8 * 1024;
/// Connections on the same addresses and ports that may wait for their names at once.
const OLDER_MAX: usize = 8;
/// Bytes that a link header may grow by when it becomes Ethernet.
const SYNTHETIC_MAX: usize = 14;
/// Bytes charged for a name beside its text: itself and its place in the index.
const NAME_COST: usize = 160;
