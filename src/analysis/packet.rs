//! A packet as the analysis sees it: lengths as they were on the wire, options read.

use super::options::Options;
use crate::capture::LinkType;
use crate::key::Endpoint;
use crate::packet::{FragmentId, IpVersion, Packet, Tcp, Transport, parse};

/// A packet that could be read.
pub(super) enum Seen {
    Segment(Segment),
    Later(Later),
}

/// A TCP segment, or the first fragment of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) src: Endpoint,
    pub(super) dst: Endpoint,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    /// As in the header, unscaled.
    pub(super) window: u16,
    /// Bytes of TCP payload on the wire.
    pub(super) payload: u64,
    pub(super) wire_len: u32,
    /// The two ECN bits of the IP header.
    pub(super) ecn: u8,
    pub(super) options: Options,
    /// Whether the TCP header was cut by the snap length.
    pub(super) cut: bool,
    /// Set for a first fragment: what its later ones have, and its TCP header's bytes.
    pub(super) fragment: Option<(FragmentId, u64)>,
}

/// A later fragment of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Later {
    pub(super) id: FragmentId,
    pub(super) wire_len: u32,
    /// Where in the segment, TCP header included, it begins.
    pub(super) offset: u64,
    /// Its bytes.
    pub(super) len: u64,
}

impl Segment {
    pub(super) const ECE: u8 = 0x40;
    pub(super) const CWR: u8 = 0x80;

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn is_syn(&self) -> bool {
        self.has(Tcp::SYN)
    }

    pub(super) fn is_ack(&self) -> bool {
        self.has(Tcp::ACK)
    }

    pub(super) fn is_fin(&self) -> bool {
        self.has(Tcp::FIN)
    }

    pub(super) fn is_rst(&self) -> bool {
        self.has(Tcp::RST)
    }

    /// What it takes of the sequence space: payload, and one each for SYN and FIN.
    pub(super) fn len(&self) -> u64 {
        self.payload + u64::from(self.is_syn()) + u64::from(self.is_fin())
    }

    /// Whether it carries nothing but an acknowledgement.
    pub(super) fn is_pure_ack(&self) -> bool {
        self.is_ack() && self.len() == 0
    }
}

/// Reads a packet of an archive; `None` if it is no TCP, or if its data offset contradicts its length.
#[inline]
pub(super) fn read(link: LinkType, wire_len: u32, bytes: &[u8]) -> Option<Seen> {
    let packet = parse(link, bytes).ok()?;
    let ip = bytes.get(packet.link_len..)?;
    // The whole packet from its IP header on; super-packets have no length that fits the field.
    let stated = match packet.ip {
        IpVersion::V4 => u64::from(be16(ip, 2)?),
        IpVersion::V6 => match be16(ip, 4)? {
            0 => 0,
            len => 40 + u64::from(len),
        },
    };
    let ip_total = if stated == 0 { u64::from(wire_len).saturating_sub(packet.link_len as u64) } else { stated };
    let after_ip = ip_total.saturating_sub(packet.ip_len as u64);
    match packet.transport {
        Transport::Tcp { tcp, first_fragment } => segment(&packet, tcp, first_fragment, wire_len, ip, after_ip),
        Transport::LaterFragment(id) => {
            let units = match packet.ip {
                IpVersion::V4 => be16(ip, 6)? & 0x1fff,
                // The fragment header is the last of those before a later fragment's data.
                IpVersion::V6 => be16(ip, packet.ip_len.checked_sub(6)?)? >> 3,
            };
            Some(Seen::Later(Later { id, wire_len, offset: u64::from(units) * 8, len: after_ip }))
        }
    }
}

#[inline]
fn segment(
    packet: &Packet,
    tcp: Tcp,
    first_fragment: Option<FragmentId>,
    wire_len: u32,
    ip: &[u8],
    after_ip: u64,
) -> Option<Seen> {
    let header = ip.get(packet.ip_len..)?;
    let claimed = usize::from(*header.get(12)? >> 4) * 4;
    if claimed < 20 || claimed as u64 > after_ip {
        return None;
    }
    let ecn = match packet.ip {
        IpVersion::V4 => ip.get(1)? & 3,
        IpVersion::V6 => ip.get(1)? >> 4 & 3,
    };
    Some(Seen::Segment(Segment {
        src: Endpoint { addr: packet.src, port: tcp.src_port },
        dst: Endpoint { addr: packet.dst, port: tcp.dst_port },
        seq: tcp.seq,
        ack: tcp.ack,
        flags: tcp.flags,
        window: be16(header, 14)?,
        payload: after_ip - claimed as u64,
        wire_len,
        ecn,
        options: Options::parse(header.get(20..claimed.min(header.len()))?),
        cut: header.len() < claimed,
        fragment: first_fragment.map(|id| (id, claimed as u64)),
    }))
}

#[inline]
fn be16(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}
