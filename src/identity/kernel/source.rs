//! The UUID source: a thread that asks the kernel and hears from it.
//!
//! Three ways to learn of a connection, each for what the others miss. A shard that sees a new flow asks, and the name is
//! there at once ([`Requests::ask`]). A connection that was over before the question is told at its destruction, opened and
//! closed in one. A list of all sockets, at the start, after lost messages and now and then, has the connections that are
//! older than the process, and shows whose end was missed. The thread waits for the sink and for nothing else; nobody waits
//! for the thread.

use super::announcer::{Announcer, Now, Shown};
use super::requests::Requests;
use super::{Answer, BATCH, DestroyError, DestroyedSockets, Dump, KernelError, SockDiag, Socket, TcpInfo};
use crate::capture::clock;
use crate::identity::Opened;
use crate::identity::prefix::{Prefix, cookie_of};
use crate::key::{Endpoint, FlowKey, FlowUuid};
use crate::sandbox::{self, Role};
use crate::time::Timestamp;
use flowarc_eventsocket::{Event, SocketId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::warn;

/// What the source tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KernelEvent {
    /// A connection has this name.
    Open {
        /// The connection and its name.
        opened: Opened,
        /// The index of the interface that the socket is bound to; 0 for none.
        interface: u32,
        /// Whether it was told before: who asks again is answered again.
        again: bool,
    },
    /// The connection of this name has ended, on this host: packets of its end may still be on their way.
    Closed {
        /// Its name.
        uuid: FlowUuid,
        /// The end that was the socket.
        local: Endpoint,
        /// The other end.
        remote: Endpoint,
        /// The last that the kernel knew of it; `None` where that was lost.
        tcp_info: Option<Box<TcpInfo>>,
    },
    /// The kernel has no socket for this connection that was asked for, and had none a short while ago: most likely it is
    /// another host's. Its name can still come if it has ended and the kernel is late to tell.
    Unknown(FlowKey),
}

impl KernelEvent {
    /// The event as the event socket tells it; `None` for what it has no words for or has told. A Close is told at `now`.
    pub fn to_event(&self, now: Timestamp) -> Option<Event> {
        let time = |at: Timestamp| flowarc_eventsocket::Timestamp::from_unix_nanos(at.as_nanos());
        let address = |end: Endpoint| SocketAddr::new(end.addr.into(), end.port);
        match self {
            Self::Open { again: true, .. } => None,
            Self::Open { opened, interface, again: false } => {
                let uuid = &opened.name.uuid;
                let id = SocketId::new(address(opened.local), address(opened.remote), cookie_of(uuid).unwrap_or_default());
                // tcp-info reads the kernel's number as if it came from the network.
                let id = SocketId { interface: u32::from_be_bytes(interface.to_ne_bytes()), ..id };
                Some(Event::open(time(opened.at), uuid.as_str(), id))
            }
            Self::Closed { uuid, .. } => Some(Event::close(time(now), uuid.as_str())),
            Self::Unknown(_) => None,
        }
    }
}

/// How the source goes about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// How often all sockets are listed when nothing was lost. A list costs the kernel a walk through its whole table, empty
    /// or not.
    pub list_every: Duration,
    /// Bytes for the ends of connections that wait for the thread, if they can be had (see [`DestroyedSockets::subscribe`]).
    pub receive_buffer: usize,
}

impl Default for Options {
    /// For use beside capture, which asks for what it sees: the list is only the last resort.
    fn default() -> Self {
        Self { list_every: Duration::from_secs(60), receive_buffer: 16 << 20 }
    }
}

