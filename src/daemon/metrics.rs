//! What the daemon itself counts: rings, clocks, the event socket, memory.

use crate::capture::clock;
use crate::cli::config::HeadersConfig;
use crate::flow::ledger::Ledger;
use crate::identity::EventMetrics;
use crate::identity::eventsocket::EventsFileError;
use crate::identity::kernel::Stats;
use crate::metrics::{PredecessorMetrics, counter, counters, gauge, register};
use crate::sandbox::SandboxMetrics;
use crate::shard::ShardMetrics;
use crate::time::Timestamp;
use flowarc_eventsocket::{BadKind, ClientStats, Server};
use prometheus::{Counter, Gauge, IntCounter, IntCounterVec, IntGauge, Registry};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Metrics that the daemon and its threads count.
pub(super) struct Metrics {
    pub(super) shard: ShardMetrics,
    pub(super) events: EventMetrics,
    pub(super) predecessor: PredecessorMetrics,
    pub(super) capture: CaptureMetrics,
    pub(super) socket: SocketMetrics,
    pub(super) kernel: KernelMetrics,
    pub(super) served: ServedMetrics,
    sandbox: SandboxMetrics,
    ledger_held: IntGauge,
    ledger_budget: IntGauge,
    ledger: Arc<Ledger>,
}

/// What the kernel counts, by interface, and steps of the clock.
pub(super) struct CaptureMetrics {
    pub(super) received: IntCounterVec,
    pub(super) kernel_drops: IntCounterVec,
    pub(super) interface_drops: IntCounterVec,
    pub(super) backward_steps: IntCounter,
    pub(super) forward_steps: IntCounter,
}

/// What the kernel source does.
pub(super) struct KernelMetrics {
    lookups: IntCounterVec,
    lookup_seconds: Counter,
    dropped: IntCounter,
    destroyed: IntCounter,
    overflows: IntCounter,
    aborts: IntCounterVec,
    lists: IntCounter,
    live: IntGauge,
}

/// The event socket that we serve.
pub(super) struct ServedMetrics {
    clients: IntGauge,
    cut_off: IntCounter,
}

/// The event socket's side of things.
pub(super) struct SocketMetrics {
    pub(super) ignored: IntCounter,
    connected: IntGauge,
    reconnects: IntCounter,
    bad_lines: IntCounterVec,
    dropped: IntCounter,
    lag: Gauge,
}

impl Metrics {
    pub(super) fn register(
        r: &Registry,
        predecessor: PredecessorMetrics,
        sandbox: SandboxMetrics,
        config: &HeadersConfig,
        ledger: &Arc<Ledger>,
    ) -> Self {
        let metrics = Self {
            shard: ShardMetrics::register(r, &predecessor, config.output.stream),
            events: EventMetrics::register(r, &predecessor),
            predecessor,
            capture: CaptureMetrics::register(r),
            socket: SocketMetrics::register(r),
            kernel: KernelMetrics::register(r),
            served: ServedMetrics::register(r),
            sandbox,
            ledger_held: gauge(
                r,
                "flowarc_ledger_held_bytes",
                "What flows hold now, from the first header to the file's rename.",
            ),
            ledger_budget: gauge(r, "flowarc_ledger_budget_bytes", "What -maxheap leaves to flows beside rings and code."),
            ledger: Arc::clone(ledger),
        };
        metrics.tick();
        metrics
    }

    /// Counts a line of an event file that could not be used.
    pub(super) fn refused(&self, error: &EventsFileError) {
        match error {
            EventsFileError::Line(line) => self.socket.bad_lines.with_label_values(&[line.kind.label()]).inc(),
            EventsFileError::Event(event) => self.predecessor.bad_events.with_label_values(&[event.label()]).inc(),
            EventsFileError::Read(_) => {}
        }
    }

    /// Refreshes what is read and not counted.
    pub(super) fn tick(&self) {
        self.ledger_held.set(i64::try_from(self.ledger.held()).unwrap_or(i64::MAX));
        self.ledger_budget.set(i64::try_from(self.ledger.budget()).unwrap_or(i64::MAX));
        self.sandbox.tick();
    }
}

impl CaptureMetrics {
    pub(super) fn register(r: &Registry) -> Self {
        let by_interface = |name: &str, help: &str| counters(r, name, help, &["interface"]);
        Self {
            received: by_interface(
                "flowarc_ring_frames_total",
                "Frames that passed the kernel's filter, those that found the ring full included.",
            ),
            kernel_drops: by_interface(
                "flowarc_kernel_drops_total",
                "Frames that found the ring full and are lost; should be zero: more -shards or a larger -ring.size helps.",
            ),
            interface_drops: by_interface(
                "flowarc_interface_drops_total",
                "Frames that the interface or its driver lost before capture; should be zero.",
            ),
            backward_steps: counter(
                r,
                "flowarc_clock_steps_backward_total",
                "Times that capture timestamps went back by more than 10 s: the clock was set back, as seen by each shard, or an older file began.",
            ),
            forward_steps: counter(
                r,
                "flowarc_clock_steps_forward_total",
                "Times that the clock was set forward by more than 500 ms, as seen by each shard.",
            ),
        }
    }
}

