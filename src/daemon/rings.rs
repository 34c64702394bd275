//! The rings of live capture: which are open, and how a thread reads its share of them.
//!
//! [`Interfaces`] is the control plane's side: it keeps rings in step with the host's interfaces. [`RingSet`] is a
//! thread's side: its rings, their clock and their counts.

use super::metrics::CaptureMetrics;
use super::shard_thread::{Command, RingLost};
use super::status::Status;
use crate::capture::clock::{self, ClockWatch, ForwardStep};
use crate::capture::filter::RingFilter;
use crate::capture::interfaces::{Link, Snapshot};
use crate::capture::live::{LiveError, LiveSource, LiveStats, RingOptions};
use crate::capture::{Frame, PacketSource, Progress};
use crate::time::{Timeline, Timestamp};
use anyhow::{Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{info, warn};

/// What rings are to be opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingPlan<'a> {
    /// Interfaces asked for; empty for all.
    pub(super) requested: &'a [String],
    /// Bytes of each ring; `None` to choose by their number.
    pub(super) ring_size: Option<u32>,
    /// Bytes that the rings may take together where none is asked for.
    pub(super) memory: u64,
    /// Threads that share each interface.
    pub(super) shards: NonZeroUsize,
    /// Bytes captured of each frame.
    pub(super) snap_len: u32,
    /// What is captured.
    pub(super) filter: RingFilter,
    /// Whether interfaces shall take frames that are not for this host.
    pub(super) promiscuous: bool,
}

/// Keeps the rings in step with the host's interfaces.
pub(super) struct Interfaces<'a> {
    plan: RingPlan<'a>,
    status: &'a Status,
    /// Interfaces that are being captured, by index.
    open: HashMap<u32, Captured>,
    /// Interfaces that cannot be captured and were complained about.
    refused: HashSet<u32>,
    /// Interfaces asked for that are missing or down.
    waiting: Vec<String>,
}

struct Captured {
    name: String,
    /// Bytes of its rings, in all threads.
    ring_bytes: u64,
}

impl<'a> Interfaces<'a> {
    pub(super) fn new(plan: RingPlan<'a>, status: &'a Status) -> Self {
        Self { plan, status, open: HashMap::new(), refused: HashSet::new(), waiting: Vec::new() }
    }

    /// Refuses a name that no interface has.
    pub(super) fn check(&self, snapshot: &Snapshot) -> Result<()> {
        if self.plan.requested.is_empty() {
            info!("no interfaces named: capturing on all that are up");
        }
        for name in self.plan.requested {
            if !snapshot.links.iter().any(|link| link.name == *name) {
                let known: Vec<_> = snapshot.links.iter().map(|link| link.name.as_str()).collect();
                bail!("interface {name}: no such interface (there are: {})", known.join(", "));
            }
        }
        Ok(())
    }

    /// Opens rings for interfaces that have come and closes those of interfaces that have gone.
    ///
    /// # Errors
    /// At the `first` time, what cannot work later either stops the program: no capability, a link type that is not
    /// supported on a named interface.
    pub(super) fn reconcile(&mut self, snapshot: &Snapshot, first: bool) -> Result<()> {
        let selection = snapshot.select(self.plan.requested);
        let gone: Vec<_> = self
            .open
            .iter()
            .filter(|(index, open)| !selection.capture.iter().any(|link| link.index == **index && link.name == open.name))
            .map(|(index, _)| *index)
            .collect();
        for index in gone {
            self.close(index);
        }
        self.refused.retain(|index| snapshot.links.iter().any(|link| link.index == *index));
        for link in &selection.capture {
            if !self.open.contains_key(&link.index) && !self.refused.contains(&link.index) {
                self.open_rings(link, selection.capture.len(), first)?;
            }
        }
        if selection.waiting != self.waiting {
            for name in &selection.waiting {
                warn!(interface = name, "waiting for the interface to be there and up");
            }
            self.waiting.clone_from(&selection.waiting);
        }
        // In the default of all interfaces, one that cannot be captured is not missed.
        let named = |link: &&Link| self.plan.requested.contains(&link.name) && !self.open.contains_key(&link.index);
        let refused = selection.capture.iter().filter(named).map(|link| link.name.clone());
        let waiting: Vec<_> = self.waiting.iter().cloned().chain(refused).collect();
        self.status.set_interfaces(self.open.len(), &waiting);
        Ok(())
    }

