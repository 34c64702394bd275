//! From a frame to what is known of its IP packet: where its headers end, who talks to whom, what TCP says.
//!
//! Pure and allocation-free. Everything that is not a TCP packet of a link we know is a [`Skip`] with its reason;
//! every frame has exactly one outcome.

use crate::capture::LinkType;
use crate::key::{Address, Endpoint};

mod batch;
pub mod datagram;
pub(crate) mod extension;
mod fast;
mod ip;
mod link;
#[cfg(test)]
mod oracle;
#[cfg(test)]
pub(crate) mod testing;

pub use batch::FrameBatch;

/// No [`Packet::header_len`] is above this many bytes: link layer, IP headers, TCP header with all its options.
pub const MAX_HEADER_LEN: usize = link::MAX_LEN + ip::MAX_LEN + 60;

/// A parsed packet: offsets into its frame, and the fields that flows need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Bytes of link layer (with VLAN tags and PPPoE) before the IP header.
    pub link_len: usize,
    /// Which IP it is; decides the EtherType of a synthetic Ethernet header.
    pub ip: IpVersion,
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Bytes of IP header, extension headers included; the TCP header begins at `link_len + ip_len`.
    pub ip_len: usize,
    /// Bytes from the start of the frame that are proven to be headers. Never more than was captured, never past the
    /// end of the IP packet, never a byte of payload or of an Ethernet trailer.
    pub header_len: usize,
    /// What follows the IP header.
    pub transport: Transport,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a kept packet carries after its IP headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// A TCP header: a whole packet, or the first fragment of one, which `first_fragment` then identifies.
    Tcp {
        /// The TCP header's fields.
        tcp: Tcp,
        /// Set when this is a first fragment (offset 0, more to come).
        first_fragment: Option<FragmentId>,
    },
    /// A later fragment of a TCP packet: it has no ports; its flow is that of the first fragment with this id.
    LaterFragment(FragmentId),
}

/// The fixed part of a TCP header (RFC 9293 section 3.1), host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tcp {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; meaningful with [`Tcp::ACK`].
    pub ack: u32,
    /// The low eight flag bits: CWR ECE URG ACK PSH RST SYN FIN.
    pub flags: u8,
}

impl Tcp {
    /// FIN flag.
    pub const FIN: u8 = 0x01;
    /// SYN flag.
    pub const SYN: u8 = 0x02;
    /// RST flag.
    pub const RST: u8 = 0x04;
    /// ACK flag.
    pub const ACK: u8 = 0x10;

    /// Whether this is a client's first packet: SYN without ACK.
    pub fn is_first(&self) -> bool {
        self.flags & (Self::SYN | Self::ACK) == Self::SYN
    }

    /// Whether all these flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

/// What the fragments of one packet share (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FragmentId {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
}

/// Why a frame is not kept by the parser. Each is a value of the `outcome` label of `flowarc_frames_total`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Skip {
    /// A link type that is not parsed.
    UnknownLink,
    /// Not IPv4 or IPv6: ARP, LLDP, MPLS and the like.
    NotIp,
    /// IP, but not TCP.
    NotTcp,
    /// The capture ends before the fixed TCP header does.
    Truncated,
    /// Lengths or versions that contradict each other.
    Malformed,
    /// A first fragment too short for a TCP header (RFC 3128).
    TinyFragment,
}

impl Skip {
    /// All reasons, in the order of the metric's label values.
    pub const ALL: [Self; 6] =
        [Self::UnknownLink, Self::NotIp, Self::NotTcp, Self::Truncated, Self::Malformed, Self::TinyFragment];

    /// The label value.
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownLink => "unknown_link",
            Self::NotIp => "not_ip",
            Self::NotTcp => "not_tcp",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::TinyFragment => "tiny_fragment",
        }
    }
}

impl Packet {
    /// The two ends of a TCP packet, source first; `None` for a later fragment.
    pub fn endpoints(&self) -> Option<(Endpoint, Endpoint)> {
        match self.transport {
            Transport::Tcp { tcp, .. } => {
                Some((Endpoint { addr: self.src, port: tcp.src_port }, Endpoint { addr: self.dst, port: tcp.dst_port }))
            }
            Transport::LaterFragment(_) => None,
        }
    }
}

