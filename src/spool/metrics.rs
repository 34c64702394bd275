//! What the spool counts.

use super::cutoff::{Class, FlowEnd, Verdict};
use super::recorder::Stats;
use crate::metrics::{counter, counters, gauge, register};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Registry};

/// Metrics of capture into a spool.
#[derive(Clone, Debug)]
pub struct SpoolMetrics {
    frames: IntCounterVec,
    bytes: IntCounterVec,
    tail_frames: IntCounter,
    flows_started: IntCounterVec,
    /// The classes' names, then that of flows of none.
    classes: Vec<String>,
    flows_ended: IntCounterVec,
    flows_cut_off: IntCounter,
    large_flows: IntCounter,
    /// Flows followed now.
    pub flows: IntGauge,
    /// Targets whose cutoff is suspended.
    pub suspended: IntGauge,
    /// Runs of the large-flow command by what came of them.
    pub commands: IntCounterVec,
    /// Payload of flows that have ended.
    pub flow_size: Histogram,
    /// Packets by what became of them behind the cutoff's decision.
    pub packets: IntCounterVec,
    /// Bytes written to segments.
    pub written_bytes: IntCounter,
    /// Segments by how they got their names.
    pub segments: IntCounterVec,
    /// Unpacked bytes that wait for the writers.
    pub queued_bytes: IntGauge,
    /// Refusals of the disk.
    pub write_errors: IntCounter,
    /// Segments removed by retention.
    pub removed_segments: IntCounter,
    /// Bytes removed by retention.
    pub removed_bytes: IntCounter,
    /// Turns of retention that failed.
    pub removal_errors: IntCounter,
}

impl SpoolMetrics {
    /// Declares them all, with the names of the classes; every child reports 0 from the start.
    pub fn register(r: &Registry, classes: &[Class]) -> Self {
        let buckets = prometheus::exponential_buckets(1024.0, 4.0, 15).expect("constants");
        let m = Self {
            frames: counters(
                r,
                "flowarc_capture_frames_total",
                "Frames by what the cutoff said, each once; held ones are among the last of their flow.",
                &["outcome"],
            ),
            bytes: counters(
                r,
                "flowarc_capture_bytes_total",
                "Bytes of frames: seen on the wire, and captured bytes of those that are kept.",
                &["stage"],
            ),
            tail_frames: counter(
                r,
                "flowarc_capture_tail_frames_total",
                "Held frames that were kept when their flow ended (-keep.tail).",
            ),
            flows_started: counters(
                r,
                "flowarc_capture_flows_started_total",
                "Flows begun, of every protocol, by class (-class); none is that of all others.",
                &["class"],
            ),
            classes: classes.iter().map(|c| c.name.clone()).chain(["none".to_owned()]).collect(),
            flows_ended: counters(
                r,
                "flowarc_capture_flows_ended_total",
                "Flows ended, by reason; evicted should be zero: it begins anew with all its budget.",
                &["reason"],
            ),
            flows_cut_off: counter(
                r,
                "flowarc_capture_flows_cut_off_total",
                "Flows, or directions of flows, that reached the cutoff.",
            ),
            large_flows: counter(r, "flowarc_capture_large_flows_total", "Times that a flow was told as large (-large.bytes)."),
            flows: gauge(r, "flowarc_capture_flows", "Flows that are followed now."),
            suspended: gauge(
                r,
                "flowarc_capture_suspended",
                "Addresses and flows whose cutoff is suspended by the control socket; forgotten ones fill the disk.",
            ),
            commands: counters(
                r,
                "flowarc_capture_commands_total",
                "Runs of -large.command by outcome; failed and skipped should be zero.",
                &["outcome"],
            ),
            flow_size: register(
                r,
                Histogram::with_opts(
                    HistogramOpts::new("flowarc_capture_flow_size_bytes", "Payload of flows that have ended, kept or not.")
                        .buckets(buckets),
                ),
            ),
            packets: counters(
                r,
                "flowarc_spool_packets_total",
                "Kept packets by what became of them; lost_queue and lost_disk should be zero: the disk is too slow, or full.",
                &["outcome"],
            ),
            written_bytes: counter(r, "flowarc_spool_written_bytes_total", "Bytes written to segments, as they lie on disk."),
            segments: counters(
                r,
                "flowarc_spool_segments_total",
                "Segments that got their names, by how: published in the run, or salvaged after a crash.",
                &["outcome"],
            ),
            queued_bytes: gauge(
                r,
                "flowarc_spool_queued_bytes",
                "Bytes of packets that wait for the writers; near zero is healthy.",
            ),
            write_errors: counter(
                r,
                "flowarc_spool_write_errors_total",
                "Times that the disk refused; should be zero. The block is tried again.",
            ),
            removed_segments: counter(r, "flowarc_spool_removed_segments_total", "Segments removed by retention."),
            removed_bytes: counter(r, "flowarc_spool_removed_bytes_total", "Bytes removed by retention, indexes included."),
            removal_errors: counter(
                r,
                "flowarc_spool_removal_errors_total",
                "Turns of retention, one a second, that the file system refused; should be zero.",
            ),
        };
        for class in &m.classes {
            m.flows_started.with_label_values(&[class]);
        }
        for (_, label) in VERDICTS {
            m.frames.with_label_values(&[label]);
        }
        m.frames.with_label_values(&[FILTERED]);
        for stage in ["seen", "kept"] {
            m.bytes.with_label_values(&[stage]);
        }
        for reason in FlowEnd::ALL {
            m.flows_ended.with_label_values(&[reason.label()]);
        }
        for outcome in ["ok", "failed", "skipped"] {
            m.commands.with_label_values(&[outcome]);
        }
        for outcome in ["written", "lost_queue", "lost_disk"] {
            m.packets.with_label_values(&[outcome]);
        }
        for outcome in ["published", "salvaged"] {
            m.segments.with_label_values(&[outcome]);
        }
        m
    }

    /// Adds what a recorder has counted since `before`.
    pub fn publish(&self, before: &Stats, now: &Stats) {
        for (verdict, label) in VERDICTS {
            let more = now.frames[verdict as usize] - before.frames[verdict as usize];
            self.frames.with_label_values(&[label]).inc_by(more);
        }
        self.frames.with_label_values(&[FILTERED]).inc_by(now.filtered - before.filtered);
        self.bytes.with_label_values(&["seen"]).inc_by(now.bytes_seen - before.bytes_seen);
        self.bytes.with_label_values(&["kept"]).inc_by(now.bytes_kept - before.bytes_kept);
        self.tail_frames.inc_by(now.tail_frames - before.tail_frames);
        for (i, (class, now)) in self.classes.iter().zip(&now.flows_started).enumerate() {
            let before = before.flows_started.get(i).copied().unwrap_or(0);
            self.flows_started.with_label_values(&[class]).inc_by(now - before);
        }
        for reason in FlowEnd::ALL {
            let more = now.flows_ended[reason as usize] - before.flows_ended[reason as usize];
            self.flows_ended.with_label_values(&[reason.label()]).inc_by(more);
        }
        self.flows_cut_off.inc_by(now.flows_cut_off - before.flows_cut_off);
        self.large_flows.inc_by(now.large_flows - before.large_flows);
    }
}

const VERDICTS: [(Verdict, &str); 5] = [
    (Verdict::Kept, "kept"),
    (Verdict::KeptEnd, "kept_end"),
    (Verdict::KeptSuspended, "kept_suspended"),
    (Verdict::Held, "held"),
    (Verdict::CutOff, "cut_off"),
];
const FILTERED: &str = "filtered";
