//! Names whose connection has not been seen yet.

use super::events::of_one_socket;
use crate::flow::ledger::{Charge, Ledger};
use crate::identity::{Announcement, EventOutcome, Opened, UuidEvent};
use crate::key::FlowKey;
use crate::time::Timestamp;
use foldhash::{HashMap, HashMapExt};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Announcements that wait for their first packet.
#[derive(Debug)]
pub(super) struct Announcements {
    waiting: HashMap<FlowKey, Vec<Waiting>>,
    ages: VecDeque<(Timestamp, u64, FlowKey)>,
    len: usize,
    next: u64,
    /// `None`: until the end of the input.
    lifetime: Option<Duration>,
    ledger: Arc<Ledger>,
}

/// An announcement and when it came.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) announcement: Arc<Announcement>,
    pub(super) since: Timestamp,
    number: u64,
    _charge: Charge,
}

impl Announcements {
    pub(super) fn new(lifetime: Option<Duration>, ledger: Arc<Ledger>) -> Self {
        Self { waiting: HashMap::new(), ages: VecDeque::new(), len: 0, next: 0, lifetime, ledger }
    }

    /// Keeps an announcement for a flow that may come.
    pub(super) fn add(&mut self, key: FlowKey, announcement: &Arc<Announcement>, now: Timestamp) {
        let waiting = self.waiting.entry(key).or_default();
        if waiting.iter().any(|w| w.announcement.event() == announcement.event()) {
            announcement.settle(EventOutcome::Duplicate);
            return;
        }
        self.next += 1;
        waiting.push(Waiting {
            announcement: Arc::clone(announcement),
            since: now,
            number: self.next,
            _charge: self.ledger.charge(COST),
        });
        self.ages.push_back((now, self.next, key));
        self.len += 1;
        // Offline all events may come before the first packet, and there is time.
        while self.len > MAX && self.lifetime.is_some() {
            self.drop_oldest(Some(EventOutcome::Overflow));
        }
    }

    /// Takes the announcements of a connection whose first packet was captured at `first`, oldest first.
    ///
    /// A source announces a connection after its first packet. So of several connections on these addresses and ports
    /// the first that was announced since is meant; those before it were not seen and have expired, those after it wait on.
    pub(super) fn take(&mut self, key: &FlowKey, first: Timestamp, now: Timestamp) -> Vec<Waiting> {
        if self.len == 0 {
            return Vec::new();
        }
        self.expire(now);
        let Some(all) = self.waiting.remove(key) else { return Vec::new() };
        self.len -= all.len();
        let since = all.iter().find(|w| w.announcement.event().at() >= first);
        // One from before was of an idle connection, unless that was over then.
        let Some(meant) = since.or(all.iter().rfind(|w| !is_gone(w.announcement.event()))) else {
            return Vec::new();
        };
        let number = meant.number;
        let UuidEvent::Open(opened) = meant.announcement.event().clone() else { return all };
        let rival = other_word(&opened, &all, first);
        let (taken, mut others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|w| Some(w.number) == rival || of_one(&opened, w.announcement.event()));
        others.retain(|w| w.number > number);
        if !others.is_empty() {
            self.len += others.len();
            self.waiting.insert(*key, others);
        }
        taken
    }

    /// Drops what has waited too long; those count as expired when every shard has dropped them.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let Some(lifetime) = self.lifetime else { return };
        while self.ages.front().is_some_and(|(since, ..)| now.since(*since) > lifetime) {
            self.drop_oldest(None);
        }
    }

    /// Drops them all: the input has ended.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.ages.clear();
        self.len = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn drop_oldest(&mut self, outcome: Option<EventOutcome>) {
        let Some((_, number, key)) = self.ages.pop_front() else { return };
        let Some(waiting) = self.waiting.get_mut(&key) else { return };
        let before = waiting.len();
        waiting.retain(|w| {
            if w.number == number {
                outcome.inspect(|o| w.announcement.settle(*o));
            }
            w.number != number
        });
        self.len -= before - waiting.len();
        if waiting.is_empty() {
            self.waiting.remove(&key);
        }
    }
}

fn is_gone(event: &UuidEvent) -> bool {
    matches!(event, UuidEvent::Open(Opened { gone: true, .. }))
}

/// Whether two announcements for one key are of the same connection: one told twice, or one from each of its ends.
fn of_one(a: &Opened, b: &UuidEvent) -> bool {
    matches!(b, UuidEvent::Open(b) if a.name.uuid == b.name.uuid || a.local != b.local)
}

/// The number of the announcement by which the other source means the same socket: the one with its cookie, or else the first
/// that cannot be of a later connection which both know.
fn other_word(meant: &Opened, all: &[Waiting], first: Timestamp) -> Option<u64> {
    let opens =
        || all.iter().filter_map(|w| if let UuidEvent::Open(o) = w.announcement.event() { Some((w.number, o)) } else { None });
    let ours: Vec<_> = opens().filter(|(_, o)| o.source == meant.source).map(|(_, o)| &o.name.uuid).collect();
    let theirs = || opens().filter(|(_, o)| o.source != meant.source && o.local == meant.local);
    let same = theirs().find(|(_, o)| of_one_socket(&o.name.uuid, &meant.name.uuid));
    let unknown = || theirs().filter(|(_, o)| !ours.iter().any(|uuid| of_one_socket(&o.name.uuid, uuid)));
    let rival = same.or_else(|| unknown().find(|(_, o)| o.at >= first)).or_else(|| unknown().next_back());
    rival.map(|(number, _)| number)
}

/// Bytes charged for one: itself, its places in map and queue, and its text.
const COST: usize = 320;
/// 20 MiB of announcements per shard: far more than sockets that open within a wait.
const MAX: usize = 65_536;
