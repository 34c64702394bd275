//! Exact lookups.

use super::message::{Message, Query, messages, write_request};
use super::netlink::Netlink;
use super::{KernelError, Socket, TcpState};
use crate::key::{Address, Endpoint, FlowKey};
use nix::errno::Errno;
use nix::net::if_::if_nameindex;
use std::collections::BTreeSet;

/// Looks sockets up by the ends of their connection: one step of the kernel's hash table each, however many there are.
///
/// A flow key does not say which end is here, so both ways are asked for. The kernel gives a listening socket where there is
/// no connection (inet_lookup in include/net/inet_hashtables.h); that is told, and never taken for the connection.
#[derive(Debug)]
pub struct SockDiag {
    netlink: Netlink,
    sequence: u32,
    requests: Vec<u8>,
    buffer: Box<[u8]>,
    /// Interfaces that sockets are bound to: an exact lookup does not find a bound socket but by its interface
    /// (inet_sk_bound_dev_eq in include/net/inet_sock.h).
    bound: BTreeSet<u32>,
}

/// What there is between two ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A socket at one end.
    Found(Socket),
    /// Sockets at both ends, which are both here.
    FoundBoth([Socket; 2]),
    /// No connection; a socket listens for it.
    ListenOnly,
    /// Nothing.
    Nothing,
    /// The kernel failed to say, with this errno.
    Failed(i32),
}

impl Answer {
    /// The sockets that were found, none to two.
    pub fn sockets(&self) -> &[Socket] {
        match self {
            Self::Found(socket) => std::slice::from_ref(socket),
            Self::FoundBoth(sockets) => sockets,
            _ => &[],
        }
    }
}

/// Most flow keys that go to the kernel in one system call. The answers to them, about 1,300 bytes each in the kernel's
/// books, must find room in the default receive buffer of 208 KiB.
pub const BATCH: usize = 64;

impl SockDiag {
    /// Opens a socket to ask by.
    ///
    /// # Errors
    /// Fails without a netlink socket.
    pub fn open() -> Result<Self, KernelError> {
        let netlink = Netlink::open().map_err(KernelError::Open)?;
        netlink.bind(0).map_err(KernelError::Open)?;
        Ok(Self { netlink, sequence: 0, requests: Vec::new(), buffer: vec![0; DATAGRAM].into(), bound: BTreeSet::new() })
    }

    /// Tells of an interface that a socket is bound to, as seen elsewhere; the first few are remembered.
    pub fn learn_interface(&mut self, interface: u32) {
        if interface != 0 && self.bound.len() < MAX_INTERFACES {
            self.bound.insert(interface);
        }
    }

    /// The socket of a connection; of two the one at the lower end.
    ///
    /// # Errors
    /// Fails where the kernel cannot be asked or fails to say.
    pub fn lookup(&mut self, key: &FlowKey) -> Result<Option<Socket>, KernelError> {
        Ok(self.lookup_all(key)?.into_iter().next())
    }

    /// The sockets of a connection: two if both its ends are here.
    ///
    /// # Errors
    /// Fails where the kernel cannot be asked or fails to say.
    pub fn lookup_all(&mut self, key: &FlowKey) -> Result<Vec<Socket>, KernelError> {
        match self.lookup_many(std::slice::from_ref(key))?.remove(0) {
            Answer::Found(socket) => Ok(vec![socket]),
            Answer::FoundBoth(sockets) => Ok(sockets.into()),
            Answer::ListenOnly | Answer::Nothing => Ok(Vec::new()),
            Answer::Failed(errno) => Err(KernelError::Ask(Errno::from_raw(errno).into())),
        }
    }

    /// The answers for many connections, in their order; the kernel is asked for [`BATCH`] at a time.
    ///
    /// # Errors
    /// Fails where the kernel cannot be asked.
    pub fn lookup_many(&mut self, keys: &[FlowKey]) -> Result<Vec<Answer>, KernelError> {
        let mut answers = Vec::with_capacity(keys.len());
        for keys in keys.chunks(BATCH) {
            answers.extend(self.ask(keys, 0)?);
        }
        for (key, answer) in keys.iter().zip(&mut answers) {
            if !matches!(answer, Answer::Nothing | Answer::ListenOnly) {
                continue;
            }
            for interface in self.interfaces(key) {
                let on_interface = self.ask(std::slice::from_ref(key), interface)?.remove(0);
                if !on_interface.sockets().is_empty() {
                    *answer = on_interface;
                    break;
                }
            }
        }
        Ok(answers)
    }

    /// The interfaces on which a bound socket of this connection might be.
    fn interfaces(&self, key: &FlowKey) -> Vec<u32> {
        if !is_link_local(key.lo().addr) && !is_link_local(key.hi().addr) {
            return self.bound.iter().copied().collect();
        }
        // A socket with a link-local address is always bound to the link.
        let all = if_nameindex();
        all.map_or_else(|_| Vec::new(), |all| all.iter().map(|interface| interface.index()).take(MAX_INTERFACES).collect())
    }

