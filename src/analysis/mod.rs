//! What the headers of one connection tell: round-trip times, retransmissions, options, how it ended, what is missing.
//!
//! [`Analyzer`] takes a flow's packets as an archive holds them and gives a [`TcpSummary`]. It is pure: no I/O, no clock.
//! Its memory is bounded whatever the flow's length (220 KiB at most, 2 KiB for short flows), and it allocates
//! nothing per packet. The same code serves the catalogue, `show`, plots and exports; docs/ANALYSIS.md defines the figures.

mod half;
mod options;
mod packet;
mod rtt;
mod sequence;
mod summary;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use self::half::{Cause, Role};
pub use self::sequence::Position;
pub use self::summary::{Close, EndSummary, Handshake, Party, Rtt, SynOptions, TcpSummary};

use self::half::Half;
use self::packet::{Later, Seen, Segment};
use crate::capture::LinkType;
use crate::key::Endpoint;
use crate::time::Timestamp;

/// Analyses the packets of one connection, given in the order of capture.
///
/// Packets out of time order are taken as they come; a negative time measures nothing. Where the first packets are
/// missing, positions begin with the first number that is seen, and what came before it counts neither as seen nor as
/// missing.
#[derive(Clone, Debug)]
pub struct Analyzer {
    link: LinkType,
    /// The senders of the first packet and of the other direction, once one was read.
    ends: Option<[Endpoint; 2]>,
    halves: [Half; 2],
    /// Which of the two is the client, if a SYN said so.
    client: Option<usize>,
    packets: u64,
    first: u64,
    last: u64,
    longest_idle: u64,
    starts_with_syn: bool,
    closed_by: Option<usize>,
    reset: bool,
    disordered: u64,
    cut: u64,
    unreadable: u64,
    foreign: u64,
    astray: u64,
}

/// What the analysis says of one packet: for plots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observed {
    /// Which end sent it: 0 for that of the first packet.
    pub sender: usize,
    /// Where its payload, SYN or FIN begins in its sender's sequence space.
    pub start: Position,
    /// Where that ends; equal to `start` for a pure acknowledgement.
    pub end: Position,
    /// TCP flags, the low eight bits.
    pub flags: u8,
    /// What it is to its direction.
    pub role: Role,
    /// What it acknowledges, in the other direction's sequence space.
    pub ack: Option<Position>,
    /// The window that it announces, in bytes.
    pub window: u64,
    /// Whether it is a duplicate acknowledgement.
    pub duplicate_ack: bool,
    /// SACK blocks in the other direction's sequence space, as many as `sack_blocks` says.
    pub sack: [(Position, Position); 4],
    /// How many of `sack` count.
    pub sack_blocks: usize,
    /// The round-trip time to its sender that it completes, in nanoseconds: by sequence.
    pub rtt_ns: Option<u64>,
    /// The same by timestamps.
    pub rtt_timestamps_ns: Option<u64>,
    /// What its sender has sent and not got acknowledged now, in bytes.
    pub in_flight: u64,
}

impl Analyzer {
    /// An analyser of packets that begin with this link layer.
    pub fn new(link: LinkType) -> Self {
        Self {
            link,
            ends: None,
            halves: Default::default(),
            client: None,
            packets: 0,
            first: u64::MAX,
            last: 0,
            longest_idle: 0,
            starts_with_syn: false,
            closed_by: None,
            reset: false,
            disordered: 0,
            cut: 0,
            unreadable: 0,
            foreign: 0,
            astray: 0,
        }
    }

    /// Takes the next packet: its time, its bytes on the wire, and what was kept of it. Returns what it is to the
    /// connection, or `None` where that cannot be said.
    pub fn handle_packet(&mut self, time: Timestamp, wire_len: u32, bytes: &[u8]) -> Option<Observed> {
        let now = time.as_nanos();
        self.keep_time(now);
        match packet::read(self.link, wire_len, bytes) {
            Some(Seen::Segment(segment)) => self.segment(now, &segment),
            Some(Seen::Later(later)) => self.later_fragment(now, &later),
            None => {
                self.unreadable += 1;
                None
            }
        }
    }

    /// What the packets so far tell; `None` if none could be read.
    pub fn finish(self) -> Option<TcpSummary> {
        let ends = self.ends?;
        let client = self.client.unwrap_or(0);
        let party = |index| if index == client { Party::Client } else { Party::Server };
        let handshake = self.handshake(client);
        let handshake_rtt = |index: usize| self.halves[index].handshake_rtt;
        let total = handshake_rtt(0).zip(handshake_rtt(1)).map(|(a, b)| a + b);
        let fins = self.halves.iter().filter(|half| half.counts.fin_packets > 0).count();
        let close = match (self.reset, fins) {
            (true, _) => Close::Reset,
            (false, 2) => Close::Fin,
            (false, 1) => Close::HalfClosed,
            (false, _) => Close::Open,
        };
        let [first, second] = self.halves;
        let mut summaries = [first.finish(ends[0]), second.finish(ends[1])];
        if client == 1 {
            summaries.swap(0, 1);
        }
        let [client, server] = summaries;
        Some(TcpSummary {
            first_ns: self.first,
            last_ns: self.last,
            packets: self.packets,
            client,
            server,
            handshake,
            handshake_rtt_ns: total,
            close,
            closed_by: self.closed_by.map(party),
            longest_idle_ns: self.longest_idle,
            starts_with_syn: self.starts_with_syn,
            disordered_packets: self.disordered,
            cut_packets: self.cut,
            unreadable_packets: self.unreadable,
            foreign_packets: self.foreign,
            astray_packets: self.astray,
        })
    }

