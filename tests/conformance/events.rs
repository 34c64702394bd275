//! The event socket: late, gone, hostile, fast.

use crate::support::archive::IDLE;
use crate::support::events::{EventServer, now, open_line};
use crate::support::lab::{Lab, Namespace, privileged};
use crate::support::process::{ADMIN_FLAG, Place, Running, flowarc};
use crate::support::{ms, secs, until};
use nix::sys::signal::Signal;
use std::process::Command;
use std::time::{Duration, Instant};

/// The predecessor's form, with its socket at this path.
fn compat(place: &Place, socket: &str, flags: &[&str]) -> Command {
    let mut command = flowarc();
    command.arg("-datadir").arg(&place.data).args(["-tcpinfo.eventsocket", socket]).args(flags).args(ADMIN_FLAG);
    command
}

/// T6, D5: by default an unreachable socket is waited for; -tcpinfo.required restores the predecessor's exit.
#[test]
fn an_unreachable_socket_is_fatal_only_where_it_is_required() {
    if !privileged("an_unreachable_socket_is_fatal_only_where_it_is_required") {
        return;
    }
    let (namespace, place) = (Namespace::new(), Place::new());
    let socket = place.path("events.sock");
    let socket = socket.to_str().unwrap();
    let mut running = Running::start(&mut compat(&place, socket, &["-tcpinfo.required"]), &place, Some(&namespace));
    let (status, took) = running.wait();
    assert_eq!(status.code(), Some(1));
    assert!(took < secs(1), "{took:?}");
    assert!(running.log().contains(socket), "{}", running.log());

    let mut running = Running::start(&mut compat(&place, socket, &[]), &place, Some(&namespace));
    until("it says what it waits for", || running.unready().contains("event socket"));
    assert!(running.metrics().sum("pcap_muxer_interfaces_with_captures") > 0.0, "capture begins without the socket");
    let mut events = EventServer::new(std::path::Path::new(socket));
    let took = events.accept();
    assert!(took < secs(1), "the socket's appearance went unnoticed for {took:?}");
    running.wait_until_ready();
    running.stop(Signal::SIGTERM);
}

/// T6: a required socket that is lost ends the program, with all that it holds on disk.
#[test]
fn a_required_socket_that_is_lost_ends_the_program_after_all_is_on_disk() {
    if !privileged("a_required_socket_that_is_lost_ends_the_program_after_all_is_on_disk") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let mut events = place.events();
    let mut running = Running::start(&mut compat(&place, events.path(), &["-tcpinfo.required"]), &place, Some(&lab.near));
    events.accept();
    running.wait_until_ready();
    let mut conversation = lab.connect("192.0.2.1");
    events.open("held", conversation.local, conversation.remote);
    conversation.talk();
    running.wait_for("flowarc_flows_started_total", 1.0);
    running.wait_for("pcap_demuxer_uuids_total", 1.0);
    // The shard hears an announcement within a tenth of a second.
    std::thread::sleep(ms(300));
    events.stop();
    let (status, _) = running.wait();
    assert_eq!(status.code(), Some(1));
    assert_eq!(place.uuids(), ["held"]);
}

/// D5: connections that begin while there is no socket, and are announced when it is back, are archived.
#[test]
fn a_socket_that_goes_and_comes_back_costs_no_connection_that_is_announced_in_the_end() {
    if !privileged("a_socket_that_goes_and_comes_back_costs_no_connection_that_is_announced_in_the_end") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &["--interface=near"]);
    events.stop();
    until("the loss is noticed", || running.unready().contains("event socket"));
    let mut conversation = lab.connect("192.0.2.1");
    conversation.talk();
    events.start();
    let took = events.accept();
    assert!(took < secs(1), "{took:?}");
    events.open("meanwhile", conversation.local, conversation.remote);
    conversation.talk();
    conversation.close();
    place.wait_for_file("meanwhile");
    assert!(place.file("meanwhile").records.len() >= 10, "from its SYN on");
    running.wait_for("flowarc_eventsocket_reconnects_total", 1.0);
    running.stop(Signal::SIGTERM);
}

