//! The bytes of a file, unpacked if they are compressed, and buffered so that a whole record lies in one slice.

use std::io::{self, Read};

use super::{Compression, Position};

/// A stream with a window of buffered bytes that begins at the next unread one.
pub(super) struct Input {
    reader: Box<dyn Read + Send>,
    compression: Compression,
    buffer: Vec<u8>,
    /// The window is `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Bytes consumed before the window.
    offset: u64,
}

impl Input {
    pub(super) fn new(reader: Box<dyn Read + Send>) -> io::Result<Self> {
        let (compression, reader) = Compression::unpack(reader)?;
        Ok(Self { reader, compression, buffer: vec![0; FIRST_WINDOW_LEN], start: 0, end: 0, offset: 0 })
    }

    /// Reads until at least `len` bytes are buffered or the stream ends, and returns how many are. What was buffered
    /// stays so, also when reading fails.
    pub(super) fn fill(&mut self, len: usize) -> io::Result<usize> {
        if self.start > 0 && self.end - self.start < len {
            // What has filled the window fills a larger one.
            let was_full = self.end == self.buffer.len();
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if was_full && self.buffer.len() < WINDOW_LEN {
                self.buffer.resize(2 * self.buffer.len(), 0);
            }
        }
        while self.end - self.start < len {
            if self.end == self.buffer.len() {
                // Doubles instead of trusting `len`, which a damaged file may have made up.
                self.buffer.resize(2 * self.end, 0);
            }
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.end - self.start)
    }

    /// Moves the window past its first `len` bytes, which must be buffered.
    pub(super) fn consume(&mut self, len: usize) {
        assert!(len <= self.end - self.start, "only buffered bytes are consumed");
        self.start += len;
        self.offset += len as u64;
    }

    pub(super) fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(super) fn position(&self) -> Position {
        Position { offset: self.offset, compression: self.compression }
    }
}

/// Most files of an archive are shorter, and their buffers zeroed by the thousand where a catalogue is made.
const FIRST_WINDOW_LEN: usize = 16 << 10;

/// Some hundred full-sized frames, so that moving a half record to the front of the window costs nothing.
const WINDOW_LEN: usize = 256 << 10;
