//! What the process gives up once it is set up, so that who takes it over through a packet or a file gets little.
//!
//! [`enter`] is called once by the main thread, when folders are made and ports are taken, and before there is any other
//! thread: all of it is inherited by threads and by nothing else. [`narrow`] is called by a thread at its start, which then
//! keeps less than the process. Every mechanism is the kernel's and may be missing; which are on is logged in one line and told
//! by a gauge. docs/SECURITY.md has what each is for, and what they do not do.

mod capabilities;
mod landlock;
mod refusals;
mod seccomp;

use crate::metrics::{counter, gauges};
use nix::sys::resource::{Resource, setrlimit};
use prometheus::{IntCounter, IntGaugeVec, Registry};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tracing::{info, warn};

/// Whether to sandbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// With every mechanism that the kernel offers; one that it does not is a warning.
    #[default]
    Auto,
    /// With every mechanism, or not at all.
    Required,
    /// Not.
    Off,
}

/// What the process needs after its start.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Folders to write in: they must exist, and must not be removed and made anew.
    pub write: Vec<PathBuf>,
    /// Files and folders to read, beside what the program reads of /proc and /sys; those that are missing are left out.
    pub read: Vec<PathBuf>,
    /// Folders to make and remove Unix sockets in.
    pub listen: Vec<PathBuf>,
    /// Unix sockets to connect to, which may not be there yet; `@NAME` is an abstract one.
    pub connect: Vec<PathBuf>,
    /// Whether packet sockets are opened, for interfaces that come later.
    pub capture: bool,
    /// Whether there is an eBPF map to look into.
    pub shunt: bool,
}

/// What a thread is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Takes packets apart: opens nothing but files to read.
    Shard,
    /// Reads and writes files: has no sockets.
    Files,
    /// Asks the kernel by sockets that are open.
    Asker,
}

/// A part of the sandbox, as logs and metrics call it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mechanism {
    CoreDumps,
    NoNewPrivs,
    Capabilities,
    Landlock,
    LandlockNet,
    LandlockScope,
    Seccomp,
}

impl Mechanism {
    const ALL: [Self; 7] = [
        Self::CoreDumps,
        Self::NoNewPrivs,
        Self::Capabilities,
        Self::Landlock,
        Self::LandlockNet,
        Self::LandlockScope,
        Self::Seccomp,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::CoreDumps => "no_core_dumps",
            Self::NoNewPrivs => "no_new_privs",
            Self::Capabilities => "capabilities",
            Self::Landlock => "landlock",
            Self::LandlockNet => "landlock_net",
            Self::LandlockScope => "landlock_scope",
            Self::Seccomp => "seccomp",
        }
    }
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The policy is [`Policy::Required`].
    #[error("sandbox: {missing} (--sandbox=auto does without)")]
    Incomplete {
        /// Each mechanism that is off, and why.
        missing: String,
    },
    /// A thread of ours could not be started.
    #[error("sandbox: start a thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// What the sandbox tells.
#[derive(Clone, Debug)]
pub struct SandboxMetrics {
    mechanisms: IntGaugeVec,
    refusals: IntCounter,
}

impl SandboxMetrics {
    /// Declares them; every mechanism is off.
    pub fn register(r: &Registry) -> Self {
        let help = "1 while a mechanism of the sandbox is on (--sandbox); each should be 1 where the kernel has it.";
        let mechanisms = gauges(r, "flowarc_sandbox", help, &["mechanism"]);
        for mechanism in Mechanism::ALL {
            mechanisms.with_label_values(&[mechanism.label()]);
        }
        let refusals = counter(
            r,
            "flowarc_sandbox_refusals_total",
            "System calls that the sandbox refused; should be zero: this is a bug of ours, or somebody who took the process over.",
        );
        Self { mechanisms, refusals }
    }

    /// Counts and logs what was refused since the last time; to be called once a second.
    pub fn tick(&self) {
        let Some(refused) = refusals::take() else { return };
        self.refusals.inc_by(refused.count);
        let thread = refused.thread.unwrap_or_else(|| "one that has ended".into());
        warn!(count = refused.count, last_call = refused.call, thread, "the sandbox refused system calls: see docs/SECURITY.md");
    }
}

