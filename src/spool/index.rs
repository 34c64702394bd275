//! Which blocks of a segment hold a flow: the index of a closed segment, and the journal of an open one.
//!
//! The *journal* grows with the segment: after each block that was written, an entry says where the block is and whose
//! frames it holds. It is what a crash leaves to salvage from, and where readers look while the segment is written. When the
//! segment is closed, the same facts become the *index*: flows in the order of their keys, each with its blocks, so that
//! one flow is found by a few reads. docs/CAPTURE.md has both layouts.

use super::Tuple;
use super::block::{Block, FlowInBlock};
use super::format::{Compress, Format};
use crate::capture::LinkType;
use crate::time::Timestamp;
use foldhash::HashMap;
use libdeflater::crc32;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a segment is, as its journal and index begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHead {
    /// Its file format.
    pub format: Format,
    /// How its blocks are compressed.
    pub compress: Compress,
    /// What its frames begin with.
    pub link: LinkType,
    /// Bytes before the first block.
    pub prologue_len: u32,
}

/// A block's place in its segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockAt {
    /// Where it begins.
    pub offset: u64,
    /// Its bytes in the file.
    pub len: u32,
    /// Its bytes unpacked.
    pub raw_len: u32,
    /// The time of its earliest frame.
    pub first: Timestamp,
    /// The time of its latest frame.
    pub last: Timestamp,
    /// How many frames.
    pub packets: u32,
    /// The CRC-32 of its bytes in the file.
    pub crc: u32,
}

/// A flow in a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The flow.
    pub tuple: Tuple,
    /// The time of its earliest frame here.
    pub first: Timestamp,
    /// The time of its latest frame here.
    pub last: Timestamp,
    /// Frames kept here.
    pub packets: u64,
    /// Numbers of the blocks that hold them, ascending.
    pub blocks: Vec<u32>,
}

/// Gathers what a segment's index will say.
#[derive(Debug)]
pub struct IndexBuilder {
    head: SegmentHead,
    blocks: Vec<BlockAt>,
    places: HashMap<Tuple, u32>,
    /// In the order of their first frames; their blocks are in `postings`.
    rows: Vec<Row>,
    /// Row and block, in the order of blocks: a list for each row would be an allocation for each.
    postings: Vec<(u32, u32)>,
}

/// What a segment's index says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Index {
    /// What the segment is.
    pub head: SegmentHead,
    /// Its blocks, in order.
    pub blocks: Vec<BlockAt>,
    /// Its flows, in the order of their keys.
    pub rows: Vec<Row>,
}

impl IndexBuilder {
    /// Of a segment without blocks.
    pub fn new(head: SegmentHead) -> Self {
        Self { head, blocks: Vec::new(), places: HashMap::default(), rows: Vec::new(), postings: Vec::new() }
    }

    /// Takes a block that was written.
    pub fn add(&mut self, at: BlockAt, flows: &[FlowInBlock]) {
        let number = self.blocks.len() as u32;
        self.blocks.push(at);
        for flow in flows {
            let FlowInBlock { tuple, first, last, packets } = *flow;
            let place = *self.places.entry(tuple).or_insert_with(|| {
                self.rows.push(Row { tuple, first, last, packets: 0, blocks: Vec::new() });
                (self.rows.len() - 1) as u32
            });
            let row = &mut self.rows[place as usize];
            row.first = row.first.min(first);
            row.last = row.last.max(last);
            row.packets += u64::from(packets);
            self.postings.push((place, number));
        }
    }

    /// How many flows there are.
    pub fn flows(&self) -> usize {
        self.rows.len()
    }

    /// Where the segment's last whole block ends.
    pub fn end(&self) -> u64 {
        self.blocks.last().map_or(self.head.prologue_len.into(), |b| b.offset + u64::from(b.len))
    }

    /// The time of the latest frame; `None` without frames.
    pub fn last(&self) -> Option<Timestamp> {
        self.blocks.iter().map(|b| b.last).max()
    }

    /// The index.
    pub fn build(&self) -> Index {
        let mut rows = self.rows.clone();
        for (row, block) in &self.postings {
            rows[*row as usize].blocks.push(*block);
        }
        rows.sort_by_cached_key(|row| row.tuple.encode());
        Index { head: self.head, blocks: self.blocks.clone(), rows }
    }
}

impl BlockAt {
    /// The place of a block that was packed into `packed` and goes to `offset`.
    pub fn of(block: &Block, packed: &[u8], offset: u64) -> Self {
        Self {
            offset,
            len: packed.len() as u32,
            raw_len: block.data.len() as u32,
            first: block.first,
            last: block.last,
            packets: block.packets,
            crc: crc32(packed),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.offset.to_le_bytes());
        out.extend(self.len.to_le_bytes());
        out.extend(self.raw_len.to_le_bytes());
        out.extend(self.first.as_nanos().to_le_bytes());
        out.extend(self.last.as_nanos().to_le_bytes());
        out.extend(self.packets.to_le_bytes());
        out.extend(self.crc.to_le_bytes());
    }

