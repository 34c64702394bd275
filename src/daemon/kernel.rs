//! Runs the kernel as UUID source, and tells others what it says.

use super::Parts;
use super::status::Status;
use crate::capture::clock;
use crate::cli::config::HeadersConfig;
use crate::identity::kernel::{DestroyedSockets, KernelEvent, KernelSource, LastWord, Options, TcpInfo};
use crate::identity::prefix::{Prefix, cookie_of};
use crate::identity::{Announcement, UuidEvent};
use anyhow::{Context, Result};
use flowarc_eventsocket::Server;
use std::sync::Arc;
use std::time::Duration;
use tracing::info;

/// The running source and the event socket that it is told on.
pub(super) struct Kernel {
    source: KernelSource,
    server: Option<Arc<Server>>,
}

/// Subscribes to the ends of connections, if UUIDs come from the kernel: with a larger buffer where the process may still
/// have that.
///
/// # Errors
/// Fails where the kernel does not let itself be asked.
pub(super) fn subscribe(config: &HeadersConfig) -> Result<Option<DestroyedSockets>> {
    let subscribe = |_| DestroyedSockets::subscribe(Options::default().receive_buffer);
    Ok(config.identity.kernel().map(subscribe).transpose()?)
}

/// Starts the source, if there is a subscription.
///
/// # Errors
/// Fails without a usable prefix, where the kernel does not let itself be asked, and where the event socket's path is taken.
pub(super) async fn start(
    parts: &Arc<Parts>,
    status: &Arc<Status>,
    destroyed: Option<DestroyedSockets>,
) -> Result<Option<Kernel>> {
    let Some(((prefix_file, serve), destroyed)) = parts.config.identity.kernel().zip(destroyed) else { return Ok(None) };
    let prefix = match prefix_file {
        Some(path) => Prefix::from_file(path),
        None => Prefix::of_this_boot(std::env::var("POD_NAME").ok(), clock::now()),
    }?;
    info!(prefix = prefix.as_str(), "UUIDs come from the kernel");
    let server = match serve {
        Some(path) => {
            let server = Server::bind(path).await.with_context(|| format!("serve the event socket {}", path.display()))?;
            info!(socket = %path.display(), "announcing connections");
            let server = Arc::new(server);
            status.set_server(&server);
            Some(server)
        }
        None => None,
    };
    let (sink_parts, sink_status, sink_server) = (Arc::clone(parts), Arc::clone(status), server.clone());
    let (source, questions) = KernelSource::start(prefix, Options::default(), destroyed, move |event| {
        tell(&sink_parts, &sink_status, sink_server.as_deref(), event);
    })?;
    // There is one source in the life of the process.
    let _ = parts.questions.set(questions);
    status.set_kernel(Arc::clone(source.stats()));
    Ok(Some(Kernel { source, server }))
}

impl Kernel {
    /// Ends the source, and then the event socket, whose clients get what was said before.
    pub(super) async fn stop(self) {
        drop(self.source);
        if let Some(server) = self.server.and_then(Arc::into_inner) {
            server.shutdown(PATIENCE).await;
        }
    }
}

/// Passes an event on to the shards and to the clients of the event socket.
fn tell(parts: &Parts, status: &Status, server: Option<&Server>, event: KernelEvent) {
    if let Some(server) = server
        && let Some(event) = event.to_event(clock::now())
    {
        server.send(&event);
    }
    let event = match event {
        KernelEvent::Open { opened, .. } => UuidEvent::Open(opened),
        KernelEvent::Closed { uuid, tcp_info, .. } => {
            let word = |(cookie, info): (u64, Box<TcpInfo>)| Arc::new(LastWord { cookie, tcp_info: *info });
            let last_word = cookie_of(&uuid).zip(tcp_info).map(word);
            UuidEvent::Close { uuid, at: clock::now(), last_word }
        }
        KernelEvent::Unknown(_) => return,
    };
    let announcement = Announcement::new(event, &parts.metrics.events);
    status.mailboxes.iter().for_each(|mailbox| mailbox.announce(&announcement));
}

/// How long clients of the event socket may take to read the last lines.
const PATIENCE: Duration = Duration::from_millis(200);
