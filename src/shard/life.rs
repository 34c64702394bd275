//! A flow's way from half-open to forgotten: what proves it, names it, ends it, and what makes it go.

use super::op::{ArchiveOp, FlowSummary, ShuntOp};
use super::stats::{FlowOutcome, Told};
use super::{Naming, Shard};
use crate::flow::ledger::Ledger;
use crate::flow::outcome::{EndReason, FlowFlags};
use crate::flow::state::{Due, Flow, NamedEnd, Names, Phase, Proof};
use crate::flow::table::{FlowId, FlowTable, Queue};
use crate::flow::wheel::Wheel;
use crate::identity::generated;
use crate::key::{Direction, FlowUuid, Name, UuidSource};
use crate::time::Timestamp;
use std::sync::atomic::Ordering;

impl Shard {
    /// Moves a live flow to another phase of its life.
    pub(super) fn set_phase(&mut self, id: FlowId, phase: Phase) {
        let Some(flow) = self.table.get_mut(id) else { return };
        self.stats.parked += usize::from(phase == Phase::Parked);
        self.stats.parked -= usize::from(flow.phase == Phase::Parked);
        flow.phase = phase;
        self.schedule(id);
    }

    /// Promotes a flow that has proved itself.
    pub(super) fn settle(&mut self, id: FlowId) {
        let Some(flow) = self.table.get(id) else { return };
        // Where a source names flows, it proves them too, and a flood of lone ACKs must not pass for connections.
        let proved = flow.tcp.established() || (self.config.naming != Naming::Announced && flow.tcp.one_way());
        if flow.proof == Proof::HalfOpen && flow.is_live() && proved {
            self.establish(id);
            // A flow that there was no place for has ended.
            if self.config.naming != Naming::Announced && self.table.get(id).is_some_and(Flow::is_live) {
                self.generate_name(id);
            }
        }
    }

    pub(super) fn establish(&mut self, id: FlowId) {
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
        // A flow that was met in the middle has been asked about.
        if self.config.ask && !flow.told_by(UuidSource::Kernel) && !flow.flags.has(FlowFlags::MIDSTREAM) {
            self.questions.push_back(flow.key);
        }
        self.limit.held.fetch_add(1, Ordering::Relaxed);
        self.table.enqueue(id, if named { None } else { Some(Queue::Unnamed) });
        self.schedule(id);
    }

    /// Ends a flow that there is no place for; its record absorbs its later packets.
    pub(super) fn refuse(&mut self, id: FlowId) {
        self.set_phase(id, Phase::Ended { keep: self.config.timers.unnamed_idle });
        let Some(flow) = self.table.get_mut(id) else { return };
        self.arena.clear(&mut flow.records);
        self.stats.flow(FlowOutcome::OverMaxFlows);
        self.table.enqueue(id, Some(Queue::Ended));
    }

    pub(super) fn generate_name(&mut self, id: FlowId) {
        let Some(flow) = self.table.get(id) else { return };
        if flow.is_named() {
            return;
        }
        let isns = [Direction::LoToHi, Direction::HiToLo].map(|d| flow.tcp.isn(d));
        let name = generated::name(&flow.key, flow.hide, flow.first, isns);
        self.give_name(id, NamedEnd { name, local: None, source: None, other: None });
    }

