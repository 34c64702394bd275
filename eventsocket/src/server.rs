//! The server: tells events to any number of clients, and waits for none.

use crate::path::SocketPath;
use crate::protocol::Event;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::ReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

/// Most lines that wait for one client; the kernel's socket buffer comes on top.
pub const MAX_QUEUED_LINES: usize = 4096;

/// An event server.
///
/// As with tcp-info, a client gets what happens after it came. A client that falls [`MAX_QUEUED_LINES`] behind is cut
/// off, possibly within a line. The socket's permissions follow the umask. Dropping the server ends all connections
/// at once and removes the socket's path.
#[derive(Debug)]
pub struct Server {
    clients: Arc<Clients>,
    accepting: JoinHandle<()>,
    _path: Option<OwnedPath>,
}

impl Server {
    /// Listens at `path`; `@name` is an abstract socket. A socket that a dead server left there is removed.
    ///
    /// # Errors
    /// `AddrInUse` if a server is alive at that path or if something other than a socket is there; else what the
    /// system says.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        let address = SocketPath::parse(path.as_ref())?;
        if let Some(path) = address.as_file() {
            remove_stale(path).await?;
        }
        let listener = UnixListener::bind(address.as_path())?;
        let path = address.as_file().map(OwnedPath::new).transpose()?;
        let clients = Arc::new(Clients::default());
        let accepting = tokio::spawn(accept(listener, clients.clone()));
        Ok(Self { clients, accepting, _path: path })
    }

    /// Tells an event to all clients.
    ///
    /// Never waits. Who sends more than [`MAX_QUEUED_LINES`] at a stretch should give the runtime a chance to write
    /// in between (`tokio::task::yield_now`), or clients that do read are cut off too.
    pub fn send(&self, event: &Event) {
        let line: Arc<str> = (event.encode() + "\n").into();
        let cut_off = &self.clients.cut_off;
        self.clients.lock().retain(|client| match client.lines.try_send(line.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                client.task.abort();
                let total = cut_off.fetch_add(1, Relaxed) + 1;
                warn!(lines = MAX_QUEUED_LINES, total, "cut off an event client that does not read");
                false
            }
        });
    }

    /// Stops, after giving the clients up to `patience` to take what waits for them.
    pub async fn shutdown(mut self, patience: Duration) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
        let deadline = Instant::now() + patience;
        let clients = std::mem::take(&mut *self.clients.lock());
        let (queues, tasks): (Vec<_>, Vec<_>) = clients.into_iter().map(|client| (client.lines, client.task)).unzip();
        drop(queues);
        for mut task in tasks {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
            }
        }
    }

    /// Clients connected now.
    pub fn clients(&self) -> usize {
        self.clients.lock().iter().filter(|client| !client.lines.is_closed()).count()
    }

    /// Clients cut off because they did not read; should be zero.
    pub fn cut_off(&self) -> u64 {
        self.clients.cut_off.load(Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        for client in self.clients.lock().drain(..) {
            client.task.abort();
        }
    }
}

/// Takes the leftover of a dead server out of the way.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let in_use = |why: &str| io::Error::new(io::ErrorKind::AddrInUse, format!("event socket {}: {why}", path.display()));
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
        Ok(found) if !found.file_type().is_socket() => return Err(in_use("something other than a socket is there")),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // Connected, or a server that is too busy to accept.
        _ => Err(in_use("another server is listening there")),
    }
}

async fn accept(listener: UnixListener, clients: Arc<Clients>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (lines, queue) = mpsc::channel(MAX_QUEUED_LINES);
                let task = tokio::spawn(serve(stream, queue));
                let mut clients = clients.lock();
                clients.retain(|client| !client.lines.is_closed());
                clients.push(ClientHandle { lines, task });
            }
            Err(error) => {
                debug!(%error, "cannot accept an event client");
                // Out of file descriptors, most likely: the client stays in the backlog and is tried again.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Writes lines to one client until it or the server leaves.
async fn serve(mut stream: UnixStream, mut queue: mpsc::Receiver<Arc<str>>) {
    // Many lines in one write: a write costs the socket buffer a fixed sum, however small it is.
    const BATCH: usize = 256;
    let (mut reader, mut writer) = stream.split();
    let mut listening = true;
    let mut lines = Vec::with_capacity(BATCH);
    let mut bytes = Vec::new();
    loop {
        tokio::select! {
            count = queue.recv_many(&mut lines, BATCH) => {
                if count == 0 {
                    return;
                }
                bytes.clear();
                lines.drain(..).for_each(|line| bytes.extend_from_slice(line.as_bytes()));
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            state = hear(&mut reader), if listening => match state {
                Heard::Nothing => {}
                Heard::HalfClose => listening = false,
                Heard::Gone => return,
            }
        }
    }
}

enum Heard {
    Nothing,
    /// The client will send nothing, which it never had to, and may still read.
    HalfClose,
    Gone,
}

/// Waits for something from the client, which has nothing to say but that it leaves.
async fn hear(reader: &mut ReadHalf<'_>) -> Heard {
    match reader.read(&mut [0; 256]).await {
        Ok(0) => match reader.ready(Interest::WRITABLE).await {
            Ok(ready) if !ready.is_write_closed() => Heard::HalfClose,
            _ => Heard::Gone,
        },
        Ok(_) => Heard::Nothing,
        Err(_) => Heard::Gone,
    }
}

#[derive(Debug, Default)]
struct Clients {
    list: Mutex<Vec<ClientHandle>>,
    cut_off: AtomicU64,
}

#[derive(Debug)]
struct ClientHandle {
    lines: mpsc::Sender<Arc<str>>,
    task: JoinHandle<()>,
}

impl Clients {
    /// Held for a moment only and never across an await: no one waits for a client here.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<ClientHandle>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket file that is removed when dropped, unless another server has replaced it.
#[derive(Debug)]
struct OwnedPath {
    path: PathBuf,
    identity: (u64, u64),
}

impl OwnedPath {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for OwnedPath {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Device and inode.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()))
}
