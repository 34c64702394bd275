//! Frames for tests: described field by field, with secrets in the places where headers can hold parts of addresses, and
//! built with the checksums that their sender would have written.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{IpVersion, extension};
use crate::capture::LinkType;

/// Bytes that everybody may know, or a run of bytes that depend on the hidden part of an address.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Open(Vec<u8>),
    Secret(usize),
}

/// The link layer of a frame.
#[derive(Clone, Debug)]
pub(crate) enum Link {
    Ethernet { tags: Vec<u16> },
    Pppoe,
    Snap,
    Cooked { v2: bool, address_len: u8 },
    Loopback { link: LinkType, family: [u8; 4] },
    Raw,
}

/// Which fragment an IP packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fragment {
    Whole,
    First,
    Later,
}

/// An extension header. Its content is padded to the unit of its length field.
#[derive(Clone, Debug)]
pub(crate) enum Extension {
    Options { number: u8, pieces: Vec<Piece> },
    Routing { segments: usize },
    Fragment(Fragment),
    Authentication { words: usize },
    Opaque { number: u8, units: usize },
}

/// A TCP frame of any shape.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) link: Link,
    pub(crate) version: IpVersion,
    /// The open bits of source and destination: 3 bytes of IPv4, 6 of IPv6.
    pub(crate) nets: [[u8; 6]; 2],
    /// Which of source and destination have secret host bits.
    pub(crate) secret_hosts: [bool; 2],
    /// Whether their hardware addresses are made of their addresses.
    pub(crate) made_macs: bool,
    pub(crate) ip_id: u16,
    /// Writes 0 as the IP header's length field, as super-packets have it.
    pub(crate) zero_length: bool,
    pub(crate) ipv4_options: Vec<Piece>,
    /// IPv4 takes fragments and authentication headers from here, IPv6 all.
    pub(crate) extensions: Vec<Extension>,
    pub(crate) ports: [u16; 2],
    pub(crate) seq: u32,
    pub(crate) flags: u8,
    pub(crate) tcp_options: Vec<Piece>,
    /// Overrides the data offset.
    pub(crate) data_offset: Option<u8>,
    pub(crate) payload: usize,
    pub(crate) trailer: usize,
}

/// The two things in a frame that must not be archived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hidden {
    /// Seeds host bits, and all that senders and routers put into headers knowing them.
    pub(crate) secret: u64,
    /// Fills payload and trailer.
    pub(crate) payload: u8,
}

