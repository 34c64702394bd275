//! The shunt's program: a look-up of the 5-tuple before the ring's own filter.
//!
//! Everything that it does not understand goes to that filter, as do fragments, and packets with SYN, FIN or RST. It reads
//! Ethernet frames, with up to two VLAN tags in the data; the outermost is normally in the packet's metadata.

use super::KEY_LEN;
use libc::sock_filter;

/// Assembles the program: what it looks up in the map of this descriptor, it drops; to all else it is the ring's own filter.
pub(super) fn program(map: i32, filter: &[sock_filter]) -> Vec<Instruction> {
    let mut p = Assembler::default();
    p.copy(PACKET, 1);
    p.compute(BPF_MOV, NETWORK, 0);
    p.read(NETWORK, 12, 2);
    p.load_be16(NUMBER, 0);
    p.compute(BPF_MOV, NETWORK, 14);
    for tag in 0..2 {
        for ethertype in [0x8100, 0x88a8, 0x9100] {
            p.jump_if(libc::BPF_JEQ, NUMBER, ethertype, Label::Tag(tag));
        }
        p.go_to(Label::NoTag(tag));
        p.label(Label::Tag(tag));
        p.read(NETWORK, 2, 2);
        p.load_be16(NUMBER, 0);
        p.compute(libc::BPF_ADD, NETWORK, 4);
        p.label(Label::NoTag(tag));
    }
    for at in (0..KEY_LEN as i16).step_by(8) {
        p.push(libc::BPF_ST | libc::BPF_MEM | BPF_DW, FRAME, 0, KEY_AT + at, 0);
    }
    p.jump_if(libc::BPF_JEQ, NUMBER, 0x0800, Label::Ipv4);
    p.jump_if(libc::BPF_JEQ, NUMBER, 0x86dd, Label::Ipv6);
    p.go_to(Label::Pass);

    p.label(Label::Ipv4);
    p.read(NETWORK, 0, 20);
    p.load_be16(1, 6);
    // More fragments, or an offset.
    p.compute(libc::BPF_AND, 1, 0x3fff);
    p.jump_if(BPF_JNE, 1, 0, Label::Pass);
    p.load(libc::BPF_B, TRANSPORT, 0);
    p.compute(libc::BPF_AND, TRANSPORT, 0x0f);
    p.compute(libc::BPF_LSH, TRANSPORT, 2);
    p.push(BPF_ALU64 | libc::BPF_ADD | libc::BPF_X, TRANSPORT, NETWORK, 0, 0);
    p.load(libc::BPF_B, NUMBER, 9);
    for (from, to) in [(12, 0), (16, 16)] {
        // The IPv4-mapped form: 80 bits of zeros, 16 of ones, the address.
        p.compute(BPF_MOV, 1, 0xffff);
        p.store_key(libc::BPF_H, 1, to + 10);
        p.load(libc::BPF_W, 1, from);
        p.store_key(libc::BPF_W, 1, to + 12);
    }
    p.go_to(Label::Transport);

    p.label(Label::Ipv6);
    p.read(NETWORK, 0, 40);
    p.load(libc::BPF_B, NUMBER, 6);
    p.copy(TRANSPORT, NETWORK);
    p.compute(libc::BPF_ADD, TRANSPORT, 40);
    for at in (0..32).step_by(8) {
        p.load(BPF_DW, 1, 8 + at);
        p.store_key(BPF_DW, 1, at);
    }

    p.label(Label::Transport);
    p.store_key(libc::BPF_B, NUMBER, 36);
    p.jump_if(libc::BPF_JEQ, NUMBER, 6, Label::Tcp);
    p.jump_if(libc::BPF_JEQ, NUMBER, 17, Label::Udp);
    p.go_to(Label::Pass);

    p.label(Label::Tcp);
    p.read(TRANSPORT, 0, 14);
    p.load(libc::BPF_W, 1, 0);
    p.store_key(libc::BPF_W, 1, 32);
    p.load(libc::BPF_B, 1, 13);
    p.jump_if(libc::BPF_JSET, 1, 0x02, Label::Syn);
    p.jump_if(libc::BPF_JSET, 1, 0x05, Label::Pass);
    p.go_to(Label::LookUp);

    p.label(Label::Udp);
    p.read(TRANSPORT, 0, 4);
    p.load(libc::BPF_W, 1, 0);
    p.store_key(libc::BPF_W, 1, 32);

    p.label(Label::LookUp);
    p.map_and_key(map);
    p.call(BPF_FUNC_MAP_LOOKUP_ELEM);
    p.jump_if(libc::BPF_JEQ, 0, 0, Label::Pass);
    p.push(libc::BPF_LDX | libc::BPF_MEM | BPF_DW, 1, 0, 16, 0);
    p.jump_if(BPF_JNE, 1, 0, Label::Pass);
    p.compute(BPF_MOV, 1, 1);
    p.push(libc::BPF_STX | BPF_XADD | BPF_DW, 0, 1, 0, 0);
    // The first member of struct __sk_buff is the length.
    p.push(libc::BPF_LDX | libc::BPF_MEM | libc::BPF_W, 1, PACKET, 0, 0);
    p.push(libc::BPF_STX | BPF_XADD | BPF_DW, 0, 1, 8, 0);
    p.give(0);

    p.label(Label::Syn);
    p.map_and_key(map);
    p.call(BPF_FUNC_MAP_LOOKUP_ELEM);
    p.jump_if(libc::BPF_JEQ, 0, 0, Label::Pass);
    p.push(libc::BPF_ST | libc::BPF_MEM | BPF_DW, 0, 0, 16, 1);
    p.label(Label::Pass);
    p.classic(filter);
    p.assemble()
}

