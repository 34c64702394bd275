//! Bits into bytes, lowest bit first (RFC 1951, section 3.1.1).

use super::STORED_MAX;

/// Appends to a buffer. [`BitWriter::reserve`] comes before what it reserves for; a flush at least every 56 bits.
pub(super) struct BitWriter<'a> {
    output: &'a mut Vec<u8>,
    /// Bytes of `output` that are written; what follows them is room.
    len: usize,
    pending: u64,
    /// How many bits are pending; below 8 after a flush.
    count: u32,
}

impl<'a> BitWriter<'a> {
    pub(super) fn new(output: &'a mut Vec<u8>) -> Self {
        let len = output.len();
        Self { output, len, pending: 0, count: 0 }
    }

    /// Makes room for `bits` more, a block's first three among them or not.
    pub(super) fn reserve(&mut self, bits: u64) {
        // Flushes write eight bytes, whatever is pending.
        self.output.resize(self.len + bits as usize / 8 + 2 * size_of::<u64>(), 0);
    }

    /// Adds the lowest `count` bits of `bits`; the others must be zero.
    pub(super) fn put(&mut self, bits: u64, count: u32) {
        self.pending |= bits << self.count;
        self.count += count;
    }

    pub(super) fn flush(&mut self) {
        self.output[self.len..self.len + 8].copy_from_slice(&self.pending.to_le_bytes());
        self.len += self.count as usize / 8;
        self.pending >>= self.count & !7;
        self.count &= 7;
    }

    /// Writes `input` as stored blocks.
    pub(super) fn stored(&mut self, input: &[u8], last: bool) {
        let mut rest = input;
        loop {
            let (block, after) = rest.split_at(rest.len().min(STORED_MAX));
            self.reserve(3);
            self.put(u64::from(last && after.is_empty()), 3);
            self.count = self.count.next_multiple_of(8);
            self.flush();
            self.output.truncate(self.len);
            let len = block.len() as u16;
            self.output.extend(len.to_le_bytes());
            self.output.extend((!len).to_le_bytes());
            self.output.extend_from_slice(block);
            self.len = self.output.len();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
    }

    /// Pads to a whole byte and cuts the room off.
    pub(super) fn finish(mut self) {
        self.reserve(0);
        self.count = self.count.next_multiple_of(8);
        self.flush();
        self.output.truncate(self.len);
    }
}
