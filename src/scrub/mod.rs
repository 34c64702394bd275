//! Removes what must not be archived: payload always, addresses as the policy says.
//!
//! The only way to a [`Scrubbed`] is [`Scrubber::scrub`], and a flow's segment takes nothing else, so a byte that was not
//! scrubbed cannot reach a file.

use crate::capture::LinkType;
use crate::packet::{IpVersion, MAX_HEADER_LEN, Packet, Transport};

mod anonymize;
mod options;

/// What to remove beside payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubPolicy {
    /// How addresses are masked.
    pub anonymize: Anonymize,
    /// Whether files keep the link layer of the capture instead of becoming Ethernet.
    pub keep_linktype: bool,
    /// Zeroes hardware addresses: Ethernet's two, Linux cooked's one (`-scrub=mac`).
    pub mac: bool,
    /// Zeroes the IPv4 identification (`-scrub=ipid`) and the IPv6 flow label.
    pub ip_id: bool,
    /// Zeroes the TCP timestamp option's values (`-scrub=tsopt`), and with them the TCP checksum, which would tell their sum.
    pub tcp_timestamps: bool,
}

/// How addresses are masked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Anonymize {
    /// Addresses are kept.
    #[default]
    None,
    /// IPv4 addresses lose their last 8 bits, IPv6 addresses their last 80 (/48).
    Netblock,
}

/// Which of a packet's addresses are hidden: not those of this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hide {
    /// Hide the source address.
    pub src: bool,
    /// Hide the destination address.
    pub dst: bool,
}

/// Header bytes of one packet that may be archived.
#[derive(Clone, Copy, Debug)]
pub struct Scrubbed<'a> {
    bytes: &'a [u8],
    wire_len: u32,
}

impl<'a> Scrubbed<'a> {
    /// The bytes to archive.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The packet's length on the wire, corrected by what the link layer gained or lost.
    pub fn wire_len(&self) -> u32 {
        self.wire_len
    }
}

/// Scrubs packets into a buffer of its own.
#[derive(Debug)]
pub struct Scrubber {
    policy: ScrubPolicy,
    /// Reused from packet to packet, so that scrubbing does not allocate.
    buffer: Vec<u8>,
}

impl Scrubber {
    /// A scrubber for a policy.
    pub fn new(policy: ScrubPolicy) -> Self {
        Self { policy, buffer: Vec::with_capacity(SYNTHETIC_LEN + MAX_HEADER_LEN) }
    }

    /// Copies the packet's headers, without payload and with addresses masked.
    ///
    /// `frame` is the whole captured frame that `packet` was parsed from; `wire_len` its length on the wire.
    #[inline]
    pub fn scrub(&mut self, link: LinkType, frame: &[u8], wire_len: u32, packet: &Packet, hide: Hide) -> Scrubbed<'_> {
        // The clamps hold for every packet that was parsed from this frame; for any other they keep this free of panics.
        let header_end = packet.header_len.min(frame.len());
        let ip_start = packet.link_len.min(header_end);
        let ip_end = ip_start.saturating_add(packet.ip_len).min(header_end);

        self.buffer.clear();
        let link_len = if link == self.file_link(link) {
            self.buffer.extend_from_slice(&frame[..header_end]);
            ip_start
        } else {
            self.buffer.extend_from_slice(synthetic_ethernet(packet.ip));
            self.buffer.extend_from_slice(&frame[ip_start..header_end]);
            SYNTHETIC_LEN
        };
        // Both lengths of link layer are below 100.
        let wire_len = wire_len.saturating_sub(ip_start as u32).saturating_add(link_len as u32);

        let hide = match self.policy.anonymize {
            Anonymize::None => Hide::default(),
            Anonymize::Netblock => hide,
        };
        if hide.src || hide.dst || self.policy.mac || self.policy.ip_id || self.policy.tcp_timestamps {
            self.rewrite(link, link_len, ip_end - ip_start, packet, hide);
        }
        Scrubbed { wire_len: wire_len.max(self.buffer.len() as u32), bytes: &self.buffer }
    }

    /// The link type that files of frames of this link type have.
    #[inline]
    pub fn file_link(&self, link: LinkType) -> LinkType {
        if self.policy.keep_linktype { link } else { LinkType::Ethernet }
    }

    /// Applies the policy to the copied headers.
    fn rewrite(&mut self, link: LinkType, link_len: usize, ip_len: usize, packet: &Packet, hide: Hide) {
        let link = self.file_link(link);
        let (link_header, ip) = self.buffer.split_at_mut(link_len);
        let (ip, tcp) = ip.split_at_mut(ip_len);
        let tcp = if matches!(packet.transport, Transport::Tcp { .. }) { tcp } else { &mut [] };

        if self.policy.mac {
            hardware_addresses(link, link_header).fill(0);
        }
        if self.policy.tcp_timestamps {
            anonymize::tcp_timestamps(tcp);
        }
        if self.policy.ip_id {
            zero_ip_id(packet.ip, ip);
        }
        if hide.src || hide.dst {
            anonymize::link_layer(link, link_header, packet, hide);
            anonymize::ip(packet.ip, ip, hide);
            anonymize::tcp(tcp);
        }
        if packet.ip == IpVersion::V4 && (self.policy.ip_id || hide.src || hide.dst) {
            anonymize::fill_ipv4_checksum(ip);
        }
    }
}

/// An Ethernet header without addresses.
fn synthetic_ethernet(ip: IpVersion) -> &'static [u8; SYNTHETIC_LEN] {
    match ip {
        IpVersion::V4 => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x00],
        IpVersion::V6 => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x86, 0xdd],
    }
}

/// The part of a link layer header that holds hardware addresses; empty if it has none.
fn hardware_addresses(link: LinkType, header: &mut [u8]) -> &mut [u8] {
    let range = match link {
        LinkType::Ethernet => 0..12,
        LinkType::LinuxSll => 6..14,
        LinkType::LinuxSll2 => 12..20,
        LinkType::Null | LinkType::Loop | LinkType::Raw | LinkType::Other(_) => 0..0,
    };
    header.get_mut(range).unwrap_or_default()
}

/// Zeroes the IPv4 identification or the IPv6 flow label.
fn zero_ip_id(version: IpVersion, ip: &mut [u8]) {
    match (version, ip) {
        (IpVersion::V4, [_, _, _, _, hi, lo, ..]) => (*hi, *lo) = (0, 0),
        (IpVersion::V6, [_, top, mid, low, ..]) => (*top, *mid, *low) = (*top & 0xf0, 0, 0),
        _ => {}
    }
}

const SYNTHETIC_LEN: usize = 14;
