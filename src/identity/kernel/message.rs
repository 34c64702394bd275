//! Messages of NETLINK_SOCK_DIAG to and from bytes (netlink(7), sock_diag(7); include/uapi/linux/netlink.h,
//! inet_diag.h and sock_diag.h).
//!
//! All numbers are in the machine's byte order, but ports and addresses, which are in the network's.

use super::tcp_info::TcpInfo;
use super::{Socket, TcpState};
use crate::key::{Address, Endpoint};

/// What to ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Query {
    /// One socket, by both its ends.
    Exact {
        /// The end that the socket would be at.
        local: Endpoint,
        /// The other one.
        remote: Endpoint,
        /// The interface that it would be bound to; 0 for none.
        interface: u32,
    },
    /// All TCP sockets of a family that are in one of these states.
    Dump {
        /// AF_INET or AF_INET6; the latter has the sockets that carry both.
        family: u8,
        /// A bit for each state, `1 << TcpState`.
        states: u32,
    },
}

/// Appends a request.
pub(super) fn write_request(out: &mut Vec<u8>, sequence: u32, query: Query) {
    let (flags, family, states, local, remote, interface) = match query {
        Query::Exact { local, remote, interface } => {
            // An IPv4 lookup finds IPv6 sockets that carry IPv4 too (inet_diag_find_one_icsk in net/ipv4/inet_diag.c).
            let is_v4 = local.addr.as_v4().is_some() && remote.addr.as_v4().is_some();
            (NLM_F_REQUEST, if is_v4 { AF_INET } else { AF_INET6 }, u32::MAX, local, remote, interface)
        }
        Query::Dump { family, states } => (NLM_F_REQUEST | NLM_F_DUMP, family, states, NOBODY, NOBODY, 0),
    };
    out.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    // struct inet_diag_req_v2: no extensions, since the cookie comes without any.
    out.extend([family, IPPROTO_TCP, 0, 0]);
    out.extend(states.to_ne_bytes());
    out.extend(local.port.to_be_bytes());
    out.extend(remote.port.to_be_bytes());
    for address in [local.addr, remote.addr] {
        match address.as_v4() {
            Some(v4) if family == AF_INET => {
                out.extend(v4);
                out.extend([0; 12]);
            }
            _ => out.extend(address.0),
        }
    }
    out.extend(interface.to_ne_bytes());
    out.extend(NO_COOKIE);
}

/// A message from the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// A socket: an answer, a part of a dump, or the last word on a destroyed one.
    Socket(Socket),
    /// The request failed, with this errno; 0 is a mere acknowledgement.
    Error(i32),
    /// The dump is over; with an errno other than 0, for that reason.
    Done(i32),
    /// Nothing that matters here.
    Other,
}

/// The messages of one datagram with their sequence numbers. Ends at the first that is not whole.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = (u32, Message)> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER)?;
        let len = u32_at(header, 0) as usize;
        let body = rest.get(HEADER..len)?;
        let message = match u16_at(header, 4) {
            NLMSG_ERROR => Message::Error(errno(body)?),
            // Kernels before 4.17 end a dump without saying how it went.
            NLMSG_DONE => Message::Done(errno(body).unwrap_or(0)),
            SOCK_DIAG_BY_FAMILY => socket(body).map_or(Message::Other, Message::Socket),
            _ => Message::Other,
        };
        rest = rest.get(aligned(len)..).unwrap_or_default();
        Some((u32_at(header, 8), message))
    })
}

/// Reads struct inet_diag_msg and the attributes behind it.
fn socket(body: &[u8]) -> Option<Socket> {
    let fixed = body.get(..DIAG_MSG)?;
    let endpoint = |port: usize, address: usize| {
        let bytes: [u8; 16] = fixed[address..address + 16].try_into().expect("16 bytes of a fixed part");
        let addr = match fixed[0] {
            AF_INET => Address::v4([bytes[0], bytes[1], bytes[2], bytes[3]]),
            AF_INET6 => Address(bytes),
            _ => return None,
        };
        Some(Endpoint { addr, port: u16::from_be_bytes([fixed[port], fixed[port + 1]]) })
    };
    Some(Socket {
        local: endpoint(4, 8)?,
        remote: endpoint(6, 24)?,
        interface: u32_at(fixed, 40),
        cookie: u64::from(u32_at(fixed, 44)) | u64::from(u32_at(fixed, 48)) << 32,
        state: TcpState(fixed[1]),
        // inet_twsk_diag_fill: a remainder in the state FIN_WAIT2 is told from a socket in it by this timer alone.
        remainder: fixed[2] == TIMER_TIME_WAIT,
        tcp_info: attribute(&body[DIAG_MSG..], INET_DIAG_INFO).map(|bytes| Box::new(TcpInfo::parse(bytes))),
    })
}

