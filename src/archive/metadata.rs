//! What a file says of its flow beside the packets: gzip FEXTRA subfields (RFC 1952, section 2.3.1.1) of fixed layout.
//!
//! docs/FORMAT.md is the layout's specification. Every version begins with the fields of the versions before it, so a
//! reader takes the prefix that it knows. What the kernel said of the connection has a subfield of its own
//! ([`FinalTcpInfo`]).

use super::tcp_info::{FinalTcpInfo, TCP_INFO_ID, TCP_INFO_LEN};
use crate::shard::{EndReason, FlowFlags, FlowSummary};
use crate::time::Timestamp;

/// The subfield's identifier bytes SI1 and SI2.
pub const SUBFIELD_ID: [u8; 2] = *b"FA";

/// Bytes of the subfield's data.
pub const METADATA_LEN: usize = 36;

/// What a file says of its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// Why no more packets were kept; `None` where the file was never finished, or by a newer version for a newer reason.
    pub end: Option<EndReason>,
    /// What to know before trusting the file.
    pub flags: FlowFlags,
    /// Major, minor and patch version of the program that wrote the file.
    pub tool: [u8; 3],
    /// The first packet's time.
    pub first: Timestamp,
    /// The last kept packet's time.
    pub last: Timestamp,
    /// Packets of the flow that were captured while it was open; stays at the maximum when more.
    pub packets_seen: u32,
    /// Packets in the file; stays at the maximum when more.
    pub packets_kept: u32,
    /// Frames of any flow that the kernel dropped meanwhile; stays at the maximum when more.
    pub kernel_drops: u32,
    /// The kernel's last word on the connection, where it was heard: with UUIDs from the kernel, and then of connections
    /// that ended before their capture did. Has a subfield of its own; room for it that was not used reads as `None`.
    pub tcp_info: Option<FinalTcpInfo>,
}

impl Metadata {
    /// What stands in a temporary file until its flow ends.
    pub const UNFINISHED: Self = Self {
        end: None,
        flags: FlowFlags(0),
        tool: TOOL,
        first: Timestamp::ZERO,
        last: Timestamp::ZERO,
        packets_seen: 0,
        packets_kept: 0,
        kernel_drops: 0,
        tcp_info: None,
    };

    /// A flow's summary as its file's metadata, by this program's version.
    pub fn of(summary: &FlowSummary) -> Self {
        Self {
            end: Some(summary.end),
            flags: summary.flags,
            tool: TOOL,
            first: summary.first,
            last: summary.last,
            packets_seen: saturate(summary.packets_seen),
            packets_kept: saturate(summary.packets_kept),
            kernel_drops: saturate(summary.kernel_drops),
            tcp_info: summary.last_word.as_deref().map(FinalTcpInfo::of),
        }
    }

    /// The whole extra field: this subfield, and that of the kernel's last word where there is one or room for it.
    pub fn extra_field(&self) -> ExtraField {
        let mut field = ExtraField { bytes: [0; EXTRA_MAX], len: 0 };
        field.push(SUBFIELD_ID, &self.encode());
        if let Some(info) = &self.tcp_info {
            field.push(TCP_INFO_ID, &info.encode());
        }
        field
    }

    /// The subfield's data, without the kernel's last word.
    pub fn encode(&self) -> [u8; METADATA_LEN] {
        let mut data = [0; METADATA_LEN];
        data[0] = VERSION;
        data[1] = self.end.map_or(0, |end| end as u8);
        data[2..4].copy_from_slice(&self.flags.0.to_le_bytes());
        data[4..7].copy_from_slice(&self.tool);
        data[8..16].copy_from_slice(&self.first.as_nanos().to_le_bytes());
        data[16..24].copy_from_slice(&self.last.as_nanos().to_le_bytes());
        data[24..28].copy_from_slice(&self.packets_seen.to_le_bytes());
        data[28..32].copy_from_slice(&self.packets_kept.to_le_bytes());
        data[32..36].copy_from_slice(&self.kernel_drops.to_le_bytes());
        data
    }

    /// Reads the data of a subfield of this version or a later one; `None` where it is too short to be either.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let data: &[u8; METADATA_LEN] = data.first_chunk()?;
        if data[0] < VERSION {
            return None;
        }
        Some(Self {
            end: end_reason(data[1]),
            flags: FlowFlags(u16::from_le_bytes([data[2], data[3]])),
            tool: [data[4], data[5], data[6]],
            first: Timestamp::from_nanos(u64_at(data, 8)),
            last: Timestamp::from_nanos(u64_at(data, 16)),
            packets_seen: u32_at(data, 24),
            packets_kept: u32_at(data, 28),
            kernel_drops: u32_at(data, 32),
            tcp_info: None,
        })
    }

    /// Finds the subfields among all those of a gzip member's FEXTRA field; `None` without the one of the metadata.
    pub fn find(extra: &[u8]) -> Option<Self> {
        let metadata = subfield(extra, SUBFIELD_ID).and_then(Self::decode)?;
        Some(Self { tcp_info: FinalTcpInfo::find(extra), ..metadata })
    }
}

