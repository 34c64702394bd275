//! Wires the parts together, starts them, drains and stops them.
//!
//! The data plane is plain threads: shards and writers. The control plane is one small tokio runtime: event socket,
//! interfaces, HTTP, signals. Nothing is opened before the configuration is known to be good, and what can fail for
//! want of a port, a folder or a capability fails before the first frame is captured.

mod capture;
mod capture_thread;
mod command;
mod control;
mod gotm;
mod kernel;
mod live;
mod memory;
mod metrics;
mod offline;
mod rings;
mod shard_thread;
mod shunting;
mod status;

pub use capture::run_capture;

use crate::admin;
use crate::archive::catalogue::{CatalogueMetrics, Recorder, WhenFull};
use crate::archive::metrics::ArchiveMetrics;
use crate::archive::path::Tree;
use crate::archive::pool::{Report, STUCK_AFTER, Submitter, WriterPool, spawn_writers};
use crate::archive::salvage::salvage;
use crate::archive::writer::{ArchiveConfig, Mode};
use crate::capture::clock;
use crate::capture::filter::RingFilter;
use crate::cli::config::{CaptureFile, HeadersConfig, Identity, Input};
use crate::cli::one_line;
use crate::flow::ledger::Ledger;
use crate::flow::state::Timers;
use crate::identity::eventsocket::{EventsFileError, read_events};
use crate::identity::kernel::Requests;
use crate::identity::{Announcement, EventOutcome};
use crate::key::Address;
use crate::metrics::PredecessorMetrics;
use crate::sandbox::{self, Needs, Role, SandboxMetrics};
use crate::shard::{FlowLimit, Naming, Shard, ShardConfig};
use crate::time::{CivilDate, Timestamp};
use anyhow::{Context, Result, bail};
use metrics::Metrics;
use prometheus::Registry;
use shard_thread::Mailbox;
use shunting::{ShuntMetrics, Shunting};
use status::Status;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tracing::{info, warn};

/// Runs `flowarc headers` until its input ends or it is told to stop.
///
/// # Errors
/// Fails when something needed at the start is missing, or when not everything could be archived.
pub fn run_headers(config: HeadersConfig) -> Result<()> {
    memory::prepare();
    let registry = Registry::new();
    let predecessor = PredecessorMetrics::register(&registry);
    let archive_metrics = ArchiveMetrics::register(&registry, predecessor.clone());
    let tree = Arc::new(Tree::open(&config.output.data_dir, config.output.tmp_dir.as_deref())?);
    let catalogue_metrics = CatalogueMetrics::register(&registry);
    let listener = config.admin.as_ref().map(admin::bind).transpose()?;
    let destroyed = kernel::subscribe(&config)?;
    let shunts = shunts(&config, &ShuntMetrics::register(&registry));
    let needs = Needs { shunt: shunts.iter().any(Option::is_some), ..needs(&config, &tree)? };
    let sandbox_metrics = SandboxMetrics::register(&registry);
    // Nothing of others' was read yet, and there is no other thread.
    sandbox::enter(config.sandbox, &needs, &sandbox_metrics)?;
    let ledger = Ledger::new(config.limits.heap);
    memory::set_aside(&ledger, &config, 0);
    let open = |dir| open_catalogue(dir, &catalogue_metrics, &config.input, &ledger);
    let recorder = config.output.catalogue.as_deref().map(open).transpose()?;
    let rows = recorder.as_ref().map(Recorder::sender);
    // Beside capture, which must not wait for what a crash left behind.
    let salvaging = {
        let (tree, ledger, metrics) = (Arc::clone(&tree), Arc::clone(&ledger), archive_metrics.clone());
        let rows = rows.clone();
        let run = move || {
            sandbox::narrow(Role::Files);
            salvage(&tree, &ledger, &metrics, rows.as_ref())
        };
        std::thread::Builder::new().name("salvage".to_owned()).spawn(run).context("start the salvage")?
    };
    let mode = if config.output.stream { Mode::Stream } else { Mode::Buffered };
    let tcp_info = config.identity.kernel().is_some();
    let archive = ArchiveConfig { mode, fsync: config.output.fsync, snaplen: config.snap_len, tcp_info };
    let pool = spawn_writers(config.output.writers, archive, &tree, &archive_metrics, &ledger, rows.as_ref())
        .context("start the writers")?;
    let metrics = Metrics::register(&registry, predecessor, sandbox_metrics, &config, &ledger);
    let parts = Arc::new(Parts {
        shard_config: shard_config(&config),
        limit: FlowLimit::new(config.limits.flows.map_or(0, |n| n as u64)),
        writers: pool.submitter(),
        config,
        metrics,
        ledger,
        tree,
        questions: OnceLock::new(),
    });
    // Offline the reader feeds the shards, and nobody needs to reach them.
    let reachable = if matches!(parts.config.input, Input::Live { .. }) { parts.config.shards } else { 0 };
    let mailboxes = (0..reachable).map(|_| Mailbox::new()).collect::<nix::Result<_>>().context("create an eventfd")?;
    let status = Arc::new(Status::new(mailboxes, pool.health()));
    let runtime = runtime()?;
    let admin = serve_admin(listener, registry, &status, &runtime);
    let outcome = match &parts.config.input {
        Input::Files(files) => replay(&parts, files, &runtime, &status),
        Input::Live { interfaces, ring_size } => {
            runtime.block_on(live::run(&parts, (interfaces, *ring_size, shunts), &status, destroyed))
        }
    };
    let saved = finish(&parts, pool);
    parts.metrics.tick();
    if salvaging.join().is_err() {
        warn!("salvage panicked: this is a bug; what it had not reached stays for the next start");
    }
    if let Some(recorder) = recorder {
        recorder.finish();
    }
    // The port stays until all is on disk, so that the last numbers can be read.
    drop(admin);
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome.and(saved)
}

