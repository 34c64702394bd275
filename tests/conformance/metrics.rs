//! The numbers: the predecessor's names, the limits' counters, and sums that add up.

use crate::support::frames::{ACK, Capture, MILLI, NOON, PSH, SECOND, SYN, Segment};
use crate::support::lab::{Lab, privileged};
use crate::support::process::{ADMIN_FLAG, Place, Running, flowarc};
use crate::support::{ms, secs, until, until_within};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// T15: -maxflows=2 means two, and the others are counted as flows, once each.
#[test]
fn flows_beyond_maxflows_are_refused_and_counted() {
    if !privileged("flows_beyond_maxflows_are_refused_and_counted") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &["--interface=near", "--maxflows=2"]);
    for n in 0..5 {
        let mut conversation = lab.connect("192.0.2.1");
        events.open(&format!("u{n}"), conversation.local, conversation.remote);
        for _ in 0..5 {
            conversation.talk();
        }
        if n < 2 {
            running.wait_for("flowarc_events_total{outcome=\"claimed\"}", f64::from(n) + 1.0);
        }
        // Held, so that the first two stay.
        std::mem::forget(conversation);
    }
    running.wait_for("pcap_demuxer_ignored_total", 3.0);
    std::thread::sleep(ms(300));
    assert_eq!(running.metrics().sum("pcap_demuxer_ignored_total"), 3.0);
    running.stop(Signal::SIGTERM);
    assert_eq!(place.uuids(), ["u0", "u1"]);
}

/// T15: a full budget refuses strangers, and not the connection that has a name.
#[test]
fn flows_beyond_maxheap_are_counted_and_the_named_one_is_whole() {
    if !privileged("flows_beyond_maxheap_are_counted_and_the_named_one_is_whole") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &["--interface=near", "--maxheap=2MB"]);
    let mut conversation = lab.connect("192.0.2.1");
    events.open("named", conversation.local, conversation.remote);
    conversation.talk();
    running.wait_for("flowarc_events_total{outcome=\"claimed\"}", 1.0);
    let wire = lab.far.wire("far");
    for n in 0..10_000_u32 {
        let from = format!("203.0.{}.{}:4000", n >> 8 & 0xff, n & 0xff);
        wire.send(&Segment::new(&from, "192.0.2.99:80", SYN).seq(n, 0).ethernet(&[]));
    }
    running.wait_for("pcap_saver_skipped_total", 1000.0);
    let m = running.metrics();
    // What rings and code leave of it, at least half.
    let budget = m.sum("flowarc_ledger_budget_bytes");
    assert!((1e6..=2e6).contains(&budget), "{budget}");
    assert!(m.sum("flowarc_ledger_held_bytes") <= budget);
    conversation.talk();
    conversation.close();
    place.wait_for_file("named");
    assert!(place.file("named").records.len() >= 10);
    running.stop(Signal::SIGTERM);
}

