//! What any IP packet says: its ends, its protocol, how much it carries. For the spool, which keeps every protocol.
//!
//! Unlike [`super::parse`], which proves what is a header, this only has to recognise: a packet whose headers are cut or
//! lie has no ports here, and is kept all the same.

use super::link::{self, IpAt};
use super::{FragmentId, IpVersion, extension};
use crate::capture::LinkType;
use crate::key::{Address, Endpoint};

/// What was recognised of an IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// The sender; port 0 where there is none, or none was captured.
    pub src: Endpoint,
    /// The receiver; port 0 as with the sender.
    pub dst: Endpoint,
    /// The IP protocol number behind all extension headers that are known.
    pub protocol: u8,
    /// Bytes on the wire behind the transport header (behind the IP headers, where the transport has no header that is
    /// known), by the lengths in the headers and not by what was captured.
    pub payload_len: u32,
    /// What TCP says, of a packet or first fragment.
    pub tcp: Option<TcpSigns>,
    /// Which fragment this is.
    pub fragment: Fragment,
}

/// The fields of a TCP header that tell beginnings and ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpSigns {
    /// The sequence number.
    pub seq: u32,
    /// The low eight flag bits, as [`super::Tcp`] names them.
    pub flags: u8,
}

/// A packet's place among the fragments of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// Not fragmented.
    Whole,
    /// The first, which has the ports.
    First(FragmentId),
    /// One behind the first.
    Later(FragmentId),
}

impl Datagram {
    /// Recognises the IP packet of a frame that was `wire_len` bytes long; `None` if it is not IP or cut within the
    /// fixed IP header.
    pub fn recognise(link: LinkType, data: &[u8], wire_len: u32) -> Option<Self> {
        let at = link::find_ip(link, data).ok()?;
        let bytes = data.get(at.start..at.end)?;
        let on_wire = (wire_len as usize).saturating_sub(at.start);
        match at {
            IpAt { version: IpVersion::V4, .. } => ipv4(bytes, on_wire),
            IpAt { version: IpVersion::V6, .. } => ipv6(bytes, on_wire),
        }
    }
}

/// The kernel hands out super-packets that are too long for the length field with a zero there.
fn length(field: u16, fixed: usize, on_wire: usize) -> usize {
    if field == 0 { on_wire } else { fixed + usize::from(field) }
}

fn ipv4(bytes: &[u8], on_wire: usize) -> Option<Datagram> {
    let h: &[u8; 20] = bytes.first_chunk()?;
    let header_len = usize::from(h[0] & 0x0f) * 4;
    if h[0] >> 4 != 4 || header_len < h.len() {
        return None;
    }
    let (src, dst) = (Address::v4([h[12], h[13], h[14], h[15]]), Address::v4([h[16], h[17], h[18], h[19]]));
    let id = FragmentId { src, dst, id: u16::from_be_bytes([h[4], h[5]]).into() };
    let field = u16::from_be_bytes([h[6], h[7]]);
    let fragment = match (field & 0x1fff != 0, field & 0x2000 != 0) {
        (true, _) => Fragment::Later(id),
        (false, true) => Fragment::First(id),
        (false, false) => Fragment::Whole,
    };
    let end = length(u16::from_be_bytes([h[2], h[3]]), 0, on_wire);
    Some(Ip { bytes, end, src, dst, fragment }.transport(h[9], header_len))
}

fn ipv6(bytes: &[u8], on_wire: usize) -> Option<Datagram> {
    let h: &[u8; 40] = bytes.first_chunk()?;
    if h[0] >> 4 != 6 {
        return None;
    }
    let (src, dst) = (Address(*h[8..].first_chunk()?), Address(*h[24..].first_chunk()?));
    let end = length(u16::from_be_bytes([h[4], h[5]]), h.len(), on_wire);
    let mut ip = Ip { bytes, end, src, dst, fragment: Fragment::Whole };
    let (mut next, mut at) = (h[6], h.len());
    // Eight bytes at least are gone through in each turn.
    while extension::is_extension(next) {
        let Some(&[following, units, hi, lo, a, b, c, d]) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { break };
        let Some(len) = extension::len(next, units) else { break };
        if next == extension::FRAGMENT {
            let id = FragmentId { src, dst, id: u32::from_be_bytes([a, b, c, d]) };
            let field = u16::from_be_bytes([hi, lo]);
            if field >> 3 != 0 {
                ip.fragment = Fragment::Later(id);
                return Some(ip.transport(following, at + len));
            }
            if field & 1 != 0 {
                ip.fragment = Fragment::First(id);
            }
        }
        (next, at) = (following, at + len);
    }
    Some(ip.transport(next, at))
}

struct Ip<'a> {
    bytes: &'a [u8],
    /// Where the packet ends on the wire.
    end: usize,
    src: Address,
    dst: Address,
    fragment: Fragment,
}

