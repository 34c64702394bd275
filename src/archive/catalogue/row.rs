//! What the catalogue says of a flow, computed from its file alone: a row is the same whether the daemon or a rebuild made it.

use super::columns::{Micros, table};
use crate::analysis::{Analyzer, Close, EndSummary, Handshake, Party, TcpSummary};
use crate::archive::gzip;
use crate::archive::metadata::Metadata;
use crate::capture::file::{FileError, FileSource};
use crate::capture::{LinkType, PacketSource, Progress};
use crate::shard::{EndReason, FlowFlags};
use crate::time::Timestamp;
use std::fs::File;
use std::io::{self, Cursor, Read};

table! {
    /// One flow.
    pub struct Row {
        /// The connection's UUID: the file's name without its suffix.
        uuid: String,
        /// Time of the first packet.
        start: Micros,
        /// Time of the last packet that was kept.
        end: Micros,
        /// From start to end, in seconds.
        duration_s: f64,
        /// Address of the end that opened the connection, as archived (masked where the archive is).
        client_addr: String,
        /// Its TCP port.
        client_port: u16,
        /// Address of the other end, as archived.
        server_addr: String,
        /// Its TCP port.
        server_port: u16,
        /// 4 or 6.
        ip_version: u16,
        /// Whether a SYN told who is the client; if not, the end that sent the first packet counts as it.
        client_known: bool,
        /// Packets in the file that the client sent.
        client_packets: i64,
        /// Bytes of the client's packets on the wire, link header included.
        client_bytes: i64,
        /// TCP payload that the client sent, repetitions included.
        client_payload_bytes: i64,
        /// TCP payload that the client sent, without repetitions.
        client_unique_bytes: i64,
        /// Bytes that the client sent, since the other end acknowledged them, and that are not among the packets.
        client_unseen_bytes: i64,
        /// Packets with payload from the client.
        client_data_packets: i64,
        /// Packets from the client that the network card or the kernel joined of several (GRO, GSO, TSO).
        client_super_packets: i64,
        /// Packets in which the client repeats what it sent before.
        client_retransmitted_packets: i64,
        /// Payload bytes in them that were sent before.
        client_retransmitted_bytes: i64,
        /// Those that answer duplicate acknowledgements or SACK.
        client_fast_retransmits: i64,
        /// Those that follow a silence.
        client_timeout_retransmits: i64,
        /// Those whose every byte had been acknowledged already.
        client_spurious_retransmits: i64,
        /// Packets from the client whose order the network changed.
        client_out_of_order_packets: i64,
        /// Duplicate acknowledgements from the client.
        client_duplicate_acks: i64,
        /// D-SACKs from the client: it received something twice.
        client_dsacks: i64,
        /// Packets in which the client announces a window of zero.
        client_zero_windows: i64,
        /// The largest window that the client announced.
        client_window_max_bytes: i64,
        /// The most that the client had sent and that was not acknowledged, seen from the capture point.
        client_in_flight_max_bytes: i64,
        /// Packets from the client that the network marked with congestion experienced.
        client_ce_packets: i64,
        /// Unique payload of the client per second while it sent.
        client_goodput_bits_per_s: Option<i64>,
        /// Maximum segment size that the client's SYN offered.
        client_mss: Option<u16>,
        /// Window scale shift that the client's SYN offered.
        client_window_scale: Option<u16>,
        /// Round-trip times measured between capture point and client, by acknowledgements of data sent once.
        client_rtt_samples: i64,
        /// The least of them, in milliseconds.
        client_rtt_min_ms: Option<f64>,
        /// The median of them, in milliseconds.
        client_rtt_median_ms: Option<f64>,
        /// The 95th percentile of them, in milliseconds.
        client_rtt_p95_ms: Option<f64>,
        /// Packets in the file that the server sent.
        server_packets: i64,
        /// Bytes of the server's packets on the wire, link header included.
        server_bytes: i64,
        /// TCP payload that the server sent, repetitions included.
        server_payload_bytes: i64,
        /// TCP payload that the server sent, without repetitions.
        server_unique_bytes: i64,
        /// Bytes that the server sent, since the other end acknowledged them, and that are not among the packets.
        server_unseen_bytes: i64,
        /// Packets with payload from the server.
        server_data_packets: i64,
        /// Packets from the server that the network card or the kernel joined of several (GRO, GSO, TSO).
        server_super_packets: i64,
        /// Packets in which the server repeats what it sent before.
        server_retransmitted_packets: i64,
        /// Payload bytes in them that were sent before.
        server_retransmitted_bytes: i64,
        /// Those that answer duplicate acknowledgements or SACK.
        server_fast_retransmits: i64,
        /// Those that follow a silence.
        server_timeout_retransmits: i64,
        /// Those whose every byte had been acknowledged already.
        server_spurious_retransmits: i64,
        /// Packets from the server whose order the network changed.
        server_out_of_order_packets: i64,
        /// Duplicate acknowledgements from the server.
        server_duplicate_acks: i64,
        /// D-SACKs from the server: it received something twice.
        server_dsacks: i64,
        /// Packets in which the server announces a window of zero.
        server_zero_windows: i64,
        /// The largest window that the server announced.
        server_window_max_bytes: i64,
        /// The most that the server had sent and that was not acknowledged, seen from the capture point.
        server_in_flight_max_bytes: i64,
        /// Packets from the server that the network marked with congestion experienced.
        server_ce_packets: i64,
        /// Unique payload of the server per second while it sent.
        server_goodput_bits_per_s: Option<i64>,
        /// Maximum segment size that the server's SYN offered.
        server_mss: Option<u16>,
        /// Window scale shift that the server's SYN offered.
        server_window_scale: Option<u16>,
        /// Round-trip times measured between capture point and server, by acknowledgements of data sent once.
        server_rtt_samples: i64,
        /// The least of them, in milliseconds.
        server_rtt_min_ms: Option<f64>,
        /// The median of them, in milliseconds.
        server_rtt_median_ms: Option<f64>,
        /// The 95th percentile of them, in milliseconds.
        server_rtt_p95_ms: Option<f64>,
        /// Retransmitted packets of both ends among their packets with payload.
        retransmission_rate: f64,
        /// From the SYN to the ACK that ends the handshake, in milliseconds, if none of the three was sent twice.
        handshake_rtt_ms: Option<f64>,
        /// The longest time between two packets in succession, in seconds.
        longest_idle_s: f64,
        /// How TCP ended, as far as was seen: open, half_closed, fin or reset; missing where no packet could be read.
        close: Option<String>,
        /// Who sent the first FIN or RST: client or server.
        closed_by: Option<String>,
        /// Of the kernel's last word on the capturing host's socket (missing where it was not asked): smoothed round-trip time, in milliseconds; missing if it was never measured.
        tcp_info_rtt_ms: Option<f64>,
        /// Its mean deviation, in milliseconds.
        tcp_info_rttvar_ms: Option<f64>,
        /// Smallest round-trip time of the last minutes, in milliseconds.
        tcp_info_min_rtt_ms: Option<f64>,
        /// Segment size for sending, in bytes.
        tcp_info_snd_mss: Option<u32>,
        /// Congestion window, in segments.
        tcp_info_snd_cwnd: Option<u32>,
        /// Segments that the socket retransmitted.
        tcp_info_total_retrans: Option<u32>,
        /// Segments that it sent.
        tcp_info_segs_out: Option<u32>,
        /// Segments that it received.
        tcp_info_segs_in: Option<u32>,
        /// Segments with data that it sent.
        tcp_info_data_segs_out: Option<u32>,
        /// Segments with data that it received.
        tcp_info_data_segs_in: Option<u32>,
        /// Duplicate segments that the other end reported.
        tcp_info_dsack_dups: Option<u32>,
        /// Reordering events.
        tcp_info_reord_seen: Option<u32>,
        /// Segments that it received out of order.
        tcp_info_rcv_ooopack: Option<u32>,
        /// Bytes that it sent and that were acknowledged; its FIN counts one, and its SYN if it connected.
        tcp_info_bytes_acked: Option<i64>,
        /// Bytes that it received in order; the FIN counts one.
        tcp_info_bytes_received: Option<i64>,
        /// Bytes of data that it retransmitted.
        tcp_info_bytes_retrans: Option<i64>,
        /// The newest measure of delivery, in bytes a second.
        tcp_info_delivery_rate: Option<i64>,
        /// Time with data to send, in milliseconds.
        tcp_info_busy_ms: Option<f64>,
        /// The part of it that the other end's window limited.
        tcp_info_rwnd_limited_ms: Option<f64>,
        /// The part of it that the send buffer limited.
        tcp_info_sndbuf_limited_ms: Option<f64>,
        /// Why the capture ended: unfinished, fin, reset, closed, capture_window, idle, reused, shutdown, end_of_input, budget or salvaged.
        end_reason: String,
        /// Whether the file tells the whole connection: handshake and end seen, nothing dropped, late or cut, no acknowledged byte missing.
        complete: bool,
        /// Packets that were captured while the connection was open; those that are not kept are missing from the file.
        packets_seen: i64,
        /// Packets in the file.
        packets_kept: i64,
        /// Frames that the kernel dropped meanwhile, of any connection: an upper bound for this one.
        kernel_drops: i64,
        /// Whether at least one address was masked.
        anonymized: bool,
        /// Whether those were replaced one to one by a key (Crypto-PAn) instead of cut.
        replaced: bool,
        /// Whether hardware addresses, IP identifications, TCP timestamps or TCP checksums were zeroed.
        scrubbed: bool,
        /// Whether the capture began within the connection.
        midstream: bool,
        /// Whether the three-way handshake was seen whole.
        handshake: bool,
        /// Whether packets were dropped for want of memory or disk, or the file is cut.
        truncated: bool,
        /// Whether the UUID came late, so that packets are missing.
        late_uuid: bool,
        /// Whether packets were captured out of time order; the file is sorted.
        sorted: bool,
        /// Whether duplicates from other interfaces were removed.
        deduplicated: bool,
        /// Whether two files of this name were merged.
        merged: bool,
        /// Whether both ends are sockets of the capturing host: another row has the other name.
        both_local: bool,
        /// The LINKTYPE_ number of the file's packets; 1 is Ethernet.
        link_type: u32,
        /// Version of the program that wrote the file; missing where it was not flowarc.
        tool: Option<String>,
        /// The file, relative to the archive's folder.
        file: String,
        /// Its size in bytes.
        file_bytes: i64,
    }
}

