//! IP and TCP headers of any shape: options, extension headers, fragments, lengths that lie.

use super::link::IpAt;
use super::{FragmentId, IpVersion, Packet, Skip, Tcp, Transport, extension};
use crate::key::Address;

/// The most bytes of IP headers. Real chains have some tens; the bound keeps the scrubber's buffer small.
pub(super) const MAX_LEN: usize = 2048;

/// IP protocol number of TCP.
pub(super) const TCP: u8 = 6;

/// Parses from the IP header on.
pub(super) fn parse(data: &[u8], at: IpAt) -> Result<Packet, Skip> {
    let bytes = data.get(at.start..at.end).ok_or(Skip::Truncated)?;
    match at.version {
        IpVersion::V4 => ipv4(at.start, bytes),
        IpVersion::V6 => ipv6(at.start, bytes),
    }
}

/// An IP packet whose fixed header has been read.
struct Ip<'a> {
    link_len: usize,
    version: IpVersion,
    src: Address,
    dst: Address,
    /// The captured bytes from the IP header on, perhaps with a trailer.
    bytes: &'a [u8],
    /// Where the IP header says that the packet ends; may be past `bytes`.
    end: usize,
}

fn ipv4(link_len: usize, bytes: &[u8]) -> Result<Packet, Skip> {
    let fixed: &[u8; 20] = bytes.first_chunk().ok_or(Skip::Truncated)?;
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    if fixed[0] >> 4 != 4 || header_len < fixed.len() {
        return Err(Skip::Malformed);
    }
    let ip = Ip {
        link_len,
        version: IpVersion::V4,
        src: Address::v4([fixed[12], fixed[13], fixed[14], fixed[15]]),
        dst: Address::v4([fixed[16], fixed[17], fixed[18], fixed[19]]),
        bytes,
        // The kernel hands out super-packets that are too long for the field with a zero.
        end: match u16::from_be_bytes([fixed[2], fixed[3]]) {
            0 => bytes.len(),
            n => usize::from(n),
        },
    };
    ip.need(header_len)?;

    let id = FragmentId { src: ip.src, dst: ip.dst, id: u16::from_be_bytes([fixed[4], fixed[5]]).into() };
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]);
    let more_fragments = fragment & 0x2000 != 0;
    let later = fragment & 0x1fff != 0;
    match fixed[9] {
        TCP if later => Ok(ip.later_fragment(header_len, id)),
        TCP => ip.tcp(header_len, more_fragments.then_some(id)),
        extension::AUTHENTICATION if !later => {
            let (next, ip_len) = ip.extension(extension::AUTHENTICATION, header_len)?;
            if next == TCP { ip.tcp(ip_len, more_fragments.then_some(id)) } else { Err(Skip::NotTcp) }
        }
        _ => Err(Skip::NotTcp),
    }
}

fn ipv6(link_len: usize, bytes: &[u8]) -> Result<Packet, Skip> {
    let fixed: &[u8; 40] = bytes.first_chunk().ok_or(Skip::Truncated)?;
    if fixed[0] >> 4 != 6 {
        return Err(Skip::Malformed);
    }
    let (&src, rest) = fixed[8..].split_first_chunk().ok_or(Skip::Truncated)?;
    let &dst = rest.first_chunk().ok_or(Skip::Truncated)?;
    let ip = Ip {
        link_len,
        version: IpVersion::V6,
        src: Address(src),
        dst: Address(dst),
        bytes,
        // Zero stands for a jumbogram (RFC 2675) or a super-packet.
        end: match u16::from_be_bytes([fixed[4], fixed[5]]) {
            0 => bytes.len(),
            n => fixed.len() + usize::from(n),
        },
    };

    let mut next = fixed[6];
    let mut at = fixed.len();
    let mut fragment_seen = false;
    let mut first_fragment = None;
    while next != TCP {
        if !extension::is_extension(next) {
            return Err(Skip::NotTcp);
        }
        // RFC 8200 section 4.1: hop-by-hop options only in front; one fragment header.
        if (next == extension::HOP_BY_HOP && at != fixed.len()) || (next == extension::FRAGMENT && fragment_seen) {
            return Err(Skip::Malformed);
        }
        let (following, end) = ip.extension(next, at)?;
        if next == extension::FRAGMENT {
            fragment_seen = true;
            let &[_, _, hi, lo, a, b, c, d] = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(Skip::Truncated)?;
            let id = FragmentId { src: ip.src, dst: ip.dst, id: u32::from_be_bytes([a, b, c, d]) };
            let field = u16::from_be_bytes([hi, lo]);
            if field >> 3 != 0 {
                // Only the first fragment tells what follows further extension headers.
                return if following == TCP { Ok(ip.later_fragment(end, id)) } else { Err(Skip::NotTcp) };
            }
            // Offset 0 and no more fragments: an atomic fragment, which is a whole packet (RFC 6946).
            first_fragment = (field & 1 != 0).then_some(id);
        }
        (next, at) = (following, end);
    }
    ip.tcp(at, first_fragment)
}

impl Ip<'_> {
    /// Checks that the packet has `len` bytes and that they were captured.
    fn need(&self, len: usize) -> Result<(), Skip> {
        if len > self.end {
            Err(Skip::Malformed)
        } else if len > self.bytes.len() {
            Err(Skip::Truncated)
        } else {
            Ok(())
        }
    }

    /// The number of the header after the extension header that begins at `at`, and where that begins.
    fn extension(&self, number: u8, at: usize) -> Result<(u8, usize), Skip> {
        self.need(at + 2)?;
        let &[next, units] = self.bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(Skip::Truncated)?;
        let end = at + extension::len(number, units).ok_or(Skip::Malformed)?;
        if end > MAX_LEN {
            return Err(Skip::Malformed);
        }
        self.need(end)?;
        Ok((next, end))
    }

    fn later_fragment(&self, ip_len: usize, id: FragmentId) -> Packet {
        self.packet(ip_len, ip_len, Transport::LaterFragment(id))
    }

    fn tcp(&self, ip_len: usize, first_fragment: Option<FragmentId>) -> Result<Packet, Skip> {
        let fixed_end = ip_len + 20;
        if first_fragment.is_some() && fixed_end > self.end {
            return Err(Skip::TinyFragment);
        }
        self.need(fixed_end)?;
        let fixed: &[u8; 20] = self.bytes.get(ip_len..).and_then(<[u8]>::first_chunk).ok_or(Skip::Truncated)?;
        let claimed = ip_len + usize::from(fixed[12] >> 4) * 4;
        let header_end = if claimed < fixed_end || claimed > self.end {
            // A data offset that cannot be true says nothing of where payload begins: only the fixed part is sure.
            fixed_end
        } else {
            claimed.min(self.bytes.len())
        };
        Ok(self.packet(ip_len, header_end, Transport::Tcp { tcp: tcp_fields(fixed), first_fragment }))
    }

    fn packet(&self, ip_len: usize, header_end: usize, transport: Transport) -> Packet {
        Packet {
            link_len: self.link_len,
            ip: self.version,
            src: self.src,
            dst: self.dst,
            ip_len,
            header_len: self.link_len + header_end,
            transport,
        }
    }
}

/// Reads the fixed part of a TCP header.
#[inline]
pub(super) fn tcp_fields(h: &[u8; 20]) -> Tcp {
    Tcp {
        src_port: u16::from_be_bytes([h[0], h[1]]),
        dst_port: u16::from_be_bytes([h[2], h[3]]),
        seq: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
        ack: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
        flags: h[13],
    }
}
