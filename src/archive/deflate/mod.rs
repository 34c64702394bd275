//! A deflate compressor (RFC 1951) for packet headers: looks for repetitions only where records of one flow have them.
//!
//! ```text
//! input -> matcher (literal runs and matches) -> block: stored | fixed | canned | dynamic code, whichever is shortest
//! ```
//!
//! A general compressor spends its time on finding repetitions; here their distances are known: most bytes of a packet's
//! record are those of the flow's last record in the same direction. Nothing is believed of the input beyond that guess:
//! any bytes come back, and those that repeat nowhere grow by no more than [`bound`] says. The output depends on the input
//! only.

mod bits;
mod canned;
mod code;
mod matcher;

use bits::BitWriter;
use canned::CANNED;
use code::{Code, CodeBuilder, FIXED_DIST_LENGTHS, FIXED_LITLEN_LENGTHS};
use matcher::{Histogram, Matcher, PADDING, Step};

/// Compresses; holds tables of about 30 KiB, so one per thread and not one per flow.
pub struct Deflater {
    matcher: Matcher,
    steps: Vec<Step>,
    histogram: Histogram,
    fixed: Code,
    canned: Vec<Code>,
    dynamic: Code,
    builder: CodeBuilder,
}

impl Default for Deflater {
    fn default() -> Self {
        Self::new()
    }
}

impl Deflater {
    /// A compressor; it has no levels.
    pub fn new() -> Self {
        let mut builder = CodeBuilder::default();
        let canned: Vec<Code> = CANNED
            .iter()
            .map(|(litlen, dist)| {
                let mut code = Code::default();
                code.set(&canned::unpack(litlen), &canned::unpack(dist));
                builder.describe(&mut code);
                code
            })
            .collect();
        let mut fixed = Code::default();
        fixed.set(&FIXED_LITLEN_LENGTHS, &FIXED_DIST_LENGTHS);
        Self {
            matcher: Matcher::default(),
            steps: Vec::new(),
            histogram: Histogram::default(),
            fixed,
            canned,
            dynamic: Code::default(),
            builder,
        }
    }

    /// Appends `input`, compressed, to `output`. The input comes back as it was; it is a vector for the room behind it.
    pub fn deflate(&mut self, input: &mut Vec<u8>, output: &mut Vec<u8>) {
        let len = input.len();
        input.resize(len + PADDING, 0);
        let mut writer = BitWriter::new(output);
        self.matcher.start(input);
        let mut start = 0;
        loop {
            let end = len.min(start + BLOCK_LEN);
            self.steps.clear();
            self.histogram.clear();
            self.matcher.find(input, start..end, &mut self.steps, &mut self.histogram);
            self.write_block(&mut writer, &input[start..end], end == len);
            start = end;
            if start == len {
                break;
            }
        }
        writer.finish();
        input.truncate(len);
    }

    fn write_block(&mut self, writer: &mut BitWriter<'_>, input: &[u8], last: bool) {
        self.histogram.count_end();
        let (mut best, mut bits) = (&self.fixed, self.fixed.bits(&self.histogram));
        if input.len() <= CANNED_UP_TO {
            for canned in &self.canned {
                let cost = canned.bits(&self.histogram);
                if cost < bits {
                    (best, bits) = (canned, cost);
                }
            }
        }
        if input.len() >= DYNAMIC_FROM {
            self.builder.fit(&mut self.dynamic, &self.histogram);
            let cost = self.dynamic.bits(&self.histogram);
            if cost < bits {
                (best, bits) = (&self.dynamic, cost);
            }
        }
        if bits >= stored_bits(input.len()) {
            writer.stored(input, last);
        } else {
            writer.reserve(bits);
            let kind = if std::ptr::eq(best, &self.fixed) { FIXED } else { DYNAMIC };
            writer.put(u64::from(last) | kind << 1, 3);
            best.write(writer, input, &self.steps);
        }
    }
}

/// Most bytes that `len` bytes can become.
pub fn bound(len: usize) -> usize {
    // A stored block's three bits, up to seven bits of padding and four bytes of lengths.
    len + 5 * (len.div_ceil(STORED_MAX).max(1) + len.div_ceil(BLOCK_LEN))
}

/// Bits that a run of stored blocks takes at most, but for the first block's three.
fn stored_bits(len: usize) -> u64 {
    (len + 5 * len.div_ceil(STORED_MAX).max(1)) as u64 * 8
}

/// One code serves this many bytes: more than a segment, so that one has one block, and a bound on the steps in memory.
const BLOCK_LEN: usize = 128 * 1024;

/// Shorter input has a canned code: one of its own would save less than 2 % and cost as much as all else.
const DYNAMIC_FROM: usize = 3072;

/// Longer input has a code of its own in any case.
const CANNED_UP_TO: usize = 6144;

/// A stored block's length has 16 bits.
const STORED_MAX: usize = 65_535;

// Block types, RFC 1951 section 3.2.3.
const FIXED: u64 = 1;
const DYNAMIC: u64 = 2;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod training;
