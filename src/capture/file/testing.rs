//! For the tests: makes capture files in every variant of the formats, and reads them.

use std::io::{self, Cursor, Read, Write};

use flate2::write::GzEncoder;

use super::fields::ByteOrder;
use super::{BATCH_FRAMES, FileError, FileSource, FileStats};
use crate::capture::{LinkType, PacketSource, Progress};
use crate::time::Timestamp;

/// A frame to write, or one that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct TestFrame {
    pub(super) ts: Timestamp,
    pub(super) wire_len: u32,
    pub(super) interface: u32,
    pub(super) data: Vec<u8>,
}

/// The unit of a pcap file's timestamps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Precision {
    Micros,
    Nanos,
}

/// A pcap file of these frames.
pub(super) fn pcap(order: ByteOrder, precision: Precision, network: u32, frames: &[TestFrame]) -> Vec<u8> {
    let magic = match precision {
        Precision::Micros => 0xa1b2_c3d4,
        Precision::Nanos => 0xa1b2_3c4d,
    };
    let mut file = Bytes::new(order).u32(magic).u16(2).u16(4).u32(0).u32(0).u32(65_535).u32(network);
    for frame in frames {
        let fraction = match precision {
            Precision::Micros => frame.ts.subsec_nanos() / 1_000,
            Precision::Nanos => frame.ts.subsec_nanos(),
        };
        file = file.u32(frame.ts.secs() as u32).u32(fraction).u32(frame.data.len() as u32).u32(frame.wire_len);
        file = file.bytes(&frame.data);
    }
    file.done
}

/// Numbers in one byte order, one after another.
pub(super) struct Bytes {
    order: ByteOrder,
    pub(super) done: Vec<u8>,
}

impl Bytes {
    pub(super) fn new(order: ByteOrder) -> Self {
        Self { order, done: Vec::new() }
    }

    pub(super) fn u16(self, n: u16) -> Self {
        let bytes = self.ordered(n.to_be_bytes());
        self.bytes(&bytes)
    }

    pub(super) fn u32(self, n: u32) -> Self {
        let bytes = self.ordered(n.to_be_bytes());
        self.bytes(&bytes)
    }

    pub(super) fn i64(self, n: i64) -> Self {
        let bytes = self.ordered(n.to_be_bytes());
        self.bytes(&bytes)
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.done.extend_from_slice(bytes);
        self
    }

    fn padded(self, bytes: &[u8]) -> Self {
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.bytes(bytes).bytes(&[0xaa; 3][..padding])
    }

    fn ordered<const N: usize>(&self, mut big_endian: [u8; N]) -> [u8; N] {
        if self.order == ByteOrder::Little {
            big_endian.reverse();
        }
        big_endian
    }
}

/// A pcapng file, written block by block.
#[derive(Clone)]
pub(super) struct Pcapng {
    order: ByteOrder,
    pub(super) done: Vec<u8>,
}

impl Pcapng {
    /// A file that begins with a section of this byte order.
    pub(super) fn new(order: ByteOrder) -> Self {
        Self { order, done: Vec::new() }.section(order)
    }

    pub(super) fn section(mut self, order: ByteOrder) -> Self {
        self.order = order;
        let body = Bytes::new(order).u32(0x1a2b_3c4d).u16(1).u16(0).i64(-1);
        self.block(0x0a0d_0d0a, &body.done)
    }

    /// `options` are those of [`tsresol`] and [`tsoffset`], or any other bytes.
    pub(super) fn interface(self, link: u16, snaplen: u32, options: &[u8]) -> Self {
        let body = Bytes::new(self.order).u16(link).u16(0).u32(snaplen).bytes(options);
        self.block(1, &body.done)
    }

    pub(super) fn enhanced(self, interface: u32, units: u64, wire_len: u32, data: &[u8]) -> Self {
        let body = Bytes::new(self.order).u32(interface).u32((units >> 32) as u32).u32(units as u32);
        let body = body.u32(data.len() as u32).u32(wire_len).padded(data);
        // An option, which no reader may take for a part of the frame.
        let body = body.u16(2).u16(4).u32(1).u32(0);
        self.block(6, &body.done)
    }

    pub(super) fn obsolete(self, interface: u16, units: u64, wire_len: u32, data: &[u8]) -> Self {
        let body = Bytes::new(self.order).u16(interface).u16(7).u32((units >> 32) as u32).u32(units as u32);
        let body = body.u32(data.len() as u32).u32(wire_len).padded(data);
        self.block(2, &body.done)
    }

    pub(super) fn simple(self, wire_len: u32, data: &[u8]) -> Self {
        let body = Bytes::new(self.order).u32(wire_len).padded(data);
        self.block(3, &body.done)
    }

    pub(super) fn block(mut self, kind: u32, body: &[u8]) -> Self {
        let len = body.len() as u32 + 12;
        self.done.extend(Bytes::new(self.order).u32(kind).u32(len).bytes(body).u32(len).done);
        self
    }
}

/// The option if_tsresol, with an end of options behind it.
pub(super) fn tsresol(order: ByteOrder, resolution: u8) -> Vec<u8> {
    Bytes::new(order).u16(9).u16(1).padded(&[resolution]).u32(0).done
}

