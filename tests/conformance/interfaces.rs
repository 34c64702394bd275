//! Which frames are captured: interfaces and addresses that come and go, overload, frames seen twice.

use crate::support::frames::{ACK, PSH, SYN, Segment};
use crate::support::lab::{Conversation, Lab, Namespace, privileged};
use crate::support::process::{Place, Running};
use crate::support::{archive, ms, secs, until};
use nix::sys::signal::Signal;

/// T5: whatever the address, a connection to it is captured; on a host of nothing but loopback too.
#[test]
fn connections_to_every_kind_of_address_are_captured() {
    if !privileged("connections_to_every_kind_of_address_are_captured") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    lab.near.ip("address add 192.0.2.7/32 dev near");
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &[]);
    let mut talk = |uuid: &str, mut conversation: Conversation| {
        events.open(uuid, conversation.local, conversation.remote);
        conversation.talk();
        conversation.close();
    };
    talk("primary", lab.connect("192.0.2.1"));
    talk("secondary", lab.connect("192.0.2.7"));
    talk("v6", lab.connect("2001:db8::1"));
    let listener = lab.near.listen("127.0.0.1:0");
    let client = lab.near.connect(listener.local_addr().unwrap());
    talk("loopback", Conversation::new(client, listener.accept().unwrap().0));
    until("all are archived", || place.uuids() == ["loopback", "primary", "secondary", "v6"]);
    running.stop(Signal::SIGTERM);

    let (alone, place) = (Namespace::new(), Place::new());
    let (mut running, mut events) = Running::with_events(&place, &alone, &[]);
    let listener = alone.listen("127.0.0.1:0");
    let client = alone.connect(listener.local_addr().unwrap());
    let mut conversation = Conversation::new(client, listener.accept().unwrap().0);
    // D10: both ends are ours, and tcp-info tells of both.
    events.open("server", conversation.local, conversation.remote);
    events.open("client", conversation.remote, conversation.local);
    conversation.talk();
    conversation.close();
    until("both names are there", || place.uuids() == ["client", "server"]);
    assert_eq!(place.file("client").packed, place.file("server").packed);
    running.stop(Signal::SIGTERM);
}

/// D14: what the kernel drops is counted, and so is everything that it does not. D21: a burst beyond any queue of the
/// predecessor's is kept whole.
#[test]
fn frames_that_the_kernel_drops_are_counted_and_a_burst_that_fits_the_ring_is_kept_whole() {
    if !privileged("frames_that_the_kernel_drops_are_counted_and_a_burst_that_fits_the_ring_is_kept_whole") {
        return;
    }
    for (ring, fits) in [("16MB", true), ("300KB", false)] {
        let (lab, place) = (Lab::new(), Place::new());
        let flags = ["--interface=near", "--ring.size", ring];
        let (mut running, mut events) = Running::with_events(&place, &lab.near, &flags);
        let wire = lab.far.wire("far");
        let first = Segment::new("203.0.113.45:40000", "198.51.100.1:80", ACK | PSH).payload(10);
        events.open("burst", first.to, first.from);
        running.wait_for("pcap_demuxer_uuids_total", 1.0);
        running.signal(Signal::SIGSTOP);
        for n in 0..BURST {
            wire.send(&first.clone().seq(n * 10, 1).ethernet(&[]));
        }
        running.signal(Signal::SIGCONT);
        let handled = |running: &Running| {
            let m = running.metrics();
            (m.sum("flowarc_ring_frames_total"), m.sum("flowarc_kernel_drops_total"), m.sum("flowarc_frames_total"))
        };
        until("all frames are accounted for", || {
            let (ring, drops, frames) = handled(&running);
            ring >= f64::from(BURST) && ring - drops == frames
        });
        let (_, drops, _) = handled(&running);
        running.stop(Signal::SIGTERM);
        let file = place.file("burst");
        assert_eq!(drops > 0.0, !fits, "{drops} drops with a ring of {ring}");
        assert_eq!(file.records.len() == BURST as usize, fits);
    }
}

/// D15: interfaces that come are captured, those that go are not counted on.
#[test]
fn interfaces_that_come_and_go_are_followed() {
    if !privileged("interfaces_that_come_and_go_are_followed") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &[]);
    let captured = |running: &Running, n: f64| {
        until(&format!("{n} interfaces are captured"), || running.metrics().sum("pcap_muxer_interfaces_with_captures") == n);
    };
    captured(&running, 2.0);
    lab.near.join("late", &lab.far, "late");
    lab.near.ip("address add 198.51.100.1/24 dev late");
    lab.far.ip("address add 198.51.100.2/24 dev late");
    captured(&running, 3.0);
    let mut conversation = lab.connect("198.51.100.1");
    events.open("late", conversation.local, conversation.remote);
    conversation.talk();
    conversation.close();
    place.wait_for_file("late");
    lab.near.ip("link delete late");
    captured(&running, 2.0);
    running.stop(Signal::SIGTERM);
}

