//! The threads around [`Writer`]: a queue each, drained at the end while progress is made.

use super::catalogue::RowSender;
use super::metrics::ArchiveMetrics;
use super::path::Tree;
use super::priority;
use super::writer::{ArchiveConfig, DiskHealth, Outcome, Writer};
use crate::flow::ledger::Ledger;
use crate::sandbox::{self, Role};
use crate::shard::{ArchiveOp, FlowSerial};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SendError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// Running writers.
#[derive(Debug)]
pub struct WriterPool {
    submitter: Submitter,
    threads: Vec<JoinHandle<Report>>,
    done: Receiver<()>,
    health: Arc<DiskHealth>,
    progress: Arc<AtomicU64>,
}

/// Hands work to the writers; one per shard.
#[derive(Clone, Debug)]
pub struct Submitter {
    queues: Vec<Sender<Message>>,
    metrics: ArchiveMetrics,
}

/// Hands over the work of many flows that end together: waits while the writers are far behind, since the work in their
/// queues takes memory beside the flows that are still to end.
#[derive(Debug)]
pub struct Finisher<'a> {
    submitter: &'a Submitter,
    batch: Vec<ArchiveOp>,
    /// The queue's length when it last changed, and when that was.
    seen: (usize, Instant),
}

impl<'a> Finisher<'a> {
    /// Nothing handed over yet.
    pub fn new(submitter: &'a Submitter) -> Self {
        Self { submitter, batch: Vec::with_capacity(BATCH), seen: (0, Instant::now()) }
    }

    /// Hands an operation over, now or with others.
    pub fn push(&mut self, op: ArchiveOp) {
        self.batch.push(op);
        if self.batch.len() == BATCH {
            self.submitter.submit(self.batch.drain(..));
            self.wait();
        }
    }

    /// A disk that hangs is not waited for: [`WriterPool::finish`] gives it up.
    fn wait(&mut self) {
        loop {
            let (queued, now) = (self.submitter.queued(), Instant::now());
            if queued != self.seen.0 {
                self.seen = (queued, now);
            }
            if queued <= BACKLOG || now - self.seen.1 > STUCK_AFTER {
                return;
            }
            thread::sleep(BACKLOG_POLL);
        }
    }
}

impl Drop for Finisher<'_> {
    fn drop(&mut self) {
        self.submitter.submit(self.batch.drain(..));
    }
}

/// What the writers did in their life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Flows whose file appeared.
    pub saved: u64,
    /// Flows whose file the disk refused to the end.
    pub given_up: u64,
    /// Writers that hung in a system call past the deadline and were left behind.
    pub stuck: usize,
}

/// Starts `n` writer threads, at least one, at a lower priority than the shards', for the processor and for the disk:
/// capture must not wait for compression, nor another program's reads for our files.
/// The queues are not bounded by themselves: what is in them is on the ledger, which bounds what the shards take.
///
/// # Errors
/// Fails where the system has no more threads.
pub fn spawn_writers(
    n: usize,
    config: ArchiveConfig,
    tree: &Arc<Tree>,
    metrics: &ArchiveMetrics,
    ledger: &Arc<Ledger>,
    catalogue: Option<&RowSender>,
) -> io::Result<WriterPool> {
    let (health, progress) = (Arc::new(DiskHealth::default()), Arc::new(AtomicU64::new(0)));
    let (done_sender, done) = mpsc::channel();
    let (mut queues, mut threads) = (Vec::new(), Vec::new());
    for i in 0..n.max(1) {
        let (sender, queue) = mpsc::channel();
        let writer = Writer::new(config, Arc::clone(tree), Arc::clone(ledger), metrics.clone(), Arc::clone(&health))
            .with_catalogue(catalogue.cloned());
        let (metrics, progress, done) = (metrics.clone(), Arc::clone(&progress), done_sender.clone());
        threads.push(thread::Builder::new().name(format!("writer-{i}")).spawn(move || {
            lower_priority();
            sandbox::narrow(Role::Files);
            let report = run(writer, &queue, &metrics, &progress);
            // Fails where the pool was dropped without `finish`: nobody waits then.
            let _ = done.send(());
            report
        })?);
        queues.push(sender);
    }
    Ok(WriterPool { submitter: Submitter { queues, metrics: metrics.clone() }, threads, done, health, progress })
}

