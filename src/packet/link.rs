//! Link layers: where in a frame the IP packet begins, and which IP it is.

use super::{IpVersion, Skip, be16};
use crate::capture::LinkType;

/// The most bytes of link layer: the longest header (Linux cooked v2), all tags, PPPoE or LLC/SNAP.
pub(super) const MAX_LEN: usize = 20 + 4 * MAX_TAGS + 8;

/// An IP packet's place in its frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct IpAt {
    /// Where it begins.
    pub(super) start: usize,
    /// Where the link layer says that it ends, at most: never past the captured bytes.
    pub(super) end: usize,
    /// What the link layer says it is.
    pub(super) version: IpVersion,
}

/// Finds the IP packet of a frame.
pub(super) fn find_ip(link: LinkType, data: &[u8]) -> Result<IpAt, Skip> {
    match link {
        LinkType::Ethernet => ether_type(data, 14, be16(data, 12).ok_or(Skip::Truncated)?),
        LinkType::Raw => {
            let version = match data.first().ok_or(Skip::Truncated)? >> 4 {
                4 => IpVersion::V4,
                6 => IpVersion::V6,
                _ => return Err(Skip::NotIp),
            };
            Ok(IpAt { start: 0, end: data.len(), version })
        }
        LinkType::Null | LinkType::Loop => address_family(data),
        LinkType::LinuxSll => cooked(data, 16, be16(data, 2), be16(data, 14)),
        LinkType::LinuxSll2 => cooked(data, 20, be16(data, 8), be16(data, 0)),
        LinkType::Other(_) => Err(Skip::UnknownLink),
    }
}

/// Follows VLAN tags and PPPoE from an EtherType whose payload begins at `at`.
fn ether_type(data: &[u8], mut at: usize, mut ether_type: u16) -> Result<IpAt, Skip> {
    for _ in 0..=MAX_TAGS {
        match ether_type {
            IPV4 => return Ok(IpAt { start: at, end: data.len(), version: IpVersion::V4 }),
            IPV6 => return Ok(IpAt { start: at, end: data.len(), version: IpVersion::V6 }),
            VLAN | PROVIDER_BRIDGING | VLAN_DOUBLE => {
                ether_type = be16(data, at + 2).ok_or(Skip::Truncated)?;
                at += 4;
            }
            PPPOE_SESSION => return pppoe(data, at),
            // IEEE 802.3: a length instead of a type. What lies behind it is padding.
            0..=MAX_802_3_LEN => return llc(data, at, data.len().min(at + usize::from(ether_type))),
            _ => return Err(Skip::NotIp),
        }
    }
    Err(Skip::Malformed)
}

/// IEEE 802.2 LLC with SNAP and an Ethernet type (RFC 1042); other LLC carries no IP worth looking for.
fn llc(data: &[u8], at: usize, end: usize) -> Result<IpAt, Skip> {
    const SNAP: [u8; 6] = [0xaa, 0xaa, 0x03, 0, 0, 0];
    let header: &[u8; 8] = data.get(at..end).and_then(<[u8]>::first_chunk).ok_or(Skip::Truncated)?;
    if !header.starts_with(&SNAP) {
        return Err(Skip::NotIp);
    }
    let version = match be16(header, 6) {
        Some(IPV4) => IpVersion::V4,
        Some(IPV6) => IpVersion::V6,
        _ => return Err(Skip::NotIp),
    };
    Ok(IpAt { start: at + header.len(), end, version })
}

/// A PPPoE session frame (RFC 2516 section 4) with an uncompressed PPP protocol field (RFC 1661 section 2).
fn pppoe(data: &[u8], at: usize) -> Result<IpAt, Skip> {
    let header: &[u8; 8] = data.get(at..).and_then(<[u8]>::first_chunk).ok_or(Skip::Truncated)?;
    let &[0x11, 0, _, _, len_hi, len_lo, proto_hi, proto_lo] = header else { return Err(Skip::NotIp) };
    let version = match u16::from_be_bytes([proto_hi, proto_lo]) {
        PPP_IPV4 => IpVersion::V4,
        PPP_IPV6 => IpVersion::V6,
        _ => return Err(Skip::NotIp),
    };
    // The length counts from the PPP protocol field on.
    let end = data.len().min(at + 6 + usize::from(u16::from_be_bytes([len_hi, len_lo])));
    let start = at + header.len();
    if end < start { Err(Skip::Malformed) } else { Ok(IpAt { start, end, version }) }
}

