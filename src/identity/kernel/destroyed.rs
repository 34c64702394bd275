//! The ends of sockets.

use super::Socket;
use super::message::{Message, messages};
use super::netlink::Netlink;
use super::{KernelError, TcpInfo};
use nix::errno::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

/// A socket that is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destroyed {
    /// What it was; its state is CLOSE.
    pub socket: Socket,
    /// The last that the kernel knew of its connection.
    pub tcp_info: Option<Box<TcpInfo>>,
}

/// Hears of every TCP socket that is destroyed, by the groups SKNLGRP_INET_TCP_DESTROY and SKNLGRP_INET6_TCP_DESTROY
/// (include/uapi/linux/sock_diag.h), since Linux 4.3.
///
/// A socket is destroyed when its connection goes to TIME_WAIT, or to nothing; and when the program has closed it.
#[derive(Debug)]
pub struct DestroyedSockets {
    netlink: Netlink,
    buffer: Box<[u8]>,
    waiting: VecDeque<Destroyed>,
}

impl DestroyedSockets {
    /// Subscribes, with a receive buffer of this many bytes if it can be had: a message takes about 1,300 of them.
    ///
    /// # Errors
    /// Fails without a netlink socket and where the groups are refused.
    pub fn subscribe(receive_buffer: usize) -> Result<Self, KernelError> {
        let netlink = Netlink::open().map_err(KernelError::Open)?;
        netlink.set_receive_buffer(receive_buffer).map_err(KernelError::Open)?;
        netlink.bind(GROUPS).map_err(KernelError::Subscribe)?;
        Ok(Self { netlink, buffer: vec![0; DATAGRAM].into(), waiting: VecDeque::new() })
    }

    /// The next one; `None` if there is none at this time. Never blocks. A socket that was disconnected, or never connected, has
    /// remote port 0: by an abort for one (SO_LINGER of 0), which disconnects first (tcp_close in net/ipv4/tcp.c).
    ///
    /// # Errors
    /// [`DestroyError::Overflow`] where messages were lost before the ones that come next.
    pub fn poll(&mut self) -> Result<Option<Destroyed>, DestroyError> {
        loop {
            if let Some(destroyed) = self.waiting.pop_front() {
                return Ok(Some(destroyed));
            }
            let datagram = match self.netlink.receive(&mut self.buffer) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => return Ok(None),
                Err(Errno::ENOBUFS) => return Err(DestroyError::Overflow),
                Err(error) => return Err(DestroyError::Failed(error.into())),
            };
            let sockets = messages(datagram)
                .filter_map(|(_, message)| if let Message::Socket(socket) = message { Some(socket) } else { None });
            self.waiting.extend(sockets.map(|mut socket| Destroyed { tcp_info: socket.tcp_info.take(), socket }));
        }
    }
}

impl AsFd for DestroyedSockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

/// Why the next one is not known.
#[derive(Debug, thiserror::Error)]
pub enum DestroyError {
    /// More sockets were destroyed than the receive buffer held (ENOBUFS).
    #[error("the kernel told of more ends of connections than the receive buffer holds (raise net.core.rmem_max)")]
    Overflow,
    /// The socket failed.
    #[error("hear of the ends of connections: {0}")]
    Failed(#[source] std::io::Error),
}

/// Groups 1 and 3, as bits.
const GROUPS: u32 = 1 << 0 | 1 << 2;

/// A message is 380 bytes on Linux 6.18 and grows with struct tcp_info.
const DATAGRAM: usize = 8 << 10;
