//! Replays through the program: the scenarios of testdata/, and one large capture again and again at several shard counts.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use support::archive::names;
use support::events::{close_line, open_line};
use support::frames::{ACK, Capture, MILLI, NOON, RST, SECOND, SYN, Segment, stamp};
use support::process::{Place, Running, binary, flowarc, replay, replay_output};

#[test]
fn every_scenario_of_testdata_is_archived_as_expected_at_1_shard() {
    scenarios("1");
}

#[test]
fn every_scenario_of_testdata_is_archived_as_expected_at_2_shards() {
    scenarios("2");
}

#[test]
fn every_scenario_of_testdata_is_archived_as_expected_at_3_shards() {
    scenarios("3");
}

#[test]
fn every_scenario_of_testdata_is_archived_as_expected_at_8_shards() {
    scenarios("8");
}

#[test]
fn archives_are_equal_byte_for_byte_between_runs_and_shard_counts() {
    let input = Place::new();
    let (capture, events) = town();
    let path = input.path("town.pcap");
    capture.write(&path);
    let netblock = ["--anonymize.ip=netblock", "--local.addr=198.51.100.1"];
    for (mode, counts) in [(&[][..], &[1, 1, 2, 3, 8][..]), (&["--stream"], &[1, 3]), (&netblock, &[1, 8])] {
        let mut first = None;
        for shards in counts.iter().map(|n| format!("--shards={n}")) {
            let place = Place::new();
            let (archive, _) = replay(&place, &path, &events, &[mode, &[&shards]].concat());
            let files: Vec<_> = archive.into_iter().map(|(name, stored)| (name, stored.packed)).collect();
            assert!(files.len() > FLOWS / 2, "{} files", files.len());
            let first = first.get_or_insert_with(|| files.clone());
            assert_eq!(names_of(first), names_of(&files), "{mode:?} {shards}");
            for (before, now) in first.iter().zip(&files) {
                assert!(before == now, "{} differs with {mode:?} {shards}", now.0);
            }
        }
    }
}

#[test]
fn archives_with_generated_names_are_equal_byte_for_byte_too() {
    let input = Place::new();
    let path = input.path("town.pcap");
    town().0.write(&path);
    let trees = ["--shards=1", "--shards=8"].map(|shards| {
        let place = Place::new();
        replay(&place, &path, "", &["--uuid.source=generated", shards]).0
    });
    assert!(trees[0].len() > FLOWS / 2);
    assert!(trees[0] == trees[1]);
}

fn names_of(files: &[(String, Vec<u8>)]) -> Vec<&String> {
    files.iter().map(|(name, _)| name).collect()
}

fn scenarios(shards: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/replay_expected.py");
    let out = Command::new("python3").args([script, binary(), "--shards", shards]).output().expect("python3 is installed");
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}");
    println!("{said}");
}

/// A busy quarter of an hour: connections of both families and all lengths that overlap, use 4-tuples again, are reset,
/// stay half-open, are announced early, late, twice, never, or out of order.
fn town() -> (Capture, String) {
    let mut dice = Dice(7);
    let mut capture = Capture::default();
    let mut lines: Vec<(u64, String)> = Vec::new();
    for n in 0..FLOWS as u64 {
        let ts = NOON + dice.below(900 * SECOND);
        // Few clients with few ports: 4-tuples come again.
        let (host, port) = (dice.below(20) + 2, 40_000 + dice.below(100));
        let (client, server) = match dice.below(4) {
            0 => (format!("[2001:db8:5::{host}]:{port}"), "[2001:db8:6::1]:443".to_owned()),
            _ => (format!("203.0.113.{host}:{port}"), "198.51.100.1:443".to_owned()),
        };
        let rounds = [0, 1, 3, 10, 60][dice.below(5) as usize];
        let step = [MILLI, 50 * MILLI, SECOND][dice.below(3) as usize];
        match dice.below(10) {
            0 => capture.push(ts, &Segment::new(&client, &server, SYN).seq(n as u32, 0)),
            1 => {
                let syn = Segment::new(&client, &server, SYN).seq(n as u32, 0);
                capture.push(ts, &syn);
                capture.push(ts + MILLI, &syn.reply(RST | ACK).seq(0, n as u32 + 1));
            }
            _ => drop(capture.connection(ts, &client, &server, rounds, step)),
        }
        let uuid = format!("town_{n:08X}");
        let at = match dice.below(8) {
            0 => continue,
            1 => ts.saturating_sub(SECOND),
            2 => ts + 8 * SECOND,
            _ => ts + dice.below(20 * MILLI),
        };
        let (local, remote) = (server.parse().unwrap(), client.parse().unwrap());
        lines.push((at, open_line(&uuid, &stamp(at), local, remote)));
        if dice.below(20) == 0 {
            lines.push((at + MILLI, open_line(&uuid, &stamp(at + MILLI), local, remote)));
        }
        if dice.below(4) == 0 {
            let end = at + dice.below(5 * SECOND);
            lines.push((end, close_line(&uuid, &stamp(end))));
        }
    }
    (capture, lines.into_iter().map(|(_, line)| line).collect())
}

/// The same numbers on every machine (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

const FLOWS: usize = 2_000;

#[test]
fn resident_memory_stays_within_maxheap_and_five_percent_when_flows_would_take_more() {
    let place = Place::new();
    let path = place.path("many.pcap");
    crowd().write(&path);
    let peak = peak_memory(&place, &path, &["--uuid.source=generated"]);
    assert!(peak <= 64_000_000 / 100 * 105, "{peak} bytes");
    assert!(place.archive().values().any(|stored| stored.records.len() < 39), "memory was enough, so nothing was proven");
}

