//! The TCP packets of every file, counted against the manifest.

use crate::manifest::captures;
use crate::memory::{Setup, replay};
use flowarc::capture::file::FileSource;
use flowarc::capture::{PacketSource, Progress};
use flowarc::packet::{self, Transport};
use std::path::Path;

#[test]
fn every_capture_has_the_tcp_packets_of_the_manifest() {
    let Some(captures) = captures() else { return };
    let mut differences = Vec::new();
    let mut explained = 0;
    for capture in &captures {
        let known = DIFFERENCES.iter().flat_map(|d| d.files.iter().map(move |(path, tcp)| (path, *tcp, d.reason)));
        let (expected, reason) = match known.into_iter().find(|(path, ..)| capture.name.ends_with(**path)) {
            Some((_, tcp, reason)) => {
                explained += 1;
                assert_ne!(tcp, capture.tcp, "{}: this is no difference", capture.name);
                (tcp, reason)
            }
            None => (capture.tcp, "as the manifest says"),
        };
        let found = tcp_packets(&capture.path);
        if found != expected {
            differences.push(format!("{}: expected {expected} ({reason}), found {found}", capture.name));
        }
    }
    assert!(differences.is_empty(), "{} of {} files differ:\n{}", differences.len(), captures.len(), differences.join("\n"));
    assert_eq!(explained, DIFFERENCES.iter().map(|d| d.files.len()).sum::<usize>(), "files with a difference");
}

#[test]
fn every_capture_goes_through_a_shard_whatever_its_setup() {
    let Some(captures) = captures() else { return };
    for capture in captures {
        let bytes = std::fs::read(&capture.path).expect("the manifest lists files that are there");
        for setup in [0b0100_0000, 0b1111_0011] {
            let stats = replay(bytes.clone(), Setup::number(setup)).stats;
            assert!(stats.frames_total() <= capture.frames.max(1), "{}: frames that are not there", capture.name);
        }
    }
}

/// Packets with a TCP header, as the manifest counts: later fragments have none.
fn tcp_packets(path: &Path) -> u64 {
    let mut packets = 0;
    let Ok(mut source) = FileSource::open(path) else { return 0 };
    while let Ok(Progress::Frames(_)) = source.next_batch(&mut |frame| {
        let parsed = packet::parse(frame.link, frame.data);
        packets += u64::from(parsed.is_ok_and(|p| matches!(p.transport, Transport::Tcp { .. })));
    }) {}
    packets
}

/// Files whose TCP packets the manifest counts otherwise than we do, and who is right.
struct Difference {
    reason: &'static str,
    /// The end of a path, and our count.
    files: &'static [(&'static str, u64)],
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        reason: "behind two VLAN tags and PPPoE, where the manifest does not look",
        files: &[("Pcap++Test/PcapExamples/one_http_stream_rst.pcap", 10), ("btest/Traces/pppoe-over-qinq.pcap", 86)],
    },
    Difference { reason: "behind LLC and SNAP, where the manifest does not look", files: &[("btest/Traces/snap-tcp.pcap", 8)] },
    Difference {
        reason: "one packet has an IP version that is not its EtherType's (6 in 0x0800; 2): no host would take it as TCP",
        files: &[("tcpdump/tests/kday3.pcap", 8), ("Traces/modbus/fuzz-1011.pcap", 5)],
    },
    Difference {
        reason: "the IPv4 total length, 11, is less than the header's: no host would take it as TCP",
        files: &[("Packet++Test/PacketExamples/ipv4-malformed.pcap", 0)],
    },
];
