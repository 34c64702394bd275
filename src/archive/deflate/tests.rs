use super::*;
use crate::archive::testing::record;
use proptest::prelude::*;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

#[path = "../../../benches/flows/mod.rs"]
pub(super) mod flows;

fn deflate(input: &[u8]) -> Vec<u8> {
    let mut output = b"before".to_vec();
    Deflater::new().deflate(&mut input.to_vec(), &mut output);
    assert!(output.starts_with(b"before"));
    output.split_off(6)
}

fn inflate(deflated: &[u8]) -> Vec<u8> {
    let mut back = Vec::new();
    let mut decoder = flate2::bufread::DeflateDecoder::new(deflated);
    decoder.read_to_end(&mut back).unwrap();
    assert!(decoder.into_inner().is_empty(), "nothing follows the last block");
    back
}

/// What went in, out of two decoders that know nothing of each other.
fn round_trip(input: &[u8]) -> usize {
    let deflated = deflate(input);
    assert!(deflated.len() <= bound(input.len()), "{} bytes became {}", input.len(), deflated.len());
    assert!(inflate(&deflated) == input, "flate2");
    let mut back = vec![0; input.len()];
    let read = libdeflater::Decompressor::new().deflate_decompress(&deflated, &mut back).unwrap();
    assert!(read == input.len() && back == input, "libdeflate");
    deflated.len()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed;
    let mut step = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 56) as u8
    };
    (0..len).map(|_| step()).collect()
}

fn some_records() -> impl Strategy<Value = Vec<u8>> {
    let template = proptest::collection::vec(any::<u8>(), 0..150);
    let changes = proptest::collection::vec((0usize..150, any::<u8>()), 0..8);
    (any::<bool>(), template, proptest::collection::vec((any::<u64>(), changes, 0usize..160), 0..80)).prop_map(
        |(headed, template, packets)| {
            let header = crate::archive::pcap::file_header(crate::capture::LinkType::Ethernet, 256);
            let mut bytes = if headed { header.to_vec() } else { Vec::new() };
            for (ts, changes, len) in packets {
                let mut data = template.clone();
                data.truncate(len);
                for (at, byte) in changes {
                    if let Some(b) = data.get_mut(at) {
                        *b = byte;
                    }
                }
                bytes.extend(record(ts % (1 << 60), &data));
            }
            bytes
        },
    )
}

proptest! {
    #[test]
    fn any_bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        round_trip(&bytes);
    }

    #[test]
    fn bytes_of_few_values_come_back(bytes in proptest::collection::vec(0u8..3, 0..6000)) {
        round_trip(&bytes);
    }

    #[test]
    fn any_records_come_back(bytes in some_records()) {
        round_trip(&bytes);
    }

    #[test]
    fn damaged_flows_come_back(
        seed: u64,
        packets in 1usize..60,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        cut: prop::sample::Index,
    ) {
        let mut bytes = flows::flow(seed, packets);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        round_trip(&bytes);
    }
}

#[test]
fn flows_of_every_length_come_back() {
    for packets in (0..100).chain([1_000, 4_000]) {
        round_trip(&flows::flow(packets as u64, packets));
    }
}

#[test]
fn noise_grows_by_the_blocks_headers_only() {
    for len in [0, 1, 100, STORED_MAX - 1, STORED_MAX, STORED_MAX + 1, BLOCK_LEN - 1, BLOCK_LEN, BLOCK_LEN + 1, 3 * BLOCK_LEN] {
        let len = round_trip(&noise(len as u64, len));
        assert!(len > 0, "even nothing is a block");
    }
}

#[test]
fn repetitions_longer_than_a_match_and_further_than_the_window_come_back() {
    for input in [vec![0; 300_000], vec![7; 259], noise(1, 32_768).repeat(3), noise(2, 40_000).repeat(2)] {
        round_trip(&input);
    }
}

#[test]
fn what_was_compressed_before_does_not_matter() {
    let mut used = Deflater::new();
    for packets in [700, 3, 40, 0, 14] {
        let (flow, mut output) = (flows::flow(9, packets), Vec::new());
        used.deflate(&mut flow.clone(), &mut output);
        assert!(output == deflate(&flow), "{packets} packets");
    }
}

