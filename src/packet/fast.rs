//! The short cut for what nearly every frame is: Ethernet with at most one VLAN tag, IPv4 without options or IPv6 without
//! extension headers, and a whole, plausible TCP header. Anything else is left to the general path.

use super::ip::{TCP, tcp_fields};
use super::{IpVersion, Packet, Transport, be16};
use crate::key::Address;

/// Parses an Ethernet frame of a common shape; `None` says nothing but that it is not of one.
#[inline]
pub(super) fn parse(data: &[u8]) -> Option<Packet> {
    let (link_len, ether_type) = match be16(data, 12)? {
        0x8100 => (18, be16(data, 16)?),
        ether_type => (14, ether_type),
    };
    let ip = data.get(link_len..)?;
    match ether_type {
        0x0800 => ipv4(link_len, ip),
        0x86dd => ipv6(link_len, ip),
        _ => None,
    }
}

#[inline]
fn ipv4(link_len: usize, ip: &[u8]) -> Option<Packet> {
    let (h, rest) = ip.split_first_chunk::<20>()?;
    let tcp = rest.first_chunk::<20>()?;
    // Version 4 with five words of header; neither a first nor a later fragment.
    if h[0] != 0x45 || h[9] != TCP || (h[6] & 0x3f) | h[7] != 0 {
        return None;
    }
    let header_end = h.len() + header_len(tcp)?;
    if header_end > ip.len().min(usize::from(u16::from_be_bytes([h[2], h[3]]))) {
        return None;
    }
    Some(Packet {
        link_len,
        ip: IpVersion::V4,
        src: Address::v4([h[12], h[13], h[14], h[15]]),
        dst: Address::v4([h[16], h[17], h[18], h[19]]),
        ip_len: h.len(),
        header_len: link_len + header_end,
        transport: Transport::Tcp { tcp: tcp_fields(tcp), first_fragment: None },
    })
}

#[inline]
fn ipv6(link_len: usize, ip: &[u8]) -> Option<Packet> {
    let (h, rest) = ip.split_first_chunk::<40>()?;
    let tcp = rest.first_chunk::<20>()?;
    if h[0] >> 4 != 6 || h[6] != TCP {
        return None;
    }
    let tcp_len = header_len(tcp)?;
    if tcp_len > rest.len().min(usize::from(u16::from_be_bytes([h[4], h[5]]))) {
        return None;
    }
    let (src, dst) = h[8..].split_first_chunk::<16>()?;
    Some(Packet {
        link_len,
        ip: IpVersion::V6,
        src: Address(*src),
        dst: Address(*dst.first_chunk()?),
        ip_len: h.len(),
        header_len: link_len + h.len() + tcp_len,
        transport: Transport::Tcp { tcp: tcp_fields(tcp), first_fragment: None },
    })
}

/// The TCP header's length by its data offset, if that is at least the fixed part.
#[inline]
fn header_len(tcp: &[u8; 20]) -> Option<usize> {
    let len = usize::from(tcp[12] >> 4) * 4;
    (len >= tcp.len()).then_some(len)
}
