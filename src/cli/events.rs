//! `flowarc events`: prints, records, serves and replays the announcements of connections.
//!
//! What is recorded are the lines of the event socket themselves, so that a file can be given to `flowarc headers --events`,
//! replayed, or read by anything that reads JSON lines.

use super::BadMeaning;
use super::headers::path;
use crate::capture::clock;
use crate::identity::kernel::{KernelEvent, KernelSource, Options, TcpInfo};
use crate::identity::prefix::Prefix;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use flowarc_eventsocket::{BadLine, CHUNK, Client, ClientEvent, Decoder, Event, Kind, Server};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

/// What was typed for `flowarc events`.
#[derive(Subcommand, Clone, Debug)]
pub enum EventsCommand {
    /// Print announcements as they come, one a line
    Print {
        /// Where they come from.
        #[command(flatten)]
        source: SourceArgs,

        /// Print the lines of the event socket instead of text
        #[arg(long)]
        json: bool,
    },
    /// Write announcements to a new file until SIGINT or SIGTERM, in the lines of the event socket
    Record {
        /// File to make; must not exist
        #[arg(value_name = "FILE", value_parser = path())]
        file: PathBuf,

        /// Where they come from.
        #[command(flatten)]
        source: SourceArgs,
    },
    /// Announce the connections of this host on a socket, in tcp-info's place
    ///
    /// A connection is opened when a list of all sockets has it first, and closed when the kernel says that its socket was
    /// destroyed. One that came and went between two lists is opened and closed at its end: none is missed, however short,
    /// so the lists may be far apart.
    Serve {
        /// Unix socket to listen on; @NAME for an abstract one
        #[arg(long = "eventsocket.serve", value_name = "PATH", value_parser = path())]
        eventsocket_serve: PathBuf,

        /// Whose UUIDs they are.
        #[command(flatten)]
        prefix: PrefixArgs,

        /// How often all sockets are listed, 1ms or more: how late an open may be told
        #[arg(long = "list.every", value_name = "DURATION", default_value = "100ms")]
        list_every: super::values::GoDuration,
    },
    /// Announce a recorded file's events on a socket, beginning when the first client connects
    Replay {
        /// File of events, one JSON object a line; - is standard input
        #[arg(value_name = "FILE", value_parser = path())]
        file: PathBuf,

        /// Unix socket to listen on; @NAME for an abstract one
        #[arg(long = "eventsocket.serve", value_name = "PATH", value_parser = path())]
        eventsocket_serve: PathBuf,

        /// How many times faster than recorded; 0 for as fast as clients read
        #[arg(long, value_name = "FACTOR", default_value = "1")]
        speed: f64,
    },
}

/// Where announcements come from.
#[derive(Args, Clone, Debug)]
pub struct SourceArgs {
    /// Who tells them; auto: the event socket if one is named, else the kernel
    #[arg(long = "uuid.source", value_name = "SOURCE", value_enum, default_value = "auto")]
    pub uuid_source: EventsSource,

    /// Unix socket on which connections are announced; @NAME for an abstract one
    #[arg(long = "tcpinfo.eventsocket", value_name = "PATH", value_parser = path())]
    pub tcpinfo_eventsocket: Option<PathBuf>,

    /// Whose UUIDs the kernel's are.
    #[command(flatten)]
    pub prefix: PrefixArgs,
}

/// What the UUIDs of the kernel begin with.
#[derive(Args, Clone, Debug)]
pub struct PrefixArgs {
    /// File with the beginning of this host's UUIDs [default: HOST_BOOT_unsafe]
    #[arg(long = "uuid.prefix-file", value_name = "FILE", value_parser = path())]
    pub uuid_prefix_file: Option<PathBuf>,
}

/// Who tells of connections.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventsSource {
    /// What the other flags name.
    Auto,
    /// An event socket.
    #[value(name = "eventsocket")]
    EventSocket,
    /// The kernel itself, for the connections of this network namespace.
    Kernel,
}