/// struct bpf_insn: operation, registers (source in the upper half), offset, immediate.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Where a jump leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Label {
    Tag(u8),
    NoTag(u8),
    Ipv4,
    Ipv6,
    Transport,
    Tcp,
    Udp,
    Syn,
    LookUp,
    Pass,
    /// An instruction of the ring's own filter.
    Classic(usize),
}

/// Collects instructions whose jumps name labels.
#[derive(Default)]
struct Assembler {
    instructions: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
    labels: Vec<(Label, usize)>,
}

/// Registers R6 to R9 survive calls: the packet, where the network layer begins, a number at hand, where the transport
/// begins. R10 is the frame of the stack, which grows down.
const PACKET: u8 = 6;
const NETWORK: u8 = 7;
const NUMBER: u8 = 8;
const TRANSPORT: u8 = 9;
const FRAME: u8 = 10;
/// Where the key and what is read of the packet are, from the frame; both on whole words.
const KEY_AT: i16 = -(KEY_LEN as i16);
const BUFFER_AT: i16 = KEY_AT - 40;

impl Assembler {
    fn push(&mut self, code: u32, dst: u8, src: u8, offset: i16, immediate: i32) {
        self.instructions.push(Instruction { code: code as u8, registers: src << 4 | dst, offset, immediate });
    }

    fn label(&mut self, label: Label) {
        self.labels.push((label, self.instructions.len()));
    }

    /// `dst operation= immediate`, in 64 bits.
    fn compute(&mut self, operation: u32, dst: u8, immediate: i32) {
        self.push(BPF_ALU64 | operation | libc::BPF_K, dst, 0, 0, immediate);
    }

    fn copy(&mut self, dst: u8, src: u8) {
        self.push(BPF_ALU64 | BPF_MOV | libc::BPF_X, dst, src, 0, 0);
    }

    fn jump_if(&mut self, condition: u32, register: u8, immediate: i32, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(libc::BPF_JMP | condition | libc::BPF_K, register, 0, 0, immediate);
    }

    fn go_to(&mut self, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(libc::BPF_JMP | libc::BPF_JA, 0, 0, 0, 0);
    }

    fn call(&mut self, helper: i32) {
        self.push(libc::BPF_JMP | BPF_CALL, 0, 0, 0, helper);
    }

