//! The parser against itself and against etherparse, which shares no code with it.

use etherparse::{IpNumber, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, TcpHeaderSlice};
use proptest::prelude::*;

use super::testing::{Hidden, Link, Spec, any_spec};
use super::{FragmentId, IpVersion, MAX_HEADER_LEN, Packet, Transport, be16, parse, parse_any};
use crate::capture::LinkType;
use crate::key::Address;

/// What etherparse finds in an Ethernet frame, in our terms. The outer `None`: the frame is of a kind that the two
/// treat differently on purpose.
fn oracle(data: &[u8]) -> Option<Option<Packet>> {
    let Ok(sliced) = LaxSlicedPacket::from_ethernet(data) else { return Some(None) };
    let tags = sliced.link_exts.iter().filter(|e| matches!(e, LaxLinkExtSlice::Vlan(_))).count();
    if tags != sliced.link_exts.len() {
        return None;
    }
    let link_len = 14 + 4 * tags;
    let ether_type = match sliced.link_exts.last() {
        Some(LaxLinkExtSlice::Vlan(tag)) => tag.ether_type().0,
        _ => be16(data, 12)?,
    };
    // PPPoE, LLC, and a stack of tags as deep as etherparse goes.
    if ether_type == 0x8864 || ether_type <= 1500 || tags >= LaxSlicedPacket::LINK_EXTS_CAP {
        return None;
    }
    // etherparse trusts the version field, we want both to say the same.
    let version_field = data.get(link_len).map(|b| b >> 4);
    let ours = match ether_type {
        0x0800 => 4,
        0x86dd => 6,
        _ => return Some(None),
    };
    if version_field != Some(ours) {
        return Some(None);
    }
    if sliced.stop_err.as_ref().is_some_and(|(_, layer)| *layer != etherparse::err::Layer::TcpHeader) {
        return Some(None);
    }
    let captured = data.len() - link_len;
    let (version, src, dst, payload, end, fragment) = match sliced.net? {
        LaxNetSlice::Ipv4(ip) => {
            let h = ip.header();
            let header_len = usize::from(h.ihl()) * 4;
            let end = match usize::from(h.total_len()) {
                0 => captured,
                n if n < header_len => return Some(None),
                n => n,
            };
            let (src, dst) = (Address::v4(h.source()), Address::v4(h.destination()));
            let id = FragmentId { src, dst, id: h.identification().into() };
            let offset = h.fragments_offset().value();
            if offset != 0 && h.protocol() != IpNumber::TCP {
                return Some(None);
            }
            (IpVersion::V4, src, dst, ip.payload().clone(), end, (id, offset, h.more_fragments()))
        }
        LaxNetSlice::Ipv6(ip) => {
            let h = ip.header();
            let end = match usize::from(h.payload_length()) {
                0 => captured,
                n => 40 + n,
            };
            let (src, dst) = (Address(h.source()), Address(h.destination()));
            let mut fragments = ip.extensions().clone().into_iter().filter_map(|e| match e {
                etherparse::Ipv6ExtensionSlice::Fragment(f) => Some(f.to_header()),
                _ => None,
            });
            let fragment = fragments.next();
            if fragments.next().is_some() {
                return None;
            }
            let (id, offset, more) =
                fragment.map_or((0, 0, false), |f| (f.identification, f.fragment_offset.value(), f.more_fragments));
            // etherparse walks on behind a later fragment's header, where there is payload.
            if offset != 0 {
                return None;
            }
            (IpVersion::V6, src, dst, ip.payload().clone(), end, (FragmentId { src, dst, id }, offset, more))
        }
        LaxNetSlice::Arp(_) => return Some(None),
    };
    if payload.ip_number != IpNumber::TCP {
        // Mobility and its like are extension headers for us.
        return if matches!(payload.ip_number.0, 135 | 139 | 140) { None } else { Some(None) };
    }
    let ip_len = payload.payload.as_ptr() as usize - data.as_ptr() as usize - link_len;
    let packet =
        |header_end, transport| Packet { link_len, ip: version, src, dst, ip_len, header_len: link_len + header_end, transport };
    let (id, offset, more) = fragment;
    if offset != 0 {
        return Some(Some(packet(ip_len, Transport::LaterFragment(id))));
    }
    // etherparse stops where the header is not whole; its fixed part, read alone, has a data offset of 5 for the purpose.
    let Some(&fixed) = payload.payload.first_chunk::<20>() else { return Some(None) };
    let claimed = ip_len + usize::from(fixed[12] >> 4) * 4;
    let mut alone = fixed;
    alone[12] = 0x50;
    let h = TcpHeaderSlice::from_slice(&alone).ok()?;
    let header_end =
        if claimed < ip_len + 20 || claimed > end { ip_len + 20 } else { claimed.min(ip_len + payload.payload.len()) };
    let tcp = super::Tcp {
        src_port: h.source_port(),
        dst_port: h.destination_port(),
        seq: h.sequence_number(),
        ack: h.acknowledgment_number(),
        flags: fixed[13],
    };
    Some(Some(packet(header_end, Transport::Tcp { tcp, first_fragment: more.then_some(id) })))
}

