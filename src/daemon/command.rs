//! Runs the program that wants to hear of large flows, one at a time, with the flow in JSON on its standard input.

use crate::key::Direction;
use crate::spool::Tuple;
use crate::spool::cutoff::Seen;
use crate::spool::metrics::SpoolMetrics;
use serde_json::json;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tracing::warn;

/// Hands flows to the thread that runs the program.
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
    pub(super) fn start(program: PathBuf, metrics: &SpoolMetrics) -> io::Result<Self> {
        let (queue, flows) = sync_channel(WAITING);
        let of_thread = metrics.clone();
        let thread = thread::Builder::new().name("large-flows".into()).spawn(move || serve(&program, &flows, &of_thread))?;
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

fn serve(program: &Path, flows: &Receiver<String>, metrics: &SpoolMetrics) {
    for flow in flows {
        let outcome = match run(program, &flow) {
            Ok(status) if status.success() => "ok",
            Ok(status) => {
                warn!(program = %program.display(), %status, "the large-flow command failed");
                "failed"
            }
            Err(error) => {
                warn!(program = %program.display(), %error, "cannot run the large-flow command");
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

/// Flows that may wait for the program.
const WAITING: usize = 64;
/// How often it is looked whether it has ended.
const POLL: Duration = Duration::from_millis(10);
/// How long the program may take.
const PATIENCE: Duration = Duration::from_secs(10);
