//! Unpacks a gzip file from points within it.
//!
//! A point is where a block of deflate begins, seldom at a whole byte, with the 32 KiB before it that its matches may refer to.
//! To begin there, a library is given a stream that is made up: the 32 KiB as a stored block, then empty blocks whose bits are
//! so many that the rest falls in place, then the file from the point on.

use super::inflate::{Inflater, Sink, WINDOW};
use crate::query::store::ReadAt;
use flate2::{Decompress, FlushDecompress, Status};
use std::io::{self, BufRead};

/// Where unpacking can begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Point {
    /// The bit of the file at which a block begins.
    pub(super) bit: u64,
    /// The unpacked bytes before it.
    pub(super) offset: u64,
}

/// The points of a file.
pub(super) trait Points {
    /// The last point that is not past an offset of the unpacked content, with what its matches may refer to.
    fn before(&self, offset: u64) -> io::Result<(Point, Vec<u8>)>;
}

/// Unpacks a whole file into `content` and gives a point about every [`SPAN`] bytes, and where a member begins, to `point`.
pub(super) fn unpack(
    input: impl BufRead,
    content: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    point: &mut dyn FnMut(Point, &[u8]),
) -> io::Result<()> {
    let mut inflater = Inflater::new(input);
    let mut sink = Indexer { content, point, offset: 0, last: None };
    loop {
        header(&mut inflater)?;
        sink.last = None;
        inflater.stream(&mut sink)?;
        inflater.align();
        // CRC-32 and length: what was unpacked is checked by who reads the members, each of which has a checksum of its own.
        for _ in 0..2 {
            inflater.take(32)?;
        }
        if inflater.is_at_end()? {
            return Ok(());
        }
    }
}

/// Reads `len` bytes of the content from `offset` on.
pub(super) fn read(file: &dyn ReadAt, points: &impl Points, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    while (content.len() as u64) < len {
        let from = offset + content.len() as u64;
        let (point, window) = points.before(from)?;
        let before = content.len();
        read_stream(file, point, &window, from, len, &mut content)?;
        if content.len() == before {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the index does not fit the bundle"));
        }
    }
    Ok(content)
}

/// Reads on from a point until `content` has `len` bytes or the member ends; the first byte wanted is at `from`.
fn read_stream(file: &dyn ReadAt, point: Point, window: &[u8], from: u64, len: u64, content: &mut Vec<u8>) -> io::Result<()> {
    let (mut at, odd) = (point.bit / 8, (point.bit % 8) as u32);
    let (mut input, mut skip) = (prefix(window), window.len() as u64 + (from - point.offset));
    let mut chunk = vec![0; READ];
    let mut first = file.read_at(&mut chunk, at)?;
    at += first as u64;
    if odd > 0 && first > 0 {
        let filler = fill_to(odd);
        // The point's byte has bits of the block before it, in whose place the filler's last bits come.
        let (whole, rest) = (filler.bytes, filler.rest);
        input.extend(whole);
        chunk[0] = chunk[0] & !((1 << odd) - 1) | rest;
    }
    input.extend_from_slice(&chunk[..first]);
    let mut inflate = Decompress::new(false);
    let mut out = vec![0; READ];
    loop {
        let mut rest = &input[..];
        while !rest.is_empty() {
            let (taken, given) = (inflate.total_in(), inflate.total_out());
            let status = inflate.decompress(rest, &mut out, FlushDecompress::None).map_err(io::Error::other)?;
            rest = &rest[(inflate.total_in() - taken) as usize..];
            let given = (inflate.total_out() - given) as usize;
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(given);
            skip -= skipped as u64;
            let wanted = usize::try_from(len - content.len() as u64).unwrap_or(usize::MAX);
            content.extend(out[skipped..given].iter().take(wanted));
            if content.len() as u64 == len || status == Status::StreamEnd {
                return Ok(());
            }
        }
        first = file.read_at(&mut chunk, at)?;
        if first == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at += first as u64;
        input.clear();
        input.extend_from_slice(&chunk[..first]);
    }
}

