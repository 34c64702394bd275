//! Decompression of a stream, as its first bytes ask for.
//!
//! The readers of `flate2` and `zstd` drop what they had unpacked in the call in which they met damage: up to a whole
//! buffer of sound frames. Here, everything that comes before the damage is handed out first.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use super::MAGIC_LEN;

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
    /// Looks at the first bytes of a stream and puts a decompressor in front of it if they ask for one.
    pub(super) fn unpack(mut reader: Box<dyn Read + Send>) -> io::Result<(Self, Box<dyn Read + Send>)> {
        let mut start = Vec::with_capacity(MAGIC_LEN);
        (&mut reader).take(MAGIC_LEN as u64).read_to_end(&mut start)?;
        let compression = Self::detect(&start);
        let packed = Cursor::new(start).chain(reader);
        let reader: Box<dyn Read + Send> = match compression {
            Self::None => Box::new(packed),
            Self::Gzip => Box::new(Unpacker::new(packed, Gzip::new())),
            Self::Zstd => Box::new(Unpacker::new(packed, Zstd::new()?)),
        };
        Ok((compression, reader))
    }

    /// What offsets and first bytes refer to, in words.
    pub(super) fn content(self) -> &'static str {
        match self {
            Self::None => "the file",
            Self::Gzip => "what gzip unpacks",
            Self::Zstd => "what zstd unpacks",
        }
    }

    fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // The second is a skippable frame, which pzstd and seekable writers begin with.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

struct Unpacker<R, D> {
    packed: BufReader<R>,
    decompressor: D,
    /// What the decompressor met behind the bytes that were handed out last.
    failure: Option<io::Error>,
}

impl<R: Read, D: Decompressor> Unpacker<R, D> {
    fn new(packed: R, decompressor: D) -> Self {
        Self { packed: BufReader::with_capacity(PACKED_LEN, packed), decompressor, failure: None }
    }
}

impl<R: Read, D: Decompressor> Read for Unpacker<R, D> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(error) = self.failure.take() {
                return Err(error);
            }
            let input = self.packed.fill_buf()?;
            let at_end = input.is_empty();
            let step = self.decompressor.step(input, output);
            self.packed.consume(step.consumed);
            self.failure = step.failure;
            if step.produced > 0 {
                return Ok(step.produced);
            }
            if at_end && self.failure.is_none() {
                return if self.decompressor.may_end() { Ok(0) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }
}

trait Decompressor {
    /// Takes some of the input and gives some output. Empty input asks for output that waits.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Unpacked;

    /// Whether the input may end here.
    fn may_end(&self) -> bool;
}

/// What a step has done; a failure came behind what it produced.
struct Unpacked {
    consumed: usize,
    produced: usize,
    failure: Option<io::Error>,
}

struct Gzip {
    member: Decompress,
    within_member: bool,
}

impl Gzip {
    fn new() -> Self {
        Self { member: Decompress::new_gzip(GZIP_WINDOW_BITS), within_member: false }
    }
}

impl Decompressor for Gzip {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Unpacked {
        let before = (self.member.total_in(), self.member.total_out());
        let status = self.member.decompress(input, output, FlushDecompress::None);
        let consumed = (self.member.total_in() - before.0) as usize;
        let produced = (self.member.total_out() - before.1) as usize;
        match status {
            Ok(Status::StreamEnd) => *self = Self::new(),
            _ => self.within_member |= consumed > 0,
        }
        Unpacked { consumed, produced, failure: status.err().map(|error| io::Error::new(io::ErrorKind::InvalidData, error)) }
    }

    fn may_end(&self) -> bool {
        !self.within_member
    }
}

struct Zstd {
    decoder: Decoder<'static>,
    /// Packed bytes to the end of the next block; 0 between frames.
    block_len: usize,
    /// Whether output may wait for room.
    output_waits: bool,
}

