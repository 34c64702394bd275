//! The shunt: packets of flows that are cut off end in the kernel, before they are copied into a ring.
//!
//! An eBPF socket filter (Documentation/bpf) looks each packet's 5-tuple up in an LRU hash map, and drops and counts those
//! that are found. To all else it does what the ring's own filter does, which is part of it: to what it does not understand,
//! to fragments, and to packets with SYN, FIN or RST, so that beginnings and ends are seen. A SYN also lets the packets of its
//! direction pass again, since a new connection may begin. The program is assembled here and loaded by bpf(2): no compiler is
//! needed.

mod program;

use super::LinkType;
use super::filter::RingFilter;
use crate::key::Endpoint;
use program::program;
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
    /// Whether a SYN has come since, and packets pass.
    pub passing: bool,
}

/// Why there is no shunt.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source} (needs CAP_BPF, or CAP_SYS_ADMIN before Linux 5.8)")]
pub struct ShuntError {
    step: &'static str,
    source: io::Error,
}

impl Shunt {
    /// Loads the program, with room for so many directions of flows, for rings with this filter and snap length.
    ///
    /// # Errors
    /// Fails where the kernel does not let this process use eBPF, or is too old.
    pub fn load(flows: u32, filter: RingFilter, snaplen: u32) -> Result<Self, ShuntError> {
        let (key_size, value_size) = (KEY_LEN as u32, size_of::<Value>() as u32);
        let create = MapCreate { map_type: BPF_MAP_TYPE_LRU_HASH, key_size, value_size, max_entries: flows, flags: 0 };
        let map = new_descriptor(BPF_MAP_CREATE, &create).map_err(|source| ShuntError { step: "create an eBPF map", source })?;
        let instructions = program(map.as_raw_fd(), &filter.program(LinkType::Ethernet, snaplen));
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

    /// Drops packets of this direction from now on, and counts from nothing. The one that was looked up longest ago goes when there is no room.
    ///
    /// # Errors
    /// Fails where the kernel has no memory.
    pub fn insert(&self, key: &ShuntKey) -> io::Result<()> {
        self.element(BPF_MAP_UPDATE_ELEM, key, Some(&mut [0; 3]))
    }

    /// Lets packets of this direction pass again; what was dropped of it, if it was in the map.
    pub fn remove(&self, key: &ShuntKey) -> Option<Shunted> {
        let mut value = [0; 3];
        if self.element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, key, Some(&mut value)).is_ok() {
            return Some(Shunted::from(value));
        }
        // Before Linux 5.14 in two steps, between which a packet may be dropped and not be counted.
        let last = self.dropped(key);
        let _ = self.element(BPF_MAP_DELETE_ELEM, key, None);
        last
    }

    /// What was dropped of this direction; `None` if it is not dropped (any more).
    pub fn dropped(&self, key: &ShuntKey) -> Option<Shunted> {
        let mut value = [0; 3];
        self.element(BPF_MAP_LOOKUP_ELEM, key, Some(&mut value)).ok()?;
        Some(Shunted::from(value))
    }

    fn element(&self, command: libc::c_int, key: &ShuntKey, value: Option<&mut Value>) -> io::Result<()> {
        let key = key.encode();
        let map_fd = self.map.as_raw_fd() as u32;
        // A command that takes no value refuses any.
        let value = value.map_or(0, |v| v.as_mut_ptr() as u64);
        let element = Element { map_fd, pad: 0, key: key.as_ptr() as u64, value, flags: 0 };
        bpf(command, &element).map(drop)
    }
}

impl Shunted {
    /// What was dropped since an earlier look.
    pub fn since(&self, before: &Self) -> Self {
        let (packets, bytes) = (self.packets.saturating_sub(before.packets), self.bytes.saturating_sub(before.bytes));
        Self { packets, bytes, passing: self.passing }
    }
}

impl From<Value> for Shunted {
    fn from([packets, bytes, passing]: Value) -> Self {
        Self { packets, bytes, passing: passing != 0 }
    }
}