impl Spec {
    /// A plain Ethernet frame with the timestamp option and 100 bytes of payload.
    pub(crate) fn plain(version: IpVersion) -> Self {
        Self {
            link: Link::Ethernet { tags: vec![] },
            version,
            nets: [[0x20, 0x01, 0x0d, 0xb8, 0, 1], [0x20, 0x01, 0x0d, 0xb8, 0, 2]],
            secret_hosts: [true, true],
            made_macs: false,
            ip_id: 0x1234,
            zero_length: false,
            ipv4_options: vec![],
            extensions: vec![],
            ports: [50_000, 443],
            seq: 0x0102_0304,
            flags: 0x10,
            tcp_options: vec![Piece::Open(vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8])],
            data_offset: None,
            payload: 100,
            trailer: 0,
        }
    }

    /// The link type of the frame.
    pub(crate) fn link_type(&self) -> LinkType {
        match self.link {
            Link::Ethernet { .. } | Link::Pppoe | Link::Snap => LinkType::Ethernet,
            Link::Cooked { v2: false, .. } => LinkType::LinuxSll,
            Link::Cooked { v2: true, .. } => LinkType::LinuxSll2,
            Link::Loopback { link, .. } => link,
            Link::Raw => LinkType::Raw,
        }
    }

    /// Whether this is not the first fragment of its packet.
    pub(crate) fn is_later_fragment(&self) -> bool {
        self.extensions.iter().any(|e| matches!(e, Extension::Fragment(Fragment::Later)))
    }

    /// The frame's bytes, and how many of them are headers.
    pub(crate) fn build(&self, hidden: Hidden) -> (Vec<u8>, usize) {
        let mut secrets = Secrets(hidden.secret);
        let src = self.address(0, &mut secrets);
        let dst = self.address(1, &mut secrets);
        let tcp = if self.is_later_fragment() { vec![] } else { self.tcp(&src, &dst, &mut secrets) };
        let ip = match self.version {
            IpVersion::V4 => self.ipv4(&src, &dst, tcp.len() + self.payload, &mut secrets),
            IpVersion::V6 => self.ipv6(&src, &dst, tcp.len() + self.payload, &mut secrets),
        };
        let ip_and_tcp = [&ip[..], &tcp].concat();
        let link = self.link_header(&src, &dst, ip_and_tcp.len() + self.payload);
        // A data offset that lies leaves only the fixed TCP header to be sure of.
        let kept_tcp = if self.data_offset.is_some() { tcp.len().min(20) } else { tcp.len() };
        let header_len = link.len() + ip.len() + kept_tcp;
        let frame = [&link[..], &ip_and_tcp, &vec![hidden.payload; self.payload + self.trailer]].concat();
        (frame, header_len)
    }

    fn address(&self, side: usize, secrets: &mut Secrets) -> Vec<u8> {
        let (net, host) = if self.version == IpVersion::V4 { (3, 1) } else { (6, 10) };
        let mut address = self.nets[side][..net].to_vec();
        // Drawn in any case, so that what comes after it is the same secret.
        let host = secrets.take(host);
        address.extend(if self.secret_hosts[side] { host } else { vec![7; host.len()] });
        address
    }

    fn tcp(&self, src: &[u8], dst: &[u8], secrets: &mut Secrets) -> Vec<u8> {
        let options = padded(fill(&self.tcp_options, secrets), 0, 4);
        let mut tcp = Vec::new();
        tcp.extend(self.ports[0].to_be_bytes());
        tcp.extend(self.ports[1].to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend([0, 0, 0, 9]);
        tcp.extend([self.data_offset.unwrap_or(5 + (options.len() / 4) as u8) << 4, self.flags, 0x20, 0, 0, 0, 0, 0]);
        tcp.extend(options);
        let len = (tcp.len() + self.payload) as u32;
        // As if the payload were zeros, so that nothing in the headers depends on it.
        let sum = checksum(&[src, dst, &len.to_be_bytes(), &[0, 0, 0, 6], &tcp].concat());
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp
    }

    fn ipv4(&self, src: &[u8], dst: &[u8], payload: usize, secrets: &mut Secrets) -> Vec<u8> {
        let options = padded(fill(&self.ipv4_options, secrets), 0, 4);
        let mut after = Vec::new();
        let mut protocol = 6;
        let mut fragment = 0x4000u16;
        for e in &self.extensions {
            match e {
                Extension::Fragment(Fragment::First) => fragment = 0x2000,
                Extension::Fragment(Fragment::Later) => fragment = 0x0003,
                Extension::Authentication { .. } if !self.is_later_fragment() && protocol == 6 => {
                    protocol = extension::AUTHENTICATION;
                    after = e.build(6, secrets);
                }
                _ => {}
            }
        }
        let total = if self.zero_length { 0 } else { 20 + options.len() + after.len() + payload };
        let mut ip = vec![0x45 + (options.len() / 4) as u8, 0];
        ip.extend((total as u16).to_be_bytes());
        ip.extend(self.ip_id.to_be_bytes());
        ip.extend(fragment.to_be_bytes());
        ip.extend([64, protocol, 0, 0]);
        ip.extend([src, dst, &options].concat());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip.extend(after);
        ip
    }

    fn ipv6(&self, src: &[u8], dst: &[u8], payload: usize, secrets: &mut Secrets) -> Vec<u8> {
        let numbers: Vec<u8> = self.extensions.iter().map(Extension::number).chain([6]).collect();
        let chain: Vec<u8> = self.extensions.iter().zip(&numbers[1..]).flat_map(|(e, next)| e.build(*next, secrets)).collect();
        let length = if self.zero_length { 0 } else { chain.len() + payload };
        let mut ip = vec![0x60, 0x0a, 0xbc, 0xde];
        ip.extend((length as u16).to_be_bytes());
        ip.extend([numbers[0], 64]);
        ip.extend([src, dst, &chain].concat());
        ip
    }

    fn link_header(&self, src: &[u8], dst: &[u8], ip_len: usize) -> Vec<u8> {
        let ether_type: [u8; 2] = if self.version == IpVersion::V4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        // Those of hidden hosts are made of their addresses, as bridges of containers do.
        let mac = |side: usize, address: &[u8]| match (self.secret_hosts[side], address) {
            (true, [.., a, b, c, d]) if self.made_macs => vec![0x02, 0x42, *a, *b, *c, *d],
            _ => vec![0x52, 0x54, 0, 1, 2, 3 + side as u8],
        };
        let (sender, macs) = (mac(0, src), [mac(1, dst), mac(0, src)].concat());
        match &self.link {
            Link::Ethernet { tags } => {
                let tags: Vec<u8> = tags.iter().flat_map(|t| [t.to_be_bytes(), [0x20, 0x07]]).flatten().collect();
                [&macs[..], &tags, &ether_type].concat()
            }
            Link::Pppoe => {
                let len = (ip_len as u16 + 2).to_be_bytes();
                let ppp: [u8; 2] = if self.version == IpVersion::V4 { [0, 0x21] } else { [0, 0x57] };
                [&macs[..], &[0x88, 0x64, 0x11, 0, 0, 9], &len, &ppp].concat()
            }
            Link::Snap => {
                let len = (ip_len as u16 + 8).to_be_bytes();
                [&macs[..], &len, &[0xaa, 0xaa, 3, 0, 0, 0], &ether_type].concat()
            }
            Link::Cooked { v2: false, address_len } => {
                [&[0, 0, 0, 1, 0, *address_len], &sender[..], &[9, 9], &ether_type].concat()
            }
            Link::Cooked { v2: true, address_len } => {
                [&ether_type[..], &[0, 0, 0, 0, 0, 2, 0, 1, 0, *address_len], &sender, &[9, 9]].concat()
            }
            Link::Loopback { family, .. } => family.to_vec(),
            Link::Raw => vec![],
        }
    }
}

