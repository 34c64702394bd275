//! From a frame to what is known of its IP packet: where its headers end, who talks to whom, what TCP says.
//!
//! Pure and allocation-free. Everything that is not a TCP packet of a link we know is a [`Skip`] with its reason;
//! every frame has exactly one outcome.

use crate::capture::LinkType;
use crate::key::{Address, Endpoint};

pub(crate) mod extension;
mod fast;
mod ip;
mod link;
#[cfg(test)]
mod oracle;
#[cfg(test)]
pub(crate) mod testing;

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