/// Gives up what is not needed, for this thread and all that it starts from here on. There should be no other.
///
/// # Errors
/// Fails with [`Policy::Required`] where a mechanism cannot be had.
pub fn enter(policy: Policy, needs: &Needs, metrics: &SandboxMetrics) -> Result<(), SandboxError> {
    if policy == Policy::Off {
        info!("not sandboxed, as asked");
        return Ok(());
    }
    let mut outcomes = vec![
        (Mechanism::CoreDumps, no_core_dumps()),
        (Mechanism::NoNewPrivs, nix::sys::prctl::set_no_new_privs().map_err(|e| e.to_string())),
    ];
    let kept = capabilities::give_up(needs).map_err(SandboxError::Thread)?;
    let names = kept.as_ref().map(capabilities::Kept::to_string).unwrap_or_default();
    let landlock = landlock::restrict(needs);
    // Last: the filter knows nothing of the calls that set up the rest.
    let seccomp = seccomp::filter_process(needs.shunt);
    let state = Entered { keep_bpf: needs.shunt, capabilities: kept.is_ok(), seccomp: seccomp.is_ok() };
    outcomes.push((Mechanism::Capabilities, kept.map(drop)));
    outcomes.push((Mechanism::Landlock, landlock.files));
    outcomes.push((Mechanism::LandlockNet, landlock.net));
    outcomes.push((Mechanism::LandlockScope, landlock.scope));
    outcomes.push((Mechanism::Seccomp, seccomp));
    // A process is sandboxed once.
    let _ = ENTERED.set(state);
    report(policy, &outcomes, &names, metrics)
}

/// Gives up what a thread of this role does not need. Does nothing where the process is not sandboxed.
pub fn narrow(role: Role) {
    let Some(entered) = ENTERED.get() else { return };
    if entered.capabilities
        && let Err(error) = capabilities::narrow(role, entered.keep_bpf)
    {
        warn!(?role, error, "a thread keeps the capabilities of the process");
    }
    if entered.seccomp
        && let Err(error) = seccomp::filter_thread(role, entered.keep_bpf)
    {
        warn!(?role, error, "a thread keeps the system calls of the process");
    }
}

/// What [`enter`] has done, for [`narrow`].
#[derive(Debug)]
struct Entered {
    keep_bpf: bool,
    capabilities: bool,
    seccomp: bool,
}

static ENTERED: OnceLock<Entered> = OnceLock::new();

fn report(
    policy: Policy,
    outcomes: &[(Mechanism, Result<(), String>)],
    capabilities: &str,
    metrics: &SandboxMetrics,
) -> Result<(), SandboxError> {
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for (mechanism, outcome) in outcomes {
        metrics.mechanisms.with_label_values(&[mechanism.label()]).set(outcome.is_ok().into());
        match outcome {
            Ok(()) => on.push(mechanism.label()),
            Err(reason) => off.push(format!("{}: {reason}", mechanism.label())),
        }
    }
    let (on, off) = (on.join(" "), off.join("; "));
    match policy {
        _ if off.is_empty() => info!(on, capabilities, "sandboxed"),
        Policy::Required => return Err(SandboxError::Incomplete { missing: off }),
        _ => warn!(on, off, capabilities, "sandboxed in part"),
    }
    Ok(())
}

/// A core dump would hold packets. A limit of 0 leaves it to programs that take it from a pipe whether to keep it; at 1 they
/// get none (fs/coredump.c), and no file is so small.
fn no_core_dumps() -> Result<(), String> {
    let limit = |n| setrlimit(Resource::RLIMIT_CORE, n, n);
    // Who may not raise it is at 0 already.
    limit(1).or_else(|_| limit(0)).map_err(|e| e.to_string())
}

/// The name of an abstract socket, as the command line and service managers write it.
fn is_abstract(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().starts_with(b"@")
}
