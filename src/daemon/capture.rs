//! Wires `flowarc capture`: rings or files, recorders, writers, retention.
//!
//! Live, each shard has a recorder and a writer thread, which make segments of their own. A file is read by one thread,
//! so that the same input gives the same segments.

use super::command::{Helper, LargeFlows};
use super::control::Control;
use super::gotm::GotmMetrics;
use super::live::{Signals, TICK};
use super::metrics::CaptureMetrics;
use super::offline;
use super::rings::{Interfaces, RINGS, RingPlan};
use super::shard_thread::{Command, Mailbox};
use super::shunting::{ShuntMetrics, Shunting};
use super::status::Status;
use super::{FLUSH, capture_thread, folder_of, paths, runtime, serve_admin};
use crate::admin;
use crate::archive::writer::DiskHealth;
use crate::capture::filter::RingFilter;
use crate::capture::interfaces::Monitor;
use crate::capture::live;
use crate::capture::{Frame, PacketSource, Progress, clock};
use crate::cli::capture::CaptureConfig;
use crate::cli::config::{CaptureFile, Input};
use crate::cli::one_line;
use crate::sandbox::{self, Needs, Role, SandboxMetrics};
use crate::spool::block::Blocks;
use crate::spool::cutoff::{Cutoff, FlowEvent};
use crate::spool::metrics::SpoolMetrics;
use crate::spool::recorder::{Recorder, Stats};
use crate::spool::report::Report;
use crate::spool::retention::Keeper;
use crate::spool::segment::{Salvaged, SegmentConfig, SegmentWriter, Spool};
use crate::spool::writer::{Outcome, SpoolWriter, WhenFull};
use crate::time::Timeline;
use anyhow::{Context, Result, anyhow, bail};
use prometheus::Registry;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// What all threads share.
pub(super) struct Parts {
    config: CaptureConfig,
    pub(super) metrics: SpoolMetrics,
    pub(super) rings: CaptureMetrics,
    shunt: ShuntMetrics,
    pub(super) gotm: Option<GotmMetrics>,
    sandbox: SandboxMetrics,
    large: Option<LargeFlows>,
}

/// Runs `flowarc capture` until its input ends or it is told to stop.
///
/// # Errors
/// Fails when something needed at the start is missing, or when not everything that was kept could be written.
pub fn run_capture(config: CaptureConfig) -> Result<()> {
    // Before there is a thread or a socket that it would have a copy of.
    let helper = config.large_command.as_deref().map(Helper::start).transpose().context("start the large-flow process")?;
    let registry = Registry::new();
    let (metrics, rings) = (SpoolMetrics::register(&registry, &config.cutoff.classes), CaptureMetrics::register(&registry));
    let interfaces = if let Input::Live { interfaces, .. } = &config.input { &interfaces[..] } else { &[] };
    let gotm = config.gotm_metrics.map(|interval| GotmMetrics::register(&registry, interfaces, config.shards, interval));
    let sandbox = SandboxMetrics::register(&registry);
    let shunt = ShuntMetrics::register(&registry);
    let mut parts = Parts { large: None, shunt, gotm, sandbox, metrics, rings, config };
    let listener = parts.config.admin.as_ref().map(admin::bind).transpose()?;
    let spool = if parts.config.report { None } else { Some(Arc::new(Spool::open(&parts.config.data_dir)?)) };
    let shunts = parts.shunts();
    // Nothing of others' was read yet, and there is no other thread.
    sandbox::enter(parts.config.sandbox, &parts.needs(&shunts), &parts.sandbox)?;
    parts.large = helper.map(|helper| LargeFlows::start(helper, &parts.metrics)).transpose().context("start a thread")?;
    let health = Arc::new(DiskHealth::default());
    let live = matches!(parts.config.input, Input::Live { .. });
    let writers = match &spool {
        Some(spool) => (0..parts.config.shards).map(|n| parts.writer(spool, n, &health)).collect::<Result<Vec<_>>>()?,
        None => Vec::new(),
    };
    // Beside capture, which must not wait for what a crash has left; what that is must be known before there is more.
    let salvaging = spool.as_ref().map(|spool| start_salvage(spool, &parts.metrics)).transpose()?;
    // Offline nobody needs to reach the reader.
    let reachable = if live { parts.config.shards } else { 0 };
    let mailboxes = (0..reachable).map(|_| Mailbox::new()).collect::<nix::Result<_>>().context("create an eventfd")?;
    let status = Arc::new(Status::new(mailboxes, health));
    let runtime = runtime()?;
    let admin = serve_admin(listener, registry, &status, &runtime);
    let (report, outcome) = match &parts.config.input {
        Input::Live { interfaces, ring_size } => {
            run_live(&parts, (interfaces, *ring_size, shunts), &status, spool.as_deref(), &writers, &runtime)
        }
        Input::Files(files) => {
            status.set_interfaces(files.len(), &[]);
            let stop = Arc::new(AtomicBool::new(false));
            runtime.spawn(watch_signals(Arc::clone(&status), parts.sandbox.clone(), Arc::clone(&stop)));
            replay(&parts, files, writers.first(), &stop)
        }
    };
    let saved = finish(&parts, writers);
    if salvaging.is_some_and(|thread| thread.join().is_err()) {
        warn!("salvage panicked: this is a bug; what it had not reached stays for the next start");
    }
    if let Some(large) = parts.large {
        large.finish(Instant::now() + FLUSH);
    }
    parts.sandbox.tick();
    if parts.config.report {
        // A reader that has seen enough is no failure.
        let _ = writeln!(io::stdout(), "{report}");
    }
    // The port stays until all is on disk, so that the last numbers can be read.
    drop(admin);
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome.and(saved)
}

