//! The pcapng format (draft-ietf-opsawg-pcapng): sections of blocks, each of which says its own length twice.
//!
//! A section has its own byte order and its own interfaces, numbered from zero; here the numbers go on over sections,
//! so that two interfaces never share one. Blocks that describe no interface and hold no frame are passed over.

use super::{ByteOrder, Damage, Fields, MAGIC_LEN, MAX_CAPTURED_LEN, Step};
use crate::capture::{Frame, LinkType};
use crate::time::Timestamp;

/// Reads the blocks of one file.
pub(super) struct Reader {
    order: ByteOrder,
    /// Those of the current section.
    interfaces: Vec<Interface>,
    /// Interfaces of all sections before.
    earlier_interfaces: u32,
    /// The time of the frame before, for blocks that have none.
    last_ts: Timestamp,
}

impl Reader {
    /// A reader at the start of a file, which begins with [`MAGIC`].
    pub(super) fn new() -> Self {
        Self { order: ByteOrder::Little, interfaces: Vec::new(), earlier_interfaces: 0, last_ts: Timestamp::ZERO }
    }

    pub(super) fn parse<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, Damage> {
        let Some(start) = bytes.first_chunk() else { return Ok(Step::Need(MIN_BLOCK_LEN)) };
        // A section's type reads the same in both orders, and its first field tells which one holds from here on.
        let order = if start.starts_with(&MAGIC) { section_order(start)? } else { self.order };
        let mut fields = Fields::new(bytes, order);
        let (Some(kind), Some(length)) = (fields.u32(), fields.u32()) else { unreachable!("both lie in the start") };
        if !length.is_multiple_of(4) || !(MIN_BLOCK_LEN as u32..=MAX_BLOCK_LEN).contains(&length) {
            return Err(Damage::BlockLength { length, limit: MAX_BLOCK_LEN });
        }
        let len = length as usize;
        let (Some(body), Some(last)) = (fields.bytes(len - MIN_BLOCK_LEN), fields.u32()) else {
            return Ok(Step::Need(len));
        };
        if last != length {
            return Err(Damage::BlockLengthsDiffer { first: length, last });
        }
        let frame = self.handle_block(kind, Fields::new(body, order))?;
        Ok(Step::Record { len, frame })
    }

    /// Interfaces described so far, in all sections.
    pub(super) fn interfaces(&self) -> u32 {
        self.earlier_interfaces.saturating_add(self.interfaces.len() as u32)
    }

    fn handle_block<'a>(&mut self, kind: u32, body: Fields<'a>) -> Result<Option<Frame<'a>>, Damage> {
        let short = Damage::ShortBlock { kind };
        let packet = match kind {
            SECTION_HEADER => {
                self.begin_section(body).ok_or(short)??;
                return Ok(None);
            }
            INTERFACE_DESCRIPTION => {
                let limit = MAX_INTERFACES;
                if self.interfaces.len() == limit {
                    return Err(Damage::TooManyInterfaces { limit });
                }
                self.interfaces.push(Interface::parse(body).ok_or(short)??);
                return Ok(None);
            }
            ENHANCED_PACKET => Packet::enhanced(body),
            SIMPLE_PACKET => Packet::simple(body),
            OBSOLETE_PACKET => Packet::obsolete(body),
            _ => return Ok(None),
        };
        self.frame(&packet.ok_or(short)?).map(Some)
    }

    fn begin_section(&mut self, mut body: Fields<'_>) -> Option<Result<(), Damage>> {
        let _byte_order_magic = body.u32()?;
        let (major, minor) = (body.u16()?, body.u16()?);
        // The section's length, which may be unknown and is not needed to read on.
        let _length = body.i64()?;
        if major != 1 {
            return Some(Err(Damage::PcapngVersion { major, minor }));
        }
        self.earlier_interfaces = self.interfaces();
        self.interfaces.clear();
        self.order = body.order();
        Some(Ok(()))
    }

    fn frame<'a>(&mut self, packet: &Packet<'a>) -> Result<Frame<'a>, Damage> {
        let Some(interface) = self.interfaces.get(packet.interface as usize) else {
            return Err(Damage::UnknownInterface { interface: packet.interface, described: self.interfaces.len() });
        };
        let captured = packet.captured.unwrap_or(packet.wire_len.min(interface.snaplen));
        if captured > MAX_CAPTURED_LEN {
            return Err(Damage::CapturedLength { captured, limit: MAX_CAPTURED_LEN });
        }
        let Some(data) = packet.content.get(..captured as usize) else {
            return Err(Damage::BeyondBlock { captured, room: packet.content.len() });
        };
        if let Some(units) = packet.time {
            self.last_ts = interface.clock.timestamp(units);
        }
        Ok(Frame {
            ts: self.last_ts,
            wire_len: packet.wire_len.max(captured),
            link: interface.link,
            interface: self.earlier_interfaces.saturating_add(packet.interface),
            data,
        })
    }
}