impl WriterPool {
    /// A handle for another thread.
    pub fn submitter(&self) -> Submitter {
        self.submitter.clone()
    }

    /// Hands operations to the writers of their flows.
    pub fn submit(&self, ops: impl IntoIterator<Item = ArchiveOp>) {
        self.submitter.submit(ops);
    }

    /// Whether the disk takes everything; the health's handle outlives the pool.
    pub fn health(&self) -> Arc<DiskHealth> {
        Arc::clone(&self.health)
    }

    /// Waits until everything submitted so far is done. What the disk refuses is tried until `deadline` and then given
    /// up; what it takes is written past the deadline too, as long as a writer gets something done within `patience`.
    pub fn finish(self, deadline: Instant, patience: Duration) -> Report {
        for queue in &self.submitter.queues {
            // Fails where the writer has ended, which its result tells.
            let _ = queue.send(Message::Finish(deadline));
        }
        let (mut running, mut before, mut since) = (self.threads.len(), self.progress.load(Ordering::Relaxed), Instant::now());
        while running > 0 {
            match self.done.recv_timeout(PROGRESS_PERIOD) {
                Ok(()) => running -= 1,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let now = self.progress.load(Ordering::Relaxed);
                    if now != before {
                        (before, since) = (now, Instant::now());
                    }
                    if Instant::now() > deadline && since.elapsed() > patience {
                        warn!(writers = running, "writers hang in the disk; their files are lost");
                        break;
                    }
                }
            }
        }
        let mut report = Report::default();
        for thread in self.threads {
            // A thread that has reported is about to end; one that hangs would hold us for ever.
            if running > 0 && !thread.is_finished() {
                report.stuck += 1;
                continue;
            }
            if let Ok(Report { saved, given_up, .. }) = thread.join() {
                report.saved += saved;
                report.given_up += given_up;
            }
        }
        report
    }
}

impl Submitter {
    /// Operations that wait for a writer.
    pub fn queued(&self) -> usize {
        usize::try_from(self.metrics.queue.get()).unwrap_or(0)
    }

    /// Hands operations to the writers of their flows, 256 at a time: waking a writer for each would cost more than
    /// compressing a short flow.
    pub fn submit(&self, ops: impl IntoIterator<Item = ArchiveOp>) {
        let mut ops = ops.into_iter().peekable();
        while ops.peek().is_some() {
            let mut batches: Vec<Vec<ArchiveOp>> = self.queues.iter().map(|_| Vec::new()).collect();
            for op in ops.by_ref().take(BATCH) {
                batches[route(op.flow(), self.queues.len())].push(op);
            }
            for (queue, batch) in self.queues.iter().zip(batches).filter(|(_, batch)| !batch.is_empty()) {
                self.metrics.queue.add(batch.len() as i64);
                if let Err(SendError(Message::Ops(batch))) = queue.send(Message::Ops(batch)) {
                    self.metrics.queue.sub(batch.len() as i64);
                    self.metrics.flows.given_up.inc_by(batch.len() as u64);
                    debug!(operations = batch.len(), "work for a writer that has ended is lost");
                }
            }
        }
    }
}

#[derive(Debug)]
enum Message {
    Ops(Vec<ArchiveOp>),
    Finish(Instant),
}

