//! Which connection a packet belongs to, and what is kept of it.

use super::op::{ArchiveOp, ShuntOp};
use super::stats::{FlowOutcome, FrameOutcome};
use super::{Ends, Marks, Shard};
use crate::capture::Frame;
use crate::flow::ledger::Ledger;
use crate::flow::outcome::{EndReason, FlowFlags, FlowSerial};
use crate::flow::segment::{Arena, CHUNK, Chain, SEGMENT_LEN};
use crate::flow::state::{Flow, Phase, Proof, Relation, TcpTrack};
use crate::flow::table::{FlowId, FlowTable, Queue};
use crate::key::{Direction, FlowKey, UuidSource};
use crate::packet::{Packet, Tcp, Transport};
use crate::scrub::Anonymize;
use crate::time::Timestamp;

impl Shard {
    pub(super) fn place(&mut self, frame: &Frame<'_>, packet: &Packet, marks: &Marks, now: Timestamp) -> FrameOutcome {
        if let Some(print) = marks.print
            && self.duplicates.is_duplicate(print, frame.interface, now)
        {
            if let Some(ends) = &marks.ends
                && let Some(id) = self.table.find_hashed(&ends.key, ends.hash)
                && let Some(flow) = self.table.get_mut(id)
            {
                flow.flags.set(FlowFlags::DEDUPLICATED);
            }
            return FrameOutcome::Duplicate;
        }
        match (packet.transport, &marks.ends) {
            (Transport::Tcp { tcp, first_fragment }, Some(ends)) => {
                let direction = ends.direction;
                let Some(id) = self.flow_of(ends, &tcp, frame, now) else {
                    let admitted = self.admission.admits(ends.hash, tcp.is_first());
                    return if admitted { FrameOutcome::NoRoomForFlow } else { FrameOutcome::Shed };
                };
                if let Some(fragment) = first_fragment {
                    self.fragments.note(fragment, (id, direction), now);
                }
                self.track(id, direction, &tcp, now);
                let outcome = self.keep(id, direction, frame, packet, now);
                self.settle(id);
                outcome
            }
            (Transport::LaterFragment(fragment), _) => match self.fragments.find(&fragment, now) {
                Some((id, direction)) if self.table.get(id).is_some() => self.keep(id, direction, frame, packet, now),
                _ => FrameOutcome::NoFirstFragment,
            },
            (Transport::Tcp { .. }, None) => unreachable!("a TCP packet has ports"),
        }
    }

