//! What files there are, where, and what is in them: replays of small captures.

use crate::support::archive::{self, CAPTURE_WINDOW, FIN, contains};
use crate::support::events::{close_line, open_line};
use crate::support::frames::*;
use crate::support::process::*;
use inotify::{EventMask, Inotify, WatchMask};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

const CLIENT: &str = "203.0.113.45:40000";
const SERVER: &str = "198.51.100.1:80";
const CLIENT6: &str = "[2001:db8:5:6:7:8:9:a]:40000";
const SERVER6: &str = "[2001:db8:6::1]:80";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn announce(uuid: &str, at: u64) -> String {
    open_line(uuid, &stamp(at), addr(SERVER), addr(CLIENT))
}

/// A place with the capture in it.
fn place_with(capture: &Capture) -> (Place, std::path::PathBuf) {
    let place = Place::new();
    let path = place.path("in.pcap");
    capture.write(&path);
    (place, path)
}

/// T8.
#[test]
fn announcements_may_have_mapped_addresses_and_name_the_ends_in_either_order() {
    let mut capture = Capture::default();
    let mut events = String::new();
    for (n, port) in (40_001..40_005).enumerate() {
        let ts = NOON + n as u64 * SECOND;
        capture.connection(ts, &format!("203.0.113.45:{port}"), SERVER, 1, MILLI);
        let (mapped, plain) = (format!("[::ffff:203.0.113.45]:{port}"), format!("203.0.113.45:{port}"));
        let (local, remote) = match n {
            0 => (SERVER, plain.as_str()),
            1 => (plain.as_str(), SERVER),
            2 => ("[::ffff:198.51.100.1]:80", mapped.as_str()),
            _ => (mapped.as_str(), "[::ffff:198.51.100.1]:80"),
        };
        events += &open_line(&format!("u{n}"), &stamp(ts), addr(local), addr(remote));
    }
    let (place, path) = place_with(&capture);
    assert_eq!(replay(&place, &path, &events, &[]).0.len(), 4);
}

/// T9: the folder is that of the timestamp in its own UTC offset, and a relative data folder is not doubled.
#[test]
fn a_file_lies_below_a_relative_data_folder_on_the_day_of_its_announcements_offset() {
    let mut capture = Capture::default();
    capture.connection(NOON + 13 * 3600 * SECOND, CLIENT, SERVER, 1, MILLI);
    let (place, path) = place_with(&capture);
    let events = open_line("u", "2026-11-21T23:00:00-02:00", addr(SERVER), addr(CLIENT));
    fs::write(place.path("e.jsonl"), events).unwrap();
    for form in [&["headers"][..], &[]] {
        let mut command = flowarc();
        command
            .args(form)
            .args(["-datadir=rel", "-events=e.jsonl", "-read"].map(|f| if form.is_empty() { f.into() } else { format!("-{f}") }));
        let out = command.arg(&path).current_dir(place.top.path()).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        assert_eq!(archive::names(&place.path("rel")), ["2026/11/21/u.pcap.gz"], "{form:?}");
        fs::remove_dir_all(place.path("rel")).unwrap();
    }
}

/// T10, D18: each packet has exactly its own headers, whatever the first one had.
#[test]
fn every_packet_has_exactly_its_own_headers_whatever_the_first_packet_had() {
    let options = [[8, 10].to_vec(), vec![7; 8], [1, 1].to_vec(), [5, 26].to_vec(), vec![9; 24], [1, 1].to_vec()].concat();
    for (client, server, vlans, plain) in
        [(CLIENT, SERVER, &[][..], 54), (CLIENT6, SERVER6, &[], 74), (CLIENT, SERVER, &[5], 58), (CLIENT, SERVER, &[5, 6], 62)]
    {
        let mut capture = Capture::default();
        let syn = Segment::new(client, server, SYN).seq(1, 0);
        let data = Segment::new(client, server, ACK | PSH).seq(2, 8).options(&options[..40]).payload(500);
        for (n, segment) in [&syn, &syn.reply(SYN | ACK).seq(7, 2), &data].into_iter().enumerate() {
            capture.frames.push((NOON + n as u64 * 1_000_001, segment.ethernet(vlans)));
        }
        for size in ["256", "60", "40"] {
            let (place, path) = place_with(&capture);
            let events = open_line("u", &stamp(NOON), addr(server), addr(client));
            replay(&place, &path, &events, &["--maxheadersize", size]);
            let file = place.file("u");
            assert_eq!((file.snaplen(), file.link()), (256, 1));
            let lens: Vec<_> = file.records.iter().map(|r| r.data.len()).collect();
            assert_eq!(lens, [plain, plain, plain + 40], "{client} {vlans:?} {size}");
            for (record, (ts, frame)) in file.records.iter().zip(&capture.frames) {
                assert_eq!((record.ts, record.wire_len as usize), (*ts, frame.len()));
                assert_eq!(record.data, frame[..record.data.len()]);
            }
        }
    }
}

