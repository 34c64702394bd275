//! What a shard counts: plain numbers, published once per batch.

use crate::key::UuidSource;
use crate::metrics::{PredecessorMetrics, counters, gauge};
use crate::packet::Skip;
use prometheus::{IntCounter, IntGauge, Registry};

/// What became of a frame. Every frame has exactly one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameOutcome {
    /// Its headers are in a flow.
    Kept,
    /// The parser refused it.
    Skipped(Skip),
    /// A later fragment whose first fragment was not seen.
    NoFirstFragment,
    /// Seen on another interface already.
    Duplicate,
    /// Its flow's capture had ended.
    AfterEnd,
    /// Its flow had not been named within the wait, and its beginning is kept already.
    AwaitingUuid,
    /// There was no memory for a new flow.
    NoRoomForFlow,
    /// Its flow was not begun because the kernel was dropping frames.
    Shed,
    /// There was no memory for a packet of a flow that is being kept.
    NoRoomForPacket,
    /// Its link type is not that of its flow's file.
    LinkChanged,
}

impl FrameOutcome {
    const COUNT: usize = Skip::ALL.len() + 9;
    const OTHERS: [(Self, &'static str); 9] = [
        (Self::Kept, "kept"),
        (Self::NoFirstFragment, "no_first_fragment"),
        (Self::Duplicate, "duplicate"),
        (Self::AfterEnd, "after_end"),
        (Self::AwaitingUuid, "awaiting_uuid"),
        (Self::NoRoomForFlow, "no_room_for_flow"),
        (Self::NoRoomForPacket, "no_room_for_packet"),
        (Self::LinkChanged, "link_changed"),
        (Self::Shed, "shed"),
    ];

    fn index(self) -> usize {
        match self {
            Self::Skipped(skip) => Self::OTHERS.len() + skip as usize,
            Self::Kept => 0,
            Self::NoFirstFragment => 1,
            Self::Duplicate => 2,
            Self::AfterEnd => 3,
            Self::AwaitingUuid => 4,
            Self::NoRoomForFlow => 5,
            Self::NoRoomForPacket => 6,
            Self::LinkChanged => 7,
            Self::Shed => 8,
        }
    }

    /// The value of the `outcome` label of `flowarc_frames_total`, by index.
    fn labels() -> [&'static str; Self::COUNT] {
        let mut labels = [""; Self::COUNT];
        for (outcome, label) in Self::OTHERS {
            labels[outcome.index()] = label;
        }
        for skip in Skip::ALL {
            labels[Self::Skipped(skip).index()] = skip.label();
        }
        labels
    }
}

/// What became of a flow in its shard. Every flow that began has exactly one of these when it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowOutcome {
    /// Handed to the archive, which counts whether its file appeared.
    Archived,
    /// Nobody named it.
    NoUuid,
    /// Its connection was not completed within the wait.
    HalfOpen,
    /// Half-open, and its room was needed.
    EvictedHalfOpen,
    /// Nameless, and its room was needed.
    EvictedNoUuid,
    /// There were `-maxflows` flows.
    OverMaxFlows,
}

impl FlowOutcome {
    const COUNT: usize = 6;
    const LABELS: [&'static str; Self::COUNT] =
        ["archived", "no_uuid", "half_open", "evicted_half_open", "evicted_no_uuid", "over_max_flows"];
}

/// Who told the name of a connection's end, where two sources do. Every end that has a name has one of these, at the latest
/// when its flow's record goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// Both, and the same one.
    Agreed,
    /// Both, and different ones.
    Disagreed,
    /// Only the event socket.
    EventSocketOnly,
    /// Only the kernel.
    KernelOnly,
}

impl Told {
    const COUNT: usize = 4;
    const LABELS: [&'static str; Self::COUNT] = ["agreed", "disagreed", "eventsocket_only", "kernel_only"];

    pub(super) fn by_one(source: UuidSource) -> Self {
        match source {
            UuidSource::EventSocket => Self::EventSocketOnly,
            UuidSource::Kernel => Self::KernelOnly,
        }
    }
}

/// A shard's counts since it began.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShardStats {
    frames: [u64; FrameOutcome::COUNT],
    flows: [u64; FlowOutcome::COUNT],
    told: [u64; Told::COUNT],
    /// Packets behind a capture duration that were dropped before they came; no outcome counts them.
    pub shunted: u64,
    /// Flows that began.
    pub flows_started: u64,
    /// Flows that a timer ended.
    pub ended_by_timer: u64,
    /// Flows whose UUID wait ran out.
    pub uuid_timeouts: u64,
    /// Flows held now, by the predecessor's state: half-open or waiting, parked, being kept, ended.
    pub waiting: usize,
    /// Flows that wait for a late name.
    pub parked: usize,
    /// Flows with a name that are being kept.
    pub named: usize,
    /// Records that absorb late packets.
    pub ended: usize,
    /// Announcements without a packet.
    pub announcements: usize,
}

impl ShardStats {
    pub(super) fn frame(&mut self, outcome: FrameOutcome) {
        self.frames[outcome.index()] += 1;
    }

    pub(super) fn flow(&mut self, outcome: FlowOutcome) {
        self.flows[outcome as usize] += 1;
    }

    pub(super) fn told(&mut self, told: Told) {
        self.told[told as usize] += 1;
    }

    /// Names told so, where two sources tell.
    pub fn names_told(&self, told: Told) -> u64 {
        self.told[told as usize]
    }

    /// Frames with this outcome.
    pub fn frames_with(&self, outcome: FrameOutcome) -> u64 {
        self.frames[outcome.index()]
    }

    /// Frames handled.
    pub fn frames_total(&self) -> u64 {
        self.frames.iter().sum()
    }

