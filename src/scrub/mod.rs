//! Removes what must not be archived: payload always, addresses as the policy says.
//!
//! The only way to a [`Scrubbed`] is [`Scrubber::scrub`], and a flow's segment takes nothing else, so a byte that was not
//! scrubbed cannot reach a file.

use crate::capture::LinkType;
use crate::key::Address;
use crate::packet::{IpVersion, MAX_HEADER_LEN, Packet, Transport, extension};

mod anonymize;
mod cryptopan;
mod options;
#[cfg(test)]
mod properties;

pub use cryptopan::CryptoPan;

/// What to remove beside payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubPolicy {
    /// How addresses are masked.
    pub anonymize: Anonymize,
    /// Whether files keep the link layer of the capture instead of becoming Ethernet.
    pub keep_linktype: bool,
    /// Zeroes hardware addresses: Ethernet's two, Linux cooked's one (`-scrub=mac`).
    pub mac: bool,
    /// Zeroes the identification of IPv4 and of IPv6 fragments (`-scrub=ipid`), and the IPv6 flow label.
    pub ip_id: bool,
    /// Zeroes the TCP timestamp option's values (`-scrub=tsopt`), and with them the TCP checksum, which would tell their sum.
    pub tcp_timestamps: bool,
    /// Zeroes the TCP checksum (`-scrub=tcpsum`), which gives a payload of one or two bytes back, and 16 bits of any other,
    /// and the like in TCP options. Hidden addresses clear them in any case.
    pub tcp_checksums: bool,
}