/// What the map holds of a direction: packets and bytes dropped, and whether a SYN has come.
type Value = [u64; 3];

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

/// Two addresses, two ports, a protocol, padding to whole words.
const KEY_LEN: usize = 40;
const LICENSE: &CStr = c"Apache-2.0";

// include/uapi/linux/bpf.h and bpf_common.h.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
const BPF_MAP_TYPE_LRU_HASH: u32 = 9;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::filter;
    use crate::key::Address;
    use libc::sock_filter;
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
                let expected = Shunted { packets: 2, bytes: 2 * data.len() as u64, passing: false };
                assert_eq!(shunt.dropped(&key), Some(expected));
                let reverse = ShuntKey { src: key.dst, dst: key.src, ..key };
                assert_eq!(shunt.dropped(&reverse), None, "the other direction is another key");
                assert!(lab.passes(&frame(six, tags, 6, 0x10, 1001)), "another port");
                assert!(lab.passes(&frame(six, tags, 17, 0x10, 1000)), "another protocol");
                for end in [0x11, 0x14, 0x01, 0x04] {
                    assert!(lab.passes(&frame(six, tags, 6, end, 1000)), "FIN and RST pass");
                }
                assert!(!lab.passes(&data), "and leave it there");
                assert!(lab.passes(&frame(six, tags, 6, 0x02, 1000)), "SYN passes");
                assert!(lab.passes(&data), "and lets the others pass");
                let kept = Shunted { packets: 3, bytes: 3 * data.len() as u64, passing: true };
                assert_eq!(shunt.dropped(&key), Some(kept), "what was counted is not lost");
                shunt.insert(&key).unwrap();
                assert!(!lab.passes(&data));
                assert_eq!(shunt.remove(&key).map(|s| s.packets), Some(1));
                assert!(lab.passes(&data) && shunt.remove(&key).is_none());
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

    #[test]
    fn what_passes_the_shunt_goes_through_the_rings_own_filter() {
        let test = "what_passes_the_shunt_goes_through_the_rings_own_filter";
        let Some((shunt, lab)) = lab_with(test, RingFilter::Tcp) else { return };
        let classic = socket_with(&filter::tcp_filter(LinkType::Ethernet, 256));
        let extension = |next| {
            let mut data = frame(true, 0, next, 0x10, 7);
            data.extend([0; 40]);
            data
        };
        let pppoe = [&[2; 12][..], &[0x88, 0x64, 0x11, 0, 0, 1, 0, 40, 0, 0x21], &frame(false, 0, 6, 0x10, 7)[14..]].concat();
        let mut frames = vec![vec![0; 60], pppoe];
        for tags in 0..4 {
            for six in [false, true] {
                frames.extend([6, 17, 1, 58].map(|protocol| frame(six, tags, protocol, 0x10, 7)));
            }
        }
        frames.extend([0, 43, 44, 50, 60].map(extension));
        let whole = frame(false, 1, 6, 0x10, 7);
        frames.extend((1..whole.len()).map(|len| whole[..len].to_vec()));
        let passed = frames.iter().filter(|f| lab.passes(f)).count();
        for data in &frames {
            assert_eq!(lab.passes(data), classic.passes(data), "{data:02x?}");
        }
        assert!(passed > 10 && passed < frames.len() - 10, "{passed} of {}", frames.len());
        shunt.insert(&key(false, 6, 7)).unwrap();
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
        lab_with(test, RingFilter::All)
    }

    /// A socket that runs a classic filter.
    fn socket_with(program: &[sock_filter]) -> Lab {
        let (near, far) = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty()).unwrap();
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        // SAFETY: the option's value is a sock_fprog whose instructions live through the call; the kernel only reads them.
        let status = unsafe {
            libc::setsockopt(
                far.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of_val(&program) as libc::socklen_t,
            )
        };
        assert_eq!(status, 0);
        Lab { near, far }
    }

    fn lab_with(test: &str, filter: RingFilter) -> Option<(Shunt, Lab)> {
        match Shunt::load(100, filter, 65_535) {
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
