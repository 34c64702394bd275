//! The control socket: a line asks, lines answer, the last of them `ok` or `error: REASON`.
//!
//! `suspend TARGET` and `resume TARGET` take effect in every shard within a tenth of a second; `list` gives what is
//! suspended.

use super::shard_thread::Command;
use super::status::Status;
use crate::spool::cutoff::Target;
use anyhow::{Context, Result, anyhow};
use prometheus::IntGauge;
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::time::timeout;
use tracing::info;

/// A socket that is listened on; its path goes with it.
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Takes the path; a socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// Fails where the path is taken or cannot be made.
    pub(super) fn bind(path: &Path) -> Result<Self> {
        let listener = listen(path).or_else(|error| {
            let is_stale = error.kind() == io::ErrorKind::AddrInUse
                && StdStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
            if !is_stale {
                return Err(error);
            }
            fs::remove_file(path)?;
            listen(path)
        });
        let listener = listener.with_context(|| format!("listen on {} for control", path.display()))?;
        info!(socket = %path.display(), "listening for control");
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves clients until it is dropped, each for a few seconds.
    pub(super) async fn serve(&self, status: Arc<Status>, gauge: IntGauge) {
        let suspended = Arc::new(Mutex::new(BTreeSet::new()));
        loop {
            // A client that is gone before it is accepted is no reason to stop.
            let Ok((client, _)) = self.listener.accept().await else { continue };
            let (status, suspended, gauge) = (Arc::clone(&status), Arc::clone(&suspended), gauge.clone());
            tokio::spawn(timeout(PATIENCE, async move {
                // Nor is one that does not read its answer.
                let _ = answer_client(client, |line| answer(line, &status, &suspended, &gauge)).await;
            }));
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Restricts the socket before anybody can connect to it: whoever may say what is kept may fill the disk.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)
}

async fn answer_client(client: UnixStream, mut answer: impl FnMut(&str) -> String) -> io::Result<()> {
    let (read, mut write) = client.into_split();
    let mut lines = BufReader::new(read.take(LONGEST)).lines();
    while let Some(line) = lines.next_line().await? {
        write.write_all(answer(&line).as_bytes()).await?;
    }
    Ok(())
}

fn answer(line: &str, status: &Status, suspended: &Mutex<BTreeSet<Target>>, gauge: &IntGauge) -> String {
    let mut suspended = suspended.lock().unwrap_or_else(PoisonError::into_inner);
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let done = match (verb, rest.parse::<Target>()) {
        ("list", _) => return suspended.iter().map(|t| format!("{t}\n")).chain(["ok\n".to_owned()]).collect(),
        ("suspend", Ok(target)) => {
            suspended.insert(target);
            status.mailboxes.iter().for_each(|mailbox| mailbox.send(Command::Suspend(target)));
            Ok(())
        }
        ("resume", Ok(target)) if suspended.remove(&target) => {
            status.mailboxes.iter().for_each(|mailbox| mailbox.send(Command::Resume(target)));
            Ok(())
        }
        ("resume", Ok(target)) => Err(anyhow!("{target} is not suspended (list says what is)")),
        ("suspend" | "resume", Err(bad)) => Err(bad.into()),
        _ => Err(anyhow!("want suspend TARGET, resume TARGET or list")),
    };
    gauge.set(suspended.len() as i64);
    match done {
        Ok(()) => {
            info!(verb, targets = suspended.len(), "control");
            "ok\n".to_owned()
        }
        Err(error) => format!("error: {error}\n"),
    }
}

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients that wait to be accepted.
const BACKLOG: u32 = 16;
/// All that a client may say, in bytes.
const LONGEST: u64 = 64 << 10;
