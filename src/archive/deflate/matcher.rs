//! Finds repetitions in pcap records of one flow.

use crate::archive::pcap::FILE_HEADER_LEN;
use crate::flow::segment::RECORD_HEADER_LEN;

/// Literals, then a match; the last step of a block has a match of length 0, which is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) literals: u32,
    pub(super) len: u16,
    pub(super) distance: u16,
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

    fn count_match(&mut self, len: usize, distance: usize) {
        let (length, distance) = (length_symbol(len), distance_symbol(distance));
        self.litlen[length.symbol] += 1;
        self.dist[distance.symbol] += 1;
        self.extra_bits += u64::from(length.extra_bits + distance.extra_bits);
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

    /// Takes `input[start..end]` apart, which follows what was taken apart before.
    pub(super) fn find(&mut self, input: &[u8], start: usize, end: usize, steps: &mut Vec<Step>, histogram: &mut Histogram) {
        let mut at = start;
        let mut literals = 0;
        while at < end {
            while self.next_record <= at {
                self.enter_record(input);
            }
            let stop = self.next_record.min(end);
            let early = self.records <= HASHED_RECORDS;
            let distances = self.distances;
            // All of one length, which spares a check at each of them.
            let (from, room) = (at, (stop + 8).min(input.len()) - at);
            let here = &input[from..][..room];
            let there = distances.map(|d| &input[from - d..][..room]);
            while at < stop {
                let i = at - from;
                let (mut len, mut distance) = (0, 0);
                if let Some(word) = here.get(i..i + 8).filter(|_| self.compares) {
                    let word = word_of(word);
                    for (there, d) in there.iter().zip(distances) {
                        let run = (word ^ word_of(&there[i..i + 8])).trailing_zeros() as usize / 8;
                        if run > len {
                            (len, distance) = (run, d);
                        }
                    }
                    // Of several that are longer the first is as good as any.
                    len = if len == 8 { match_len(input, at, distance, end, 8) } else { len.min(end - at) };
                }
                if early && at < HASHED_LEN {
                    let slot = &mut self.hashed[hash(load(input, at))];
                    let before = usize::from(std::mem::replace(slot, at as u16));
                    if before != 0 && len < 8 {
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
                histogram.count_match(len, distance);
                steps.push(Step { literals, len: len as u16, distance: distance as u16 });
                literals = 0;
                if early {
                    for i in at + 1..(at + len).min(HASHED_LEN) {
                        self.hashed[hash(load(input, i))] = i as u16;
                    }
                }
                at += len;
            }
        }
        steps.push(Step { literals, len: 0, distance: 0 });
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

/// Eight bytes, zeros past the end.
fn load(input: &[u8], at: usize) -> u64 {
    let rest = &input[at.min(input.len())..];
    match rest.first_chunk() {
        Some(word) => u64::from_le_bytes(*word),
        None => rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    }
}

fn word_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}

/// How many bytes from `at` are as those `distance` before; `len` of them are known to be.
fn match_len(input: &[u8], at: usize, distance: usize, end: usize, mut len: usize) -> usize {
    let most = MAX_MATCH.min(end - at);
    while len < most {
        let difference = load(input, at + len) ^ load(input, at + len - distance);
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
#[derive(Clone, Copy)]
pub(super) struct Symbol {
    pub(super) symbol: usize,
    pub(super) extra_bits: u32,
    pub(super) extra: u32,
}

/// Of a length from 3 to 258.
pub(super) fn length_symbol(len: usize) -> Symbol {
    let v = (len - MIN_MATCH) as u32;
    if v < 8 {
        return Symbol { symbol: 257 + v as usize, extra_bits: 0, extra: 0 };
    }
    if len == MAX_MATCH {
        return Symbol { symbol: 285, extra_bits: 0, extra: 0 };
    }
    let extra_bits = v.ilog2() - 2;
    let symbol = 257 + 4 * extra_bits + (v >> extra_bits);
    Symbol { symbol: symbol as usize, extra_bits, extra: v & ((1 << extra_bits) - 1) }
}

/// Of a distance from 1 to 32,768.
pub(super) fn distance_symbol(distance: usize) -> Symbol {
    let v = (distance - 1) as u32;
    if v < 4 {
        return Symbol { symbol: v as usize, extra_bits: 0, extra: 0 };
    }
    let extra_bits = v.ilog2() - 1;
    let symbol = 2 * extra_bits + (v >> extra_bits);
    Symbol { symbol: symbol as usize, extra_bits, extra: v & ((1 << extra_bits) - 1) }
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
