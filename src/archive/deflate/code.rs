//! Huffman codes: of a block's symbols, and of the code's own description (RFC 1951, section 3.2.7).

use super::bits::BitWriter;
use super::matcher::{DIST, END_OF_BLOCK, Histogram, LITLEN, Step};

/// A pair of codes, ready to write.
pub(super) struct Code {
    litlen: [Word; LITLEN],
    dist: [Word; DIST],
    /// What tells the reader the code; empty for the fixed one.
    description: Vec<Word>,
    description_bits: u64,
}

/// Bits to write, lowest first. A symbol that a code lacks has `count` [`ABSENT`].
#[derive(Clone, Copy, Debug)]
struct Word {
    bits: u16,
    count: u16,
}

impl Default for Code {
    fn default() -> Self {
        let absent = Word { bits: 0, count: ABSENT };
        Self { litlen: [absent; LITLEN], dist: [absent; DIST], description: Vec::new(), description_bits: 0 }
    }
}

impl Code {
    /// Sets the codes from their lengths; 0 is a symbol that is not in the code.
    pub(super) fn set(&mut self, litlen: &[u8; LITLEN], dist: &[u8; DIST]) {
        assign(litlen, &mut self.litlen);
        assign(dist, &mut self.dist);
    }

    /// Bits of a block but for its first three; very many where it has a symbol that the code lacks.
    pub(super) fn bits(&self, histogram: &Histogram) -> u64 {
        // A block's symbols times the longest code, or [`CANNED_UP_TO`](super::CANNED_UP_TO) times ABSENT, are below 2^32.
        let sum = |counts: &[u32], words: &[Word]| -> u32 { counts.iter().zip(words).map(|(n, w)| n * u32::from(w.count)).sum() };
        let sum = sum(&histogram.litlen, &self.litlen) + sum(&histogram.dist, &self.dist);
        self.description_bits + u64::from(sum) + histogram.extra_bits
    }

    /// The lengths that it was set from.
    #[cfg(test)]
    pub(super) fn lengths(&self) -> ([u8; LITLEN], [u8; DIST]) {
        let len = |w: &Word| if w.count == ABSENT { 0 } else { w.count as u8 };
        (std::array::from_fn(|i| len(&self.litlen[i])), std::array::from_fn(|i| len(&self.dist[i])))
    }

    /// Writes a block but for its first three bits.
    pub(super) fn write(&self, writer: &mut BitWriter<'_>, input: &[u8], steps: &[Step]) {
        for word in &self.description {
            word.put(writer);
            writer.flush();
        }
        let mut rest = input;
        for step in steps {
            let (literals, after) = rest.split_at(step.literals as usize);
            // Three codes of at most 15 bits each, and 7 bits pending.
            for three in literals.chunks(3) {
                for &literal in three {
                    self.litlen[usize::from(literal)].put(writer);
                }
                writer.flush();
            }
            rest = after;
            if step.len == 0 {
                continue;
            }
            let Step { length, distance, .. } = step;
            self.litlen[usize::from(length.symbol)].put(writer);
            writer.put(length.extra.into(), length.extra_bits.into());
            self.dist[usize::from(distance.symbol)].put(writer);
            writer.put(distance.extra.into(), distance.extra_bits.into());
            writer.flush();
            rest = &rest[step.len.into()..];
        }
        self.litlen[END_OF_BLOCK].put(writer);
        writer.flush();
    }
}

impl Word {
    fn put(self, writer: &mut BitWriter<'_>) {
        writer.put(self.bits.into(), self.count.into());
    }
}

/// Canonical codes (RFC 1951, section 3.2.2), each code's bits turned round.
fn assign(lengths: &[u8], words: &mut [Word]) {
    let mut next = [0u16; MAX_LEN + 2];
    for &len in lengths.iter().filter(|&&len| len > 0) {
        next[usize::from(len) + 1] += 1;
    }
    for len in 1..=MAX_LEN {
        next[len + 1] = (next[len] + next[len + 1]) << 1;
    }
    for (&len, word) in lengths.iter().zip(words) {
        *word = if len == 0 {
            Word { bits: 0, count: ABSENT }
        } else {
            let code = next[usize::from(len)];
            next[usize::from(len)] += 1;
            Word { bits: code.reverse_bits() >> (16 - len), count: len.into() }
        };
    }
}

