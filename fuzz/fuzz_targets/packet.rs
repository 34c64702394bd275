//! A frame of any bytes is parsed without a panic, and no header reaches past what was captured.

#![no_main]

use flowarc::capture::LinkType;
use flowarc::packet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for link in LINKS {
        if let Ok(packet) = packet::parse(link, data) {
            assert!(packet.link_len + packet.ip_len <= packet.header_len, "{link:?}: {packet:?}");
            assert!(packet.header_len <= data.len(), "{link:?}: {packet:?}");
        }
    }
});

const LINKS: [LinkType; 7] = [
    LinkType::Ethernet,
    LinkType::Null,
    LinkType::Loop,
    LinkType::Raw,
    LinkType::LinuxSll,
    LinkType::LinuxSll2,
    LinkType::Other(147),
];
