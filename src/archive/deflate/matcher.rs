//! Finds repetitions in pcap records of one flow.

use crate::archive::pcap::FILE_HEADER_LEN;
use crate::flow::segment::RECORD_HEADER_LEN;
use std::ops::Range;
use wide::u8x16;

/// Literals, then a match; the last step of a block has a match of length 0, which is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) literals: u32,
    pub(super) len: u16,
    pub(super) length: Symbol,
    pub(super) distance: Symbol,
}

/// How often each symbol occurs in a block.
pub(super) struct Histogram {
    /// Literals, the end of the block, lengths.
    pub(super) litlen: [u32; LITLEN],
    pub(super) dist: [u32; DIST],
    /// Bits that no code changes.
    pub(super) extra_bits: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { litlen: [0; LITLEN], dist: [0; DIST], extra_bits: 0 }
    }
}

impl Histogram {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Every block ends once.
    pub(super) fn count_end(&mut self) {
        self.litlen[END_OF_BLOCK] += 1;
    }

    fn count_match(&mut self, step: &Step) {
        self.litlen[usize::from(step.length.symbol)] += 1;
        self.dist[usize::from(step.distance.symbol)] += 1;
        self.extra_bits += u64::from(step.length.extra_bits + step.distance.extra_bits);
    }
}

/// Walks from record to record and compares each with those before it that are likely to be most like it.
pub(super) struct Matcher {
    /// Where the next record begins.
    next_record: usize,
    /// Records so far.
    records: usize,
    last: Option<usize>,
    /// The last records of each direction, latest first.
    same_way: [[Option<usize>; SAME_WAY]; 2],
    /// Where the current record's bytes are compared: at distances of at most [`WINDOW`], some of them perhaps equal.
    distances: [usize; CANDIDATES],
    /// Whether there are distances.
    compares: bool,
    /// Positions in the first records by the hash of four bytes; 0 is none, since nothing is worth a match with it.
    hashed: Box<[u16; HASHES]>,
}

impl Default for Matcher {
    fn default() -> Self {
        Self {
            next_record: 0,
            records: 0,
            last: None,
            same_way: [[None; SAME_WAY]; 2],
            distances: [0; CANDIDATES],
            compares: false,
            hashed: Box::new([0; HASHES]),
        }
    }
}

impl Matcher {
    /// Begins with another input.
    pub(super) fn start(&mut self, input: &[u8]) {
        let magic = 0xa1b2_3c4d_u32.to_le_bytes();
        self.next_record = if input.starts_with(&magic) { FILE_HEADER_LEN } else { 0 };
        self.records = 0;
        self.last = None;
        self.same_way = [[None; SAME_WAY]; 2];
        self.compares = false;
        self.distances = [0; CANDIDATES];
        self.hashed.fill(0);
    }

    /// Takes `input[start..end]` apart, which follows what was taken apart before. After the input's `len` bytes there are
    /// [`PADDING`] of any value.
    pub(super) fn find(&mut self, input: &[u8], range: Range<usize>, steps: &mut Vec<Step>, histogram: &mut Histogram) {
        let (mut at, end) = (range.start, range.end);
        let mut literals = 0;
        while at < end {
            while self.next_record <= at {
                self.enter_record(&input[..input.len() - PADDING]);
            }
            let stop = self.next_record.min(end);
            let mut stretch = self.compare(input, at, stop);
            let early = self.records <= HASHED_RECORDS;
            while at < stop {
                if at >= stretch.end {
                    stretch = self.compare(input, at, stop);
                }
                if !early || at >= HASHED_LEN {
                    let run = stretch.literals_from(at).min(stop - at);
                    for literal in &input[at..at + run] {
                        histogram.litlen[usize::from(*literal)] += 1;
                    }
                    literals += run as u32;
                    at += run;
                    if run > 0 {
                        continue;
                    }
                }
                let (mut len, mut distance) = stretch.longest_from(at, &self.distances);
                if len >= LOOK {
                    len = match_len(input, at, distance, end, LOOK);
                } else {
                    len = len.min(end - at);
                }
                if early && at < HASHED_LEN {
                    let slot = &mut self.hashed[hash(word(input, at))];
                    let before = usize::from(std::mem::replace(slot, at as u16));
                    if before != 0 && len < LOOK {
                        let found = match_len(input, at, at - before, end, 0);
                        // The known distances are in nearly all matches, so their codes are short.
                        if found > len + usize::from(len > 0) {
                            (len, distance) = (found, at - before);
                        }
                    }
                }
                if len < MIN_MATCH {
                    histogram.litlen[usize::from(input[at])] += 1;
                    literals += 1;
                    at += 1;
                    continue;
                }
                let step = Step { literals, len: len as u16, length: length_symbol(len), distance: distance_symbol(distance) };
                histogram.count_match(&step);
                steps.push(step);
                literals = 0;
                if early {
                    for i in at + 1..(at + len).min(HASHED_LEN) {
                        self.hashed[hash(word(input, i))] = i as u16;
                    }
                }
                at += len;
            }
        }
        steps.push(Step { literals, len: 0, length: Symbol::NONE, distance: Symbol::NONE });
    }

