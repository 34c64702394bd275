//! Reads a capture file of any kind and analyses every connection in it.

use crate::analysis::{Analyzer, Observed, Position, TcpSummary};
use crate::archive::metadata::Metadata;
use crate::capture::file::{FileError, FileSource};
use crate::capture::{Frame, PacketSource, Progress};
use crate::key::{Endpoint, FlowKey};
use crate::packet::{FragmentId, Packet, Tcp, Transport, parse};
use crate::time::Timestamp;
use bytes::{Buf, Bytes};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

/// What a capture file holds.
#[derive(Debug)]
pub struct Survey {
    /// Its connections, in the order of their first packets.
    pub flows: Vec<TcpSummary>,
    /// What the file says of its connection, if flowarc wrote it.
    pub metadata: Option<Metadata>,
    /// Why it could not be read to its end.
    pub damage: Option<FileError>,
    /// Frames that are no TCP.
    pub other_frames: u64,
}

/// A packet of a connection for plots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    /// When it was captured.
    pub time: Timestamp,
    /// What it is to the connection.
    pub seen: Observed,
}

/// The packets of one connection.
#[derive(Debug)]
pub struct Series {
    /// In the order of the file.
    pub points: Vec<Point>,
    /// Where each end's sequence space begins, by [`Observed::sender`].
    pub origins: [Position; 2],
    /// Which sender is the client.
    pub client: usize,
}

/// A capture file that can be read more than once.
#[derive(Clone, Debug)]
pub enum Input {
    /// A file of this host; `-` is standard input, which can be read once.
    Path(PathBuf),
    /// One that was read out of an archive.
    Bytes {
        /// What messages call it.
        name: String,
        /// All of it.
        bytes: Bytes,
    },
}

impl Input {
    /// What messages call it.
    pub fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Bytes { name, .. } => name.clone(),
        }
    }

    fn open(&self) -> Result<FileSource, FileError> {
        match self {
            Self::Path(path) => FileSource::open(path),
            Self::Bytes { name, bytes } => FileSource::from_reader(name.clone(), Box::new(bytes.clone().reader())),
        }
    }

    /// Its first bytes, so many at most.
    pub(super) fn head(&self, len: u64) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        match self {
            Self::Path(path) => File::open(path)?.take(len).read_to_end(&mut head)?,
            Self::Bytes { bytes, .. } => bytes.clone().reader().take(len).read_to_end(&mut head)?,
        };
        Ok(head)
    }
}

/// Reads a capture file.
///
/// # Errors
/// Fails where it cannot be opened or is no capture file. Damage later on is part of the answer.
pub fn survey(input: &Input) -> Result<Survey, FileError> {
    let mut connections = Connections::default();
    let mut other_frames = 0;
    let mut analyzers: Vec<Analyzer> = Vec::new();
    let damage = each_frame(input, |frame| match connections.place(&frame) {
        Some(number) => {
            if number == analyzers.len() {
                analyzers.push(Analyzer::new(frame.link));
            }
            analyzers[number].handle_packet(frame.ts, frame.wire_len, frame.data);
        }
        None => other_frames += 1,
    })?;
    let flows = analyzers.into_iter().filter_map(Analyzer::finish).collect();
    Ok(Survey { flows, metadata: metadata(input), damage, other_frames })
}

/// Reads the file again for the packets of one connection, by its place in [`Survey::flows`].
///
/// # Errors
/// As [`survey`].
pub fn series(input: &Input, flow: usize) -> Result<Series, FileError> {
    let mut connections = Connections::default();
    let mut analyzer = None;
    let mut points = Vec::new();
    each_frame(input, |frame| {
        if connections.place(&frame) == Some(flow) {
            let analyzer = analyzer.get_or_insert_with(|| Analyzer::new(frame.link));
            if let Some(seen) = analyzer.handle_packet(frame.ts, frame.wire_len, frame.data) {
                points.push(Point { time: frame.ts, seen });
            }
        }
    })?;
    let mut origins = [Position::MAX; 2];
    for Point { seen, .. } in &points {
        origins[seen.sender] = origins[seen.sender].min(seen.start);
        if let Some(ack) = seen.ack {
            origins[1 - seen.sender] = origins[1 - seen.sender].min(ack);
        }
    }
    Ok(Series { points, origins, client: analyzer.map_or(0, |a| a.client()) })
}

