//! What the archive counts.

use crate::metrics::{PredecessorMetrics, counter, counters, gauge, register};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Registry};

/// The archive's metrics, and the predecessor's that it has a share in.
#[derive(Clone, Debug)]
pub struct ArchiveMetrics {
    pub(super) flows: FlowCounters,
    pub(super) files: FileCounters,
    pub(super) merges: IntCounterVec,
    pub(super) salvaged: IntCounterVec,
    pub(super) retries: IntCounterVec,
    pub(super) bytes: IntCounter,
    pub(super) members: IntCounter,
    pub(super) sorted: IntCounter,
    pub(super) lost_packets: IntCounter,
    pub(super) queue: IntGauge,
    pub(super) waiting: IntGauge,
    pub(super) compress_seconds: Histogram,
    pub(super) write_seconds: Histogram,
    /// The predecessor's gauge of flows whose last packets are being written.
    pub(super) writing: IntGauge,
    pub(super) predecessor: PredecessorMetrics,
}

/// Flows that the archive is done with, by outcome. Looked up once: finding a label's child costs more than counting.
#[derive(Clone, Debug)]
pub(super) struct FlowCounters {
    pub(super) saved: IntCounter,
    pub(super) given_up: IntCounter,
    pub(super) discarded: IntCounter,
}

/// File names that appeared, by how.
#[derive(Clone, Debug)]
pub(super) struct FileCounters {
    pub(super) new: IntCounter,
    pub(super) merged: IntCounter,
    pub(super) replaced: IntCounter,
}

impl ArchiveMetrics {
    /// Declares them; every child reports 0 from the start.
    pub fn register(r: &Registry, predecessor: PredecessorMetrics) -> Self {
        let seconds = |name, help, from| {
            let buckets = prometheus::exponential_buckets(from, 4.0, 10).expect("constants");
            register(r, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
        };
        let vec = |name, help, label, values: &[&str]| {
            let vec = counters(r, name, help, &[label]);
            for value in values {
                vec.with_label_values(&[value]);
            }
            vec
        };
        let flows = vec(
            "flowarc_archive_flows_total",
            "Flows that the archive is done with: saved, given up because the disk refused, or discarded for want of a name; givenup should be zero.",
            "outcome",
            &["saved", "givenup", "discarded"],
        );
        let files = vec(
            "flowarc_archive_files_total",
            "File names that appeared in the data folder: new, merged with a file that was there, or in place of one that could not be read; nearly all should be new.",
            "how",
            &["new", "merged", "replaced"],
        );
        Self {
            flows: FlowCounters {
                saved: flows.with_label_values(&["saved"]),
                given_up: flows.with_label_values(&["givenup"]),
                discarded: flows.with_label_values(&["discarded"]),
            },
            files: FileCounters {
                new: files.with_label_values(&["new"]),
                merged: files.with_label_values(&["merged"]),
                replaced: files.with_label_values(&["replaced"]),
            },
            merges: vec(
                "flowarc_archive_merges_total",
                "Files that met one of the same name, by what that one was: added (we had packets that it had not), nothingnew, unreadable, otherlink; few after a restart, else zero.",
                "kind",
                &["added", "nothingnew", "unreadable", "otherlink"],
            ),
            salvaged: vec(
                "flowarc_archive_salvaged_total",
                "Temporary files found after a crash: published, empty (nothing to recover), failed (left where they are, the log says why); should be zero.",
                "outcome",
                &["published", "empty", "failed"],
            ),
            retries: vec(
                "flowarc_archive_retries_total",
                "Attempts at a file that the disk refused, by stage; should be zero.",
                "stage",
                &["mkdir", "fileopen", "writepartial", "streaming", "writefinal"],
            ),
            bytes: counter(r, "flowarc_archive_bytes_total", "Bytes of the files that appeared, compressed."),
            members: counter(
                r,
                "flowarc_archive_members_total",
                "gzip members compressed: one for a short flow, one per 64 KiB for a long.",
            ),
            sorted: counter(
                r,
                "flowarc_archive_sorted_flows_total",
                "Flows saved whose packets had come out of time order; some where several interfaces see one flow.",
            ),
            lost_packets: counter(
                r,
                "flowarc_archive_lost_packets_total",
                "Packets missing from saved files because the disk refused them while memory ran out, or lost them; should be zero.",
            ),
            queue: gauge(
                r,
                "flowarc_archive_queue_length",
                "Operations that wait for a writer; near zero while writers keep up.",
            ),
            waiting: gauge(r, "flowarc_archive_files_waiting", "Finished files in memory that the disk refuses; should be zero."),
            compress_seconds: seconds(
                "flowarc_archive_compress_seconds",
                "Time to compress a member; about 20 us for a short flow, 1 ms for 64 KiB.",
                4e-6,
            ),
            write_seconds: seconds(
                "flowarc_archive_write_seconds",
                "Time to write and publish a file; below 1 ms on a healthy disk without -fsync.",
                16e-6,
            ),
            writing: predecessor.saver_states.with_label_values(&["writefinal"]),
            predecessor,
        }
    }
}
