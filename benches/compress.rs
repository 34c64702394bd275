//! What a flow's file costs by our compressor and by libdeflate's levels: bytes per flow and nanoseconds per packet.
//!
//! ```text
//! cargo bench --bench compress                     generated flows
//! cargo bench --bench compress -- DIR              the uncompressed pcap files of a folder, each a flow
//! cargo bench --bench compress -- --ours N         nothing but N packets a flow by ours, to be counted by callgrind
//! ```

mod flows;

use flowarc::archive::deflate::Deflater;
use libdeflater::{CompressionLvl, Compressor};
use std::time::{Duration, Instant};

fn main() {
    // Cargo adds a flag of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match &arguments[..] {
        [] => table(&(0..200).map(|seed| flows::flow(seed, 800)).collect::<Vec<_>>()),
        [ours, packets] if ours == "--ours" => {
            let packets = packets.parse().expect("a number of packets");
            let flows: Vec<Vec<u8>> = (0..50).map(|seed| flows::flow(seed, packets)).collect();
            let flows: Vec<&[u8]> = flows.iter().map(Vec::as_slice).collect();
            println!("{} bytes", deflate_all(&mut Deflater::new(), &flows));
        }
        folders => {
            let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("a folder"));
            let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
            paths.sort();
            table(&paths.iter().map(|path| std::fs::read(path).expect("a file to read")).collect::<Vec<_>>());
        }
    }
}

/// A line for each number of packets that enough flows have; flows are cut to it.
fn table(flows: &[Vec<u8>]) {
    println!("bytes per flow and ns per packet\n");
    print!("| packets | flows |     raw |");
    LEVELS.iter().for_each(|level| print!("   libdeflate {level} |"));
    println!("            ours |");
    for packets in [Some(1), Some(5), Some(14), Some(20), Some(36), Some(200), None] {
        let cut: Vec<(usize, &[u8])> = flows.iter().filter_map(|flow| cut(flow, packets)).collect();
        let flows: Vec<&[u8]> = cut.iter().map(|(_, flow)| *flow).collect();
        let sum: usize = cut.iter().map(|(packets, _)| packets).sum();
        if flows.is_empty() {
            continue;
        }
        let raw: usize = flows.iter().map(|flow| flow.len()).sum();
        let label = packets.map_or("64 KiB".into(), |packets| packets.to_string());
        print!("| {label:>7} | {:5} | {:7} |", flows.len(), raw / flows.len());
        let mut buffer = vec![0; 1 << 20];
        for level in LEVELS {
            let mut compressor = Compressor::new(CompressionLvl::new(level).expect("a level"));
            let run = || flows.iter().map(|flow| compressor.deflate_compress(flow, &mut buffer).expect("room")).sum();
            print_best(run, flows.len(), sum);
        }
        let mut deflater = Deflater::new();
        print_best(|| deflate_all(&mut deflater, &flows), flows.len(), sum);
        println!();
    }
}

/// Not inlined, for callgrind to find it (--toggle-collect).
#[inline(never)]
fn deflate_all(deflater: &mut Deflater, flows: &[&[u8]]) -> usize {
    let (mut input, mut output) = (Vec::new(), Vec::new());
    let compress = |flow: &&[u8]| {
        input.clear();
        input.extend_from_slice(flow);
        output.clear();
        deflater.deflate(&mut input, &mut output);
        output.len()
    };
    flows.iter().map(compress).sum()
}

/// Of several repetitions the fastest is the one that others' work disturbed least.
fn print_best(mut run: impl FnMut() -> usize, flows: usize, packets: usize) {
    let (mut bytes, mut best) = (0, Duration::MAX);
    let end = Instant::now() + TIME;
    while Instant::now() < end {
        let start = Instant::now();
        bytes = run();
        best = best.min(start.elapsed());
    }
    print!(" {:6} {:5} ns |", bytes / flows, best.as_nanos() / packets as u128);
}

/// A flow's first packets, or its first segment where no number is given, and how many they are; `None` where it is shorter.
fn cut(pcap: &[u8], packets: Option<usize>) -> Option<(usize, &[u8])> {
    let (mut at, mut n) = (24, 0);
    while packets.map_or(at < SEGMENT, |packets| n < packets) {
        let captured = pcap.get(at + 8..at + 12)?;
        at += 16 + u32::from_le_bytes(captured.try_into().expect("four bytes")) as usize;
        n += 1;
    }
    Some((n, pcap.get(..at)?))
}

const LEVELS: [i32; 4] = [1, 3, 5, 6];
const SEGMENT: usize = 64 * 1024;
/// For each figure.
const TIME: Duration = Duration::from_millis(300);