/// D16.
#[test]
fn a_named_interface_that_is_down_is_waited_for_and_makes_unready() {
    if !privileged("a_named_interface_that_is_down_is_waited_for_and_makes_unready") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    lab.near.ip("link set near down");
    let mut running = Running::headers_unready(&place, &lab.near, ["--interface=near", "--uuid.source=generated"]);
    until("it says what it waits for", || running.unready().contains("near"));
    std::thread::sleep(ms(500));
    assert!(running.child.try_wait().unwrap().is_none(), "{}", running.log());
    lab.near.ip("link set near up");
    running.wait_until_ready();
    let mut conversation = lab.connect("192.0.2.1");
    conversation.talk();
    conversation.close();
    until("the connection is archived", || place.uuids().len() == 1);
    lab.near.ip("link set near down");
    until("it is not ready again", || running.unready().contains("near"));
    running.stop(Signal::SIGTERM);
}

/// D20: a bridge, its port, and a VLAN above it show the same packets.
#[test]
fn a_packet_seen_on_a_bridge_and_on_its_port_is_kept_once_and_in_order() {
    if !privileged("a_packet_seen_on_a_bridge_and_on_its_port_is_kept_once_and_in_order") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    lab.near.ip("link add bridge type bridge");
    lab.near.ip("link set near master bridge");
    lab.near.ip("address flush dev near");
    lab.near.ip("address add 192.0.2.1/24 dev bridge");
    lab.near.ip("link set bridge up");
    for flags in [&[][..], &["--interface=near,bridge,near"], &["--shards=2"]] {
        let place = if flags.is_empty() { &place } else { &Place::new() };
        let (mut running, mut events) = Running::with_events(place, &lab.near, flags);
        let mut conversation = lab.connect("192.0.2.1");
        events.open("bridged", conversation.local, conversation.remote);
        for _ in 0..20 {
            conversation.talk();
        }
        conversation.close();
        place.wait_for_file("bridged");
        let m = running.metrics();
        assert!(m.child("flowarc_frames_total", "outcome", "duplicate") >= 40.0, "{flags:?}: the bridge shows nothing twice");
        running.stop(Signal::SIGTERM);
        // Reading the file checks that it is in order of time.
        let records = place.file("bridged").records;
        let mut distinct: Vec<_> = records.iter().map(|r| &r.data[14..]).collect();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), records.len(), "{flags:?}: a packet is there twice");
        assert!(records.len() >= 45, "{flags:?}: {} packets", records.len());
    }
}

/// D25: a connection that is older than the program.
#[test]
fn a_connection_older_than_the_program_is_archived_from_then_on() {
    if !privileged("a_connection_older_than_the_program_is_archived_from_then_on") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let mut conversation = lab.connect("192.0.2.1");
    conversation.talk();
    let mut running = Running::headers(&place, &lab.near, ["--interface=near", "--uuid.source=generated"]);
    conversation.talk();
    conversation.close();
    until("the rest of the connection is archived", || place.uuids().len() == 1);
    running.stop(Signal::SIGTERM);
    let archive = archive::read(&place.data);
    assert!(archive.values().all(|file| file.is_midstream() && file.records.len() >= 4));

    // With an event socket, its announcement may come at any time of its life, after rounds of clean-up too.
    let place = Place::new();
    let mut conversation = lab.connect("192.0.2.1");
    let flags = ["--interface=near", "--uuidwaitduration=500ms", "--flowtimeout=1s"];
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &flags);
    let begin = std::time::Instant::now();
    while begin.elapsed() < secs(3) {
        conversation.talk();
        std::thread::sleep(ms(200));
    }
    events.open("older", conversation.local, conversation.remote);
    running.wait_for("flowarc_events_total{outcome=\"claimed_late\"}", 1.0);
    conversation.talk();
    conversation.close();
    place.wait_for_file("older");
    running.stop(Signal::SIGTERM);
    assert!(place.file("older").is_late() && place.file("older").is_midstream());
}

/// Packets of one flow, more than twice the predecessor's queue for a flow (8192).
const BURST: u32 = 20_000;

/// A SYN alone is no connection; kept out of the burst's way.
#[test]
fn a_flood_of_half_open_connections_leaves_no_files_and_the_others_whole() {
    if !privileged("a_flood_of_half_open_connections_leaves_no_files_and_the_others_whole") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &["--interface=near", "--halfopen.max=1000"]);
    let mut conversation = lab.connect("192.0.2.1");
    events.open("real", conversation.local, conversation.remote);
    conversation.talk();
    let wire = lab.far.wire("far");
    for n in 0..20_000_u32 {
        let from = format!("203.0.{}.{}:4000", n >> 8 & 0xff, n & 0xff);
        wire.send(&Segment::new(&from, "192.0.2.99:80", SYN).seq(n, 0).ethernet(&[]));
    }
    conversation.talk();
    conversation.close();
    place.wait_for_file("real");
    let m = running.metrics();
    assert!(m.child("flowarc_flows_total", "outcome", "evicted_half_open") >= 18_000.0);
    running.stop(Signal::SIGTERM);
    assert_eq!(place.uuids(), ["real"]);
    assert!(place.file("real").records.len() >= 10);
}