impl KernelMetrics {
    fn register(r: &Registry) -> Self {
        let lookups = counters(
            r,
            "flowarc_kernel_lookups_total",
            "Questions to the kernel for a connection's UUID, by what came back; failed should be zero.",
            &["outcome"],
        );
        for outcome in LOOKUPS {
            lookups.with_label_values(&[outcome]);
        }
        Self {
            lookups,
            lookup_seconds: register(
                r,
                Counter::new("flowarc_kernel_lookup_seconds_total", "Time that questions to the kernel took, all together."),
            ),
            dropped: counter(
                r,
                "flowarc_kernel_questions_dropped_total",
                "Questions dropped because too many waited; should be zero: the ends of connections still tell their names.",
            ),
            destroyed: counter(r, "flowarc_kernel_sockets_destroyed_total", "Ends of sockets that the kernel told."),
            overflows: counter(
                r,
                "flowarc_kernel_overflows_total",
                "Times that ends of sockets were lost because the netlink buffer was full; should be zero. All sockets are listed then.",
            ),
            aborts: {
                let aborts = counters(
                    r,
                    "flowarc_kernel_aborts_total",
                    "Sockets that their program aborted before the kernel could be asked for them: named, or ambiguous and so without a file.",
                    &["outcome"],
                );
                ABORTS.iter().for_each(|outcome| drop(aborts.with_label_values(&[outcome])));
                aborts
            },
            lists: counter(r, "flowarc_kernel_lists_total", "Lists of all sockets asked of the kernel."),
            live: gauge(r, "flowarc_kernel_sockets_announced", "Sockets that were announced and have not ended."),
        }
    }

    /// Takes over what the source has counted since the last time.
    pub(super) fn tick(&self, stats: &Stats) {
        for (outcome, count) in LOOKUPS.into_iter().zip([&stats.found, &stats.listen_only, &stats.nothing, &stats.failed]) {
            take_over(&self.lookups.with_label_values(&[outcome]), count.load(Relaxed));
        }
        take_over(&self.dropped, stats.dropped.load(Relaxed));
        take_over(&self.destroyed, stats.destroyed.load(Relaxed));
        take_over(&self.overflows, stats.overflows.load(Relaxed));
        for (outcome, count) in ABORTS.into_iter().zip([&stats.aborts_named, &stats.aborts_ambiguous]) {
            take_over(&self.aborts.with_label_values(&[outcome]), count.load(Relaxed));
        }
        take_over(&self.lists, stats.lists.load(Relaxed));
        self.live.set(i64::try_from(stats.live.load(Relaxed)).unwrap_or(i64::MAX));
        let seconds = Duration::from_nanos(stats.lookup_nanos.load(Relaxed)).as_secs_f64();
        self.lookup_seconds.inc_by((seconds - self.lookup_seconds.get()).max(0.0));
    }
}

impl ServedMetrics {
    fn register(r: &Registry) -> Self {
        Self {
            clients: gauge(r, "flowarc_eventsocket_clients", "Clients of the event socket that is served (-eventsocket.serve)."),
            cut_off: counter(
                r,
                "flowarc_eventsocket_clients_cut_off_total",
                "Clients of the served event socket that were cut off because they did not read; should be zero.",
            ),
        }
    }

    /// Takes over what the server has counted since the last time.
    pub(super) fn tick(&self, server: &Server) {
        self.clients.set(i64::try_from(server.clients()).unwrap_or(i64::MAX));
        take_over(&self.cut_off, server.cut_off());
    }
}

/// What comes of a socket that was aborted unasked.
const ABORTS: [&str; 2] = ["named", "ambiguous"];

/// What comes back for a question.
const LOOKUPS: [&str; 4] = ["found", "listen_only", "nothing", "failed"];

/// Brings a counter up to a total that is counted elsewhere.
fn take_over(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

impl SocketMetrics {
    fn register(r: &Registry) -> Self {
        let bad_lines = counters(
            r,
            "flowarc_event_lines_bad_total",
            "Lines of the event socket or event file that are no events, by what is wrong; should be zero.",
            &["kind"],
        );
        for kind in BadKind::ALL {
            bad_lines.with_label_values(&[kind.label()]);
        }
        Self {
            ignored: counter(r, "flowarc_events_ignored_total", "Events of kinds that mean nothing to us."),
            connected: gauge(r, "flowarc_eventsocket_connected", "1 while the event socket is connected."),
            reconnects: counter(r, "flowarc_eventsocket_reconnects_total", "Connections to the event socket after the first."),
            bad_lines,
            dropped: counter(
                r,
                "flowarc_eventsocket_dropped_total",
                "Events lost because they came faster than they could be passed on; should be zero.",
            ),
            lag: register(
                r,
                Gauge::new(
                    "flowarc_eventsocket_lag_seconds",
                    "How old the last event was when it was heard; below 0.1 is healthy.",
                ),
            ),
        }
    }

    /// Notes how old an event was when it came.
    pub(super) fn heard(&self, at: Timestamp) {
        self.lag.set(clock::now().since(at).as_secs_f64());
    }

    /// Takes over what a client has counted since the last time.
    pub(super) fn tick(&self, stats: &ClientStats) {
        self.connected.set(stats.connected().into());
        take_over(&self.reconnects, stats.reconnects());
        take_over(&self.dropped, stats.dropped());
        for kind in BadKind::ALL {
            take_over(&self.bad_lines.with_label_values(&[kind.label()]), stats.bad(kind));
        }
    }
}