impl ScrubPolicy {
    /// Whether it zeroes fields, whatever the addresses are.
    pub fn zeroes(&self) -> bool {
        self.mac || self.ip_id || self.tcp_timestamps || self.tcp_checksums
    }
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
        if hide.src || hide.dst || self.policy.zeroes() {
            self.rewrite(link, link_len, ip_end - ip_start, packet, hide);
        }
        Scrubbed { wire_len: wire_len.max(self.buffer.len() as u32), bytes: &self.buffer }
    }

    /// As [`Self::scrub`] with hidden addresses, of which those that `hide` says become `to`, source first, instead of losing
    /// bits. All else that holds an address or was computed from one is removed as there.
    pub fn replace(
        &mut self,
        link: LinkType,
        frame: &[u8],
        wire_len: u32,
        packet: &Packet,
        hide: Hide,
        to: [Address; 2],
    ) -> Scrubbed<'_> {
        let wire_len = self.scrub(link, frame, wire_len, packet, hide).wire_len();
        let link_len = if link == self.file_link(link) { packet.link_len } else { SYNTHETIC_LEN };
        if self.policy.anonymize == Anonymize::Netblock
            && let Some(ip) = self.buffer.get_mut(link_len..)
        {
            let (places, len) = if packet.ip == IpVersion::V4 { ([12, 16], 4) } else { ([8, 24], 16) };
            for ((at, to), hidden) in places.into_iter().zip(to).zip([hide.src, hide.dst]) {
                if let (true, Some(place)) = (hidden, ip.get_mut(at..at + len)) {
                    // An IPv4 address is the end of its mapped form.
                    place.copy_from_slice(&to.0[16 - len..]);
                }
            }
            if packet.ip == IpVersion::V4 {
                anonymize::fill_ipv4_checksum(ip);
            }
        }
        Scrubbed { wire_len, bytes: &self.buffer }
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
        if self.policy.tcp_checksums {
            anonymize::tcp_checksum(tcp);
        }
        if self.policy.ip_id {
            zero_ip_id(packet.ip, ip);
        }
        if hide.src || hide.dst {
            anonymize::link_layer(link, link_header, hide);
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

/// Zeroes the IPv4 identification, or the IPv6 flow label and the identification of a fragment.
fn zero_ip_id(version: IpVersion, ip: &mut [u8]) {
    match (version, ip) {
        (IpVersion::V4, [_, _, _, _, hi, lo, ..]) => (*hi, *lo) = (0, 0),
        (IpVersion::V6, [_, top, mid, low, _, _, next, rest @ ..]) => {
            (*top, *mid, *low) = (*top & 0xf0, 0, 0);
            extension::walk(*next, rest.get_mut(33..).unwrap_or_default(), |number, header| {
                if number == extension::FRAGMENT {
                    header[4..].fill(0);
                }
            });
        }
        _ => {}
    }
}

const SYNTHETIC_LEN: usize = 14;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::parse;
    use crate::packet::testing::{Extension, Fragment, Hidden, Link, Piece, Spec};

    const BOTH: Hide = Hide { src: true, dst: true };
    const NETBLOCK: ScrubPolicy = ScrubPolicy {
        anonymize: Anonymize::Netblock,
        keep_linktype: false,
        mac: false,
        ip_id: false,
        tcp_timestamps: false,
        tcp_checksums: false,
    };

    fn frame(spec: &Spec) -> Vec<u8> {
        spec.build(Hidden { secret: 1, payload: 0xa5 }).0
    }

    fn scrub(policy: ScrubPolicy, link: LinkType, frame: &[u8], hide: Hide) -> Vec<u8> {
        let packet = parse(link, frame).unwrap();
        Scrubber::new(policy).scrub(link, frame, 1514, &packet, hide).bytes().to_vec()
    }

    /// Where two runs of bytes of one length differ.
    fn differences(a: &[u8], b: &[u8]) -> Vec<usize> {
        assert_eq!(a.len(), b.len());
        (0..a.len()).filter(|i| a[*i] != b[*i]).collect()
    }

    fn zero_within(a: &[u8], range: std::ops::Range<usize>) -> bool {
        a[range].iter().all(|b| *b == 0)
    }

    #[test]
    fn only_the_hidden_side_loses_its_last_8_or_80_bits() {
        let v4 = frame(&Spec::plain(IpVersion::V4));
        let src = scrub(NETBLOCK, LinkType::Ethernet, &v4, Hide { src: true, dst: false });
        assert_eq!((&src[26..29], src[29]), (&v4[26..29], 0));
        assert_eq!(src[30..34], v4[30..34]);
        let dst = scrub(NETBLOCK, LinkType::Ethernet, &v4, Hide { src: false, dst: true });
        assert_eq!(dst[26..30], v4[26..30]);
        assert_eq!((&dst[30..33], dst[33]), (&v4[30..33], 0));

        let v6 = frame(&Spec::plain(IpVersion::V6));
        let src = scrub(NETBLOCK, LinkType::Ethernet, &v6, Hide { src: true, dst: false });
        assert_eq!(src[22..28], v6[22..28]);
        assert!(zero_within(&src, 28..38));
        assert_eq!(src[38..54], v6[38..54]);
    }

    #[test]
    fn hiding_clears_the_tcp_checksum_even_where_masking_changes_nothing() {
        let mut data = frame(&Spec::plain(IpVersion::V4));
        data[29] = 0;
        data[24..26].copy_from_slice(&[0xde, 0xad]);
        let kept = scrub(NETBLOCK, LinkType::Ethernet, &data, Hide { src: true, dst: false });
        assert_eq!(kept[50..52], [0, 0]);
        assert_ne!(kept[24..26], data[24..26], "a wrong IPv4 checksum does not survive");
    }

    #[test]
    fn a_later_fragment_is_masked_too() {
        let spec = Spec { extensions: vec![Extension::Fragment(Fragment::Later)], ..Spec::plain(IpVersion::V4) };
        let kept = scrub(NETBLOCK, LinkType::Ethernet, &frame(&spec), BOTH);
        assert_eq!(kept.len(), 34);
        assert_eq!((kept[29], kept[33]), (0, 0));
    }

    #[test]
    fn extension_headers_lose_all_that_may_hold_an_address() {
        let home_address = vec![Piece::Open(vec![0xc9, 16]), Piece::Secret(16), Piece::Open(vec![5, 2, 0, 7])];
        let spec = Spec {
            extensions: vec![
                Extension::Options { number: 60, pieces: home_address },
                Extension::Routing { segments: 2 },
                Extension::Authentication { words: 3 },
                Extension::Opaque { number: 135, units: 1 },
            ],
            ..Spec::plain(IpVersion::V6)
        };
        let data = frame(&spec);
        let kept = scrub(NETBLOCK, LinkType::Ethernet, &data, BOTH);
        let options = 54;
        assert_eq!(kept[options..options + 4], [43, 2, 0xc9, 16]);
        assert!(zero_within(&kept, options + 4..options + 20));
        assert_eq!(kept[options + 20..options + 24], [5, 2, 0, 7]);
        let routing = options + 24;
        assert_eq!(kept[routing..routing + 4], [51, 4, 4, 2]);
        assert!(zero_within(&kept, routing + 4..routing + 40));
        let authentication = routing + 40;
        assert_eq!(kept[authentication..authentication + 12], data[authentication..authentication + 12]);
        assert!(zero_within(&kept, authentication + 12..authentication + 24));
        let mobility = authentication + 24;
        assert_eq!(kept[mobility..mobility + 2], [6, 1]);
        assert!(zero_within(&kept, mobility + 2..mobility + 16));
    }

    #[test]
    fn an_ipv4_authentication_header_loses_its_check_value() {
        let spec = Spec { extensions: vec![Extension::Authentication { words: 3 }], ..Spec::plain(IpVersion::V4) };
        let kept = scrub(NETBLOCK, LinkType::Ethernet, &frame(&spec), BOTH);
        assert_eq!(kept[34..36], [6, 4]);
        assert!(zero_within(&kept, 46..58));
    }

    #[test]
    fn the_hardware_address_of_a_hidden_end_is_hidden_with_it() {
        for version in [IpVersion::V4, IpVersion::V6] {
            let data = frame(&Spec { link: Link::Ethernet { tags: vec![0x8100] }, ..Spec::plain(version) });
            for hide in [Hide { src: true, dst: false }, Hide { src: false, dst: true }, BOTH] {
                let kept = scrub(NETBLOCK, LinkType::Ethernet, &data, hide);
                for (address, hidden) in [(0..6, hide.dst), (6..12, hide.src)] {
                    assert_eq!(zero_within(&kept, address.clone()), hidden);
                    assert!(hidden || kept[address.clone()] == data[address]);
                }
                assert_eq!(kept[12..18], data[12..18], "the tag stays");
            }
        }
    }

    #[test]
    fn a_cooked_address_is_the_senders() {
        let keep = ScrubPolicy { keep_linktype: true, ..NETBLOCK };
        for v2 in [false, true] {
            let at = if v2 { 12 } else { 6 };
            let spec = Spec { link: Link::Cooked { v2, address_len: 6 }, ..Spec::plain(IpVersion::V4) };
            let of = |hide| scrub(keep, spec.link_type(), &frame(&spec), hide)[at..at + 8].to_vec();
            assert_eq!(of(Hide { src: true, dst: false }), [0; 8]);
            assert_eq!(of(Hide { src: false, dst: true }), [0x52, 0x54, 0, 1, 2, 3, 0, 0]);
        }
    }

    #[test]
    fn a_cooked_address_that_is_none_of_six_bytes_is_hidden() {
        let keep = ScrubPolicy { keep_linktype: true, ..NETBLOCK };
        for v2 in [false, true] {
            let at = if v2 { 12 } else { 6 };
            let of = |address_len| {
                let spec = Spec { link: Link::Cooked { v2, address_len }, ..Spec::plain(IpVersion::V4) };
                scrub(keep, spec.link_type(), &frame(&spec), Hide { src: false, dst: true })[at..at + 8].to_vec()
            };
            assert_eq!(of(4), [0; 8]);
            assert_eq!(of(6), [0x52, 0x54, 0, 1, 2, 3, 0, 0]);
        }
    }

    #[test]
    fn links_become_ethernet_unless_they_are_to_be_kept() {
        let spec = Spec { link: Link::Cooked { v2: false, address_len: 6 }, ..Spec::plain(IpVersion::V6) };
        let data = frame(&spec);
        let packet = parse(LinkType::LinuxSll, &data).unwrap();
        let mut scrubber = Scrubber::new(ScrubPolicy::default());
        let scrubbed = scrubber.scrub(LinkType::LinuxSll, &data, 1516, &packet, BOTH);
        assert_eq!(scrubbed.bytes()[..14], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x86, 0xdd]);
        assert_eq!(scrubbed.bytes()[14..], data[16..packet.header_len]);
        assert_eq!(scrubbed.wire_len(), 1514);
        let shorter_than_kept = scrubber.scrub(LinkType::LinuxSll, &data, 10, &packet, BOTH);
        assert_eq!(shorter_than_kept.wire_len() as usize, shorter_than_kept.bytes().len());
    }

    #[test]
    fn hardware_addresses_are_zeroed_on_request() {
        let policy = ScrubPolicy { mac: true, keep_linktype: true, ..ScrubPolicy::default() };
        let data = frame(&Spec::plain(IpVersion::V4));
        let kept = scrub(policy, LinkType::Ethernet, &data, BOTH);
        assert!(zero_within(&kept, 0..12));
        assert_eq!(kept[12..], data[12..66]);
        for (v2, range) in [(false, 6..14), (true, 12..20)] {
            let spec = Spec { link: Link::Cooked { v2, address_len: 6 }, ..Spec::plain(IpVersion::V4) };
            let data = frame(&spec);
            let kept = scrub(policy, spec.link_type(), &data, BOTH);
            assert!(zero_within(&kept, range.clone()));
            assert!(differences(&kept, &data[..kept.len()]).iter().all(|i| range.contains(i)));
        }
    }

    #[test]
    fn identifications_and_the_ipv6_flow_label_are_zeroed_on_request() {
        let policy = ScrubPolicy { ip_id: true, ..ScrubPolicy::default() };
        let v4 = frame(&Spec::plain(IpVersion::V4));
        let kept = scrub(policy, LinkType::Ethernet, &v4, BOTH);
        assert_eq!(kept[18..20], [0, 0]);
        // Only the identification and the header checksum: the TCP checksum covers neither.
        assert_eq!(differences(&kept, &v4[..66]), [18, 19, 24, 25]);
        let mut v6 = frame(&Spec::plain(IpVersion::V6));
        v6[14] = 0x6b;
        let kept = scrub(policy, LinkType::Ethernet, &v6, BOTH);
        assert_eq!(kept[14..18], [0x6b, 0, 0, 0]);
        assert_eq!(differences(&kept, &v6[..86]), [15, 16, 17]);
        let extensions =
            vec![Extension::Options { number: extension::DESTINATION, pieces: vec![] }, Extension::Fragment(Fragment::First)];
        let fragment = frame(&Spec { extensions, ..Spec::plain(IpVersion::V6) });
        let kept = scrub(policy, LinkType::Ethernet, &fragment, BOTH);
        assert_eq!(fragment[66..70], [0, 0, 0x12, 0x34]);
        assert_eq!(differences(&kept, &fragment[..kept.len()]), [15, 16, 17, 68, 69]);
    }

    #[test]
    fn tcp_checksums_are_zeroed_on_request_and_nothing_else_with_them() {
        let policy = ScrubPolicy { tcp_checksums: true, ..ScrubPolicy::default() };
        for (version, at) in [(IpVersion::V4, 50), (IpVersion::V6, 70)] {
            let mut data = frame(&Spec::plain(version));
            data[at..at + 2].copy_from_slice(&[0xca, 0xfe]);
            let kept = scrub(policy, LinkType::Ethernet, &data, Hide::default());
            assert_eq!(differences(&kept, &data[..kept.len()]), [at, at + 1]);
            assert_eq!(kept[at..at + 2], [0, 0]);
        }
    }

    #[test]
    fn sums_over_the_payload_in_tcp_options_go_with_the_checksum() {
        let policy = ScrubPolicy { tcp_checksums: true, ..ScrubPolicy::default() };
        let numbers = [1, 2, 3, 4, 5, 6, 7, 8];
        // Acknowledgement and sequence number of 4 and of 8 bytes, the subflow's of 4, a length of 2, a checksum of 2.
        for (flags, len) in [(0x05, 18), (0x07, 22), (0x0d, 22), (0x0f, 26), (0x04, 14)] {
            let sum = vec![0xbe, 0xef];
            let mapping = [&[30, len + 2, 0x20, flags][..], &numbers.repeat(4)[..usize::from(len) - 4], &sum].concat();
            let mut data = frame(&Spec { tcp_options: vec![Piece::Open(mapping.clone())], ..Spec::plain(IpVersion::V4) });
            data[50..52].fill(0);
            let end = 54 + mapping.len();
            for (policy, hide) in [(policy, Hide::default()), (NETBLOCK, Hide { src: true, dst: false })] {
                let kept = scrub(policy, LinkType::Ethernet, &data, hide);
                assert_eq!(differences(&kept[54..], &data[54..kept.len()]), [end - 56, end - 55], "{flags:#x}");
            }
            let without = [&[30, len, 0x20, flags][..], &mapping[4..usize::from(len)]].concat();
            let data = frame(&Spec { tcp_options: vec![Piece::Open(without.clone())], ..Spec::plain(IpVersion::V4) });
            assert_eq!(scrub(policy, LinkType::Ethernet, &data, Hide::default())[54..][..without.len()], without);
        }
        for option in [&[15, 6, 1, 2, 3, 4][..], &[18, 3, 9], &[&[30, 24, 1, 0x81][..], &[7; 20]].concat()] {
            let data = frame(&Spec { tcp_options: vec![Piece::Open(option.to_vec())], ..Spec::plain(IpVersion::V4) });
            let kept = &scrub(policy, LinkType::Ethernet, &data, Hide::default())[54..][..option.len()];
            let open = if option[0] == 30 { 22 } else { 2 };
            assert_eq!((&kept[..open], zero_within(kept, open..option.len())), (&option[..open], true));
        }
    }

    #[test]
    fn tcp_timestamps_are_zeroed_on_request_and_the_checksum_with_them() {
        let policy = ScrubPolicy { tcp_timestamps: true, ..ScrubPolicy::default() };
        let data = frame(&Spec::plain(IpVersion::V4));
        let kept = scrub(policy, LinkType::Ethernet, &data, BOTH);
        assert_eq!(kept[54..66], [1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(kept[50..52], [0, 0]);
        let cut = scrub(policy, LinkType::Ethernet, &data[..62], BOTH);
        assert_eq!(cut[54..], [1, 1, 0, 0, 0, 0, 0, 0], "half an option is half a timestamp");
        let without = frame(&Spec { tcp_options: vec![Piece::Open(vec![2, 4, 5, 180])], ..Spec::plain(IpVersion::V4) });
        assert_eq!(scrub(policy, LinkType::Ethernet, &without, BOTH), without[..58]);
    }
}