/// What the source has done since it was started.
#[derive(Debug, Default)]
pub struct Stats {
    /// Lookups that found the connection.
    pub found: AtomicU64,
    /// Lookups that found only who listens for it.
    pub listen_only: AtomicU64,
    /// Lookups that found nothing.
    pub nothing: AtomicU64,
    /// Lookups that failed; should be zero.
    pub failed: AtomicU64,
    /// Nanoseconds that lookups took, all together.
    pub lookup_nanos: AtomicU64,
    /// Questions dropped because too many waited; should be zero.
    pub dropped: AtomicU64,
    /// Ends of connections heard.
    pub destroyed: AtomicU64,
    /// Times that ends of connections were lost because the receive buffer was full; should be zero.
    pub overflows: AtomicU64,
    /// Sockets that were aborted before the question for them, and named all the same.
    pub aborts_named: AtomicU64,
    /// The same, but without a name, since they would fit to more than one connection.
    pub aborts_ambiguous: AtomicU64,
    /// Lists of all sockets made.
    pub lists: AtomicU64,
    /// Connections announced and not ended.
    pub live: AtomicU64,
}

/// The running source; ends its thread when dropped.
#[derive(Debug)]
pub struct KernelSource {
    requests: Requests,
    stats: Arc<Stats>,
    thread: Option<JoinHandle<()>>,
}

impl KernelSource {
    /// Starts the source. `sink` is called on the source's thread; while it blocks, nothing is asked or heard.
    ///
    /// # Errors
    /// Fails where the kernel does not let itself be asked, which no later time would change.
    pub fn start_with(
        prefix: Prefix,
        options: Options,
        sink: impl Fn(KernelEvent) + Send + 'static,
    ) -> Result<(Self, Requests), KernelError> {
        // Hear first and list then: what ends in between is in one of the two.
        Self::start(prefix, options, DestroyedSockets::subscribe(options.receive_buffer)?, sink)
    }

    /// Starts the source with a subscription that was made before, while the process had the privilege for a large buffer;
    /// see [`Self::start_with`].
    ///
    /// # Errors
    /// Fails where the kernel does not let itself be asked, which no later time would change.
    pub fn start(
        prefix: Prefix,
        options: Options,
        destroyed: DestroyedSockets,
        sink: impl Fn(KernelEvent) + Send + 'static,
    ) -> Result<(Self, Requests), KernelError> {
        let stats = Arc::new(Stats::default());
        let requests = Requests::new(Arc::clone(&stats)).map_err(|e| KernelError::Open(e.into()))?;
        let diag = SockDiag::open()?;
        let (mut list, mut first) = (Dump::begin()?, Vec::new());
        let more = list.next_batch(&mut |socket| first.push(socket))?;
        let worker = Worker {
            announcer: Announcer::new(prefix),
            destroyed,
            diag,
            requests: requests.clone(),
            stats: Arc::clone(&stats),
            sink,
            options,
            asked: Vec::new(),
            retries: VecDeque::new(),
            list: None,
            missing: Vec::new(),
            next_list: Instant::now(),
            next_batch: Instant::now(),
            warned: None,
        };
        let run = move || {
            sandbox::narrow(Role::Asker);
            worker.run(more.then_some(list), &first);
        };
        let thread = std::thread::Builder::new().name("kernel-uuids".into()).spawn(run).map_err(KernelError::Thread)?;
        Ok((Self { requests: requests.clone(), stats, thread: Some(thread) }, requests))
    }

    /// What the source has done.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }
}