#[test]
fn events_that_are_to_come_count_against_maxheap() {
    let place = Place::new();
    let path = place.path("many.pcap");
    crowd().write(&path);
    let events = place.path("events.jsonl");
    let server = |port: u64| format!("198.51.100.1:{port}").parse().unwrap();
    let here = (0..16_000).map(|n| open_line(&format!("here-{n}"), &stamp(NOON), server(443), crowd_end(n).parse().unwrap()));
    let later = (0..50_000u64).map(|n| {
        let end = format!("10.2.{}.{}:4000", n / 250, n % 250).parse().unwrap();
        open_line(&format!("later-{n}"), &stamp(NOON + 3_600 * SECOND), server(444), end)
    });
    fs::write(&events, here.chain(later).collect::<String>()).unwrap();
    let peak = peak_memory(&place, &path, &["--events", events.to_str().unwrap()]);
    assert!(peak <= 64_000_000 / 100 * 105, "{peak} bytes");
}

#[test]
fn a_maxheap_below_what_the_process_takes_by_itself_is_said_to_be_passed() {
    let place = Place::new();
    let path = place.path("none.pcap");
    Capture::default().write(&path);
    for (heap, warned) in [("32MB", true), ("64MB", false)] {
        let flags = ["--uuid.source=generated", "--maxheap", heap];
        let said = String::from_utf8(replay_output(&place, &path, "", &flags).stderr).unwrap();
        assert_eq!(said.contains("it will be passed; raise it to 58720256 at least"), warned, "{heap}: {said}");
    }
}

/// The peak of resident memory, bytes, of a replay within 64 MB.
fn peak_memory(place: &Place, capture: &Path, flags: &[&str]) -> u64 {
    let mut command = flowarc();
    command.args(["headers", "--maxheap=64MB", "--read"]).arg(capture).arg("--datadir").arg(&place.data).args(flags);
    let mut running = Running::start(&mut command, place, None);
    let status = format!("/proc/{}/status", running.child.id());
    let mut peak_kib = 0u64;
    let exit = loop {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim_end_matches("kB").trim().parse().ok());
        peak_kib = peak_kib.max(peak.unwrap_or(0));
        if let Some(exit) = running.child.try_wait().unwrap() {
            break exit;
        }
        std::thread::sleep(support::ms(2));
    };
    assert!(exit.success(), "{}", running.log());
    peak_kib * 1024
}

/// So many connections at once hold 50 MB, beside the 28 MiB that the program takes without any.
fn crowd() -> Capture {
    let mut capture = Capture::default();
    for n in 0..16_000u64 {
        let ts = NOON + n * 10_000;
        let syn = Segment::new(&crowd_end(n), "198.51.100.1:443", SYN).seq(n as u32, 0);
        capture.push(ts, &syn);
        capture.push(ts + 1_000, &syn.reply(SYN | ACK).seq(9, n as u32 + 1));
        for round in 1..38 {
            capture.push(ts + u64::from(round) * 500 * MILLI, &syn.clone().with(ACK).seq(n as u32 + round, 10));
        }
    }
    capture
}

fn crowd_end(n: u64) -> String {
    format!("10.1.{}.{}:4000", n / 250, n % 250)
}

#[test]
fn a_signal_ends_a_replay_from_a_named_pipe_that_is_silent_and_what_was_read_is_archived() {
    let place = Place::new();
    let pipe = place.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut capture = Capture::default();
    for n in 0..400 {
        capture.connection(NOON + n * SECOND, &format!("203.0.113.5:{}", 4000 + n), "198.51.100.1:80", 3, MILLI);
    }
    // Once all is written, the pipe holds the rest: 64 KiB at most.
    assert!(capture.bytes().len() > 4 * 65_536);
    for has_writer in [false, true] {
        let mut command = flowarc();
        command.args(["headers", "--uuid.source=generated", "--read"]).arg(&pipe).arg("--datadir").arg(&place.data);
        let mut running = Running::start(&mut command, &place, None);
        let mut writer = None;
        if has_writer {
            let mut file = fs::File::create(&pipe).unwrap();
            std::io::Write::write_all(&mut file, &capture.bytes()).unwrap();
            writer = Some(file);
        }
        support::until("it takes signals", || takes_sigterm(running.child.id()));
        running.signal(nix::sys::signal::Signal::SIGTERM);
        let (exit, _) = running.wait();
        assert_eq!(exit.code(), Some(1), "{}", running.log());
        assert_eq!(place.uuids().len() > 200, has_writer, "{}", running.log());
        drop(writer);
    }
}

fn takes_sigterm(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
    u64::from_str_radix(caught, 16).unwrap() & 1 << (nix::libc::SIGTERM - 1) != 0
}

#[test]
fn the_folder_of_temporary_files_is_empty_after_a_replay() {
    let input = Place::new();
    let path = input.path("one.pcap");
    let mut capture = Capture::default();
    capture.connection(NOON, "203.0.113.5:4000", "198.51.100.1:80", 3, MILLI);
    capture.write(&path);
    for mode in [&[][..], &["--stream"]] {
        let place = Place::new();
        let temporary = place.path("tmp");
        let flags = [&["--uuid.source=generated", "--tmpdir", temporary.to_str().unwrap()], mode].concat();
        assert_eq!(replay(&place, &path, "", &flags).0.len(), 1);
        assert!(names(&temporary).iter().all(|name| name.starts_with(".lock-")), "{:?}", names(&temporary));
        assert!(fs::read_dir(&temporary).unwrap().flatten().all(|e| !e.path().is_dir()), "a slot is left");
    }
}
