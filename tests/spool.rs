//! A spool over time: clocks that are set, leftovers of a crash, one connection out of many segments.

mod support;

use flowarc::spool::metrics::SpoolMetrics;
use flowarc::spool::retention::{Inventory, Retention, segments};
use flowarc::time::Timestamp;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use support::frames::{ACK, Capture, MILLI, NOON, PSH, SECOND, Segment};
use support::process::{Place, flowarc};

const HOUR: u64 = 3600 * SECOND;

#[test]
fn a_clock_that_is_set_begins_segments_and_everything_is_found_by_the_times_it_has() {
    let place = Place::new();
    let file = place.path("in.pcap");
    // Half a minute each, in the order of capture: noon, an hour back, a day ahead, and noon again.
    let eras = [(NOON, 41_000), (NOON - HOUR, 41_001), (NOON + 24 * HOUR, 41_002), (NOON + 30 * SECOND, 41_003)];
    let mut input = Vec::new();
    for (begin, port) in eras {
        for n in 0..300 {
            let ts = begin + n * 100 * MILLI;
            for port in [port, 42_000] {
                let from = format!("203.0.113.1:{port}");
                let segment = Segment::new(&from, "198.51.100.1:443", ACK | PSH).payload(200);
                input.push((ts, segment.ethernet(&[])));
            }
        }
    }
    fs::write(&file, in_order_of_capture(&input)).unwrap();
    capture(&file, &place.data, &["--rotate.time=10s", "--idletimeout=1m"]);

    let names: Vec<_> = segments(&place.data).unwrap().into_iter().map(|(path, _)| path).collect();
    let of = |begin: &str| names.iter().filter(|n| n.to_str().unwrap().contains(begin)).count();
    let counts = ["2026-11-21T11-00-", "2026-11-21T12-00-0", "2026-11-21T12-00-3", "2026-11-22T12-00-"].map(of);
    assert_eq!((counts, names.len()), ([3, 1, 1, 3], 12), "{names:?}");
    // Whole, and in the order of time whatever the order of capture was.
    let all = get(&place, &["--since=2026-01-01"]);
    let mut sorted = input.clone();
    sorted.sort_by_key(|(ts, _)| *ts);
    assert_eq!(all.len(), input.len());
    assert!(all.is_sorted_by_key(|(ts, _)| *ts) && multiset(&all) == multiset(&sorted));
    for (begin, port) in eras {
        let (from, to) = (time(begin), time(begin + 30 * SECOND));
        let times = ["--since", from.as_str(), "--until", to.as_str()];
        assert_eq!(get(&place, &times).len(), 600, "{from}");
        assert_eq!(get(&place, &["--port", &port.to_string()]).len(), 300);
        // The connection that was there all the time has its share of each.
        let everywhere = [&times[..], &["--port=42000"]].concat();
        assert_eq!(get(&place, &everywhere).len(), 300);
        assert_eq!(get(&place, &[&times[..], &["--port=41999"]].concat()).len(), 0);
    }
    // What is oldest by its packets goes first, though it was written later.
    let most = segments(&place.data).unwrap().iter().map(|(_, s)| s.len).sum::<u64>() - 1;
    let metrics = SpoolMetrics::register(&prometheus::Registry::new(), &[]);
    let retention = Retention { bytes: Some(most), ..Retention::default() };
    let now = Timestamp::from_nanos(NOON);
    retention.enforce(&mut Inventory::new(&place.data), now, &metrics).unwrap();
    assert!(!names[0].exists() && names[0].to_str().unwrap().contains("T11-00-00"), "{}", names[0].display());
    assert_eq!(segments(&place.data).unwrap().len(), 11);
}

#[test]
fn one_connection_out_of_many_segments_is_what_tcpdump_finds_in_them_and_is_found_at_once() {
    let place = Place::new();
    let file = place.path("in.pcap");
    let mut capture_file = Capture::default();
    for n in 0..2000_u64 {
        let client = format!("203.0.{}.{}:{}", n % 100, n % 250 + 1, 20_000 + n);
        capture_file.connection(NOON + n * 30 * MILLI, &client, "198.51.100.1:443", 20, 50 * MILLI);
    }
    capture_file.write(&file);
    capture(&file, &place.data, &["--rotate.time=5s"]);
    let stored = segments(&place.data).unwrap();
    assert!(stored.len() > 10, "{}", stored.len());
    for n in [0_u64, 777, 1999] {
        let (client, port) = (format!("203.0.{}.{}", n % 100, n % 250 + 1), (20_000 + n).to_string());
        let begin = Instant::now();
        let found = get(&place, &["--addr", &client, "--addr=198.51.100.1", "--port", &port, "--port=443"]);
        let took = begin.elapsed();
        let mut expected = Vec::new();
        for (path, _) in &stored {
            let script = format!("zstd -dcq {} | tcpdump --nano -r - -w - 'host {client} and port {port}'", path.display());
            let out = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            expected.extend(records(&out.stdout));
        }
        assert!(found == expected && found.len() == 46, "{} for {}", found.len(), expected.len());
        // Far more than it takes, on any machine; a scan of the segments takes longer yet when there are many.
        assert!(took < support::secs(5), "{took:?}");
    }
}