    /// The flow that a packet belongs to, a new one if need be; `None` if there is no room for one, or if it is shed.
    pub(super) fn flow_of(&mut self, ends: &Ends, tcp: &Tcp, frame: &Frame<'_>, now: Timestamp) -> Option<FlowId> {
        let Ends { key, direction, hash } = ends;
        let direction = *direction;
        loop {
            let Some(id) = self.table.find_hashed(key, *hash) else {
                if !self.admission.admits(*hash, tcp.is_first()) {
                    return None;
                }
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
    pub(super) fn contested(&self, flow: &Flow) -> Option<FlowId> {
        let older = flow.older?;
        let lives = matches!(self.table.get(older)?.phase, Phase::Open | Phase::Parked);
        (flow.proof == Proof::HalfOpen && lives).then_some(older)
    }

    /// Makes way for the next connection on the same addresses and ports. Returns the youngest of those before it that
    /// must stay, because there may be more to hear of them.
    pub(super) fn supersede(&mut self, id: FlowId, now: Timestamp) -> Option<FlowId> {
        let flow = self.table.get(id)?;
        let (key, phase, established) = (flow.key, flow.phase, flow.proof == Proof::Established);
        let closing = if let Phase::Closing { reason, .. } = phase { Some(reason) } else { None };
        // A nameless one may still be named; of a named one may be told once more, that it closed or to who asked twice.
        if closing.is_some() && established && self.make_room_in_chain(id, now) {
            return Some(id);
        }
        self.end(id, closing.unwrap_or(EndReason::Reused), now);
        self.forget(id, FlowOutcome::HalfOpen);
        // Those before it must stay linked: the last of a chain to go takes its key out of the index.
        self.table.find(&key)
    }

    /// Whether one more connection can follow on the same addresses and ports, the oldest being let go where that costs no name.
    fn make_room_in_chain(&mut self, id: FlowId, now: Timestamp) -> bool {
        let (mut oldest, mut len) = (id, 1);
        while let Some(older) = self.table.get(oldest).and_then(|f| f.older) {
            oldest = older;
            len += 1;
        }
        if len < OLDER_MAX {
            return true;
        }
        let Some(flow) = self.table.get(oldest).filter(|flow| flow.is_named() || !flow.is_live()) else { return false };
        if let Phase::Closing { reason, .. } = flow.phase {
            self.end(oldest, reason, now);
        }
        self.forget(oldest, FlowOutcome::NoUuid);
        true
    }

    pub(super) fn begin(
        &mut self,
        key: &FlowKey,
        tcp: &Tcp,
        frame: &Frame<'_>,
        now: Timestamp,
        older: Option<FlowId>,
    ) -> Option<FlowId> {
        if !self.make_room(FlowTable::FLOW_COST + CHUNK, Ledger::admits_new_flow, older) {
            return None;
        }
        let older = older.filter(|id| self.table.get(*id).is_some());
        let announced = self.announcements.take(key, frame.ts, now);
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
        if self.config.scrub.zeroes() {
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
        if self.config.ask
            && flags.has(FlowFlags::MIDSTREAM)
            && self.table.get(id).is_some_and(|f| !f.told_by(UuidSource::Kernel))
        {
            self.questions.push_back(*key);
        }
        self.table.get(id).is_some().then_some(id)
    }

    pub(super) fn hide(&self, key: &FlowKey) -> [bool; 2] {
        match self.config.scrub.anonymize {
            Anonymize::None => [false, false],
            Anonymize::Netblock => [key.lo(), key.hi()].map(|end| !self.local.contains(&end.addr)),
        }
    }

    /// Takes what a packet says of its connection's life.
    pub(super) fn track(&mut self, id: FlowId, direction: Direction, tcp: &Tcp, now: Timestamp) {
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

    /// Appends a packet to its flow.
    pub(super) fn keep(
        &mut self,
        id: FlowId,
        direction: Direction,
        frame: &Frame<'_>,
        packet: &Packet,
        now: Timestamp,
    ) -> FrameOutcome {
        let Some(flow) = self.table.get_mut(id) else { return FrameOutcome::NoRoomForFlow };
        flow.last_seen = now;
        flow.seen = flow.seen.saturating_add(1);
        if !flow.is_live() {
            if self.config.shunt && flow.seen == SHUNT_AT {
                self.shunted.insert(flow.key, id);
                self.shunt_ops.push_back(ShuntOp::Drop(flow.key));
            }
            return FrameOutcome::AfterEnd;
        }
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

    pub(super) fn send_segment(&mut self, id: FlowId) {
        let Some(flow) = self.table.get_mut(id) else { return };
        let records = self.arena.take(&mut flow.records);
        flow.segment_sent = true;
        self.ops.push_back(ArchiveOp::Segment {
            flow: flow.serial,
            link: flow.link,
            name: flow.names.as_ref().map(|n| n.ends[0].name.clone()),
            records,
        });
    }
}

/// Packets after its end at which a flow is shunted: a place in the shunt costs some ten system calls in all, so it is for
/// those that go on.
const SHUNT_AT: u32 = 64;
/// Bytes past which a flow takes no packet while its name is late.
const PARKED_MAX: usize = 8 * 1024;
/// Connections on the same addresses and ports of which more may be heard: what a client that uses one port again
/// at once makes within some 50 ms.
const OLDER_MAX: usize = 64;
/// Bytes that a link header may grow by when it becomes Ethernet.
const SYNTHETIC_MAX: usize = 14;
