//! The policy of one thread's share of the flows: what happens to a frame, a UUID, a deadline.
//!
//! No I/O, no clock, no thread: frames, events and time come in by `handle_*` and `advance`; work for the archive goes out
//! by `poll_archive`.

use crate::capture::LinkType;
use crate::flow::segment::Records;
use crate::identity::Name;
use crate::time::Timestamp;

/// A flow's number within the process: never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowSerial(pub u64);

/// Work for an archive writer. All operations of a flow go to one writer, in order.
#[derive(Debug)]
pub enum ArchiveOp {
    /// A full segment of a flow that goes on. In buffered mode it waits in memory, compressed; in stream mode it is
    /// appended to the flow's temporary file as soon as a name is known.
    Segment {
        /// The flow.
        flow: FlowSerial,
        /// The flow's file link type.
        link: LinkType,
        /// The first name, once known.
        name: Option<Name>,
        /// The packets.
        records: Records,
    },
    /// A flow has ended and its file must appear.
    Finish {
        /// The flow.
        flow: FlowSerial,
        /// The packets since the last segment; may be empty.
        records: Records,
        /// What is known of the flow. Its `names` are never empty.
        summary: FlowSummary,
    },
    /// A flow has ended without a name: its segments are dropped.
    Discard {
        /// The flow.
        flow: FlowSerial,
    },
}

/// What the archive says of a flow beside its packets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowSummary {
    /// The file's names: two where both ends are sockets of this host.
    pub names: Vec<Name>,
    /// The file's link type.
    pub link: LinkType,
    /// Why no more packets were kept.
    pub end: EndReason,
    /// The first packet's time.
    pub first: Timestamp,
    /// The last kept packet's time.
    pub last: Timestamp,
    /// Packets of the flow that were captured while it was open.
    pub packets_seen: u64,
    /// Packets in the file.
    pub packets_kept: u64,
    /// Frames that the kernel dropped on the flow's rings while it was open: of any flow, so an upper bound for this one.
    pub kernel_drops: u64,
    /// What to know before trusting the file.
    pub flags: FlowFlags,
}

/// Why a flow's capture ended. The number is the archive format's (docs/FORMAT.md).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum EndReason {
    /// FIN in both directions, acknowledged or not, and the linger after it.
    Fin = 1,
    /// A reset, and the linger after it.
    Reset = 2,
    /// The UUID source said that the socket is gone.
    Closed = 3,
    /// The capture duration was reached; the connection may have gone on.
    CaptureWindow = 4,
    /// No packet for the idle timeout.
    Idle = 5,
    /// Another connection began with the same addresses and ports.
    Reused = 6,
    /// The process was told to stop.
    Shutdown = 7,
    /// The input ended.
    EndOfInput = 8,
    /// The memory budget or the flow limit left no room for the rest.
    Budget = 9,
    /// Found after a crash: ends where the last whole segment did.
    Salvaged = 10,
}

/// Facts about a flow that lower or raise the trust in its file, as bits of the archive format (docs/FORMAT.md).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowFlags(pub u16);

impl FlowFlags {
    /// At least one address was masked.
    pub const ANONYMIZED: u16 = 1 << 0;
    /// The capture did not see the connection's first SYN.
    pub const MIDSTREAM: u16 = 1 << 1;
    /// The three-way handshake was seen whole.
    pub const HANDSHAKE: u16 = 1 << 2;
    /// Packets of this flow were dropped for want of memory.
    pub const TRUNCATED: u16 = 1 << 3;
    /// The name came after the UUID wait: packets in between are missing.
    pub const LATE_UUID: u16 = 1 << 4;
    /// Packets came out of time order; the file is sorted.
    pub const SORTED: u16 = 1 << 5;
    /// Duplicates from other interfaces were removed.
    pub const DEDUPLICATED: u16 = 1 << 6;
    /// Merged with a file of the same name that was there before.
    pub const MERGED: u16 = 1 << 7;
    /// The link layer was replaced by a synthetic Ethernet header.
    pub const SYNTHETIC_LINK: u16 = 1 << 8;
    /// Both ends are sockets of this host: the file has two names.
    pub const BOTH_LOCAL: u16 = 1 << 9;
    /// Hardware addresses, IP ids or TCP timestamps were zeroed.
    pub const SCRUBBED: u16 = 1 << 10;

    /// Sets bits.
    pub fn set(&mut self, bits: u16) {
        self.0 |= bits;
    }

    /// Whether all these bits are set.
    pub fn has(self, bits: u16) -> bool {
        self.0 & bits == bits
    }
}