/// T7, D6: every line that kills the predecessor is counted and passed over.
#[test]
fn bad_lines_are_counted_and_the_next_good_one_is_heard() {
    if !privileged("bad_lines_are_counted_and_the_next_good_one_is_heard") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &["--interface=near"]);
    let id = r#"{"SPort":80,"DPort":4000,"SrcIP":"192.0.2.1","DstIP":"192.0.2.2"}"#;
    let wide = id.replace(":80,", ":65536,");
    let nowhere = id.replace("192.0.2.1", "nowhere");
    let at = now();
    for line in [
        "not JSON".to_owned(),
        String::new(),
        format!(r#"{{"Event":0,"Timestamp":"yesterday","UUID":"u","ID":{id}}}"#),
        format!(r#"{{"Event":0,"Timestamp":"{at}","UUID":"u","ID":{wide}}}"#),
        format!(r#"{{"Event":"open","Timestamp":"{at}","UUID":"u","ID":{id}}}"#),
        "x".repeat(2 << 20),
        format!(r#"{{"Event":0,"Timestamp":"{at}","UUID":"u","ID":null}}"#),
        format!(r#"{{"Event":0,"Timestamp":"{at}","UUID":"u","ID":{nowhere}}}"#),
        format!(r#"{{"Event":0,"Timestamp":"{at}","UUID":"../../u","ID":{id}}}"#),
        format!(r#"{{"Event":7,"Timestamp":"{at}","UUID":"u","ID":{id}}}"#),
    ] {
        events.say(line + "\n");
    }
    let mut conversation = lab.connect("192.0.2.1");
    // A field that nobody knows, and 64 KiB of it: too long for the predecessor.
    let long = open_line("good", &at, conversation.local, conversation.remote);
    events.say(format!("{{\"Later\":\"{}\",{}", "y".repeat(1 << 16), &long[1..]));
    conversation.talk();
    conversation.close();
    place.wait_for_file("good");
    running.wait_for("flowarc_event_lines_bad_total", 6.0);
    let m = running.metrics();
    assert_eq!(m.sum("flowarc_event_lines_bad_total"), 6.0);
    for reason in ["nilid", "badip", "baduuid"] {
        assert_eq!(m.child("pcap_tcpinfohandler_bad_events_total", "reason", reason), 1.0, "{reason}");
    }
    assert!(running.log().lines().count() < 20, "the log is filled: {}", running.log());
    running.stop(Signal::SIGTERM);
    assert_eq!(place.uuids(), ["good"]);
}

/// T14, D8: a name after the wait still gives a file, and one that never comes a count of the reason.
#[test]
fn a_late_name_gives_a_file_and_a_missing_one_a_reason() {
    if !privileged("a_late_name_gives_a_file_and_a_missing_one_a_reason") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let flags = ["--interface=near", "--uuidwaitduration=500ms", "--flowtimeout=2s"];
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &flags);
    let mut late = lab.connect("192.0.2.1");
    let mut never = lab.connect("192.0.2.1");
    late.talk();
    never.talk();
    running.wait_for("flowarc_uuid_waits_expired_total", 2.0);
    events.open("late", late.local, late.remote);
    running.wait_for("flowarc_events_total{outcome=\"claimed_late\"}", 1.0);
    late.talk();
    late.close();
    place.wait_for_file("late");
    never.close();
    running.wait_for("pcap_saver_errors_total{reason=\"uuidtimedout\"}", 1.0);
    running.wait_for("flowarc_flows_total{outcome=\"no_uuid\"}", 1.0);
    // One for a connection that nobody sees.
    events.open("nobody", "192.0.2.1:9".parse().unwrap(), "192.0.2.200:9".parse().unwrap());
    running.wait_for("pcap_saver_errors_total{reason=\"nopackets\"}", 1.0);
    running.stop(Signal::SIGTERM);
    assert_eq!(place.uuids(), ["late"]);
    assert!(place.file("late").is_late());
}

/// T13: a file is there a second after its connection's end, at the capture duration, or at the idle timeout.
#[test]
fn a_file_appears_at_the_end_of_its_connection_the_capture_duration_or_the_idle_timeout() {
    if !privileged("a_file_appears_at_the_end_of_its_connection_the_capture_duration_or_the_idle_timeout") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let flags = ["--interface=near", "--captureduration=5s", "--uuidwaitduration=1s", "--flowtimeout=1s", "--idletimeout=3s"];
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &flags);
    let begin = Instant::now();
    let mut conversations: Vec<_> = (0..3).map(|_| lab.connect("192.0.2.1")).collect();
    for (uuid, c) in ["closed", "idle", "busy"].iter().zip(&mut conversations) {
        events.open(uuid, c.local, c.remote);
        c.talk();
    }
    conversations.remove(0).close();
    let mut appeared: Vec<(String, Duration)> = Vec::new();
    while appeared.len() < 3 {
        assert!(begin.elapsed() < secs(15), "{appeared:?}");
        conversations[1].talk();
        for uuid in place.uuids() {
            if appeared.iter().all(|(seen, _)| *seen != uuid) {
                appeared.push((uuid, begin.elapsed()));
            }
        }
        std::thread::sleep(ms(50));
    }
    // The predecessor's files appear between 30 and 60 s with its defaults, whatever became of the connection.
    for ((uuid, at), (wanted, from)) in appeared.iter().zip([("closed", 1), ("idle", 3), ("busy", 5)]) {
        assert_eq!(uuid, wanted);
        assert!((secs(from)..secs(from) + ms(1900)).contains(at), "{uuid} appeared after {at:?}");
    }
    assert_eq!(place.file("idle").end, IDLE);
    running.stop(Signal::SIGTERM);
}

/// D24: a hundred thousand announcements at once are taken as fast as they come.
#[test]
fn a_storm_of_announcements_does_not_stall_their_sender() {
    if !privileged("a_storm_of_announcements_does_not_stall_their_sender") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &["--interface=near"]);
    let at = now();
    let mut conversation = lab.connect("192.0.2.1");
    let begin = Instant::now();
    for n in 0..100_000_u32 {
        let remote = format!("10.{}.{}.{}:9", n >> 16, n >> 8 & 255, n & 255).parse().unwrap();
        events.say(open_line(&format!("storm_{n}"), &at, "192.0.2.1:80".parse().unwrap(), remote));
    }
    let took = begin.elapsed();
    assert!(took < secs(10), "the sender was held up for {took:?}");
    events.open("after", conversation.local, conversation.remote);
    conversation.talk();
    conversation.close();
    place.wait_for_file("after");
    running.wait_for("pcap_demuxer_uuids_total", 100_001.0);
    running.stop(Signal::SIGTERM);
}