    /// Which of the bytes from `at` are as those at each of the distances before: a bit for each, lowest first.
    fn compare(&self, input: &[u8], at: usize, stop: usize) -> Stretch {
        let mut stretch = Stretch { start: at, end: at + STRETCH - LOOK, equal: [0; CANDIDATES], begins: 0 };
        if !self.compares {
            return stretch;
        }
        let parts = (stop - at + LOOK).min(STRETCH).div_ceil(LANES);
        let here = &input[at..at + STRETCH];
        stretch.equal = self.distances.map(|distance| {
            let there = &input[at - distance..][..STRETCH];
            let pairs = here.as_chunks::<LANES>().0.iter().zip(there.as_chunks::<LANES>().0);
            pairs.take(parts).enumerate().fold(0, |equal, (i, (here, there))| {
                let lanes = u8x16::new(*here).simd_eq(u8x16::new(*there)).to_bitmask();
                equal | u64::from(lanes) << (i * LANES)
            })
        });
        stretch.begins = stretch.equal.iter().fold(0, |begins, e| begins | e & e >> 1 & e >> 2);
        stretch
    }

    /// Takes note of the record at `next_record`, and of the distances at which it is compared.
    fn enter_record(&mut self, input: &[u8]) {
        let start = self.next_record;
        let rest = &input[start.min(input.len())..];
        let Some(header) = rest.first_chunk::<RECORD_HEADER_LEN>() else {
            self.next_record = usize::MAX;
            return;
        };
        let captured = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        self.next_record = start + RECORD_HEADER_LEN + captured as usize;
        self.records += 1;
        let way = direction(&rest[RECORD_HEADER_LEN..]);
        let [latest, earlier @ ..] = self.same_way[way];
        let [opposite, ..] = self.same_way[1 - way];
        let distance = |to: Option<usize>| to.map(|to| start - to).filter(|&d| d <= WINDOW);
        let mut usual = distance(self.last).unwrap_or(0);
        self.compares = usual > 0;
        usual = distance(latest).unwrap_or(usual);
        // What one side sent as sequence number and timestamp, the other sends back four bytes further on.
        let acknowledged = opposite.and_then(|o| o.checked_sub(4));
        let others = [self.last, acknowledged, earlier[0], earlier[1]].map(|to| distance(to).unwrap_or(usual));
        self.distances = [usual, others[0], others[1], others[2], others[3]];
        self.last = Some(start);
        self.same_way[way] = [Some(start), latest, earlier[0]];
    }
}

/// What a run of bytes has in common with earlier ones.
struct Stretch {
    start: usize,
    /// From here on too few of its bytes follow to say how long a match is.
    end: usize,
    /// By distance: a bit for each byte that is the same there.
    equal: [u64; CANDIDATES],
    /// A bit for each byte at which a match of [`MIN_MATCH`] begins.
    begins: u64,
}

impl Stretch {
    /// How many bytes from `at`, which is before the end, begin no match.
    fn literals_from(&self, at: usize) -> usize {
        ((self.begins >> (at - self.start)).trailing_zeros() as usize).min(self.end - at)
    }

    /// The longest of the matches at `at`, as far as the stretch goes, and its distance.
    fn longest_from(&self, at: usize, distances: &[usize; CANDIDATES]) -> (usize, usize) {
        let (mut len, mut distance) = (0, 0);
        for (equal, d) in self.equal.iter().zip(distances) {
            let run = (equal >> (at - self.start)).trailing_ones() as usize;
            if run > len {
                (len, distance) = (run, *d);
            }
        }
        (len, distance)
    }
}

