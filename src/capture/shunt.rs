//! The shunt: packets of flows that are cut off end in the kernel, before they are copied into a ring.
//!
//! An eBPF socket filter (Documentation/bpf) looks each packet's 5-tuple up in an LRU hash map, and drops and counts those
//! that are found. Everything that the program does not understand passes, as do fragments, and packets with SYN, FIN or
//! RST, so that beginnings and ends are seen; a SYN also takes its direction out of the map, since a new connection begins.
//! The program is assembled here and loaded by bpf(2): no compiler is needed.
//!
//! It reads Ethernet frames, with up to two VLAN tags in the data; the outermost is normally in the packet's metadata.

use crate::key::Endpoint;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A program and its map, for all rings of one thread.
#[derive(Debug)]
pub struct Shunt {
    map: OwnedFd,
    program: OwnedFd,
}

/// One direction of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShuntKey {
    /// The sender.
    pub src: Endpoint,
    /// The receiver.
    pub dst: Endpoint,
    /// The IP protocol: 6 or 17, others are never looked up.
    pub protocol: u8,
}

/// What was dropped of one direction of a flow since it was put in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shunted {
    /// Packets.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// Why there is no shunt.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source} (needs CAP_BPF, or CAP_SYS_ADMIN before Linux 5.8)")]
pub struct ShuntError {
    step: &'static str,
    source: io::Error,
}

impl Shunt {
    /// Loads the program, with room for so many directions of flows; `snaplen` bytes are captured of what passes.
    ///
    /// # Errors
    /// Fails where the kernel does not let this process use eBPF, or is too old.
    pub fn load(flows: u32, snaplen: u32) -> Result<Self, ShuntError> {
        let create =
            MapCreate { map_type: BPF_MAP_TYPE_LRU_HASH, key_size: KEY_LEN as u32, value_size: 16, max_entries: flows, flags: 0 };
        let map = new_descriptor(BPF_MAP_CREATE, &create).map_err(|source| ShuntError { step: "create an eBPF map", source })?;
        let instructions = program(map.as_raw_fd(), snaplen);
        let load = ProgLoad {
            prog_type: BPF_PROG_TYPE_SOCKET_FILTER,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: 0,
        };
        let program =
            new_descriptor(BPF_PROG_LOAD, &load).map_err(|source| ShuntError { step: "load an eBPF filter", source })?;
        Ok(Self { map, program })
    }

    /// Makes a packet socket run the program, in the place of the filter that it has.
    ///
    /// # Errors
    /// Fails where the kernel refuses; the socket keeps its filter.
    pub fn attach(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let program = self.program.as_raw_fd();
        // SAFETY: the option's value is an int (socket(7)) that outlives the call; the kernel only reads it.
        let status = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_BPF,
                (&raw const program).cast(),
                size_of_val(&program) as libc::socklen_t,
            )
        };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Drops packets of this direction from now on. The one that was looked up longest ago goes when there is no room.
    ///
    /// # Errors
    /// Fails where the kernel has no memory.
    pub fn insert(&self, key: &ShuntKey) -> io::Result<()> {
        self.element(BPF_MAP_UPDATE_ELEM, key, Some(&mut [0; 2]))
    }

    /// Lets packets of this direction pass again.
    pub fn remove(&self, key: &ShuntKey) {
        // That it was not there is as good.
        let _ = self.element(BPF_MAP_DELETE_ELEM, key, None);
    }

    /// What was dropped of this direction; `None` if it is not dropped (any more).
    pub fn dropped(&self, key: &ShuntKey) -> Option<Shunted> {
        let mut value = [0; 2];
        self.element(BPF_MAP_LOOKUP_ELEM, key, Some(&mut value)).ok()?;
        Some(Shunted { packets: value[0], bytes: value[1] })
    }

    fn element(&self, command: libc::c_int, key: &ShuntKey, value: Option<&mut [u64; 2]>) -> io::Result<()> {
        let key = key.encode();
        let map_fd = self.map.as_raw_fd() as u32;
        // A command that takes no value refuses any.
        let value = value.map_or(0, |v| v.as_mut_ptr() as u64);
        let element = Element { map_fd, pad: 0, key: key.as_ptr() as u64, value, flags: 0 };
        bpf(command, &element).map(drop)
    }
}

impl ShuntKey {
    /// As the program puts it together.
    fn encode(&self) -> [u8; KEY_LEN] {
        let mut key = [0; KEY_LEN];
        key[..16].copy_from_slice(&self.src.addr.0);
        key[16..32].copy_from_slice(&self.dst.addr.0);
        key[32..34].copy_from_slice(&self.src.port.to_be_bytes());
        key[34..36].copy_from_slice(&self.dst.port.to_be_bytes());
        key[36] = self.protocol;
        key
    }
}

/// union bpf_attr (include/uapi/linux/bpf.h), the members that each command reads.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a struct laid out as this command's part of union bpf_attr; the
    // addresses in it are of live values of the sizes that the map was made with, or of the program's own length.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn new_descriptor<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the call has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// struct bpf_insn: operation, registers (source in the upper half), offset, immediate.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Instruction {
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

    fn assemble(mut self) -> Vec<Instruction> {
        for (at, target) in &self.jumps {
            let (_, to) = self.labels.iter().find(|(label, _)| label == target).expect("every label used is placed");
            self.instructions[*at].offset = i16::try_from(*to as i64 - *at as i64 - 1).expect("the program is short");
        }
        self.instructions
    }
}

