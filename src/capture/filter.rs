//! The kernel's share of the work: a classic BPF program that passes what may be TCP and cuts it to the snap length.
//!
//! The program is assembled here and not compiled by libpcap, whose `tcp` misses TCP behind QinQ, PPPoE and IPv6
//! extension headers. It is generous where certainty would need a loop: any IPv6 extension header passes, the parser
//! decides.
//!
//! Two facts about the kernel shape it (net/packet/af_packet.c, net/core/filter.c):
//!
//! - The outer VLAN tag is normally not in the data but in the packet's metadata, so on Ethernet the type at offset 12
//!   is already the inner one. It is in the data where a device without tag offload sends, and the second tag of QinQ
//!   always is. Reading the data covers all of these. The metadata (`SKF_AD_PROTOCOL`, and `SKF_NET_OFF` for the network
//!   header) does not: for a tag in the data, received frames have their network header at the tag, sent ones after it.
//! - Loads relative to `SKF_NET_OFF` fail, and the frame is lost, where a driver leaves the headers in page fragments;
//!   before Linux 6.16 (commit "bpf: support SKF_NET_OFF and SKF_LL_OFF on skb frags"). Loads from the start of the data
//!   always work.
//!
//! So only cooked sockets, whose data has no link header at all, use the metadata: for the EtherType.

use super::LinkType;
use libc::sock_filter;

/// What a ring captures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RingFilter {
    /// What may be TCP.
    Tcp,
    /// Every frame.
    All,
}

impl RingFilter {
    /// The program for frames of a link type.
    pub fn program(self, link: LinkType, snaplen: u32) -> Vec<sock_filter> {
        match self {
            Self::Tcp => tcp_filter(link, snaplen),
            Self::All => vec![statement(libc::BPF_RET | libc::BPF_K, snaplen)],
        }
    }
}

/// Assembles the program for frames of a link type: it returns `snaplen` for a frame to capture and 0 for any other.
///
/// It passes IPv4 with protocol 6, which all fragments of a TCP packet have, and IPv6 whose next header is 6 or an
/// extension header; both also behind up to two VLAN tags in the data and in PPPoE sessions. A frame that ends before
/// the bytes that decide is rejected.
pub fn tcp_filter(link: LinkType, snaplen: u32) -> Vec<sock_filter> {
    let mut program = Assembler::default();
    match link {
        LinkType::Ethernet => {
            program.load_half_at(ETHERTYPE_OFFSET);
            tagged_network_layer(&mut program, ETHERNET_LEN);
        }
        // No EtherType: the version is in the first four bits.
        LinkType::Raw => {
            program.set_network_offset(0);
            program.load_byte(0);
            program.shift_right(4);
            program.if_equal(4, Label::Ipv4);
            program.if_equal(6, Label::Ipv6);
            program.go_to(Label::Reject);
        }
        // Cooked: libpcap puts its header before the data only after the kernel has filtered it.
        _ => {
            program.load_half_at((libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL) as u32);
            tagged_network_layer(&mut program, 0);
        }
    }
    ip_and_pppoe(&mut program, snaplen);
    program.assemble()
}

/// A program that captures nothing, for a ring that is not ready.
pub fn reject_all() -> Vec<sock_filter> {
    vec![statement(libc::BPF_RET | libc::BPF_K, 0)]
}

/// Dispatches on the EtherType in the accumulator, through up to two VLAN tags, the first of which is at `offset`.
fn tagged_network_layer(program: &mut Assembler, offset: u32) {
    program.set_network_offset(offset);
    program.if_ip_or_pppoe();
    program.if_vlan(Label::FirstTag);
    program.go_to(Label::Reject);

    program.label(Label::FirstTag);
    program.load_half_at(offset + TAG_TYPE_OFFSET);
    program.set_network_offset(offset + TAG_LEN);
    program.if_ip_or_pppoe();
    program.if_vlan(Label::SecondTag);
    program.go_to(Label::Reject);

    program.label(Label::SecondTag);
    program.load_half_at(offset + TAG_LEN + TAG_TYPE_OFFSET);
    program.set_network_offset(offset + 2 * TAG_LEN);
    program.if_ip_or_pppoe();
    program.go_to(Label::Reject);
}

