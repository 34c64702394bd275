//! The event socket of tcp-info: who opens and closes TCP connections on a host, and under which UUID.
//!
//! A server announces every TCP connection of its host on a Unix stream socket: one JSON object per line, from the
//! server to its clients only, no handshake, no replay, no heartbeat. The end of the stream means that the server is
//! gone. This crate has the line ([`Event`]), the framing ([`Decoder`], for files too), a [`Client`] that reconnects for
//! ever and cannot stall the server, and a [`Server`] that no client can stall.
//!
//! ```
//! use flowarc_eventsocket::{Client, ClientEvent, Event, Server, SocketId, Timestamp};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("events.sock");
//! let server = Server::bind(&path).await?;
//! let mut client = Client::start(&path)?;
//! assert!(matches!(client.next().await, ClientEvent::Connected));
//! # while server.clients() == 0 { tokio::task::yield_now().await }
//!
//! let (local, remote) = ("192.0.2.1:443".parse().unwrap(), "198.51.100.7:50000".parse().unwrap());
//! let now = Timestamp::from_unix_nanos(1_795_219_874_659_974_346);
//! server.send(&Event::open(now, "host_1795218624_0000000000000004", SocketId::new(local, remote, 4)));
//!
//! let ClientEvent::Event(event) = client.next().await else { panic!("not an event") };
//! assert_eq!(event.timestamp.to_string(), "2026-11-21T00:11:14.659974346Z");
//! assert_eq!(event.id.unwrap().src_port, 443);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod client;
mod lines;
mod path;
mod protocol;
mod server;
mod timestamp;
mod watch;

pub use client::{Client, ClientEvent, ClientStats, Disconnect, MAX_QUEUED};
pub use lines::{BadKind, BadLine, CHUNK, Decoder, MAX_LINE};
pub use protocol::{Event, Kind, SocketId};
pub use server::{MAX_QUEUED_LINES, Server};
pub use timestamp::{BadTimestamp, Timestamp};