/// The option if_tsoffset, with no end of options behind it.
pub(super) fn tsoffset(order: ByteOrder, secs: i64) -> Vec<u8> {
    Bytes::new(order).u16(14).u16(8).i64(secs).done
}

/// Compresses as gzip, in as many members as there are parts.
pub(super) fn gzip(parts: &[&[u8]]) -> Vec<u8> {
    let member = |part: &&[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(part).expect("a Vec takes everything");
        encoder.finish().expect("a Vec takes everything")
    };
    parts.iter().flat_map(member).collect()
}

/// Compresses as zstd, in as many checksummed frames as there are parts, with a skippable frame before each.
pub(super) fn zstd(parts: &[&[u8]]) -> Vec<u8> {
    let frame = |part: &&[u8]| {
        let skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc".to_vec();
        let mut encoder = zstd::stream::write::Encoder::new(skippable, 1).expect("memory is enough");
        encoder.include_checksum(true).expect("is known");
        encoder.write_all(part).expect("a Vec takes everything");
        encoder.finish().expect("a Vec takes everything")
    };
    parts.iter().flat_map(frame).collect()
}

pub(super) fn open(file: &[u8]) -> Result<FileSource, FileError> {
    FileSource::from_reader("test.pcap".to_owned(), Box::new(Cursor::new(file.to_vec())))
}

/// Every frame of a file and how it ended. Checks what holds for every file.
pub(super) fn read(file: &[u8]) -> (Vec<TestFrame>, Result<(), FileError>) {
    match open(file) {
        Ok(source) => drain(source).1,
        Err(error) => (Vec::new(), Err(error)),
    }
}

pub(super) fn frames(file: &[u8]) -> Vec<TestFrame> {
    let (frames, end) = read(file);
    end.expect("the file is sound");
    frames
}

pub(super) fn links(file: &[u8]) -> Vec<LinkType> {
    let mut links = Vec::new();
    open(file).and_then(|mut source| source.next_batch(&mut |f| links.push(f.link))).expect("the file is sound");
    links
}

pub(super) fn stats(file: &[u8]) -> FileStats {
    drain(open(file).expect("is a capture file")).0.stats()
}

fn drain(mut source: FileSource) -> (FileSource, (Vec<TestFrame>, Result<(), FileError>)) {
    let mut frames = Vec::new();
    let end = loop {
        let before = frames.len();
        let progress = source.next_batch(&mut |frame| {
            assert!(frame.wire_len as usize >= frame.data.len());
            frames.push(TestFrame {
                ts: frame.ts,
                wire_len: frame.wire_len,
                interface: frame.interface,
                data: frame.data.to_vec(),
            });
        });
        let handed_out = frames.len() - before;
        match progress {
            Ok(Progress::Frames(n)) => assert!(n == handed_out && (1..=BATCH_FRAMES).contains(&n)),
            Ok(Progress::Ended) => break Ok(()),
            Ok(Progress::Idle { .. }) => panic!("a file is never idle"),
            Err(error) => break Err(error),
        }
    };
    assert!(matches!(source.next_batch(&mut |_| panic!("nothing follows the end")), Ok(Progress::Ended)));
    let stats = source.stats();
    assert_eq!((stats.frames, stats.truncated), (frames.len() as u64, end.is_err()));
    (source, (frames, end))
}

/// These frames in every variant of the formats, none, one and both ways compressed.
pub(super) fn variants(frames: &[TestFrame]) -> Vec<(String, Vec<u8>)> {
    let mut variants = Vec::new();
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let unit = tsresol(order, 9);
        let mut enhanced = Pcapng::new(order).interface(1, 0, &unit).interface(101, 0, &unit);
        let mut obsolete = enhanced.clone();
        for f in frames {
            enhanced = enhanced.enhanced(f.interface, f.ts.as_nanos(), f.wire_len, &f.data);
            obsolete = obsolete.obsolete(f.interface as u16, f.ts.as_nanos(), f.wire_len, &f.data);
        }
        for (format, bytes) in [
            ("pcap", pcap(order, Precision::Nanos, 1, frames)),
            ("pcapng", enhanced.done),
            ("pcapng with obsolete packet blocks", obsolete.done),
        ] {
            let (front, back) = bytes.split_at(bytes.len() / 2);
            variants.push((format!("{order:?} {format} in gzip"), gzip(&[front, b"", back])));
            variants.push((format!("{order:?} {format} in zstd"), zstd(&[front, b"", back])));
            variants.push((format!("{order:?} {format}"), bytes));
        }
    }
    variants
}

/// A reader that gives one byte at a time, every second time after an interruption, and ends as it is told.
pub(super) struct Trickle<E> {
    pub(super) bytes: std::vec::IntoIter<u8>,
    pub(super) interrupted: bool,
    pub(super) end: E,
}

impl<E: FnMut() -> io::Result<usize>> Read for Trickle<E> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match self.bytes.next() {
            Some(byte) => {
                buf[0] = byte;
                Ok(1)
            }
            None => (self.end)(),
        }
    }
}

pub(super) fn trickle(
    bytes: Vec<u8>,
    end: impl FnMut() -> io::Result<usize> + Send + 'static,
) -> (Vec<TestFrame>, Result<(), FileError>) {
    let reader = Trickle { bytes: bytes.into_iter(), interrupted: false, end };
    drain(FileSource::from_reader("pipe".to_owned(), Box::new(reader)).expect("begins well")).1
}