/// The decisions that are the same for every link type; the index register holds where the network layer begins.
fn ip_and_pppoe(program: &mut Assembler, snaplen: u32) {
    program.label(Label::Pppoe);
    program.load_half(PPPOE_PROTOCOL_OFFSET);
    program.if_equal(PPP_IPV4, Label::PppIpv4);
    program.if_equal(PPP_IPV6, Label::PppIpv6);
    program.go_to(Label::Reject);

    program.label(Label::PppIpv4);
    program.load_byte(PPPOE_LEN + IPV4_PROTOCOL_OFFSET);
    program.if_equal(TCP, Label::Accept);
    program.go_to(Label::Reject);

    program.label(Label::Ipv4);
    program.load_byte(IPV4_PROTOCOL_OFFSET);
    program.if_equal(TCP, Label::Accept);
    program.go_to(Label::Reject);

    program.label(Label::PppIpv6);
    program.load_byte(PPPOE_LEN + IPV6_NEXT_HEADER_OFFSET);
    program.go_to(Label::NextHeader);

    program.label(Label::Ipv6);
    program.load_byte(IPV6_NEXT_HEADER_OFFSET);

    program.label(Label::NextHeader);
    program.if_equal(TCP, Label::Accept);
    for extension in IPV6_EXTENSIONS {
        program.if_equal(extension, Label::Accept);
    }

    program.label(Label::Reject);
    program.give(0);
    program.label(Label::Accept);
    program.give(snaplen);
}

/// A place in the program that jumps lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Label {
    FirstTag,
    SecondTag,
    Pppoe,
    PppIpv4,
    PppIpv6,
    Ipv4,
    Ipv6,
    NextHeader,
    Accept,
    Reject,
}

/// Collects instructions whose jumps name labels, and resolves them.
#[derive(Default)]
struct Assembler {
    instructions: Vec<Instruction>,
    labels: Vec<(Label, usize)>,
}

enum Instruction {
    Statement(sock_filter),
    IfEqual(u32, Label),
    GoTo(Label),
}

impl Assembler {
    fn label(&mut self, label: Label) {
        self.labels.push((label, self.instructions.len()));
    }

    /// Loads 16 bits at an offset from the start of the data, or an ancillary value.
    fn load_half_at(&mut self, offset: u32) {
        self.statement(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, offset);
    }

    fn set_network_offset(&mut self, offset: u32) {
        self.statement(libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM, offset);
    }

    /// Loads 16 bits at an offset from the network layer.
    fn load_half(&mut self, offset: u32) {
        self.statement(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, offset);
    }

    /// Loads 8 bits at an offset from the network layer.
    fn load_byte(&mut self, offset: u32) {
        self.statement(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, offset);
    }

    fn shift_right(&mut self, bits: u32) {
        self.statement(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, bits);
    }

    fn give(&mut self, len: u32) {
        self.statement(libc::BPF_RET | libc::BPF_K, len);
    }

    fn if_equal(&mut self, value: u32, target: Label) {
        self.instructions.push(Instruction::IfEqual(value, target));
    }

    fn go_to(&mut self, target: Label) {
        self.instructions.push(Instruction::GoTo(target));
    }

    fn if_ip_or_pppoe(&mut self) {
        self.if_equal(ETHERTYPE_IPV4, Label::Ipv4);
        self.if_equal(ETHERTYPE_IPV6, Label::Ipv6);
        self.if_equal(ETHERTYPE_PPPOE_SESSION, Label::Pppoe);
    }

    fn if_vlan(&mut self, target: Label) {
        for ethertype in ETHERTYPES_VLAN {
            self.if_equal(ethertype, target);
        }
    }