/// Makes codes; holds its buffers.
#[derive(Default)]
pub(super) struct CodeBuilder {
    sorted: Vec<u64>,
    runs: Vec<(u8, Word)>,
}

impl CodeBuilder {
    /// Makes the best code for a block.
    pub(super) fn fit(&mut self, code: &mut Code, histogram: &Histogram) {
        let (mut litlen, mut dist) = ([0; LITLEN], [0; DIST]);
        self.lengths(&histogram.litlen, MAX_LEN, &mut litlen);
        self.lengths(&histogram.dist, MAX_LEN, &mut dist);
        code.set(&litlen, &dist);
        self.describe(code);
    }

    /// Makes the words that tell a reader the code.
    pub(super) fn describe(&mut self, code: &mut Code) {
        let present = |words: &[Word], least: usize| {
            words.iter().rposition(|w| w.count != ABSENT).map_or(least, |last| (last + 1).max(least))
        };
        let (litlen, dist) = (present(&code.litlen, 257), present(&code.dist, 1));
        self.runs.clear();
        let lengths =
            code.litlen[..litlen].iter().chain(&code.dist[..dist]).map(|w| if w.count == ABSENT { 0 } else { w.count as u8 });
        find_runs(lengths, &mut self.runs);
        let mut counts = [0; RUN_SYMBOLS];
        for (symbol, _) in &self.runs {
            counts[usize::from(*symbol)] += 1;
        }
        let mut run_lengths = [0; RUN_SYMBOLS];
        self.lengths(&counts, MAX_RUN_LEN, &mut run_lengths);
        let mut run_words = [Word { bits: 0, count: 0 }; RUN_SYMBOLS];
        assign(&run_lengths, &mut run_words);
        let sent = RUN_ORDER.iter().rposition(|&s| run_lengths[s] > 0).map_or(4, |last| (last + 1).max(4));
        let description = &mut code.description;
        description.clear();
        description.push(Word { bits: (litlen - 257) as u16 | ((dist - 1) as u16) << 5 | ((sent - 4) as u16) << 10, count: 14 });
        description.extend(RUN_ORDER[..sent].iter().map(|&s| Word { bits: run_lengths[s].into(), count: 3 }));
        for &(symbol, extra) in &self.runs {
            description.push(run_words[usize::from(symbol)]);
            if extra.count > 0 {
                description.push(extra);
            }
        }
        code.description_bits = description.iter().map(|w| u64::from(w.count)).sum();
    }

    /// The lengths of a Huffman code with no code longer than `longest`.
    fn lengths(&mut self, counts: &[u32], longest: usize, lengths: &mut [u8]) {
        lengths.fill(0);
        self.sorted.clear();
        self.sorted.extend(counts.iter().enumerate().filter(|(_, n)| **n > 0).map(|(s, &n)| u64::from(n) << 16 | s as u64));
        let n = self.sorted.len();
        if n < 2 {
            // RFC 1951, section 3.2.7: one code of one bit.
            self.sorted.iter().for_each(|&s| lengths[(s & 0xffff) as usize] = 1);
            return;
        }
        self.sorted.sort_unstable();
        let mut depths = [0u32; LITLEN];
        let depths = &mut depths[..n];
        for (depth, s) in depths.iter_mut().zip(&self.sorted) {
            *depth = (s >> 16) as u32;
        }
        minimum_redundancy(depths);
        // How many codes have each length; codes that are too long go to the longest, and others make room for them.
        let mut of_len = [0u32; MAX_LEN + 1];
        for &depth in depths.iter() {
            of_len[(depth as usize).min(longest)] += 1;
        }
        let mut used: u32 = (1..=longest).map(|len| of_len[len] << (longest - len)).sum();
        while used > 1 << longest {
            let len = (1..longest).rev().find(|&len| of_len[len] > 0).expect("not all codes have the longest length");
            of_len[longest] -= 1;
            of_len[len] -= 1;
            of_len[len + 1] += 2;
            used -= 1;
        }
        let mut rarest_first = self.sorted.iter();
        for len in (1..=longest).rev() {
            for s in rarest_first.by_ref().take(of_len[len] as usize) {
                lengths[(s & 0xffff) as usize] = len as u8;
            }
        }
    }
}