/// A shunt for each shard, if there are to be any and the kernel allows it.
fn shunts(config: &HeadersConfig, metrics: &ShuntMetrics) -> Vec<Option<Shunting>> {
    let start = || Shunting::start(SHUNTED, SHUNTED_MAX, (RingFilter::Tcp, config.snap_len), config.timers.idle, metrics);
    (0..config.shards).map(|_| config.shunt.then(start).flatten()).collect()
}

/// What the process must still reach when all is set up. Folders are made, because a rule is about a folder that is there.
fn needs(config: &HeadersConfig, tree: &Tree) -> Result<Needs> {
    let mut needs = Needs { write: vec![tree.data().to_owned(), tree.temp().to_owned()], ..Needs::default() };
    if let Some(dir) = &config.output.catalogue {
        fs::create_dir_all(dir).with_context(|| catalogue_refused(dir))?;
        needs.write.push(dir.clone());
    }
    match &config.input {
        Input::Live { .. } => {
            crate::capture::live::prepare();
            needs.capture = true;
        }
        Input::Files(files) => needs.read.extend(paths(files)),
    }
    match &config.identity {
        Identity::EventsFile(path) => needs.read.push(path.clone()),
        identity => {
            needs.connect.extend(identity.event_socket().map(|(path, _)| path.to_owned()));
            if let Some((prefix, serve)) = identity.kernel() {
                needs.read.extend(prefix.map(Path::to_owned));
                needs.listen.extend(serve.and_then(folder_of));
            }
        }
    }
    Ok(needs)
}

/// The paths among capture files.
fn paths(files: &[CaptureFile]) -> impl Iterator<Item = PathBuf> {
    files.iter().filter_map(|file| if let CaptureFile::Path(path) = file { Some(path.clone()) } else { None })
}

/// The folder that a socket of this path is made in; none if it is abstract.
fn folder_of(socket: &Path) -> Option<PathBuf> {
    let folder = socket.parent().filter(|_| !socket.as_os_str().as_bytes().starts_with(b"@"))?;
    Some(if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() })
}