/// A stored block with the window; nothing where there is none.
fn prefix(window: &[u8]) -> Vec<u8> {
    let mut block = Vec::with_capacity(window.len() + READ);
    // At most 32 KiB, where a stored block may have 64.
    let len = window.len() as u16;
    if len > 0 {
        block.push(0);
        block.extend(len.to_le_bytes());
        block.extend((!len).to_le_bytes());
        block.extend_from_slice(window);
    }
    block
}

/// Bits without content.
struct Filler {
    bytes: Vec<u8>,
    /// The last, fewer than eight.
    rest: u8,
}

/// Empty blocks whose length in bits is `odd` more than a multiple of eight.
fn fill_to(odd: u32) -> Filler {
    let (mut bits, mut count, mut bytes) = (0u64, 0u32, Vec::new());
    let mut put = |value: u32, n: u32| {
        bits |= u64::from(value) << count;
        count += n;
        while count >= 8 {
            bytes.push(bits as u8);
            bits >>= 8;
            count -= 8;
        }
        count
    };
    let mut filled = 0;
    if odd % 2 == 1 {
        // An empty block with codes of its own, 95 bits (RFC 1951 section 3.2.7): the end of the block is the only literal, of one
        // bit, there are no distances, and the code of lengths has 18, 0 and 1 with 1, 2 and 2 bits.
        put(0b100, 3);
        put(0, 5);
        put(0, 5);
        put(15, 4);
        for place in 0..19 {
            put(
                if place == 2 {
                    1
                } else if place == 3 || place == 17 {
                    2
                } else {
                    0
                },
                3,
            );
        }
        // 138 zeros, 118 zeros, one bit for the end of the block, no bit for the one distance; then that end.
        for (value, n) in [(0, 1), (127, 7), (0, 1), (107, 7), (0b11, 2), (0b01, 2), (0, 1)] {
            filled = put(value, n);
        }
    }
    while filled != odd {
        // An empty block with the fixed codes, 10 bits.
        put(0b010, 3);
        filled = put(0, 7);
    }
    Filler { rest: bits as u8, bytes }
}

struct Indexer<'a> {
    content: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
    point: &'a mut dyn FnMut(Point, &[u8]),
    /// Unpacked bytes handed out.
    offset: u64,
    /// The content's offset at the last point of this member.
    last: Option<u64>,
}

impl Sink for Indexer<'_> {
    fn block(&mut self, bit: u64, window: &[u8], waiting: u64) {
        let offset = self.offset + waiting;
        if self.last.is_none_or(|last| offset - last >= SPAN) {
            self.last = Some(offset);
            (self.point)(Point { bit, offset }, window);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.offset += bytes.len() as u64;
        (self.content)(bytes)
    }
}

/// Passes over a gzip member's header (RFC 1952 section 2.3).
fn header(input: &mut Inflater<impl BufRead>) -> io::Result<()> {
    const HCRC: u32 = 2;
    const EXTRA: u32 = 4;
    const NAME: u32 = 8;
    const COMMENT: u32 = 16;
    if input.take(24)? != 0x08_8b1f {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not gzip, or something else behind it"));
    }
    let flags = input.take(8)?;
    input.take(32)?;
    input.take(16)?;
    if flags & EXTRA != 0 {
        for _ in 0..input.take(16)? {
            input.take(8)?;
        }
    }
    for flag in [NAME, COMMENT] {
        while flags & flag != 0 && input.take(8)? != 0 {}
    }
    if flags & HCRC != 0 {
        input.take(16)?;
    }
    Ok(())
}

/// Unpacked bytes between two points: what is unpacked in vain for one member, at most.
const SPAN: u64 = 1 << 20;

const READ: usize = 64 * 1024;