/// T16: every name, type and label of the predecessor; and every metric is as Prometheus wants it.
#[test]
fn the_predecessors_metrics_are_all_there_and_every_metric_is_well_formed() {
    if !privileged("the_predecessors_metrics_are_all_there_and_every_metric_is_well_formed") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let mut running = Running::headers(&place, &lab.near, ["--uuid.source=generated", "--interface=near"]);
    let (_, text) = running.http("/metrics").unwrap();
    running.stop(Signal::SIGTERM);
    let mut kinds = BTreeMap::new();
    let mut helped = BTreeSet::new();
    for line in text.lines() {
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", "HELP", name, help] => {
                assert!(help.ends_with('.') && help.len() > 10, "{line}");
                assert!(helped.insert(name), "{name} is there twice");
            }
            ["#", "TYPE", name, kind] => {
                assert!(helped.contains(name), "{name} has no help");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(!["_bucket", "_count", "_sum", "_milliseconds_total"].iter().any(|end| name.ends_with(end)), "{line}");
                kinds.insert(name, kind);
            }
            _ => {
                let name = line.split(['{', ' ']).next().unwrap();
                let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
                assert!(kinds.contains_key(name) || kinds.contains_key(family), "{line} has no type");
            }
        }
    }
    for (name, kind) in [
        ("pcap_missed_packets_total", "counter"),
        ("pcap_missed_uuids_total", "counter"),
        ("pcap_saver_starts_total", "counter"),
        ("pcap_saver_stops_total", "counter"),
        ("pcap_saver_errors_total", "counter"),
        ("pcap_saver_states", "gauge"),
        ("pcap_saver_skipped_total", "counter"),
        ("pcap_demuxer_bad_packets_total", "counter"),
        ("pcap_demuxer_gc_latency_seconds", "histogram"),
        ("pcap_demuxer_uuids_total", "counter"),
        ("pcap_demuxer_savers_garbage_collected_total", "counter"),
        ("pcap_demuxer_savers_active", "gauge"),
        ("pcap_demuxer_ignored_total", "counter"),
        ("pcap_tcpinfohandler_bad_events_total", "counter"),
        ("pcap_muxer_interfaces_with_captures", "gauge"),
        ("git_short_commit", "gauge"),
        ("process_resident_memory_bytes", "gauge"),
    ] {
        assert_eq!(kinds.get(name), Some(&kind), "{name}");
    }
    for (name, label, values) in [
        (
            "pcap_saver_errors_total",
            "reason",
            "nopackets uuidtimedout uuidchanclosed mkdir fileopen writepartial streaming writefinal",
        ),
        (
            "pcap_saver_states",
            "state",
            "notstarted readingcandidatepackets uuidwait uuidfound dircreation writepartial streaming writefinal discardingpackets nopacketserror uuidtimedouterror uuidchanclosederror mkdirerror fileopenerror writepartialerror streamingerror writefinalerror",
        ),
        ("pcap_missed_packets_total", "saverstate", "uuidwait discardingpackets draining"),
        ("pcap_missed_uuids_total", "saverstate", "uuidwait discardingpackets draining"),
        ("pcap_tcpinfohandler_bad_events_total", "reason", "nilid badip"),
    ] {
        for value in values.split(' ') {
            assert!(text.contains(&format!("{name}{{{label}=\"{value}\"}} 0\n")), "{name} {value}");
        }
    }
    assert_eq!(text.matches(" 1e-06").count() + text.matches("le=\"0.000001\"").count(), 1);
    assert_eq!(text.matches("pcap_demuxer_gc_latency_seconds_bucket").count(), 21);
}