fn open_catalogue(dir: &Path, metrics: &CatalogueMetrics, input: &Input, ledger: &Arc<Ledger>) -> Result<Recorder> {
    let when_full = if matches!(input, Input::Files(_)) { WhenFull::Wait } else { WhenFull::Lose };
    Recorder::start(dir, metrics, when_full, ledger).with_context(|| catalogue_refused(dir))
}

fn catalogue_refused(dir: &Path) -> String {
    format!("open catalogue {} (needs a folder that this user may write to)", dir.display())
}

/// What all threads share.
struct Parts {
    config: HeadersConfig,
    shard_config: ShardConfig,
    metrics: Metrics,
    ledger: Arc<Ledger>,
    limit: Arc<FlowLimit>,
    writers: Submitter,
    tree: Arc<Tree>,
    /// Where shards ask for UUIDs, once the kernel source runs.
    questions: OnceLock<Requests>,
}

impl Parts {
    /// The shard of this number; `shunt` says whether it has one.
    fn shard(&self, number: u16, shunt: bool) -> Shard {
        // Where there is no shunt nobody would take what the shard asks of it.
        let config = ShardConfig { shunt, ..self.shard_config };
        let mut shard = Shard::new(number, config, Arc::clone(&self.ledger), Arc::clone(&self.limit));
        let local: HashSet<_> = self.config.local_addrs.iter().map(|ip| Address::from(*ip)).collect();
        shard.set_local_addresses(Arc::new(local));
        shard
    }

    /// Makes today's and tomorrow's folders, so that uploaders watch them before the first file is in them.
    fn prepare_folders(&self) {
        let now = clock::now();
        for ts in [now, now + DAY] {
            if let Err(error) = self.tree.prepare(CivilDate::from_utc(ts)) {
                warn!(%error, "cannot make a day's folder ahead; it is made with its first file");
            }
        }
    }
}

fn shard_config(config: &HeadersConfig) -> ShardConfig {
    let t = &config.timers;
    let live = matches!(config.input, Input::Live { .. });
    let naming = match config.identity {
        Identity::Generated => Naming::Generated { keep_half_open: config.output.keep_half_open },
        Identity::EventSocket { .. } | Identity::Kernel { .. } | Identity::Both { .. } | Identity::EventsFile(_) => {
            Naming::Announced
        }
    };
    ShardConfig {
        timers: Timers {
            capture: t.capture,
            uuid_wait: t.uuid_wait,
            idle: t.idle,
            unnamed_idle: t.flow_timeout,
            // Nobody is waited for where flows name themselves, and a SYN is repeated for longer than the wait.
            half_open: if naming == Naming::Announced { t.uuid_wait } else { t.idle },
            linger: LINGER,
            seal: config.output.stream.then_some(SEAL),
        },
        naming,
        announcement_wait: live.then(|| t.uuid_wait.max(t.flow_timeout)),
        half_open_max: (config.limits.half_open / config.shards).max(1),
        scrub: config.scrub,
        deduplicate: match &config.input {
            Input::Live { interfaces, .. } => interfaces.len() != 1,
            Input::Files(_) => true,
        },
        shed: config.limits.shed,
        ask: config.identity.kernel().is_some(),
        compare: matches!(config.identity, Identity::Both { .. }),
        shunt: false,
        idle_bytes: usize::try_from(config.limits.idle_ram).unwrap_or(usize::MAX) / config.shards,
    }
}

fn replay(parts: &Arc<Parts>, files: &[CaptureFile], runtime: &Runtime, status: &Arc<Status>) -> Result<()> {
    let events = match &parts.config.identity {
        Identity::EventsFile(path) => announcements(parts, path)?,
        _ => Vec::new(),
    };
    let heard = events.len();
    status.set_interfaces(files.len(), &[]);
    let stop = Arc::new(AtomicBool::new(false));
    runtime.spawn(watch_replay(Arc::clone(parts), Arc::clone(status), Arc::clone(&stop)));
    offline::run(parts, files, events, &stop)?;
    let named = parts.metrics.events.counted(EventOutcome::Claimed);
    if heard > 0 && named == 0 {
        warn!(events = heard, "no event named a flow: are the events of this capture, and their times in its range?");
    }
    Ok(())
}

