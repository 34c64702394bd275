//! The cutoff beside gotm's: what is kept is the same packets, but for the differences that docs/CAPTURE.md lists.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use support::frames::{ACK, Capture, MILLI, NOON, PSH, RST, SECOND, SYN, Segment};
use support::process::{Place, flowarc};

#[test]
fn what_is_kept_differs_from_gotm_where_the_table_says_so_and_nowhere_else() {
    let place = Place::new();
    let file = place.path("in.pcap");
    let capture = mixture();
    capture.write(&file);
    let mut all = capture.frames;
    all.sort_by_key(|(ts, _)| *ts);
    for (bytes, packets, expected) in [(1000_u64, 1_000_000_u64, "pkf"), (1_000_000_000, 10, "lkf"), (2000, 12, "lpkf")] {
        let data = place.path(&format!("{bytes}-{packets}"));
        let (bytes, packets) = (bytes.to_string(), packets.to_string());
        let mut command = flowarc();
        command.args(["capture", "--cutoff.per=direction", "--idletimeout=10s", "--rotate.time=0", "--compress=none"]);
        command
            .args(["--cutoff.bytes", &bytes, "--cutoff.packets", &packets])
            .arg("--read")
            .arg(&file)
            .arg("--datadir")
            .arg(&data);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let (kept, why) = oracle(&file, &bytes, &packets);
        assert_eq!(kept.len(), all.len());
        let judged: Vec<_> = all.iter().zip(kept.bytes()).filter(|(_, kept)| *kept == b'K').map(|(f, _)| f.clone()).collect();
        assert!(records(&data) == judged, "{bytes} bytes, {packets} packets");
        for reason in ['l', 'p', 'k', 'f'] {
            assert_eq!(why.contains(reason), expected.contains(reason), "{bytes} bytes, {packets} packets: {reason} in {why}");
        }
    }
}

/// Connections with and without options, short and long, some between the ends of others; datagrams, ARP, tagged frames.
fn mixture() -> Capture {
    let mut capture = Capture::default();
    for n in 0..30_u64 {
        let client = format!("203.0.113.{}:{}", n % 7 + 1, 41_000 + n);
        capture.connection(NOON + n * 300 * MILLI, &client, "198.51.100.1:443", (n % 17) as u32, 90 * MILLI);
    }
    // The same ends again, at once and after the time in which a flow is forgotten.
    for at in [5, 12, 40] {
        capture.connection(NOON + at * SECOND, "[2001:db8::1]:40000", "[2001:db8::2]:80", 9, 10 * MILLI);
    }
    let ends = ("203.0.113.50:50000", "198.51.100.9:22");
    for n in 0..40 {
        let at = NOON + SECOND + n * 20 * MILLI;
        capture.push(at, &Segment::new(ends.0, ends.1, ACK | PSH).payload(700).options(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]));
        // Acknowledgements without payload.
        capture.push(at + MILLI, &Segment::new(ends.1, ends.0, ACK));
    }
    capture.push(NOON + 2 * SECOND, &Segment::new(ends.0, ends.1, RST));
    capture.push(NOON + 2 * SECOND + 1, &Segment::new(ends.0, ends.1, SYN).seq(77, 0));
    for n in 0..30 {
        capture.frames.push((NOON + n * 7 * MILLI, arp()));
        let tagged = Segment::new("203.0.113.60:50001", "198.51.100.9:22", ACK).payload(90);
        capture.frames.push((NOON + n * 9 * MILLI + 1, tagged.ethernet(&[7])));
        capture.frames.push((NOON + n * 11 * MILLI + 2, datagram(n as u16 % 3, 300)));
    }
    capture
}

fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    // Padded to what a driver sends, and beyond what gotm takes for headers.
    frame.resize(100, 0);
    frame
}

fn datagram(port: u16, len: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00, 0x45, 0];
    frame.extend((28 + len).to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, 17, 0, 0, 203, 0, 113, 70, 198, 51, 100, 5]);
    for word in [40_000 + port, 53, 8 + len, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.resize(frame.len() + usize::from(len), 0x5a);
    frame
}

/// What the oracle would keep, and the reasons of what gotm would do otherwise.
fn oracle(file: &Path, bytes: &str, packets: &str) -> (String, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gotm_oracle.py");
    let line = format!("echo '{}' | python3 {script} {bytes} {packets} 10", file.display());
    let out = Command::new("sh").args(["-c", &line]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let [_, kept, why] = text.trim().split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
    (kept.to_owned(), why.to_owned())
}

/// Times and bytes of all records of the one segment below a folder.
fn records(data: &Path) -> Vec<(u64, Vec<u8>)> {
    let names = support::archive::names(data);
    let name = names.iter().find(|n| n.ends_with(".pcap")).expect("a segment");
    let bytes = fs::read(data.join(name)).unwrap();
    let (mut rest, mut out) = (&bytes[24..], Vec::new());
    while !rest.is_empty() {
        let word = |at: usize| u64::from(u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()));
        let (ts, len) = (word(0) * SECOND + word(4), word(8) as usize);
        out.push((ts, rest[16..16 + len].to_vec()));
        rest = &rest[16 + len..];
    }
    out
}