/// Linux cooked capture (LINKTYPE_LINUX_SLL and _SLL2): what the protocol field means depends on the ARPHRD_ type.
fn cooked(data: &[u8], header_len: usize, hardware: Option<u16>, protocol: Option<u16>) -> Result<IpAt, Skip> {
    let (Some(hardware), Some(protocol)) = (hardware, protocol) else { return Err(Skip::Truncated) };
    if data.len() < header_len {
        return Err(Skip::Truncated);
    }
    match (hardware, protocol) {
        (ARPHRD_FRAD | ARPHRD_IEEE80211..=ARPHRD_IEEE80211_RADIOTAP | ARPHRD_NETLINK, _) => Err(Skip::NotIp),
        (_, SLL_LLC) => llc(data, header_len, data.len()),
        (_, 0..=MAX_802_3_LEN) => Err(Skip::NotIp),
        _ => ether_type(data, header_len, protocol),
    }
}

/// BSD loopback: an address family in the capturing machine's byte order, which a file does not tell (LINKTYPE_NULL), or
/// in network order (LINKTYPE_LOOP). The numbers are those of Linux, NetBSD and OpenBSD, FreeBSD, macOS.
fn address_family(data: &[u8]) -> Result<IpAt, Skip> {
    let family = u32::from_be_bytes(*data.first_chunk().ok_or(Skip::Truncated)?);
    let version = match family.min(family.swap_bytes()) {
        2 => IpVersion::V4,
        10 | 24 | 28 | 30 => IpVersion::V6,
        _ => return Err(Skip::NotIp),
    };
    Ok(IpAt { start: 4, end: data.len(), version })
}

/// More tags than any network stacks, so that a frame of nothing but tags is refused soon.
const MAX_TAGS: usize = 8;

// EtherTypes: IEEE 802 numbers at IANA; 0x9100 is the de-facto outer tag from before IEEE 802.1ad.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const PROVIDER_BRIDGING: u16 = 0x88a8;
const VLAN_DOUBLE: u16 = 0x9100;
const PPPOE_SESSION: u16 = 0x8864;
const MAX_802_3_LEN: u16 = 1500;

const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;

/// ETH_P_802_2 (include/uapi/linux/if_ether.h): an LLC header follows.
const SLL_LLC: u16 = 0x0004;
// include/uapi/linux/if_arp.h: types whose payload does not begin with what the protocol field says.
const ARPHRD_FRAD: u16 = 770;
const ARPHRD_IEEE80211: u16 = 801;
const ARPHRD_IEEE80211_RADIOTAP: u16 = 803;
const ARPHRD_NETLINK: u16 = 824;

#[cfg(test)]
mod tests {
    use super::*;

    fn start(link: LinkType, data: &[u8]) -> Result<(usize, IpVersion), Skip> {
        find_ip(link, data).map(|at| (at.start, at.version))
    }

    fn ethernet(rest: &[u8]) -> Vec<u8> {
        [&[2; 12], rest].concat()
    }

    #[test]
    fn every_stack_of_known_tags_is_followed_up_to_the_bound() {
        for tag in [[0x81, 0], [0x88, 0xa8], [0x91, 0]] {
            for count in 0..=MAX_TAGS + 1 {
                let mut rest = [tag[0], tag[1], 0, 7].repeat(count);
                rest.extend([0x08, 0, 0x45]);
                let expected = if count <= MAX_TAGS { Ok((14 + 4 * count, IpVersion::V4)) } else { Err(Skip::Malformed) };
                assert_eq!(start(LinkType::Ethernet, &ethernet(&rest)), expected, "{count} tags");
            }
        }
    }

    #[test]
    fn a_frame_cut_inside_its_link_layer_is_truncated() {
        assert_eq!(start(LinkType::Ethernet, &[0; 13]), Err(Skip::Truncated));
        assert_eq!(start(LinkType::Ethernet, &ethernet(&[0x81, 0, 0, 1, 8])), Err(Skip::Truncated));
        assert_eq!(start(LinkType::LinuxSll, &[0; 15]), Err(Skip::Truncated));
        assert_eq!(start(LinkType::LinuxSll2, &[8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]), Err(Skip::Truncated));
        assert_eq!(start(LinkType::Null, &[2, 0, 0]), Err(Skip::Truncated));
        assert_eq!(start(LinkType::Raw, &[]), Err(Skip::Truncated));
    }

    #[test]
    fn arp_mpls_and_unknown_links_are_not_ip() {
        for ether_type in [0x0806u16, 0x8847, 0x88cc, 0x88e5, 1501, 1535] {
            assert_eq!(start(LinkType::Ethernet, &ethernet(&ether_type.to_be_bytes())), Err(Skip::NotIp));
        }
        assert_eq!(start(LinkType::Other(105), &[0; 64]), Err(Skip::UnknownLink));
        assert_eq!(start(LinkType::Raw, &[0x10]), Err(Skip::NotIp));
    }