impl Extension {
    fn number(&self) -> u8 {
        match *self {
            Self::Options { number, .. } | Self::Opaque { number, .. } => number,
            Self::Routing { .. } => extension::ROUTING,
            Self::Fragment(_) => extension::FRAGMENT,
            Self::Authentication { .. } => extension::AUTHENTICATION,
        }
    }

    fn build(&self, next: u8, secrets: &mut Secrets) -> Vec<u8> {
        let mut bytes = vec![next, 0];
        match self {
            Self::Options { pieces, .. } => {
                bytes.extend(fill(pieces, secrets));
                bytes = padded(bytes, 0, 8);
            }
            Self::Routing { segments } => {
                bytes.extend([4, *segments as u8, *segments as u8, 0, 0, 9]);
                bytes.extend(secrets.take(16 * segments));
            }
            Self::Fragment(which) => {
                let field = match which {
                    Fragment::Whole => 0,
                    Fragment::First => 1,
                    Fragment::Later => 3 << 3 | 1,
                };
                return vec![next, 0, 0, field, 0, 0, 0x12, 0x34];
            }
            Self::Authentication { words } => {
                let fixed = [next, 1 + *words as u8, 0, 0, 0, 0, 1, 0, 0, 0, 0, 7];
                return [&fixed[..], &secrets.take(4 * words)].concat();
            }
            Self::Opaque { units, .. } => bytes.extend(secrets.take(6 + 8 * units)),
        }
        bytes[1] = (bytes.len() / 8 - 1) as u8;
        bytes
    }
}

/// A stream of bytes that follows from a seed (splitmix64).
struct Secrets(u64);

impl Secrets {
    fn take(&mut self, n: usize) -> Vec<u8> {
        (0..n)
            .map(|_| {
                self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) as u8
            })
            .collect()
    }
}

fn fill(pieces: &[Piece], secrets: &mut Secrets) -> Vec<u8> {
    pieces
        .iter()
        .flat_map(|p| match p {
            Piece::Open(bytes) => bytes.clone(),
            Piece::Secret(n) => secrets.take(*n),
        })
        .collect()
}

fn padded(mut bytes: Vec<u8>, with: u8, unit: usize) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(unit), with);
    bytes
}

