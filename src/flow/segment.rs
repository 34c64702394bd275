//! Runs of a flow's scrubbed packets, as pcap records.

use crate::flow::ledger::Charge;

/// Whole pcap records with nanosecond timestamps, little-endian, one after the other: 16 bytes (seconds, nanoseconds,
/// captured length, wire length; all u32) and the captured bytes. What a pcap file holds after its file header.
#[derive(Debug)]
pub struct Records {
    /// The records.
    pub bytes: Vec<u8>,
    /// Their place on the ledger.
    pub charge: Charge,
}

/// Raw bytes at which a segment is full and leaves for a writer.
pub const SEGMENT_LEN: usize = 64 * 1024;

/// Bytes of a record's header.
pub const RECORD_HEADER_LEN: usize = 16;
