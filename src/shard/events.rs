//! What an announcement does to the flows of its addresses and ports.

use super::Shard;
use super::life::name_cost;
use super::stats::Told;
use crate::flow::outcome::{EndReason, FlowFlags};
use crate::flow::state::{Flow, NamedEnd, Phase};
use crate::flow::table::FlowId;
use crate::identity::kernel::LastWord;
use crate::identity::prefix::cookie_of;
use crate::identity::{Announcement, EventOutcome, Opened, UuidEvent, UuidSource};
use crate::key::{FlowKey, FlowUuid};
use crate::shard::FlowOutcome;
use crate::time::Timestamp;
use std::sync::Arc;

/// Two names of one connection, by two sources.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the event socket calls a connection {event_socket}, which the kernel calls {kernel} (is it the same host, boot and prefix?)"
)]
pub struct Disagreement {
    /// The name that the event socket told, which counts.
    pub event_socket: FlowUuid,
    /// The name that the kernel told.
    pub kernel: FlowUuid,
}

impl Shard {
    /// Handles an event of a UUID source that came at `now`.
    pub fn handle_event(&mut self, announcement: &Arc<Announcement>, now: Timestamp) {
        self.advance(now);
        match announcement.event() {
            UuidEvent::Open(_) => self.open(announcement, now),
            UuidEvent::Close { uuid, last_word, .. } => {
                if self.close(uuid, last_word.as_ref(), now) {
                    announcement.settle(EventOutcome::Closed);
                }
            }
        }
    }

