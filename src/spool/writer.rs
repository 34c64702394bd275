//! The thread that compresses and writes, and the queue before it, which is bounded in bytes.
//!
//! Capture never waits for the disk: a block that finds the queue full is lost, and its packets are counted. A replay does
//! wait. While the disk refuses, the block at the head of the queue is tried again.

use super::block::SpoolOp;
use super::metrics::SpoolMetrics;
use super::segment::{SegmentWriter, Written};
use crate::archive::writer::DiskHealth;
use crate::sandbox::{self, Role};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// What to do with a block where the queue is full.
#[derive(Clone, Copy, Debug)]
pub enum WhenFull<'a> {
    /// Lose it, and count its packets.
    Lose,
    /// Wait for room; lose it once this is set.
    Wait(&'a AtomicBool),
}

/// A writer thread.
#[derive(Debug)]
pub struct SpoolWriter {
    queue: Arc<Queue>,
    metrics: SpoolMetrics,
    thread: JoinHandle<Outcome>,
}

/// How a writer's life went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Packets that the disk refused to the end.
    pub lost: u64,
    /// Whether every segment has its name.
    pub published: bool,
}

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    ops: VecDeque<SpoolOp>,
    bytes: usize,
    /// Memory of blocks that were written, a few.
    spare: Vec<Vec<u8>>,
    /// Until when the disk is tried, once all is handed over.
    finish: Option<Instant>,
}

impl SpoolWriter {
    /// Starts the thread; `capacity` is how many bytes of packets may wait for it.
    ///
    /// # Errors
    /// Fails where the system has no thread to give.
    pub fn start(writer: SegmentWriter, capacity: usize, metrics: &SpoolMetrics, health: &Arc<DiskHealth>) -> io::Result<Self> {
        let queue = Arc::new(Queue { state: Mutex::default(), changed: Condvar::new(), capacity });
        let run = Run { writer, queue: Arc::clone(&queue), metrics: metrics.clone(), health: Arc::clone(health), refused: false };
        let thread = std::thread::Builder::new().name("spool-writer".into()).spawn(|| {
            sandbox::narrow(Role::Files);
            run.run()
        })?;
        Ok(Self { queue, metrics: metrics.clone(), thread })
    }

    /// Hands over.
    pub fn submit(&self, op: SpoolOp, when_full: WhenFull<'_>) {
        let SpoolOp::Block(block) = &op else { return self.queue.push(op, 0) };
        let len = block.data.len();
        let mut state = self.queue.lock();
        // An empty queue takes a block of any size.
        while state.bytes > 0 && state.bytes + len > self.queue.capacity {
            match when_full {
                WhenFull::Wait(given_up) if !given_up.load(Ordering::Relaxed) => {
                    (state, _) = self.queue.changed.wait_timeout(state, FIRST_PAUSE).unwrap_or_else(PoisonError::into_inner);
                }
                _ => {
                    drop(state);
                    return self.metrics.packets.with_label_values(&["lost_queue"]).inc_by(block.packets.into());
                }
            }
        }
        drop(state);
        self.metrics.queued_bytes.add(len as i64);
        self.queue.push(op, len);
    }

    /// Memory of a block that was written, if there is any.
    pub fn spare(&self) -> Option<Vec<u8>> {
        self.queue.lock().spare.pop()
    }

    /// Waits until all is written, or the disk has refused until `deadline`.
    pub fn finish(self, deadline: Instant) -> Outcome {
        self.queue.lock().finish = Some(deadline);
        self.queue.changed.notify_all();
        self.thread.join().unwrap_or_default()
    }
}

impl Queue {
    fn push(&self, op: SpoolOp, len: usize) {
        let mut state = self.lock();
        state.bytes += len;
        state.ops.push_back(op);
        drop(state);
        self.changed.notify_all();
    }

    /// The next operation, when there is one; `None` when there will be none.
    fn pop(&self) -> Option<SpoolOp> {
        let mut state = self.lock();
        loop {
            if let Some(op) = state.ops.pop_front() {
                return Some(op);
            }
            if state.finish.is_some() {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A thread that panicked while it held the lock has left a queue that is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Run {
    writer: SegmentWriter,
    queue: Arc<Queue>,
    metrics: SpoolMetrics,
    health: Arc<DiskHealth>,
    refused: bool,
}

impl Run {
    fn run(mut self) -> Outcome {
        let mut lost = 0;
        while let Some(op) = self.queue.pop() {
            let written = self.insist(|writer| writer.handle_op(&op));
            if let SpoolOp::Block(block) = op {
                if written.is_none() {
                    lost += u64::from(block.packets);
                    self.metrics.packets.with_label_values(&["lost_disk"]).inc_by(block.packets.into());
                }
                // Only now: what is being written still is memory.
                let len = block.data.len();
                let mut state = self.queue.lock();
                state.bytes -= len;
                if state.spare.len() < SPARES {
                    state.spare.push(block.data);
                }
                drop(state);
                self.queue.changed.notify_all();
                self.metrics.queued_bytes.sub(len as i64);
            }
        }
        let published = self.insist(SegmentWriter::finish).is_some();
        Outcome { lost, published }
    }

    /// Does something until the disk takes it; `None` when it is too late.
    fn insist(&mut self, mut act: impl FnMut(&mut SegmentWriter) -> io::Result<Written>) -> Option<Written> {
        let mut pause = FIRST_PAUSE;
        loop {
            match act(&mut self.writer) {
                Ok(written) => {
                    if std::mem::take(&mut self.refused) {
                        self.health.accepted();
                        info!("the disk takes packets again");
                    }
                    self.metrics.packets.with_label_values(&["written"]).inc_by(written.packets);
                    self.metrics.written_bytes.inc_by(written.bytes);
                    self.metrics.segments.with_label_values(&["published"]).inc_by(written.published);
                    return Some(written);
                }
                Err(error) => {
                    self.metrics.write_errors.inc();
                    if !std::mem::replace(&mut self.refused, true) {
                        self.health.refused();
                        warn!(%error, "the disk refuses packets: they wait in memory, and are lost when -queue.bytes wait");
                    }
                }
            }
            let until = Instant::now() + pause;
            pause = (2 * pause).min(LONGEST_PAUSE);
            let mut state = self.queue.lock();
            loop {
                let now = Instant::now();
                if state.finish.is_some_and(|deadline| now >= deadline) {
                    return None;
                }
                let wake = state.finish.map_or(until, |deadline| until.min(deadline));
                if now >= wake {
                    break;
                }
                (state, _) = self.queue.changed.wait_timeout(state, wake - now).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// Blocks whose memory waits to be used again.
const SPARES: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