/// The fields of a block that holds a frame, whichever of the three kinds it is.
struct Packet<'a> {
    /// Its number within the section.
    interface: u32,
    /// In units of the interface's clock.
    time: Option<u64>,
    /// `None` where the interface's snap length has to tell it.
    captured: Option<u32>,
    wire_len: u32,
    /// The frame, padding, options.
    content: &'a [u8],
}

impl<'a> Packet<'a> {
    fn enhanced(mut body: Fields<'a>) -> Option<Self> {
        let interface = body.u32()?;
        Self::timed(interface, body)
    }

    fn obsolete(mut body: Fields<'a>) -> Option<Self> {
        let (interface, _drops) = (body.u16()?, body.u16()?);
        Self::timed(interface.into(), body)
    }

    /// What the two kinds with a time have in common.
    fn timed(interface: u32, mut body: Fields<'a>) -> Option<Self> {
        let (high, low) = (body.u32()?, body.u32()?);
        let (captured, wire_len) = (body.u32()?, body.u32()?);
        let time = (u64::from(high) << 32) | u64::from(low);
        Some(Self { interface, time: Some(time), captured: Some(captured), wire_len, content: body.rest() })
    }

    /// Always of the section's first interface.
    fn simple(mut body: Fields<'a>) -> Option<Self> {
        let wire_len = body.u32()?;
        Some(Self { interface: 0, time: None, captured: None, wire_len, content: body.rest() })
    }
}

struct Interface {
    link: LinkType,
    /// `u32::MAX` where the file names no limit.
    snaplen: u32,
    clock: Clock,
}

impl Interface {
    fn parse(mut body: Fields<'_>) -> Option<Result<Self, Damage>> {
        let (link, _reserved) = (body.u16()?, body.u16()?);
        let snaplen = body.u32()?;
        // A wrong unit would make wrong times without a word, so malformed options are not passed over.
        Some(Clock::parse(body).ok_or(Damage::InterfaceOptions).map(|clock| Self {
            link: LinkType::from_number(link),
            snaplen: if snaplen == 0 { u32::MAX } else { snaplen },
            clock,
        }))
    }
}

/// How an interface counts time.
struct Clock {
    unit: Unit,
    /// Seconds to add.
    offset: i64,
}

/// The unit of a timestamp.
enum Unit {
    /// So many nanoseconds.
    Nanos(u32),
    /// A nanosecond divided by so many, a power of ten.
    NanoFraction(u128),
    /// A second divided by two to this power.
    SecondShift(u32),
}