    pub(super) fn open(&mut self, announcement: &Arc<Announcement>, now: Timestamp) {
        let UuidEvent::Open(opened) = announcement.event() else { return };
        let key = FlowKey::new(opened.local, opened.remote).0;
        let candidates = self.connections_of(&key, now);
        let named = || {
            let name = opened.name.clone();
            NamedEnd { name, local: Some(opened.local), source: Some(opened.source), other: None }
        };
        match self.meaning(opened, &candidates) {
            Meaning::Unseen => self.announcements.add(key, announcement, now),
            Meaning::Known(id, end) => {
                self.agree(id, end, opened);
                announcement.settle(EventOutcome::Duplicate);
            }
            Meaning::OtherName(id, end) => {
                self.disagree(id, end, opened);
                announcement.settle(EventOutcome::Disagreed);
            }
            Meaning::TooLate => announcement.settle(EventOutcome::TooLate),
            Meaning::SecondName(id) => {
                self.give_name(id, named());
                announcement.settle(EventOutcome::SecondName);
            }
            Meaning::Names(id) => {
                let late = self.table.get(id).is_some_and(|f| f.first_seen + self.config.timers.uuid_wait <= now);
                if late && let Some(flow) = self.table.get_mut(id) {
                    flow.flags.set(FlowFlags::LATE_UUID);
                }
                self.give_name(id, named());
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
        let end_of = |test: &dyn Fn(&NamedEnd) -> bool| flows().find_map(|(id, f)| Some((id, position(f, test)?)));
        if let Some((id, end)) = end_of(&|end| end.name.uuid == opened.name.uuid || end.other.as_ref() == Some(&opened.name.uuid))
        {
            return Meaning::Known(id, end);
        }
        // The other source's word on the same socket, under another prefix.
        let by_other = |end: &NamedEnd| end.local == Some(opened.local) && !end.told_by(opened.source);
        if let Some((id, end)) = end_of(&|end| by_other(end) && of_one_socket(&end.name.uuid, &opened.name.uuid)) {
            return Meaning::OtherName(id, end);
        }
        // A source announces a connection after its first packet, so of several nameless ones the youngest that had begun
        // by then is meant; a lone SYN that contests a living connection is meant only if nothing else is.
        let nameless: Vec<_> = flows().filter(|(_, f)| f.is_live() && !f.is_named()).collect();
        let sure = || nameless.iter().filter(|(_, f)| self.contested(f).is_none());
        let begun = || sure().filter(|(_, f)| f.first <= opened.at);
        let meant = if opened.gone { begun().next_back() } else { begun().next() };
        // One that had begun only later cannot be the one that is gone; one that was idle can be the one that lives.
        let meant = meant.or_else(|| sure().next_back().or(nameless.first()).filter(|_| !opened.gone));
        if let Some((id, _)) = meant {
            return Meaning::Names(*id);
        }
        let Some((id, flow)) = flows().next() else { return Meaning::Unseen };
        let Some(names) = &flow.names else { return Meaning::TooLate };
        match position(flow, &|end| end.local == Some(opened.local)) {
            // While it is open there is no next one; when it is over, another socket is the next one's.
            Some(end) if by_other(&names.ends[end]) && matches!(flow.phase, Phase::Open | Phase::Parked) => {
                Meaning::OtherName(id, end)
            }
            None if names.ends.iter().any(|end| end.local == Some(opened.remote)) => {
                if flow.is_live() {
                    Meaning::SecondName(id)
                } else {
                    Meaning::TooLate
                }
            }
            // Made before this one's first packet, it is of a connection that is not held any more.
            _ if opened.at < flow.first => Meaning::TooLate,
            _ => Meaning::Next(id),
        }
    }

    /// Notes that this source knows the name too.
    fn agree(&mut self, id: FlowId, end: usize, opened: &Opened) {
        let names = self.table.get_mut(id).and_then(|flow| flow.names.as_mut());
        if let Some(end) = names.and_then(|names| names.ends.get_mut(end))
            && self.config.compare
            && !end.told_by(opened.source)
        {
            end.other = Some(opened.name.uuid.clone());
            self.stats.told(Told::Agreed);
        }
    }

    /// Takes another name for an end that the other source has named: the event socket's counts, as long as there is no file
    /// yet, and by the other one the connection can still be closed.
    fn disagree(&mut self, id: FlowId, end: usize, opened: &Opened) {
        let charge = name_cost(&opened.name.uuid);
        let Some(flow) = self.table.get_mut(id) else { return };
        let live = flow.is_live();
        let Some(names) = flow.names.as_mut() else { return };
        names.charge.resize(names.charge.bytes() + charge);
        let Some(end) = names.ends.get_mut(end) else { return };
        let told = opened.name.uuid.clone();
        let disagreement = match opened.source {
            UuidSource::EventSocket => Disagreement { event_socket: told.clone(), kernel: end.name.uuid.clone() },
            UuidSource::Kernel => Disagreement { event_socket: end.name.uuid.clone(), kernel: told.clone() },
        };
        if live && opened.source == UuidSource::EventSocket {
            end.other = Some(std::mem::replace(&mut end.name, opened.name.clone()).uuid);
            end.source = Some(opened.source);
        } else {
            end.other = Some(told.clone());
        }
        self.names.insert(told, id);
        self.stats.told(Told::Disagreed);
        if self.disagreements.len() < DISAGREEMENTS_MAX {
            self.disagreements.push_back(disagreement);
        }
    }

    fn close(&mut self, uuid: &FlowUuid, last_word: Option<&Arc<LastWord>>, now: Timestamp) -> bool {
        let mut ids: Vec<_> = self.names.find(uuid).collect();
        ids.sort_by_key(|id| self.table.get(*id).map(|flow| flow.serial));
        let at = now + self.config.timers.linger;
        for &id in &ids {
            while self.fire(id, now) {}
            if let Some(word) = last_word {
                self.keep_last_word(id, uuid, word);
            }
            if self.table.get(id).is_some_and(|flow| matches!(flow.phase, Phase::Open | Phase::Parked)) {
                self.set_phase(id, Phase::Closing { reason: EndReason::Closed, at });
            }
        }
        !ids.is_empty()
    }

    /// Keeps the kernel's last word on a flow until it ends; if both ends are here, that on the first to be named.
    fn keep_last_word(&mut self, id: FlowId, uuid: &FlowUuid, word: &Arc<LastWord>) {
        let Some(flow) = self.table.get(id).filter(|flow| flow.is_live()) else { return };
        let names = flow.names.as_ref();
        let is_of_first =
            names.is_some_and(|names| names.ends[0].name.uuid == *uuid || names.ends[0].other.as_ref() == Some(uuid));
        if is_of_first || !self.last_words.contains_key(&flow.serial) {
            let charge = self.ledger.charge(LAST_WORD_COST);
            self.last_words.insert(flow.serial, (Arc::clone(word), charge));
        }
    }
}

/// The first end of a flow's name that passes the test.
fn position(flow: &Flow, test: &dyn Fn(&NamedEnd) -> bool) -> Option<usize> {
    flow.names.as_ref()?.ends.iter().position(test)
}

/// Whether two names end in one cookie, which the kernel gives to one socket only.
pub(super) fn of_one_socket(a: &FlowUuid, b: &FlowUuid) -> bool {
    a == b || cookie_of(a).is_some_and(|cookie| cookie_of(b) == Some(cookie))
}

/// What an announcement says of the flows that are there.
enum Meaning {
    /// There is no flow yet.
    Unseen,
    /// This end of the flow has this name.
    Known(FlowId, usize),
    /// This end of the flow has another name, by the other source.
    OtherName(FlowId, usize),
    /// It names this flow.
    Names(FlowId),
    /// It names the other end of this flow, which is a socket of this host too.
    SecondName(FlowId),
    /// It names the connection that comes after this flow on the same addresses and ports.
    Next(FlowId),
    /// The flow has ended without it.
    TooLate,
}

/// Disagreements that wait to be logged: all are counted, and one a second is.
const DISAGREEMENTS_MAX: usize = 16;
/// Bytes charged for the kernel's last word and its place in the index.
const LAST_WORD_COST: usize = 320;