/// Does what was asked for.
///
/// # Errors
/// Says where the arguments make no sense, or what went wrong while running.
pub fn run(command: EventsCommand) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the control plane")?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        match command {
            EventsCommand::Print { source, json } => print(&mut Source::start(&source)?, json, &mut signals).await,
            EventsCommand::Record { file, source } => record(&mut Source::start(&source)?, &file, &mut signals).await,
            EventsCommand::Serve { eventsocket_serve, prefix, list_every } => {
                if list_every.as_nanos() < 1_000_000 {
                    bail!(BadMeaning("--list.every is less than 1ms (want such as 100ms)".into()));
                }
                serve(&eventsocket_serve, &prefix, Duration::from_nanos(list_every.as_nanos() as u64), &mut signals).await
            }
            EventsCommand::Replay { file, eventsocket_serve, speed } => {
                if !(speed >= 0.0 && speed.is_finite()) {
                    bail!(BadMeaning(format!("--speed={speed} is no factor (want 0 or more, such as 2)")));
                }
                replay(&file, &eventsocket_serve, speed, &mut signals).await
            }
        }
    })
}

async fn print(source: &mut Source, json: bool, signals: &mut Signals) -> Result<()> {
    loop {
        let told = tokio::select! {
            told = source.next() => told,
            () = signals.next() => return Ok(()),
        };
        let line = if json { told.event.encode() } else { text(&told) };
        match writeln!(io::stdout(), "{line}") {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.context("write to standard output")?,
        }
    }
}

async fn record(source: &mut Source, path: &Path, signals: &mut Signals) -> Result<()> {
    let object = || format!("record to {} (name a file that does not exist)", path.display());
    let mut file = File::create_new(path).with_context(object)?;
    let mut count = 0u64;
    loop {
        let told = tokio::select! {
            told = source.next() => told,
            () = signals.next() => {
                info!(events = count, file = %path.display(), "recorded");
                return Ok(());
            }
        };
        file.write_all((told.event.encode() + "\n").as_bytes()).with_context(|| format!("write to {}", path.display()))?;
        count += 1;
    }
}

async fn serve(path: &Path, prefix: &PrefixArgs, list_every: Duration, signals: &mut Signals) -> Result<()> {
    let prefix = prefix.read()?;
    let server = Arc::new(bind(path).await?);
    let options = Options { list_every, ..Options::default() };
    let teller = Arc::clone(&server);
    let (source, _) = KernelSource::start_with(prefix, options, move |event| {
        if let Some(event) = event.to_event(clock::now()) {
            teller.send(&event);
        }
    })?;
    info!(socket = %path.display(), "announcing the connections of this network namespace");
    signals.next().await;
    // The thread ends, and with it the other handle of the server.
    drop(source);
    if let Some(server) = Arc::into_inner(server) {
        server.shutdown(PATIENCE).await;
    }
    Ok(())
}

async fn replay(file: &Path, socket: &Path, speed: f64, signals: &mut Signals) -> Result<()> {
    let reader: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(file).with_context(|| format!("open {}", file.display()))?),
    };
    let server = bind(socket).await?;
    let done = async {
        while server.clients() == 0 {
            tokio::time::sleep(CLIENT_POLL).await;
        }
        let (start, mut pace) = (Instant::now(), Pace { speed, first: None });
        for (number, line) in Lines::new(reader).enumerate() {
            match line.with_context(|| format!("read {}", file.display()))? {
                Ok(event) if speed > 0.0 => {
                    tokio::time::sleep_until(start + pace.due(&event)).await;
                    server.send(&event);
                }
                Ok(event) => {
                    // The server cuts off who falls 4,096 lines behind: let it write, and readers read.
                    if number % BURST == BURST - 1 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    server.send(&event);
                }
                Err(bad) => warn!("skipped a line: {bad}"),
            }
        }
        anyhow::Ok(())
    };
    tokio::select! {
        result = done => result?,
        () = signals.next() => {}
    }
    server.shutdown(PATIENCE).await;
    Ok(())
}

/// An announcement, with what only the kernel tells.
struct Told {
    event: Event,
    tcp_info: Option<Box<TcpInfo>>,
}