const _: () = assert!(WINDOW <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use std::fs::File;
    use std::io::Write;

    /// All points, however near to each other.
    struct All(Vec<(Point, Vec<u8>)>);

    impl Points for All {
        fn before(&self, offset: u64) -> io::Result<(Point, Vec<u8>)> {
            Ok(self.0.iter().rfind(|(p, _)| p.offset <= offset).unwrap().clone())
        }
    }

    fn packed(content: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// Text and noise in turn, so that there are blocks of every kind.
    fn content(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        (0..len)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if (i >> 15) % 2 == 0 { b"to be or not to be, "[(i + (state >> 30) as usize) % 20] } else { (state >> 24) as u8 }
            })
            .collect()
    }

    #[test]
    fn every_block_of_every_level_is_a_place_to_begin() {
        let dir = tempfile::tempdir().unwrap();
        let content = content(700_000);
        let mut odds = std::collections::BTreeSet::new();
        for level in [0, 1, 6, 9] {
            let bytes = packed(&content, level);
            let path = dir.path().join("x.gz");
            std::fs::write(&path, &bytes).unwrap();
            let (mut unpacked, mut points) = (Vec::new(), Vec::new());
            let mut inflater = Inflater::new(&bytes[..]);
            header(&mut inflater).unwrap();
            struct Every<'a>(&'a mut Vec<u8>, &'a mut Vec<(Point, Vec<u8>)>);
            impl Sink for Every<'_> {
                fn block(&mut self, bit: u64, window: &[u8], waiting: u64) {
                    self.1.push((Point { bit, offset: self.0.len() as u64 + waiting }, window.to_vec()));
                }
                fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
                    self.0.extend_from_slice(bytes);
                    Ok(())
                }
            }
            inflater.stream(&mut Every(&mut unpacked, &mut points)).unwrap();
            assert!(unpacked == content, "level {level}");
            odds.extend(points.iter().map(|(p, _)| p.bit % 8));
            let file = File::open(&path).unwrap();
            for (point, window) in &points {
                let mut read = Vec::new();
                let len = 1_000.min(content.len() as u64 - point.offset);
                read_stream(&file, *point, window, point.offset, len, &mut read).unwrap();
                assert_eq!(read, content[point.offset as usize..][..len as usize], "level {level}, {point:?}");
            }
            let all = All(points);
            for from in [0u64, 5, 32_767, 400_000, 699_990] {
                let len = 50_000.min(content.len() as u64 - from);
                assert!(super::read(&file, &all, from, len).unwrap() == content[from as usize..][..len as usize]);
            }
        }
        assert!(odds.len() >= 7, "only the bits {odds:?} of a byte were tried");
    }

    #[test]
    fn a_file_of_several_members_is_one_content() {
        let dir = tempfile::tempdir().unwrap();
        let content = content(3_000_000);
        let bytes: Vec<u8> = content.chunks(1_300_000).flat_map(|c| packed(c, 6)).collect();
        let (mut unpacked, mut points) = (Vec::new(), Vec::new());
        unpack(
            &bytes[..],
            &mut |b| {
                unpacked.extend_from_slice(b);
                Ok(())
            },
            &mut |p, w| points.push((p, w.to_vec())),
        )
        .unwrap();
        assert!(unpacked == content);
        assert!((5..9).contains(&points.len()), "{}", points.len());
        let path = dir.path().join("x.gz");
        std::fs::write(&path, &bytes).unwrap();
        let read = super::read(&File::open(path).unwrap(), &All(points), 1_290_000, 1_400_000).unwrap();
        assert!(read == content[1_290_000..2_690_000]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), whole: bool) {
            if whole {
                bytes.splice(0..0, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0]);
            }
            let _ = unpack(&bytes[..], &mut |_| Ok(()), &mut |_, _| {});
        }

        #[test]
        fn what_a_library_packs_is_unpacked(content in proptest::collection::vec(0u8..7, 0..5000), level in 0u32..10) {
            let mut unpacked = Vec::new();
            let mut take = |b: &[u8]| { unpacked.extend_from_slice(b); Ok(()) };
            unpack(&packed(&content, level)[..], &mut take, &mut |_, _| {}).unwrap();
            prop_assert_eq!(unpacked, content);
        }
    }
}
