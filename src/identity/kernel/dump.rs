//! The list of all sockets.

use super::message::{AF_INET, AF_INET6, Message, Query, messages, write_request};
use super::netlink::Netlink;
use super::{KernelError, Socket, TcpState};
use std::io;

/// A list of TCP sockets in the making, batch by batch, so that a long one need not hold up anything else.
///
/// The kernel walks its table while it is read: a socket that comes or goes meanwhile may or may not be in the list.
#[derive(Debug)]
pub struct Dump {
    netlink: Netlink,
    states: u32,
    /// The family that is being listed, and those still to come.
    families: &'static [u8],
    buffer: Box<[u8]>,
}

impl Dump {
    /// Begins a list of all sockets with a connection, remainders in TIME_WAIT included. Left out are sockets that listen,
    /// and those whose handshake is not complete: a flood of SYNs must not make the list long.
    ///
    /// # Errors
    /// Fails without a netlink socket.
    pub fn begin() -> Result<Self, KernelError> {
        let netlink = Netlink::open().map_err(KernelError::Open)?;
        netlink.bind(0).map_err(KernelError::Open)?;
        let left_out = [TcpState::LISTEN, TcpState::SYN_SENT, TcpState::SYN_RECV, TcpState::CLOSE];
        let states = left_out.iter().fold(ALL_STATES, |states, state| states & !(1 << state.0));
        let dump = Self { netlink, states, families: &[AF_INET, AF_INET6], buffer: vec![0; DATAGRAM].into() };
        dump.ask()?;
        Ok(dump)
    }

    /// Lists up to some hundred sockets more; false when that was the last of them.
    ///
    /// # Errors
    /// Fails where the kernel does not list; the list cannot be gone on with then.
    pub fn next_batch(&mut self, each: &mut impl FnMut(Socket)) -> Result<bool, KernelError> {
        let datagram = self.netlink.receive(&mut self.buffer).map_err(|e| KernelError::Ask(e.into()))?;
        // The kernel has the next part ready before it hands out one.
        let datagram = datagram.ok_or_else(|| KernelError::Ask(io::ErrorKind::WouldBlock.into()))?;
        let mut done = false;
        for (_, message) in messages(datagram) {
            match message {
                Message::Socket(socket) => each(socket),
                Message::Error(0) | Message::Other => {}
                Message::Done(0) => done = true,
                Message::Error(errno) | Message::Done(errno) => {
                    return Err(KernelError::Refused(io::Error::from_raw_os_error(errno)));
                }
            }
        }
        if done {
            self.families = &self.families[1..];
            if self.families.is_empty() {
                return Ok(false);
            }
            self.ask()?;
        }
        Ok(true)
    }

    fn ask(&self) -> Result<(), KernelError> {
        let mut request = Vec::new();
        write_request(&mut request, 1, Query::Dump { family: self.families[0], states: self.states });
        self.netlink.send(&request).map_err(KernelError::Ask)
    }
}

/// Bits 1 to 11 (include/net/tcp_states.h).
const ALL_STATES: u32 = 0xffe;

/// The largest datagram that the kernel makes of a dump (netlink_dump in net/netlink/af_netlink.c).
const DATAGRAM: usize = 32 << 10;
