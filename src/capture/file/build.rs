//! Capture files made by the tests, in every variant of the formats.

use std::io::Write;

use flate2::write::GzEncoder;

use super::fields::ByteOrder;
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

/// Compresses as zstd, in as many frames as there are parts, with a skippable frame before each.
pub(super) fn zstd(parts: &[&[u8]]) -> Vec<u8> {
    let frame = |part: &&[u8]| {
        let mut packed = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc".to_vec();
        packed.extend(zstd::stream::encode_all(*part, 1).expect("memory is enough"));
        packed
    };
    parts.iter().flat_map(frame).collect()
}