/// Parses a frame's headers. Ethernet frames of the common shapes take a short cut that gives the same result.
///
/// # Errors
/// Returns why the frame is not a TCP packet that can be kept.
#[inline]
pub fn parse(link: LinkType, data: &[u8]) -> Result<Packet, Skip> {
    if link == LinkType::Ethernet
        && let Some(packet) = fast::parse(data)
    {
        return Ok(packet);
    }
    parse_any(link, data)
}

fn parse_any(link: LinkType, data: &[u8]) -> Result<Packet, Skip> {
    ip::parse(data, link::find_ip(link, data)?)
}

/// The big-endian number of 16 bits at an offset, if it is there.
#[inline]
fn be16(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::testing::{Extension, Fragment, Hidden, Spec};
    use super::*;

    const HIDDEN: Hidden = Hidden { secret: 1, payload: 0xa5 };

    fn frame(spec: &Spec) -> Vec<u8> {
        spec.build(HIDDEN).0
    }

    fn ethernet(data: &[u8]) -> Result<Packet, Skip> {
        parse(LinkType::Ethernet, data)
    }

    fn v4() -> Spec {
        Spec::plain(IpVersion::V4)
    }

    fn v6() -> Spec {
        Spec::plain(IpVersion::V6)
    }

    #[test]
    fn a_plain_packet_gives_its_fields() {
        let p = ethernet(&frame(&v4())).unwrap();
        assert_eq!((p.link_len, p.ip_len, p.header_len, p.ip), (14, 20, 66, IpVersion::V4));
        let tcp = Tcp { src_port: 50_000, dst_port: 443, seq: 0x0102_0304, ack: 9, flags: 0x10 };
        assert_eq!(p.transport, Transport::Tcp { tcp, first_fragment: None });
        let p = ethernet(&frame(&v6())).unwrap();
        assert_eq!((p.link_len, p.ip_len, p.header_len, p.ip), (14, 40, 86, IpVersion::V6));
    }

    #[test]
    fn a_data_offset_that_cannot_be_true_keeps_the_fixed_header_alone() {
        for data_offset in 0..5 {
            let p = ethernet(&frame(&Spec { data_offset: Some(data_offset), ..v4() })).unwrap();
            assert_eq!(p.header_len, 54);
        }
        // 32 bytes of header and 27 of payload are one less than the data offset claims; then exactly as many.
        for (payload, header_len) in [(27, 54), (28, 94)] {
            let p = ethernet(&frame(&Spec { data_offset: Some(15), payload, trailer: 30, ..v4() })).unwrap();
            assert_eq!(p.header_len, header_len);
        }
    }

    #[test]
    fn a_header_cut_by_the_snap_length_is_kept_as_far_as_it_was_captured() {
        let whole = frame(&v4());
        assert_eq!(ethernet(&whole[..60]).unwrap().header_len, 60);
        assert_eq!(ethernet(&whole[..54]).unwrap().header_len, 54);
        for len in 0..54 {
            assert_eq!(ethernet(&whole[..len]), Err(Skip::Truncated));
        }
    }

    #[test]
    fn a_trailer_behind_the_ip_packet_is_no_header() {
        // A bare ACK, padded to the least Ethernet frame, whose data offset reaches into the padding.
        let spec = Spec { tcp_options: vec![], payload: 0, trailer: 6, data_offset: Some(6), ..v4() };
        assert_eq!(ethernet(&frame(&spec)).unwrap().header_len, 54);
    }

    #[test]
    fn a_zero_length_field_means_all_that_was_captured() {
        for spec in [v4(), v6()] {
            let spec = Spec { zero_length: true, payload: 100_000, ..spec };
            let (data, header_len) = spec.build(HIDDEN);
            assert!(data.len() > 65_535);
            assert_eq!(ethernet(&data).unwrap().header_len, header_len);
        }
    }

    #[test]
    fn first_and_later_fragments_share_their_identification() {
        for spec in [v4(), v6()] {
            let of = |f| ethernet(&frame(&Spec { extensions: vec![Extension::Fragment(f)], ..spec.clone() })).unwrap();
            let Transport::Tcp { first_fragment: Some(first), .. } = of(Fragment::First).transport else {
                panic!("a first fragment has a TCP header")
            };
            let later = of(Fragment::Later);
            assert_eq!(later.transport, Transport::LaterFragment(first));
            assert_eq!(later.header_len, later.link_len + later.ip_len);
            assert!(matches!(of(Fragment::Whole).transport, Transport::Tcp { first_fragment: None, .. }));
        }
    }

    #[test]
    fn a_first_fragment_without_room_for_a_tcp_header_is_tiny() {
        let spec = Spec { extensions: vec![Extension::Fragment(Fragment::First)], ..v4() };
        let mut data = frame(&spec);
        data[16..18].copy_from_slice(&39u16.to_be_bytes());
        assert_eq!(ethernet(&data), Err(Skip::TinyFragment));
        data[16..18].copy_from_slice(&40u16.to_be_bytes());
        assert_eq!(ethernet(&data).unwrap().header_len, 54);
        assert_eq!(ethernet(&data[..53]), Err(Skip::Truncated));
    }

    #[test]
    fn later_fragments_of_other_protocols_are_not_tcp() {
        let mut data = frame(&Spec { extensions: vec![Extension::Fragment(Fragment::Later)], ..v4() });
        data[23] = 17;
        assert_eq!(ethernet(&data), Err(Skip::NotTcp));
        let mut data = frame(&Spec { extensions: vec![Extension::Fragment(Fragment::Later)], ..v6() });
        data[54] = extension::DESTINATION;
        assert_eq!(ethernet(&data), Err(Skip::NotTcp));
    }

    #[test]
    fn lengths_and_versions_that_contradict_each_other_are_malformed() {
        let change = |at: usize, value: u8| {
            let mut data = frame(&v4());
            data[at] = value;
            ethernet(&data)
        };
        assert_eq!(change(14, 0x65), Err(Skip::Malformed), "version");
        assert_eq!(change(14, 0x44), Err(Skip::Malformed), "header length below 20");
        let mut data = frame(&v4());
        data[16..18].copy_from_slice(&19u16.to_be_bytes());
        assert_eq!(ethernet(&data), Err(Skip::Malformed), "total length below the header's");
        data[16..18].copy_from_slice(&39u16.to_be_bytes());
        assert_eq!(ethernet(&data), Err(Skip::Malformed), "no room for TCP");
    }

    #[test]
    fn udp_encrypted_and_empty_packets_are_not_tcp() {
        for protocol in [1, 4, 17, 41, 47, 50, 132] {
            let mut data = frame(&v4());
            data[23] = protocol;
            assert_eq!(ethernet(&data), Err(Skip::NotTcp));
        }
        for next in [17, 50, 58, 59, 253] {
            let mut data = frame(&v6());
            data[20] = next;
            assert_eq!(ethernet(&data), Err(Skip::NotTcp));
        }
    }

    #[test]
    fn a_chain_of_extension_headers_is_followed_up_to_the_bound() {
        let chain = |units| {
            let extensions = vec![Extension::Opaque { number: extension::SHIM6, units }; 8];
            ethernet(&frame(&Spec { extensions, ..v6() }))
        };
        assert_eq!(chain(30).unwrap().ip_len, 40 + 8 * 248);
        assert_eq!(chain(31), Err(Skip::Malformed));
    }

    #[test]
    fn hop_by_hop_options_behind_another_header_and_two_fragment_headers_are_malformed() {
        let opaque = Extension::Opaque { number: extension::MOBILITY, units: 0 };
        let hop_by_hop = Extension::Options { number: extension::HOP_BY_HOP, pieces: vec![] };
        let atomic = Extension::Fragment(Fragment::Whole);
        for extensions in [vec![opaque, hop_by_hop], vec![atomic.clone(), atomic]] {
            assert_eq!(ethernet(&frame(&Spec { extensions, ..v6() })), Err(Skip::Malformed));
        }
    }
}
