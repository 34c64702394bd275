//! The spool: whole packets of every protocol, with a cutoff per flow, in rotating segments.
//!
//! [`cutoff`] decides what is kept, block collects what is kept into blocks, both without I/O; writer makes segments
//! of blocks in a thread of its own, index says which blocks hold a flow, query reads them back, retention
//! removes the oldest. docs/CAPTURE.md describes the files.

pub mod block;
pub mod cutoff;
pub mod filter;
mod flows;
pub mod format;
pub mod index;
pub mod metrics;
pub mod query;
pub mod recorder;
pub mod report;
pub mod retention;
pub mod segment;
pub mod writer;

use crate::key::{Address, Direction, Endpoint, FlowKey};
use crate::packet::datagram::Datagram;
use std::fmt;

/// The flow key of any protocol: two ends without an order, and the protocol between them.
///
/// Protocols without ports have one flow for each pair of addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// The ends; both nothing where a frame is not IP.
    pub ends: FlowKey,
    /// The IP protocol; [`Tuple::NOT_IP`] where there is none.
    pub protocol: u16,
}

impl Tuple {
    /// The protocol of frames that are not IP.
    pub const NOT_IP: u16 = 0xffff;
    /// Bytes of its encoded form.
    pub const LEN: usize = 38;

    /// The key of a packet and the packet's direction in it.
    pub fn of(d: &Datagram) -> (Self, Direction) {
        let (ends, direction) = FlowKey::new(d.src, d.dst);
        (Self { ends, protocol: d.protocol.into() }, direction)
    }

    /// The key of a TCP connection.
    pub fn tcp(ends: FlowKey) -> Self {
        Self { ends, protocol: 6 }
    }

    /// The key that all frames share that are not IP.
    pub fn not_ip() -> Self {
        let nobody = Endpoint { addr: Address([0; 16]), port: 0 };
        Self { ends: FlowKey::new(nobody, nobody).0, protocol: Self::NOT_IP }
    }

    /// Bytes that sort as keys do: the lower address, its port, the higher address, its port, the protocol.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        for (at, end) in [(0, self.ends.lo()), (18, self.ends.hi())] {
            out[at..at + 16].copy_from_slice(&end.addr.0);
            out[at + 16..at + 18].copy_from_slice(&end.port.to_be_bytes());
        }
        out[36..].copy_from_slice(&self.protocol.to_be_bytes());
        out
    }

    /// Reads what [`Tuple::encode`] wrote; ends in the wrong order are put right.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let end = |at: usize| {
            let mut addr = [0; 16];
            addr.copy_from_slice(&bytes[at..at + 16]);
            Endpoint { addr: Address(addr), port: u16::from_be_bytes([bytes[at + 16], bytes[at + 17]]) }
        };
        Self { ends: FlowKey::new(end(0), end(18)).0, protocol: u16::from_be_bytes([bytes[36], bytes[37]]) }
    }

    /// Whether either end has this address.
    pub fn has_address(&self, address: Address) -> bool {
        self.ends.lo().addr == address || self.ends.hi().addr == address
    }

    /// Whether either end has this port.
    pub fn has_port(&self, port: u16) -> bool {
        self.ends.lo().port == port || self.ends.hi().port == port
    }

    /// `tcp`, `udp`, `icmp`, a number, or `other` for what is not IP.
    pub fn protocol_name(&self) -> String {
        let known = PROTOCOLS.iter().find(|(_, number)| *number == self.protocol);
        known.map_or_else(|| self.protocol.to_string(), |(name, _)| (*name).to_owned())
    }

    /// The number of a protocol by its name or in digits.
    pub fn protocol_number(text: &str) -> Option<u16> {
        let known = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
        known.or_else(|| text.parse::<u8>().ok().map(u16::from))
    }
}

const PROTOCOLS: [(&str, u16); 6] =
    [("icmp", 1), ("tcp", 6), ("udp", 17), ("icmp6", 58), ("sctp", 132), ("other", Tuple::NOT_IP)];

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.protocol_name(), self.ends.lo(), self.ends.hi())
    }
}
