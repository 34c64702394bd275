//! The thread that takes the writers' rows to the catalogue, and what it counts.
//!
//! A row is in its journal some milliseconds after its file appeared. Rows wait for the disk in a queue of fixed length and
//! then in memory, both bounded and on the ledger: capture never waits for the catalogue (a replay does). A row that finds no
//! room is counted as lost, and `flowarc catalog` has it again from its file.

use super::folder::{Collector, Folder, Hour};
use super::row::Row;
use crate::capture::clock;
use crate::flow::ledger::{Charge, Ledger};
use crate::metrics::{counter, counters, gauge};
use crate::sandbox::{self, Role};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// The catalogue's metrics.
#[derive(Clone, Debug)]
pub struct CatalogueMetrics {
    rows: IntCounterVec,
    published: IntCounter,
    errors: IntCounter,
    queue: IntGauge,
}

impl CatalogueMetrics {
    /// Declares them; every child reports 0 from the start.
    pub fn register(r: &Registry) -> Self {
        let rows = counters(
            r,
            "flowarc_catalogue_rows_total",
            "Rows of flows by what became of them: recorded (on the disk), unreadable (the file was gone before it could be read), lost (the disk refuses the catalogue until the end); with -catalog as many recorded as flowarc_archive_files_total, the others zero.",
            &["outcome"],
        );
        for outcome in ["recorded", "unreadable", "lost"] {
            rows.with_label_values(&[outcome]);
        }
        Self {
            rows,
            published: counter(
                r,
                "flowarc_catalogue_published_rows_total",
                "Rows that are in Parquet files; follows an hour behind.",
            ),
            errors: counter(r, "flowarc_catalogue_errors_total", "Times that the disk refused the catalogue; should be zero."),
            queue: gauge(r, "flowarc_catalogue_queue_length", "Rows that wait for the catalogue's thread; near zero."),
        }
    }
}

/// The running thread.
#[derive(Debug)]
pub struct Recorder {
    sender: RowSender,
    thread: JoinHandle<()>,
    done: Receiver<()>,
}

/// Hands rows to the thread; one per writer.
#[derive(Clone, Debug)]
pub struct RowSender {
    queue: SyncSender<Message>,
    when_full: WhenFull,
    metrics: CatalogueMetrics,
    ledger: Arc<Ledger>,
}

/// What a writer does with a row while the queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenFull {
    /// Counts it as lost: capture must not wait.
    Lose,
    /// Waits: a replay can.
    Wait,
}

#[derive(Debug)]
enum Message {
    Row(Box<Row>, Charge),
    Finish,
}

impl Recorder {
    /// Opens the folder and starts the thread. What a crash has left there is published.
    ///
    /// # Errors
    /// Fails where the folder cannot be written to.
    pub fn start(path: &Path, metrics: &CatalogueMetrics, when_full: WhenFull, ledger: &Arc<Ledger>) -> io::Result<Self> {
        let folder = Folder::create(path)?;
        let mut collector = Collector::new(folder);
        let left = collector.adopt()?;
        if left > 0 {
            info!(journals = left, "found rows of a process that did not end well; they are published");
        }
        let (queue, rows) = mpsc::sync_channel(if when_full == WhenFull::Wait { QUEUE_OF_REPLAY } else { QUEUE });
        let (finished, done) = mpsc::channel();
        let thread = std::thread::Builder::new().name("catalogue".to_owned());
        let sender = RowSender { queue, when_full, metrics: metrics.clone(), ledger: Arc::clone(ledger) };
        let mut work = Work {
            collector,
            metrics: metrics.clone(),
            pending: ledger.charge(0),
            handed_over: 0,
            recorded: 0,
            refused: false,
            hour: Hour::of(clock::now().into()),
            publish_after: Instant::now(),
        };
        let thread = thread.spawn(move || {
            sandbox::narrow(Role::Files);
            work.run(&rows);
            // Fails where the recorder was dropped without `finish`: nobody waits then.
            let _ = finished.send(());
        })?;
        Ok(Self { sender, thread, done })
    }

    /// A handle for another thread.
    pub fn sender(&self) -> RowSender {
        self.sender.clone()
    }

    /// Publishes what was handed over so far, and ends the thread unless it hangs in the disk: then its rows are in journals,
    /// for the next start.
    pub fn finish(self) {
        let sent = self.sender.send(Message::Finish);
        if !sent || self.done.recv_timeout(PATIENCE).is_err() {
            warn!("the catalogue hangs in the disk; its rows stay for the next start");
        } else if self.thread.join().is_err() {
            warn!("the catalogue panicked: this is a bug; flowarc catalog adds what it lacks");
        }
    }
}