/// The Internet checksum (RFC 1071) of bytes whose own checksum field is zero.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|b| u16::from_be_bytes([b[0], b.get(1).copied().unwrap_or(0)]));
    !words.fold(0u16, |sum, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

/// Any frame that parses as TCP.
pub(crate) fn any_spec() -> impl Strategy<Value = Spec> {
    let version = prop_oneof![Just(IpVersion::V4), Just(IpVersion::V6)];
    let what = version.prop_flat_map(|v| (Just(v), any_link(v), any_extensions(v)));
    let tcp = (any::<[u16; 2]>(), any::<u32>(), any::<u8>(), any_tcp_options(), data_offset());
    let rest = (any::<[[u8; 6]; 2]>(), any::<[bool; 2]>(), any::<u16>(), any_ipv4_options(), 0usize..80, 0usize..20);
    (what, tcp, rest, prop::bool::weighted(0.1)).prop_map(|(what, tcp, rest, zero_length)| {
        let (version, link, extensions) = what;
        let (ports, seq, flags, tcp_options, data_offset) = tcp;
        let (nets, secret_hosts, ip_id, ipv4_options, payload, trailer) = rest;
        Spec {
            link,
            version,
            nets,
            secret_hosts,
            made_macs: true,
            ip_id,
            zero_length,
            ipv4_options,
            extensions,
            ports,
            seq,
            flags,
            tcp_options,
            data_offset,
            payload,
            // Where nothing tells the packet's end, a trailer is indistinguishable from payload.
            trailer: if zero_length { 0 } else { trailer },
        }
        .without_ambiguity()
    })
}

impl Spec {
    /// Takes back a data offset of 15 that would lie inside the payload and so be a true one.
    fn without_ambiguity(mut self) -> Self {
        let payload = self.payload;
        if self.data_offset == Some(15) && 20 + self.tcp_options_len() + payload >= 60 {
            self.data_offset = Some(0);
        }
        self
    }

    fn tcp_options_len(&self) -> usize {
        fill(&self.tcp_options, &mut Secrets(0)).len().next_multiple_of(4)
    }
}

fn data_offset() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![8 => Just(None), 1 => (0u8..5).prop_map(Some), 1 => Just(Some(15))]
}

fn any_link(version: IpVersion) -> impl Strategy<Value = Link> {
    let families: &[u8] = if version == IpVersion::V4 { &[2] } else { &[10, 24, 28, 30] };
    let family =
        (prop::sample::select(families), any::<bool>()).prop_map(|(f, little)| if little { [f, 0, 0, 0] } else { [0, 0, 0, f] });
    prop_oneof![
        4 => vec(prop::sample::select(vec![0x8100u16, 0x88a8, 0x9100]), 0..3).prop_map(|tags| Link::Ethernet { tags }),
        1 => Just(Link::Pppoe),
        1 => Just(Link::Snap),
        1 => (any::<bool>(), prop::sample::select(vec![0u8, 4, 6, 8]))
            .prop_map(|(v2, address_len)| Link::Cooked { v2, address_len }),
        1 => (prop::sample::select(vec![LinkType::Null, LinkType::Loop]), family)
            .prop_map(|(link, family)| Link::Loopback { link, family }),
        1 => Just(Link::Raw),
    ]
}

fn any_extensions(version: IpVersion) -> impl Strategy<Value = Vec<Extension>> {
    let fragment = prop::sample::select(vec![Fragment::Whole, Fragment::First, Fragment::Later]);
    let authentication = (1usize..6).prop_map(|words| Extension::Authentication { words });
    let plain = prop_oneof![
        any_ipv6_options().prop_map(|pieces| Extension::Options { number: extension::DESTINATION, pieces }),
        (0usize..4).prop_map(|segments| Extension::Routing { segments }),
        authentication,
        (prop::sample::select(vec![extension::MOBILITY, extension::HOST_IDENTITY, extension::SHIM6]), 0usize..4)
            .prop_map(|(number, units)| Extension::Opaque { number, units }),
    ];
    let hop_by_hop = prop::option::weighted(
        0.3,
        any_ipv6_options().prop_map(|pieces| Extension::Options { number: extension::HOP_BY_HOP, pieces }),
    );
    let chain = (hop_by_hop, vec(plain, 0..3), prop::option::weighted(0.4, fragment), any::<prop::sample::Index>());
    (chain, prop::bool::weighted(0.5)).prop_map(move |((hop_by_hop, plain, fragment, place), none)| {
        let mut all: Vec<Extension> = if none { vec![] } else { plain };
        if let Some(f) = fragment {
            // A later fragment's chain ends with its fragment header.
            let at = if f == Fragment::Later { all.len() } else { place.index(all.len() + 1) };
            all.insert(at, Extension::Fragment(f));
        }
        if version == IpVersion::V6 {
            all.splice(0..0, hop_by_hop);
        }
        all
    })
}

