//! The classic pcap format: writes our file header, reads files of any byte order and resolution back.
//!
//! Between modules, packets travel as *canonical records*: what [`crate::flow::segment::Records`] holds, which is what our
//! files hold after their file header.

use crate::capture::LinkType;
use crate::flow::segment::RECORD_HEADER_LEN;
use crate::time::Timestamp;

/// Bytes of a pcap file header.
pub const FILE_HEADER_LEN: usize = 24;

/// Most bytes of one packet that a file may claim to hold; libpcap's own limit (MAXIMUM_SNAPLEN in pcap-int.h).
pub const MAX_SNAPLEN: u32 = 262_144;

/// The file header of our files: little-endian, nanoseconds, version 2.4 (draft-ietf-opsawg-pcap).
pub fn file_header(link: LinkType, snaplen: u32) -> [u8; FILE_HEADER_LEN] {
    let mut header = [0; FILE_HEADER_LEN];
    header[0..4].copy_from_slice(&MAGIC_NANOS.to_le_bytes());
    header[4..6].copy_from_slice(&2u16.to_le_bytes());
    header[6..8].copy_from_slice(&4u16.to_le_bytes());
    header[16..20].copy_from_slice(&snaplen.to_le_bytes());
    header[20..24].copy_from_slice(&u32::from(link.number()).to_le_bytes());
    header
}

/// A pcap file's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PcapFile {
    /// The link type of all its packets.
    pub link: LinkType,
    /// The snap length that its header states.
    pub snaplen: u32,
    /// Its packets as canonical records, in the file's order.
    pub records: Vec<u8>,
    /// Bytes at the end that are no whole record: cut, or garbage.
    pub leftover: usize,
}

impl PcapFile {
    /// Reads a file of either byte order and resolution up to its last whole record.
    ///
    /// # Errors
    /// Fails where the file header is not one of pcap.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotPcap> {
        let (header, mut rest) = bytes.split_at_checked(FILE_HEADER_LEN).ok_or(NotPcap::Short(bytes.len()))?;
        let magic = u32_at(header, 0, Order::Little);
        let (order, nanos_per_tick) = match (magic, magic.swap_bytes()) {
            (MAGIC_NANOS, _) => (Order::Little, 1),
            (MAGIC_MICROS, _) => (Order::Little, 1_000),
            (_, MAGIC_NANOS) => (Order::Big, 1),
            (_, MAGIC_MICROS) => (Order::Big, 1_000),
            _ => return Err(NotPcap::Magic(magic)),
        };
        let snaplen = u32_at(header, 16, order);
        // The upper half of the field holds the length of the frame check sequence, which our packets do not have.
        let link = LinkType::from_number((u32_at(header, 20, order) & 0xffff) as u16);
        let longest = snaplen.max(MAX_SNAPLEN) as usize;
        let mut records = Vec::with_capacity(rest.len());
        while let Some((head, after)) = rest.split_at_checked(RECORD_HEADER_LEN) {
            let [secs, ticks, captured, wire] = [0, 4, 8, 12].map(|at| u32_at(head, at, order));
            let Some(nanos) = ticks.checked_mul(nanos_per_tick).filter(|&n| n < 1_000_000_000) else { break };
            let Some((data, next)) = after.split_at_checked(captured as usize).filter(|(data, _)| data.len() <= longest) else {
                break;
            };
            for field in [secs, nanos, captured, wire] {
                records.extend_from_slice(&field.to_le_bytes());
            }
            records.extend_from_slice(data);
            rest = next;
        }
        Ok(Self { link, snaplen, records, leftover: rest.len() })
    }
}

/// Why bytes are not a pcap file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotPcap {
    /// Too short for a file header.
    #[error("not a pcap file: {0} bytes are less than a file header")]
    Short(usize),
    /// The magic number of something else.
    #[error("not a pcap file: unknown magic number {0:#010x}")]
    Magic(u32),
}

/// One canonical record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Record<'a> {
    /// Header and captured bytes.
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// The captured bytes.
    pub fn data(&self) -> &'a [u8] {
        &self.bytes[RECORD_HEADER_LEN..]
    }

    /// The packet's length on the wire, bytes.
    pub fn wire_len(&self) -> u32 {
        u32_at(self.bytes, 12, Order::Little)
    }

    /// When the packet was captured.
    pub fn ts(&self) -> Timestamp {
        let [secs, nanos] = [0, 4].map(|at| u32_at(self.bytes, at, Order::Little));
        Timestamp::from_parts(secs.into(), nanos)
    }
}

