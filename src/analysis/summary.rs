//! What an analysis says of a connection: plain values, for people, JSON and tables.

pub use super::rtt::Rtt;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A TCP connection as its headers tell it. docs/ANALYSIS.md defines every figure.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TcpSummary {
    /// Time of the earliest packet, nanoseconds since 1970-01-01 UTC.
    pub first_ns: u64,
    /// Time of the latest packet.
    pub last_ns: u64,
    /// Packets given, those included that could not be read.
    pub packets: u64,
    /// The end that sent the first SYN; where none was seen, that received a SYN-ACK, else that sent the first packet.
    pub client: EndSummary,
    /// The other end.
    pub server: EndSummary,
    /// How much of the three-way handshake was seen.
    pub handshake: Handshake,
    /// From the SYN to the ACK that ends the handshake, if none of the three was sent twice.
    pub handshake_rtt_ns: Option<u64>,
    /// How the connection ended, as far as was seen.
    pub close: Close,
    /// Who sent the first FIN or RST.
    pub closed_by: Option<Party>,
    /// The longest time between two packets in succession.
    pub longest_idle_ns: u64,
    /// Whether the first packet is a SYN.
    pub starts_with_syn: bool,
    /// Packets earlier than one before them.
    pub disordered_packets: u64,
    /// Packets whose TCP header was cut short by the snap length.
    pub cut_packets: u64,
    /// Frames that hold no TCP header that can be read, or one that contradicts the length of its packet, and fragments
    /// that come before every TCP header.
    pub unreadable_packets: u64,
    /// Packets of another connection.
    pub foreign_packets: u64,
    /// Packets with a sequence number more than 1 GiB from all others.
    pub astray_packets: u64,
}

/// What one end of a connection sent, and how far it is from the capture point.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndSummary {
    /// Its address and port, as in the file.
    pub endpoint: SocketAddr,
    /// Packets that it sent.
    pub packets: u64,
    /// Their bytes on the wire, link layer included.
    pub wire_bytes: u64,
    /// Their TCP payload, repetitions included.
    pub payload_bytes: u64,
    /// Payload without repetitions.
    pub unique_bytes: u64,
    /// Packets with payload.
    pub data_packets: u64,
    /// The same as they were on the wire: super-packets (GRO, GSO, TSO) counted by the segments in them.
    pub data_segments: u64,
    /// Packets with more payload than the other end's maximum segment size.
    pub super_packets: u64,
    /// What its SYN or SYN-ACK said, if it was seen.
    pub syn: Option<SynOptions>,
    /// Unique payload per second, from the first packet with payload to the last new one or its acknowledgement.
    pub goodput_bits_per_s: Option<u64>,

    /// Packets that repeat what was sent before, all causes.
    pub retransmitted_packets: u64,
    /// Payload bytes in them that were sent before.
    pub retransmitted_bytes: u64,
    /// Those that answer duplicate acknowledgements or SACK, and the rest of such a recovery.
    pub fast_retransmits: u64,
    /// Those that follow a silence, tail loss probes included, and the rest of such a recovery.
    pub timeout_retransmits: u64,
    /// Those whose every byte had been acknowledged already.
    pub spurious_retransmits: u64,
    /// Those with no cause in sight.
    pub unknown_retransmits: u64,
    /// Packets that came too late and too soon for a retransmission: the network changed their order.
    pub out_of_order_packets: u64,
    /// The most bytes by which such a packet was behind.
    pub reordering_max_bytes: u64,
    /// Acknowledgements that say nothing new while data is outstanding (RFC 5681 section 2).
    pub duplicate_acks: u64,
    /// SACK blocks that it reported, D-SACKs excluded.
    pub sack_blocks: u64,
    /// D-SACKs that it reported (RFC 2883): it received something twice.
    pub dsacks: u64,
    /// Packets that announce a window of zero.
    pub zero_windows: u64,
    /// Probes that it sent into a window of zero.
    pub window_probes: u64,
    /// Keep-alives that it sent.
    pub keep_alives: u64,
    /// The largest window that it announced, in bytes; unscaled where the handshake was not seen.
    pub window_max_bytes: u64,
    /// The most bytes that it had sent and that were not acknowledged, seen from the capture point.
    pub in_flight_max_bytes: u64,

    /// Packets that may be marked by the network (ECT(0), ECT(1); RFC 3168).
    pub ect_packets: u64,
    /// Packets that the network marked (CE).
    pub ce_packets: u64,
    /// Packets with ECE, SYNs excluded.
    pub ece_packets: u64,
    /// Packets with CWR, SYNs excluded.
    pub cwr_packets: u64,
    /// Packets with FIN.
    pub fin_packets: u64,
    /// Packets with RST.
    pub rst_packets: u64,

    /// Capture point to this end and back, within the handshake.
    pub handshake_rtt_ns: Option<u64>,
    /// Capture point to this end and back, by acknowledgements of data sent once (Karn's rule).
    pub rtt: Rtt,
    /// The same by the timestamp option.
    pub rtt_timestamps: Rtt,

    /// Bytes that it sent, since the other end acknowledged them, and that are not among the packets. A SYN or FIN is one.
    pub unseen_bytes: u64,
}

/// What a SYN or SYN-ACK offered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct SynOptions {
    /// Maximum segment size in bytes.
    pub mss: Option<u16>,
    /// Window scale shift.
    pub window_scale: Option<u8>,
    /// SACK permitted.
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: bool,
    /// Fast Open: a cookie, or the request for one.
    pub fast_open: bool,
    /// Payload in the SYN, in bytes.
    pub payload_bytes: u64,
    /// Multipath TCP.
    pub multipath: bool,
    /// ECN: ECE and CWR in a SYN, ECE without CWR in a SYN-ACK.
    pub ecn: bool,
}

/// How much of a handshake was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handshake {
    /// Nothing of it.
    None,
    /// SYNs of the client.
    Syn,
    /// A SYN-ACK, and nothing that acknowledges it.
    SynAck,
    /// All of it.
    Complete,
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Close {
    /// No end was seen.
    Open,
    /// One end sent FIN.
    HalfClosed,
    /// Both ends sent FIN.
    Fin,
    /// An end sent RST before both had sent FIN.
    Reset,
}

/// One of the two ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// The one that opened the connection.
    Client,
    /// The other one.
    Server,
}

impl TcpSummary {
    /// From the first to the last packet, in nanoseconds.
    pub fn duration_ns(&self) -> u64 {
        self.last_ns.saturating_sub(self.first_ns)
    }

    /// Both ends, the client first.
    pub fn ends(&self) -> [(Party, &EndSummary); 2] {
        [(Party::Client, &self.client), (Party::Server, &self.server)]
    }

    /// Whether FINs of both ends or a reset was seen.
    pub fn end_seen(&self) -> bool {
        matches!(self.close, Close::Fin | Close::Reset)
    }
}

impl EndSummary {
    /// Retransmitted among all packets with payload, SYN or FIN; zero where none was sent.
    pub fn retransmission_rate(&self) -> f64 {
        self.retransmitted_packets as f64 / self.data_packets.max(self.retransmitted_packets).max(1) as f64
    }
}
