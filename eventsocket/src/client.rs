//! The client: connects, reconnects for ever, reads at once.
//!
//! tcp-info writes to its clients one after the other and waits for each, so one client that does not read stops the
//! events of all after some two hundred lines. Therefore a task of its own reads the socket and puts what it reads
//! into a bounded queue; it never waits for whoever calls [`Client::next`]. If the queue is full its oldest entry is
//! dropped and counted.

use crate::lines::{BadKind, BadLine, CHUNK, Decoder};
use crate::path::SocketPath;
use crate::protocol::Event;
use crate::watch::PathWatch;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::debug;

/// Most entries that wait for [`Client::next`]: some 20 MB. Enough for the announcement of all sockets of a busy host
/// when its server starts, and for a pause of seconds at thousands of connections per second.
pub const MAX_QUEUED: usize = 1 << 16;

/// A connection to an event server that is restored whenever it is lost.
///
/// Between attempts it waits 50 ms, growing to 5 s, each a little shorter by chance so that many clients do not come
/// at once; but when the socket's path appears anew, it is tried at once. A connection is kept until the server ends
/// it, even if the path leads to another server meanwhile. There is no replay: what happened while no connection was
/// there is not told.
///
/// Dropping the client closes the connection. The runtime that it lives on must not be blocked for long, since the
/// reading is done there.
#[derive(Debug)]
pub struct Client {
    queue: Arc<Queue>,
    stats: Arc<ClientStats>,
    task: JoinHandle<()>,
}