    fn decode(f: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            offset: f.u64()?,
            len: f.u32()?,
            raw_len: f.u32()?,
            first: f.time()?,
            last: f.time()?,
            packets: f.u32()?,
            crc: f.u32()?,
        })
    }

    const LEN: usize = 40;
}

impl SegmentHead {
    /// What a journal begins with.
    pub fn journal(&self) -> Vec<u8> {
        [&JOURNAL_MAGIC[..], &self.encode()].concat()
    }

    fn encode(&self) -> [u8; HEAD_LEN] {
        let number = |n: Option<usize>| n.unwrap_or_default() as u8;
        let format = number(Format::ALL.iter().position(|f| *f == self.format));
        let compress = number(Compress::ALL.iter().position(|c| *c == self.compress));
        let [a, b] = self.link.number().to_le_bytes();
        let [p, q, r, s] = self.prologue_len.to_le_bytes();
        [format, compress, a, b, p, q, r, s]
    }

    fn decode(f: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            format: *Format::ALL.get(usize::from(f.u8()?))?,
            compress: *Compress::ALL.get(usize::from(f.u8()?))?,
            link: LinkType::from_number(f.u16()?),
            prologue_len: f.u32()?,
        })
    }
}

/// A journal's entry for a block that was written.
pub fn journal_entry(at: &BlockAt, flows: &[FlowInBlock]) -> Vec<u8> {
    let mut body = Vec::with_capacity(BlockAt::LEN + flows.len() * 58);
    at.encode(&mut body);
    for flow in flows {
        body.extend(flow.tuple.encode());
        body.extend(flow.first.as_nanos().to_le_bytes());
        body.extend(flow.last.as_nanos().to_le_bytes());
        body.extend(flow.packets.to_le_bytes());
    }
    let mut out = Vec::with_capacity(8 + body.len());
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(crc32(&body).to_le_bytes());
    out.extend(body);
    out
}

/// Reads a journal up to its last whole entry that `accept` takes; `None` if it is no journal.
pub fn read_journal(bytes: &[u8], mut accept: impl FnMut(&BlockAt) -> bool) -> Option<IndexBuilder> {
    let mut fields = Fields(bytes.strip_prefix(JOURNAL_MAGIC)?);
    let mut index = IndexBuilder::new(SegmentHead::decode(&mut fields)?);
    while let Some((at, flows)) = entry(&mut fields)
        && at.offset == index.end()
        && accept(&at)
    {
        index.add(at, &flows);
    }
    Some(index)
}

fn entry(fields: &mut Fields<'_>) -> Option<(BlockAt, Vec<FlowInBlock>)> {
    let (len, crc) = (fields.u32()?, fields.u32()?);
    let body = fields.bytes(len as usize)?;
    if crc32(body) != crc {
        return None;
    }
    let mut f = Fields(body);
    let at = BlockAt::decode(&mut f)?;
    let mut flows = Vec::new();
    while !f.0.is_empty() {
        let tuple = Tuple::decode(f.bytes(Tuple::LEN)?.first_chunk()?);
        flows.push(FlowInBlock { tuple, first: f.time()?, last: f.time()?, packets: f.u32()? });
    }
    Some((at, flows))
}

impl Index {
    /// The bytes of an index file.
    pub fn encode(&self) -> Vec<u8> {
        let mut tables = Vec::new();
        self.blocks.iter().for_each(|b| b.encode(&mut tables));
        let mut postings = Vec::new();
        for row in &self.rows {
            tables.extend(row.tuple.encode());
            tables.extend(row.first.as_nanos().to_le_bytes());
            tables.extend(row.last.as_nanos().to_le_bytes());
            tables.extend(row.packets.to_le_bytes());
            tables.extend((postings.len() as u32).to_le_bytes());
            put_varint(&mut postings, row.blocks.len() as u32);
            let mut last = 0;
            for block in &row.blocks {
                put_varint(&mut postings, block - last);
                last = *block;
            }
        }
        tables.extend(postings);
        let (first, last) = (self.blocks.iter().map(|b| b.first).min(), self.blocks.iter().map(|b| b.last).max());
        let mut out = INDEX_MAGIC.to_vec();
        out.extend(self.head.encode());
        out.extend((self.blocks.len() as u32).to_le_bytes());
        out.extend((self.rows.len() as u32).to_le_bytes());
        out.extend(first.unwrap_or_default().as_nanos().to_le_bytes());
        out.extend(last.unwrap_or_default().as_nanos().to_le_bytes());
        out.extend(crc32(&tables).to_le_bytes());
        out.extend(tables);
        out
    }