    fn ask(&mut self, keys: &[FlowKey], interface: u32) -> Result<Vec<Answer>, KernelError> {
        let first = self.sequence;
        self.requests.clear();
        for (local, remote) in keys.iter().flat_map(both_ways) {
            write_request(&mut self.requests, self.sequence, Query::Exact { local, remote, interface });
            self.sequence = self.sequence.wrapping_add(1);
        }
        self.netlink.send(&self.requests).map_err(KernelError::Ask)?;
        // An answer that does not come had no room in the receive buffer.
        let mut replies = vec![Reply::Failed(libc::ENOBUFS); 2 * keys.len()];
        loop {
            match self.netlink.receive(&mut self.buffer) {
                Ok(Some(datagram)) => {
                    for (sequence, message) in messages(datagram) {
                        if let Some(reply) = replies.get_mut(sequence.wrapping_sub(first) as usize) {
                            *reply = Reply::from_message(message);
                        }
                    }
                }
                Ok(None) => break,
                Err(Errno::ENOBUFS) => {}
                Err(error) => return Err(KernelError::Ask(error.into())),
            }
        }
        let mut replies = replies.into_iter();
        let mut next = || replies.next().expect("two replies for each key");
        Ok(keys.iter().map(|key| answer(both_ways(key), [next(), next()])).collect())
    }
}

/// What came back for one way of one key.
#[derive(Clone, Debug)]
enum Reply {
    Socket(Socket),
    Nothing,
    Failed(i32),
}

impl Reply {
    fn from_message(message: Message) -> Self {
        match message {
            Message::Socket(socket) => Self::Socket(socket),
            Message::Error(libc::ENOENT) => Self::Nothing,
            Message::Error(errno) | Message::Done(errno) => Self::Failed(errno),
            Message::Other => Self::Failed(libc::EPROTO),
        }
    }
}

fn both_ways(key: &FlowKey) -> [(Endpoint, Endpoint); 2] {
    [(key.lo(), key.hi()), (key.hi(), key.lo())]
}

fn answer(asked: [(Endpoint, Endpoint); 2], replies: [Reply; 2]) -> Answer {
    let mut negative = Answer::Nothing;
    let mut found = asked.into_iter().zip(replies).filter_map(|((local, remote), reply)| match reply {
        Reply::Socket(socket) if socket.state == TcpState::LISTEN => {
            if negative == Answer::Nothing {
                negative = Answer::ListenOnly;
            }
            None
        }
        Reply::Socket(socket) => ((socket.local, socket.remote) == (local, remote)).then_some(socket),
        Reply::Nothing => None,
        Reply::Failed(errno) => {
            negative = Answer::Failed(errno);
            None
        }
    });
    match (found.next(), found.next()) {
        // A connection of a socket with itself (simultaneous open to its own port) is one socket.
        (Some(one), Some(other)) if one.cookie != other.cookie => Answer::FoundBoth([one, other]),
        (Some(one), _) => Answer::Found(one),
        _ => negative,
    }
}

fn is_link_local(address: Address) -> bool {
    address.0[0] == 0xfe && address.0[1] & 0xc0 == 0x80
}

/// Most interfaces that are tried for one connection.
const MAX_INTERFACES: usize = 16;

/// An answer to a lookup is 124 bytes on Linux 6.18.
const DATAGRAM: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_is_not_the_connection() {
        let listening = Socket { state: TcpState::LISTEN, remote: NOBODY, ..socket(1, A, B) };
        assert_eq!(answer(WAYS, [Reply::Socket(listening), Reply::Nothing]), Answer::ListenOnly);
        let listening = Socket { state: TcpState::LISTEN, remote: NOBODY, ..socket(1, A, B) };
        assert_eq!(answer(WAYS, [Reply::Socket(listening), Reply::Socket(socket(2, B, A))]), Answer::Found(socket(2, B, A)));
    }

    #[test]
    fn another_connection_is_not_the_one() {
        let other = Endpoint { port: 9, ..B };
        assert_eq!(answer(WAYS, [Reply::Socket(socket(1, A, other)), Reply::Nothing]), Answer::Nothing);
        assert_eq!(answer(WAYS, [Reply::Socket(socket(1, B, A)), Reply::Nothing]), Answer::Nothing);
    }

    #[test]
    fn both_ends_here_are_two_sockets_and_one_with_itself_is_one() {
        let (a, b) = (socket(1, A, B), socket(2, B, A));
        assert_eq!(answer(WAYS, [Reply::Socket(a.clone()), Reply::Socket(b.clone())]), Answer::FoundBoth([a.clone(), b]));
        let itself = socket(1, A, A);
        assert_eq!(answer([(A, A); 2], [Reply::Socket(itself.clone()), Reply::Socket(itself.clone())]), Answer::Found(itself));
    }

    #[test]
    fn a_failure_one_way_matters_only_if_the_other_way_has_nothing() {
        assert_eq!(answer(WAYS, [Reply::Failed(12), Reply::Nothing]), Answer::Failed(12));
        assert_eq!(answer(WAYS, [Reply::Failed(12), Reply::Socket(socket(2, B, A))]), Answer::Found(socket(2, B, A)));
    }

    fn socket(cookie: u64, local: Endpoint, remote: Endpoint) -> Socket {
        let state = TcpState::ESTABLISHED;
        Socket { local, remote, interface: 0, cookie, state, remainder: false, tcp_info: None }
    }

    const A: Endpoint = Endpoint { addr: Address::v4([192, 0, 2, 1]), port: 443 };
    const B: Endpoint = Endpoint { addr: Address::v4([198, 51, 100, 7]), port: 50_000 };
    const NOBODY: Endpoint = Endpoint { addr: Address([0; 16]), port: 0 };
    const WAYS: [(Endpoint, Endpoint); 2] = [(A, B), (B, A)];
}