impl Parts {
    pub(super) fn recorder(&self) -> Recorder {
        let blocks = Blocks::new(self.config.segment.format, self.config.rotate);
        Recorder::new(self.config.filter.as_ref(), Cutoff::new(self.config.cutoff.clone()), blocks)
    }

    /// A shunt for each thread, if there are to be any and the kernel allows it.
    fn shunts(&self) -> Vec<Option<Shunting>> {
        let CaptureConfig { input, cutoff, snap_len, shunt, shards, .. } = &self.config;
        let wanted = *shunt && matches!(input, Input::Live { .. });
        let start = || Shunting::start(SHUNTED, SHUNTED_MAX, (RingFilter::All, *snap_len), cutoff.idle, &self.shunt);
        (0..*shards).map(|_| wanted.then(start).flatten()).collect()
    }

    /// What the process must still reach when all is set up.
    fn needs(&self, shunts: &[Option<Shunting>]) -> Needs {
        let CaptureConfig { input, report, data_dir, control, .. } = &self.config;
        let mut needs = Needs { shunt: shunts.iter().any(Option::is_some), ..Needs::default() };
        needs.write.extend((!report).then(|| data_dir.clone()));
        needs.listen.extend(control.as_deref().and_then(folder_of));
        match input {
            Input::Live { .. } => {
                live::prepare();
                needs.capture = true;
            }
            Input::Files(files) => needs.read.extend(paths(files)),
        }
        needs
    }

    fn writer(&self, spool: &Spool, shard: usize, health: &Arc<DiskHealth>) -> Result<SpoolWriter> {
        let shard = (self.config.shards > 1).then_some(shard as u16);
        let config = SegmentConfig { shard, ..self.config.segment.clone() };
        SegmentWriter::new(spool, config)
            .and_then(|writer| SpoolWriter::start(writer, self.config.queue_bytes, &self.metrics, health))
            .context("start a writer")
    }

    /// Counts what a recorder has done since `before`; what it has done now.
    pub(super) fn publish(&self, recorder: &Recorder, before: &Stats) -> Stats {
        let now = recorder.stats().clone();
        if now != *before {
            self.metrics.publish(before, &now);
        }
        now
    }

    /// Tells of what has happened to flows.
    pub(super) fn take_events(&self, recorder: &mut Recorder, mut shunting: Option<&mut Shunting>) {
        while let Some(event) = recorder.poll_event() {
            match event {
                FlowEvent::Ended(tuple, _, seen) => {
                    if let Some(shunting) = &mut shunting {
                        shunting.release(&tuple);
                    }
                    self.metrics.flow_size.observe(seen.bytes as f64);
                    if let Some(gotm) = &self.gotm {
                        gotm.ended(seen.bytes);
                    }
                }
                FlowEvent::Large(tuple, began, seen) => {
                    info!(flow = ?tuple, bytes = seen.bytes, packets = seen.packets, "large flow");
                    if let Some(large) = &self.large {
                        large.tell(&tuple, began, seen);
                    }
                }
                FlowEvent::CutOff(tuple, side) => {
                    if let Some(shunting) = &mut shunting {
                        shunting.cut_off(tuple, side);
                    }
                }
            }
        }
    }
}