/// Turns weights, smallest first, into the depths of their leaves (A. Moffat and J. Katajainen, "In-Place Calculation of
/// Minimum-Redundancy Codes", 1995). At least two weights.
fn minimum_redundancy(a: &mut [u32]) {
    let n = a.len();
    // Inner nodes' weights, then their parents.
    a[0] += a[1];
    let (mut root, mut leaf) = (0, 2);
    for next in 1..n - 1 {
        let mut take = |a: &mut [u32], root: &mut usize| {
            if leaf >= n || (*root < next && a[*root] < a[leaf]) {
                let weight = a[*root];
                a[*root] = next as u32;
                *root += 1;
                weight
            } else {
                leaf += 1;
                a[leaf - 1]
            }
        };
        let first = take(a, &mut root);
        let second = take(a, &mut root);
        a[next] = first + second;
    }
    // Inner nodes' depths.
    a[n - 2] = 0;
    for next in (0..n - 2).rev() {
        a[next] = a[a[next] as usize] + 1;
    }
    // Leaves' depths.
    let (mut available, mut used, mut depth) = (1usize, 0usize, 0u32);
    let mut root = n as isize - 2;
    let mut next = n as isize - 1;
    while available > 0 {
        while root >= 0 && a[root as usize] == depth {
            used += 1;
            root -= 1;
        }
        while available > used {
            a[next as usize] = depth;
            next -= 1;
            available -= 1;
        }
        available = 2 * used;
        depth += 1;
        used = 0;
    }
}

/// Code lengths as the symbols of RFC 1951, section 3.2.7, each with its extra bits.
fn find_runs(lengths: impl Iterator<Item = u8>, runs: &mut Vec<(u8, Word)>) {
    let mut lengths = lengths.peekable();
    while let Some(len) = lengths.next() {
        let mut n = 1;
        while lengths.next_if_eq(&len).is_some() {
            n += 1;
        }
        let none = Word { bits: 0, count: 0 };
        if len == 0 {
            while n >= 3 {
                let run = n.min(138);
                runs.push(match run {
                    ..=10 => (17, Word { bits: run - 3, count: 3 }),
                    _ => (18, Word { bits: run - 11, count: 7 }),
                });
                n -= run;
            }
        } else {
            runs.push((len, none));
            n -= 1;
            while n >= 3 {
                // Not so long that a rest is left which is too short to be a run.
                let run = if n == 7 || n == 8 { n - 3 } else { n.min(6) };
                runs.push((16, Word { bits: run - 3, count: 2 }));
                n -= run;
            }
        }
        runs.extend((0..n).map(|_| (len, none)));
    }
}

/// RFC 1951, section 3.2.6.
pub(super) const FIXED_LITLEN_LENGTHS: [u8; LITLEN] = {
    let mut lengths = [8; LITLEN];
    let mut i = 144;
    while i < 280 {
        lengths[i] = if i < 256 { 9 } else { 7 };
        i += 1;
    }
    lengths
};
pub(super) const FIXED_DIST_LENGTHS: [u8; DIST] = [5; DIST];

const MAX_LEN: usize = 15;
const MAX_RUN_LEN: usize = 7;
const RUN_SYMBOLS: usize = 19;
const RUN_ORDER: [usize; RUN_SYMBOLS] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// The length of a symbol that is not in the code: more bits than the fixed code needs for [`super::CANNED_UP_TO`] bytes.
const ABSENT: u16 = u16::MAX;