impl Clock {
    /// Takes what an interface's options say of its clock; `None` if they are malformed.
    fn parse(mut options: Fields<'_>) -> Option<Self> {
        let mut clock = Self { unit: Unit::Nanos(1_000), offset: 0 };
        while !options.rest().is_empty() {
            let (code, len) = (options.u16()?, usize::from(options.u16()?));
            let padded = options.bytes(len.next_multiple_of(4))?;
            let value = &padded[..len];
            match code {
                OPTION_END => break,
                OPTION_TSRESOL => clock.unit = Unit::of_resolution(<[u8; 1]>::try_from(value).ok()?[0]),
                OPTION_TSOFFSET if len == 8 => clock.offset = Fields::new(value, options.order()).i64()?,
                OPTION_TSOFFSET => return None,
                _ => {}
            }
        }
        Some(clock)
    }

    /// The time of a count of units, saturated to what a [`Timestamp`] can say.
    fn timestamp(&self, units: u64) -> Timestamp {
        let nanos = match self.unit {
            Unit::Nanos(nanos) => u128::from(units) * u128::from(nanos),
            Unit::NanoFraction(parts) => u128::from(units) / parts,
            Unit::SecondShift(bits) => (u128::from(units) * u128::from(NANOS_PER_SEC)) >> bits,
        };
        // At most 2^64 seconds in nanoseconds, 2^94, and an offset of 2^93: far from the ends of an i128.
        let nanos = nanos as i128 + i128::from(self.offset) * i128::from(NANOS_PER_SEC);
        Timestamp::from_nanos(nanos.clamp(0, u64::MAX.into()) as u64)
    }
}

impl Unit {
    /// The unit that an if_tsresol option names: its top bit tells negative powers of two from those of ten.
    fn of_resolution(resolution: u8) -> Self {
        let power = u32::from(resolution & 0x7f);
        match power {
            power if resolution & 0x80 != 0 => Self::SecondShift(power),
            0..=9 => Self::Nanos(10u32.pow(9 - power)),
            // A unit so small that even the largest count of them is no nanosecond.
            power => Self::NanoFraction(10u128.checked_pow(power - 9).unwrap_or(u128::MAX)),
        }
    }
}

fn section_order(start: &[u8; MIN_BLOCK_LEN]) -> Result<ByteOrder, Damage> {
    match start {
        [.., 0x4d, 0x3c, 0x2b, 0x1a] => Ok(ByteOrder::Little),
        [.., 0x1a, 0x2b, 0x3c, 0x4d] => Ok(ByteOrder::Big),
        [.., a, b, c, d] => Err(Damage::ByteOrder([*a, *b, *c, *d])),
    }
}

/// A section header's type, in either byte order.
pub(super) const MAGIC: [u8; MAGIC_LEN] = SECTION_HEADER.to_be_bytes();

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const OPTION_END: u16 = 0;
const OPTION_TSRESOL: u16 = 9;
const OPTION_TSOFFSET: u16 = 14;

/// Type and both lengths. Also as much as it takes to know a section's byte order.
const MIN_BLOCK_LEN: usize = 12;

/// The longest frame, and 1 MiB for its options: comments, verdicts, hashes.
const MAX_BLOCK_LEN: u32 = MAX_CAPTURED_LEN + (1 << 20);

/// Per section: as many as the obsolete packet block can number. Bounds what a file can make us hold.
const MAX_INTERFACES: usize = 1 << 16;