fn check_against_oracle(data: &[u8]) -> Result<(), TestCaseError> {
    if let Some(expected) = oracle(data) {
        prop_assert_eq!(parse(LinkType::Ethernet, data).ok(), expected);
    }
    Ok(())
}

fn any_link_type() -> impl Strategy<Value = LinkType> {
    prop::sample::select(vec![
        LinkType::Ethernet,
        LinkType::Null,
        LinkType::Loop,
        LinkType::Raw,
        LinkType::LinuxSll,
        LinkType::LinuxSll2,
        LinkType::Other(147),
    ])
}

/// A frame with some bytes changed, mostly within the headers, and perhaps cut.
fn mutated() -> impl Strategy<Value = (LinkType, Vec<u8>)> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (any_spec(), changes, prop::option::of(any::<prop::sample::Index>())).prop_map(|(spec, changes, cut)| {
        let (mut frame, header_len) = spec.build(Hidden { secret: 1, payload: 0x45 });
        for (at, value) in changes {
            let at = at.index(header_len);
            frame[at] = value;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len() + 1));
        }
        (spec.link_type(), frame)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_frame_is_headers_up_to_the_byte_where_its_builder_put_payload(spec in any_spec()) {
        let (frame, header_len) = spec.build(Hidden { secret: 7, payload: 0xa5 });
        let packet = parse(spec.link_type(), &frame);
        prop_assert_eq!(packet.map(|p| p.header_len), Ok(header_len));
        let transport = packet.map(|p| p.transport);
        if spec.is_later_fragment() {
            prop_assert!(matches!(transport, Ok(Transport::LaterFragment(_))));
        } else {
            let Ok(Transport::Tcp { tcp, .. }) = transport else { panic!("not TCP: {transport:?}") };
            prop_assert_eq!([tcp.src_port, tcp.dst_port], spec.ports);
            prop_assert_eq!((tcp.seq, tcp.flags), (spec.seq, spec.flags));
        }
    }

    #[test]
    fn the_fast_path_finds_what_the_general_path_finds((link, frame) in mutated()) {
        prop_assert_eq!(parse(link, &frame), parse_any(link, &frame));
    }

    #[test]
    fn both_paths_find_what_etherparse_finds(
        mut spec in any_spec(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        if !matches!(spec.link, Link::Ethernet { .. }) {
            spec.link = Link::Ethernet { tags: vec![] };
        }
        let (mut frame, header_len) = spec.build(Hidden { secret: 1, payload: 0x45 });
        for (at, value) in changes {
            frame[at.index(header_len)] = value;
        }
        frame.truncate(cut.map_or(frame.len(), |c| c.index(frame.len() + 1)));
        check_against_oracle(&frame)?;
    }

    #[test]
    fn any_bytes_are_parsed_without_panic_and_within_bounds(
        link in any_link_type(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        (mutated_link, mutated) in mutated(),
    ) {
        for (link, data) in [(link, &bytes), (link, &mutated), (mutated_link, &mutated)] {
            if let Ok(p) = parse(link, data) {
                prop_assert!(p.header_len <= data.len() && p.header_len <= MAX_HEADER_LEN);
                prop_assert!(p.link_len + p.ip_len <= p.header_len);
            }
        }
        check_against_oracle(&bytes)?;
        check_against_oracle(&mutated)?;
    }

    #[test]
    fn no_cut_of_a_frame_makes_a_header_longer(spec in any_spec()) {
        let (frame, header_len) = spec.build(Hidden { secret: 7, payload: 0xa5 });
        for cut in 0..frame.len() {
            if let Ok(p) = parse(spec.link_type(), &frame[..cut]) {
                prop_assert!(p.header_len <= header_len.min(cut));
            }
        }
    }
}

#[test]
fn the_oracle_is_asked_about_most_frames() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut compared, mut agreed_on_tcp) = (0, 0);
    for _ in 0..500 {
        let spec: Spec = any_spec().new_tree(&mut runner).expect("the strategy gives values").current();
        let (frame, _) = Spec { link: Link::Ethernet { tags: vec![] }, ..spec }.build(Hidden { secret: 1, payload: 0 });
        let answer = oracle(&frame);
        compared += u32::from(answer.is_some());
        agreed_on_tcp += u32::from(answer.flatten().is_some());
    }
    assert!(compared > 300 && agreed_on_tcp > 250, "{compared} compared, {agreed_on_tcp} as TCP");
}
