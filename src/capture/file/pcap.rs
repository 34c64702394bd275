//! The classic pcap format (draft-ietf-opsawg-pcap, pcap-savefile(5)): a file header, then records.

use super::{ByteOrder, Damage, Fields, MAGIC_LEN, MAX_CAPTURED_LEN, Step};
use crate::capture::{Frame, LinkType};
use crate::time::Timestamp;

/// Reads the records of one file.
pub(super) struct Reader {
    order: ByteOrder,
    /// Nanoseconds per unit of a timestamp's second field.
    unit_nanos: u64,
    link: LinkType,
    max_captured: u32,
}

impl Reader {
    /// Takes the file header, which begins with the magic number.
    pub(super) fn new(magic: Magic, header: &[u8; FILE_HEADER_LEN]) -> Result<Self, Damage> {
        let mut fields = Fields::new(&header[MAGIC_LEN..], magic.order);
        let (Some(major), Some(minor), Some(_reserved), Some(snaplen), Some(network)) =
            (fields.u16(), fields.u16(), fields.bytes(8), fields.u32(), fields.u32())
        else {
            unreachable!("the header is as long as its fields")
        };
        if (major, minor) != (2, 4) {
            return Err(Damage::PcapVersion { major, minor });
        }
        Ok(Self {
            order: magic.order,
            unit_nanos: magic.unit_nanos,
            // Above the link type's 16 bits stand the length of the frame check sequence and reserved bits, which
            // readers must ignore. The sequence itself is a trailer behind the packet and does no harm.
            link: LinkType::from_number(network as u16),
            max_captured: snaplen.clamp(LIBPCAP_MAX_SNAPLEN, MAX_CAPTURED_LEN),
        })
    }

    pub(super) fn parse<'a>(&self, bytes: &'a [u8]) -> Result<Step<'a>, Damage> {
        let mut fields = Fields::new(bytes, self.order);
        let (Some(secs), Some(units), Some(captured), Some(wire_len)) = (fields.u32(), fields.u32(), fields.u32(), fields.u32())
        else {
            return Ok(Step::Need(RECORD_HEADER_LEN));
        };
        if captured > self.max_captured {
            return Err(Damage::CapturedLength { captured, limit: self.max_captured });
        }
        let len = RECORD_HEADER_LEN + captured as usize;
        let Some(data) = fields.bytes(captured as usize) else {
            return Ok(Step::Need(len));
        };
        // 32-bit numbers, so neither product nor sum can overflow; a fraction of more than a second is carried.
        let ts = Timestamp::from_nanos(u64::from(secs) * 1_000_000_000 + u64::from(units) * self.unit_nanos);
        let frame = Frame { ts, wire_len: wire_len.max(captured), link: self.link, interface: 0, data };
        Ok(Step::Record { len, frame: Some(frame) })
    }
}

/// What a file's magic number tells.
pub(super) struct Magic {
    order: ByteOrder,
    unit_nanos: u64,
}

impl Magic {
    /// Reads the first bytes of a file; `None` if it is no pcap file.
    pub(super) fn of(start: [u8; MAGIC_LEN]) -> Option<Self> {
        let (order, unit_nanos) = match start {
            [0xd4, 0xc3, 0xb2, 0xa1] => (ByteOrder::Little, 1_000),
            [0xa1, 0xb2, 0xc3, 0xd4] => (ByteOrder::Big, 1_000),
            [0x4d, 0x3c, 0xb2, 0xa1] => (ByteOrder::Little, 1),
            [0xa1, 0xb2, 0x3c, 0x4d] => (ByteOrder::Big, 1),
            _ => return None,
        };
        Some(Self { order, unit_nanos })
    }
}

/// Length of the file header, magic number included.
pub(super) const FILE_HEADER_LEN: usize = 24;

const RECORD_HEADER_LEN: usize = 16;

