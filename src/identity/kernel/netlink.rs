//! A netlink socket that never blocks.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket, sockopt,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A socket of NETLINK_SOCK_DIAG.
///
/// Its messages come from the kernel only: others would need CAP_NET_ADMIN to send to it, since the protocol does not allow
/// it to everybody (NL_CFG_F_NONROOT_SEND, net/core/sock_diag.c).
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    /// Opens a socket.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?))
    }

    /// Gives it its address and its multicast groups, a bit for each.
    pub(super) fn bind(&self, groups: u32) -> io::Result<()> {
        Ok(bind(self.0.as_raw_fd(), &NetlinkAddr::new(0, groups))?)
    }

    /// Asks for a receive buffer of this many bytes. Who lacks CAP_NET_ADMIN gets at most net.core.rmem_max; the kernel
    /// doubles the number for its own books (sock_setsockopt in net/core/sock.c).
    pub(super) fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        match setsockopt(&self.0, sockopt::RcvBufForce, &bytes) {
            Err(Errno::EPERM) => Ok(setsockopt(&self.0, sockopt::RcvBuf, &bytes)?),
            other => Ok(other?),
        }
    }

    /// Sends requests. The kernel handles all of them, and queues all answers, before this returns
    /// (netlink_unicast_kernel in net/netlink/af_netlink.c).
    pub(super) fn send(&self, requests: &[u8]) -> io::Result<()> {
        sendto(self.0.as_raw_fd(), requests, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// The next datagram, cut to the buffer; `None` if none waits.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, Errno> {
        loop {
            match recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => return Ok(Some(&buffer[..len])),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
