//! UUIDs from the kernel: who a connection is, asked by netlink, without a sidecar.
//!
//! The kernel gives every socket a cookie, a number that is unique until the next boot; the UUID is made of it
//! ([`super::prefix`]). [`SockDiag`] looks sockets up by their ends, [`Dump`] lists them, [`DestroyedSockets`] hears of
//! each that is gone. [`source`] makes a UUID source of the three. All of it is about one network namespace, that of the
//! thread which opened the sockets, and none of it needs a privilege.

mod aborts;
mod announcer;
mod destroyed;
mod diag;
mod dump;
mod message;
mod netlink;
mod requests;
pub mod source;
mod tcp_info;

pub use destroyed::{DestroyError, Destroyed, DestroyedSockets};
pub use diag::{Answer, BATCH, SockDiag};
pub use dump::Dump;
pub use requests::Requests;
pub use source::{KernelEvent, KernelSource, Options, Stats};
pub use tcp_info::{LastWord, TcpInfo};

use crate::key::{Endpoint, FlowKey};
use std::fmt;
use std::io;

/// A TCP socket of this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Socket {
    /// The end that it is.
    pub local: Endpoint,
    /// The end that it is connected to; port 0 if it never was.
    pub remote: Endpoint,
    /// The index of the interface that it is bound to; 0 for none.
    pub interface: u32,
    /// The kernel's number for it, never used again before the next boot.
    pub cookie: u64,
    /// Where it is in its life.
    pub state: TcpState,
    /// Whether it is only what TIME_WAIT leaves of a socket. No end of it will be told, and its cookie is that of the
    /// socket only if somebody had asked for the cookie while the socket lived: cookies are given when they are asked for
    /// (inet_twsk_alloc in net/ipv4/inet_timewait_sock.c, sock_gen_cookie in net/core/sock_diag.c).
    pub remainder: bool,
    /// What the kernel knows of the connection, where the message had it.
    pub tcp_info: Option<Box<TcpInfo>>,
}

impl Socket {
    /// The key of its flow.
    pub fn key(&self) -> FlowKey {
        FlowKey::new(self.local, self.remote).0
    }
}

/// A state of TCP (include/net/tcp_states.h).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TcpState(pub u8);

impl TcpState {
    /// Connected.
    pub const ESTABLISHED: Self = Self(1);
    /// A connection was asked for by this end.
    pub const SYN_SENT: Self = Self(2);
    /// A connection was asked for by the other end; most often a request, which is not a socket yet but has the cookie
    /// that its socket will have (inet_csk_clone_lock in net/ipv4/inet_connection_sock.c).
    pub const SYN_RECV: Self = Self(3);
    /// Over and done.
    pub const CLOSE: Self = Self(7);
    /// All is said, and the 4-tuple rests for a minute.
    pub const TIME_WAIT: Self = Self(6);
    /// Waits for connections.
    pub const LISTEN: Self = Self(10);
}

impl fmt::Debug for TcpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 11] = [
            "ESTABLISHED",
            "SYN_SENT",
            "SYN_RECV",
            "FIN_WAIT1",
            "FIN_WAIT2",
            "TIME_WAIT",
            "CLOSE",
            "CLOSE_WAIT",
            "LAST_ACK",
            "LISTEN",
            "CLOSING",
        ];
        match NAMES.get(usize::from(self.0).wrapping_sub(1)) {
            Some(name) => f.write_str(name),
            None => write!(f, "state {}", self.0),
        }
    }
}

/// Why the kernel cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No netlink socket.
    #[error(
        "open netlink socket for UUIDs: {0} (the kernel or a seccomp profile must allow AF_NETLINK, or take another UUID source)"
    )]
    Open(#[source] io::Error),
    /// No subscription.
    #[error("subscribe to the ends of connections: {0} (the kernel needs CONFIG_INET_DIAG, or take another UUID source)")]
    Subscribe(#[source] io::Error),
    /// The socket refused what was sent or asked.
    #[error("ask the kernel for sockets: {0}")]
    Ask(#[source] io::Error),
    /// The kernel answered with an error.
    #[error("the kernel does not list its sockets: {0}{hint}", hint = hint(.0))]
    Refused(#[source] io::Error),
    /// No thread.
    #[error("start the thread that asks the kernel for UUIDs: {0}")]
    Thread(#[source] io::Error),
}

/// "No such file" is what a kernel without the handler says (inet_diag_lock_handler in net/ipv4/inet_diag.c).
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => " (it needs CONFIG_INET_DIAG and CONFIG_INET_TCP_DIAG: load the modules inet_diag and tcp_diag)",
        _ => "",
    }
}