    pub(super) fn give_name(&mut self, id: FlowId, end: NamedEnd) {
        let charge = self.ledger.charge(name_cost(&end.name.uuid));
        let Some(flow) = self.table.get_mut(id) else { return };
        let uuid = end.name.uuid.clone();
        match &mut flow.names {
            Some(names) => {
                names.ends.push(end);
                names.charge.resize(names.charge.bytes() + charge.bytes());
                flow.flags.set(FlowFlags::BOTH_LOCAL);
            }
            None => flow.names = Some(Box::new(Names { ends: vec![end], charge })),
        }
        let (phase, proof) = (flow.phase, flow.proof);
        self.names.insert(uuid, id);
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

    /// Frees memory until `bytes` fit, half-open flows first, then ended ones, then nameless ones; never `spare`.
    pub(super) fn make_room(&mut self, bytes: usize, fits: fn(&Ledger, usize) -> bool, spare: Option<FlowId>) -> bool {
        for (queue, outcome) in [
            (Queue::HalfOpen, FlowOutcome::EvictedHalfOpen),
            (Queue::Ended, FlowOutcome::NoUuid),
            (Queue::Unnamed, FlowOutcome::EvictedNoUuid),
        ] {
            while !fits(&self.ledger, bytes) {
                let Some(id) = self.table.oldest_but(queue, spare) else { break };
                self.forget(id, outcome);
            }
        }
        fits(&self.ledger, bytes)
    }

    /// Does what a flow's timer says, if its time has come; then the caller must look again.
    pub(super) fn fire(&mut self, id: FlowId, now: Timestamp) -> bool {
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

    pub(super) fn name_half_open(&mut self, id: FlowId) {
        if self.config.naming == (Naming::Generated { keep_half_open: true })
            && self.table.get(id).is_some_and(|f| f.is_live() && !f.is_named())
        {
            self.generate_name(id);
        }
    }

    /// Ends a live flow at this time: hands it to the archive if it has a name. Its record stays, to absorb later packets.
    pub(super) fn end(&mut self, id: FlowId, reason: EndReason, at: Timestamp) {
        if self.table.get(id).is_some_and(|f| f.proof == Proof::HalfOpen) {
            self.name_half_open(id);
        }
        let Some(flow) = self.table.get_mut(id) else { return };
        if !flow.is_live() || (flow.proof == Proof::HalfOpen && !flow.is_named()) {
            return;
        }
        // Said in the summary, and from here on the packets after the end.
        let packets_seen = std::mem::take(&mut flow.seen).into();
        let keep = match reason {
            EndReason::Fin | EndReason::Reset | EndReason::Closed => self.config.timers.uuid_wait,
            _ => self.config.timers.idle,
        };
        flow.last_seen = flow.last_seen.max(at);
        self.set_phase(id, Phase::Ended { keep });
        let flow = self.table.get_mut(id).expect("it was there above");
        self.limit.held.fetch_sub(1, Ordering::Relaxed);
        let last_word = self.last_words.remove(&flow.serial).map(|(word, _)| word);
        match &flow.names {
            Some(names) => {
                let records = self.arena.take(&mut flow.records);
                self.ops.push_back(ArchiveOp::Finish {
                    flow: flow.serial,
                    records,
                    summary: FlowSummary {
                        names: names.ends.iter().map(|end| end.name.clone()).collect::<Vec<Name>>(),
                        link: flow.link,
                        end: reason,
                        first: flow.first,
                        last: flow.last,
                        packets_seen,
                        packets_kept: flow.kept.into(),
                        kernel_drops: self.kernel_drops - flow.drops_before,
                        flags: flow.flags,
                        last_word,
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
    pub(super) fn forget(&mut self, id: FlowId, outcome: FlowOutcome) {
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
        if self.shunted.get(&key) == Some(&id) {
            self.shunted.remove(&key);
            self.shunt_ops.push_back(ShuntOp::Pass(key));
        }
        self.last_words.remove(&flow.serial);
        for end in flow.names.iter().flat_map(|names| &names.ends) {
            for uuid in [Some(&end.name.uuid), end.other.as_ref()].into_iter().flatten() {
                self.names.remove(uuid, id);
            }
            if let (None, Some(source), true) = (&end.other, end.source, self.config.compare) {
                self.stats.told(Told::by_one(source));
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
    pub(super) fn schedule(&mut self, id: FlowId) {
        let Some(flow) = self.table.get(id) else { return };
        let (at, _) = flow.deadline(&self.config.timers);
        if Wheel::<FlowId>::tick_of(at) < self.table.tick(id) {
            let tick = self.wheel.schedule(at, id);
            self.table.set_tick(id, tick);
        }
    }
}

/// Bytes charged for a name: itself, its text and its place in the index.
pub(super) fn name_cost(uuid: &FlowUuid) -> usize {
    224 + uuid.as_str().len()
}