impl Zstd {
    fn new() -> io::Result<Self> {
        Ok(Self { decoder: Decoder::new()?, block_len: 0, output_waits: false })
    }
}

impl Decompressor for Zstd {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Unpacked {
        // The library does not say what it has put out in a call that fails, so each call gets one block or less.
        let len = if self.output_waits { 0 } else { self.block_len.max(1) };
        let mut input = InBuffer::around(&input[..len.min(input.len())]);
        let mut output = OutBuffer::around(output);
        if input.src.is_empty() && !self.output_waits {
            return Unpacked { consumed: 0, produced: 0, failure: None };
        }
        let result = self.decoder.run(&mut input, &mut output);
        self.output_waits = output.pos() == output.capacity();
        let failure = match result {
            Ok(block_len) => {
                self.block_len = block_len;
                None
            }
            Err(error) => Some(error),
        };
        Unpacked { consumed: input.pos(), produced: output.pos(), failure }
    }

    fn may_end(&self) -> bool {
        self.block_len == 0
    }
}

/// Compressed bytes read at once.
const PACKED_LEN: usize = 64 << 10;

/// The window of every gzip member (RFC 1951 section 2).
const GZIP_WINDOW_BITS: u8 = 15;

#[cfg(test)]
mod tests {
    use super::super::testing::{gzip, zstd};
    use super::*;

    /// Everything that comes before the end or a failure, read in pieces of this size.
    fn unpacked(packed: &[u8], piece: usize) -> (Vec<u8>, Option<io::ErrorKind>) {
        let (_, mut reader) = Compression::unpack(Box::new(Cursor::new(packed.to_vec()))).expect("memory is enough");
        let (mut all, mut buf) = (Vec::new(), vec![0; piece]);
        loop {
            match reader.read(&mut buf) {
                Ok(0) => return (all, None),
                Ok(n) => all.extend_from_slice(&buf[..n]),
                Err(error) => return (all, Some(error.kind())),
            }
        }
    }

    /// Bytes that compress, but not to nothing; several blocks of them.
    fn content() -> Vec<u8> {
        (0..400_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 27) as u8).collect()
    }

    #[test]
    fn members_and_frames_are_unpacked_in_pieces_of_any_size() {
        let content = content();
        let (front, back) = content.split_at(150_000);
        for packed in [gzip(&[front, b"", back]), zstd(&[front, b"", back])] {
            for piece in [1, 1_000, 131_072, 1 << 20] {
                assert!(unpacked(&packed, piece) == (content.clone(), None), "{piece}");
            }
        }
    }

    #[test]
    fn everything_before_damage_is_unpacked() {
        let content = content();
        for (packed, whole_block) in [(gzip(&[&content]), 0), (zstd(&[&content]), 131_072)] {
            for at in [packed.len() / 3, packed.len() / 2, packed.len() - 1] {
                let (cut, _) = unpacked(&packed[..at], 4_096);
                let mut damaged = packed.clone();
                damaged[at] ^= 0xff;
                for piece in [4_096, 1 << 20] {
                    let (read, failure) = unpacked(&damaged, piece);
                    assert!(read.len() >= cut.len().saturating_sub(whole_block), "{at}: {} {}", read.len(), cut.len());
                    assert!(read.starts_with(&cut[..cut.len().min(read.len())]), "{at}");
                    assert!(failure.is_some(), "{at}");
                }
            }
        }
    }

    #[test]
    fn a_stream_that_ends_within_a_member_or_frame_is_not_at_its_end() {
        for packed in [gzip(&[b"some bytes"]), zstd(&[b"some bytes"])] {
            for cut in MAGIC_LEN..packed.len() {
                // Behind the skippable frame of a zstd stream is an end.
                let expected = (packed[0] == 0x1f || cut != 11).then_some(io::ErrorKind::UnexpectedEof);
                assert_eq!(unpacked(&packed[..cut], 100).1, expected, "{cut}");
            }
        }
    }
}