    fn statement(&mut self, code: u32, k: u32) {
        self.instructions.push(Instruction::Statement(statement(code, k)));
    }

    fn assemble(&self) -> Vec<sock_filter> {
        let distance = |from: usize, target: Label| {
            let (_, to) = self.labels.iter().find(|(label, _)| *label == target).expect("every label used is placed");
            to.checked_sub(from + 1).expect("jumps only lead forward: BPF has no loops")
        };
        let resolve = |(at, instruction): (usize, &Instruction)| match *instruction {
            Instruction::Statement(statement) => statement,
            Instruction::IfEqual(k, target) => sock_filter {
                code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
                jt: u8::try_from(distance(at, target)).expect("the program is shorter than 256 instructions"),
                jf: 0,
                k,
            },
            Instruction::GoTo(target) => statement(libc::BPF_JMP | libc::BPF_JA, distance(at, target) as u32),
        };
        self.instructions.iter().enumerate().map(resolve).collect()
    }
}

/// An instruction that is not a conditional jump.
fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const ETHERTYPE_OFFSET: u32 = 12;
const ETHERNET_LEN: u32 = 14;
/// A VLAN tag after the EtherType that announces it: two bytes of control information, then the next EtherType.
const TAG_LEN: u32 = 4;
const TAG_TYPE_OFFSET: u32 = 2;
/// RFC 2516 section 4: six bytes of PPPoE, then the PPP protocol number, then the packet.
const PPPOE_PROTOCOL_OFFSET: u32 = 6;
const PPPOE_LEN: u32 = 8;
const IPV4_PROTOCOL_OFFSET: u32 = 9;
const IPV6_NEXT_HEADER_OFFSET: u32 = 6;