impl Ip<'_> {
    fn transport(&self, protocol: u8, at: usize) -> Datagram {
        let later = matches!(self.fragment, Fragment::Later(_));
        let behind = if later { &[][..] } else { self.bytes.get(at..self.bytes.len().min(self.end)).unwrap_or_default() };
        let ports = if HAS_PORTS.contains(&protocol) { behind.first_chunk::<4>() } else { None };
        let [src_port, dst_port] = ports.map_or([0; 2], |p| [u16::from_be_bytes([p[0], p[1]]), u16::from_be_bytes([p[2], p[3]])]);
        let tcp = if protocol == TCP { behind.first_chunk::<20>() } else { None };
        let header_len = match (protocol, tcp) {
            _ if later => 0,
            // A data offset that cannot be true says nothing of where payload begins.
            (TCP, Some(h)) => (usize::from(h[12] >> 4) * 4).max(h.len()),
            (TCP, None) => 20,
            (UDP | UDP_LITE, _) => 8,
            _ => 0,
        };
        Datagram {
            src: Endpoint { addr: self.src, port: src_port },
            dst: Endpoint { addr: self.dst, port: dst_port },
            protocol,
            payload_len: u32::try_from(self.end.saturating_sub(at + header_len)).unwrap_or(u32::MAX),
            tcp: tcp.map(|h| TcpSigns { seq: u32::from_be_bytes([h[4], h[5], h[6], h[7]]), flags: h[13] }),
            fragment: self.fragment,
        }
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
/// RFC 3828.
const UDP_LITE: u8 = 136;
/// TCP, UDP, DCCP (RFC 4340 section 5.1), SCTP (RFC 9260 section 3.1), UDP-Lite: all begin with the two ports.
const HAS_PORTS: [u8; 5] = [TCP, UDP, 33, 132, UDP_LITE];

#[cfg(test)]
mod tests {
    use super::super::testing::{Extension, Fragment as Piece, Hidden, Spec};
    use super::*;
    use crate::packet::{Transport, parse};
    use proptest::prelude::*;

    fn build(spec: &Spec) -> Vec<u8> {
        spec.build(Hidden { secret: 1, payload: 0xa5 }).0
    }

    fn recognise(data: &[u8]) -> Datagram {
        Datagram::recognise(LinkType::Ethernet, data, data.len() as u32).unwrap()
    }

    #[test]
    fn tcp_gives_ports_flags_and_the_payload_on_the_wire() {
        for version in [IpVersion::V4, IpVersion::V6] {
            let data = build(&Spec { payload: 100, trailer: 6, ..Spec::plain(version) });
            let d = recognise(&data);
            assert_eq!((d.src.port, d.dst.port, d.protocol, d.payload_len), (50_000, 443, 6, 100));
            assert_eq!(d.tcp, Some(TcpSigns { seq: 0x0102_0304, flags: 0x10 }));
            let cut = Datagram::recognise(LinkType::Ethernet, &data[..data.len() - 60], data.len() as u32).unwrap();
            assert_eq!(cut.payload_len, 100, "by the IP length and not by what was captured");
        }
    }

    #[test]
    fn udp_has_ports_and_icmp_has_none() {
        let mut data = build(&Spec { payload: 12, tcp_options: vec![], ..Spec::plain(IpVersion::V4) });
        data[23] = 17;
        let d = recognise(&data);
        assert_eq!((d.src.port, d.dst.port, d.payload_len, d.tcp), (50_000, 443, 24, None));
        data[23] = 1;
        let d = recognise(&data);
        assert_eq!((d.src.port, d.dst.port, d.payload_len), (0, 0, 32));
    }

    #[test]
    fn a_later_fragment_has_the_identification_of_its_first_and_no_ports() {
        for version in [IpVersion::V4, IpVersion::V6] {
            let piece = |f| recognise(&build(&Spec { extensions: vec![Extension::Fragment(f)], ..Spec::plain(version) }));
            let Fragment::First(id) = piece(Piece::First).fragment else { panic!("a first fragment") };
            let later = piece(Piece::Later);
            assert_eq!(later.fragment, Fragment::Later(id));
            assert_eq!((later.src.port, later.tcp), (0, None));
            assert_eq!(piece(Piece::Whole).fragment, Fragment::Whole);
        }
    }

    #[test]
    fn what_is_not_ip_is_not_recognised() {
        assert_eq!(Datagram::recognise(LinkType::Ethernet, &[2; 60], 60), None);
        assert_eq!(Datagram::recognise(LinkType::Other(105), &[0x45; 60], 60), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_recognised_or_not_without_a_panic(data in prop::collection::vec(any::<u8>(), 0..200), wire: u32) {
            for link in [LinkType::Ethernet, LinkType::Raw, LinkType::LinuxSll, LinkType::LinuxSll2, LinkType::Null] {
                let _ = Datagram::recognise(link, &data, wire);
            }
        }

        /// The proven path is the oracle for what it takes.
        #[test]
        fn what_the_parser_proves_is_recognised_alike(raw in prop::collection::vec(any::<u8>(), 40..200), six: bool) {
            let mut data = raw;
            data[0] = if six { 0x60 } else { 0x45 };
            data[if six { 6 } else { 9 }] = 6;
            if let Ok(p) = parse(LinkType::Raw, &data) {
                let d = Datagram::recognise(LinkType::Raw, &data, data.len() as u32).unwrap();
                prop_assert_eq!((d.src.addr, d.dst.addr, d.protocol), (p.src, p.dst, 6));
                if let Transport::Tcp { tcp, .. } = p.transport {
                    prop_assert_eq!(d.tcp, Some(TcpSigns { seq: tcp.seq, flags: tcp.flags }));
                    prop_assert_eq!((d.src.port, d.dst.port), (tcp.src_port, tcp.dst_port));
                }
            }
        }
    }
}
