//! What a shard asks of the archive.

use crate::capture::LinkType;
use crate::flow::outcome::{EndReason, FlowFlags, FlowSerial};
use crate::flow::segment::Records;
use crate::identity::kernel::LastWord;
use crate::key::{FlowKey, Name};
use crate::time::Timestamp;
use std::sync::Arc;

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

impl ArchiveOp {
    /// The flow that it is about.
    pub fn flow(&self) -> FlowSerial {
        match self {
            Self::Segment { flow, .. } | Self::Finish { flow, .. } | Self::Discard { flow } => *flow,
        }
    }
}

/// What a shard asks of capture, where a shunt can drop packets that would only be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShuntOp {
    /// Nothing of this connection is kept any more: its packets need not come, but for SYN, FIN and RST.
    Drop(FlowKey),
    /// The connection is forgotten: what comes belongs to another.
    Pass(FlowKey),
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
    /// The kernel's last word on the connection, where it was told in time: on the end that the first name is of, if both
    /// ends are sockets of this host.
    pub last_word: Option<Arc<LastWord>>,
}
