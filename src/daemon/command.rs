//! Runs the program that wants to hear of large flows, one at a time, with the flow in JSON on its standard input.

use crate::key::Direction;
use crate::sandbox::{self, Role};
use crate::spool::Tuple;
use crate::spool::cutoff::Seen;
use crate::spool::metrics::SpoolMetrics;
use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, fork};
use serde_json::json;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tracing::warn;

/// The process that runs the program. It is a copy of this one from before the sandbox, so that the program has the
/// privileges that were meant for it and this process cannot run any.
#[derive(Debug)]
pub(super) struct Helper {
    flows: PipeWriter,
    outcomes: PipeReader,
}

impl Helper {
    /// Starts the process; it ends when this is dropped.
    ///
    /// # Errors
    /// Fails where the system has no process or pipe to give.
    pub(super) fn start(program: &Path) -> io::Result<Self> {
        let ((flows, to_helper), (from_helper, outcomes)) = (pipe()?, pipe()?);
        // SAFETY: there is one thread, so nothing in the copy is held by another that it lacks.
        match unsafe { fork() }? {
            ForkResult::Parent { .. } => Ok(Self { flows: to_helper, outcomes: from_helper }),
            ForkResult::Child => {
                // Else it would never hear that the other process is gone.
                drop((to_helper, from_helper));
                std::process::exit(help(program, flows, outcomes))
            }
        }
    }

    /// Has the program told of a flow; whether it ended well.
    fn tell(&mut self, flow: &str) -> io::Result<bool> {
        self.flows.write_all(flow.as_bytes())?;
        let mut outcome = [0];
        self.outcomes.read_exact(&mut outcome)?;
        Ok(outcome == OK)
    }
}

/// The life of the process: a line of JSON comes in, a byte goes out.
fn help(program: &Path, flows: PipeReader, mut outcomes: PipeWriter) -> i32 {
    let _ = prctl::set_name(c"large-flows");
    // A signal for all processes of a service or terminal is for the other one to obey: this one ends after it. With a handler,
    // and not by ignoring them, since the program would inherit that.
    let wait = SigAction::new(SigHandler::Handler(not_yet), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // SAFETY: the handler does nothing.
        let _ = unsafe { sigaction(signal, &wait) };
    }
    for flow in BufReader::new(flows).lines() {
        let Ok(flow) = flow else { break };
        let outcome = match run(program, &format!("{flow}\n")) {
            Ok(status) if status.success() => OK,
            Ok(status) => {
                warn!(program = %program.display(), %status, "the large-flow command failed");
                FAILED
            }
            Err(error) => {
                warn!(program = %program.display(), %error, "cannot run the large-flow command");
                FAILED
            }
        };
        if outcomes.write_all(&outcome).is_err() {
            break;
        }
    }
    0
}

extern "C" fn not_yet(_: libc::c_int) {}

/// Hands flows to the thread that has the program told.
#[derive(Debug)]
pub(super) struct LargeFlows {
    queue: SyncSender<String>,
    thread: JoinHandle<()>,
    metrics: SpoolMetrics,
}

impl LargeFlows {
    /// Starts the thread.
    ///
    /// # Errors
    /// Fails where the system has no thread to give.
    pub(super) fn start(helper: Helper, metrics: &SpoolMetrics) -> io::Result<Self> {
        let (queue, flows) = sync_channel(WAITING);
        let of_thread = metrics.clone();
        let thread = thread::Builder::new().name("large-flows".into()).spawn(move || serve(helper, &flows, &of_thread))?;
        Ok(Self { queue, thread, metrics: metrics.clone() })
    }

    /// Tells of a flow. Never waits: where too many wait already, this one is not told.
    pub(super) fn tell(&self, tuple: &Tuple, began: Direction, seen: Seen) {
        let (src, dst) = match began {
            Direction::LoToHi => (tuple.ends.lo(), tuple.ends.hi()),
            Direction::HiToLo => (tuple.ends.hi(), tuple.ends.lo()),
        };
        let address = |a| std::net::IpAddr::from(a).to_string();
        // The first five are what dumbno's clients send.
        let line = json!({
            "proto": tuple.protocol_name(),
            "src": address(src.addr),
            "sport": src.port,
            "dst": address(dst.addr),
            "dport": dst.port,
            "bytes": seen.bytes,
            "packets": seen.packets,
        });
        if self.queue.try_send(format!("{line}\n")).is_err() {
            self.metrics.commands.with_label_values(&["skipped"]).inc();
        }
    }

    /// Waits until every flow is told, or until the deadline.
    pub(super) fn finish(self, deadline: Instant) {
        drop(self.queue);
        while !self.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }
}

fn serve(mut helper: Helper, flows: &Receiver<String>, metrics: &SpoolMetrics) {
    sandbox::narrow(Role::Files);
    for flow in flows {
        let outcome = match helper.tell(&flow) {
            Ok(true) => "ok",
            Ok(false) => "failed",
            Err(error) => {
                warn!(%error, "the process that runs the large-flow command is gone");
                "failed"
            }
        };
        metrics.commands.with_label_values(&[outcome]).inc();
    }
}

fn run(program: &Path, flow: &str) -> io::Result<ExitStatus> {
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A line fits into the pipe, so this cannot wait; a program that does not read it is none of our business.
        let _ = stdin.write_all(flow.as_bytes());
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            return child.wait();
        }
        thread::sleep(POLL);
    }
}

/// What the helper says of a flow.
const OK: [u8; 1] = [b'+'];
const FAILED: [u8; 1] = [b'-'];
/// Flows that may wait for the program.
const WAITING: usize = 64;
/// How often it is looked whether it has ended.
const POLL: Duration = Duration::from_millis(10);
/// How long the program may take.
const PATIENCE: Duration = Duration::from_secs(10);