/// A writer's thread: works until it is told to finish or nobody is left to give work.
fn run(mut writer: Writer, queue: &Receiver<Message>, metrics: &ArchiveMetrics, progress: &AtomicU64) -> Report {
    let mut report = Report::default();
    let deadline = loop {
        let message = match writer.next_attempt() {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => queue.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        match message {
            Ok(Message::Ops(ops)) => {
                for op in ops {
                    metrics.queue.dec();
                    writer.handle_op(op, Instant::now());
                    progress.fetch_add(1, Ordering::Relaxed);
                    report.take_outcomes(&mut writer);
                }
            }
            Ok(Message::Finish(deadline)) => break deadline,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break Instant::now(),
        }
        writer.advance(Instant::now());
        report.take_outcomes(&mut writer);
    };
    while let Some(due) = writer.next_attempt()
        && Instant::now() < deadline
    {
        thread::sleep(due.min(deadline).saturating_duration_since(Instant::now()));
        writer.advance(Instant::now());
        progress.fetch_add(1, Ordering::Relaxed);
    }
    writer.stop_waiting();
    while writer.advance(Instant::now()) {
        progress.fetch_add(1, Ordering::Relaxed);
    }
    report.take_outcomes(&mut writer);
    report
}

impl Report {
    fn take_outcomes(&mut self, writer: &mut Writer) {
        while let Some((_, outcome)) = writer.poll_outcome() {
            match outcome {
                Outcome::Saved { .. } => self.saved += 1,
                Outcome::GivenUp(_) => self.given_up += 1,
            }
        }
    }
}

/// Shards may number their flows in strides; the multiplication (by the golden ratio) spreads any stride.
fn route(flow: FlowSerial, queues: usize) -> usize {
    (flow.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize % queues
}

fn lower_priority() {
    if let Err(error) = priority::lower(NICE) {
        warn!(%error, "writers have the shards' priority");
    }
}

const NICE: libc::c_int = 5;

/// Operations handed to the writers at once: their wake-ups, some 5 us each, are then lost among the files' 20 us each.
const BATCH: usize = 256;

/// Operations that may wait for the writers before whoever has time waits for them.
pub const BACKLOG: usize = 4096;
const BACKLOG_POLL: Duration = Duration::from_millis(1);

/// How long all writers may get nothing done after the deadline: a disk that hangs, not one that is slow.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::{BUFFERED, Bench, finish};
    use std::collections::HashSet;

    #[test]
    fn everything_submitted_before_the_end_is_saved() {
        let bench = Bench::new();
        let pool = spawn_writers(2, BUFFERED, &bench.tree, &bench.metrics, &bench.ledger, None).unwrap();
        let submitter = pool.submitter();
        submitter.submit((0..1000).map(|flow| finish(&bench, flow, &[&format!("f{flow}")], &[(flow, b"packet")])));
        assert_eq!(pool.finish(Instant::now(), STUCK_AFTER), Report { saved: 1000, given_up: 0, stuck: 0 });
        assert_eq!(bench.files().len(), 1000);
        assert_eq!(bench.metrics.queue.get(), 0);
        submitter.submit([ArchiveOp::Discard { flow: FlowSerial(1) }]);
        assert_eq!(bench.metrics.flows.given_up.get(), 1, "work after the end is counted");
    }

    #[test]
    fn what_the_disk_refuses_to_the_deadline_is_given_up() {
        let bench = Bench::new();
        std::fs::write(bench.tree.data().join("2026"), "a file in the folder's place").unwrap();
        let pool = spawn_writers(1, BUFFERED, &bench.tree, &bench.metrics, &bench.ledger, None).unwrap();
        pool.submit([finish(&bench, 1, &["x"], &[(1, b"packet")])]);
        assert_eq!(
            pool.finish(Instant::now() + Duration::from_millis(250), STUCK_AFTER),
            Report { saved: 0, given_up: 1, stuck: 0 }
        );
        assert_eq!(bench.files(), [bench.tree.data().join("2026")]);
        assert_eq!(bench.metrics.predecessor.saver_errors.with_label_values(&["mkdir"]).get(), 1);
    }

    #[test]
    fn flows_numbered_in_strides_reach_every_writer() {
        for stride in [1, 2, 3, 4, 8] {
            let reached: HashSet<usize> = (0..100).map(|i| route(FlowSerial(i * stride), 4)).collect();
            assert_eq!(reached.len(), 4, "stride {stride}");
        }
    }
}