/// T11: no byte of payload in any file or log, of any scenario that has some.
#[test]
fn no_payload_is_in_files_or_logs() {
    for scenario in ["v4", "v6", "vlan", "super-packets", "fragments-v4", "fragments-v6", "netblock"] {
        let (archive, out) = replay_scenario(scenario, &["--log.level=trace"]);
        assert!(!archive.is_empty(), "{scenario}");
        assert!(!contains(&out.stderr, b"MUST-NOT-LEAK") && !contains(&out.stdout, b"MUST-NOT-LEAK"), "{scenario}");
    }
}

/// T17: the counts of the predecessor's own golden test, with the name told before, amid and after the packets.
#[test]
fn a_name_told_before_amid_or_after_the_packets_names_all_of_them() {
    for (client, server, rounds, packets) in [(CLIENT, SERVER, 3, 12), (CLIENT6, SERVER6, 1, 8)] {
        for at in [NOON - SECOND, NOON, NOON + 60_000, NOON + 3 * SECOND] {
            let mut capture = Capture::default();
            capture.connection(NOON, client, server, rounds, MILLI);
            // Rounds of clean-up pass meanwhile.
            let (place, path) = place_with(&capture);
            let events = open_line("u", &stamp(at), addr(server), addr(client));
            replay(&place, &path, &events, &["--flowtimeout=1s"]);
            let file = place.file("u");
            assert_eq!((file.records.len(), file.end), (packets, FIN), "{client}, announced at {}", stamp(at));
        }
    }
}

/// T18.
#[test]
fn modes_are_those_of_the_predecessor_less_the_umask() {
    let mut capture = Capture::default();
    capture.connection(NOON, CLIENT, SERVER, 1, MILLI);
    for (umask, folder_mode, file_mode) in [("022", 0o755, 0o644), ("002", 0o775, 0o664), ("077", 0o700, 0o600)] {
        for stream in ["--stream=false", "--stream"] {
            let (place, path) = place_with(&capture);
            fs::write(place.path("e.jsonl"), announce("u", NOON)).unwrap();
            let mut command = Command::new("sh");
            clear_env(&mut command);
            command.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\""), binary(), "headers", stream, "--read"]);
            let out = command.arg(&path).arg("--events").arg(place.path("e.jsonl")).arg("--datadir").arg(&place.data).output();
            assert!(out.unwrap().status.success());
            let mode = |name: &str| fs::metadata(place.data.join(name)).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode("2026/11/21/u.pcap.gz"), file_mode, "umask {umask} {stream}");
            for folder in ["2026", "2026/11", "2026/11/21"] {
                assert_eq!(mode(folder), folder_mode, "umask {umask} {folder}");
            }
        }
    }
}

/// D7: tcp-info polls, and so never announces the shortest connections; with generated names they have files.
#[test]
fn connections_too_short_for_any_poll_have_files_under_generated_names() {
    let mut capture = Capture::default();
    for n in 0..300 {
        capture.connection(NOON + n * MILLI, &format!("203.0.113.45:{}", 20_000 + n), SERVER, 1, 10_000);
    }
    let (place, path) = place_with(&capture);
    let (archive, _) = replay(&place, &path, "", &["--uuid.source=generated"]);
    assert_eq!(archive.len(), 300);
    assert!(archive.values().all(|file| file.records.len() == 8));
}

/// D8: a name that comes after the wait is used, and the file says so.
#[test]
fn a_late_name_saves_the_beginning_and_the_file_says_so() {
    let (archive, _) = replay_scenario("uuid-late", &[]);
    assert_eq!(archive.values().filter(|file| file.is_late()).count(), 1);
}

/// D9.
#[test]
fn three_connections_on_one_four_tuple_are_three_files() {
    let mut capture = Capture::default();
    let mut events = String::new();
    for n in 0..3 {
        let ts = NOON + n * 400 * MILLI;
        capture.connection(ts, CLIENT, SERVER, 2, MILLI);
        events += &announce(&format!("u{n}"), ts + 5 * MILLI);
    }
    let (place, path) = place_with(&capture);
    replay(&place, &path, &events, &[]);
    for n in 0..3 {
        let file = place.file(&format!("u{n}"));
        let times: Vec<_> = file.records.iter().map(|r| r.ts).collect();
        assert_eq!(times, capture.frames[n * 10..(n + 1) * 10].iter().map(|(ts, _)| *ts).collect::<Vec<_>>());
    }
}