    /// Which sender, 0 or 1, is the client, as far as is known.
    pub fn client(&self) -> usize {
        self.client.unwrap_or(0)
    }

    fn keep_time(&mut self, now: u64) {
        self.packets += 1;
        if self.packets > 1 {
            self.disordered += u64::from(now < self.last);
            self.longest_idle = self.longest_idle.max(now.saturating_sub(self.last));
        }
        self.first = self.first.min(now);
        self.last = self.last.max(now);
    }

    /// Which end sent a segment; `None` for one of another connection.
    fn sender(&mut self, src: Endpoint, dst: Endpoint) -> Option<usize> {
        let ends = self.ends.get_or_insert([src, dst]);
        if *ends == [src, dst] {
            Some(0)
        } else if *ends == [dst, src] {
            Some(1)
        } else {
            self.foreign += 1;
            None
        }
    }

    fn segment(&mut self, now: u64, segment: &Segment) -> Option<Observed> {
        let is_first = self.ends.is_none();
        let sender = self.sender(segment.src, segment.dst)?;
        self.starts_with_syn |= is_first && segment.is_syn() && !segment.is_ack();
        self.cut += u64::from(segment.cut);
        if segment.is_syn() {
            self.client.get_or_insert(if segment.is_ack() { 1 - sender } else { sender });
        }
        let (own, peer) = self.pair(sender);
        own.count(segment, peer);
        if segment.is_rst() {
            // Its numbers need not be the connection's.
            let both_closed = own.counts.fin_packets > 0 && peer.counts.fin_packets > 0;
            self.reset |= !both_closed;
            self.closed_by.get_or_insert(sender);
            return None;
        }
        let Some(start) = own.sequence.place(segment.seq) else {
            self.astray += 1;
            return None;
        };
        let path = own.path_rtt(peer);
        // The acknowledgement first: what it says of the other direction does not depend on what it carries.
        let answer = if segment.is_ack() { own.acknowledge(peer, segment, now) } else { Default::default() };
        let end = start + segment.len();
        let role = own.send(peer, segment, start, end, now, path);
        if segment.is_fin() {
            self.closed_by.get_or_insert(sender);
        }
        let (own, peer) = self.pair(sender);
        own.time_handshake(peer, segment, now);
        Some(Observed {
            sender,
            start,
            end,
            flags: segment.flags,
            role,
            ack: answer.ack,
            window: own.window,
            duplicate_ack: answer.duplicate,
            sack: answer.sack,
            sack_blocks: answer.sack_blocks,
            rtt_ns: answer.rtt,
            rtt_timestamps_ns: answer.rtt_timestamps,
            in_flight: own.sequence.in_flight(),
        })
    }

    /// A later fragment continues the segment whose first fragment was seen last, if it is of the same packet.
    fn later_fragment(&mut self, now: u64, later: &Later) -> Option<Observed> {
        let may_be = |sender: &usize| self.ends.is_some_and(|ends| ends[*sender].addr == later.id.src);
        let continues = |sender: &usize| self.halves[*sender].fragment.is_some_and(|f| f.id == later.id);
        let Some(sender) = [0, 1].into_iter().filter(may_be).max_by_key(|sender| (continues(sender), 1 - sender)) else {
            // Before any TCP header it cannot be said whose it is.
            *if self.ends.is_some() { &mut self.foreign } else { &mut self.unreadable } += 1;
            return None;
        };
        let (own, peer) = self.pair(sender);
        own.counts.packets += 1;
        own.counts.wire_bytes += u64::from(later.wire_len);
        let fragment = own.fragment.filter(|f| f.id == later.id)?;
        let start = fragment.origin + later.offset;
        let end = start + later.len;
        let role = own.continue_segment(peer, start, end, now);
        let in_flight = own.sequence.in_flight();
        let window = own.window;
        let none = Default::default();
        Some(Observed {
            sender,
            start,
            end,
            flags: 0,
            role,
            ack: None,
            window,
            duplicate_ack: false,
            sack: none,
            sack_blocks: 0,
            rtt_ns: None,
            rtt_timestamps_ns: None,
            in_flight,
        })
    }

    fn handshake(&self, client: usize) -> Handshake {
        let [client, server] = [&self.halves[client], &self.halves[1 - client]];
        match (client.counts.syn.is_some(), server.counts.syn.is_some()) {
            _ if client.handshake_rtt.is_some() => Handshake::Complete,
            (_, true) if server.syn_acked() => Handshake::Complete,
            (_, true) => Handshake::SynAck,
            (true, false) => Handshake::Syn,
            (false, false) => Handshake::None,
        }
    }

    /// The sender's direction and the other one.
    fn pair(&mut self, sender: usize) -> (&mut Half, &mut Half) {
        let [first, second] = &mut self.halves;
        if sender == 0 { (first, second) } else { (second, first) }
    }
}