/// What libpcap captures at most (MAXIMUM_SNAPLEN in its pcap-int.h). Some writers put a snap length of zero, one or
/// anything into the file header, so a record may pass the header's; one that passes both is damaged.
const LIBPCAP_MAX_SNAPLEN: u32 = 262_144;

#[cfg(test)]
mod tests {
    use super::super::testing::{Precision, TestFrame, pcap};
    use super::super::{FileError, testing};
    use super::*;

    fn one_frame() -> [TestFrame; 1] {
        let ts = Timestamp::from_parts(1_700_000_000, 123_456_789);
        [TestFrame { ts, wire_len: 1_500, interface: 0, data: vec![1, 2, 3, 4, 5] }]
    }

    #[test]
    fn microseconds_and_nanoseconds_are_read_in_both_byte_orders() {
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let nanos = testing::frames(&pcap(order, Precision::Nanos, 1, &one_frame()));
            assert_eq!(nanos, one_frame());
            let micros = testing::frames(&pcap(order, Precision::Micros, 1, &one_frame()));
            assert_eq!(micros[0].ts, Timestamp::from_parts(1_700_000_000, 123_456_000));
            assert_eq!(micros[0].data, one_frame()[0].data);
        }
    }

    #[test]
    fn bits_above_the_link_type_are_ignored() {
        // LINUX_SLL2 with an FCS of 4 bytes (F bit and length) and reserved bits.
        let file = pcap(ByteOrder::Little, Precision::Micros, 0x2430_0114, &one_frame());
        assert_eq!(testing::links(&file), [LinkType::LinuxSll2]);
    }

    #[test]
    fn a_fraction_of_more_than_a_second_is_carried_and_the_largest_time_is_no_overflow() {
        let mut file = pcap(ByteOrder::Big, Precision::Micros, 1, &one_frame());
        file[FILE_HEADER_LEN..FILE_HEADER_LEN + 8].fill(0xff);
        let largest = u64::from(u32::MAX);
        assert_eq!(testing::frames(&file)[0].ts, Timestamp::from_nanos(largest * 1_000_000_000 + largest * 1_000));
    }

    #[test]
    fn a_wire_length_below_the_captured_one_is_raised_to_it() {
        let frame = TestFrame { wire_len: 3, ..one_frame()[0].clone() };
        assert_eq!(testing::frames(&pcap(ByteOrder::Little, Precision::Nanos, 1, &[frame]))[0].wire_len, 5);
    }

    #[test]
    fn a_captured_length_may_pass_the_snap_length_but_not_both_limits() {
        for (snaplen, captured, fits) in [
            (0, 1, true),
            (1, LIBPCAP_MAX_SNAPLEN, true),
            (1, LIBPCAP_MAX_SNAPLEN + 1, false),
            (300_000, 300_000, true),
            (300_000, 300_001, false),
            (u32::MAX, MAX_CAPTURED_LEN, true),
            (u32::MAX, MAX_CAPTURED_LEN + 1, false),
        ] {
            let mut file = pcap(ByteOrder::Little, Precision::Nanos, 1, &[]);
            file[16..20].copy_from_slice(&u32::to_le_bytes(snaplen));
            file.extend([0; 8]);
            file.extend(captured.to_le_bytes());
            file.extend([0; 4]);
            file.resize(file.len() + captured as usize, 0);
            match testing::read(&file) {
                (frames, Ok(())) => assert!(fits && frames[0].data.len() == captured as usize, "{snaplen} {captured}"),
                (frames, Err(FileError::Damaged { reason: Damage::CapturedLength { .. }, .. })) => {
                    assert!(!fits && frames.is_empty(), "{snaplen} {captured}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn another_version_is_refused_when_the_file_is_opened() {
        let mut file = pcap(ByteOrder::Little, Precision::Nanos, 1, &one_frame());
        file[6] = 3;
        let error = testing::open(&file).err().expect("is refused").to_string();
        assert!(error.contains("pcap version 2.3 is not supported, only 2.4 is"), "{error}");
    }
}
