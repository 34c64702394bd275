//! Metrics: the registry, and the predecessor's names, which several subsystems count together.
//!
//! Every other metric is declared by the subsystem that counts it, in a `struct XMetrics` with `register`.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Registers a metric; a name is declared in one place only, so this cannot fail.
pub fn register<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: Result<M, prometheus::Error>,
) -> M {
    let metric = metric.expect("metric options are constants");
    registry.register(Box::new(metric.clone())).expect("each metric is registered once");
    metric
}

/// A counter, registered.
pub fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

/// A counter with labels, registered.
pub fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

/// A gauge, registered.
pub fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help))
}

/// A gauge with labels, registered.
pub fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

/// The metrics of `packet-headers`, by its names, types and labels, with true values.
#[derive(Clone, Debug)]
pub struct PredecessorMetrics {
    /// Packets captured and not kept, by the state of their flow.
    pub missed_packets: IntCounterVec,
    /// UUID announcements that named no file, by the state of their flow.
    pub missed_uuids: IntCounterVec,
    /// Flows begun.
    pub saver_starts: IntCounter,
    /// Flows ended.
    pub saver_stops: IntCounter,
    /// Flows without a file, by reason.
    pub saver_errors: IntCounterVec,
    /// Flows by state.
    pub saver_states: IntGaugeVec,
    /// Flows refused for want of memory.
    pub saver_skipped: IntCounter,
    /// Frames that could not be parsed.
    pub bad_packets: IntCounter,
    /// Duration of memory clean-up rounds, seconds.
    pub gc_latency: Histogram,
    /// UUID announcements heard.
    pub uuids: IntCounter,
    /// Flows ended by a timer.
    pub savers_garbage_collected: IntCounter,
    /// Flows held after the last clean-up round.
    pub savers_active: IntGauge,
    /// Flows refused by the flow limit.
    pub ignored: IntCounter,
    /// Events refused, by reason.
    pub bad_events: IntCounterVec,
    /// Interfaces being captured.
    pub interfaces: IntGauge,
}

impl PredecessorMetrics {
    /// Declares them all; every child reports 0 from the start.
    pub fn register(r: &Registry) -> Self {
        let buckets = prometheus::exponential_buckets(1e-6, 2.0, 20).expect("constants");
        let m = Self {
            missed_packets: counters(
                r,
                "pcap_missed_packets_total",
                "Packets that were captured and not kept, by the state of their flow; should be zero but for discardingpackets, which is the capture duration at work.",
                &["saverstate"],
            ),
            missed_uuids: counters(
                r,
                "pcap_missed_uuids_total",
                "UUID announcements that named no file, by the state of their flow; should be zero.",
                &["saverstate"],
            ),
            saver_starts: counter(r, "pcap_saver_starts_total", "Flows begun."),
            saver_stops: counter(r, "pcap_saver_stops_total", "Flows ended, with a file or without."),
            saver_errors: counters(
                r,
                "pcap_saver_errors_total",
                "Flows that have no file, by reason; uuidtimedout counts connections that nobody announced.",
                &["reason"],
            ),
            saver_states: gauges(r, "pcap_saver_states", "Flows now, by state.", &["state"]),
            saver_skipped: counter(
                r,
                "pcap_saver_skipped_total",
                "Flows refused or given up because of -maxheap; should be zero.",
            ),
            bad_packets: counter(
                r,
                "pcap_demuxer_bad_packets_total",
                "Frames that could not be parsed as what they claim to be; should be zero.",
            ),
            gc_latency: register(
                r,
                Histogram::with_opts(
                    HistogramOpts::new("pcap_demuxer_gc_latency_seconds", "Time taken by each round of memory clean-up.")
                        .buckets(buckets),
                ),
            ),
            uuids: counter(
                r,
                "pcap_demuxer_uuids_total",
                "UUID announcements heard; close to pcap_saver_starts_total where every flow is announced.",
            ),
            savers_garbage_collected: counter(r, "pcap_demuxer_savers_garbage_collected_total", "Flows ended by a timer."),
            savers_active: gauge(r, "pcap_demuxer_savers_active", "Flows held after each shard's last clean-up round."),
            ignored: counter(r, "pcap_demuxer_ignored_total", "Flows refused or given up because of -maxflows; should be zero."),
            bad_events: counters(
                r,
                "pcap_tcpinfohandler_bad_events_total",
                "Events that could not be used, by reason; should be zero.",
                &["reason"],
            ),
            interfaces: gauge(r, "pcap_muxer_interfaces_with_captures", "Interfaces that are being captured now."),
        };
        for state in SAVER_STATES {
            m.saver_states.with_label_values(&[state]);
        }
        for state in SAVER_STATES.iter().chain(&["draining", "skipped"]) {
            m.missed_packets.with_label_values(&[state]);
            m.missed_uuids.with_label_values(&[state]);
        }
        for reason in SAVER_ERRORS {
            m.saver_errors.with_label_values(&[reason]);
        }
        for reason in BAD_EVENTS {
            m.bad_events.with_label_values(&[reason]);
        }
        m
    }
}

/// The predecessor's flow states.
pub const SAVER_STATES: [&str; 17] = [
    "notstarted",
    "readingcandidatepackets",
    "uuidwait",
    "uuidfound",
    "dircreation",
    "writepartial",
    "streaming",
    "writefinal",
    "discardingpackets",
    "nopacketserror",
    "uuidtimedouterror",
    "uuidchanclosederror",
    "mkdirerror",
    "fileopenerror",
    "writepartialerror",
    "streamingerror",
    "writefinalerror",
];

/// The predecessor's reasons for flows without a file.
pub const SAVER_ERRORS: [&str; 8] =
    ["nopackets", "uuidtimedout", "uuidchanclosed", "mkdir", "fileopen", "writepartial", "streaming", "writefinal"];

/// Reasons of unusable events: the predecessor's two, and ours for a UUID that cannot be a file name.
pub const BAD_EVENTS: [&str; 3] = ["nilid", "badip", "baduuid"];
