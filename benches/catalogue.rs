//! Lookups in a catalogue of 5 million rows, as docs/CATALOGUE.md states them.
//!
//! ```sh
//! cargo bench --bench catalogue              # makes the catalogue below target/ the first time: a minute, 800 MB
//! cargo bench --bench catalogue -- 100000    # another number of rows
//! ```

use flowarc::archive::catalogue::columns::Micros;
use flowarc::archive::catalogue::{Collector, Folder, Row};
use flowarc::query::archive::{Archive, Watch};
use flowarc::query::filter::{Bounds, Filter};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn main() {
    // cargo adds flags of its own.
    let rows = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(5_000_000);
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("catalogue-{rows}"));
    let begin = Instant::now();
    if Folder::open(&dir).is_none() {
        generate(&dir, rows);
        println!("{rows} rows made in {:.1} s", begin.elapsed().as_secs_f64());
    }
    let wanted = row(rows / 2, rows);
    let at = wanted.start.0;
    let window =
        |from: i64, to: i64| Filter { since: Some(Micros(at + from)), until: Some(Micros(at + to)), ..Filter::default() };
    let network = |text: &str| Filter { networks: vec![text.parse().expect("a network")], ..Filter::default() };
    for (name, filter) in [
        ("one UUID", Filter { uuids: vec![wanted.uuid.clone()], ..Filter::default() }),
        ("a UUID that is not there", Filter { uuids: vec!["nobody".to_owned()], ..Filter::default() }),
        ("one address", network(&wanted.client_addr)),
        ("10 seconds", window(0, 10_000_000)),
        ("10 seconds and a port", Filter { ports: vec![wanted.client_port], ..window(0, 10_000_000) }),
        ("a /16 network", network(&format!("{}/16", wanted.client_addr))),
        (
            "1 % retransmissions or more",
            Filter { retransmissions: Bounds { least: Some(0.01), most: None }, ..Filter::default() },
        ),
    ] {
        let mut times = Vec::new();
        let mut found = 0;
        let before = cpu();
        let mut rounds = 0;
        for _ in 0..7 {
            let begin = Instant::now();
            rounds += 1;
            found = 0;
            let archive = Archive::open(&dir, Some(&dir)).expect("an archive");
            archive
                .scan(&filter, &Quiet, &mut |_| {
                    found += 1;
                    ControlFlow::Continue(())
                })
                .expect("a catalogue that can be read");
            times.push(begin.elapsed());
            if begin.elapsed() > Duration::from_secs(2) {
                break;
            }
        }
        times.sort();
        let (elapsed, cpu) = (times[times.len() / 2].as_secs_f64() * 1e3, (cpu() - before) * 1e3 / f64::from(rounds));
        println!("{name:<30} {found:>8} flows {elapsed:>9.1} ms, CPU {cpu:>9.1} ms");
    }
}

/// A day of flows, at an even pace.
fn generate(dir: &Path, rows: u64) {
    let mut collector = Collector::new(Folder::create(dir).expect("a folder"));
    for n in 0..rows {
        collector.add(&row(n, rows)).expect("a disk that takes rows");
        if n % 4_096 == 0 {
            collector.flush().expect("a disk that takes rows");
            let now = flowarc::archive::catalogue::folder::Hour::of(row(n, rows).start);
            collector.publish_before(now).expect("a disk that takes files");
        }
    }
    collector.publish().expect("a disk that takes files");
}

fn row(n: u64, rows: u64) -> Row {
    let mut random = {
        let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
        move |below: u64| {
            state = (state ^ (state >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (state >> 33) % below
        }
    };
    let start = 1_795_219_200_000_000 + (n as i64) * (86_400_000_000 / rows as i64);
    let duration = random(12_000_000) as i64;
    let uuid = format!("host-abcde_1795000000_{:08X}{:08X}", random(1 << 31), random(1 << 31));
    let client = random(400_000);
    let packets = 5 + random(2_000) as i64;
    let retransmitted = if random(20) == 0 { random(50) as i64 } else { 0 };
    let rtt = 1.0 + random(200_000) as f64 / 1_000.0;
    Row {
        file: format!("2026/11/21/{uuid}.pcap.gz"),
        uuid,
        start: Micros(start),
        end: Micros(start + duration),
        duration_s: duration as f64 / 1e6,
        client_addr: format!("{}.{}.{}.{}", 11 + client % 200, client / 200 % 256, client / 51_200, random(4)),
        client_port: 32_768 + random(28_000) as u16,
        server_addr: format!("192.0.2.{}", 1 + random(8)),
        server_port: 443,
        ip_version: 4,
        client_known: true,
        client_packets: packets,
        server_packets: packets * 2,
        client_bytes: packets * 70,
        server_bytes: packets * 2_900,
        server_data_packets: packets * 2,
        server_payload_bytes: packets * 2_800,
        server_unique_bytes: packets * 2_800,
        server_retransmitted_packets: retransmitted,
        retransmission_rate: retransmitted as f64 / (packets * 2) as f64,
        client_rtt_samples: packets,
        client_rtt_min_ms: Some(rtt),
        client_rtt_median_ms: Some(rtt * 1.2),
        client_rtt_p95_ms: Some(rtt * 2.0),
        handshake_rtt_ms: Some(rtt * 1.1),
        close: Some("fin".to_owned()),
        closed_by: Some("server".to_owned()),
        end_reason: "fin".to_owned(),
        complete: true,
        handshake: true,
        packets_seen: packets * 3,
        packets_kept: packets * 3,
        link_type: 1,
        tool: Some("0.1.0".to_owned()),
        file_bytes: 300 + packets * 20,
        ..Row::default()
    }
}

/// CPU time of the process so far, seconds: what is left of a measurement on a busy machine.
fn cpu() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).expect("own usage");
    [usage.user_time(), usage.system_time()].iter().map(|t| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6).sum()
}

struct Quiet;

impl Watch for Quiet {
    fn files(&self, _: u64) {}

    fn unreadable(&self, file: &str, error: &dyn std::error::Error) {
        panic!("{file}: {error}");
    }

    fn indexing(&self, _: &str) {}
}