/// Which of the two endpoints sent a packet: says nothing but that packets of one flow and one direction have the same.
fn direction(packet: &[u8]) -> usize {
    let ends = |at: usize, len: usize| packet.get(at..at + 2 * len + 4);
    let addresses = match (packet.get(12..14), packet.first().map(|b| b >> 4)) {
        (Some([0x08, 0x00]), _) => ends(ETHERNET + 12, 4).map(|e| (e, 4)),
        (Some([0x86, 0xdd]), _) => ends(ETHERNET + 8, 16).map(|e| (e, 16)),
        (_, Some(4)) => ends(12, 4).map(|e| (e, 4)),
        (_, Some(6)) => ends(8, 16).map(|e| (e, 16)),
        _ => None,
    };
    addresses
        .is_some_and(|(ends, len)| {
            let (source, rest) = ends.split_at(len);
            let (destination, ports) = rest.split_at(len);
            (source, &ports[..2]) < (destination, &ports[2..])
        })
        .into()
}

/// Eight bytes; the padding has them where the input ends before.
fn word(input: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*input[at..].first_chunk().expect("input is padded"))
}

/// How many bytes from `at` are as those `distance` before; `len` of them are known to be.
fn match_len(input: &[u8], at: usize, distance: usize, end: usize, mut len: usize) -> usize {
    let most = MAX_MATCH.min(end - at);
    while len < most {
        let difference = word(input, at + len) ^ word(input, at + len - distance);
        if difference != 0 {
            return (len + difference.trailing_zeros() as usize / 8).min(most);
        }
        len += 8;
    }
    most
}

fn hash(word: u64) -> usize {
    ((word as u32).wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize
}

/// A length or a distance as RFC 1951, section 3.2.5 encodes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    pub(super) symbol: u16,
    pub(super) extra_bits: u16,
    pub(super) extra: u16,
}

impl Symbol {
    /// Of no match.
    const NONE: Self = Self { symbol: 0, extra_bits: 0, extra: 0 };
}

/// Of a length from 3 to 258.
pub(super) fn length_symbol(len: usize) -> Symbol {
    let v = (len - MIN_MATCH) as u32;
    if v < 8 {
        return Symbol { symbol: 257 + v as u16, ..Symbol::NONE };
    }
    if len == MAX_MATCH {
        return Symbol { symbol: 285, ..Symbol::NONE };
    }
    let extra_bits = v.ilog2() - 2;
    let symbol = 257 + 4 * extra_bits + (v >> extra_bits);
    Symbol { symbol: symbol as u16, extra_bits: extra_bits as u16, extra: (v & ((1 << extra_bits) - 1)) as u16 }
}

/// Of a distance from 1 to 32,768.
pub(super) fn distance_symbol(distance: usize) -> Symbol {
    let v = (distance - 1) as u32;
    if v < 4 {
        return Symbol { symbol: v as u16, ..Symbol::NONE };
    }
    let extra_bits = v.ilog2() - 1;
    let symbol = 2 * extra_bits + (v >> extra_bits);
    Symbol { symbol: symbol as u16, extra_bits: extra_bits as u16, extra: (v & ((1 << extra_bits) - 1)) as u16 }
}

/// Symbols of literals, the end of a block, and lengths; the last two have a fixed code but no meaning.
pub(super) const LITLEN: usize = 288;
/// Symbols of distances.
pub(super) const DIST: usize = 30;
pub(super) const END_OF_BLOCK: usize = 256;
const MIN_MATCH: usize = 3;
const MAX_MATCH: usize = 258;
/// The furthest that a match reaches back.
const WINDOW: usize = 32 * 1024;
const ETHERNET: usize = 14;
/// Bytes compared in one go.
const STRETCH: usize = u64::BITS as usize;
/// A match of so many bytes is as good as any longer one. Less than [`STRETCH`] holds of them is compared again.
const LOOK: usize = 8;
/// Bytes compared by one instruction.
const LANES: usize = 16;
/// Room that must follow the input, since whole stretches and words are read.
pub(super) const PADDING: usize = STRETCH;
/// Of 1 and 3 the latter makes long real flows 9 % smaller, at a tenth more instructions.
const SAME_WAY: usize = 3;
/// The last record, the one that is acknowledged, and those of the same direction.
const CANDIDATES: usize = 2 + SAME_WAY;
/// In the first records addresses change places and options their offsets, so their bytes are looked up wherever they are.
const HASHED_RECORDS: usize = 3;
/// What is looked up at most: all of these records, of usual lengths.
const HASHED_LEN: usize = 1024;
const HASH_BITS: u32 = 10;
const HASHES: usize = 1 << HASH_BITS;
