//! The loop around a live shard: rings in, archive work out.

use super::Parts;
use super::rings::{Read, RingSet};
use super::shunting::Shunting;
use super::status::Status;
use crate::archive::pool::Finisher;
use crate::capture::live::{LiveError, LiveSource};
use crate::identity::{Announcement, EventOutcome};
use crate::key::Address;
use crate::packet::FrameBatch;
use crate::sandbox::{self, Role};
use crate::shard::{EndReason, Shard, ShardStats, ShuntOp};
use crate::spool::Tuple;
use crate::spool::cutoff::Target;
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
    /// Keep everything of these flows (full capture).
    Suspend(Target),
    /// Let the cutoff hold for them again (full capture).
    Resume(Target),
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
    pub(super) wake: EventFd,
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

    /// Whether something was said since the last time, and what.
    pub(super) fn take_commands(&self) -> VecDeque<Command> {
        if self.has_mail.swap(false, Ordering::Acquire) { std::mem::take(&mut *lock(&self.commands)) } else { VecDeque::new() }
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
pub(super) fn run(
    parts: &Parts,
    shard: Shard,
    shunting: Option<Shunting>,
    status: &Status,
    mailbox: &Mailbox,
    lost: &UnboundedSender<RingLost>,
) {
    sandbox::narrow(Role::Shard);
    let mut thread = ShardThread {
        parts,
        status,
        shard,
        rings: RingSet::default(),
        shunting,
        frames: FrameBatch::default(),
        heard: VecDeque::new(),
        published: ShardStats::default(),
        housekeeping: Instant::now(),
        clean_up: Instant::now(),
        flows_cleaned_up: 0,
    };
    loop {
        mailbox.beats.fetch_add(1, Ordering::Relaxed);
        if mailbox.has_mail.swap(false, Ordering::Acquire) && thread.take_mail(mailbox) {
            break;
        }
        thread.rings.watch_clock(&parts.metrics.capture);
        let idle = thread.read_rings(lost);
        thread.hear(ANNOUNCEMENT_WAIT);
        thread.hand_over();
        thread.shunt();
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
    rings: RingSet,
    shunting: Option<Shunting>,
    /// Empty between batches.
    frames: FrameBatch,
    /// Announcements whose time the frames have not reached, and when each was heard.
    heard: VecDeque<(Instant, Arc<Announcement>)>,
    published: ShardStats,
    housekeeping: Instant,
    clean_up: Instant,
    /// Flows held at that time.
    flows_cleaned_up: usize,
}

impl ShardThread<'_> {
    /// Does what the control plane says; true if that is to finish.
    fn take_mail(&mut self, mailbox: &Mailbox) -> bool {
        let heard = Instant::now();
        self.heard.extend(lock(&mailbox.announcements).drain(..).map(|announcement| (heard, announcement)));
        let commands = std::mem::take(&mut *lock(&mailbox.commands));
        for command in commands {
            match command {
                Command::Add(source) => {
                    if let Some(shunting) = &self.shunting {
                        shunting.meet(&source);
                    }
                    self.rings.add(source);
                }
                Command::Remove(index) => self.rings.remove(index, &self.parts.metrics.capture),
                Command::Local(local) => self.shard.set_local_addresses(local),
                Command::Finish => return true,
                // The header archive has no cutoff.
                Command::Suspend(_) | Command::Resume(_) => {}
            }
        }
        false
    }

    /// Reads a batch of each ring; true if there was nothing in any of them.
    fn read_rings(&mut self, lost: &UnboundedSender<RingLost>) -> bool {
        let Self { parts, shard, rings, frames, .. } = self;
        let read = rings.read(lost, &parts.metrics.capture, |frame, now| {
            frames.push(frame, now);
            if frames.len() == FRAMES {
                shard.handle_frames(frames, 0..FRAMES);
                frames.clear();
            }
        });
        shard.handle_frames(frames, 0..frames.len());
        frames.clear();
        match read {
            Read::Frames => false,
            Read::Idle(now) => {
                if let Some(now) = now {
                    shard.advance(now);
                }
                true
            }
        }
    }

    /// Takes the announcements whose time has come in the frames: rings hand frames over late, and an announcement that
    /// overtook the SYN of its connection would name the connection before it on the same ends.
    fn hear(&mut self, wait: Duration) {
        let latest = self.rings.latest();
        let is_due = |(heard, a): &(Instant, Arc<Announcement>)| a.event().at() <= latest || heard.elapsed() >= wait;
        while self.heard.front().is_some_and(is_due)
            && let Some((_, announcement)) = self.heard.pop_front()
        {
            self.shard.handle_event(&announcement, self.rings.now());
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

    /// Has the kernel drop packets of flows that are over for the archive, and counts what it has dropped.
    fn shunt(&mut self) {
        let Self { shunting, shard, rings, .. } = self;
        let Some(shunting) = shunting else { return };
        while let Some(op) = shard.poll_shunt() {
            match op {
                ShuntOp::Drop(key) => shunting.cut_off(Tuple::tcp(key), None),
                ShuntOp::Pass(key) => {
                    let last = shunting.release(&Tuple::tcp(key));
                    shard.handle_unseen(&key, last, rings.now());
                }
            }
        }
        shunting.turn(rings, |tuple, _, more| shard.handle_unseen(&tuple.ends, more.packets, rings.now()));
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
        let drops = self.rings.count(&self.parts.metrics.capture);
        let was_shedding = self.shard.is_shedding();
        self.shard.set_kernel_drops(drops);
        match (was_shedding, self.shard.is_shedding()) {
            (false, true) => warn!(drops, "the kernel drops frames: fewer flows are begun, so that those begun are whole"),
            (true, false) => info!(drops, "all flows are begun again"),
            _ => {}
        }
    }

    fn sleep(&self, mailbox: &Mailbox) {
        self.rings.sleep(mailbox.wake.as_fd());
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
        let now = self.rings.now();
        let mut finisher = Finisher::new(&self.parts.writers);
        self.shard.finish(EndReason::Shutdown, now, |op| finisher.push(op));
        drop(finisher);
        self.shunt();
        let last = self.shard.stats().clone();
        self.parts.metrics.shard.publish(&self.published, &last);
    }
}

/// A thread that panicked while it held the lock has left a queue that is whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Frames handled together. Small, so that they are still in the processor's first cache.
const FRAMES: usize = 64;
/// How often the kernel's counters are looked at; [`Shard::set_kernel_drops`] counts on it.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// Longer than the 10 ms after which the kernel hands over a block that is not full, and its timer's slack.
pub(super) const BLOCK_AGE: Duration = Duration::from_millis(30);
/// A network that never falls silent is not read for ever at the end.
pub(super) const LAST_READ: Duration = Duration::from_millis(500);
/// The longest that an announcement waits for the frames to reach its time: more than a ring holds frames back, and a bound
/// for sources whose clock is not ours.
const ANNOUNCEMENT_WAIT: Duration = Duration::from_millis(250);
/// Announcements that may wait for one shard: minutes of them.
const ANNOUNCEMENTS_MAX: usize = 1 << 20;
