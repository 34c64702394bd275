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
    /// Records so far, up to [`HASHED_RECORDS`].
    records: usize,
    last: Option<usize>,
    /// The last record of each direction.
    same_way: [Option<usize>; 2],
    /// The last record of each direction and wire length.
    same_shape: [Option<usize>; SHAPES],
    distances: [usize; 3],
    /// Positions in the first records by the hash of four bytes; 0 is none, since nothing is worth a match with it.
    hashed: Box<[u16; HASHES]>,
}

impl Default for Matcher {
    fn default() -> Self {
        Self {
            next_record: 0,
            records: 0,
            last: None,
            same_way: [None; 2],
            same_shape: [None; SHAPES],
            distances: [0; 3],
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
        self.same_way = [None; 2];
        self.same_shape = [None; SHAPES];
        self.distances = [0; 3];
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
            let early = self.records <= HASHED_RECORDS && at + 4 <= input.len();
            let [a, b, c] = self.distances;
            while at < stop {
                let word = load(input, at);
                let (mut len, mut distance) = (0, 0);
                for d in [a, b, c] {
                    if d != 0 && d <= at {
                        let found = match_len(input, at, d, word, end);
                        if found > len {
                            (len, distance) = (found, d);
                        }
                    }
                }
                if early && at < HASHED_LEN {
                    let slot = &mut self.hashed[hash(word)];
                    let d = at - usize::from(*slot);
                    if *slot != 0 && len < 8 {
                        let found = match_len(input, at, d, word, end);
                        if found > len + usize::from(len > 0) {
                            (len, distance) = (found, d);
                        }
                    }
                    *slot = at as u16;
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
        let [captured, wire] = [8, 12].map(|i| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]));
        self.next_record = start + RECORD_HEADER_LEN + captured as usize;
        self.records += 1;
        let way = direction(&rest[RECORD_HEADER_LEN..]);
        let shape = (wire.wrapping_mul(0x9e37_79b1) >> 29) as usize * 2 + way;
        let distance = |to: Option<usize>| to.map(|to| start - to).filter(|&d| d <= WINDOW).unwrap_or(0);
        let [a, b, c] = [self.same_way[way], self.same_shape[shape], self.last].map(distance);
        self.distances = [a, if b == a { 0 } else { b }, if c == a { 0 } else { c }];
        self.last = Some(start);
        self.same_way[way] = Some(start);
        self.same_shape[shape] = Some(start);
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
    addresses.is_some_and(|(ends, len)| {
        let (source, rest) = ends.split_at(len);
        let (destination, ports) = rest.split_at(len);
        (source, &ports[..2]) < (destination, &ports[2..])
    })
    .into()
}

/// Eight bytes, zeros past the end.
fn load(input: &[u8], at: usize) -> u64 {
    if let Some(bytes) = input.get(at..at + 8) {
        return u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    }
    let mut word = [0; 8];
    let rest = &input[at.min(input.len())..];
    word[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(word)
}

/// How many bytes from `at`, of which `word` has the first, are as those `distance` before.
fn match_len(input: &[u8], at: usize, distance: usize, word: u64, end: usize) -> usize {
    let most = MAX_MATCH.min(end - at);
    let mut difference = word ^ load(input, at - distance);
    let mut len = 0;
    loop {
        if difference != 0 {
            return (len + difference.trailing_zeros() as usize / 8).min(most);
        }
        len += 8;
        if len >= most {
            return most;
        }
        difference = load(input, at + len) ^ load(input, at + len - distance);
    }
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
const SHAPES: usize = 16;
/// In the first records addresses change places and options their offsets, so their bytes are looked up wherever they are.
const HASHED_RECORDS: usize = 4;
/// What is looked up at most: all of these records, of usual lengths.
const HASHED_LEN: usize = 1024;
const HASH_BITS: u32 = 10;
const HASHES: usize = 1 << HASH_BITS;
