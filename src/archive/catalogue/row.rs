//! What the catalogue says of a flow, computed from its file alone: a row is the same whether the daemon or a rebuild made it.

use super::columns::{Micros, table};
use crate::archive::gzip;
use crate::archive::metadata::Metadata;
use crate::capture::file::{FileError, FileSource};
use crate::capture::{Frame, LinkType, PacketSource, Progress};
use crate::key::Endpoint;
use crate::packet::{Tcp, Transport, parse};
use crate::shard::{EndReason, FlowFlags};
use crate::time::Timestamp;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::net::IpAddr;

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
        duration: f64,
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
        /// Whether a SYN told who is the client; if not, the end that sent the first packet counts as the client.
        client_known: bool,
        /// Packets in the file that the client sent.
        client_packets: i64,
        /// Packets in the file that the server sent.
        server_packets: i64,
        /// Bytes of the client's packets on the wire, link header included.
        client_bytes: i64,
        /// Bytes of the server's packets on the wire, link header included.
        server_bytes: i64,
        /// Why the capture ended: unfinished, fin, reset, closed, capture_window, idle, reused, shutdown, end_of_input, budget or salvaged.
        end_reason: String,
        /// Whether the file tells the whole connection: handshake and end seen, nothing dropped, nothing late, nothing cut.
        complete: bool,
        /// Packets that were captured while the connection was open; those that are not kept are missing from the file.
        packets_seen: i64,
        /// Packets in the file.
        packets_kept: i64,
        /// Frames that the kernel dropped meanwhile, of any connection: an upper bound for this one.
        kernel_drops: i64,
        /// Whether at least one address was masked.
        anonymized: bool,
        /// Whether hardware addresses, IP identifications or TCP timestamps were zeroed.
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

    fn of_stream(path: &str, len: u64, metadata: Option<Metadata>, reader: Box<dyn Read + Send>) -> Result<Self, RowError> {
        let mut source = FileSource::from_reader(path.to_owned(), reader)?;
        let mut sides = Sides::default();
        let mut seen = Seen { first: Timestamp::MAX, last: Timestamp::ZERO, packets: 0, link: LinkType::Ethernet };
        let whole = loop {
            let batch = source.next_batch(&mut |frame| {
                seen.first = seen.first.min(frame.ts);
                seen.last = seen.last.max(frame.ts);
                seen.packets += 1;
                seen.link = frame.link;
                sides.handle(&frame);
            });
            match batch {
                Ok(Progress::Ended) => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        if seen.packets == 0 {
            seen.first = Timestamp::ZERO;
        }
        Ok(Self::new(path, len, metadata, whole, &seen, &sides))
    }

    fn new(path: &str, len: u64, stated: Option<Metadata>, whole: bool, seen: &Seen, sides: &Sides) -> Self {
        // A file that was never finished says nothing of its packets.
        let metadata = stated.filter(|m| m.last > Timestamp::ZERO).unwrap_or_else(|| Metadata {
            first: seen.first,
            last: seen.last,
            packets_seen: u32::try_from(seen.packets).unwrap_or(u32::MAX),
            packets_kept: u32::try_from(seen.packets).unwrap_or(u32::MAX),
            ..stated.unwrap_or(Metadata::UNFINISHED)
        });
        let flags = metadata.flags;
        let truncated = flags.has(FlowFlags::TRUNCATED) || !whole;
        let over = matches!(metadata.end, Some(EndReason::Fin | EndReason::Reset | EndReason::Closed));
        let complete = over
            && flags.has(FlowFlags::HANDSHAKE)
            && !truncated
            && !flags.has(FlowFlags::LATE_UUID)
            && metadata.kernel_drops == 0
            && metadata.packets_seen == metadata.packets_kept;
        Self {
            uuid: uuid_of(path).to_owned(),
            start: metadata.first.into(),
            end: metadata.last.into(),
            duration: metadata.last.since(metadata.first).as_secs_f64(),
            client_addr: address(sides.client),
            client_port: sides.client.map_or(0, |e| e.port),
            server_addr: address(sides.server),
            server_port: sides.server.map_or(0, |e| e.port),
            ip_version: sides.client.map_or(0, |e| if e.addr.as_v4().is_some() { 4 } else { 6 }),
            client_known: sides.known,
            client_packets: sides.packets[0],
            server_packets: sides.packets[1],
            client_bytes: sides.bytes[0],
            server_bytes: sides.bytes[1],
            end_reason: reason(metadata.end).to_owned(),
            complete,
            packets_seen: metadata.packets_seen.into(),
            packets_kept: metadata.packets_kept.into(),
            kernel_drops: metadata.kernel_drops.into(),
            anonymized: flags.has(FlowFlags::ANONYMIZED),
            scrubbed: flags.has(FlowFlags::SCRUBBED),
            midstream: flags.has(FlowFlags::MIDSTREAM),
            handshake: flags.has(FlowFlags::HANDSHAKE),
            truncated,
            late_uuid: flags.has(FlowFlags::LATE_UUID),
            sorted: flags.has(FlowFlags::SORTED),
            deduplicated: flags.has(FlowFlags::DEDUPLICATED),
            merged: flags.has(FlowFlags::MERGED),
            both_local: flags.has(FlowFlags::BOTH_LOCAL),
            link_type: seen.link.number().into(),
            tool: stated.map(|Metadata { tool: [major, minor, patch], .. }| format!("{major}.{minor}.{patch}")),
            file: path.to_owned(),
            file_bytes: i64::try_from(len).unwrap_or(i64::MAX),
        }
    }
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

/// What the packets themselves say of when.
struct Seen {
    first: Timestamp,
    last: Timestamp,
    packets: u64,
    link: LinkType,
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

/// Who is who, and what each sent: the client first.
#[derive(Default)]
struct Sides {
    client: Option<Endpoint>,
    server: Option<Endpoint>,
    known: bool,
    packets: [i64; 2],
    bytes: [i64; 2],
}

impl Sides {
    fn handle(&mut self, frame: &Frame<'_>) {
        let Ok(packet) = parse(frame.link, frame.data) else { return };
        if let (Some((src, dst)), Transport::Tcp { tcp, .. }) = (packet.endpoints(), packet.transport)
            && !self.known
        {
            let opening = tcp.has(Tcp::SYN);
            if opening || self.client.is_none() {
                let (client, server) = if opening && tcp.has(Tcp::ACK) { (dst, src) } else { (src, dst) };
                if self.client.is_some_and(|before| before != client) {
                    self.packets.reverse();
                    self.bytes.reverse();
                }
                (self.client, self.server, self.known) = (Some(client), Some(server), opening);
            }
        }
        let from_client = match packet.endpoints() {
            Some((src, _)) => Some(src) == self.client,
            None => Some(packet.src) == self.client.map(|e| e.addr),
        };
        let side = usize::from(!from_client);
        self.packets[side] += 1;
        self.bytes[side] += i64::from(frame.wire_len);
    }
}

fn address(end: Option<Endpoint>) -> String {
    end.map_or_else(String::new, |e| IpAddr::from(e.addr).to_string())
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