    #[test]
    fn a_pppoe_session_carries_ip_up_to_its_own_length() {
        let frame = ethernet(&[0x88, 0x64, 0x11, 0, 0, 9, 0, 22, 0, 0x21, 0x45, 0, 0, 0]);
        assert_eq!(start(LinkType::Ethernet, &frame), Ok((22, IpVersion::V4)));
        let padded = [&frame[..], &[0; 60]].concat();
        assert_eq!(find_ip(LinkType::Ethernet, &padded).unwrap().end, 14 + 6 + 22);
        let v6 = ethernet(&[0x88, 0x64, 0x11, 0, 0, 9, 0, 50, 0, 0x57]);
        assert_eq!(start(LinkType::Ethernet, &v6), Ok((22, IpVersion::V6)));
        let lcp = ethernet(&[0x88, 0x64, 0x11, 0, 0, 9, 0, 6, 0xc0, 0x21]);
        assert_eq!(start(LinkType::Ethernet, &lcp), Err(Skip::NotIp));
        let short = ethernet(&[0x88, 0x64, 0x11, 0, 0, 9, 0, 1, 0, 0x21]);
        assert_eq!(start(LinkType::Ethernet, &short), Err(Skip::Malformed));
    }

    #[test]
    fn llc_with_snap_carries_ip_up_to_the_802_3_length() {
        let frame = ethernet(&[0, 30, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0, 0x45, 0, 0, 0]);
        assert_eq!(start(LinkType::Ethernet, &frame), Ok((22, IpVersion::V4)));
        let padded = [&frame[..], &[0; 60]].concat();
        assert_eq!(find_ip(LinkType::Ethernet, &padded).unwrap().end, 14 + 30);
        assert_eq!(start(LinkType::Ethernet, &ethernet(&[0, 7, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0])), Err(Skip::Truncated));
        let spanning_tree = ethernet(&[0, 38, 0x42, 0x42, 3, 0, 0, 0, 0, 0]);
        assert_eq!(start(LinkType::Ethernet, &spanning_tree), Err(Skip::NotIp));
    }

    #[test]
    fn the_cooked_protocol_field_counts_only_where_the_hardware_type_gives_it_a_meaning() {
        let v1 = |hardware: u16, protocol: u16| {
            let mut h = [0u8; 17];
            h[2..4].copy_from_slice(&hardware.to_be_bytes());
            h[14..16].copy_from_slice(&protocol.to_be_bytes());
            start(LinkType::LinuxSll, &h)
        };
        let v2 = |hardware: u16, protocol: u16| {
            let mut h = [0u8; 21];
            h[0..2].copy_from_slice(&protocol.to_be_bytes());
            h[8..10].copy_from_slice(&hardware.to_be_bytes());
            start(LinkType::LinuxSll2, &h)
        };
        for hardware in [1, 512, 772, 778, 65534] {
            assert_eq!(v1(hardware, 0x0800), Ok((16, IpVersion::V4)));
            assert_eq!(v2(hardware, 0x86dd), Ok((20, IpVersion::V6)));
        }
        for hardware in [770, 801, 802, 803, 824] {
            assert_eq!(v1(hardware, 0x0800), Err(Skip::NotIp));
            assert_eq!(v2(hardware, 0x0800), Err(Skip::NotIp));
        }
        assert_eq!(v1(1, 0x0001), Err(Skip::NotIp));
        assert_eq!(v1(1, 0x0806), Err(Skip::NotIp));
    }

    #[test]
    fn a_cooked_frame_may_carry_a_vlan_tag() {
        let mut frame = vec![0u8; 16];
        frame[3] = 1;
        frame[14..].copy_from_slice(&[0x81, 0]);
        frame.extend([0, 7, 0x86, 0xdd, 0x60]);
        assert_eq!(start(LinkType::LinuxSll, &frame), Ok((20, IpVersion::V6)));
    }

    #[test]
    fn the_loopback_family_is_read_in_either_byte_order() {
        for link in [LinkType::Null, LinkType::Loop] {
            for (family, expected) in [
                (2u32, Ok((4, IpVersion::V4))),
                (10, Ok((4, IpVersion::V6))),
                (24, Ok((4, IpVersion::V6))),
                (28, Ok((4, IpVersion::V6))),
                (30, Ok((4, IpVersion::V6))),
                (7, Err(Skip::NotIp)),
            ] {
                assert_eq!(start(link, &family.to_be_bytes()), expected);
                assert_eq!(start(link, &family.to_le_bytes()), expected);
            }
        }
    }
}
