//! scratch
use flowarc::archive::deflate::Deflater;
use libdeflater::{CompressionLvl, Compressor};
use std::time::Instant;
use std::io::Read;

fn cut(pcap: &[u8], packets: usize) -> Option<&[u8]> {
    let mut at = 24;
    for _ in 0..packets {
        let n = u32::from_le_bytes(pcap.get(at..at + 16)?[8..12].try_into().unwrap()) as usize;
        at += 16 + n;
    }
    pcap.get(..at)
}
fn seg(pcap: &[u8]) -> Option<(usize, &[u8])> {
    let mut at = 24; let mut n = 0;
    while at < 65536 { let c = u32::from_le_bytes(pcap.get(at..at + 16)?[8..12].try_into().unwrap()) as usize; at += 16 + c; n += 1 }
    pcap.get(..at).map(|p| (n, p))
}
fn main() {
    let mut files: Vec<_> = std::env::args().filter(|a| a != "--bench").skip(1).flat_map(|d| std::fs::read_dir(d).unwrap().map(|e| e.unwrap().path())).collect();
    files.sort();
    let flows: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
    for packets in [1usize, 5, 14, 20, 36, 200, 0] {
        let inputs: Vec<&[u8]> = flows.iter().filter_map(|f| if packets == 0 { seg(f).map(|x| x.1) } else { cut(f, packets) }).collect();
        let n: usize = if packets == 0 { flows.iter().filter_map(|f| seg(f)).map(|x| x.0).sum() } else { inputs.len() * packets };
        if inputs.is_empty() { continue; }
        let raw: usize = inputs.iter().map(|i| i.len()).sum();
        print!("{packets:4} packets {:5} flows raw {:7.1} ", inputs.len(), raw as f64 / inputs.len() as f64);
        let reps = (2_000_000 / raw).max(1);
        let mut out = vec![0; 200_000];
        for level in [1, 3, 5, 6] {
            let mut c = Compressor::new(CompressionLvl::new(level).unwrap());
            let t = Instant::now();
            let mut total = 0;
            for _ in 0..reps { total = 0; for i in &inputs { total += c.deflate_compress(i, &mut out).unwrap(); } }
            print!(" | L{level} {:7.1} {:5.0}", total as f64 / inputs.len() as f64, t.elapsed().as_nanos() as f64 / (reps * n) as f64);
        }
        let mut d = Deflater::new();
        let mut o = Vec::new();
        let t = Instant::now();
        let mut total = 0;
        for _ in 0..reps { total = 0; for i in &inputs { o.clear(); d.deflate(i, &mut o); total += o.len(); } }
        println!(" | ours {:7.1} {:5.0}", total as f64 / inputs.len() as f64, t.elapsed().as_nanos() as f64 / (reps * n) as f64);
        for i in &inputs { o.clear(); d.deflate(i, &mut o); let mut back = Vec::new(); flate2::read::DeflateDecoder::new(&o[..]).read_to_end(&mut back).unwrap(); assert!(back == *i); }
    }
}
