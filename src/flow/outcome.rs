//! What the archive says of a flow: its number, why it ended, how far to trust it.

/// A flow's number within the process: never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowSerial(pub u64);

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
    /// Hardware addresses, IP ids, TCP timestamps or TCP checksums were zeroed.
    pub const SCRUBBED: u16 = 1 << 10;
    /// Masked addresses were replaced one to one (Crypto-PAn) instead of losing bits.
    pub const REPLACED: u16 = 1 << 11;

    /// Sets bits.
    pub fn set(&mut self, bits: u16) {
        self.0 |= bits;
    }

    /// Whether all these bits are set.
    pub fn has(self, bits: u16) -> bool {
        self.0 & bits == bits
    }
}