impl Row {
    /// The row of an open file; `path` is its place relative to the archive. Reads it as a stream, whatever its length.
    ///
    /// # Errors
    /// Fails where the file cannot be read, or is neither of the archive format nor a capture file.
    pub fn read(path: &str, mut file: File) -> Result<Self, RowError> {
        let len = file.metadata()?.len();
        let mut start = Vec::new();
        Read::by_ref(&mut file).take(READ_AT_ONCE).read_to_end(&mut start)?;
        if (start.len() as u64) < READ_AT_ONCE {
            return Self::of_bytes(path, start);
        }
        let metadata = gzip::metadata(&start);
        Self::of_stream(path, len, metadata, Box::new(Cursor::new(start).chain(file)))
    }

    /// The row of a file's bytes.
    ///
    /// # Errors
    /// Fails where they are neither of the archive format nor a capture file.
    pub fn of_bytes(path: &str, bytes: Vec<u8>) -> Result<Self, RowError> {
        let metadata = gzip::metadata(&bytes);
        Self::of_stream(path, bytes.len() as u64, metadata, Box::new(Cursor::new(bytes)))
    }

    fn of_stream(path: &str, len: u64, stated: Option<Metadata>, reader: Box<dyn Read + Send>) -> Result<Self, RowError> {
        let mut source = FileSource::from_reader(path.to_owned(), reader)?;
        let mut analysis: Option<(LinkType, Analyzer)> = None;
        let whole = loop {
            let batch = source.next_batch(&mut |frame| {
                let (_, analyzer) = analysis.get_or_insert_with(|| (frame.link, Analyzer::new(frame.link)));
                analyzer.handle_packet(frame.ts, frame.wire_len, frame.data);
            });
            match batch {
                Ok(Progress::Ended) => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        let link = analysis.as_ref().map_or(LinkType::Ethernet, |(link, _)| *link);
        let tcp = analysis.and_then(|(_, analyzer)| analyzer.finish());
        Ok(Self::new(Source { path, len, link, whole }, stated, tcp.as_ref()))
    }

    fn new(source: Source<'_>, stated: Option<Metadata>, tcp: Option<&TcpSummary>) -> Self {
        let packets = u32::try_from(tcp.map_or(0, |t| t.packets)).unwrap_or(u32::MAX);
        // A file that was never finished says nothing of its packets.
        let metadata = stated.filter(|m| m.last > Timestamp::ZERO).unwrap_or_else(|| Metadata {
            first: Timestamp::from_nanos(tcp.map_or(0, |t| t.first_ns)),
            last: Timestamp::from_nanos(tcp.map_or(0, |t| t.last_ns)),
            packets_seen: packets,
            packets_kept: packets,
            ..stated.unwrap_or(Metadata::UNFINISHED)
        });
        let flags = metadata.flags;
        let info = metadata.tcp_info.as_ref();
        let [client, server] = [tcp.map(|t| &t.client), tcp.map(|t| &t.server)];
        let truncated = flags.has(FlowFlags::TRUNCATED) || !source.whole;
        let handshake = flags.has(FlowFlags::HANDSHAKE) || tcp.is_some_and(|t| t.handshake == Handshake::Complete);
        let over = matches!(metadata.end, Some(EndReason::Fin | EndReason::Reset | EndReason::Closed));
        let complete = over
            && handshake
            && !truncated
            && !flags.has(FlowFlags::LATE_UUID)
            && metadata.kernel_drops == 0
            && metadata.packets_seen == metadata.packets_kept
            && tcp.is_some_and(|t| t.ends().iter().all(|(_, end)| end.unseen_bytes == 0));
        let both = |figure: fn(&EndSummary) -> u64| tcp.map_or(0, |t| figure(&t.client) + figure(&t.server)) as f64;
        let retransmitted = both(|e| e.retransmitted_packets);
        Self {
            uuid: uuid_of(source.path).to_owned(),
            start: metadata.first.into(),
            end: metadata.last.into(),
            duration_s: metadata.last.since(metadata.first).as_secs_f64(),
            client_addr: client.map_or_else(String::new, |e| e.endpoint.ip().to_string()),
            client_port: client.map_or(0, |e| e.endpoint.port()),
            server_addr: server.map_or_else(String::new, |e| e.endpoint.ip().to_string()),
            server_port: server.map_or(0, |e| e.endpoint.port()),
            ip_version: client.map_or(0, |e| if e.endpoint.is_ipv4() { 4 } else { 6 }),
            client_known: tcp.is_some_and(|t| t.handshake != Handshake::None),
            client_packets: count(client.map(|e| e.packets)),
            client_bytes: count(client.map(|e| e.wire_bytes)),
            client_payload_bytes: count(client.map(|e| e.payload_bytes)),
            client_unique_bytes: count(client.map(|e| e.unique_bytes)),
            client_unseen_bytes: count(client.map(|e| e.unseen_bytes)),
            client_data_packets: count(client.map(|e| e.data_packets)),
            client_super_packets: count(client.map(|e| e.super_packets)),
            client_retransmitted_packets: count(client.map(|e| e.retransmitted_packets)),
            client_retransmitted_bytes: count(client.map(|e| e.retransmitted_bytes)),
            client_fast_retransmits: count(client.map(|e| e.fast_retransmits)),
            client_timeout_retransmits: count(client.map(|e| e.timeout_retransmits)),
            client_spurious_retransmits: count(client.map(|e| e.spurious_retransmits)),
            client_out_of_order_packets: count(client.map(|e| e.out_of_order_packets)),
            client_duplicate_acks: count(client.map(|e| e.duplicate_acks)),
            client_dsacks: count(client.map(|e| e.dsacks)),
            client_zero_windows: count(client.map(|e| e.zero_windows)),
            client_window_max_bytes: count(client.map(|e| e.window_max_bytes)),
            client_in_flight_max_bytes: count(client.map(|e| e.in_flight_max_bytes)),
            client_ce_packets: count(client.map(|e| e.ce_packets)),
            client_goodput_bits_per_s: client.and_then(|e| e.goodput_bits_per_s).map(whole),
            client_mss: client.and_then(|e| e.syn?.mss),
            client_window_scale: client.and_then(|e| e.syn?.window_scale).map(u16::from),
            client_rtt_samples: count(client.map(|e| e.rtt.samples)),
            client_rtt_min_ms: client.and_then(|e| e.rtt.min_ns).map(milliseconds),
            client_rtt_median_ms: client.and_then(|e| e.rtt.median_ns).map(milliseconds),
            client_rtt_p95_ms: client.and_then(|e| e.rtt.p95_ns).map(milliseconds),
            server_packets: count(server.map(|e| e.packets)),
            server_bytes: count(server.map(|e| e.wire_bytes)),
            server_payload_bytes: count(server.map(|e| e.payload_bytes)),
            server_unique_bytes: count(server.map(|e| e.unique_bytes)),
            server_unseen_bytes: count(server.map(|e| e.unseen_bytes)),
            server_data_packets: count(server.map(|e| e.data_packets)),
            server_super_packets: count(server.map(|e| e.super_packets)),
            server_retransmitted_packets: count(server.map(|e| e.retransmitted_packets)),
            server_retransmitted_bytes: count(server.map(|e| e.retransmitted_bytes)),
            server_fast_retransmits: count(server.map(|e| e.fast_retransmits)),
            server_timeout_retransmits: count(server.map(|e| e.timeout_retransmits)),
            server_spurious_retransmits: count(server.map(|e| e.spurious_retransmits)),
            server_out_of_order_packets: count(server.map(|e| e.out_of_order_packets)),
            server_duplicate_acks: count(server.map(|e| e.duplicate_acks)),
            server_dsacks: count(server.map(|e| e.dsacks)),
            server_zero_windows: count(server.map(|e| e.zero_windows)),
            server_window_max_bytes: count(server.map(|e| e.window_max_bytes)),
            server_in_flight_max_bytes: count(server.map(|e| e.in_flight_max_bytes)),
            server_ce_packets: count(server.map(|e| e.ce_packets)),
            server_goodput_bits_per_s: server.and_then(|e| e.goodput_bits_per_s).map(whole),
            server_mss: server.and_then(|e| e.syn?.mss),
            server_window_scale: server.and_then(|e| e.syn?.window_scale).map(u16::from),
            server_rtt_samples: count(server.map(|e| e.rtt.samples)),
            server_rtt_min_ms: server.and_then(|e| e.rtt.min_ns).map(milliseconds),
            server_rtt_median_ms: server.and_then(|e| e.rtt.median_ns).map(milliseconds),
            server_rtt_p95_ms: server.and_then(|e| e.rtt.p95_ns).map(milliseconds),
            retransmission_rate: retransmitted / both(|e| e.data_packets).max(retransmitted).max(1.0),
            handshake_rtt_ms: tcp.and_then(|t| t.handshake_rtt_ns).map(milliseconds),
            longest_idle_s: tcp.map_or(0.0, |t| t.longest_idle_ns as f64 / 1e9),
            close: tcp.map(|t| close(t.close).to_owned()),
            closed_by: tcp.and_then(|t| t.closed_by).map(|party| party_name(party).to_owned()),
            tcp_info_rtt_ms: info.and_then(|i| (i.rtt > 0).then(|| micros(i.rtt.into()))),
            tcp_info_rttvar_ms: info.and_then(|i| (i.rtt > 0).then(|| micros(i.rttvar.into()))),
            tcp_info_min_rtt_ms: info.and_then(|i| i.min_rtt.map(|n| micros(n.into()))),
            tcp_info_snd_mss: info.map(|i| i.snd_mss),
            tcp_info_snd_cwnd: info.map(|i| i.snd_cwnd),
            tcp_info_total_retrans: info.map(|i| i.total_retrans),
            tcp_info_segs_out: info.map(|i| i.segs_out),
            tcp_info_segs_in: info.map(|i| i.segs_in),
            tcp_info_data_segs_out: info.map(|i| i.data_segs_out),
            tcp_info_data_segs_in: info.map(|i| i.data_segs_in),
            tcp_info_dsack_dups: info.map(|i| i.dsack_dups),
            tcp_info_reord_seen: info.map(|i| i.reord_seen),
            tcp_info_rcv_ooopack: info.map(|i| i.rcv_ooopack),
            tcp_info_bytes_acked: info.map(|i| whole(i.bytes_acked)),
            tcp_info_bytes_received: info.map(|i| whole(i.bytes_received)),
            tcp_info_bytes_retrans: info.map(|i| whole(i.bytes_retrans)),
            tcp_info_delivery_rate: info.map(|i| whole(i.delivery_rate)),
            tcp_info_busy_ms: info.map(|i| micros(i.busy_time)),
            tcp_info_rwnd_limited_ms: info.map(|i| micros(i.rwnd_limited)),
            tcp_info_sndbuf_limited_ms: info.map(|i| micros(i.sndbuf_limited)),
            end_reason: reason(metadata.end).to_owned(),
            complete,
            packets_seen: metadata.packets_seen.into(),
            packets_kept: metadata.packets_kept.into(),
            kernel_drops: metadata.kernel_drops.into(),
            anonymized: flags.has(FlowFlags::ANONYMIZED),
            replaced: flags.has(FlowFlags::REPLACED),
            scrubbed: flags.has(FlowFlags::SCRUBBED),
            midstream: flags.has(FlowFlags::MIDSTREAM) || stated.is_none() && tcp.is_some_and(|t| !t.starts_with_syn),
            handshake,
            truncated,
            late_uuid: flags.has(FlowFlags::LATE_UUID),
            sorted: flags.has(FlowFlags::SORTED),
            deduplicated: flags.has(FlowFlags::DEDUPLICATED),
            merged: flags.has(FlowFlags::MERGED),
            both_local: flags.has(FlowFlags::BOTH_LOCAL),
            link_type: source.link.number().into(),
            tool: stated.map(|Metadata { tool: [major, minor, patch], .. }| format!("{major}.{minor}.{patch}")),
            file: source.path.to_owned(),
            file_bytes: whole(source.len),
        }
    }
}

/// What is known of a file beside its content.
struct Source<'a> {
    path: &'a str,
    len: u64,
    link: LinkType,
    whole: bool,
}

/// Why there is no row of a file.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no capture file.
    #[error(transparent)]
    NotCapture(#[from] FileError),
}

/// The name of a file without folders and without the suffixes of captures.
pub fn uuid_of(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    CAPTURES.iter().find_map(|suffix| name.strip_suffix(suffix)).filter(|rest| !rest.is_empty()).unwrap_or(name)
}

/// Whether a path is one of an archived file, or of a capture file that is read like one.
pub fn is_capture(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    !name.starts_with('.') && CAPTURES.iter().any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
}

/// The word for an end reason.
pub fn reason(end: Option<EndReason>) -> &'static str {
    match end {
        None => "unfinished",
        Some(EndReason::Fin) => "fin",
        Some(EndReason::Reset) => "reset",
        Some(EndReason::Closed) => "closed",
        Some(EndReason::CaptureWindow) => "capture_window",
        Some(EndReason::Idle) => "idle",
        Some(EndReason::Reused) => "reused",
        Some(EndReason::Shutdown) => "shutdown",
        Some(EndReason::EndOfInput) => "end_of_input",
        Some(EndReason::Budget) => "budget",
        Some(EndReason::Salvaged) => "salvaged",
    }
}

fn close(close: Close) -> &'static str {
    match close {
        Close::Open => "open",
        Close::HalfClosed => "half_closed",
        Close::Fin => "fin",
        Close::Reset => "reset",
    }
}

fn party_name(party: Party) -> &'static str {
    match party {
        Party::Client => "client",
        Party::Server => "server",
    }
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn count(n: Option<u64>) -> i64 {
    n.map_or(0, whole)
}

fn micros(micros: u64) -> f64 {
    micros as f64 / 1e3
}

fn milliseconds(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// Larger files are read as a stream.
const READ_AT_ONCE: u64 = 1 << 20;

/// What the names of files that are read end in.
const CAPTURES: [&str; 5] = [".pcap.gz", ".pcap", ".pcapng.gz", ".pcapng", ".cap"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_other_files() {
        for (path, uuid, capture) in [
            ("2026/11/21/host_1_0F.pcap.gz", "host_1_0F", true),
            ("a.pcapng", "a", true),
            ("2026/11/21/.x.pcap", ".x", false),
            (".pcap.gz", ".pcap.gz", false),
            ("x.json", "x.json", false),
        ] {
            assert_eq!((uuid_of(path), is_capture(path)), (uuid, capture), "{path}");
        }
    }
}