impl Drop for KernelSource {
    fn drop(&mut self) {
        self.requests.stop();
        if let Some(thread) = self.thread.take() {
            // A panic was told by the panic hook already.
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Worker<S> {
    announcer: Announcer,
    destroyed: DestroyedSockets,
    diag: SockDiag,
    requests: Requests,
    stats: Arc<Stats>,
    sink: S,
    options: Options,
    /// Questions to be answered, first first.
    asked: Vec<FlowKey>,
    /// Questions that found no connection, and when to ask again.
    retries: VecDeque<(Instant, FlowKey)>,
    /// The list that is being made.
    list: Option<Dump>,
    /// Sockets that were not in the list that is complete, to be looked up.
    missing: Vec<(u64, FlowKey)>,
    next_list: Instant,
    /// When the list may be gone on with.
    next_batch: Instant,
    warned: Option<Instant>,
}

impl<S: Fn(KernelEvent)> Worker<S> {
    fn run(mut self, list: Option<Dump>, first: &[Socket]) {
        let now = Now::read();
        self.begin_list(now);
        first.iter().for_each(|socket| self.announcer.handle_socket(socket, Shown::Listed, now, &self.sink));
        match list {
            Some(list) => self.list = Some(list),
            None => self.finish_list(),
        }
        let mut more_waits = false;
        while !self.requests.stopped() {
            self.wait(more_waits);
            let now = Now::read();
            // The ends first: who is known to have ended need not be looked up.
            more_waits = self.hear(now);
            self.answer(now);
            self.retry(now);
            self.go_on_listing(now);
            self.announcer.advance(now, &self.sink);
            self.stats.live.store(self.announcer.live() as u64, Ordering::Relaxed);
            let aborted = self.announcer.aborted();
            self.stats.aborts_named.store(aborted.named, Ordering::Relaxed);
            self.stats.aborts_ambiguous.store(aborted.ambiguous, Ordering::Relaxed);
        }
    }

    /// Waits until there is something to do.
    fn wait(&self, more_waits: bool) {
        let next = [
            Some(if self.list.is_some() || !self.missing.is_empty() { self.next_batch } else { self.next_list }),
            self.retries.front().map(|(due, _)| *due),
            self.announcer.next_deadline(),
        ];
        let next = next.into_iter().flatten().min().unwrap_or(self.next_list);
        // In whole milliseconds, and not less than the time that is left.
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        let timeout = match more_waits || !self.asked.is_empty() {
            true => PollTimeout::ZERO,
            false => PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
        };
        let mut fds =
            [PollFd::new(self.requests.as_fd(), PollFlags::POLLIN), PollFd::new(self.destroyed.as_fd(), PollFlags::POLLIN)];
        if let Err(error) = poll(&mut fds, timeout) {
            // Interrupted, or out of kernel memory: do not spin.
            if error != nix::errno::Errno::EINTR {
                std::thread::sleep(PACE);
            }
        }
    }

    /// Hears of ends; true if more may wait.
    fn hear(&mut self, now: Now) -> bool {
        for _ in 0..ENDS_A_ROUND {
            match self.destroyed.poll() {
                Ok(Some(destroyed)) => {
                    self.stats.destroyed.fetch_add(1, Ordering::Relaxed);
                    self.diag.learn_interface(destroyed.socket.interface);
                    // Not before it was heard: its first packet may be younger than this round.
                    self.announcer.handle_destroyed(destroyed, Now::read(), &self.sink);
                }
                Ok(None) => return false,
                Err(error) => {
                    self.warn(now, &error);
                    if matches!(error, DestroyError::Overflow) {
                        self.stats.overflows.fetch_add(1, Ordering::Relaxed);
                        self.announcer.handle_overflow();
                        // The list tells what was lost; in a storm that does not end, once a second.
                        self.next_list = self.next_list.min(now.tick + AFTER_OVERFLOW);
                    } else {
                        std::thread::sleep(PACE);
                    }
                    return true;
                }
            }
        }
        true
    }

    fn answer(&mut self, now: Now) {
        self.requests.take(&mut self.asked);
        let count = self.asked.len().min(BATCH);
        let keys: Vec<_> = self.asked.drain(..count).collect();
        let answers = self.look_up(&keys, now);
        let now = Now::read();
        for (key, answer) in keys.iter().zip(answers) {
            // Once more, a moment later: the socket of a SYN cookie is made when the other end's ACK comes
            // (tcp_get_cookie_sock in net/ipv4/syncookies.c), after capture has seen that ACK; and what is gone is told by
            // a kernel thread that may be late (sock_diag_broadcast_destroy in net/core/sock_diag.c).
            if matches!(answer, Answer::ListenOnly | Answer::Nothing) && self.retries.len() < MAX_RETRIES {
                self.retries.push_back((now.tick + RETRY, *key));
            } else {
                self.announcer.handle_answer(key, &answer, now, &self.sink);
            }
        }
    }

    fn retry(&mut self, now: Now) {
        let due = self.retries.iter().take(BATCH).take_while(|(due, _)| *due <= now.tick).count();
        let keys: Vec<_> = self.retries.drain(..due).map(|(_, key)| key).collect();
        let answers = self.look_up(&keys, now);
        let now = Now::read();
        for (key, answer) in keys.iter().zip(answers) {
            self.announcer.handle_answer(key, &answer, now, &self.sink);
        }
    }

    fn go_on_listing(&mut self, now: Now) {
        if self.list.is_none() && self.missing.is_empty() && now.tick >= self.next_list {
            self.begin_list(now);
            match Dump::begin() {
                Ok(list) => self.list = Some(list),
                Err(error) => self.warn(now, &error),
            }
        }
        if now.tick < self.next_batch {
            return;
        }
        self.next_batch = now.tick + PACE;
        if let Some(list) = &mut self.list {
            let (announcer, diag, sink) = (&mut self.announcer, &mut self.diag, &self.sink);
            let more = list.next_batch(&mut |socket| {
                diag.learn_interface(socket.interface);
                announcer.handle_socket(&socket, Shown::Listed, Now::read(), sink);
            });
            match more {
                Ok(true) => {}
                Ok(false) => self.finish_list(),
                Err(error) => {
                    self.list = None;
                    self.warn(now, &error);
                }
            }
        } else if !self.missing.is_empty() {
            let rest = self.missing.len().saturating_sub(BATCH);
            let (cookies, keys): (Vec<_>, Vec<_>) = self.missing.drain(rest..).unzip();
            for (cookie, answer) in cookies.into_iter().zip(self.look_up(&keys, now)) {
                self.announcer.handle_missing(cookie, &answer, now);
            }
        }
    }

    fn begin_list(&mut self, now: Now) {
        self.announcer.begin_list();
        self.next_list = now.tick + self.options.list_every;
    }

    fn finish_list(&mut self) {
        self.list = None;
        self.missing = self.announcer.finish_list();
        self.stats.lists.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks up and counts; every answer is a failure if the kernel cannot be asked.
    fn look_up(&mut self, keys: &[FlowKey], now: Now) -> Vec<Answer> {
        if keys.is_empty() {
            return Vec::new();
        }
        let began = Instant::now();
        let answers = self.diag.lookup_many(keys).unwrap_or_else(|error| {
            self.warn(now, &error);
            vec![Answer::Failed(0); keys.len()]
        });
        self.stats.lookup_nanos.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        for answer in &answers {
            let counter = match answer {
                Answer::Found(_) | Answer::FoundBoth(_) => &self.stats.found,
                Answer::ListenOnly => &self.stats.listen_only,
                Answer::Nothing => &self.stats.nothing,
                Answer::Failed(_) => &self.stats.failed,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        answers
    }

    /// Complains, at most once a minute: all of it is counted.
    fn warn(&mut self, now: Now, error: &dyn std::error::Error) {
        if self.warned.is_none_or(|last| now.tick.duration_since(last) >= WARN_EVERY) {
            self.warned = Some(now.tick);
            warn!(%error, "UUIDs from the kernel are late or missing");
        }
    }
}

impl Now {
    fn read() -> Self {
        Self { at: clock::now(), tick: Instant::now() }
    }
}

/// Ends that are heard before questions get their turn.
const ENDS_A_ROUND: usize = 1024;

/// The pause between the parts of a list, some 250 sockets each: who hears the events gets 250,000 a second at most.
const PACE: Duration = Duration::from_millis(1);

/// From lost messages to the list that makes up for them.
const AFTER_OVERFLOW: Duration = Duration::from_secs(1);

/// From a lookup that found no connection to the next.
const RETRY: Duration = Duration::from_millis(50);

/// Most lookups that wait for their second try.
const MAX_RETRIES: usize = 1 << 16;

const WARN_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::eventsocket::convert;
    use crate::identity::{UuidEvent, UuidSource};
    use crate::key::{Address, Name};
    use crate::time::CivilDate;

    /// Lines that tcp-info was seen to write.
    const OPENS: [&str; 3] = [
        r#"{"Event":0,"Timestamp":"2026-11-21T00:11:14.659974346Z","UUID":"vm_1795218624_0000000000000004","ID":{"SPort":8080,"DPort":58594,"SrcIP":"10.9.0.1","DstIP":"10.9.0.2","Interface":0,"Cookie":4}}"#,
        r#"{"Event":0,"Timestamp":"2026-11-21T00:45:13.291362591Z","UUID":"host_123_0000000000003E7A","ID":{"SPort":8080,"DPort":40498,"SrcIP":"fd09::1","DstIP":"fd09::2","Interface":0,"Cookie":15994}}"#,
        r#"{"Event":0,"Timestamp":"2026-11-21T00:45:11.240955433Z","UUID":"host_123_0000000000003E79","ID":{"SPort":8095,"DPort":44322,"SrcIP":"10.9.0.1","DstIP":"10.9.0.2","Interface":100663296,"Cookie":15993}}"#,
    ];
    const CLOSE: &str =
        r#"{"Event":1,"Timestamp":"2026-11-21T00:11:15.670925147Z","UUID":"vm_1795218624_0000000000000004","ID":null}"#;

    #[test]
    fn what_tcp_info_would_write_is_told_byte_for_byte_and_read_back() {
        let end = |ip: &str, port| Endpoint { addr: Address::from(ip.parse::<std::net::IpAddr>().unwrap()), port };
        let sockets = [
            ("vm_1795218624", 4, (1_795_219_874, 659_974_346), end("10.9.0.1", 8080), end("10.9.0.2", 58594), 0),
            ("host_123", 15994, (1_795_221_913, 291_362_591), end("fd09::1", 8080), end("fd09::2", 40498), 0),
            ("host_123", 15993, (1_795_221_911, 240_955_433), end("10.9.0.1", 8095), end("10.9.0.2", 44322), 6),
        ];
        for ((prefix, cookie, (secs, nanos), local, remote, interface), line) in sockets.into_iter().zip(OPENS) {
            let at = Timestamp::from_parts(secs, nanos);
            let name = Name { date: CivilDate::from_utc(at), uuid: Prefix::parse(prefix).unwrap().uuid(cookie) };
            let opened = Opened { name, at, local, remote, gone: false, source: UuidSource::Kernel };
            let told = KernelEvent::Open { opened: opened.clone(), interface, again: false }.to_event(Timestamp::ZERO).unwrap();
            assert_eq!(told.encode(), line);
            let read = Event::decode(line.as_bytes()).unwrap();
            assert_eq!(read, told);
            let heard = Opened { source: UuidSource::EventSocket, ..opened.clone() };
            assert_eq!(convert(&read), Ok(Some(UuidEvent::Open(heard))));
            assert_eq!(KernelEvent::Open { opened, interface, again: true }.to_event(at), None, "it was told before");
        }
        let uuid = Prefix::parse("vm_1795218624").unwrap().uuid(4);
        let (local, remote) = (end("10.9.0.1", 8080), end("10.9.0.2", 58594));
        let closed = KernelEvent::Closed { uuid, local, remote, tcp_info: None };
        let told = closed.to_event(Timestamp::from_parts(1_795_219_875, 670_925_147)).unwrap();
        assert_eq!(told.encode(), CLOSE);
        assert_eq!(Event::decode(CLOSE.as_bytes()).unwrap(), told);
        assert_eq!(KernelEvent::Unknown(FlowKey::new(local, remote).0).to_event(Timestamp::ZERO), None);
    }
}