/// Frames, flows and events each have exactly one outcome, and what the archive is given it saves.
#[test]
fn the_sums_of_outcomes_add_up() {
    if !privileged("the_sums_of_outcomes_add_up") {
        return;
    }
    for shards in ["--shards=1", "--shards=2"] {
        let (lab, place) = (Lab::new(), Place::new());
        let flags = [shards, "--interface=near", "--uuidwaitduration=500ms", "--flowtimeout=1s", "--idletimeout=8s"];
        let (mut running, mut events) = Running::with_events(&place, &lab.near, &flags);
        // Named and closed, named and held, nameless, half-open, without its beginning, told of and never seen.
        let mut held = Vec::new();
        let mut said = 0;
        for n in 0..60 {
            let mut conversation = lab.connect(["192.0.2.1", "2001:db8::1"][n % 2]);
            if n % 3 != 2 {
                events.open(&format!("u{n}"), conversation.local, conversation.remote);
                said += 1;
            }
            conversation.talk();
            match n % 3 {
                0 => {
                    conversation.close();
                    events.close(&format!("u{n}"));
                    said += 1;
                }
                _ => held.push(conversation),
            }
        }
        let wire = lab.far.wire("far");
        for n in 0..50_u32 {
            wire.send(&Segment::new(&format!("203.0.113.{n}:4000"), "192.0.2.99:80", SYN).ethernet(&[]));
            wire.send(&Segment::new(&format!("203.0.113.{n}:5000"), "192.0.2.99:80", ACK | PSH).payload(9).ethernet(&[]));
            wire.send(&Segment::new(&format!("203.0.113.{n}:6000"), "192.0.2.99:80", ACK).ethernet(&[])[..50]);
            events.open(&format!("none{n}"), "192.0.2.1:9".parse().unwrap(), format!("10.0.0.{n}:9").parse().unwrap());
            said += 1;
        }
        // Until timers have done their work: all announcements are settled, all nameless flows gone.
        until("all events have an outcome", || running.metrics().sum("flowarc_events_total") == f64::from(said));
        running.wait_for("flowarc_archive_flows_total{outcome=\"saved\"}", 20.0);
        until("rings and frames agree", || {
            let m = running.metrics();
            let ring = m.sum("flowarc_ring_frames_total") - m.sum("flowarc_kernel_drops_total");
            ring > 0.0 && ring == m.sum("flowarc_frames_total")
        });
        let check = |what: &str| {
            let m = running.metrics();
            let state = |state: &str| m.child("pcap_saver_states", "state", state);
            let living = state("uuidwait") + state("uuidtimedouterror") + state("dircreation");
            assert_eq!(m.sum("flowarc_flows_started_total"), m.sum("flowarc_flows_total") + living, "{what}: flows");
            let archive = |outcome| m.child("flowarc_archive_flows_total", "outcome", outcome);
            let archived = m.child("flowarc_flows_total", "outcome", "archived");
            assert_eq!(archived, archive("saved") + archive("givenup"), "{what}: files");
            assert_eq!(m.sum("pcap_saver_starts_total"), m.sum("flowarc_flows_started_total"), "{what}");
            assert_eq!(m.sum("pcap_saver_stops_total"), m.sum("flowarc_flows_total"), "{what}");
            assert_eq!(m.child("flowarc_events_total", "outcome", "expired"), 50.0, "{what}");
            assert_eq!(m.sum("flowarc_kernel_drops_total"), 0.0, "{what}");
            m
        };
        let m = check("with connections held");
        assert_eq!(m.child("pcap_saver_states", "state", "dircreation"), 20.0);
        assert!(
            m.child("flowarc_frames_total", "outcome", "malformed") + m.child("flowarc_frames_total", "outcome", "truncated")
                >= 50.0
        );
        for conversation in held {
            conversation.close();
        }
        until("all are saved", || running.metrics().child("flowarc_archive_flows_total", "outcome", "saved") == 40.0);
        until("nothing is held", || running.metrics().child("pcap_saver_states", "state", "dircreation") == 0.0);
        until("nameless ones are gone", || {
            let m = running.metrics();
            m.sum("flowarc_flows_started_total") == m.sum("flowarc_flows_total")
        });
        check("at the end");
        until_within(secs(25), "records of ended flows are gone, and the ledger is at zero", || {
            running.metrics().sum("flowarc_ledger_held_bytes") == 0.0
        });
        running.stop(Signal::SIGTERM);
        assert_eq!(place.uuids().len(), 40);
    }
}

/// The same of a replay, looked at while its input has not ended yet.
#[test]
fn the_sums_of_outcomes_add_up_in_a_replay_too() {
    if !privileged("the_sums_of_outcomes_add_up_in_a_replay_too") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let pipe = place.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut command = flowarc();
    command.args(["headers", "--uuid.source=generated", "--read"]).arg(&pipe).arg("--datadir").arg(&place.data).args(ADMIN_FLAG);
    let mut running = Running::start(&mut command, &place, Some(&lab.near));
    let mut capture = Capture::default();
    for n in 0..FRAMES / 8 {
        let client = format!("203.0.113.45:{}", 10_000 + n);
        capture.connection(NOON + n * 100 * MILLI, &client, "198.51.100.1:80", 1, SECOND);
    }
    let mut pipe = std::fs::File::create(&pipe).unwrap();
    pipe.write_all(&capture.bytes()).unwrap();
    running.wait_for("flowarc_frames_total", FRAMES as f64);
    until("what was handed to the archive is saved", || {
        let m = running.metrics();
        m.child("flowarc_flows_total", "outcome", "archived") == m.sum("flowarc_archive_flows_total")
    });
    let m = running.metrics();
    assert_eq!(m.child("flowarc_frames_total", "outcome", "kept"), FRAMES as f64);
    let living = m.child("pcap_saver_states", "state", "dircreation");
    assert!(living > 0.0);
    assert_eq!(m.sum("flowarc_flows_started_total"), m.sum("flowarc_flows_total") + living);
    drop(pipe);
    assert_eq!(running.wait().0.code(), Some(0));
    assert_eq!(place.uuids().len() as u64, FRAMES / 8);
}

/// Four times what the reader hands over at once.
const FRAMES: u64 = 4096;
