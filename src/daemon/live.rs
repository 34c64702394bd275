//! Live capture: the control plane around the shard threads.
//!
//! One task keeps the rings in step with the host's interfaces, one hears the event socket, one serves HTTP; signals end
//! it all in order: capture goes on for the SIGTERM wait, then shards finish, then writers.

use super::Parts;
use super::memory;
use super::rings::{Interfaces, RINGS, RingPlan};
use super::shard_thread::{self, Command, Mailbox, RingLost};
use super::shunting::Shunting;
use super::status::Status;
use crate::capture::filter::RingFilter;
use crate::capture::interfaces::{Monitor, Snapshot};
use crate::identity::kernel::DestroyedSockets;
use crate::identity::{Announcement, eventsocket};
use crate::key::Address;
use anyhow::{Context, Result, anyhow};
use flowarc_eventsocket::{Client, ClientEvent, ClientStats};
use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};

/// Captures until a signal comes, then drains.
///
/// # Errors
/// Fails when capture cannot begin, or when a required event socket is lost; what is held is archived all the same.
pub(super) async fn run(
    parts: &Arc<Parts>,
    (interfaces, ring_size, shunts): (&[String], Option<u32>, Vec<Option<Shunting>>),
    status: &Arc<Status>,
    destroyed: Option<DestroyedSockets>,
) -> Result<()> {
    let mut signals = Signals::new()?;
    parts.prepare_folders();
    let (lost, mut losses) = mpsc::unbounded_channel();
    let threads = start_shards(parts, shunts, status, &lost)?;
    let shards = NonZeroUsize::new(parts.config.shards).expect("the configuration has at least one shard");
    let snap_len = parts.config.snap_len;
    let filter = RingFilter::Tcp;
    let memory = RINGS.min(parts.config.limits.heap / RINGS_SHARE);
    let plan = RingPlan { requested: interfaces, ring_size, memory, shards, snap_len, filter, promiscuous: false };
    let mut control = Control {
        parts,
        status,
        interfaces: Interfaces::new(plan, status),
        local: Arc::default(),
        ticked: Instant::now(),
        cleaned_up: Instant::now(),
    };
    let outcome = async {
        let mut monitor = Monitor::start().await?;
        control.begin(monitor.snapshot())?;
        let mut failures = hear_events(parts, status)?;
        let kernel = super::kernel::start(parts, status, destroyed).await?;
        status.started();
        let served = control.serve(&mut monitor, &mut signals, &mut losses, &mut failures).await;
        if let Some(kernel) = kernel {
            kernel.stop().await;
        }
        served
    }
    .await;
    for mailbox in &status.mailboxes {
        mailbox.send(Command::Finish);
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a shard thread panicked: this is a bug, and its flows are not archived"))?;
    }
    outcome
}

fn start_shards(
    parts: &Arc<Parts>,
    shunts: Vec<Option<Shunting>>,
    status: &Arc<Status>,
    lost: &mpsc::UnboundedSender<RingLost>,
) -> Result<Vec<JoinHandle<()>>> {
    let start = |(n, shunt): (usize, Option<Shunting>)| {
        let (parts, status, lost) = (Arc::clone(parts), Arc::clone(status), lost.clone());
        let shard = parts.shard(n as u16, shunt.is_some());
        std::thread::Builder::new()
            .name(format!("shard-{n}"))
            .spawn(move || shard_thread::run(&parts, shard, shunt, &status, &status.mailboxes[n], &lost))
            .with_context(|| format!("start the thread of shard {n}"))
    };
    shunts.into_iter().enumerate().map(start).collect()
}

/// Keeps rings, addresses and health as they should be.
struct Control<'a> {
    parts: &'a Parts,
    status: &'a Status,
    interfaces: Interfaces<'a>,
    /// The host's addresses, as the shards know them.
    local: Arc<HashSet<Address>>,
    ticked: Instant,
    cleaned_up: Instant,
}

