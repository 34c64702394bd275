//! The shunt beside the header archive: packets behind the capture duration end in the kernel, and nothing else changes.
//!
//! Needs root for network namespaces and eBPF; without it the test says that it is skipped, and fails where CI=true.

mod support;

use nix::sys::signal::Signal;
use support::frames::{ACK, FIN, PSH, SYN, Segment};
use support::lab::{Lab, privileged};
use support::process::{Metrics, Place, Running};
use support::{ms, until};

#[test]
fn a_long_connection_has_the_same_file_and_its_later_packets_stay_in_the_kernel() {
    if !privileged("a_long_connection_has_the_same_file_and_its_later_packets_stay_in_the_kernel") {
        return;
    }
    let [with, without] = ["auto", "off"].map(archive);
    assert_eq!((without.seen, without.shunted), (without.sent, 0.0));
    assert_eq!(with.seen + with.shunted, with.sent, "every packet is counted, wherever it ended");
    assert!(with.shunted > with.sent / 3.0, "{} of {}", with.shunted, with.sent);
    // How many packets a second has, depends on when the sender was at work.
    assert!((with.kept + with.discarded - with.sent).abs() < 1.0, "{} kept, {} discarded", with.kept, with.discarded);
    assert!((without.kept + without.discarded - without.sent).abs() < 1.0);
    for outcome in [&with, &without] {
        let [long, next] = outcome.files[..] else { panic!("{:?}", outcome.files) };
        assert!((20..250).contains(&long) && next == 6, "{:?}", outcome.files);
        assert_eq!(outcome.kept, (long + next) as f64);
    }
}

struct Outcome {
    sent: f64,
    seen: f64,
    shunted: f64,
    kept: f64,
    discarded: f64,
    /// Packets in each file, the first connection's first.
    files: Vec<usize>,
}

/// Archives a connection of two seconds and more, of which one second is kept, and the next between the same ends.
fn archive(shunt: &str) -> Outcome {
    let (lab, place) = (Lab::new(), Place::new());
    let flags = ["--interface=near", "--uuid.source=generated", "--captureduration=1s", "--uuidwaitduration=500ms"];
    let mut running = Running::headers(&place, &lab.near, [&flags[..], &["--idletimeout=2s", "--shunt", shunt]].concat());
    assert_eq!(running.log().contains("are dropped in the kernel"), shunt == "auto", "{}", running.log());
    let wire = lab.far.wire("far");
    let up = Segment::new("203.0.113.7:50000", "198.51.100.9:443", ACK | PSH).payload(700);
    let mut sent = 0.0;
    let mut send = |segment: &Segment| {
        wire.send(&segment.ethernet(&[]));
        sent += 1.0;
    };
    handshake(&mut send, &up, 1000);
    for n in 0..250 {
        send(&up.clone().seq(1001 + 700 * n, 1));
        send(&Segment { payload: Vec::new(), ..up.reply(ACK).seq(1, 1701 + 700 * n) });
        std::thread::sleep(ms(10));
    }
    // Its end is seen, and so is the next one.
    end(&mut send, &up, 1001 + 700 * 250);
    handshake(&mut send, &up, 9_000_000);
    send(&up.clone().seq(9_000_001, 1));
    end(&mut send, &up, 9_000_701);
    until("both connections have files", || place.uuids().len() == 2);
    // The hosts themselves send reports of multicast groups now and then, which the filter of the rings lets pass.
    let seen = |m: &Metrics| m.sum("flowarc_frames_total") - m.child("flowarc_frames_total", "outcome", "not_tcp");
    let counted = |m: &Metrics| seen(m) + m.sum("flowarc_shunt_packets_total");
    until("all is counted", || counted(&running.metrics()) >= sent);
    let m = running.metrics();
    running.stop(Signal::SIGTERM);
    let mut files: Vec<_> = place.archive().into_values().map(|file| (file.records[0].ts, file.records.len())).collect();
    files.sort_unstable();
    Outcome {
        sent,
        seen: seen(&m),
        shunted: m.sum("flowarc_shunt_packets_total"),
        kept: m.child("flowarc_frames_total", "outcome", "kept"),
        discarded: m.child("pcap_missed_packets_total", "saverstate", "discardingpackets"),
        files: files.into_iter().map(|(_, packets)| packets).collect(),
    }
}

fn handshake(send: &mut impl FnMut(&Segment), up: &Segment, isn: u32) {
    let bare = Segment { payload: Vec::new(), ..up.clone() };
    send(&bare.clone().with(SYN).seq(isn, 0));
    send(&bare.reply(SYN | ACK).seq(0, isn + 1));
    send(&bare.with(ACK).seq(isn + 1, 1));
}

fn end(send: &mut impl FnMut(&Segment), up: &Segment, seq: u32) {
    let bare = Segment { payload: Vec::new(), ..up.clone() };
    send(&bare.clone().with(FIN | ACK).seq(seq, 1));
    send(&bare.reply(FIN | ACK).seq(1, seq + 1));
}