const ETHERTYPE_IPV4: u32 = 0x0800;
const ETHERTYPE_IPV6: u32 = 0x86dd;
const ETHERTYPE_PPPOE_SESSION: u32 = 0x8864;
/// 802.1Q, 802.1ad, and the number that QinQ switches used before 802.1ad.
const ETHERTYPES_VLAN: [u32; 3] = [0x8100, 0x88a8, 0x9100];
const PPP_IPV4: u32 = 0x0021;
const PPP_IPV6: u32 = 0x0057;
const TCP: u32 = 6;
/// Headers that another header can follow: hop-by-hop options, routing, fragment, authentication, destination options,
/// mobility, HIP, shim6 (IANA, "IPv6 Extension Header Types"). Not ESP: nothing can be read behind it.
const IPV6_EXTENSIONS: [u32; 8] = [0, 43, 44, 51, 60, 135, 139, 140];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SNAPLEN: u32 = 256;

    #[test]
    fn tcp_over_ipv4_and_ipv6_passes_on_every_link() {
        for link in [LinkType::Ethernet, LinkType::Raw, LinkType::LinuxSll] {
            assert_eq!(run(link, &[], &ipv4(6), 0x0800), SNAPLEN, "{link:?}");
            assert_eq!(run(link, &[], &ipv6(6), 0x86dd), SNAPLEN, "{link:?}");
        }
    }

    #[test]
    fn other_protocols_are_rejected_on_every_link() {
        for link in [LinkType::Ethernet, LinkType::Raw, LinkType::LinuxSll] {
            for protocol in (0..=255).filter(|p| *p != 6) {
                assert_eq!(run(link, &[], &ipv4(protocol), 0x0800), 0, "IPv4 {protocol} on {link:?}");
            }
            for next in (0..=255).filter(|n| *n != 6 && !IPV6_EXTENSIONS.contains(&u32::from(*n))) {
                assert_eq!(run(link, &[], &ipv6(next), 0x86dd), 0, "IPv6 {next} on {link:?}");
            }
        }
    }

    #[test]
    fn every_ipv6_extension_header_passes_on_every_link() {
        for link in [LinkType::Ethernet, LinkType::Raw, LinkType::LinuxSll] {
            for next in [0, 43, 44, 51, 60, 135, 139, 140] {
                assert_eq!(run(link, &[], &ipv6(next), 0x86dd), SNAPLEN, "IPv6 {next} on {link:?}");
            }
        }
    }

    #[test]
    fn other_ethertypes_are_rejected() {
        for ethertype in [0x0806, 0x88cc, 0x8847, 0x8863, 0x05dc, 0] {
            for link in [LinkType::Ethernet, LinkType::LinuxSll] {
                assert_eq!(run(link, &[], &ipv4(6), ethertype), 0, "{ethertype:#x} on {link:?}");
            }
        }
    }

    #[test]
    fn raw_ip_of_another_version_is_rejected() {
        let mut packet = ipv4(6);
        packet[0] = 0x55;
        assert_eq!(run(LinkType::Raw, &[], &packet, 0x0800), 0);
    }

    #[test]
    fn tcp_behind_one_or_two_tags_passes_and_udp_does_not() {
        for link in [LinkType::Ethernet, LinkType::LinuxSll] {
            for outer in [0x8100, 0x88a8, 0x9100] {
                assert_eq!(run(link, &[outer], &ipv4(6), 0x0800), SNAPLEN);
                assert_eq!(run(link, &[outer], &ipv6(6), 0x86dd), SNAPLEN);
                assert_eq!(run(link, &[outer], &ipv4(17), 0x0800), 0);
                assert_eq!(run(link, &[outer], &ipv6(17), 0x86dd), 0);
                assert_eq!(run(link, &[outer], &ipv4(6), 0x0806), 0);
                for inner in [0x8100, 0x88a8, 0x9100] {
                    assert_eq!(run(link, &[outer, inner], &ipv4(6), 0x0800), SNAPLEN);
                    assert_eq!(run(link, &[outer, inner], &ipv6(44), 0x86dd), SNAPLEN);
                    assert_eq!(run(link, &[outer, inner], &ipv4(17), 0x0800), 0);
                    assert_eq!(run(link, &[outer, inner], &ipv4(6), 0x0806), 0);
                    assert_eq!(run(link, &[outer, inner, 0x8100], &ipv4(6), 0x0800), 0);
                }
            }
        }
    }

    #[test]
    fn tcp_in_a_pppoe_session_passes_at_every_tag_depth() {
        for link in [LinkType::Ethernet, LinkType::LinuxSll] {
            for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
                assert_eq!(run(link, tags, &pppoe(0x0021, &ipv4(6)), 0x8864), SNAPLEN);
                assert_eq!(run(link, tags, &pppoe(0x0057, &ipv6(6)), 0x8864), SNAPLEN);
                assert_eq!(run(link, tags, &pppoe(0x0057, &ipv6(60)), 0x8864), SNAPLEN);
                assert_eq!(run(link, tags, &pppoe(0x0021, &ipv4(17)), 0x8864), 0);
                assert_eq!(run(link, tags, &pppoe(0x0057, &ipv6(17)), 0x8864), 0);
                assert_eq!(run(link, tags, &pppoe(0xc021, &ipv4(6)), 0x8864), 0);
            }
        }
    }

    #[test]
    fn a_frame_that_ends_before_the_deciding_byte_is_rejected() {
        let frame = frame(LinkType::Ethernet, &[], &ipv4(6), 0x0800);
        let decides = (ETHERNET_LEN + IPV4_PROTOCOL_OFFSET) as usize;
        let program = tcp_filter(LinkType::Ethernet, SNAPLEN);
        assert_eq!(interpret(&program, &frame[..decides], 0x0800), 0);
        assert_eq!(interpret(&program, &frame[..=decides], 0x0800), SNAPLEN);
        assert_eq!(interpret(&program, &[], 0x0800), 0);
    }

    #[test]
    fn on_ethernet_the_data_counts_and_not_the_metadata() {
        // As a device without tag offload sends it: the kernel's idea of the protocol is the tag.
        let frame = frame(LinkType::Ethernet, &[0x8100], &ipv4(6), 0x0800);
        assert_eq!(interpret(&tcp_filter(LinkType::Ethernet, SNAPLEN), &frame, 0x8100), SNAPLEN);
        assert_eq!(interpret(&tcp_filter(LinkType::Ethernet, SNAPLEN), &frame, 0), SNAPLEN);
    }

    #[test]
    fn reject_all_passes_nothing() {
        assert_eq!(interpret(&reject_all(), &frame(LinkType::Ethernet, &[], &ipv4(6), 0x0800), 0x0800), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_the_snap_length_or_zero(data in prop::collection::vec(any::<u8>(), 0..80), protocol: u16) {
            for link in [LinkType::Ethernet, LinkType::Raw, LinkType::LinuxSll] {
                let len = interpret(&tcp_filter(link, SNAPLEN), &data, protocol);
                prop_assert!(len == 0 || len == SNAPLEN);
            }
        }
    }

    fn run(link: LinkType, tags: &[u16], payload: &[u8], ethertype: u16) -> u32 {
        let protocol = tags.first().copied().unwrap_or(ethertype);
        interpret(&tcp_filter(link, SNAPLEN), &frame(link, tags, payload, ethertype), protocol)
    }

    /// The data that the kernel shows to the program: on a cooked socket, what follows the first EtherType.
    fn frame(link: LinkType, tags: &[u16], payload: &[u8], ethertype: u16) -> Vec<u8> {
        let mut frame = vec![0xaa; 12];
        for tag in tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0x00, 0x64]);
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(payload);
        match link {
            LinkType::Ethernet => frame,
            _ => frame.split_off(14),
        }
    }

    fn ipv4(protocol: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[9] = protocol;
        packet
    }

    fn ipv6(next_header: u8) -> Vec<u8> {
        let mut packet = vec![0; 60];
        packet[0] = 0x60;
        packet[6] = next_header;
        packet
    }

    fn pppoe(protocol: u16, packet: &[u8]) -> Vec<u8> {
        let mut session = vec![0x11, 0x00, 0x00, 0x01, 0x00, 0x2a];
        session.extend(protocol.to_be_bytes());
        session.extend(packet);
        session
    }

    /// Classic BPF as Documentation/networking/filter.rst of the kernel has it, as far as the programs here use it.
    fn interpret(program: &[sock_filter], data: &[u8], protocol: u16) -> u32 {
        let (mut a, mut x, mut pc) = (0u32, 0u32, 0usize);
        let half = |at: u32| data.get(at as usize..at as usize + 2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]])));
        let ancillary = (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL) as u32;
        loop {
            let i = program[pc];
            pc += 1;
            let loaded = match u32::from(i.code) {
                c if c == libc::BPF_LD | libc::BPF_H | libc::BPF_ABS && i.k == ancillary => Some(u32::from(protocol)),
                c if c == libc::BPF_LD | libc::BPF_H | libc::BPF_ABS => half(i.k),
                c if c == libc::BPF_LD | libc::BPF_H | libc::BPF_IND => half(x + i.k),
                c if c == libc::BPF_LD | libc::BPF_B | libc::BPF_IND => data.get((x + i.k) as usize).map(|b| u32::from(*b)),
                c if c == libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K => Some(a >> i.k),
                c if c == libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM => {
                    x = i.k;
                    continue;
                }
                c if c == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                    pc += usize::from(if a == i.k { i.jt } else { i.jf });
                    continue;
                }
                c if c == libc::BPF_JMP | libc::BPF_JA => {
                    pc += i.k as usize;
                    continue;
                }
                c if c == libc::BPF_RET | libc::BPF_K => return i.k,
                code => panic!("instruction {code:#x} is not used here"),
            };
            match loaded {
                Some(value) => a = value,
                None => return 0,
            }
        }
    }
}
