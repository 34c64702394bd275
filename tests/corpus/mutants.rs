//! Damaged captures, on the whole way to archive files: a fuzzer for the stable tool chain. fuzz/ has the guided one.
//!
//! A few hundred mutants in every test run, always the same; `FLOWARC_FUZZ_SECS=300` goes on for that long, from
//! another start each time, and says how many there were.

use crate::manifest::captures;
use crate::memory::{Setup, replay};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

#[test]
fn damaged_captures_lose_nothing_uncounted() {
    let seeds = seeds();
    let limit = std::env::var("FLOWARC_FUZZ_SECS").ok().map(|s| Duration::from_secs(s.parse().expect("seconds")));
    let start = match limit {
        Some(_) => SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_nanos() as u64,
        None => 0,
    };
    let begun = Instant::now();
    let (mut mutants, mut frames, mut archived) = (0, 0, 0);
    while limit.map_or(mutants < MUTANTS, |limit| begun.elapsed() < limit) {
        let mut rng = Rng(start.wrapping_add(mutants));
        let mutant = mutate(&seeds, &mut rng);
        let setup = rng.next() as u8;
        let result = catch_unwind(AssertUnwindSafe(|| replay(mutant.clone(), Setup::number(setup))));
        let Ok(replayed) = result else {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mutant-{setup}.pcap"));
            std::fs::write(&path, &mutant).expect("a place for the mutant");
            panic!("{} with setup {setup} shows the fault", path.display());
        };
        mutants += 1;
        frames += replayed.stats.frames_total();
        archived += replayed.archived;
    }
    eprintln!("{mutants} mutants, {frames} frames, {archived} of them archived, {:?}", begun.elapsed());
    assert!(limit.is_some() || archived > 1_000, "the mutants are too damaged to show anything");
}

/// Captures to damage: those of the project, and of the corpus where it is.
fn seeds() -> Vec<Vec<u8>> {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut paths: Vec<_> = std::fs::read_dir(testdata)
        .expect("testdata is there")
        .map(|entry| entry.expect("testdata can be read").path())
        .filter(|path| path.extension().is_some_and(|e| e == "pcap" || e == "pcapng"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    // Large captures take long and hold nothing that small ones do not.
    paths.extend(captures().unwrap_or_default().into_iter().filter(|c| c.tcp > 0).map(|c| c.path));
    let seeds = paths.iter().map(|path| std::fs::read(path).expect("the capture is there"));
    seeds.filter(|seed| (48..60_000).contains(&seed.len())).collect()
}

fn mutate(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seeds[rng.below(seeds.len())].clone();
    for _ in 0..=rng.below(8) {
        if bytes.len() < 32 {
            break;
        }
        // Mostly behind the file header: without it there is nothing to parse.
        let least = if rng.below(16) == 0 { 0 } else { 24 };
        let at = least + rng.below(bytes.len() - least);
        match rng.below(9) {
            0 | 1 => bytes[at] ^= 1 << rng.below(8),
            2 => bytes[at] = rng.next() as u8,
            3 => overwrite(&mut bytes, at, &INTERESTING[rng.below(INTERESTING.len())].to_le_bytes()),
            4 => overwrite(&mut bytes, at, &(INTERESTING[rng.below(INTERESTING.len())] as u16).to_be_bytes()),
            5 => {
                let end = (at + 1 + rng.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 => {
                let end = (at + 1 + rng.below(400)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            7 => {
                let other = &seeds[rng.below(seeds.len())];
                let from = 24 + rng.below(other.len() - 24);
                let end = (from + 1 + rng.below(2_000)).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn overwrite(bytes: &mut [u8], at: usize, value: &[u8]) {
    let end = (at + value.len()).min(bytes.len());
    bytes[at..end].copy_from_slice(&value[..end - at]);
}

/// SplitMix64 (Steele, Lea, Flood 2014): any seed will do, also its neighbour.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

const MUTANTS: u64 = 400;
const INTERESTING: [u32; 12] = [0, 1, 5, 16, 20, 40, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
