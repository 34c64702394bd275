//! Who a connection is: UUIDs and the sources that tell them.

pub mod eventsocket;
pub mod generated;
pub mod kernel;
pub mod prefix;

pub use crate::key::{BadUuid, FlowUuid, Name, UuidSource};

use self::kernel::LastWord;
use crate::key::Endpoint;
use crate::metrics::{PredecessorMetrics, counters};
use crate::time::Timestamp;
use prometheus::{IntCounter, Registry};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What a UUID source says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UuidEvent {
    /// A connection has this name.
    Open(Opened),
    /// The connection of this name has ended.
    Close {
        /// Its name.
        uuid: FlowUuid,
        /// When the source noticed.
        at: Timestamp,
        /// What the kernel said of it last, if it is the source and has.
        last_word: Option<Arc<LastWord>>,
    },
}

impl UuidEvent {
    /// When the source noticed.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Open(opened) => opened.at,
            Self::Close { at, .. } => *at,
        }
    }
}

/// A connection's announcement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Its name and day.
    pub name: Name,
    /// When the source noticed it: later than the first packet by up to its polling period.
    pub at: Timestamp,
    /// The end that is a socket of this host.
    pub local: Endpoint,
    /// The other end; a socket of this host too where both ends are.
    pub remote: Endpoint,
    /// Whether the source heard of it only at its end. Of several connections on the same ends, the oldest that has no name
    /// is meant then, and else the youngest that had begun by `at`.
    pub gone: bool,
    /// Who told it.
    pub source: UuidSource,
}

/// An event on its way through the shards. Every shard hears it and the one that holds the flow settles it; when the last
/// has let go of it, its outcome is counted, once.
#[derive(Debug)]
pub struct Announcement {
    event: UuidEvent,
    outcome: AtomicU8,
    metrics: EventMetrics,
}

impl Announcement {
    /// An event that no shard has heard yet.
    pub fn new(event: UuidEvent, metrics: &EventMetrics) -> Arc<Self> {
        if matches!(event, UuidEvent::Open(_)) {
            metrics.0.predecessor.uuids.inc();
        }
        Arc::new(Self { event, outcome: AtomicU8::new(0), metrics: metrics.clone() })
    }

    /// What was said.
    pub fn event(&self) -> &UuidEvent {
        &self.event
    }

    /// Notes what came of it; of several outcomes the best one stands.
    pub fn settle(&self, outcome: EventOutcome) {
        self.outcome.fetch_max(outcome as u8, Ordering::Relaxed);
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let settled = self.outcome.load(Ordering::Relaxed);
        let fallback = match self.event {
            UuidEvent::Open(_) => EventOutcome::Expired,
            UuidEvent::Close { .. } => EventOutcome::CloseUnknown,
        };
        self.metrics.count(EventOutcome::ALL.into_iter().find(|o| *o as u8 == settled).unwrap_or(fallback));
    }
}

/// What came of an event, worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum EventOutcome {
    /// No packet of the connection came within the wait.
    Expired = 1,
    /// Too many announcements waited for their first packet.
    Overflow,
    /// The flow had ended, nameless, before its name came.
    TooLate,
    /// The name was known.
    Duplicate,
    /// The other source had given the connection another name (-uuid.source=both).
    Disagreed,
    /// It gave a flow between two local sockets its second name.
    SecondName,
    /// It named a flow after the UUID wait.
    ClaimedLate,
    /// It named a flow.
    Claimed,
    /// A Close of a connection that no shard holds.
    CloseUnknown,
    /// A Close that ended a flow.
    Closed,
}

impl EventOutcome {
    /// All outcomes.
    pub const ALL: [Self; 10] = [
        Self::Expired,
        Self::Overflow,
        Self::TooLate,
        Self::Duplicate,
        Self::Disagreed,
        Self::SecondName,
        Self::ClaimedLate,
        Self::Claimed,
        Self::CloseUnknown,
        Self::Closed,
    ];

    /// The value of the `outcome` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Overflow => "overflow",
            Self::TooLate => "too_late",
            Self::Duplicate => "duplicate",
            Self::Disagreed => "disagreed",
            Self::SecondName => "second_name",
            Self::ClaimedLate => "claimed_late",
            Self::Claimed => "claimed",
            Self::CloseUnknown => "close_unknown",
            Self::Closed => "closed",
        }
    }
}

/// Counts what came of events. Every announcement has a handle.
#[derive(Clone, Debug)]
pub struct EventMetrics(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    outcomes: [IntCounter; EventOutcome::ALL.len()],
    predecessor: PredecessorMetrics,
}

impl EventMetrics {
    /// Declares them; every outcome reports 0 from the start.
    pub fn register(registry: &Registry, predecessor: &PredecessorMetrics) -> Self {
        let outcomes = counters(
            registry,
            "flowarc_events_total",
            "Usable UUID events by what came of them; expired, overflow and too_late should be few.",
            &["outcome"],
        );
        let outcomes = EventOutcome::ALL.map(|o| outcomes.with_label_values(&[o.label()]));
        Self(Arc::new(Counters { outcomes, predecessor: predecessor.clone() }))
    }

    /// How many events had this outcome.
    pub fn counted(&self, outcome: EventOutcome) -> u64 {
        self.0.outcomes[outcome as usize - 1].get()
    }

    fn count(&self, outcome: EventOutcome) {
        self.0.outcomes[outcome as usize - 1].inc();
        let p = &self.0.predecessor;
        match outcome {
            EventOutcome::Expired => {
                p.saver_errors.with_label_values(&["nopackets"]).inc();
                p.missed_uuids.with_label_values(&["readingcandidatepackets"]).inc();
            }
            EventOutcome::Overflow => p.missed_uuids.with_label_values(&["skipped"]).inc(),
            EventOutcome::TooLate => p.missed_uuids.with_label_values(&["discardingpackets"]).inc(),
            _ => {}
        }
    }
}
