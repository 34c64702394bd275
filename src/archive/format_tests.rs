//! Holds docs/FORMAT.md to the program, and the program's files to others' readers.

use super::file::ArchiveFile;
use super::gzip::{self, Encoder};
use super::metadata::Metadata;
use super::pcap;
use crate::capture::LinkType;
use crate::flow::segment::SEGMENT_LEN;
use crate::shard::{EndReason, FlowFlags};
use crate::time::Timestamp;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

const PAGE: &str = include_str!("../../docs/FORMAT.md");

/// Ethernet, IPv4 and TCP header between 192.0.2.1:443 and 198.51.100.7:50000.
fn packet(nanos: u64, from_server: bool, seq: u32, ack: u32, tcp_flags: u8) -> Vec<u8> {
    let (server, client) = ([192, 0, 2, 1], [198, 51, 100, 7]);
    let mut data = vec![0; 12];
    data.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    let (source, destination) = if from_server { (server, client) } else { (client, server) };
    data.extend(source);
    data.extend(destination);
    let (sport, dport) = if from_server { (443u16, 50_000u16) } else { (50_000, 443) };
    data.extend(sport.to_be_bytes());
    data.extend(dport.to_be_bytes());
    data.extend(seq.to_be_bytes());
    data.extend(ack.to_be_bytes());
    data.extend([0x50, tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
    super::testing::record(nanos, &data)
}

/// A flow of a handshake and `acks` more packets.
fn flow(acks: u32) -> ArchiveFile {
    let start = 1_795_218_624_000_000_000;
    let mut records = packet(start, false, 1000, 0, 0x02);
    records.extend(packet(start + 200_000, true, 7000, 1001, 0x12));
    let mut last = start + 20_000_123;
    records.extend(packet(last, false, 1001, 7001, 0x10));
    for i in 0..acks {
        last += 1_000_000;
        records.extend(packet(last, i % 2 == 0, 7001 + i, 1001 + i, 0x10));
    }
    let metadata = Metadata {
        end: Some(EndReason::Fin),
        flags: FlowFlags(FlowFlags::HANDSHAKE),
        tool: [0, 1, 0],
        first: Timestamp::from_nanos(start),
        last: Timestamp::from_nanos(last),
        packets_seen: 3 + acks,
        packets_kept: 3 + acks,
        kernel_drops: 0,
        tcp_info: None,
    };
    ArchiveFile { link: LinkType::Ethernet, snaplen: 256, metadata: Some(metadata), records, whole: true }
}

fn hexdump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (i, line) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        writeln!(text, "{:04x}  {}", i * 16, hex.join(" ")).expect("a String takes everything");
    }
    text
}

/// The page's code block of a language.
fn block(language: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("```{language}\n")).expect("the page has the block");
    rest.split_once("```").expect("the block ends").0
}

#[test]
fn the_pages_file_is_what_the_program_writes() {
    let file = flow(0).encode(&mut Encoder::new());
    assert_eq!(hexdump(&file), block("hexdump"), "the block should be:\n{}", hexdump(&file));
    let unpacked = hexdump(&gzip::decode(&file).unwrap().bytes[..pcap::FILE_HEADER_LEN + 16 + 54]);
    assert_eq!(unpacked, block("pcap"), "the block should be:\n{unpacked}");
}

/// A file of several members, in a folder of its own.
fn long_file() -> (tempfile::TempDir, std::path::PathBuf, ArchiveFile) {
    let flow = flow(3 * SEGMENT_LEN as u32 / 70);
    let bytes = flow.encode(&mut Encoder::new());
    assert!(gzip::decode(&bytes).unwrap().members > 2);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pcap.gz");
    std::fs::write(&path, bytes).unwrap();
    (dir, path, flow)
}

/// A shell command's output; `None` where the reader is not installed, which CI does not accept.
fn read_with(reader: &str, command: &str, path: &Path) -> Option<String> {
    let installed = Command::new(reader).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if installed.is_err() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI promised {reader}");
        eprintln!("SKIPPED: no {reader}");
        return None;
    }
    let output = Command::new("sh").args(["-c", command, "sh"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{reader}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn gunzip_finds_no_fault() {
    let (_dir, path, _) = long_file();
    read_with("gunzip", "gunzip -t \"$1\" 2>&1", &path).into_iter().for_each(|said| assert_eq!(said, ""));
}

#[test]
fn python_unpacks_every_byte() {
    let (_dir, path, flow) = long_file();
    let script = "python3 -c 'import gzip,sys; print(len(gzip.open(sys.argv[1]).read()))' \"$1\"";
    let expected = format!("{}\n", pcap::FILE_HEADER_LEN + flow.records.len());
    read_with("python3", script, &path).into_iter().for_each(|said| assert_eq!(said, expected));
}

#[test]
fn the_pages_python_reads_the_metadata() {
    let (dir, path, flow) = long_file();
    let script = dir.path().join("metadata.py");
    std::fs::write(&script, block("python")).unwrap();
    let Some(said) = read_with("python3", &format!("python3 {} \"$1\"", script.display()), &path) else { return };
    let m = flow.metadata.unwrap();
    let expected = format!(
        "(1, 1, 4, b'\\x00\\x01\\x00', {}, {}, {}, {}, 0)\n",
        m.first.as_nanos(),
        m.last.as_nanos(),
        m.packets_seen,
        m.packets_kept
    );
    assert_eq!(said, expected);
}

#[test]
fn tcpdump_shows_every_packet_with_nanoseconds() {
    let (_dir, path, flow) = long_file();
    let command = "gunzip -c \"$1\" | tcpdump -tt --nano -nr - 2>/dev/null";
    let Some(said) = read_with("tcpdump", command, &path) else { return };
    assert_eq!(said.lines().count() as u64, flow.packets());
    assert_eq!(said.lines().nth(2).unwrap().split(' ').next(), Some("1795218624.020000123"));
}

#[test]
fn tshark_shows_every_packet() {
    let (_dir, path, flow) = long_file();
    let command = "tshark -nr \"$1\" -T fields -e frame.time_epoch -e tcp.flags.syn 2>/dev/null";
    let Some(said) = read_with("tshark", command, &path) else { return };
    assert_eq!(said.lines().count() as u64, flow.packets());
    assert!(said.starts_with("1795218624.000000000\t"));
}
