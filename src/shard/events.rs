//! What an announcement does to the flows of its addresses and ports.

use super::Shard;
use crate::flow::outcome::{EndReason, FlowFlags};
use crate::flow::state::Phase;
use crate::flow::table::FlowId;
use crate::identity::{Announcement, EventOutcome, Opened, UuidEvent};
use crate::key::{FlowKey, FlowUuid};
use crate::shard::FlowOutcome;
use crate::time::Timestamp;
use std::sync::Arc;

impl Shard {
    /// Handles an event of a UUID source that came at `now`.
    pub fn handle_event(&mut self, announcement: &Arc<Announcement>, now: Timestamp) {
        self.advance(now);
        match announcement.event() {
            UuidEvent::Open(_) => self.open(announcement, now),
            UuidEvent::Close { uuid, .. } => {
                if self.close(uuid, now) {
                    announcement.settle(EventOutcome::Closed);
                }
            }
        }
    }

    pub(super) fn open(&mut self, announcement: &Arc<Announcement>, now: Timestamp) {
        let UuidEvent::Open(opened) = announcement.event() else { return };
        let key = FlowKey::new(opened.local, opened.remote).0;
        let candidates = self.connections_of(&key, now);
        match self.meaning(opened, &candidates) {
            Meaning::Unseen => self.announcements.add(key, announcement, now),
            Meaning::Known => announcement.settle(EventOutcome::Duplicate),
            Meaning::TooLate => announcement.settle(EventOutcome::TooLate),
            Meaning::SecondName(id) => {
                self.give_name(id, opened.name.clone(), Some(opened.local));
                announcement.settle(EventOutcome::SecondName);
            }
            Meaning::Names(id) => {
                let late = self.table.get(id).is_some_and(|f| f.first_seen + self.config.timers.uuid_wait <= now);
                if late && let Some(flow) = self.table.get_mut(id) {
                    flow.flags.set(FlowFlags::LATE_UUID);
                }
                self.give_name(id, opened.name.clone(), Some(opened.local));
                announcement.settle(if late { EventOutcome::ClaimedLate } else { EventOutcome::Claimed });
            }
            Meaning::Next(id) => {
                self.end(id, EndReason::Reused, now);
                self.forget(id, FlowOutcome::NoUuid);
                self.announcements.add(key, announcement, now);
            }
        }
    }

    /// The connections on these addresses and ports, youngest first, none of them past its time.
    fn connections_of(&mut self, key: &FlowKey, now: Timestamp) -> Vec<FlowId> {
        let mut found = Vec::new();
        let mut next = self.table.find(key);
        while let Some(id) = next {
            if self.fire(id, now) {
                found.clear();
                next = self.table.find(key);
                continue;
            }
            found.push(id);
            next = self.table.get(id).and_then(|f| f.older);
        }
        found
    }

    fn meaning(&self, opened: &Opened, candidates: &[FlowId]) -> Meaning {
        let flows = || candidates.iter().filter_map(|id| Some((*id, self.table.get(*id)?)));
        let named = |f: &crate::flow::state::Flow| f.names.as_ref().is_some_and(|n| n.names.contains(&opened.name));
        if flows().any(|(_, f)| named(f)) {
            return Meaning::Known;
        }
        // A source announces a connection after its first packet, so of several nameless ones the youngest that had begun
        // by then is meant; a lone SYN that contests a living connection is meant only if nothing else is.
        let nameless: Vec<_> = flows().filter(|(_, f)| f.is_live() && !f.is_named()).collect();
        let sure = || nameless.iter().filter(|(_, f)| self.contested(f).is_none());
        let begun = || sure().filter(|(_, f)| f.first <= opened.at);
        let meant = if opened.gone { begun().next_back() } else { begun().next() };
        let meant = meant.or_else(|| sure().next_back()).or(nameless.first());
        if let Some((id, _)) = meant {
            return Meaning::Names(*id);
        }
        match flows().next() {
            None => Meaning::Unseen,
            Some((id, flow)) => match &flow.names {
                None => Meaning::TooLate,
                Some(names) if names.local == Some(opened.remote) && opened.local != opened.remote => {
                    if flow.is_live() && names.names.len() == 1 { Meaning::SecondName(id) } else { Meaning::TooLate }
                }
                Some(_) => Meaning::Next(id),
            },
        }
    }

    fn close(&mut self, uuid: &FlowUuid, now: Timestamp) -> bool {
        let mut ids: Vec<_> = self.names.find(uuid).collect();
        ids.sort_by_key(|id| self.table.get(*id).map(|flow| flow.serial));
        let at = now + self.config.timers.linger;
        for &id in &ids {
            while self.fire(id, now) {}
            if self.table.get(id).is_some_and(|flow| matches!(flow.phase, Phase::Open | Phase::Parked)) {
                self.set_phase(id, Phase::Closing { reason: EndReason::Closed, at });
            }
        }
        !ids.is_empty()
    }
}

/// What an announcement says of the flows that are there.
enum Meaning {
    /// There is no flow yet.
    Unseen,
    /// The flow has this name.
    Known,
    /// It names this flow.
    Names(FlowId),
    /// It names the other end of this flow, which is a socket of this host too.
    SecondName(FlowId),
    /// It names the connection that comes after this flow on the same addresses and ports.
    Next(FlowId),
    /// The flow has ended without it.
    TooLate,
}
