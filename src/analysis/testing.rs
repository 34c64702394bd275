//! Conversations for tests: packets of one connection, written as a script.

use super::{Analyzer, Observed, TcpSummary};
use crate::capture::LinkType;
use crate::packet::Tcp;
use crate::time::Timestamp;

/// A segment to send; `Segment::default()` is a pure acknowledgement.
#[derive(Clone, Debug)]
pub(crate) struct Say {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) payload: u32,
    pub(crate) options: Vec<u8>,
    pub(crate) ecn: u8,
}

pub(crate) const SYN: u8 = Tcp::SYN;
pub(crate) const ACK: u8 = Tcp::ACK;
pub(crate) const FIN: u8 = Tcp::FIN;
pub(crate) const RST: u8 = Tcp::RST;

/// A segment with these numbers, payload and flags.
pub(crate) fn say(seq: u32, ack: u32, payload: u32, flags: u8) -> Say {
    Say { seq, ack, flags, window: 1000, payload, options: Vec::new(), ecn: 0 }
}

impl Say {
    pub(crate) fn options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    pub(crate) fn window(self, window: u16) -> Self {
        Self { window, ..self }
    }

    pub(crate) fn ecn(self, ecn: u8) -> Self {
        Self { ecn, ..self }
    }

    /// SACK blocks.
    pub(crate) fn sack(self, blocks: &[(u32, u32)]) -> Self {
        let mut options = vec![1, 1, 5, 2 + 8 * blocks.len() as u8];
        for (from, to) in blocks {
            options.extend(from.to_be_bytes());
            options.extend(to.to_be_bytes());
        }
        self.options(&options)
    }

    /// A timestamp option.
    pub(crate) fn stamps(self, value: u32, echo: u32) -> Self {
        let mut options = vec![1, 1, 8, 10];
        options.extend(value.to_be_bytes());
        options.extend(echo.to_be_bytes());
        self.options(&options)
    }

    /// The header bytes from 192.0.2.1:5000 (0) or 192.0.2.2:80 (1) to the other, and the length on the wire.
    pub(crate) fn bytes(&self, sender: usize) -> (Vec<u8>, u32) {
        let header_len = 20 + self.options.len().next_multiple_of(4);
        let total = 20 + header_len as u32 + self.payload;
        let mut b = vec![0u8; 12];
        b.extend([0x08, 0]);
        let stated = u16::try_from(total).unwrap_or(0);
        b.extend([0x45, self.ecn]);
        b.extend(stated.to_be_bytes());
        b.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        let ends: [[u8; 4]; 2] = [[192, 0, 2, 1], [192, 0, 2, 2]];
        let ports = [5000u16, 80];
        b.extend(ends[sender]);
        b.extend(ends[1 - sender]);
        b.extend(ports[sender].to_be_bytes());
        b.extend(ports[1 - sender].to_be_bytes());
        b.extend(self.seq.to_be_bytes());
        b.extend(self.ack.to_be_bytes());
        b.extend([(header_len as u8 / 4) << 4, self.flags]);
        b.extend(self.window.to_be_bytes());
        b.extend([0; 4]);
        b.extend(&self.options);
        b.resize(34 + header_len, 1);
        (b, 14 + total)
    }
}

/// A conversation on its way through an analyser; times are in milliseconds.
pub(crate) struct Talk {
    analyzer: Analyzer,
}

impl Talk {
    pub(crate) fn new() -> Self {
        Self { analyzer: Analyzer::new(LinkType::Ethernet) }
    }

    pub(crate) fn client(&mut self, millis: u64, say: Say) -> Option<Observed> {
        self.from(0, millis, &say)
    }

    pub(crate) fn server(&mut self, millis: u64, say: Say) -> Option<Observed> {
        self.from(1, millis, &say)
    }

    fn from(&mut self, sender: usize, millis: u64, say: &Say) -> Option<Observed> {
        let (bytes, wire_len) = say.bytes(sender);
        self.analyzer.handle_packet(Timestamp::from_nanos(millis * 1_000_000), wire_len, &bytes)
    }

    /// SYN at 0 ms, SYN-ACK at 30 ms, ACK at 40 ms: 30 ms to the server, 10 ms to the client. Numbers begin at 1000 and 9000.
    pub(crate) fn shake_hands() -> Self {
        let mut talk = Self::new();
        let options = [2, 4, 3, 232, 4, 2, 1, 3, 3, 2];
        talk.client(0, say(999, 0, 0, SYN).options(&options));
        talk.server(30, say(8999, 1000, 0, SYN | ACK).options(&options));
        talk.client(40, say(1000, 9000, 0, ACK));
        talk
    }

    pub(crate) fn end(self) -> TcpSummary {
        self.analyzer.finish().expect("a packet was read")
    }
}