    /// Reads an index file; `None` if it is none, or damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let head = IndexHead::decode(bytes)?;
        let tables = &bytes[IndexHead::LEN..];
        if crc32(tables) != head.crc {
            return None;
        }
        let mut f = Fields(tables);
        let mut blocks = Vec::new();
        for _ in 0..head.blocks {
            blocks.push(BlockAt::decode(&mut f)?);
        }
        let table = f.bytes(head.rows as usize * ROW_LEN)?;
        let postings = f.0;
        let rows = table.chunks_exact(ROW_LEN).map(|row| {
            let (mut row, at) = decode_row(row)?;
            row.blocks = read_postings(postings.get(at as usize..)?, blocks.len())?;
            Some(row)
        });
        let rows = rows.collect::<Option<_>>()?;
        Some(Self { head: head.segment, blocks, rows })
    }
}

/// An index file of which only what is asked for is read.
#[derive(Debug)]
pub struct IndexFile {
    file: File,
    head: IndexHead,
}

impl IndexFile {
    /// Opens an index file.
    ///
    /// # Errors
    /// Fails where it cannot be read, and with `InvalidData` where it is no index.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut bytes = [0; IndexHead::LEN];
        file.read_exact_at(&mut bytes, 0)?;
        let head = IndexHead::decode(&bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { file, head })
    }

    /// The times of the segment's earliest and latest frames.
    pub fn span(&self) -> (Timestamp, Timestamp) {
        (self.head.first, self.head.last)
    }

    /// What the segment is.
    pub fn segment(&self) -> SegmentHead {
        self.head.segment
    }

    /// A flow's row, found by halving.
    ///
    /// # Errors
    /// Fails where the file cannot be read or is damaged.
    pub fn find(&self, tuple: &Tuple) -> io::Result<Option<Row>> {
        let damaged = || io::Error::from(io::ErrorKind::InvalidData);
        let wanted = tuple.encode();
        let rows_at = (IndexHead::LEN + self.head.blocks as usize * BlockAt::LEN) as u64;
        let (mut low, mut high) = (0, u64::from(self.head.rows));
        while low < high {
            let middle = low.midpoint(high);
            let mut bytes = [0; ROW_LEN];
            self.file.read_exact_at(&mut bytes, rows_at + middle * ROW_LEN as u64)?;
            match bytes[..Tuple::LEN].cmp(&wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let (mut row, at) = decode_row(&bytes).ok_or_else(damaged)?;
                    let postings_at = rows_at + u64::from(self.head.rows) * ROW_LEN as u64 + u64::from(at);
                    // No more than every block, with a count before them, each of five bytes at most.
                    let mut postings = vec![0; (self.head.blocks as usize + 1) * 5];
                    let len = read_up_to(&self.file, &mut postings, postings_at)?;
                    row.blocks = read_postings(&postings[..len], self.head.blocks as usize).ok_or_else(damaged)?;
                    return Ok(Some(row));
                }
            }
        }
        Ok(None)
    }

    /// A block's place.
    ///
    /// # Errors
    /// Fails where the file cannot be read or is damaged.
    pub fn block(&self, number: u32) -> io::Result<BlockAt> {
        let mut bytes = [0; BlockAt::LEN];
        self.file.read_exact_at(&mut bytes, (IndexHead::LEN + number as usize * BlockAt::LEN) as u64)?;
        BlockAt::decode(&mut Fields(&bytes)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

#[derive(Clone, Copy, Debug)]
struct IndexHead {
    segment: SegmentHead,
    blocks: u32,
    rows: u32,
    first: Timestamp,
    last: Timestamp,
    crc: u32,
}

impl IndexHead {
    const LEN: usize = 8 + HEAD_LEN + 28;

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut f = Fields(bytes.get(..Self::LEN)?.strip_prefix(INDEX_MAGIC)?);
        Some(Self {
            segment: SegmentHead::decode(&mut f)?,
            blocks: f.u32()?,
            rows: f.u32()?,
            first: f.time()?,
            last: f.time()?,
            crc: f.u32()?,
        })
    }
}

/// A row without its blocks, and where those are among the postings.
fn decode_row(bytes: &[u8]) -> Option<(Row, u32)> {
    let mut f = Fields(bytes);
    let tuple = Tuple::decode(f.bytes(Tuple::LEN)?.first_chunk()?);
    let row = Row { tuple, first: f.time()?, last: f.time()?, packets: f.u64()?, blocks: Vec::new() };
    Some((row, f.u32()?))
}

fn read_postings(bytes: &[u8], blocks: usize) -> Option<Vec<u32>> {
    let mut f = Fields(bytes);
    let count = f.varint()?;
    let mut last = 0u32;
    (0..count)
        .map(|_| {
            last = last.checked_add(f.varint()?)?;
            ((last as usize) < blocks).then_some(last)
        })
        .collect()
}

fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read_at(&mut buffer[len..], at + len as u64)? {
            0 => break,
            n => len += n,
        }
    }
    Ok(len)
}

