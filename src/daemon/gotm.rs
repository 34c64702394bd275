//! gotm's metrics, by its names, types and labels, for its dashboards: beside ours, and only in its form.

use crate::metrics::register;
use crate::spool::recorder::Stats;
use prometheus::{CounterVec, GaugeVec, Histogram, HistogramOpts, IntCounterVec, Opts, Registry};
use std::time::Duration;

/// What gotm counts. Its workers are our shards, and a worker's flows are of all its interfaces.
#[derive(Clone, Debug)]
pub(super) struct GotmMetrics {
    interfaces: String,
    interval: Duration,
    active: GaugeVec,
    expired: GaugeVec,
    bytes: IntCounterVec,
    bytes_output: IntCounterVec,
    packets: IntCounterVec,
    packets_output: IntCounterVec,
    flows: IntCounterVec,
    flow_size: Histogram,
    expiry: CounterVec,
    filtered: IntCounterVec,
    received: GaugeVec,
    dropped: GaugeVec,
    if_dropped: GaugeVec,
}

impl GotmMetrics {
    /// Declares them; `interval` is how often the number of ended flows is told anew.
    pub(super) fn register(r: &Registry, interfaces: &[String], workers: usize, interval: Duration) -> Self {
        let counters = |name, help| register(r, IntCounterVec::new(Opts::new(name, help), &LABELS));
        let gauges = |name, help| register(r, GaugeVec::new(Opts::new(name, help), &LABELS));
        let expiry = Opts::new("gotm_expired_flow_duration_seconds_sum", "Time spent on flows whose time was over.");
        let filtered = Opts::new("gotm_flows_filtered", "Large flows by what the program said that was told of them.");
        let buckets = prometheus::exponential_buckets(1024.0, 4.0, 15).expect("constants");
        let size = HistogramOpts::new("gotm_flow_size_bytes", "Payload of flows that have ended.").buckets(buckets);
        let m = Self {
            interfaces: interfaces.join(","),
            interval,
            active: gauges("gotm_active_flow_count", "Flows that are followed."),
            expired: gauges("gotm_expired_flow_count", "Flows that have ended in the last -timeinterval."),
            bytes: counters("gotm_bytes_total", "Bytes seen on the wire."),
            bytes_output: counters("gotm_bytes_output_total", "Bytes kept."),
            packets: counters("gotm_packet_count", "Packets seen."),
            packets_output: counters("gotm_packet_output_count", "Packets kept."),
            flows: counters("gotm_flow_count", "Flows begun."),
            flow_size: register(r, Histogram::with_opts(size)),
            expiry: register(r, CounterVec::new(expiry, &LABELS)),
            filtered: register(r, IntCounterVec::new(filtered, &["status"])),
            received: gauges("gotm_packet_nic_received", "Frames that the interface's rings got."),
            dropped: gauges("gotm_packet_nic_dropped", "Frames that found a ring full."),
            if_dropped: gauges("gotm_packet_nic_if_dropped", "Frames that the interface lost."),
        };
        for worker in 0..workers {
            m.expiring(worker, Duration::ZERO);
            m.expired(worker, 0);
            m.publish(worker, &Stats::default(), &Stats::default(), 0);
        }
        m.filtered(0, 0);
        m
    }

    /// Adds what a worker has done since `before`.
    pub(super) fn publish(&self, worker: usize, before: &Stats, now: &Stats, flows: usize) {
        let worker = worker.to_string();
        let labels = [self.interfaces.as_str(), &worker];
        let all = |s: &Stats| s.frames.iter().sum::<u64>();
        // The verdicts that keep come first.
        let kept = |s: &Stats| s.frames[..3].iter().sum::<u64>() + s.tail_frames;
        let started = |s: &Stats| s.flows_started.iter().sum::<u64>();
        self.active.with_label_values(&labels).set(flows as f64);
        self.bytes.with_label_values(&labels).inc_by(now.bytes_seen - before.bytes_seen);
        self.bytes_output.with_label_values(&labels).inc_by(now.bytes_kept - before.bytes_kept);
        self.packets.with_label_values(&labels).inc_by(all(now) - all(before));
        self.packets_output.with_label_values(&labels).inc_by(kept(now) - kept(before));
        self.flows.with_label_values(&labels).inc_by(started(now) - started(before));
    }

    /// Notes how many flows of a worker have ended since it was noted before.
    pub(super) fn expired(&self, worker: usize, flows: u64) {
        self.expired.with_label_values(&[self.interfaces.as_str(), &worker.to_string()]).set(flows as f64);
    }

    /// Notes how long a worker has spent on flows whose time was over.
    pub(super) fn expiring(&self, worker: usize, took: Duration) {
        self.expiry.with_label_values(&[self.interfaces.as_str(), &worker.to_string()]).inc_by(took.as_secs_f64());
    }

    /// Notes how many runs of the large-flow command went well since the start, and how many did not.
    pub(super) fn filtered(&self, ok: u64, err: u64) {
        for (status, total) in [("ok", ok), ("err", err)] {
            let counter = self.filtered.with_label_values(&[status]);
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }

    /// How often [`GotmMetrics::expired`] is to be told.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Notes a flow that has ended.
    pub(super) fn ended(&self, bytes: u64) {
        self.flow_size.observe(bytes as f64);
    }

    /// Notes what the kernel counts for an interface and a worker.
    pub(super) fn ring(&self, interface: &str, worker: usize, received: u64, dropped: u64, if_dropped: u64) {
        let labels = [interface, &worker.to_string()];
        for (gauge, value) in [(&self.received, received), (&self.dropped, dropped), (&self.if_dropped, if_dropped)] {
            gauge.with_label_values(&labels).set(value as f64);
        }
    }
}

const LABELS: [&str; 2] = ["interface", "worker"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_the_command_are_told_once_however_often_they_are_looked_at() {
        let m = GotmMetrics::register(&Registry::new(), &["eth0".to_owned()], 2, Duration::from_secs(5));
        for (ok, err) in [(2, 1), (2, 1), (3, 1)] {
            m.filtered(ok, err);
            assert_eq!(["ok", "err"].map(|s| m.filtered.with_label_values(&[s]).get()), [ok, err]);
        }
    }
}
