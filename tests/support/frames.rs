//! Frames of TCP connections, and capture files of them.

use super::MARKER;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// When captures begin: 2026-11-21T12:00:00Z.
pub const NOON: u64 = 1_795_262_400_000_000_000;
pub const SECOND: u64 = 1_000_000_000;
pub const MILLI: u64 = 1_000_000;

/// A segment on its way to become a frame.
#[derive(Clone, Debug)]
pub struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    /// TCP options, padded to whole words.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Segment {
    pub fn new(from: &str, to: &str, flags: u8) -> Self {
        let at = |text: &str| text.parse().expect("an address and a port");
        Self { from: at(from), to: at(to), seq: 1, ack: 1, flags, options: Vec::new(), payload: Vec::new() }
    }

    pub fn seq(self, seq: u32, ack: u32) -> Self {
        Self { seq, ack, ..self }
    }

    pub fn options(self, options: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4) && options.len() <= 40);
        Self { options: options.to_vec(), ..self }
    }

    /// So many bytes of payload, all of them secret.
    pub fn payload(self, len: usize) -> Self {
        Self { payload: MARKER.iter().copied().cycle().take(len).collect(), ..self }
    }

    /// The IP packet, with checksums that are right.
    pub fn packet(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([((20 + self.options.len()) as u8) << 2, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(&self.options);
        tcp.extend(&self.payload);
        let (mut header, pseudo) = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let len = (20 + tcp.len()) as u16;
                let mut header = vec![0x45, 0, (len >> 8) as u8, len as u8, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0];
                header.extend(from.octets());
                header.extend(to.octets());
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                let pseudo = [&header[12..20], &[0, 6], &(tcp.len() as u16).to_be_bytes()].concat();
                (header, pseudo)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut header = vec![0x60, 0, 0, 0, (tcp.len() >> 8) as u8, tcp.len() as u8, 6, 64];
                header.extend(from.octets());
                header.extend(to.octets());
                let pseudo = [&header[8..40], &(tcp.len() as u32).to_be_bytes(), &[0, 0, 0, 6]].concat();
                (header, pseudo)
            }
            _ => panic!("both ends are of one family"),
        };
        let sum = checksum(&[&pseudo[..], &tcp].concat());
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        header.extend(tcp);
        header
    }

    /// The packet on Ethernet, below these VLAN tags.
    pub fn ethernet(&self, vlans: &[u16]) -> Vec<u8> {
        let mut frame = vec![0x02, 0, 0, 0, 0, 0x0a, 0x02, 0, 0, 0, 0, 0x0b];
        for vlan in vlans {
            frame.extend([0x81, 0x00]);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(if self.from.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(self.packet());
        frame
    }

    pub fn reply(&self, flags: u8) -> Self {
        Self { from: self.to, to: self.from, flags, options: Vec::new(), payload: Vec::new(), ..self.clone() }
    }
}

/// The Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Frames with their times, on Ethernet.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    pub frames: Vec<(u64, Vec<u8>)>,
}

impl Capture {
    pub fn push(&mut self, ts: u64, segment: &Segment) {
        self.frames.push((ts, segment.ethernet(&[])));
    }

    /// A whole connection of `6 + 2 * rounds` packets that begins at `ts` and goes on for `rounds` steps.
    pub fn connection(&mut self, ts: u64, client: &str, server: &str, rounds: u32, step: u64) -> &mut Self {
        let open = Segment::new(client, server, SYN).seq(ts as u32, 0);
        let (isn, peer) = (open.seq, open.seq ^ 0x5555_5555);
        let up = |flags, n: u32| open.clone().seq(isn.wrapping_add(1 + 100 * n), peer.wrapping_add(1 + 200 * n)).with(flags);
        let down = |flags, n: u32, m: u32| open.reply(flags).seq(peer.wrapping_add(1 + 200 * n), isn.wrapping_add(1 + 100 * m));
        self.push(ts, &open);
        self.push(ts + 10_000, &open.reply(SYN | ACK).seq(peer, isn.wrapping_add(1)));
        self.push(ts + 20_000, &up(ACK, 0));
        for n in 0..rounds {
            let at = ts + 30_000 + u64::from(n) * step;
            self.push(at, &up(ACK | PSH, n).payload(100));
            self.push(at + 10_000, &down(ACK | PSH, n, n + 1).payload(200));
        }
        let end = ts + 40_000 + u64::from(rounds) * step;
        self.push(end, &up(ACK | FIN, rounds));
        self.push(end + 10_000, &down(ACK | FIN, rounds, rounds).ack_more());
        self.push(end + 20_000, &up(ACK, rounds).seq_more());
        self
    }

    /// The classic pcap file, in nanoseconds, in order of time.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frames: Vec<_> = self.frames.iter().collect();
        frames.sort_by_key(|(ts, _)| *ts);
        let mut out = Vec::new();
        for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 1] {
            out.extend(word.to_le_bytes());
        }
        for (ts, frame) in frames {
            for word in [(ts / SECOND) as u32, (ts % SECOND) as u32, frame.len() as u32, frame.len() as u32] {
                out.extend(word.to_le_bytes());
            }
            out.extend(frame);
        }
        out
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

impl Segment {
    pub fn with(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    fn ack_more(self) -> Self {
        Self { ack: self.ack.wrapping_add(1), ..self }
    }

    fn seq_more(self) -> Self {
        Self { seq: self.seq.wrapping_add(1), ack: self.ack.wrapping_add(1), ..self }
    }
}

/// A time of these captures as tcp-info writes it.
pub fn stamp(ts: u64) -> String {
    let since = ts - (NOON - 12 * 3600 * SECOND);
    let (day, rest) = (21 + since / (86_400 * SECOND), since % (86_400 * SECOND));
    let second = rest / SECOND;
    format!("2026-11-{day:02}T{:02}:{:02}:{:02}.{:09}Z", second / 3600, second / 60 % 60, second % 60, rest % SECOND)
}