fn any_ipv4_options() -> impl Strategy<Value = Vec<Piece>> {
    let slots = (prop::sample::select(vec![7u8, 131, 137, 68]), 1usize..4)
        .prop_map(|(kind, n)| vec![Piece::Open(vec![kind, 3 + 4 * n as u8, 4]), Piece::Secret(4 * n)]);
    let open = prop::sample::select(vec![vec![1u8], vec![148, 4, 0, 0], vec![136, 4, 0, 9], vec![130, 3, 0xab]])
        .prop_map(|bytes| vec![Piece::Open(bytes)]);
    let unknown = (150u8..255, 0usize..8).prop_map(|(kind, n)| vec![Piece::Open(vec![kind, 2 + n as u8]), Piece::Secret(n)]);
    list(prop_oneof![slots, open, unknown], BROKEN, 40, 0.3)
}

fn any_tcp_options() -> impl Strategy<Value = Vec<Piece>> {
    let open = prop::sample::select(vec![
        vec![1u8],
        vec![2, 4, 5, 180],
        vec![3, 3, 7],
        vec![4, 2],
        vec![8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
        vec![5, 10, 1, 2, 3, 4, 5, 6, 7, 8],
        vec![28, 4, 1, 2],
        vec![30, 4, 0x20, 1],
    ])
    .prop_map(|bytes| vec![Piece::Open(bytes)]);
    let add_address = prop::sample::select(vec![4usize, 6, 12, 16, 24])
        .prop_map(|n| vec![Piece::Open(vec![30, 4 + n as u8, 0x34, 1]), Piece::Secret(n)]);
    let keyed = (prop::sample::select(vec![19u8, 29, 34, 253, 254, 77]), 0usize..17)
        .prop_map(|(kind, n)| vec![Piece::Open(vec![kind, 2 + n as u8]), Piece::Secret(n)]);
    list(prop_oneof![3 => open, 1 => add_address, 1 => keyed], BROKEN, 40, 0.7)
}

fn any_ipv6_options() -> impl Strategy<Value = Vec<Piece>> {
    let open =
        prop::sample::select(vec![vec![0u8], vec![1, 2, 0, 0], vec![5, 2, 0, 0], vec![4, 1, 4], vec![0xc2, 4, 0, 1, 0, 0]])
            .prop_map(|bytes| vec![Piece::Open(bytes)]);
    let home_address = Just(vec![Piece::Open(vec![0xc9, 16]), Piece::Secret(16)]);
    let unknown = (0x10u8..0x20, 0usize..20).prop_map(|(kind, n)| vec![Piece::Open(vec![kind, n as u8]), Piece::Secret(n)]);
    list(prop_oneof![open, home_address, unknown], BROKEN_IPV6, 60, 0.8)
}

/// A list of options of at most `max` bytes, sometimes followed by what is no option, and `some` of the time not empty.
fn list(
    one: impl Strategy<Value = Vec<Piece>>,
    tails: &'static [&'static [u8]],
    max: usize,
    some: f64,
) -> impl Strategy<Value = Vec<Piece>> {
    let tail = prop::option::weighted(0.3, prop::sample::select(tails).prop_map(<[u8]>::to_vec));
    (vec(one, 0..5), tail, prop::bool::weighted(some)).prop_map(move |(options, tail, some)| {
        let mut pieces = Vec::new();
        let mut len = 0;
        let tail = tail.map(|bytes| vec![Piece::Open(bytes), Piece::Secret(3)]);
        for option in options.into_iter().chain(tail).filter(|_| some) {
            let option_len: usize = option.iter().map(Piece::len).sum();
            if len + option_len <= max {
                len += option_len;
                pieces.extend(option);
            }
        }
        pieces
    })
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Open(bytes) => bytes.len(),
            Self::Secret(n) => *n,
        }
    }
}

/// Lengths that are too short or too long, and the end of the options.
const BROKEN: &[&[u8]] = &[&[0xfe, 0xff], &[0xfe, 0], &[7, 1], &[0x1e, 41, 0x30], &[0]];
const BROKEN_IPV6: &[&[u8]] = &[&[0x1e, 0xff], &[0xc9, 0xfe, 1]];
