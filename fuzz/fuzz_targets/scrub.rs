//! What is kept of a frame of any bytes does not depend on a byte behind its headers. The input's first byte says which link
//! type and policy, the rest is the frame.

#![no_main]

use flowarc::capture::{Frame, LinkType};
use flowarc::time::Timestamp;
use libfuzzer_sys::fuzz_target;
use memory::{Setup, check_payload_independence};

#[path = "../../tests/corpus/memory.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod memory;

fuzz_target!(|data: &[u8]| {
    if let [first, data @ ..] = data {
        let link = LINKS[usize::from(first >> 4) % LINKS.len()];
        let frame = Frame { ts: Timestamp::ZERO, wire_len: data.len() as u32, link, interface: 0, data };
        check_payload_independence(&frame, Setup::number(first & 0x0f).policy);
    }
});

const LINKS: [LinkType; 6] =
    [LinkType::Ethernet, LinkType::Null, LinkType::Loop, LinkType::Raw, LinkType::LinuxSll, LinkType::LinuxSll2];