/// What a client sees.
///
/// [`Self::Connected`] and [`Self::Disconnected`] alternate, unless the queue overflows; an outage, also one from the
/// start, is told once and not per attempt.
#[derive(Debug)]
pub enum ClientEvent {
    /// A server accepted the connection.
    Connected,
    /// The server told this.
    Event(Event),
    /// The server sent a line that is no event; it was skipped.
    Bad(BadLine),
    /// There is no connection, and the client is trying to get one.
    Disconnected {
        /// Why.
        reason: Disconnect,
    },
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Disconnect {
    /// No server could be reached since the client was made.
    #[error("cannot connect: {0}")]
    Unreachable(#[source] io::Error),
    /// The server closed the connection, most likely because it stopped.
    #[error("closed by the server")]
    Closed,
    /// Reading failed.
    #[error("cannot read: {0}")]
    Failed(#[source] io::Error),
}

/// Running totals of a client, for metrics.
#[derive(Debug, Default)]
pub struct ClientStats {
    connected: AtomicBool,
    connects: AtomicU64,
    bytes: AtomicU64,
    events: AtomicU64,
    bad: [AtomicU64; BadKind::ALL.len()],
    dropped: AtomicU64,
}

impl Client {
    /// Starts a client of the server at `path`; `@name` is an abstract socket. Returns without waiting for it.
    ///
    /// # Errors
    /// The path can never be a socket address: empty, longer than 107 bytes, or with a NUL byte.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub fn start(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = SocketPath::parse(path.as_ref())?;
        let queue = Arc::new(Queue::default());
        let stats = Arc::new(ClientStats::default());
        let reader = Reader { path, queue: queue.clone(), stats: stats.clone() };
        Ok(Self { queue, stats, task: tokio::spawn(reader.run()) })
    }

    /// The next thing to know, in the order of its happening. Cancel safe.
    pub async fn next(&mut self) -> ClientEvent {
        loop {
            if let Some(event) = self.queue.pop() {
                return event;
            }
            self.queue.filled.notified().await;
        }
    }

    /// The totals, which go on counting.
    pub fn stats(&self) -> Arc<ClientStats> {
        self.stats.clone()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ClientStats {
    /// Is there a connection now?
    pub fn connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// How often a connection was made again after the first.
    pub fn reconnects(&self) -> u64 {
        self.connects.load(Relaxed).saturating_sub(1)
    }

    /// Bytes read.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Lines that were events.
    pub fn events(&self) -> u64 {
        self.events.load(Relaxed)
    }

    /// Lines that were none, by kind.
    pub fn bad(&self, kind: BadKind) -> u64 {
        self.bad[kind as usize].load(Relaxed)
    }

    /// Entries lost because [`Client::next`] was not called often enough; should be zero.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// The task behind a client.
struct Reader {
    path: SocketPath,
    queue: Arc<Queue>,
    stats: Arc<ClientStats>,
}

impl Reader {
    async fn run(self) {
        let mut backoff = Backoff::default();
        let mut ever_tried = false;
        loop {
            // Armed before the attempt, so that a path which appears just after it is noticed.
            let watch = self.path.as_file().and_then(|path| PathWatch::arm(path).ok());
            match UnixStream::connect(self.path.as_path()).await {
                Ok(stream) => {
                    let since = Instant::now();
                    let reason = self.serve(stream).await;
                    // A server that accepts and closes at once is not hammered.
                    if since.elapsed() >= Backoff::MIN {
                        backoff = Backoff::default();
                    }
                    self.publish(ClientEvent::Disconnected { reason });
                }
                Err(error) => {
                    debug!(socket = %self.path.as_path().display(), %error, "event socket not reachable");
                    if !ever_tried {
                        self.publish(ClientEvent::Disconnected { reason: Disconnect::Unreachable(error) });
                    }
                }
            }
            ever_tried = true;
            tokio::select! {
                () = tokio::time::sleep(backoff.next(RandomState::new().hash_one(()))) => {}
                // The path is there before the server listens, so the attempt that follows may fail, and be repeated soon.
                () = changed(watch) => backoff = Backoff::default(),
            }
        }
    }

    /// Reads a connection to its end.
    async fn serve(&self, stream: UnixStream) -> Disconnect {
        self.stats.connects.fetch_add(1, Relaxed);
        self.stats.connected.store(true, Relaxed);
        self.publish(ClientEvent::Connected);
        let mut decoder = Decoder::new();
        let reason = self.read(stream, &mut decoder).await;
        if let Some(line) = decoder.finish() {
            self.handle_line(line);
        }
        self.stats.connected.store(false, Relaxed);
        reason
    }

    async fn read(&self, mut stream: UnixStream, decoder: &mut Decoder) -> Disconnect {
        let mut chunk = vec![0; CHUNK];
        loop {
            match stream.read(&mut chunk).await {
                Ok(0) => return Disconnect::Closed,
                Ok(n) => {
                    self.stats.bytes.fetch_add(n as u64, Relaxed);
                    decoder.handle_bytes(&chunk[..n]);
                    while let Some(line) = decoder.poll() {
                        self.handle_line(line);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Disconnect::Failed(e),
            }
        }
    }

    fn handle_line(&self, line: Result<Event, BadLine>) {
        match line {
            Ok(event) => {
                self.stats.events.fetch_add(1, Relaxed);
                self.publish(ClientEvent::Event(event));
            }
            Err(bad) => {
                self.stats.bad[bad.kind as usize].fetch_add(1, Relaxed);
                self.publish(ClientEvent::Bad(bad));
            }
        }
    }

    fn publish(&self, event: ClientEvent) {
        self.stats.dropped.fetch_add(self.queue.push(event), Relaxed);
    }
}

async fn changed(watch: Option<PathWatch>) {
    match watch {
        Some(mut watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Between the reading task and the caller of [`Client::next`].
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<VecDeque<ClientEvent>>,
    filled: Notify,
}

impl Queue {
    /// Adds an entry, without waiting; returns how many old ones it cost.
    fn push(&self, event: ClientEvent) -> u64 {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let full = waiting.len() >= MAX_QUEUED;
        if full {
            waiting.pop_front();
        }
        waiting.push_back(event);
        drop(waiting);
        self.filled.notify_one();
        full.into()
    }

    fn pop(&self) -> Option<ClientEvent> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// The pauses between attempts.
#[derive(Debug)]
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Self::MIN)
    }
}

impl Backoff {
    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(5);

    /// The next pause: from half to the whole of a length that doubles each time.
    fn next(&mut self, random: u64) -> Duration {
        let length = self.0;
        self.0 = (length * 2).min(Self::MAX);
        let half = length / 2;
        half + Duration::from_nanos(random % (half.as_nanos() as u64 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_vary_by_half() {
        let (mut shortest, mut longest) = (Backoff::default(), Backoff::default());
        let mut expected = 50;
        for _ in 0..20 {
            assert_eq!(shortest.next(0), Duration::from_millis(expected) / 2);
            assert_eq!(longest.next(Duration::from_millis(expected).as_nanos() as u64 / 2), Duration::from_millis(expected));
            expected = (expected * 2).min(5000);
        }
        let mut any = Backoff::default();
        for random in (0..1000u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            assert!(any.next(random) <= Backoff::MAX);
        }
    }

    #[test]
    fn a_full_queue_loses_its_oldest_entry_and_says_so() {
        let queue = Queue::default();
        let lost = |uuid: usize| queue.push(ClientEvent::Event(Event { uuid: uuid.to_string(), ..Event::default() }));
        assert_eq!((0..MAX_QUEUED).map(lost).sum::<u64>(), 0);
        assert_eq!(lost(MAX_QUEUED), 1);
        assert!(matches!(queue.pop(), Some(ClientEvent::Event(e)) if e.uuid == "1"));
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), MAX_QUEUED - 1);
    }
}