#[test]
fn codes_longer_than_the_format_allows_are_avoided() {
    // Counts like Fibonacci's numbers make the deepest tree.
    let (mut a, mut b, mut input) = (1, 1, Vec::new());
    for byte in 0..22u8 {
        input.extend(std::iter::repeat_n(byte.wrapping_mul(11), a));
        (a, b) = (b, a + b);
    }
    // No two equal bytes side by side more than chance has it, so that they stay literals.
    let order = noise(3, 4 * input.len());
    for i in (1..input.len()).rev() {
        let at = u32::from_le_bytes([order[4 * i], order[4 * i + 1], order[4 * i + 2], order[4 * i + 3]]);
        input.swap(i, at as usize % (i + 1));
    }
    round_trip(&input);
}

#[test]
fn a_flows_file_is_not_much_larger_than_by_a_general_compressor() {
    let level = libdeflater::CompressionLvl::new(6).unwrap();
    let (mut general, mut buffer) = (libdeflater::Compressor::new(level), vec![0; 1 << 20]);
    for (packets, percent) in [(5, 106), (14, 105), (20, 105), (36, 105), (200, 105), (700, 105)] {
        let (mut ours, mut theirs) = (0, 0);
        for seed in 0..50 {
            let flow = flows::flow(seed, packets);
            ours += deflate(&flow).len();
            theirs += general.deflate_compress(&flow, &mut buffer).unwrap();
        }
        assert!(ours * 100 <= theirs * percent, "{packets} packets: {ours} against {theirs}");
    }
}

/// The program's output for gzip bytes on its standard input; `None` where it is not installed.
fn piped(program: &str, arguments: &[&str], gzip: &[u8]) -> Option<Vec<u8>> {
    let child = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI promised {program}");
        eprintln!("SKIPPED: no {program}");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(gzip).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{program}");
    Some(output.stdout)
}

#[test]
fn other_programs_unpack_every_kind_of_block() {
    let contents = [flows::flow(1, 1), flows::flow(1, 14), flows::flow(1, 700), noise(1, 70_000), Vec::new()];
    let mut encoder = crate::archive::gzip::Encoder::new();
    let gzip: Vec<u8> = contents.iter().flat_map(|c| encoder.member(None, &[c])).collect();
    let python = "import gzip,sys; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))";
    for (program, arguments) in [("gunzip", &["-c"][..]), ("python3", &["-c", python])] {
        piped(program, arguments, &gzip).into_iter().for_each(|said| assert!(said == contents.concat(), "{program}"));
    }
}

/// Every capture below the folders of `FLOWARC_DEFLATE_CORPUS`, whole and cut into segments, comes back.
#[test]
fn real_captures_come_back() {
    let Some(corpus) = std::env::var_os("FLOWARC_DEFLATE_CORPUS") else {
        eprintln!("SKIPPED: FLOWARC_DEFLATE_CORPUS names no folders");
        return;
    };
    let mut folders: Vec<_> = std::env::split_paths(&corpus).collect();
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap();
            round_trip(&bytes);
            bytes.chunks(65_536).for_each(|chunk| assert!(round_trip(chunk) > 0));
            files += 1;
        }
    }
    assert!(files > 0);
}

/// Random damage to random flows for as many seconds as `FLOWARC_DEFLATE_SECONDS` says.
#[test]
fn a_long_run_finds_nothing() {
    let seconds = std::env::var("FLOWARC_DEFLATE_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let mut seed = 0u64;
    while std::time::Instant::now() < end {
        seed += 1;
        let random = noise(seed, 64);
        let mut bytes = flows::flow(seed, usize::from(random[0]) * (1 + usize::from(random[1] & 7)));
        for three in random[2..2 + 3 * usize::from(random[63] & 15)].chunks_exact(3) {
            let at = (usize::from(three[0]) << 8 | usize::from(three[1])) % bytes.len();
            bytes[at] = three[2];
        }
        round_trip(&bytes);
    }
    eprintln!("{seed} flows");
}