/// Where announcements come from.
enum Source {
    Socket(Client),
    /// The receiver is dropped first, so that a source which waits for it can end.
    Kernel(mpsc::Receiver<Told>, #[expect(dead_code, reason = "it tells as long as it lives")] KernelSource),
}

impl Source {
    fn start(args: &SourceArgs) -> Result<Self> {
        match (args.uuid_source, &args.tcpinfo_eventsocket) {
            (EventsSource::Auto | EventsSource::EventSocket, Some(path)) => {
                Ok(Self::Socket(Client::start(path).with_context(|| format!("event socket {}", path.display()))?))
            }
            (EventsSource::EventSocket, None) => {
                bail!(BadMeaning("--uuid.source=eventsocket needs a socket (add --tcpinfo.eventsocket=PATH)".into()))
            }
            (EventsSource::Kernel, Some(_)) => {
                bail!(BadMeaning("--uuid.source=kernel and --tcpinfo.eventsocket exclude each other (name one)".into()))
            }
            (EventsSource::Auto | EventsSource::Kernel, None) => {
                let (sender, receiver) = mpsc::channel(QUEUE);
                let tell = move |event: KernelEvent| {
                    let Some(line) = event.to_event(clock::now()) else { return };
                    let tcp_info = if let KernelEvent::Closed { tcp_info, .. } = event { tcp_info } else { None };
                    // Waits for who reads slowly: what the kernel has no room for meanwhile, the next list makes good. It
                    // fails when the program ends.
                    let _ = sender.blocking_send(Told { event: line, tcp_info });
                };
                let options = Options { list_every: LIST_EVERY, ..Options::default() };
                let (source, _) = KernelSource::start_with(args.prefix.read()?, options, tell)?;
                Ok(Self::Kernel(receiver, source))
            }
        }
    }