    /// Flows with this outcome.
    pub fn flows_with(&self, outcome: FlowOutcome) -> u64 {
        self.flows[outcome as usize]
    }

    /// Flows that have ended, one way or the other.
    pub fn flows_total(&self) -> u64 {
        self.flows.iter().sum()
    }
}

/// The shards' counts as metrics.
#[derive(Clone, Debug)]
pub struct ShardMetrics {
    frames: Vec<IntCounter>,
    flows: Vec<IntCounter>,
    told: Vec<IntCounter>,
    flows_started: IntCounter,
    uuid_timeouts: IntCounter,
    announcements: IntGauge,
    predecessor: PredecessorMetrics,
    stream: bool,
}

impl ShardMetrics {
    /// Declares them; every outcome reports 0 from the start. `stream` is the mode, which names a state.
    pub fn register(registry: &Registry, predecessor: &PredecessorMetrics, stream: bool) -> Self {
        let frames = counters(
            registry,
            "flowarc_frames_total",
            "Frames by what became of them; the sum is all frames handled. no_room_* should be zero.",
            &["outcome"],
        );
        let flows = counters(
            registry,
            "flowarc_flows_total",
            "Flows that ended, by what became of them; archived ones are counted on by flowarc_archive_flows_total.",
            &["outcome"],
        );
        let told = counters(
            registry,
            "flowarc_names_told_total",
            "With -uuid.source=both, names of connections by who told them: both sources the same, each another, or one alone; disagreed should be zero.",
            &["by"],
        );
        Self {
            told: Told::LABELS.iter().map(|l| told.with_label_values(&[l])).collect(),
            frames: FrameOutcome::labels().iter().map(|l| frames.with_label_values(&[l])).collect(),
            flows: FlowOutcome::LABELS.iter().map(|l| flows.with_label_values(&[l])).collect(),
            flows_started: crate::metrics::counter(registry, "flowarc_flows_started_total", "Flows that began."),
            uuid_timeouts: crate::metrics::counter(
                registry,
                "flowarc_uuid_waits_expired_total",
                "Flows whose UUID wait ran out; some may still be named late.",
            ),
            announcements: gauge(
                registry,
                "flowarc_announcements_waiting",
                "UUID announcements whose first packet has not been seen, over all shards.",
            ),
            predecessor: predecessor.clone(),
            stream,
        }
    }

    /// Adds what has changed between two counts of a shard.
    pub fn publish(&self, before: &ShardStats, now: &ShardStats) {
        use FlowOutcome::*;
        use FrameOutcome::*;
        let add = |counter: &IntCounter, before: u64, now: u64| {
            if now != before {
                counter.inc_by(now - before);
            }
        };
        for (i, counter) in self.frames.iter().enumerate() {
            add(counter, before.frames[i], now.frames[i]);
        }
        for (i, counter) in self.flows.iter().enumerate() {
            add(counter, before.flows[i], now.flows[i]);
        }
        for (i, counter) in self.told.iter().enumerate() {
            add(counter, before.told[i], now.told[i]);
        }
        add(&self.flows_started, before.flows_started, now.flows_started);
        add(&self.uuid_timeouts, before.uuid_timeouts, now.uuid_timeouts);
        let level = |gauge: &IntGauge, before: usize, now: usize| gauge.add(now as i64 - before as i64);
        level(&self.announcements, before.announcements, now.announcements);

        let p = &self.predecessor;
        let frames = |outcomes: &[FrameOutcome], s: &ShardStats| outcomes.iter().map(|o| s.frames_with(*o)).sum::<u64>();
        for (state, outcomes) in [
            ("discardingpackets", &[AfterEnd][..]),
            ("uuidtimedouterror", &[AwaitingUuid]),
            ("draining", &[NoRoomForFlow, NoRoomForPacket, Shed]),
        ] {
            add(&p.missed_packets.with_label_values(&[state]), frames(outcomes, before), frames(outcomes, now));
        }
        add(&p.missed_packets.with_label_values(&["discardingpackets"]), before.shunted, now.shunted);
        let bad = [Skipped(Skip::Truncated), Skipped(Skip::Malformed), Skipped(Skip::TinyFragment)];
        add(&p.bad_packets, frames(&bad, before), frames(&bad, now));
        add(&p.saver_starts, before.flows_started, now.flows_started);
        add(&p.saver_stops, before.flows_total(), now.flows_total());
        let unnamed = |s: &ShardStats| s.flows_with(NoUuid) + s.flows_with(HalfOpen);
        add(&p.saver_errors.with_label_values(&["uuidtimedout"]), unnamed(before), unnamed(now));
        let evicted = |s: &ShardStats| s.flows_with(EvictedHalfOpen) + s.flows_with(EvictedNoUuid) + s.frames_with(NoRoomForFlow);
        add(&p.saver_skipped, evicted(before), evicted(now));
        add(&p.ignored, before.flows_with(OverMaxFlows), now.flows_with(OverMaxFlows));
        add(&p.savers_garbage_collected, before.ended_by_timer, now.ended_by_timer);
        let named = if self.stream { "streaming" } else { "dircreation" };
        for (state, before, now) in [
            ("readingcandidatepackets", before.announcements, now.announcements),
            ("uuidwait", before.waiting, now.waiting),
            ("uuidtimedouterror", before.parked, now.parked),
            (named, before.named, now.named),
            ("discardingpackets", before.ended, now.ended),
        ] {
            level(&p.saver_states.with_label_values(&[state]), before, now);
        }
    }

    /// Notes how many flows a shard held before its last clean-up round and holds now, and how long this round took.
    pub fn clean_up(&self, before: usize, now: usize, took: std::time::Duration) {
        self.predecessor.savers_active.add(now as i64 - before as i64);
        self.predecessor.gc_latency.observe(took.as_secs_f64());
    }
}