/// D10: both ends are sockets of this host; each has its name.
#[test]
fn a_connection_between_two_local_sockets_is_one_file_with_two_names() {
    let mut capture = Capture::default();
    capture.connection(NOON, CLIENT, SERVER, 2, MILLI);
    let events = announce("server", NOON) + &open_line("client", &stamp(NOON), addr(CLIENT), addr(SERVER));
    let (place, path) = place_with(&capture);
    let (archive, _) = replay(&place, &path, &events, &[]);
    assert_eq!(archive.keys().map(|name| archive::uuid(name)).collect::<Vec<_>>(), ["client", "server"]);
    let inodes: BTreeSet<_> = archive.keys().map(|name| fs::metadata(place.data.join(name)).unwrap().ino()).collect();
    assert_eq!(inodes.len(), 1);
    assert_eq!(place.file("server").records.len(), 10);
}

/// D11: production runs `-flowtimeout=5s`.
#[test]
fn a_pause_longer_than_the_flow_timeout_does_not_cut_a_named_connection() {
    let mut capture = Capture::default();
    capture.connection(NOON, CLIENT, SERVER, 3, 9 * SECOND);
    let (place, path) = place_with(&capture);
    replay(&place, &path, &announce("u", NOON), &["--flowtimeout=5s"]);
    let file = place.file("u");
    assert_eq!((file.records.len(), file.end), (12, FIN));
}

/// T13, D26 for packet times: the capture duration runs from the first packet or an earlier announcement, to the nanosecond.
#[test]
fn the_capture_duration_runs_from_the_first_packet_or_an_earlier_announcement() {
    let mut capture = Capture::default();
    capture.connection(NOON, CLIENT, SERVER, 80, 500 * MILLI);
    for (at, until) in [(NOON, 30 * SECOND), (NOON + SECOND, 30 * SECOND), (NOON - 2 * SECOND, 28 * SECOND)] {
        let (place, path) = place_with(&capture);
        replay(&place, &path, &announce("u", at), &[]);
        let file = place.file("u");
        let wanted: Vec<_> = capture.frames.iter().map(|(ts, _)| *ts).filter(|ts| *ts < NOON + until).collect();
        assert_eq!(file.records.iter().map(|r| r.ts).collect::<Vec<_>>(), wanted, "announced at {}", stamp(at));
        assert_eq!(file.end, CAPTURE_WINDOW);
    }
}

/// D12: the same UUID again, as after a restart of tcp-info.
#[test]
fn the_same_name_again_leaves_a_whole_file_with_all_packets() {
    let mut whole = Capture::default();
    whole.connection(NOON, CLIENT, SERVER, 5, MILLI);
    let place = Place::new();
    for part in [&whole.frames[..10], &whole.frames[..4], &whole.frames[6..]] {
        let path = place.path("part.pcap");
        Capture { frames: part.to_vec() }.write(&path);
        // Reading it checks that there is nothing behind its last member.
        replay(&place, &path, &announce("u", NOON), &[]);
    }
    let times: Vec<_> = place.file("u").records.iter().map(|r| r.ts).collect();
    assert_eq!(times, whole.frames.iter().map(|(ts, _)| *ts).collect::<Vec<_>>());
}

/// D13: what an uploader that watches the folder sees of a file is that it is moved in, whole.
#[test]
fn a_watcher_of_the_data_folder_sees_files_moved_in_and_nothing_else() {
    let mut capture = Capture::default();
    let mut events = String::new();
    for n in 0..50 {
        let (ts, client) = (NOON + n * 100 * MILLI, format!("203.0.113.45:{}", 20_000 + n));
        capture.connection(ts, &client, SERVER, if n == 0 { 2_000 } else { 4 }, MILLI);
        events += &open_line(&format!("u{n}"), &stamp(ts), addr(SERVER), addr(&client));
    }
    for mode in ["--stream=false", "--stream"] {
        let (place, path) = place_with(&capture);
        let day = place.data.join("2026/11/21");
        fs::create_dir_all(&day).unwrap();
        let mut watch = Inotify::init().unwrap();
        for folder in [&place.data, &day] {
            watch.watches().add(folder, WatchMask::ALL_EVENTS ^ WatchMask::ACCESS).unwrap();
        }
        replay(&place, &path, &events, &[mode]);
        let mut buffer = vec![0; 1 << 16];
        let mut moved = BTreeSet::new();
        while let Ok(seen) = watch.read_events(&mut buffer) {
            for event in seen.filter(|event| event.name.is_some_and(|name| name.to_string_lossy().ends_with(".gz"))) {
                // Our own reading of the archive is in here too.
                let quiet = EventMask::OPEN | EventMask::CLOSE_NOWRITE;
                if !quiet.contains(event.mask) {
                    assert_eq!(event.mask, EventMask::MOVED_TO, "{:?}", event.name);
                    moved.insert(event.name.unwrap().to_owned());
                }
            }
        }
        assert_eq!(moved.len(), 50, "{mode}");
    }
}