const NANOS_PER_SEC: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::super::testing::{Bytes, Pcapng, tsoffset, tsresol};
    use super::super::{FileError, testing};
    use super::*;

    const ORDERS: [ByteOrder; 2] = [ByteOrder::Little, ByteOrder::Big];

    fn nanos(ns: u64) -> Timestamp {
        Timestamp::from_nanos(ns)
    }

    /// What goes wrong with a file, after this many frames.
    fn damage(file: &Pcapng, frames_before: usize) -> Damage {
        match testing::read(&file.done) {
            (frames, Err(FileError::Damaged { reason, frames: counted, .. })) => {
                assert_eq!((frames.len(), counted), (frames_before, frames_before as u64));
                reason
            }
            other => panic!("{other:?}"),
        }
    }

    /// A file whose one interface has these options, and a frame at this time.
    fn stamped(options: &[u8], units: u64) -> Pcapng {
        Pcapng::new(ByteOrder::Little).interface(1, 0, options).enhanced(0, units, 4, b"abcd")
    }

    #[test]
    fn all_kinds_of_packet_blocks_are_read_in_both_byte_orders() {
        for order in ORDERS {
            let file = Pcapng::new(order)
                .interface(1, 6, &[])
                .interface(276, 0, &[])
                .simple(3, b"abc")
                .enhanced(1, 5, 1_500, b"abcde")
                .obsolete(0, 6, 6, b"abcdef")
                .simple(1_400, b"ABCDEF");
            let read: Vec<_> = testing::frames(&file.done).into_iter().map(|f| (f.ts, f.wire_len, f.interface, f.data)).collect();
            let expected = [
                (Timestamp::ZERO, 3, 0, b"abc".to_vec()),
                (nanos(5_000), 1_500, 1, b"abcde".to_vec()),
                (nanos(6_000), 6, 0, b"abcdef".to_vec()),
                (nanos(6_000), 1_400, 0, b"ABCDEF".to_vec()),
            ];
            assert_eq!(read, expected);
            let links = [LinkType::Ethernet, LinkType::LinuxSll2, LinkType::Ethernet, LinkType::Ethernet];
            assert_eq!(testing::links(&file.done), links);
        }
    }

    #[test]
    fn a_new_section_has_its_own_byte_order_and_interfaces_whose_numbers_go_on() {
        let file = Pcapng::new(ByteOrder::Little)
            .interface(1, 0, &[])
            .interface(1, 0, &[])
            .enhanced(1, 1, 1, b"a")
            .section(ByteOrder::Big)
            .interface(101, 0, &tsresol(ByteOrder::Big, 9))
            .enhanced(0, 2, 1, b"b")
            .section(ByteOrder::Big)
            .section(ByteOrder::Little)
            .interface(113, 0, &[])
            .enhanced(0, 3, 1, b"c");
        let read: Vec<_> = testing::frames(&file.done).into_iter().map(|f| (f.interface, f.ts)).collect();
        assert_eq!(read, [(1, nanos(1_000)), (2, nanos(2)), (3, nanos(3_000))]);
        assert_eq!(testing::links(&file.done), [LinkType::Ethernet, LinkType::Raw, LinkType::LinuxSll]);
        assert_eq!(testing::stats(&file.done).interfaces, 4);
    }

    #[test]
    fn interfaces_of_the_section_before_are_gone() {
        let file = Pcapng::new(ByteOrder::Big).interface(1, 0, &[]).section(ByteOrder::Big).enhanced(0, 0, 1, b"a");
        assert!(matches!(damage(&file, 0), Damage::UnknownInterface { interface: 0, described: 0 }));
    }

    #[test]
    fn times_are_counted_in_the_unit_of_the_interface() {
        for (resolution, units, expected) in [
            (0, 7, 7 * NANOS_PER_SEC),
            (3, 7, 7_000_000),
            (6, 7, 7_000),
            (9, 7, 7),
            (12, 7_999, 7),
            (28, u64::MAX, 1),
            (29, u64::MAX, 0),
            (127, u64::MAX, 0),
            (0x80, 7, 7 * NANOS_PER_SEC),
            (0x80 | 10, 1_536, 1_500_000_000),
            (0x80 | 32, u64::MAX, 4_294_967_295_999_999_999),
            (0x80 | 64, u64::MAX, 999_999_999),
            (0x80 | 127, u64::MAX, 0),
        ] {
            let file = stamped(&tsresol(ByteOrder::Little, resolution), units);
            assert_eq!(testing::frames(&file.done)[0].ts, nanos(expected), "{resolution:#x} {units}");
        }
    }

    #[test]
    fn an_offset_is_added_and_times_saturate_at_both_ends() {
        for (offset, units, expected) in [
            (1_700_000_000, 5, Timestamp::from_parts(1_700_000_000, 5_000)),
            (-2, 3_000_000, Timestamp::from_parts(1, 0)),
            (-2, 1_000_000, Timestamp::ZERO),
            (i64::MIN, u64::MAX, Timestamp::ZERO),
            (i64::MAX, u64::MAX, Timestamp::MAX),
            (0, u64::MAX, Timestamp::MAX),
        ] {
            let file = stamped(&tsoffset(ByteOrder::Little, offset), units);
            assert_eq!(testing::frames(&file.done)[0].ts, expected, "{offset} {units}");
        }
    }

    #[test]
    fn options_that_cannot_be_read_are_damage_and_not_a_wrong_time() {
        let order = ByteOrder::Little;
        for options in [
            Bytes::new(order).u16(9).u16(2).u32(0).done,
            Bytes::new(order).u16(14).u16(4).u32(0).done,
            Bytes::new(order).u16(2).u16(5).u32(0).done,
            Bytes::new(order).u16(2).u16(u16::MAX).u32(0).done,
        ] {
            assert!(matches!(damage(&stamped(&options, 1), 0), Damage::InterfaceOptions));
        }
    }

    #[test]
    fn unknown_blocks_are_passed_over() {
        let file = Pcapng::new(ByteOrder::Big)
            .block(0x0bad, &[0; 400_000])
            .interface(1, 0, &[])
            .block(0x8000_0001, &[])
            .enhanced(0, 1, 1, b"a")
            .block(5, &[1; 8]);
        assert_eq!(testing::frames(&file.done).len(), 1);
    }

    #[test]
    fn impossible_block_lengths_are_damage() {
        for length in [0, 4, 8, 13, 14, 15, MAX_BLOCK_LEN + 4, u32::MAX] {
            let mut file = stamped(&[], 1);
            file.done.extend(Bytes::new(ByteOrder::Little).u32(6).u32(length).u32(0).done);
            assert!(matches!(damage(&file, 1), Damage::BlockLength { .. }), "{length}");
        }
    }

    #[test]
    fn a_block_that_contradicts_itself_is_damage() {
        let with = |block: Bytes| {
            let mut file = stamped(&[], 1);
            file.done.extend(block.done);
            damage(&file, 1)
        };
        let le = || Bytes::new(ByteOrder::Little);
        assert!(matches!(with(le().u32(5).u32(12).u32(16)), Damage::BlockLengthsDiffer { first: 12, last: 16 }));
        assert!(matches!(with(le().u32(6).u32(12).u32(12)), Damage::ShortBlock { kind: 6 }));
        assert!(matches!(with(le().u32(3).u32(16).u32(1).u32(16)), Damage::BeyondBlock { captured: 1, room: 0 }));
        assert!(matches!(with(le().u32(0x0a0d_0d0a).u32(28).u32(7)), Damage::ByteOrder([7, 0, 0, 0])));
        let wrong_version = le().u32(0x0a0d_0d0a).u32(28).u32(0x1a2b_3c4d).u16(2).u16(1).i64(-1).u32(28);
        assert!(matches!(with(wrong_version), Damage::PcapngVersion { major: 2, minor: 1 }));
        let huge = le().u32(6).u32(32).u32(0).i64(0).u32(MAX_CAPTURED_LEN + 1).u32(1).u32(32);
        assert!(matches!(with(huge), Damage::CapturedLength { .. }));
    }

    #[test]
    fn a_section_with_too_many_interfaces_is_damage() {
        let mut file = Pcapng::new(ByteOrder::Little);
        for _ in 0..MAX_INTERFACES {
            file = file.interface(1, 0, &[]);
        }
        let file = file.enhanced(MAX_INTERFACES as u32 - 1, 0, 1, b"a");
        assert_eq!(testing::frames(&file.done)[0].interface, MAX_INTERFACES as u32 - 1);
        assert!(matches!(damage(&file.interface(1, 0, &[]), 1), Damage::TooManyInterfaces { .. }));
    }
}
