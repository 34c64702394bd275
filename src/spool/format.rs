//! The bytes of a segment: pcap or pcapng records, in blocks that are compressed each on its own.
//!
//! A segment is a prologue (the file header) and blocks. With gzip each is a member (RFC 1952), with zstd a frame (RFC
//! 8878), so that `gzip -dc` and `zstd -dc` give one capture file, and a block is read without those before it.

use crate::archive::pcap;
use crate::capture::{Frame, LinkType};
use crate::time::Timestamp;
use libdeflater::{CompressionLvl, Compressor, Decompressor};
use std::io;

/// The file format of segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Classic pcap, in nanoseconds.
    Pcap,
    /// pcapng with one section and one interface, in nanoseconds.
    Pcapng,
}

/// How blocks are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compress {
    /// Not at all.
    None,
    /// gzip members.
    Gzip,
    /// zstd frames.
    Zstd,
}

impl Format {
    /// Both, by the number that stands in an index.
    pub const ALL: [Self; 2] = [Self::Pcap, Self::Pcapng];

    /// What a file of one link type begins with; pcapng names the interface, if it is known.
    pub fn prologue(self, link: LinkType, snaplen: u32, interface: Option<&str>) -> Vec<u8> {
        match self {
            Self::Pcap => pcap::file_header(link, snaplen).to_vec(),
            Self::Pcapng => {
                // draft-ietf-opsawg-pcapng sections 4.1 and 4.2.
                let mut out = Vec::new();
                let section = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &1u16.to_le_bytes(), &0u16.to_le_bytes(), &[0xff; 8]].concat();
                pcapng_block(&mut out, 0x0a0d_0d0a, &[&section]);
                let mut description = [link.number(), 0].map(u16::to_le_bytes).concat();
                description.extend(snaplen.to_le_bytes());
                if let Some(name) = interface {
                    pcapng_option(&mut description, 2, name.as_bytes());
                }
                // if_tsresol: units of 10^-9 s.
                pcapng_option(&mut description, 9, &[9]);
                pcapng_option(&mut description, 0, &[]);
                pcapng_block(&mut out, 1, &[&description]);
                out
            }
        }
    }

    /// Bytes of a record that holds so many bytes of a frame.
    pub fn record_len(self, captured: usize) -> usize {
        match self {
            Self::Pcap => 16 + captured,
            Self::Pcapng => 32 + captured.next_multiple_of(4),
        }
    }

    /// Appends a frame.
    pub fn append(self, out: &mut Vec<u8>, frame: &Frame<'_>) {
        let captured = frame.data.len() as u32;
        match self {
            Self::Pcap => {
                for word in [frame.ts.secs() as u32, frame.ts.subsec_nanos(), captured, frame.wire_len] {
                    out.extend(word.to_le_bytes());
                }
                out.extend_from_slice(frame.data);
            }
            Self::Pcapng => {
                let nanos = frame.ts.as_nanos();
                let words = [0, (nanos >> 32) as u32, nanos as u32, captured, frame.wire_len].map(u32::to_le_bytes).concat();
                pcapng_block(out, 6, &[&words, frame.data]);
            }
        }
    }

    /// Reads the first record: the frame and the bytes after it; `None` at the end, or where the bytes are no record.
    pub fn split(self, bytes: &[u8], link: LinkType) -> Option<(Frame<'_>, &[u8])> {
        let word = |at: usize| bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b));
        let (ts, captured, wire_len, data_at) = match self {
            Self::Pcap => (Timestamp::from_parts(word(0)?.into(), word(4)?), word(8)?, word(12)?, 16),
            Self::Pcapng if word(0)? == 6 => {
                let ts = Timestamp::from_nanos(u64::from(word(12)?) << 32 | u64::from(word(16)?));
                (ts, word(20)?, word(24)?, 28)
            }
            Self::Pcapng => return None,
        };
        let data = bytes.get(data_at..)?.get(..captured as usize)?;
        let rest = bytes.get(self.record_len(captured as usize)..)?;
        Some((Frame { ts, wire_len, link, interface: 0, data }, rest))
    }

    /// `pcap` or `pcapng`.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Pcap => "pcap",
            Self::Pcapng => "pcapng",
        }
    }
}

impl Compress {
    /// All, by the number that stands in an index.
    pub const ALL: [Self; 3] = [Self::None, Self::Gzip, Self::Zstd];

    /// What a file's name ends with.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }

    /// Takes a block apart that is `raw_len` bytes long when it is unpacked.
    ///
    /// # Errors
    /// Fails where the block is damaged or of another length.
    pub fn unpack(self, packed: &[u8], raw_len: usize) -> io::Result<Vec<u8>> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "a block does not unpack to its length");
        let mut raw = vec![0; raw_len];
        let len = match self {
            Self::None => return if packed.len() == raw_len { Ok(packed.to_vec()) } else { Err(bad()) },
            Self::Gzip => Decompressor::new().gzip_decompress(packed, &mut raw).map_err(|_| bad())?,
            Self::Zstd => zstd::bulk::decompress_to_buffer(packed, &mut raw)?,
        };
        if len == raw_len { Ok(raw) } else { Err(bad()) }
    }
}