/// D17: tags, extension headers, fragments, and TCP headers that are cut.
#[test]
fn tags_extension_headers_and_fragments_are_kept_and_cut_headers_make_no_flow() {
    for (scenario, files, packets) in [
        ("qinq", 2, 28),
        ("ext-headers", 1, 18),
        ("fragments-v4", 1, 12),
        ("fragments-v6", 1, 12),
        ("snapped", 1, 14),
        ("pppoe", 2, 28),
    ] {
        let (archive, _) = replay_scenario(scenario, &[]);
        let kept: usize = archive.values().map(|file| file.records.len()).sum();
        assert_eq!((archive.len(), kept), (files, packets), "{scenario}");
    }
    // Nor does anything nameless come of it: port 0 is no flow.
    let testdata = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/snapped.pcap");
    let place = Place::new();
    assert_eq!(replay(&place, &testdata, "", &["--uuid.source=generated", "--halfopen.keep=false"]).0.len(), 1);
}

/// D19.
#[test]
fn captures_without_ethernet_give_files_with_it() {
    for scenario in ["raw", "sll", "sll2", "null", "loop"] {
        let (archive, _) = replay_scenario(scenario, &[]);
        assert_eq!(archive.len(), 2, "{scenario}");
        for file in archive.values() {
            assert_eq!(file.link(), 1, "{scenario}");
            assert!(file.records.iter().all(|r| r.data[..12] == [0; 12]), "{scenario}");
        }
    }
    let (archive, _) = replay_scenario("raw", &["--keep-linktype"]);
    assert!(archive.values().all(|file| file.link() == 101 && matches!(file.records[0].data[0] >> 4, 4 | 6)));
}

/// D23: a name at the deadline of the wait, a nanosecond before and a nanosecond after, and every time the same.
#[test]
fn a_name_at_the_deadline_of_the_wait_is_used_and_always_in_the_same_way() {
    let mut capture = Capture::default();
    capture.connection(NOON, CLIENT, SERVER, 2, 4 * SECOND);
    for (at, late) in [(NOON + 5 * SECOND - 1, false), (NOON + 5 * SECOND + 1, true), (NOON + 5 * SECOND, true)] {
        let runs: BTreeSet<_> = (0..4)
            .map(|n| {
                let (place, path) = place_with(&capture);
                let shards = format!("--shards={}", 1 + n);
                replay(&place, &path, &announce("u", at), &[&shards]);
                let file = place.file("u");
                assert_eq!(file.records.len(), 10);
                (file.is_late(), file.packed)
            })
            .collect();
        assert_eq!(runs.len(), 1, "announced at {}", stamp(at));
        assert_eq!(runs.first().unwrap().0, late, "announced at {}", stamp(at));
    }
}

/// D26: without an announcement, the day is that of the first packet.
#[test]
fn a_generated_name_lies_in_the_folder_of_its_first_packet() {
    let mut capture = Capture::default();
    let midnight = NOON + 12 * 3600 * SECOND;
    capture.connection(midnight - 1, CLIENT, SERVER, 3, SECOND);
    capture.connection(midnight, CLIENT6, SERVER6, 3, SECOND);
    let (place, path) = place_with(&capture);
    let (archive, _) = replay(&place, &path, "", &["--uuid.source=generated"]);
    let days: Vec<_> = archive.keys().map(|name| &name[..10]).collect();
    assert_eq!(days, ["2026/11/21", "2026/11/22"]);
}

/// A Close event ends a connection whose FIN nobody saw.
#[test]
fn a_close_event_ends_a_file_a_second_later() {
    let mut capture = Capture::default();
    capture.connection(NOON, CLIENT, SERVER, 10, SECOND);
    let (place, path) = place_with(&capture);
    let events = announce("u", NOON) + &close_line("u", &stamp(NOON + 6 * SECOND));
    replay(&place, &path, &events, &[]);
    let file = place.file("u");
    assert_eq!(file.end, archive::CLOSED);
    assert!(file.records.iter().all(|r| r.ts < NOON + 7 * SECOND + 100 * MILLI));
    assert!(file.records.iter().any(|r| r.ts > NOON + 6 * SECOND));
}