#[test]
fn a_uuid_of_the_header_archives_catalogue_finds_its_connection_with_payload() {
    let place = Place::new();
    let (file, archive, catalogue) = (place.path("in.pcap"), place.path("headers"), place.path("catalogue"));
    let mut input = Capture::default();
    // Two connections between the same ends, one after the other, beside another.
    for (at, port) in [(0, 40_000), (5, 40_000), (1, 40_001)] {
        input.connection(NOON + at * SECOND, &format!("203.0.113.1:{port}"), "198.51.100.1:443", 8, 50 * MILLI);
    }
    input.write(&file);
    capture(&file, &place.data, &[]);
    let mut headers = flowarc();
    headers.arg("headers").arg("--read").arg(&file).args(["--uuid.source=generated", "--datadir"]).arg(&archive);
    assert!(headers.arg("--catalog").arg(&catalogue).output().unwrap().status.success());
    let found =
        flowarc().arg("find").arg(&archive).arg("--catalog").arg(&catalogue).args(["--port=40000", "--json"]).output().unwrap();
    let rows: Vec<serde_json::Value> =
        String::from_utf8(found.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    let all = records(&input.bytes());
    for (row, begin) in rows.iter().zip([NOON, NOON + 5 * SECOND]) {
        let (uuid, catalogue) = (row["uuid"].as_str().unwrap(), catalogue.to_str().unwrap());
        let ours = get(&place, &[uuid, "--catalog", catalogue]);
        let is_it = |(ts, frame): &&(u64, Vec<u8>)| {
            (begin..begin + 2 * SECOND).contains(ts) && frame[34..38].windows(2).any(|p| p == [0x9c, 0x40])
        };
        assert_eq!(ours, all.iter().filter(is_it).cloned().collect::<Vec<_>>(), "{uuid}");
        assert!(ours.iter().any(|(_, frame)| frame.windows(8).any(|w| w == &support::MARKER[..8])), "with payload");
        let found = flowarc().arg("find").arg(&place.data).args(["--uuid", uuid, "--catalog", catalogue]).output().unwrap();
        assert_eq!(String::from_utf8(found.stdout).unwrap().lines().count(), 1);
    }
    for (args, code, said) in [
        (&["--uuid=x"][..], 64, "name the catalogue"),
        (&["--uuid=x", "--catalog", catalogue.to_str().unwrap()], 1, "no flow of the catalogue has the UUID x"),
    ] {
        let out = flowarc().arg("get").arg(&place.data).args(args).output().unwrap();
        assert_eq!(out.status.code(), Some(code), "{args:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains(said), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

fn capture(file: &Path, data: &Path, flags: &[&str]) {
    let out = flowarc().arg("capture").arg("--read").arg(file).arg("--datadir").arg(data).args(flags).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// What `flowarc get` gives of the spool.
#[track_caller]
fn get(place: &Place, args: &[&str]) -> Vec<(u64, Vec<u8>)> {
    let out = flowarc().arg("get").arg(&place.data).args(args).output().unwrap();
    assert!([0, 1].contains(&out.status.code().unwrap()), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    if out.stdout.is_empty() { Vec::new() } else { records(&out.stdout) }
}

/// Times and bytes of the records of a pcap file in nanoseconds.
fn records(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let (mut rest, mut out) = (&bytes[24..], Vec::new());
    while !rest.is_empty() {
        let word = |at: usize| u64::from(u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()));
        let (ts, len) = (word(0) * SECOND + word(4), word(8) as usize);
        out.push((ts, rest[16..16 + len].to_vec()));
        rest = &rest[16 + len..];
    }
    out
}

fn multiset(frames: &[(u64, Vec<u8>)]) -> Vec<(u64, Vec<u8>)> {
    let mut sorted = frames.to_vec();
    sorted.sort();
    sorted
}

/// A pcap file of frames as they come, whatever their times.
fn in_order_of_capture(frames: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut out = Capture::default().bytes();
    for (ts, frame) in frames {
        for word in [(ts / SECOND) as u32, (ts % SECOND) as u32, frame.len() as u32, frame.len() as u32] {
            out.extend(word.to_le_bytes());
        }
        out.extend(frame);
    }
    out
}

/// A time of these captures for --since and --until.
fn time(ts: u64) -> String {
    let of_day = (ts - (NOON - 12 * HOUR)) / SECOND;
    format!("2026-11-{:02}T{:02}:{:02}:{:02}", 21 + of_day / 86_400, of_day / 3600 % 24, of_day / 60 % 60, of_day % 60)
}