/// Beats for the probes while files are read, and stops the reading at a signal.
async fn watch_replay(parts: Arc<Parts>, status: Arc<Status>, stop: Arc<AtomicBool>) {
    let mut signals = match live::Signals::new() {
        Ok(signals) => signals,
        Err(error) => return warn!("signals end the replay at once, with nothing archived: {}", one_line(&error)),
    };
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            signal = signals.next() => {
                info!(signal, "stopping: what was read is archived");
                stop.store(true, Ordering::Relaxed);
            }
            _ = tick.tick() => {
                status.tick();
                parts.metrics.tick();
            }
        }
    }
}

fn announcements(parts: &Parts, path: &Path) -> Result<Vec<(Timestamp, Arc<Announcement>)>> {
    let file = File::open(path).with_context(|| format!("open events {}", path.display()))?;
    let mut events = Vec::new();
    let mut bad = 0_u64;
    for event in read_events(BufReader::new(file)) {
        match event {
            Ok(event) => events.push((event.at(), Announcement::new(event, &parts.metrics.events))),
            Err(error @ EventsFileError::Read(_)) => return Err(error).with_context(|| format!("events {}", path.display())),
            Err(error) => {
                bad += 1;
                parts.metrics.refused(&error);
                if bad <= SHOWN {
                    warn!(events = %path.display(), "{error}");
                }
            }
        }
    }
    if bad > SHOWN {
        warn!(events = %path.display(), lines = bad, "lines that are no usable events were skipped");
    }
    Ok(events)
}

/// Waits for the writers.
fn finish(parts: &Parts, pool: WriterPool) -> Result<()> {
    // Whoever stops a daemon will kill it if that takes too long; a replay has time.
    let patience = if let Input::Files(_) = parts.config.input { REPLAY_PATIENCE } else { STUCK_AFTER };
    let report = pool.finish(Instant::now() + FLUSH, patience);
    let Report { saved, given_up, stuck } = report;
    let data = parts.tree.data().display();
    info!(saved, given_up, "the writers have finished");
    if stuck > 0 {
        bail!(
            "the disk under {data} has done nothing for {patience:?}: {given_up} flows, and all that {stuck} writers still had, are lost"
        );
    }
    if given_up > 0 {
        bail!("{given_up} flows could not be written to {data} (see the log for the first reason; is the disk full?)");
    }
    Ok(())
}

/// Serves metrics and health, if that is asked for, until what it returns is dropped.
fn serve_admin(
    listener: Option<admin::Listener>,
    registry: Registry,
    status: &Arc<Status>,
    runtime: &Runtime,
) -> tokio::sync::oneshot::Sender<()> {
    let (stop, stopped) = tokio::sync::oneshot::channel();
    if let Some(listener) = listener {
        let health: Arc<dyn admin::Health> = status.clone();
        runtime.spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            if let Err(error) = listener.serve(registry, health, shutdown).await {
                warn!(%error, "metrics are no longer served");
            }
        });
    }
    stop
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("start the control plane")
}

/// How long a flow stays open after its end was seen, for what is still under way.
const LINGER: Duration = Duration::from_secs(1);
/// Stream mode: what a crash can lose of a flow.
const SEAL: Duration = Duration::from_secs(1);
/// What the shunt drops.
const SHUNTED: &str = "packets behind the capture duration";
/// Directions of flows in one shunt, of 40 + 24 bytes and the kernel's own: some 2 MiB.
const SHUNTED_MAX: u32 = 16_384;
/// How long files that the disk refuses are tried at the end.
const FLUSH: Duration = Duration::from_secs(2);
/// How long a replay waits for a disk that does nothing.
const REPLAY_PATIENCE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// Unusable lines of an event file that are logged one by one.
const SHOWN: u64 = 5;