/// Publishes what a crash has left in a data folder, in a thread of its own.
fn start_salvage(spool: &Arc<Spool>, metrics: &SpoolMetrics) -> Result<JoinHandle<()>> {
    let leftovers = spool.leftovers().with_context(|| format!("look for leftovers in {}", spool.dir().display()))?;
    let (spool, metrics) = (Arc::clone(spool), metrics.clone());
    let run = move || {
        sandbox::narrow(Role::Files);
        leftovers.iter().for_each(|path| salvage(&spool, path, &metrics));
    };
    thread::Builder::new().name("salvage".to_owned()).spawn(run).context("start the salvage")
}

fn salvage(spool: &Spool, path: &Path, metrics: &SpoolMetrics) {
    match spool.salvage(path) {
        Ok(Salvaged { segment: Some(segment), packets, last, cut: bytes_cut }) => {
            metrics.segments.with_label_values(&["salvaged"]).inc();
            let last = last.map(|ts| format!("{ts:?}")).unwrap_or_default();
            warn!(segment = %segment.display(), packets, last, bytes_cut, "salvaged a segment: what came after its last packet is lost");
        }
        Ok(Salvaged { cut: bytes, .. }) => warn!(bytes, "removed a segment without a whole block"),
        Err(error) => warn!(segment = %path.display(), %error, "cannot salvage a segment: it stays for the next start"),
    }
}

fn run_live(
    parts: &Parts,
    (interfaces, ring_size, shunts): (&[String], Option<u32>, Vec<Option<Shunting>>),
    status: &Arc<Status>,
    spool: Option<&Spool>,
    writers: &[SpoolWriter],
    runtime: &Runtime,
) -> (Report, Result<()>) {
    let shards = NonZeroUsize::new(parts.config.shards).expect("the configuration has at least one shard");
    let plan = RingPlan {
        requested: interfaces,
        ring_size,
        memory: RINGS,
        shards,
        snap_len: parts.config.snap_len,
        filter: RingFilter::All,
        promiscuous: parts.config.promiscuous,
    };
    let (lost, mut losses) = mpsc::unbounded_channel();
    let (stop_retention, stopped) = channel::<()>();
    // The threads borrow what outlives them; the control plane runs beside them on this thread.
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (n, shunt) in shunts.into_iter().enumerate() {
            let (lost, writer) = (lost.clone(), writers.get(n));
            let run = move || capture_thread::run(parts, n, shunt, writer, &status.mailboxes[n], &lost);
            match thread::Builder::new().name(format!("shard-{n}")).spawn_scoped(scope, run) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    status.mailboxes.iter().for_each(|mailbox| mailbox.send(Command::Finish));
                    return (Report::default(), Err(anyhow!(error).context("start the thread of a shard")));
                }
            }
        }
        if let Some(spool) = spool.filter(|_| parts.config.retention.is_limited()) {
            let keep = move || {
                sandbox::narrow(Role::Files);
                let mut keeper = Keeper::new(spool.dir());
                while stopped.recv_timeout(RETENTION_PERIOD) == Err(RecvTimeoutError::Timeout) {
                    keeper.turn(&parts.config.retention, clock::now(), &parts.metrics);
                }
            };
            if let Err(error) = thread::Builder::new().name("retention".into()).spawn_scoped(scope, keep) {
                status.mailboxes.iter().for_each(|mailbox| mailbox.send(Command::Finish));
                return (Report::default(), Err(anyhow!(error).context("start the thread of retention")));
            }
        }
        let mut outcome = runtime.block_on(async {
            let socket = parts.config.control.as_deref().map(Control::bind).transpose()?;
            let serve = async {
                match &socket {
                    Some(socket) => socket.serve(Arc::clone(status), parts.metrics.suspended.clone()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                outcome = control(Interfaces::new(plan, status), (status, &parts.sandbox), &mut losses) => outcome,
                () = serve => Ok(()),
            }
        });
        drop(stop_retention);
        status.mailboxes.iter().for_each(|mailbox| mailbox.send(Command::Finish));
        let mut report = Report::default();
        for thread in threads {
            match thread.join() {
                Ok(of_thread) => report.add(&of_thread),
                Err(_) => outcome = outcome.and(Err(anyhow!("a shard thread panicked: this is a bug, and its packets are lost"))),
            }
        }
        (report, outcome)
    })
}