    /// The next announcement; never, once the source is gone.
    async fn next(&mut self) -> Told {
        match self {
            Self::Kernel(receiver, _) => match receiver.recv().await {
                Some(told) => told,
                None => std::future::pending().await,
            },
            Self::Socket(client) => loop {
                match client.next().await {
                    ClientEvent::Event(event) => return Told { event, tcp_info: None },
                    ClientEvent::Connected => info!("connected to the event socket"),
                    ClientEvent::Disconnected { reason } => warn!("event socket {reason}; trying again"),
                    ClientEvent::Bad(bad) => warn!("skipped a line: {bad}"),
                }
            },
        }
    }
}

impl PrefixArgs {
    /// The prefix of the file that is named, or of this boot.
    fn read(&self) -> Result<Prefix> {
        Ok(match &self.uuid_prefix_file {
            Some(file) => Prefix::from_file(file)?,
            None => Prefix::of_this_boot(std::env::var("POD_NAME").ok(), clock::now())?,
        })
    }
}

/// One line for people.
fn text(told: &Told) -> String {
    let event = &told.event;
    let (time, uuid) = (event.timestamp, &event.uuid);
    match (event.kind, &event.id) {
        (Kind::Open, Some(id)) => {
            let end = |ip: &str, port: u16| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
            let (local, remote) = (end(&id.src_ip, id.src_port), end(&id.dst_ip, id.dst_port));
            format!("{time} open  {uuid} {local} {remote}")
        }
        (Kind::Open, None) => format!("{time} open  {uuid}"),
        (Kind::Close, _) => match &told.tcp_info {
            Some(info) => format!(
                "{time} close {uuid} rtt={}us min_rtt={}us retransmitted={} acked={} received={} state={}",
                info.rtt,
                if info.min_rtt == u32::MAX { 0 } else { info.min_rtt },
                info.total_retrans,
                info.bytes_acked,
                info.bytes_received,
                info.ca_state_name(),
            ),
            None => format!("{time} close {uuid}"),
        },
        (Kind::Other(number), _) => format!("{time} event {number} {uuid}"),
    }
}

async fn bind(path: &Path) -> Result<Server> {
    Server::bind(path).await.with_context(|| format!("listen at {}", path.display()))
}

/// Keeps the distances in time that events had.
struct Pace {
    speed: f64,
    first: Option<flowarc_eventsocket::Timestamp>,
}

impl Pace {
    /// How long after the first event this one is due. One that is earlier than the first is due at once.
    fn due(&mut self, event: &Event) -> Duration {
        let first = *self.first.get_or_insert(event.timestamp);
        let nanos = event.timestamp.unix_nanos() - first.unix_nanos();
        Duration::try_from_secs_f64(nanos.max(0) as f64 / self.speed / 1e9).unwrap_or(LONGEST).min(LONGEST)
    }
}

/// The events of a file, line by line.
struct Lines {
    reader: Box<dyn Read>,
    decoder: Decoder,
    chunk: Vec<u8>,
    ended: bool,
}

impl Lines {
    fn new(reader: Box<dyn Read>) -> Self {
        Self { reader, decoder: Decoder::new(), chunk: vec![0; CHUNK], ended: false }
    }
}

impl Iterator for Lines {
    type Item = io::Result<Result<Event, BadLine>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(line) = self.decoder.poll() {
                return Some(Ok(line));
            }
            if self.ended {
                return self.decoder.finish().map(Ok);
            }
            match self.reader.read(&mut self.chunk) {
                Ok(count) => {
                    self.decoder.handle_bytes(&self.chunk[..count]);
                    self.ended = count == 0;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.ended = true;
                    return Some(Err(e));
                }
            }
        }
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Announcements that wait to be printed or written.
const QUEUE: usize = 4096;

/// How often all sockets are listed where nobody asks for a connection: what is shorter is told at its end.
const LIST_EVERY: Duration = Duration::from_millis(100);

/// How long clients may take to read the last lines.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a replay looks whether a client has come.
const CLIENT_POLL: Duration = Duration::from_millis(5);

/// Lines sent at a stretch, a quarter of what a client may be behind.
const BURST: usize = flowarc_eventsocket::MAX_QUEUED_LINES / 4;

/// What a clock can be waited for, and nobody waits for.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_ends_at_an_open_and_the_sums_at_a_close() {
        let id = flowarc_eventsocket::SocketId::new("[fd09::1]:8080".parse().unwrap(), "[fd09::2]:40498".parse().unwrap(), 4);
        let at = flowarc_eventsocket::Timestamp::from_unix_nanos(1_795_219_874_659_974_346);
        let open = Told { event: Event::open(at, "x_4", id), tcp_info: None };
        assert_eq!(text(&open), "2026-11-21T00:11:14.659974346Z open  x_4 [fd09::1]:8080 [fd09::2]:40498");
        let close = |tcp_info| text(&Told { event: Event::close(at, "x_4"), tcp_info });
        assert_eq!(close(None), "2026-11-21T00:11:14.659974346Z close x_4");
        let info =
            TcpInfo { rtt: 130, min_rtt: u32::MAX, total_retrans: 2, bytes_acked: 7, bytes_received: 9, ..TcpInfo::default() };
        assert_eq!(
            close(Some(Box::new(info))),
            "2026-11-21T00:11:14.659974346Z close x_4 rtt=130us min_rtt=0us retransmitted=2 acked=7 received=9 state=open"
        );
    }

    #[test]
    fn events_are_paced_by_their_timestamps_and_the_speed() {
        let event = |millis: u64| Event::close(flowarc_eventsocket::Timestamp::from_unix_nanos(millis * 1_000_000), "x");
        for (speed, due) in [(1.0, [0, 1000, 0, 5000]), (2.0, [0, 500, 0, 2500]), (0.1, [0, 10_000, 0, 50_000])] {
            let mut pace = Pace { speed, first: None };
            let paced = [10_000, 11_000, 9_000, 15_000].map(|millis| pace.due(&event(millis)).as_millis());
            assert_eq!(paced, due, "speed {speed}");
        }
        let mut pace = Pace { speed: f64::MIN_POSITIVE, first: None };
        assert_eq!([pace.due(&event(0)), pace.due(&event(1))], [Duration::ZERO, LONGEST]);
    }

    #[test]
    fn a_file_is_read_line_by_line_to_a_last_one_without_end() {
        let text = b"{\"UUID\":\"a\"}\nnonsense\n{\"UUID\":\"b\"}".as_slice();
        let read: Vec<_> = Lines::new(Box::new(text)).map(|line| line.unwrap().map(|event| event.uuid).ok()).collect();
        assert_eq!(read, [Some("a".to_owned()), None, Some("b".to_owned())]);
    }
}
