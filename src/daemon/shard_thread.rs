//! The loop around a live shard: rings in, archive work out.

use super::Parts;
use super::metrics::CaptureMetrics;
use super::status::Status;
use crate::archive::pool::Finisher;
use crate::capture::clock::{self, ClockWatch, ForwardStep};
use crate::capture::live::{LiveError, LiveSource, LiveStats};
use crate::capture::{FrameBatch, PacketSource, Progress};
use crate::identity::{Announcement, EventOutcome};
use crate::key::Address;
use crate::shard::{EndReason, Shard, ShardStats};
use crate::time::{Timeline, Timestamp};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::{HashSet, VecDeque};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{info, warn};

/// What the control plane says to a shard.
pub(super) enum Command {
    /// Capture from this ring too.
    Add(LiveSource),
    /// Stop capturing the interface of this index.
    Remove(u32),
    /// These are the host's addresses.
    Local(Arc<HashSet<Address>>),
    /// Read what the rings hold, end all flows and return.
    Finish,
}

/// A ring that a shard has given up.
#[derive(Debug)]
pub(super) struct RingLost {
    /// The interface's index.
    pub(super) index: u32,
    /// Why.
    pub(super) error: LiveError,
}

/// How the control plane reaches a shard, and what it reads off it.
pub(super) struct Mailbox {
    commands: Mutex<VecDeque<Command>>,
    announcements: Mutex<VecDeque<Arc<Announcement>>>,
    /// Set while there is mail, so that the loop takes the locks only then.
    has_mail: AtomicBool,
    wake: EventFd,
    /// Whether a flow is being kept that is worth waiting for.
    pub(super) busy: AtomicBool,
    /// Flows held.
    pub(super) flows: AtomicU64,
    /// Turns of the loop: it is alive while this grows.
    pub(super) beats: AtomicU64,
}

impl Mailbox {
    /// An empty mailbox.
    pub(super) fn new() -> nix::Result<Self> {
        Ok(Self {
            commands: Mutex::default(),
            announcements: Mutex::default(),
            has_mail: AtomicBool::new(false),
            wake: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
            busy: AtomicBool::new(false),
            flows: AtomicU64::new(0),
            beats: AtomicU64::new(0),
        })
    }

    /// Says something, and wakes the shard to hear it.
    pub(super) fn send(&self, command: Command) {
        lock(&self.commands).push_back(command);
        self.has_mail.store(true, Ordering::Release);
        // The counter can only be full when a wake-up is pending.
        let _ = self.wake.write(1);
    }

    /// Tells of an event. Never waits: a shard that does not listen loses the oldest, which counts as overflow. The shard
    /// takes it when its frames have reached the event's time, or after [`ANNOUNCEMENT_WAIT`].
    pub(super) fn announce(&self, announcement: &Arc<Announcement>) {
        let mut queue = lock(&self.announcements);
        if queue.len() >= ANNOUNCEMENTS_MAX
            && let Some(oldest) = queue.pop_front()
        {
            oldest.settle(EventOutcome::Overflow);
        }
        queue.push_back(Arc::clone(announcement));
        self.has_mail.store(true, Ordering::Release);
    }
}

/// Runs a shard until it is told to finish.
pub(super) fn run(parts: &Parts, shard: Shard, status: &Status, mailbox: &Mailbox, lost: &UnboundedSender<RingLost>) {
    let mut thread = ShardThread {
        parts,
        status,
        shard,
        rings: Vec::new(),
        frames: FrameBatch::default(),
        clock: LiveClock::default(),
        heard: VecDeque::new(),
        drops_of_closed: 0,
        published: ShardStats::default(),
        housekeeping: Instant::now(),
        clean_up: Instant::now(),
        flows_cleaned_up: 0,
        backward_steps: 0,
    };
    loop {
        mailbox.beats.fetch_add(1, Ordering::Relaxed);
        if mailbox.has_mail.swap(false, Ordering::Acquire) && thread.take_mail(mailbox) {
            break;
        }
        thread.watch_clock();
        let idle = thread.read_rings(lost);
        thread.hear(ANNOUNCEMENT_WAIT);
        thread.hand_over();
        thread.housekeep(mailbox);
        if idle {
            thread.sleep(mailbox);
        }
    }
    thread.finish(lost);
    mailbox.busy.store(false, Ordering::Relaxed);
}

