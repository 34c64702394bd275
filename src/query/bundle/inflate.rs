//! Unpacks deflate (RFC 1951) while telling at which bit each block begins: what no library tells.
//!
//! Used once for each bundle; a few times slower than a library.

use std::io::{self, BufRead};

/// The largest distance that a match reaches back.
pub(super) const WINDOW: usize = 32 * 1024;

/// Unpacks deflate streams out of one reader.
pub(super) struct Inflater<R> {
    input: R,
    /// Bytes taken from the input.
    taken: u64,
    bits: u64,
    count: u32,
    /// The last bytes that were unpacked, at least [`WINDOW`] of them if there are so many.
    history: Vec<u8>,
    /// Bytes of the history that were handed out.
    handed: usize,
}

/// What happens while a stream is unpacked.
pub(super) trait Sink {
    /// A block begins at this bit of the input; `window` is what was unpacked of this stream before it, at most [`WINDOW`] bytes;
    /// `waiting` bytes were unpacked and not handed out yet.
    fn block(&mut self, bit: u64, window: &[u8], waiting: u64);

    /// Unpacked bytes.
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl<R: BufRead> Inflater<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, taken: 0, bits: 0, count: 0, history: Vec::new(), handed: 0 }
    }

    /// The bit of the input that comes next.
    pub(super) fn position(&self) -> u64 {
        self.taken * 8 - u64::from(self.count)
    }

    /// Whether the input has ended.
    pub(super) fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(self.count == 0 && self.input.fill_buf()?.is_empty())
    }

    /// Passes over the bits to the next whole byte.
    pub(super) fn align(&mut self) {
        let odd = self.count % 8;
        self.bits >>= odd;
        self.count -= odd;
    }

    /// The next bits, the first the lowest; at most 32.
    pub(super) fn take(&mut self, n: u32) -> io::Result<u32> {
        self.need(n)?;
        let value = self.bits & ((1 << n) - 1);
        self.bits >>= n;
        self.count -= n;
        Ok(value as u32)
    }

    /// Unpacks one stream to its end.
    pub(super) fn stream(&mut self, sink: &mut impl Sink) -> io::Result<()> {
        self.history.clear();
        self.handed = 0;
        loop {
            let window = &self.history[self.history.len().saturating_sub(WINDOW)..];
            sink.block(self.position(), window, (self.history.len() - self.handed) as u64);
            let last = self.take(1)? == 1;
            match self.take(2)? {
                0 => self.stored(sink)?,
                1 => self.compressed(&Codes::fixed()?, sink)?,
                2 => {
                    let codes = self.codes()?;
                    self.compressed(&codes, sink)?;
                }
                _ => return Err(damaged("a block of no type")),
            }
            if last {
                return self.hand_out(sink);
            }
        }
    }

    fn stored(&mut self, sink: &mut impl Sink) -> io::Result<()> {
        self.align();
        let len = self.take(16)?;
        if self.take(16)? != !len & 0xffff {
            return Err(damaged("a stored block with two lengths"));
        }
        for _ in 0..len {
            let byte = self.take(8)? as u8;
            self.history.push(byte);
        }
        self.give(sink)
    }

    fn compressed(&mut self, codes: &Codes, sink: &mut impl Sink) -> io::Result<()> {
        loop {
            match self.symbol(&codes.literals)? {
                literal @ 0..256 => self.history.push(literal as u8),
                256 => return self.give(sink),
                symbol => {
                    let (base, extra) = *LENGTHS.get(usize::from(symbol) - 257).ok_or_else(|| damaged("a length of no code"))?;
                    let len = usize::from(base) + self.take(extra.into())? as usize;
                    let symbol = self.symbol(&codes.distances)?;
                    let (base, extra) = *DISTANCES.get(usize::from(symbol)).ok_or_else(|| damaged("a distance of no code"))?;
                    let distance = usize::from(base) + self.take(extra.into())? as usize;
                    let from = self.history.len().checked_sub(distance).ok_or_else(|| damaged("a match before the beginning"))?;
                    if distance >= len {
                        self.history.extend_from_within(from..from + len);
                    } else {
                        for at in from..from + len {
                            self.history.push(self.history[at]);
                        }
                    }
                }
            }
            if self.history.len() >= HISTORY {
                self.give(sink)?;
            }
        }
    }

    fn codes(&mut self) -> io::Result<Codes> {
        let [literals, distances, lengths] = [self.take(5)? + 257, self.take(5)? + 1, self.take(4)? + 4].map(|n| n as usize);
        let mut order = [0u8; 19];
        for place in &ORDER[..lengths] {
            order[*place] = self.take(3)? as u8;
        }
        let code = Code::new(&order)?;
        let mut all: Vec<u8> = Vec::with_capacity(literals + distances);
        while all.len() < literals + distances {
            let (value, times) = match self.symbol(&code)? {
                len @ 0..16 => (len as u8, 1),
                16 => (*all.last().ok_or_else(|| damaged("a repetition of nothing"))?, 3 + self.take(2)?),
                17 => (0, 3 + self.take(3)?),
                _ => (0, 11 + self.take(7)?),
            };
            all.extend(std::iter::repeat_n(value, times as usize));
        }
        if all.len() > literals + distances {
            return Err(damaged("a repetition past the end"));
        }
        let (literals, distances) = all.split_at(literals);
        Ok(Codes { literals: Code::new(literals)?, distances: Code::new(distances)? })
    }

    fn symbol(&mut self, code: &Code) -> io::Result<u16> {
        // Near the end of the input there may be fewer bits than the longest code has.
        while self.count < code.longest && self.more()? {}
        let entry = code.table[(self.bits & code.mask) as usize];
        let len = u32::from(entry & 15);
        if len == 0 || len > self.count {
            return Err(damaged("a code that is none"));
        }
        self.bits >>= len;
        self.count -= len;
        Ok(entry >> 4)
    }

    fn need(&mut self, n: u32) -> io::Result<()> {
        while self.count < n {
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Takes another byte, if there is one.
    fn more(&mut self) -> io::Result<bool> {
        let Some(byte) = self.input.fill_buf()?.first().copied() else { return Ok(false) };
        self.input.consume(1);
        self.bits |= u64::from(byte) << self.count;
        self.count += 8;
        self.taken += 1;
        Ok(true)
    }

    /// Hands out what is unpacked once it is much.
    fn give(&mut self, sink: &mut impl Sink) -> io::Result<()> {
        if self.history.len() < HISTORY {
            return Ok(());
        }
        self.hand_out(sink)?;
        let surplus = self.history.len() - WINDOW;
        self.history.drain(..surplus);
        self.handed = self.history.len();
        Ok(())
    }

    fn hand_out(&mut self, sink: &mut impl Sink) -> io::Result<()> {
        sink.bytes(&self.history[self.handed..])?;
        self.handed = self.history.len();
        Ok(())
    }
}

struct Codes {
    literals: Code,
    distances: Code,
}

impl Codes {
    /// RFC 1951 section 3.2.6.
    fn fixed() -> io::Result<Self> {
        let lens: Vec<u8> = (0..288)
            .map(|n| {
                if !(144..=279).contains(&n) {
                    8
                } else if n < 256 {
                    9
                } else {
                    7
                }
            })
            .collect();
        Ok(Self { literals: Code::new(&lens)?, distances: Code::new(&[5; 30])? })
    }
}

/// A prefix code: entries are symbol and length, by the next bits of the input.
struct Code {
    table: Vec<u16>,
    mask: u64,
    longest: u32,
}

impl Code {
    /// The code of these lengths (RFC 1951 section 3.2.2).
    fn new(lens: &[u8]) -> io::Result<Self> {
        let longest = u32::from(lens.iter().copied().max().unwrap_or(0)).max(1);
        let mut table = vec![0; 1 << longest];
        let mut code = 0u32;
        for len in 1..=longest {
            for (symbol, _) in lens.iter().enumerate().filter(|(_, l)| u32::from(**l) == len) {
                if code >> len != 0 {
                    return Err(damaged("more codes than bits for them"));
                }
                // The first bit of a code is its highest, the first of the input the lowest.
                let first = (code.reverse_bits() >> (32 - len)) as usize;
                for entry in table.iter_mut().skip(first).step_by(1 << len) {
                    *entry = (symbol as u16) << 4 | len as u16;
                }
                code += 1;
            }
            code <<= 1;
        }
        Ok(Self { mask: (1 << longest) - 1, table, longest })
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Unpacked bytes are handed out when there are so many.
const HISTORY: usize = 256 * 1024;

/// In which order the lengths of the code of lengths come.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Base and extra bits of the symbols 257 and up.
const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

/// Base and extra bits of distances.
const DISTANCES: [(u16, u8); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];