/// Keeps the rings in step with the interfaces until a signal comes.
async fn control(
    mut interfaces: Interfaces<'_>,
    (status, sandbox): (&Status, &SandboxMetrics),
    losses: &mut mpsc::UnboundedReceiver<super::shard_thread::RingLost>,
) -> Result<()> {
    let mut signals = Signals::new()?;
    let mut monitor = Monitor::start().await?;
    interfaces.check(monitor.snapshot())?;
    interfaces.reconcile(monitor.snapshot(), true)?;
    status.started();
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            signal = signals.next() => {
                info!(signal, "stopping: what was captured is written");
                status.stopping();
                return Ok(());
            }
            changed = monitor.changed() => {
                if let Err(error) = changed {
                    warn!(%error, "starting the interface monitor again");
                    tokio::time::sleep(TICK).await;
                    // If that fails, the old one says so again at once.
                    match Monitor::start().await {
                        Ok(fresh) => monitor = fresh,
                        Err(error) => warn!(%error, "interfaces are not watched"),
                    }
                }
                interfaces.reconcile(monitor.snapshot(), false)?;
            }
            Some(loss) = losses.recv() => interfaces.lose(&loss),
            _ = tick.tick() => {
                interfaces.reconcile(monitor.snapshot(), false)?;
                status.tick();
                sandbox.tick();
            }
        }
    }
}

/// Beats for the probes while files are read, and stops the reading at a signal.
async fn watch_signals(status: Arc<Status>, sandbox: SandboxMetrics, stop: Arc<AtomicBool>) {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return warn!("signals end the replay at once: {}", one_line(&error)),
    };
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            signal = signals.next() => {
                info!(signal, "stopping: what was read is written");
                stop.store(true, Ordering::Relaxed);
            }
            _ = tick.tick() => {
                status.tick();
                sandbox.tick();
            }
        }
    }
}

/// Reads the files one after the other.
fn replay(parts: &Parts, files: &[CaptureFile], writer: Option<&SpoolWriter>, stop: &Arc<AtomicBool>) -> (Report, Result<()>) {
    // What is in the files is others' from here on.
    sandbox::narrow(Role::Files);
    let (mut recorder, mut timeline, mut published) = (parts.recorder(), Timeline::new(), Stats::default());
    let hand_over = |recorder: &mut Recorder| {
        parts.take_events(recorder, None);
        while let Some(op) = recorder.poll_op() {
            if let Some(writer) = writer {
                writer.submit(op, WhenFull::Wait(stop));
            }
        }
    };
    let mut outcome = Ok(());
    let mut frames = 0_u64;
    for (number, file) in files.iter().enumerate() {
        let read = offline::open(file, stop).and_then(|mut source| {
            loop {
                let progress = source.next_batch(&mut |frame| {
                    let data = &frame.data[..frame.data.len().min(parts.config.snap_len as usize)];
                    let frame = Frame { interface: (number as u32) << 16 | frame.interface, data, ..frame };
                    recorder.handle_frame(&frame, timeline.observe(frame.ts));
                    frames += 1;
                });
                hand_over(&mut recorder);
                published = parts.publish(&recorder, &published);
                if progress? == Progress::Ended || stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
        });
        if stop.load(Ordering::Relaxed) {
            outcome = Err(anyhow!("stopped after {frames} frames"));
            break;
        }
        if let Err(error) = read {
            warn!("{}", one_line(&error));
            outcome = outcome.and(Err(error));
        }
    }
    recorder.finish(timeline.now());
    hand_over(&mut recorder);
    parts.publish(&recorder, &published);
    parts.rings.backward_steps.inc_by(timeline.backward_steps());
    info!(frames, files = files.len(), "replayed");
    (recorder.report().clone(), outcome)
}

/// Waits for the writers.
fn finish(parts: &Parts, writers: Vec<SpoolWriter>) -> Result<()> {
    let deadline = Instant::now() + FLUSH;
    let outcomes: Vec<Outcome> = writers.into_iter().map(|writer| writer.finish(deadline)).collect();
    let lost: u64 = outcomes.iter().map(|o| o.lost).sum();
    if lost > 0 || outcomes.iter().any(|o| !o.published) {
        bail!(
            "{lost} packets could not be written to {} (see the log for the first reason; is the disk full?)",
            parts.config.data_dir.display()
        );
    }
    Ok(())
}

/// What the shunt drops.
const SHUNTED: &str = "packets behind the cutoff";
/// Directions of flows in one shunt, of 40 + 24 bytes and the kernel's own: some 8 MiB.
const SHUNTED_MAX: u32 = 65_536;
/// How often retention looks.
const RETENTION_PERIOD: Duration = Duration::from_secs(1);