    /// Closes what a thread has given up; it is opened again when it can be.
    pub(super) fn lose(&mut self, loss: &RingLost) {
        if self.open.contains_key(&loss.index) {
            warn!(error = %loss.error);
            self.close(loss.index);
        }
    }

    /// Interfaces that are being captured.
    pub(super) fn capturing(&self) -> usize {
        self.open.len()
    }

    /// Memory of all rings, in bytes.
    pub(super) fn ring_bytes(&self) -> u64 {
        self.open.values().map(|captured| captured.ring_bytes).sum()
    }

    fn open_rings(&mut self, link: &Link, interfaces: usize, first: bool) -> Result<()> {
        let shards = self.plan.shards;
        let ring_bytes = self.plan.ring_size.unwrap_or_else(|| default_ring(self.plan.memory, interfaces * shards.get()));
        let RingPlan { snap_len: snaplen, filter, promiscuous, .. } = self.plan;
        let options = RingOptions { snaplen, ring_bytes, filter, promiscuous };
        let named = !self.plan.requested.is_empty();
        match LiveSource::open(&link.name, shards, options) {
            Ok(rings) => {
                info!(interface = link.name, shards, ring_bytes, "capturing");
                for (mailbox, ring) in self.status.mailboxes.iter().zip(rings) {
                    mailbox.send(Command::Add(ring));
                }
                let ring_bytes = u64::from(ring_bytes) * shards.get() as u64;
                self.open.insert(link.index, Captured { name: link.name.clone(), ring_bytes });
            }
            Err(error @ LiveError::NotPermitted { .. }) if first => return Err(error.into()),
            Err(error @ LiveError::UnsupportedLink { .. }) if first && named => return Err(error.into()),
            Err(error @ LiveError::UnsupportedLink { .. }) => {
                warn!(%error);
                self.refused.insert(link.index);
            }
            // It is tried again at the next tick.
            Err(error) => self.status.complain(&error),
        }
        Ok(())
    }

    fn close(&mut self, index: u32) {
        if let Some(captured) = self.open.remove(&index) {
            info!(interface = captured.name, "no longer capturing");
            for mailbox in &self.status.mailboxes {
                mailbox.send(Command::Remove(index));
            }
        }
    }
}

/// One thread's rings, its packet time, and what the kernel counts.
#[derive(Default)]
pub(super) struct RingSet {
    rings: Vec<Ring>,
    clock: LiveClock,
    drops_of_closed: u64,
    backward_steps: u64,
}

struct Ring {
    source: LiveSource,
    stats: LiveStats,
}

/// Packet time of a live thread: timestamps of frames, and the clock while there are none, without the clock's steps.
#[derive(Default)]
struct LiveClock {
    timeline: Timeline,
    watch: ClockWatch,
    steps: VecDeque<ForwardStep>,
}

impl LiveClock {
    fn observe(&mut self, ts: Timestamp) -> Timestamp {
        while let Some(step) = self.steps.front().filter(|step| step.from <= ts) {
            self.timeline.absorb_forward_step(step.by);
            self.steps.pop_front();
        }
        self.timeline.observe(ts)
    }
}

