//! The bytes of a file: unpacked if compressed, and buffered so that a whole record lies in one slice.

use std::io::{self, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use super::{MAGIC_LEN, Position};

/// How a capture file is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), of one or more members.
    Gzip,
    /// Zstandard (RFC 8878), of one or more frames.
    Zstd,
}

impl Compression {
    fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // The second is a skippable frame, which pzstd and seekable writers begin with.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// What offsets and first bytes refer to, in words.
    pub(super) fn content(self) -> &'static str {
        match self {
            Self::None => "the file",
            Self::Gzip => "what gzip unpacks",
            Self::Zstd => "what zstd unpacks",
        }
    }
}

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
    /// Looks at the first bytes and puts a decompressor in front where they ask for one.
    pub(super) fn new(mut reader: Box<dyn Read + Send>) -> io::Result<Self> {
        let mut start = Vec::with_capacity(MAGIC_LEN);
        (&mut reader).take(MAGIC_LEN as u64).read_to_end(&mut start)?;
        let compression = Compression::detect(&start);
        let raw = Cursor::new(start).chain(reader);
        let reader: Box<dyn Read + Send> = match compression {
            Compression::None => Box::new(raw),
            Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(PACKED_LEN, raw))),
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(PACKED_LEN, raw))?),
        };
        Ok(Self { reader, compression, buffer: vec![0; WINDOW_LEN], start: 0, end: 0, offset: 0 })
    }

    /// Reads until at least `len` bytes are buffered or the stream ends, and returns how many are. What was buffered
    /// stays so, also when reading fails.
    pub(super) fn fill(&mut self, len: usize) -> io::Result<usize> {
        if self.start > 0 && self.end - self.start < len {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
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

/// Some hundred full-sized frames, so that moving a half record to the front of the window costs nothing.
const WINDOW_LEN: usize = 256 << 10;

/// Compressed bytes read at once.
const PACKED_LEN: usize = 64 << 10;
