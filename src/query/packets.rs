//! The packets of a flow as rows: what exports have beside the flows.

use crate::analysis::{Analyzer, Cause, Role};
use crate::archive::catalogue::Row;
use crate::archive::catalogue::columns::{Micros, table};
use crate::archive::file::ArchiveFile;
use crate::archive::pcap;
use crate::packet::{IpVersion, Packet, Transport, parse};
use std::net::{IpAddr, SocketAddr};

table! {
    /// One packet.
    pub struct PacketRow {
        /// The flow's UUID.
        uuid: String,
        /// Its number in the file, from 0.
        number: i64,
        /// When it was captured.
        time: Micros,
        /// The same in nanoseconds since 1970-01-01 UTC.
        time_ns: i64,
        /// Whether the client sent it, which is the flow's row's client.
        from_client: bool,
        /// Bytes on the wire, link header included.
        wire_bytes: i64,
        /// Bytes of headers in the file.
        header_bytes: i64,
        /// Bytes of TCP payload on the wire; missing for fragments.
        payload_bytes: Option<i64>,
        /// Sequence number; missing, as all fields of TCP, for later fragments and what cannot be parsed.
        seq: Option<i64>,
        /// Acknowledgement number, where ACK is set.
        ack: Option<i64>,
        /// TCP flags, one letter each: C E U A P R S F.
        flags: Option<String>,
        /// The window that it announces, scaled, in bytes.
        window_bytes: Option<i64>,
        /// What it is to its direction: empty, new, out_of_order, fast_retransmit, timeout_retransmit, spurious_retransmit, unknown_retransmit, keep_alive or window_probe.
        role: Option<String>,
        /// Where its payload begins in its sender's stream, from the first sequence number seen.
        stream_offset: Option<i64>,
        /// Whether it is a duplicate acknowledgement.
        duplicate_ack: Option<bool>,
        /// The round-trip time to its sender that it completes, in milliseconds.
        rtt_ms: Option<f64>,
        /// What its sender had sent and not got acknowledged then, in bytes.
        in_flight_bytes: Option<i64>,
        /// Time to live, or hop limit.
        ttl: Option<u16>,
        /// The two bits of explicit congestion notification.
        ecn: Option<u16>,
    }
}

/// Gives the packets of a flow to `sink`, in the file's order.
pub fn packets(row: &Row, file: &ArchiveFile, sink: &mut dyn FnMut(PacketRow)) {
    let client = row.client_addr.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, row.client_port));
    let mut analyzer = Analyzer::new(file.link);
    for (number, record) in pcap::records(&file.records).enumerate() {
        let (ts, data) = (record.ts(), record.data());
        let seen = analyzer.handle_packet(ts, record.wire_len(), data);
        let mut packet = PacketRow {
            uuid: row.uuid.clone(),
            number: number as i64,
            time: ts.into(),
            time_ns: i64::try_from(ts.as_nanos()).unwrap_or(i64::MAX),
            wire_bytes: record.wire_len().into(),
            header_bytes: data.len() as i64,
            ..PacketRow::default()
        };
        if let Ok(parsed) = parse(file.link, data) {
            describe(&mut packet, &parsed, data, client);
        }
        if let Some(seen) = seen {
            packet.window_bytes = Some(whole(seen.window));
            packet.role = Some(role(seen.role).to_owned());
            packet.stream_offset = Some(whole(seen.start));
            packet.duplicate_ack = Some(seen.duplicate_ack);
            packet.rtt_ms = seen.rtt_ns.map(|ns| ns as f64 / 1e6);
            packet.in_flight_bytes = Some(whole(seen.in_flight));
        }
        sink(packet);
    }
}

fn describe(row: &mut PacketRow, packet: &Packet, data: &[u8], client: Option<SocketAddr>) {
    let ip = &data[packet.link_len..];
    let be16 = |bytes: &[u8], at: usize| bytes.get(at..).and_then(|b| b.first_chunk()).map(|b| u16::from_be_bytes(*b));
    let at = |n: usize| ip.get(n).copied().map(u16::from);
    let ip_end = match packet.ip {
        IpVersion::V4 => {
            (row.ttl, row.ecn) = (at(8), at(1).map(|b| b & 3));
            be16(ip, 2).map(usize::from)
        }
        IpVersion::V6 => {
            (row.ttl, row.ecn) = (at(7), at(1).map(|b| b >> 4 & 3));
            be16(ip, 4).map(|n| usize::from(n) + 40)
        }
    };
    row.from_client = match packet.endpoints() {
        Some((src, _)) => client == Some(SocketAddr::new(src.addr.into(), src.port)),
        None => client.map(|c| c.ip()) == Some(packet.src.into()),
    };
    let Transport::Tcp { tcp, first_fragment } = packet.transport else { return };
    row.seq = Some(tcp.seq.into());
    row.ack = tcp.has(crate::packet::Tcp::ACK).then(|| tcp.ack.into());
    row.flags = Some((0..8).rev().filter(|bit| tcp.flags & 1 << bit != 0).map(|bit| char::from(FLAGS[bit])).collect());
    if first_fragment.is_none() {
        let header = ip.get(packet.ip_len + 12).map(|b| usize::from(b >> 4) * 4);
        // A length of zero is that of a packet that segmentation offload left to the card: the wire's length tells.
        let end = match ip_end {
            Some(0) => usize::try_from(row.wire_bytes).ok().map(|n| n.saturating_sub(packet.link_len)),
            end => end,
        };
        row.payload_bytes = end.zip(header).map(|(end, header)| end.saturating_sub(packet.ip_len + header) as i64);
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Empty => "empty",
        Role::New => "new",
        Role::OutOfOrder => "out_of_order",
        Role::Retransmission(Cause::Fast) => "fast_retransmit",
        Role::Retransmission(Cause::Timeout) => "timeout_retransmit",
        Role::Retransmission(Cause::Spurious) => "spurious_retransmit",
        Role::Retransmission(Cause::Unknown) => "unknown_retransmit",
        Role::KeepAlive => "keep_alive",
        Role::WindowProbe => "window_probe",
    }
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// By the bit's number, from FIN up.
const FLAGS: [u8; 8] = *b"FSRPAUEC";