fn put_varint(out: &mut Vec<u8>, mut n: u32) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Little-endian fields, one after another.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.bytes(1)?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes(2)?.first_chunk().map(|b| u16::from_le_bytes(*b))
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes(4)?.first_chunk().map(|b| u32::from_le_bytes(*b))
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes(8)?.first_chunk().map(|b| u64::from_le_bytes(*b))
    }

    fn time(&mut self) -> Option<Timestamp> {
        self.u64().map(Timestamp::from_nanos)
    }

    fn varint(&mut self) -> Option<u32> {
        let mut n = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            n |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }
}

const JOURNAL_MAGIC: &[u8; 8] = b"FLOWJRN1";
const INDEX_MAGIC: &[u8; 8] = b"FLOWIDX1";
const HEAD_LEN: usize = 8;
const ROW_LEN: usize = Tuple::LEN + 28;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Address, Endpoint, FlowKey};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_journal_and_an_index_say_what_was_written_and_a_cut_journal_what_is_whole(
            blocks in prop::collection::vec(prop::collection::vec((0..30u16, 0..1000u64), 1..10), 1..20),
            cut: prop::sample::Index,
        ) {
            let head = SegmentHead { format: Format::Pcapng, compress: Compress::Zstd, link: LinkType::LinuxSll2, prologue_len: 77 };
            let (mut builder, mut journal, mut ends) = (IndexBuilder::new(head), head.journal(), vec![]);
            for flows in &blocks {
                let mut flows = flows.clone();
                flows.sort();
                flows.dedup_by_key(|f| f.0);
                let flows: Vec<_> = flows.iter().map(|&(port, t)| flow(port, t)).collect();
                let at = BlockAt {
                    offset: builder.end(), len: 10, raw_len: 20, first: flows[0].first, last: flows[0].last, packets: 1, crc: 7,
                };
                journal.extend(journal_entry(&at, &flows));
                builder.add(at, &flows);
                ends.push(journal.len());
            }
            let read = read_journal(&journal, |_| true).unwrap();
            let index = builder.build();
            prop_assert_eq!(&read.build(), &index);
            prop_assert_eq!(Index::decode(&index.encode()), Some(index.clone()));

            let cut = head.journal().len() + cut.index(journal.len() - head.journal().len());
            let whole = read_journal(&journal[..cut], |_| true).unwrap().build();
            prop_assert_eq!(whole.blocks.len(), ends.iter().filter(|end| **end <= cut).count());

            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), index.encode()).unwrap();
            let reader = IndexFile::open(file.path()).unwrap();
            for port in 0..31 {
                let tuple = flow(port, 0).tuple;
                prop_assert_eq!(reader.find(&tuple).unwrap(), index.rows.iter().find(|r| r.tuple == tuple).cloned());
            }
            prop_assert_eq!(reader.block(0).unwrap(), index.blocks[0]);
        }

        #[test]
        fn any_bytes_are_an_index_or_not_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), journal: bool) {
            let magic = if journal { JOURNAL_MAGIC } else { INDEX_MAGIC };
            let bytes = [&magic[..], &[0; 4], &bytes].concat();
            let _ = Index::decode(&bytes);
            let _ = read_journal(&bytes, |_| true);
        }
    }

    #[test]
    fn a_damaged_index_is_not_believed() {
        let head = SegmentHead { format: Format::Pcap, compress: Compress::None, link: LinkType::Ethernet, prologue_len: 24 };
        let mut builder = IndexBuilder::new(head);
        let at = BlockAt { offset: 24, len: 1, raw_len: 1, first: Timestamp::ZERO, last: Timestamp::ZERO, packets: 1, crc: 0 };
        builder.add(at, &[flow(1, 1)]);
        let whole = builder.build().encode();
        for at in 8..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            // The head's own fields are not covered by the checksum; the tables are.
            assert!(at < IndexHead::LEN || Index::decode(&bytes).is_none(), "byte {at}");
        }
    }

    fn flow(port: u16, t: u64) -> FlowInBlock {
        let end = |last, port| Endpoint { addr: Address::v4([192, 0, 2, last]), port };
        let tuple = Tuple { ends: FlowKey::new(end(1, port), end(2, 80)).0, protocol: 6 };
        FlowInBlock { tuple, first: Timestamp::from_nanos(t), last: Timestamp::from_nanos(t + 5), packets: 2 }
    }
}