struct ShardThread<'a> {
    parts: &'a Parts,
    status: &'a Status,
    shard: Shard,
    rings: Vec<Ring>,
    /// Empty between batches.
    frames: FrameBatch,
    clock: LiveClock,
    /// Announcements whose time the frames have not reached, and when each was heard.
    heard: VecDeque<(Instant, Arc<Announcement>)>,
    drops_of_closed: u64,
    published: ShardStats,
    housekeeping: Instant,
    clean_up: Instant,
    /// Flows held at that time.
    flows_cleaned_up: usize,
    /// Backward steps of the clock that were counted.
    backward_steps: u64,
}

struct Ring {
    source: LiveSource,
    stats: LiveStats,
}

/// Packet time of a live shard: timestamps of frames, and the clock while there are none, without the clock's steps.
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

impl ShardThread<'_> {
    /// Does what the control plane says; true if that is to finish.
    fn take_mail(&mut self, mailbox: &Mailbox) -> bool {
        let heard = Instant::now();
        self.heard.extend(lock(&mailbox.announcements).drain(..).map(|announcement| (heard, announcement)));
        let commands = std::mem::take(&mut *lock(&mailbox.commands));
        for command in commands {
            match command {
                Command::Add(source) => self.rings.push(Ring { source, stats: LiveStats::default() }),
                Command::Remove(index) => self.close_rings(|ring| ring.source.interface_index() == index),
                Command::Local(local) => self.shard.set_local_addresses(local),
                Command::Finish => return true,
            }
        }
        false
    }

    /// Notices a step of the clock before the first frame that was stamped after it is read.
    fn watch_clock(&mut self) {
        if let Some(step) = self.clock.watch.observe(clock::now(), Instant::now()) {
            self.parts.metrics.forward_steps.inc();
            self.clock.steps.push_back(step);
        }
    }

    /// Reads a batch of each ring; true if there was nothing in any of them.
    fn read_rings(&mut self, lost: &UnboundedSender<RingLost>) -> bool {
        let mut idle = true;
        let mut watermark = if self.rings.is_empty() { clock::now() } else { Timestamp::MAX };
        let mut gone = Vec::new();
        let Self { shard, clock, rings, frames, .. } = self;
        for ring in rings {
            let progress = ring.source.next_batch(&mut |frame| {
                frames.push(&frame, clock.observe(frame.ts));
                if frames.len() == FRAMES {
                    shard.handle_frames(frames, 0..FRAMES);
                    frames.clear();
                }
            });
            shard.handle_frames(frames, 0..frames.len());
            frames.clear();
            match progress {
                Ok(Progress::Idle { watermark: w }) => watermark = watermark.min(w),
                Ok(_) => idle = false,
                Err(error) => gone.push(RingLost { index: ring.source.interface_index(), error }),
            }
        }
        for loss in gone {
            self.close_rings(|ring| ring.source.interface_index() == loss.index);
            // The control plane stops listening only when it is ending everything.
            let _ = lost.send(loss);
        }
        if idle && watermark < Timestamp::MAX {
            let now = self.clock.observe(watermark);
            self.shard.advance(now);
        }
        idle
    }

    /// Takes the announcements whose time has come in the frames: rings hand frames over late, and an announcement that
    /// overtook the SYN of its connection would name the connection before it on the same ends.
    fn hear(&mut self, wait: Duration) {
        let latest = self.clock.timeline.latest();
        let is_due = |(heard, a): &(Instant, Arc<Announcement>)| a.event().at() <= latest || heard.elapsed() >= wait;
        while self.heard.front().is_some_and(is_due)
            && let Some((_, announcement)) = self.heard.pop_front()
        {
            self.shard.handle_event(&announcement, self.clock.timeline.now());
        }
    }

    fn hand_over(&mut self) {
        self.parts.writers.submit(std::iter::from_fn(|| self.shard.poll_archive()));
        while let Some(disagreement) = self.shard.poll_disagreement() {
            self.status.complain(&disagreement);
        }
        while let Some(key) = self.shard.poll_question() {
            if let Some(source) = self.parts.questions.get() {
                source.ask(key);
            }
        }
    }

    /// What is done ten times a second and not per batch: the kernel's counts, memory.
    fn housekeep(&mut self, mailbox: &Mailbox) {
        let now = self.shard.stats().clone();
        if now != self.published {
            self.parts.metrics.shard.publish(&self.published, &now);
            self.published = now;
        }
        mailbox.busy.store(self.shard.is_busy(), Ordering::Relaxed);
        mailbox.flows.store(self.shard.flows() as u64, Ordering::Relaxed);
        if self.housekeeping.elapsed() < HOUSEKEEPING {
            return;
        }
        self.housekeeping = Instant::now();
        self.count_kernel_drops();
        let backward = self.clock.timeline.backward_steps();
        self.parts.metrics.backward_steps.inc_by(backward - self.backward_steps);
        self.backward_steps = backward;
        if self.clean_up.elapsed() >= self.parts.config.timers.flow_timeout {
            let start = Instant::now();
            self.shard.give_back();
            self.clean_up = Instant::now();
            let flows = self.shard.flows();
            self.parts.metrics.shard.clean_up(self.flows_cleaned_up, flows, start.elapsed());
            self.flows_cleaned_up = flows;
        }
    }

    fn count_kernel_drops(&mut self) {
        for ring in &mut self.rings {
            ring.count(&self.parts.metrics.capture);
        }
        let drops = self.rings.iter().map(|r| r.stats.dropped).sum::<u64>() + self.drops_of_closed;
        let was_shedding = self.shard.is_shedding();
        self.shard.set_kernel_drops(drops);
        match (was_shedding, self.shard.is_shedding()) {
            (false, true) => warn!(drops, "the kernel drops frames: fewer flows are begun, so that those begun are whole"),
            (true, false) => info!(drops, "all flows are begun again"),
            _ => {}
        }
    }

    fn close_rings(&mut self, closes: impl Fn(&Ring) -> bool) {
        for mut ring in self.rings.extract_if(.., |ring| closes(ring)) {
            ring.count(&self.parts.metrics.capture);
            self.drops_of_closed += ring.stats.dropped;
        }
    }

    fn sleep(&self, mailbox: &Mailbox) {
        let mut fds: Vec<_> = self.rings.iter().map(|r| PollFd::new(r.source.as_fd(), PollFlags::POLLIN)).collect();
        fds.push(PollFd::new(mailbox.wake.as_fd(), PollFlags::POLLIN));
        // Interrupted or not, the loop looks at everything again.
        let _ = poll(&mut fds, PollTimeout::from(NAP.as_millis() as u8));
        let _ = mailbox.wake.read();
    }

    /// Reads what is still in the rings, ends all flows and hands them over.
    fn finish(mut self, lost: &UnboundedSender<RingLost>) {
        // The youngest frames lie in blocks that the kernel hands over when they are full or have aged.
        std::thread::sleep(BLOCK_AGE);
        let deadline = Instant::now() + LAST_READ;
        while !self.read_rings(lost) && Instant::now() < deadline {
            self.hand_over();
        }
        self.hear(Duration::ZERO);
        self.count_kernel_drops();
        let now = self.clock.timeline.now();
        let mut finisher = Finisher::new(&self.parts.writers);
        self.shard.finish(EndReason::Shutdown, now, |op| finisher.push(op));
        drop(finisher);
        let last = self.shard.stats().clone();
        self.parts.metrics.shard.publish(&self.published, &last);
    }
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

/// A thread that panicked while it held the lock has left a queue that is whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Frames handled together. Small, so that they are still in the processor's first cache.
const FRAMES: usize = 64;
/// The longest sleep of an idle shard: how late a timer or an announcement can be on a silent network.
const NAP: Duration = Duration::from_millis(100);
/// How often the kernel's counters are looked at; [`Shard::set_kernel_drops`] counts on it.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// Longer than the 10 ms after which the kernel hands over a block that is not full, and its timer's slack.
const BLOCK_AGE: Duration = Duration::from_millis(30);
/// A network that never falls silent is not read for ever at the end.
const LAST_READ: Duration = Duration::from_millis(500);
/// The longest that an announcement waits for the frames to reach its time: more than a ring holds frames back, and a bound
/// for sources whose clock is not ours.
const ANNOUNCEMENT_WAIT: Duration = Duration::from_millis(250);
/// Announcements that may wait for one shard: minutes of them.
const ANNOUNCEMENTS_MAX: usize = 1 << 20;
