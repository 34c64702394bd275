//! Packets of any bytes are analysed without panic, and every one is counted.

#![no_main]

use flowarc::analysis::Analyzer;
use flowarc::capture::LinkType;
use flowarc::time::Timestamp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut analyzer = Analyzer::new(LinkType::Raw);
    let mut packets = 0;
    let mut rest = data;
    // Each packet: how long, how much later, its bytes.
    while let Some((&[len, later], after)) = rest.split_first_chunk() {
        let (packet, next) = after.split_at(usize::from(len).min(after.len()));
        packets += 1;
        analyzer.handle_packet(Timestamp::from_nanos(packets * 1_000 + u64::from(later) * 1_000_000), 1_000, packet);
        rest = next;
    }
    if let Some(tcp) = analyzer.finish() {
        assert_eq!(tcp.packets, packets);
        assert_eq!(tcp.client.packets + tcp.server.packets + tcp.unreadable_packets + tcp.foreign_packets, packets,);
        for (_, end) in tcp.ends() {
            assert!(end.unique_bytes <= end.payload_bytes);
        }
    }
});