    /// Reads `len` bytes of the packet into the buffer, from `register` plus `offset` on; a packet that ends before passes.
    fn read(&mut self, register: u8, offset: i32, len: i32) {
        self.copy(1, PACKET);
        self.copy(2, register);
        self.compute(libc::BPF_ADD, 2, offset);
        self.copy(3, FRAME);
        self.compute(libc::BPF_ADD, 3, BUFFER_AT.into());
        self.compute(BPF_MOV, 4, len);
        self.call(BPF_FUNC_SKB_LOAD_BYTES);
        self.jump_if(BPF_JNE, 0, 0, Label::Pass);
    }

    /// Loads a number of the buffer as it lies there.
    fn load(&mut self, size: u32, dst: u8, at: i16) {
        self.push(libc::BPF_LDX | libc::BPF_MEM | size, dst, FRAME, BUFFER_AT + at, 0);
    }

    /// Loads 16 bits of the buffer in network order.
    fn load_be16(&mut self, dst: u8, at: i16) {
        self.load(libc::BPF_H, dst, at);
        self.push(libc::BPF_ALU | BPF_END | BPF_TO_BE, dst, 0, 0, 16);
    }

    fn store_key(&mut self, size: u32, src: u8, at: i16) {
        self.push(libc::BPF_STX | libc::BPF_MEM | size, FRAME, src, KEY_AT + at, 0);
    }

    /// The arguments of the map's helpers: the map and the key.
    fn map_and_key(&mut self, map: i32) {
        self.push(libc::BPF_LD | BPF_DW | libc::BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, map);
        self.push(0, 0, 0, 0, 0);
        self.copy(2, FRAME);
        self.compute(libc::BPF_ADD, 2, KEY_AT.into());
    }

    fn give(&mut self, value: i32) {
        self.compute(BPF_MOV, 0, value);
        self.push(libc::BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }

    /// A classic program in the same terms: its accumulator is R0, its index register R7. Both kinds know the same loads from
    /// the packet (Documentation/bpf/classic_vs_extended.rst), which leave R0 only; a load behind the end gives 0.
    fn classic(&mut self, program: &[sock_filter]) {
        for (at, &sock_filter { code, jt, jf, k }) in program.iter().enumerate() {
            self.label(Label::Classic(at));
            let (code, value) = (u32::from(code), i32::try_from(k).unwrap_or(i32::MAX));
            let target = |steps: u32| Label::Classic(at + 1 + steps as usize);
            match code & 0x07 {
                libc::BPF_LD if code & 0xe0 == libc::BPF_IND => self.push(code, 0, NETWORK, 0, value),
                libc::BPF_LD => self.push(code, 0, 0, 0, value),
                libc::BPF_LDX => self.compute(BPF_MOV, NETWORK, value),
                libc::BPF_ALU => self.compute(code & 0xf0, 0, value),
                libc::BPF_JMP if code & 0xf0 == libc::BPF_JA => self.go_to(target(k)),
                libc::BPF_JMP => {
                    debug_assert_eq!(jf, 0, "our filters fall through");
                    self.jump_if(code & 0xf0, 0, value, target(jt.into()));
                }
                _ => self.give(value),
            }
        }
    }

    fn assemble(mut self) -> Vec<Instruction> {
        for (at, target) in &self.jumps {
            let (_, to) = self.labels.iter().find(|(label, _)| label == target).expect("every label used is placed");
            self.instructions[*at].offset = i16::try_from(*to as i64 - *at as i64 - 1).expect("the program is short");
        }
        self.instructions
    }
}

// include/uapi/linux/bpf.h and bpf_common.h.
const BPF_PSEUDO_MAP_FD: u8 = 1;
const BPF_FUNC_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_FUNC_SKB_LOAD_BYTES: i32 = 26;
const BPF_ALU64: u32 = 0x07;
const BPF_DW: u32 = 0x18;
const BPF_XADD: u32 = 0xc0;
const BPF_MOV: u32 = 0xb0;
const BPF_END: u32 = 0xd0;
const BPF_TO_BE: u32 = 0x08;
const BPF_JNE: u32 = 0x50;
const BPF_CALL: u32 = 0x80;
const BPF_EXIT: u32 = 0x90;