/// Compresses blocks; holds the compressors' tables, so one per thread.
pub struct Packer {
    compress: Compress,
    gzip: Compressor,
    zstd: zstd::bulk::Compressor<'static>,
    /// Reused by each block.
    out: Vec<u8>,
}

impl Packer {
    /// A packer of this kind.
    ///
    /// # Errors
    /// Fails where zstd has no memory for its tables.
    pub fn new(compress: Compress) -> io::Result<Self> {
        let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
        zstd.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
        Ok(Self { compress, gzip: Compressor::new(CompressionLvl::fastest()), zstd, out: Vec::new() })
    }

    /// One member or frame, or the bytes as they are.
    ///
    /// # Errors
    /// Fails where zstd runs out of memory.
    pub fn pack<'a>(&'a mut self, raw: &'a [u8]) -> io::Result<&'a [u8]> {
        let Self { gzip, zstd, out, .. } = self;
        let len = match self.compress {
            Compress::None => return Ok(raw),
            Compress::Gzip => {
                grow(out, gzip.gzip_compress_bound(raw.len()));
                gzip.gzip_compress(raw, out).map_err(|_| io::ErrorKind::OutOfMemory)?
            }
            Compress::Zstd => {
                grow(out, zstd::zstd_safe::compress_bound(raw.len()));
                zstd.compress_to_buffer(raw, &mut out[..])?
            }
        };
        Ok(&out[..len])
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packer({:?})", self.compress)
    }
}

fn grow(buffer: &mut Vec<u8>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
}

fn pcapng_block(out: &mut Vec<u8>, kind: u32, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    let total = (12 + len.next_multiple_of(4)) as u32;
    out.extend(kind.to_le_bytes());
    out.extend(total.to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    out.resize(out.len() + len.next_multiple_of(4) - len, 0);
    out.extend(total.to_le_bytes());
}

fn pcapng_option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Speed before size: the next levels cost twice the time for a few percent.
const ZSTD_LEVEL: i32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::PacketSource;
    use crate::capture::file::FileSource;
    use proptest::prelude::*;
    use std::io::Cursor;

    proptest! {
        #[test]
        fn what_is_written_is_read_back_by_us_and_by_the_capture_file_reader(
            frames in prop::collection::vec((0..1u64 << 61, 0..70u32, prop::collection::vec(any::<u8>(), 0..80)), 1..20),
        ) {
            for format in Format::ALL {
                for compress in Compress::ALL {
                    let mut packer = Packer::new(compress).unwrap();
                    let mut file = packer.pack(&format.prologue(LinkType::Ethernet, 262_144, Some("eth0"))).unwrap().to_vec();
                    let mut expected = Vec::new();
                    for chunk in frames.chunks(3) {
                        let mut block = Vec::new();
                        for (ts, more, data) in chunk {
                            // pcap's seconds are 32 bits.
                            let ts = Timestamp::from_nanos(ts % (1 << 62));
                            let wire_len = data.len() as u32 + more;
                            let frame = Frame { ts, wire_len, link: LinkType::Ethernet, interface: 0, data };
                            format.append(&mut block, &frame);
                            expected.push((ts, wire_len, data.clone()));
                        }
                        let packed = packer.pack(&block).unwrap();
                        prop_assert_eq!(&compress.unpack(packed, block.len()).unwrap(), &block);
                        let (mut rest, mut ours) = (&block[..], 0);
                        while let Some((frame, after)) = format.split(rest, LinkType::Ethernet) {
                            let (ts, wire, data) = &expected[expected.len() - chunk.len() + ours];
                            prop_assert_eq!((frame.ts, frame.wire_len, frame.data), (*ts, *wire, &data[..]));
                            (rest, ours) = (after, ours + 1);
                        }
                        prop_assert_eq!((rest.len(), ours), (0, chunk.len()));
                        file.extend_from_slice(packed);
                    }
                    let mut source = FileSource::from_reader("test".into(), Box::new(Cursor::new(file))).unwrap();
                    let mut read = Vec::new();
                    while source.next_batch(&mut |f| read.push((f.ts, f.wire_len, f.data.to_vec()))).unwrap() != crate::capture::Progress::Ended {}
                    prop_assert_eq!(&read, &expected);
                }
            }
        }

        #[test]
        fn any_bytes_are_split_or_not_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            for format in Format::ALL {
                let mut rest = &bytes[..];
                while let Some((_, after)) = format.split(rest, LinkType::Ethernet) {
                    prop_assert!(after.len() < rest.len());
                    rest = after;
                }
            }
            for compress in Compress::ALL {
                let _ = compress.unpack(&bytes, 50);
            }
        }
    }
}