impl RingSet {
    pub(super) fn add(&mut self, source: LiveSource) {
        self.rings.push(Ring { source, stats: LiveStats::default() });
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = &LiveSource> {
        self.rings.iter().map(|ring| &ring.source)
    }

    pub(super) fn remove(&mut self, index: u32, metrics: &CaptureMetrics) {
        for mut ring in self.rings.extract_if(.., |ring| ring.source.interface_index() == index) {
            ring.count(metrics);
            self.drops_of_closed += ring.stats.dropped;
        }
    }

    /// Notices a step of the clock before the first frame that was stamped after it is read.
    pub(super) fn watch_clock(&mut self, metrics: &CaptureMetrics) {
        if let Some(step) = self.clock.watch.observe(clock::now(), Instant::now()) {
            metrics.forward_steps.inc();
            self.clock.steps.push_back(step);
        }
    }

    /// Reads a batch of each ring. If there was nothing in any of them, gives the time that timers may go to.
    pub(super) fn read(
        &mut self,
        lost: &UnboundedSender<RingLost>,
        metrics: &CaptureMetrics,
        mut sink: impl FnMut(&Frame<'_>, Timestamp),
    ) -> Read {
        let mut idle = true;
        let mut watermark = if self.rings.is_empty() { clock::now() } else { Timestamp::MAX };
        let mut gone = Vec::new();
        let Self { rings, clock, .. } = self;
        for ring in rings {
            match ring.source.next_batch(&mut |frame| sink(&frame, clock.observe(frame.ts))) {
                Ok(Progress::Idle { watermark: w }) => watermark = watermark.min(w),
                Ok(_) => idle = false,
                Err(error) => gone.push(RingLost { index: ring.source.interface_index(), error }),
            }
        }
        for loss in gone {
            self.remove(loss.index, metrics);
            // The control plane stops listening only when it is ending everything.
            let _ = lost.send(loss);
        }
        match idle {
            false => Read::Frames,
            true if watermark < Timestamp::MAX => Read::Idle(Some(self.clock.observe(watermark))),
            true => Read::Idle(None),
        }
    }

    /// Publishes what the kernel has counted; all drops so far.
    pub(super) fn count(&mut self, metrics: &CaptureMetrics) -> u64 {
        for ring in &mut self.rings {
            ring.count(metrics);
        }
        let backward = self.clock.timeline.backward_steps();
        metrics.backward_steps.inc_by(backward - self.backward_steps);
        self.backward_steps = backward;
        self.rings.iter().map(|r| r.stats.dropped).sum::<u64>() + self.drops_of_closed
    }

    /// What the kernel had counted when [`RingSet::count`] was last called, by interface.
    pub(super) fn stats(&self) -> impl Iterator<Item = (&str, &LiveStats)> {
        self.rings.iter().map(|ring| (ring.source.interface(), &ring.stats))
    }

    /// Waits for frames, for `wake`, or for a while.
    pub(super) fn sleep(&self, wake: BorrowedFd<'_>) {
        let mut fds: Vec<_> = self.rings.iter().map(|r| PollFd::new(r.source.as_fd(), PollFlags::POLLIN)).collect();
        fds.push(PollFd::new(wake, PollFlags::POLLIN));
        // Interrupted or not, the loop looks at everything again.
        let _ = poll(&mut fds, PollTimeout::from(NAP.as_millis() as u8));
    }

    /// Where timers are.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.timeline.now()
    }

    /// The time that frames have reached.
    pub(super) fn latest(&self) -> Timestamp {
        self.clock.timeline.latest()
    }
}

/// What reading the rings came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Read {
    /// There were frames, and there may be more.
    Frames,
    /// There were none, and the time is this, if that is known.
    Idle(Option<Timestamp>),
}

impl Ring {
    /// Publishes what the kernel has counted since the last time.
    fn count(&mut self, metrics: &CaptureMetrics) {
        let stats = self.source.stats();
        let name = self.source.interface();
        for (counter, before, now) in [
            (&metrics.received, self.stats.received, stats.received),
            (&metrics.kernel_drops, self.stats.dropped, stats.dropped),
            (&metrics.interface_drops, self.stats.if_dropped, stats.if_dropped),
        ] {
            counter.with_label_values(&[name]).inc_by(now - before);
        }
        self.stats = stats;
    }
}

/// Ring memory where none is asked for: 100 ms at a million packets per second for a few rings; with many, as on a host of
/// many containers, the same memory in all.
fn default_ring(memory: u64, rings: usize) -> u32 {
    const EACH: u64 = RINGS / 4;
    const LEAST: u64 = 2 << 20;
    (memory / rings.max(1) as u64).clamp(LEAST, EACH) as u32
}

/// Bytes that rings take together at most, as long as none is asked for and there are no more than 64 of them.
pub(super) const RINGS: u64 = 128 << 20;

/// The longest sleep of an idle thread: how late a timer or an announcement can be on a silent network.
const NAP: Duration = Duration::from_millis(100);