impl Control<'_> {
    /// Opens the first rings.
    ///
    /// # Errors
    /// What cannot work later either stops the program: no capability, a name that no interface has, a link type that is
    /// not supported on a named interface.
    fn begin(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.interfaces.check(snapshot)?;
        self.reconcile(snapshot, true)
    }

    async fn serve(
        &mut self,
        monitor: &mut Monitor,
        signals: &mut Signals,
        losses: &mut mpsc::UnboundedReceiver<RingLost>,
        failures: &mut mpsc::Receiver<anyhow::Error>,
    ) -> Result<()> {
        let mut tick = tokio::time::interval(TICK);
        let mut until: Option<Instant> = None;
        loop {
            tokio::select! {
                name = signals.next() => {
                    if until.is_some() {
                        info!(signal = name, "stopping at once");
                        return Ok(());
                    }
                    let wait = self.parts.config.timers.sigterm_wait;
                    info!(signal = name, ?wait, "stopping when no flow is left or the wait is over");
                    self.status.stopping();
                    until = Some(Instant::now() + wait);
                    tick = tokio::time::interval(DRAIN_TICK);
                }
                changed = monitor.changed() => match changed {
                    Ok(_) => self.reconcile(monitor.snapshot(), false)?,
                    Err(error) => {
                        warn!(%error, "starting the interface monitor again");
                        tokio::time::sleep(TICK).await;
                        // If that fails, the old one says so again at once.
                        match Monitor::start().await {
                            Ok(fresh) => *monitor = fresh,
                            Err(error) => warn!(%error, "interfaces are not watched"),
                        }
                        self.reconcile(monitor.snapshot(), false)?;
                    }
                },
                Some(loss) = losses.recv() => {
                    self.interfaces.lose(&loss);
                    memory::set_aside(&self.parts.ledger, &self.parts.config, self.interfaces.ring_bytes());
                }
                Some(failure) = failures.recv() => return Err(failure),
                _ = tick.tick() => {
                    if until.is_some_and(|at| Instant::now() >= at || !self.status.is_busy()) {
                        return Ok(());
                    }
                    if self.ticked.elapsed() >= TICK {
                        self.ticked = Instant::now();
                        self.reconcile(monitor.snapshot(), false)?;
                        self.tick();
                    }
                }
            }
        }
    }

    /// What is looked at once a second.
    fn tick(&mut self) {
        self.status.tick();
        self.parts.metrics.tick();
        if let Some(stats) = self.status.event_socket() {
            self.parts.metrics.socket.tick(stats);
        }
        if let Some(stats) = self.status.kernel() {
            self.parts.metrics.kernel.tick(stats);
        }
        if let Some(server) = self.status.server() {
            self.parts.metrics.served.tick(&server);
        }
        if self.cleaned_up.elapsed() >= self.parts.config.timers.flow_timeout {
            self.cleaned_up = Instant::now();
            memory::give_back(&self.parts.ledger, self.parts.config.limits.idle_ram);
            self.parts.prepare_folders();
        }
    }

    fn reconcile(&mut self, snapshot: &Snapshot, first: bool) -> Result<()> {
        // Before the rings: a flow is masked by the addresses that are known when its first packet comes.
        self.tell_addresses(snapshot);
        self.interfaces.reconcile(snapshot, first)?;
        memory::set_aside(&self.parts.ledger, &self.parts.config, self.interfaces.ring_bytes());
        self.parts.metrics.predecessor.interfaces.set(self.interfaces.capturing() as i64);
        Ok(())
    }

    fn tell_addresses(&mut self, snapshot: &Snapshot) {
        let local: HashSet<_> =
            snapshot.addresses.iter().chain(&self.parts.config.local_addrs).map(|ip| Address::from(*ip)).collect();
        if local != *self.local {
            self.local = Arc::new(local);
            for mailbox in &self.status.mailboxes {
                mailbox.send(Command::Local(Arc::clone(&self.local)));
            }
        }
    }
}

/// Starts hearing the event socket, if there is one. The receiver tells when a required socket is not there.
fn hear_events(parts: &Arc<Parts>, status: &Arc<Status>) -> Result<mpsc::Receiver<anyhow::Error>> {
    let (failed, failures) = mpsc::channel(1);
    let Some((path, required)) = parts.config.identity.event_socket() else { return Ok(failures) };
    let client = Client::start(path).with_context(|| format!("event socket {}", path.display()))?;
    status.set_event_socket(client.stats());
    let (parts, status, path, required) = (Arc::clone(parts), Arc::clone(status), path.to_owned(), required);
    tokio::spawn(async move {
        let stats = client.stats();
        let failure = hear(&parts, &status, client, &stats, &path, required).await;
        // Nobody listens when everything is ending anyway.
        let _ = failed.send(failure).await;
    });
    Ok(failures)
}

/// Passes events on until a required socket is lost.
async fn hear(
    parts: &Parts,
    status: &Status,
    mut client: Client,
    stats: &ClientStats,
    path: &Path,
    required: bool,
) -> anyhow::Error {
    loop {
        match client.next().await {
            ClientEvent::Connected => {
                info!(socket = %path.display(), reconnects = stats.reconnects(), "connected to the event socket")
            }
            ClientEvent::Event(event) => match eventsocket::convert(&event) {
                Ok(Some(event)) => {
                    parts.metrics.socket.heard(event.at());
                    let announcement = Announcement::new(event, &parts.metrics.events);
                    status.mailboxes.iter().for_each(|mailbox: &Mailbox| mailbox.announce(&announcement));
                }
                Ok(None) => parts.metrics.socket.ignored.inc(),
                Err(bad) => {
                    parts.metrics.predecessor.bad_events.with_label_values(&[bad.label()]).inc();
                    status.complain(&bad);
                }
            },
            ClientEvent::Bad(line) => status.complain(&line),
            ClientEvent::Disconnected { reason } => {
                if required {
                    return anyhow!(
                        "event socket {}: {reason} (start tcp-info first, or leave out -tcpinfo.required)",
                        path.display()
                    );
                }
                warn!(socket = %path.display(), %reason, "no event socket: connections get no UUIDs until it is there");
            }
        }
    }
}

/// SIGTERM and SIGINT, which mean the same.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self { term: listen(SignalKind::terminate())?, int: listen(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

/// How often interfaces that could not be opened are tried again, and health is looked at.
pub(super) const TICK: Duration = Duration::from_millis(900);
/// The same while stopping, when the last flow may end at any time.
const DRAIN_TICK: Duration = Duration::from_millis(20);
/// One part in this many of `-maxheap` is what rings take where none is asked for.
const RINGS_SHARE: u64 = 8;