/// The content of an attribute (struct rtattr).
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16_at(attributes.get(..4)?, 0));
        let content = attributes.get(4..len)?;
        if u16_at(attributes, 2) == wanted {
            return Some(content);
        }
        attributes = attributes.get(aligned(len)..)?;
    }
}

/// The kernel says errors as negative numbers.
fn errno(body: &[u8]) -> Option<i32> {
    let number = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    Some(number.wrapping_neg())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// Length of struct nlmsghdr.
const HEADER: usize = 16;
/// Length of struct inet_diag_req_v2.
const REQUEST: usize = 56;
/// Length of struct inet_diag_msg.
const DIAG_MSG: usize = 72;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const INET_DIAG_INFO: u16 = 2;
/// The idiag_timer of a TIME_WAIT remainder.
const TIMER_TIME_WAIT: u8 = 3;
/// INET_DIAG_NOCOOKIE twice: any socket will do.
const NO_COOKIE: [u8; 8] = [0xff; 8];
const IPPROTO_TCP: u8 = 6;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
const NOBODY: Endpoint = Endpoint { addr: Address([0; 16]), port: 0 };

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::SocketAddr;

    // Recorded on a Linux 6.18 of x86-64.
    const ESTABLISHED: &str = "7c00000014000000010000007034000002010000beb1ed667f0000010000000000000000000000007f000001000000000000000000000000000000006c2300000000000000000000000000000000000000000000b1810200050008000000000008000f00000000000c00150001000000000000000600160052000000";
    const LISTEN: &str = "7c000000140000000200000070340000020a0000beb100007f00000100000000000000000000000000000000000000000000000000000000000000006d2300000000000000000000000000008000000000000000af810200050008000000000008000f00000000000c00150001000000000000000600160052000000";
    const NO_ENTRY: &str = "5c000000020000000300000070340000feffffff4800000014000100030000000000000002060000ffffffff000900017f0000010000000000000000000000007f00000100000000000000000000000000000000ffffffffffffffff";
    const DESTROYED: &str = "7c01000014000000000000000000000002070000beb1ed667f0000010000000000000000000000007f000001000000000000000000000000000000006c23000000000000000000000100000000000000000000000000000005000a00060000001c010200070000000007aa01e01c0300409c000000800000e8030000000000000000000000000000000000000000000000000000000000000000000000000000ffff00001d1201001100000007000000ffffff7f0b000000cbff000003000000e8030000cbff000000000000e39bf71c0c000000ffffffffffffffff0100000000000000e9030000000000000200000005000000000000001000000001000000000000000000127a0000000000000000000000000000000000000000000000000000000002000000000000000000000000000000000000000000000000000000000000000000000000000100001401000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000";
    const MAPPED: &str = "7c0000001400000001000000703400000a010000bdafcf3000000000000000000000ffff7f00000100000000000000000000ffff7f000001000000006f2300000000000000000000000000000000000000000000b8810200050008000000000008000f00000000000c00150001000000000000000600160012000000";
    const TIME_WAIT: &str = "6000000014000000010000007034000002060300cf30bdaf7f0000010000000000000000000000007f0000010000000000000000000000000000000071230000000000002cea00000000000000000000000000000000000008000f0000000000";

    #[test]
    fn a_real_socket_is_read_whole() {
        let expected = Socket {
            local: end("127.0.0.1:48817"),
            remote: end("127.0.0.1:60774"),
            interface: 0,
            cookie: 9068,
            state: TcpState::ESTABLISHED,
            remainder: false,
            tcp_info: None,
        };
        assert_eq!(all(ESTABLISHED), [(1, Message::Socket(expected))]);
    }

    #[test]
    fn states_and_remainders_are_told_apart() {
        let (listening, remainder) = (one(LISTEN), one(TIME_WAIT));
        assert_eq!((listening.state, listening.remote.port, listening.remainder), (TcpState::LISTEN, 0, false));
        assert_eq!((remainder.state, remainder.cookie, remainder.remainder), (TcpState::TIME_WAIT, 9073, true));
    }

    #[test]
    fn a_mapped_address_is_an_ipv4_address() {
        let socket = one(MAPPED);
        assert_eq!((socket.local, socket.remote), (end("127.0.0.1:48559"), end("127.0.0.1:53040")));
    }

    #[test]
    fn the_last_word_on_a_socket_has_its_tcp_info() {
        let socket = one(DESTROYED);
        assert_eq!((socket.cookie, socket.state), (9068, TcpState::CLOSE));
        let expected = TcpInfo {
            options: 7,
            window_scales: [10, 10],
            rto: 204_000,
            snd_mss: 32_768,
            rcv_mss: 1_000,
            pmtu: 65_535,
            rtt: 70_173,
            rttvar: 17,
            ..TcpInfo::default()
        };
        let info = socket.tcp_info.unwrap();
        assert_eq!((info.options, info.window_scales, info.rto), (expected.options, expected.window_scales, expected.rto));
        assert_eq!((info.snd_mss, info.rcv_mss, info.pmtu), (expected.snd_mss, expected.rcv_mss, expected.pmtu));
        // 1,000 bytes and a FIN came, a FIN went.
        assert_eq!((info.bytes_received, info.bytes_acked), (1_001, 1));
        assert_eq!((info.segs_out, info.segs_in, info.data_segs_in, info.data_segs_out), (2, 5, 1, 0));
    }

    #[test]
    fn errors_and_the_end_of_a_dump_are_read() {
        assert_eq!(all(NO_ENTRY), [(3, Message::Error(2))]);
        assert_eq!(all("140000000300020005000000000000000000000"), []);
        assert_eq!(all("1400000003000200050000000000000000000000"), [(5, Message::Done(0))]);
        assert_eq!(all("14000000030002000500000000000000feffffff"), [(5, Message::Done(2))]);
        assert_eq!(all("10000000030002000500000000000000"), [(5, Message::Done(0))]);
    }

    #[test]
    fn several_messages_come_in_one_datagram() {
        let both = format!("{ESTABLISHED}{TIME_WAIT}{NO_ENTRY}");
        assert_eq!(all(&both).iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [1, 1, 3]);
    }

    #[test]
    fn a_request_is_what_the_kernel_has_answered() {
        // What the kernel sent back with its error is the request itself.
        let mut out = Vec::new();
        write_request(&mut out, 3, Query::Exact { local: end("127.0.0.1:9"), remote: end("127.0.0.1:1"), interface: 0 });
        assert_eq!(out[16..], bytes(NO_ENTRY)[36..]);
        assert_eq!(out[..12], bytes(NO_ENTRY)[20..32]);
    }

    #[test]
    fn ipv4_is_asked_for_as_such_and_ipv6_whole() {
        let family = |local: &str, remote: &str| {
            let mut out = Vec::new();
            write_request(&mut out, 1, Query::Exact { local: end(local), remote: end(remote), interface: 7 });
            assert_eq!((out.len(), u32_at(&out, 60)), (72, 7));
            (out[16], out[28..44].to_vec())
        };
        assert_eq!(family("[::ffff:10.9.0.1]:1", "10.9.0.2:2"), (2, [&[10, 9, 0, 1][..], &[0; 12]].concat()));
        assert_eq!(family("[fd09::1]:1", "[fd09::2]:2").0, 10);
        assert_eq!(family("10.9.0.1:1", "[fd09::2]:2"), (10, Address::v4([10, 9, 0, 1]).0.to_vec()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(datagram in proptest::collection::vec(any::<u8>(), 0..500)) {
            messages(&datagram).for_each(drop);
        }

        #[test]
        fn a_damaged_message_is_read_without_a_panic(at in 0usize..380, byte: u8, len in 0usize..=380) {
            let mut datagram = bytes(DESTROYED);
            datagram[at] = byte;
            messages(&datagram[..len]).for_each(drop);
        }
    }

    fn one(hex: &str) -> Socket {
        match &all(hex)[..] {
            [(_, Message::Socket(socket))] => socket.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn all(hex: &str) -> Vec<(u32, Message)> {
        messages(&bytes(hex)).collect()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks_exact(2);
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn end(text: &str) -> Endpoint {
        let address: SocketAddr = text.parse().unwrap();
        Endpoint { addr: address.ip().into(), port: address.port() }
    }
}