fn program(map: i32, snaplen: u32) -> Vec<Instruction> {
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
    p.compute(BPF_MOV, 1, 1);
    p.push(libc::BPF_STX | BPF_XADD | BPF_DW, 0, 1, 0, 0);
    // The first member of struct __sk_buff is the length.
    p.push(libc::BPF_LDX | libc::BPF_MEM | libc::BPF_W, 1, PACKET, 0, 0);
    p.push(libc::BPF_STX | BPF_XADD | BPF_DW, 0, 1, 8, 0);
    p.give(0);

    p.label(Label::Syn);
    p.map_and_key(map);
    p.call(BPF_FUNC_MAP_DELETE_ELEM);
    p.label(Label::Pass);
    p.give(i32::try_from(snaplen).unwrap_or(i32::MAX));
    p.assemble()
}

/// Two addresses, two ports, a protocol, padding to whole words.
const KEY_LEN: usize = 40;
const LICENSE: &CStr = c"Apache-2.0";

// include/uapi/linux/bpf.h and bpf_common.h.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_MAP_TYPE_LRU_HASH: u32 = 9;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
const BPF_PSEUDO_MAP_FD: u8 = 1;
const BPF_FUNC_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_FUNC_MAP_DELETE_ELEM: i32 = 3;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Address;
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
    use std::os::fd::AsFd;

    /// A socket of any kind runs the filter on the bytes that it receives: no interface is needed.
    #[test]
    fn what_was_put_in_is_dropped_and_counted_and_all_else_passes() {
        let Some((shunt, lab)) = lab("what_was_put_in_is_dropped_and_counted_and_all_else_passes") else { return };
        for six in [false, true] {
            for tags in 0..3 {
                let data = frame(six, tags, 6, 0x10, 1000);
                let key = key(six, 6, 1000);
                assert!(lab.passes(&data), "not put in yet");
                shunt.insert(&key).unwrap();
                assert!(!lab.passes(&data) && !lab.passes(&data), "{six} {tags}");
                assert_eq!(shunt.dropped(&key), Some(Shunted { packets: 2, bytes: 2 * data.len() as u64 }));
                let reverse = ShuntKey { src: key.dst, dst: key.src, ..key };
                assert_eq!(shunt.dropped(&reverse), None, "the other direction is another key");
                assert!(lab.passes(&frame(six, tags, 6, 0x10, 1001)), "another port");
                assert!(lab.passes(&frame(six, tags, 17, 0x10, 1000)), "another protocol");
                for end in [0x11, 0x14, 0x01, 0x04] {
                    assert!(lab.passes(&frame(six, tags, 6, end, 1000)), "FIN and RST pass");
                }
                assert!(!lab.passes(&data), "and leave it there");
                assert!(lab.passes(&frame(six, tags, 6, 0x02, 1000)), "SYN passes");
                assert!(lab.passes(&data), "and takes it out");
                shunt.insert(&key).unwrap();
                shunt.remove(&key);
                assert!(lab.passes(&data));
            }
        }
        shunt.insert(&key(false, 17, 53)).unwrap();
        assert!(!lab.passes(&frame(false, 0, 17, 0, 53)));
    }

    #[test]
    fn what_the_program_does_not_understand_passes() {
        let Some((shunt, lab)) = lab("what_the_program_does_not_understand_passes") else { return };
        shunt.insert(&key(false, 6, 1000)).unwrap();
        let whole = frame(false, 0, 6, 0x10, 1000);
        for len in 1..14 + 20 + 14 {
            assert!(lab.passes(&whole[..len]), "cut after {len} bytes");
        }
        for (at, value) in [(20, 0x20), (21, 1), (12, 9), (23, 1)] {
            let mut data = whole.clone();
            data[at] = value;
            assert!(lab.passes(&data), "byte {at}: fragments, other types, other protocols");
        }
        assert!(lab.passes(&frame(false, 3, 6, 0x10, 1000)), "three tags");
        assert!(!lab.passes(&whole));
    }

    /// Sends frames to a socket that runs the program.
    struct Lab {
        near: OwnedFd,
        far: OwnedFd,
    }

    impl Lab {
        fn passes(&self, frame: &[u8]) -> bool {
            // A refused datagram is an error to the sender (net/unix/af_unix.c) or nothing at all.
            let _ = send(self.near.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT);
            recv(self.far.as_raw_fd(), &mut [0; 200], MsgFlags::MSG_DONTWAIT).is_ok()
        }
    }

    fn lab(test: &str) -> Option<(Shunt, Lab)> {
        match Shunt::load(100, 65_535) {
            Ok(shunt) => {
                let (near, far) = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty()).unwrap();
                shunt.attach(far.as_fd()).unwrap();
                Some((shunt, Lab { near, far }))
            }
            Err(error) => {
                assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must run {test} with CAP_BPF: {error}");
                eprintln!("SKIPPED: {test}: {error}");
                None
            }
        }
    }

    fn key(six: bool, protocol: u8, port: u16) -> ShuntKey {
        let address = |last| {
            if six { Address([0x20, 1, 13, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]) } else { Address::v4([192, 0, 2, last]) }
        };
        ShuntKey { src: Endpoint { addr: address(1), port }, dst: Endpoint { addr: address(2), port: 80 }, protocol }
    }

    fn frame(six: bool, tags: usize, protocol: u8, flags: u8, port: u16) -> Vec<u8> {
        let key = key(six, protocol, port);
        let mut data = vec![2; 12];
        for _ in 0..tags {
            data.extend([0x81, 0, 0, 7]);
        }
        if six {
            data.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 64]);
            data.extend(key.src.addr.0);
            data.extend(key.dst.addr.0);
        } else {
            data.extend([0x08, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0]);
            data.extend(key.src.addr.as_v4().unwrap());
            data.extend(key.dst.addr.as_v4().unwrap());
        }
        data.extend(key.src.port.to_be_bytes());
        data.extend(key.dst.port.to_be_bytes());
        data.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        data
    }
}