/// Gives every frame of a file to `each`, and returns why reading ended early, if it did.
pub(super) fn each_frame(input: &Input, mut each: impl FnMut(Frame<'_>)) -> Result<Option<FileError>, FileError> {
    let mut source = input.open()?;
    loop {
        match source.next_batch(&mut each) {
            Ok(Progress::Ended) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Ok(Some(error)),
        }
    }
}

/// What the gzip header of a file says of its connection; `None` for files of others.
fn metadata(input: &Input) -> Option<Metadata> {
    let head = input.head(GZIP_FIXED + u64::from(u16::MAX)).ok()?;
    let (fixed, rest) = head.split_first_chunk::<{ GZIP_FIXED as usize }>()?;
    if fixed[..3] != [0x1f, 0x8b, 8] || fixed[3] & 4 == 0 {
        return None;
    }
    Metadata::find(rest.get(..usize::from(u16::from_le_bytes([fixed[10], fixed[11]])))?)
}

/// Tells the connections of a file apart: by addresses and ports, and by sequence number where those come again.
#[derive(Default)]
struct Connections {
    open: HashMap<FlowKey, Incarnation>,
    fragments: HashMap<FragmentId, usize>,
    count: usize,
}

/// The connection that has a 4-tuple now.
struct Incarnation {
    number: usize,
    /// Who sent which SYN first.
    syn: Option<(Endpoint, u32)>,
}

impl Connections {
    /// The number of the connection that a frame belongs to: a new one is the count of those before it.
    fn place(&mut self, frame: &Frame<'_>) -> Option<usize> {
        let packet = parse(frame.link, frame.data).ok()?;
        match packet.transport {
            Transport::Tcp { tcp, first_fragment } => {
                let number = self.place_segment(&packet, &tcp)?;
                if let Some(id) = first_fragment {
                    self.fragments.insert(id, number);
                }
                Some(number)
            }
            Transport::LaterFragment(id) => self.fragments.get(&id).copied(),
        }
    }

    fn place_segment(&mut self, packet: &Packet, tcp: &Tcp) -> Option<usize> {
        let (src, dst) = packet.endpoints()?;
        let syn = match (tcp.has(Tcp::SYN), tcp.has(Tcp::ACK)) {
            (true, false) => Some((src, tcp.seq)),
            // It names the SYN that it answers, which may come later in a file out of order.
            (true, true) => Some((dst, tcp.ack.wrapping_sub(1))),
            _ => None,
        };
        let next = Incarnation { number: self.count, syn };
        let flow = self.open.entry(FlowKey::new(src, dst).0).or_insert(next);
        // A SYN with another number is the next connection of this 4-tuple; one from the other end crosses.
        let reused = match (flow.syn, syn) {
            (Some((by, isn)), Some((again, number))) => by == again && isn != number,
            (None, Some(_)) => flow.number != self.count && !tcp.has(Tcp::ACK),
            _ => false,
        };
        if reused {
            *flow = Incarnation { number: self.count, syn };
        }
        let number = flow.number;
        self.count += usize::from(number == self.count);
        Some(number)
    }
}

/// Of a gzip header with an extra field: up to and with that field's length (RFC 1952 section 2.3).
const GZIP_FIXED: u64 = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{ACK, FIN, SYN, Say, say};
    use crate::capture::LinkType;

    /// The connection that each packet is placed in.
    fn places(packets: &[(usize, Say)]) -> Vec<Option<usize>> {
        let mut connections = Connections::default();
        packets
            .iter()
            .map(|(sender, say)| {
                let (data, wire_len) = say.bytes(*sender);
                let frame = Frame { ts: Timestamp::ZERO, wire_len, link: LinkType::Ethernet, interface: 0, data: &data };
                connections.place(&frame)
            })
            .collect()
    }

    #[test]
    fn a_syn_with_another_number_begins_the_next_connection_and_a_repeated_one_does_not() {
        let syn = |seq| say(seq, 0, 0, SYN);
        let packets =
            [(0, syn(1)), (0, syn(1)), (1, say(9, 2, 0, SYN | ACK)), (0, say(2, 10, 0, FIN | ACK)), (0, syn(7)), (0, syn(7))];
        assert_eq!(places(&packets), [0, 0, 0, 0, 1, 1].map(Some));
    }

    #[test]
    fn a_syn_behind_its_answer_and_crossing_syns_are_one_connection() {
        assert_eq!(places(&[(1, say(9, 2, 0, SYN | ACK)), (0, say(1, 0, 0, SYN))]), [0, 0].map(Some));
        assert_eq!(places(&[(0, say(1, 0, 0, SYN)), (1, say(9, 0, 0, SYN))]), [0, 0].map(Some));
    }

    #[test]
    fn a_connection_met_in_the_middle_ends_where_the_next_begins() {
        let packets =
            [(0, say(500, 600, 9, ACK)), (1, say(600, 509, 0, ACK)), (0, say(1, 0, 0, SYN)), (1, say(9, 2, 0, SYN | ACK))];
        assert_eq!(places(&packets), [0, 0, 1, 1].map(Some));
    }
}
