//! How the daemon is: what probes, systemd and the one-a-second tick look at.

use super::shard_thread::Mailbox;
use crate::admin::Health;
use crate::archive::writer::DiskHealth;
use crate::identity::kernel::Stats;
use flowarc_eventsocket::{ClientStats, Server};
use sd_notify::NotifyState;
use std::fmt::Display;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Shared by the control plane and the probes.
pub(super) struct Status {
    /// The shards' mailboxes.
    pub(super) mailboxes: Vec<Mailbox>,
    disk: Arc<DiskHealth>,
    socket: OnceLock<Arc<ClientStats>>,
    kernel: OnceLock<Arc<Stats>>,
    server: OnceLock<Weak<Server>>,
    state: Mutex<State>,
}

struct State {
    capturing: usize,
    waiting: Vec<String>,
    stopping: bool,
    /// Each shard's beats and when they last changed.
    beats: Vec<(u64, Instant)>,
    /// The control plane's own beat.
    ticked: Instant,
    complained: Option<Instant>,
    unsaid: u64,
}

impl Status {
    /// A daemon that is not capturing yet.
    pub(super) fn new(mailboxes: Vec<Mailbox>, disk: Arc<DiskHealth>) -> Self {
        let now = Instant::now();
        let state = State {
            capturing: 0,
            waiting: Vec::new(),
            stopping: false,
            beats: vec![(0, now); mailboxes.len()],
            ticked: now,
            complained: None,
            unsaid: 0,
        };
        Self {
            mailboxes,
            disk,
            socket: OnceLock::new(),
            kernel: OnceLock::new(),
            server: OnceLock::new(),
            state: Mutex::new(state),
        }
    }

    /// Notes how many interfaces or files are being read, and which interfaces are waited for.
    pub(super) fn set_interfaces(&self, capturing: usize, waiting: &[String]) {
        let mut state = self.lock();
        state.capturing = capturing;
        state.waiting = waiting.to_vec();
    }

    /// Names the event socket's client.
    pub(super) fn set_event_socket(&self, stats: Arc<ClientStats>) {
        // There is one client in the life of the process.
        let _ = self.socket.set(stats);
    }

    /// Names the kernel source's counts.
    pub(super) fn set_kernel(&self, stats: Arc<Stats>) {
        // There is one source in the life of the process.
        let _ = self.kernel.set(stats);
    }

    /// The kernel source's counts, if it runs.
    pub(super) fn kernel(&self) -> Option<&Stats> {
        self.kernel.get().map(AsRef::as_ref)
    }

    /// Names the event socket that is served.
    pub(super) fn set_server(&self, server: &Arc<Server>) {
        // There is one server in the life of the process.
        let _ = self.server.set(Arc::downgrade(server));
    }

    /// The event socket that is served, as long as it is.
    pub(super) fn server(&self) -> Option<Arc<Server>> {
        self.server.get().and_then(Weak::upgrade)
    }

    /// The event socket's client, if there is one.
    pub(super) fn event_socket(&self) -> Option<&ClientStats> {
        self.socket.get().map(AsRef::as_ref)
    }

    /// Tells the service manager that capture has begun.
    pub(super) fn started(&self) {
        notify(&[NotifyState::Ready]);
    }

    /// Tells probes and the service manager that the end has begun.
    pub(super) fn stopping(&self) {
        self.lock().stopping = true;
        notify(&[NotifyState::Stopping]);
    }

    /// Looks at the shards' beats, once a second.
    pub(super) fn tick(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        state.ticked = now;
        for (mailbox, (beats, at)) in self.mailboxes.iter().zip(&mut state.beats) {
            let seen = mailbox.beats.load(Ordering::Relaxed);
            if seen != *beats {
                (*beats, *at) = (seen, now);
            }
        }
        drop(state);
        if self.is_live() {
            notify(&[NotifyState::Watchdog]);
        }
    }

    /// Whether any shard keeps a flow that is worth waiting for.
    pub(super) fn is_busy(&self) -> bool {
        self.mailboxes.iter().any(|m| m.busy.load(Ordering::Relaxed))
    }

    /// Logs what is wrong with the outside world, at most once a second: a hostile neighbour must not fill the log.
    pub(super) fn complain(&self, what: &dyn Display) {
        let mut state = self.lock();
        if state.complained.is_some_and(|at| at.elapsed() < COMPLAINT_PERIOD) {
            state.unsaid += 1;
            return;
        }
        state.complained = Some(Instant::now());
        let unsaid = std::mem::take(&mut state.unsaid);
        drop(state);
        if unsaid > 0 {
            info!(unsaid, "more of such messages were left out");
        }
        warn!("{what}");
    }

    /// A thread that panicked while it held the lock has left a state that is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health for Status {
    fn is_live(&self) -> bool {
        let state = self.lock();
        state.ticked.elapsed() < SILENCE && state.beats.iter().all(|(_, at)| at.elapsed() < SILENCE)
    }

    fn readiness(&self) -> Result<(), Vec<String>> {
        let state = self.lock();
        let mut reasons = Vec::new();
        if state.stopping {
            reasons.push("stopping".to_owned());
        }
        if state.capturing == 0 {
            reasons.push("no interface is being captured".to_owned());
        }
        reasons.extend(state.waiting.iter().map(|name| format!("interface {name} is down, missing or cannot be captured")));
        if self.socket.get().is_some_and(|stats| !stats.connected()) {
            reasons.push("the event socket is not connected".to_owned());
        }
        if !self.disk.ok() {
            reasons.push("the disk refuses files".to_owned());
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot tell the service manager (NOTIFY_SOCKET is set and does not answer)");
    }
}

/// A loop that has not turned for so long is stuck.
const SILENCE: Duration = Duration::from_secs(10);
const COMPLAINT_PERIOD: Duration = Duration::from_secs(1);