/// The data of the first subfield with this identifier; `None` without one, and where those before it are cut.
pub(super) fn subfield(mut extra: &[u8], id: [u8; 2]) -> Option<&[u8]> {
    while let Some((&[si1, si2, len0, len1], rest)) = extra.split_first_chunk() {
        let (data, next) = rest.split_at_checked(u16::from_le_bytes([len0, len1]).into())?;
        if [si1, si2] == id {
            return Some(data);
        }
        extra = next;
    }
    None
}

/// The content of a gzip member's FEXTRA field.
#[derive(Clone, Copy, Debug)]
pub struct ExtraField {
    bytes: [u8; EXTRA_MAX],
    len: usize,
}

impl ExtraField {
    /// Its bytes, without the length that stands before them in the file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, id: [u8; 2], data: &[u8]) {
        for part in [&id[..], &(data.len() as u16).to_le_bytes(), data] {
            self.bytes[self.len..][..part.len()].copy_from_slice(part);
            self.len += part.len();
        }
    }
}

/// Both subfields, each behind its identifier and length.
const EXTRA_MAX: usize = 4 + METADATA_LEN + 4 + TCP_INFO_LEN;

fn end_reason(code: u8) -> Option<EndReason> {
    use EndReason::*;
    [Fin, Reset, Closed, CaptureWindow, Idle, Reused, Shutdown, EndOfInput, Budget, Salvaged]
        .into_iter()
        .find(|&end| end as u8 == code)
}

fn saturate(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn u32_at(data: &[u8; METADATA_LEN], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| data[at + i]))
}

fn u64_at(data: &[u8; METADATA_LEN], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| data[at + i]))
}

const VERSION: u8 = 1;

/// This program's version; a part past 255 does not fit the format and would show as 255.
const TOOL: [u8; 3] =
    [number(env!("CARGO_PKG_VERSION_MAJOR")), number(env!("CARGO_PKG_VERSION_MINOR")), number(env!("CARGO_PKG_VERSION_PATCH"))];

const fn number(digits: &str) -> u8 {
    match u8::from_str_radix(digits, 10) {
        Ok(n) => n,
        Err(_) => u8::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_metadata() -> impl Strategy<Value = Metadata> {
        (0u8..=12, any::<u16>(), any::<[u8; 3]>(), any::<[u64; 2]>(), any::<[u32; 3]>()).prop_map(
            |(end, flags, tool, [first, last], [packets_seen, packets_kept, kernel_drops])| Metadata {
                end: end_reason(end),
                flags: FlowFlags(flags),
                tool,
                first: Timestamp::from_nanos(first),
                last: Timestamp::from_nanos(last),
                packets_seen,
                packets_kept,
                kernel_drops,
                tcp_info: None,
            },
        )
    }

    proptest! {
        #[test]
        fn metadata_reads_back(m in some_metadata()) {
            prop_assert_eq!(Metadata::decode(&m.encode()), Some(m));
        }

        #[test]
        fn a_later_longer_version_is_read_by_its_prefix(m in some_metadata(), version in 2u8.., more in any::<[u8; 9]>()) {
            let mut data = [&m.encode()[..], &more].concat();
            data[0] = version;
            prop_assert_eq!(Metadata::decode(&data), Some(m));
        }

        #[test]
        fn any_extra_field_is_searched_without_panic(extra in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Metadata::find(&extra);
        }
    }

    #[test]
    fn every_end_reason_has_its_number() {
        for code in 1..=10 {
            assert_eq!(end_reason(code).map(|end| end as u8), Some(code));
        }
        assert_eq!((end_reason(0), end_reason(11)), (None, None));
    }

    #[test]
    fn the_subfield_is_found_behind_others() {
        let mut extra = b"XY\x03\x00abcFA\x24\x00".to_vec();
        extra.extend(Metadata::UNFINISHED.encode());
        assert_eq!(Metadata::find(&extra), Some(Metadata::UNFINISHED));
        assert_eq!(Metadata::find(&extra[..20]), None);
    }

    #[test]
    fn counts_stay_at_the_maximum() {
        assert_eq!((saturate(u64::from(u32::MAX)), saturate(u64::from(u32::MAX) + 1)), (u32::MAX, u32::MAX));
    }
}