impl RowSender {
    /// Records the flow of a file that has just appeared at `path`, relative to the archive.
    pub fn record(&self, path: &str, file: io::Result<File>) {
        let row = match file.map_err(Into::into).and_then(|file| Row::read(path, file)) {
            Ok(row) => row,
            Err(error) => {
                warn!(path, %error, "a file has no row in the catalogue, because it cannot be read");
                return self.metrics.rows.with_label_values(&["unreadable"]).inc();
            }
        };
        self.metrics.queue.inc();
        if !self.send(Message::Row(Box::new(row), self.ledger.charge(ROW_COST))) {
            self.metrics.queue.dec();
            self.metrics.rows.with_label_values(&["lost"]).inc();
        }
    }

    fn send(&self, message: Message) -> bool {
        match self.when_full {
            WhenFull::Lose => self.queue.try_send(message).is_ok(),
            WhenFull::Wait => self.queue.send(message).is_ok(),
        }
    }
}

struct Work {
    collector: Collector,
    metrics: CatalogueMetrics,
    /// For the collector's rows that the disk has not taken yet.
    pending: Charge,
    /// Rows that the collector took.
    handed_over: u64,
    /// Those of them that are on the disk, and counted so.
    recorded: u64,
    /// Whether the disk refused the last time.
    refused: bool,
    /// All hours before this one were published.
    hour: Hour,
    /// When the disk may be asked for a Parquet file again, after it refused one.
    publish_after: Instant,
}

impl Work {
    fn run(&mut self, rows: &Receiver<Message>) {
        let mut going = true;
        while going {
            match rows.recv_timeout(TICK) {
                Ok(message) => {
                    going = self.handle(message);
                    // All that waits, then one write.
                    while let (true, Ok(message)) = (going, rows.try_recv()) {
                        going = self.handle(message);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => going = false,
            }
            let flushed = self.collector.flush();
            self.pending.resize(self.collector.pending());
            if flushed.is_ok() && self.refused {
                self.refused = false;
                info!("the disk takes the catalogue again");
            }
            self.note(flushed.map_err(|e| e.to_string()));
            if !going || Instant::now() >= self.publish_after {
                self.publish(going);
            }
            self.count_recorded();
        }
        let waiting = self.collector.waiting();
        if waiting > 0 {
            warn!(rows = waiting, "the disk has not taken these rows of the catalogue until the end; flowarc catalog adds them");
            self.metrics.rows.with_label_values(&["lost"]).inc_by(waiting as u64);
        }
    }

    /// Once an hour, with a minute for the hour's last flows; later ones wait for the next hour. In between what is full.
    fn publish(&mut self, going: bool) {
        let over = Hour::of((clock::now() - Duration::from_secs(60)).into());
        let published = if !going {
            self.collector.publish()
        } else if over > self.hour {
            self.collector.publish_before(over)
        } else {
            self.collector.publish_before(Hour(i64::MIN))
        };
        match published {
            Ok(rows) => {
                self.hour = self.hour.max(over);
                self.metrics.published.inc_by(rows as u64);
                if rows > 0 {
                    info!(rows, "published a part of the catalogue");
                }
            }
            Err(error) => {
                self.publish_after = Instant::now() + RETRY;
                self.note(Err(error.to_string()));
            }
        }
    }

    fn count_recorded(&mut self) {
        let recorded = self.handed_over - self.collector.waiting() as u64;
        self.metrics.rows.with_label_values(&["recorded"]).inc_by(recorded - self.recorded);
        self.recorded = recorded;
    }

    /// Returns whether more is to come.
    fn handle(&mut self, message: Message) -> bool {
        let Message::Row(row, _charge) = message else { return false };
        self.metrics.queue.dec();
        match self.collector.add(&row) {
            Ok(()) => self.handed_over += 1,
            Err(error) => {
                self.metrics.rows.with_label_values(&["lost"]).inc();
                self.note(Err(error.to_string()));
            }
        }
        true
    }

    /// Logs the first of refusals in a row.
    fn note(&mut self, result: Result<(), String>) {
        if let Err(error) = result {
            self.metrics.errors.inc();
            if !self.refused {
                self.refused = true;
                warn!(error, "the disk refuses the catalogue; flowarc catalog adds what it will lack");
            }
        }
    }
}

/// Rows that may wait for the thread while it makes a Parquet file.
const QUEUE: usize = 32 * 1024;

/// The same of a replay, which can wait itself.
const QUEUE_OF_REPLAY: usize = 1024;

/// Bytes charged for a row that waits: itself and its texts.
const ROW_COST: usize = size_of::<Row>() + 256;

/// How often it is looked whether an hour is over.
const TICK: Duration = Duration::from_secs(1);

/// Between two attempts to write a Parquet file: each sorts and packs up to 131,072 rows again.
const RETRY: Duration = Duration::from_secs(5);

/// For the last publication at the end.
const PATIENCE: Duration = Duration::from_secs(30);