/// The canonical records in `bytes`; ends at the first that is not whole.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let captured = u32_at(rest.get(..RECORD_HEADER_LEN)?, 8, Order::Little) as usize;
        let (bytes, next) = rest.split_at_checked(RECORD_HEADER_LEN.checked_add(captured)?)?;
        rest = next;
        Some(Record { bytes })
    })
}

/// Puts canonical records into the order of time and says whether any had to move; records of one time keep their order.
pub fn sort_by_time(bytes: &mut Vec<u8>) -> bool {
    if records(bytes).is_sorted_by_key(|r| r.ts()) {
        return false;
    }
    let mut sorted: Vec<Record<'_>> = records(bytes).collect();
    sorted.sort_by_key(Record::ts);
    *bytes = concat(&sorted);
    true
}

/// Records one after the other.
pub fn concat(records: &[Record<'_>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(records.iter().map(|r| r.bytes.len()).sum());
    for record in records {
        bytes.extend_from_slice(record.bytes);
    }
    bytes
}

#[derive(Clone, Copy)]
enum Order {
    Little,
    Big,
}

/// `bytes` must reach to `at + 4`.
fn u32_at(bytes: &[u8], at: usize, order: Order) -> u32 {
    let field = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    match order {
        Order::Little => u32::from_le_bytes(field),
        Order::Big => u32::from_be_bytes(field),
    }
}

const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
const MAGIC_MICROS: u32 = 0xa1b2_c3d4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::record;
    use proptest::prelude::*;

    /// A file with one packet at 7.000002 s in the given byte order and resolution.
    fn foreign(magic: u32, ticks: u32, encode: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let version = if encode(1)[0] == 1 { 0x0004_0002 } else { 0x0002_0004 };
        let fields = [magic, version, 0, 0, 96, 1, 7, ticks, 3, 60];
        let mut bytes: Vec<u8> = fields.into_iter().flat_map(encode).collect();
        bytes.extend_from_slice(b"abc");
        bytes
    }

    #[test]
    fn both_byte_orders_and_resolutions_give_the_same_records() {
        for bytes in [
            foreign(MAGIC_NANOS, 2_000, u32::to_le_bytes),
            foreign(MAGIC_NANOS, 2_000, u32::to_be_bytes),
            foreign(MAGIC_MICROS, 2, u32::to_le_bytes),
            foreign(MAGIC_MICROS, 2, u32::to_be_bytes),
        ] {
            let file = PcapFile::parse(&bytes).unwrap();
            assert_eq!((file.link, file.snaplen, file.leftover), (LinkType::Ethernet, 96, 0));
            let all: Vec<_> = records(&file.records).collect();
            assert_eq!(all.len(), 1);
            assert_eq!(all[0].ts(), Timestamp::from_parts(7, 2_000));
            assert_eq!(&all[0].bytes[16..], b"abc");
        }
    }

    #[test]
    fn our_header_reads_back() {
        let file = PcapFile::parse(&file_header(LinkType::LinuxSll2, 262_144)).unwrap();
        assert_eq!(file, PcapFile { link: LinkType::LinuxSll2, snaplen: 262_144, records: vec![], leftover: 0 });
    }

    #[test]
    fn sorting_keeps_the_order_of_packets_of_one_time() {
        let mut bytes = [record(5, b"x"), record(3, b"b"), record(3, b"a")].concat();
        assert!(sort_by_time(&mut bytes));
        assert_eq!(bytes, [record(3, b"b"), record(3, b"a"), record(5, b"x")].concat());
        assert!(!sort_by_time(&mut bytes));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), ours: bool) {
            if ours {
                bytes.splice(0..0, file_header(LinkType::Ethernet, 256));
            }
            if let Ok(file) = PcapFile::parse(&bytes) {
                prop_assert_eq!(file.records.len() + file.leftover + FILE_HEADER_LEN, bytes.len());
                prop_assert_eq!(records(&file.records).map(|r| r.bytes.len()).sum::<usize>(), file.records.len());
            }
        }
    }
}
