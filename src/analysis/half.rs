//! One direction of a connection: what its sender sent, and what the other end's acknowledgements make of it.

use super::options::MAX_BLOCKS;
use super::packet::Segment;
use super::rtt::{Echoes, MAX_OUTSTANDING, Rtt, Samples};
use super::sequence::{Position, Sequence};
use super::summary::{EndSummary, SynOptions};
use crate::key::Endpoint;
use crate::packet::FragmentId;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

/// What a packet is to its direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It carries no payload, SYN or FIN.
    Empty,
    /// It carries what was not sent before.
    New,
    /// The network delayed it past later ones.
    OutOfOrder,
    /// It carries what was sent before.
    Retransmission(Cause),
    /// It keeps the connection alive.
    KeepAlive,
    /// It asks whether a window of zero has opened.
    WindowProbe,
}

/// Why something was sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Duplicate acknowledgements or SACK reported a loss.
    Fast,
    /// Nothing came back in time.
    Timeout,
    /// No cause: it had been acknowledged.
    Spurious,
    /// No cause in sight.
    Unknown,
}

/// What an acknowledgement told.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Answer {
    pub(super) ack: Option<Position>,
    pub(super) duplicate: bool,
    pub(super) sack: [(Position, Position); MAX_BLOCKS],
    pub(super) sack_blocks: usize,
    pub(super) rtt: Option<u64>,
    pub(super) rtt_timestamps: Option<u64>,
}

/// A first fragment whose later ones may come.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstFragment {
    pub(super) id: FragmentId,
    /// The position that offset 0, where the TCP header begins, would have.
    pub(super) origin: Position,
}

/// One direction.
#[derive(Clone, Debug)]
pub(super) struct Half {
    pub(super) sequence: Sequence,
    /// The figures that are counts; derived ones are filled in at the end.
    pub(super) counts: EndSummary,
    /// From the capture point to this sender and back, within the handshake.
    pub(super) handshake_rtt: Option<u64>,
    /// The window that this sender announced last, in bytes.
    pub(super) window: u64,
    pub(super) fragment: Option<FirstFragment>,
    /// The same as the header had it.
    window_field: Option<u16>,
    /// Where this sender's SYN ends, when it was first sent, and how often it was.
    syn: Option<(Position, u64, u32)>,
    /// Times from the capture point to this sender and back.
    rtt: Samples,
    rtt_timestamps: Samples,
    /// Segments sent once that await their acknowledgement: where they end, when they were sent.
    outstanding: VecDeque<(Position, u64)>,
    echoes: Echoes,
    /// What ends here or below has been sent twice or came out of order: its acknowledgement times nothing.
    ambiguous: Position,
    /// Acknowledgements since the last that said something new.
    duplicates: u32,
    /// The end of the highest block that was reported by SACK.
    sacked: Position,
    /// A recovery and where it ends.
    recovery: Option<(Cause, Position)>,
    /// When the other end acknowledged last.
    answered_at: u64,
    /// When something new was sent first, and when something new was sent or acknowledged last.
    data_from: Option<u64>,
    data_until: u64,
    /// Where the payload that was sent ends.
    data_end: Position,
}

impl Default for Half {
    fn default() -> Self {
        Self {
            sequence: Sequence::default(),
            counts: nothing_sent(),
            handshake_rtt: None,
            window: 0,
            fragment: None,
            window_field: None,
            syn: None,
            rtt: Samples::default(),
            rtt_timestamps: Samples::default(),
            outstanding: VecDeque::new(),
            echoes: Echoes::default(),
            ambiguous: 0,
            duplicates: 0,
            sacked: 0,
            recovery: None,
            answered_at: 0,
            data_from: None,
            data_until: 0,
            data_end: 0,
        }
    }
}

impl Half {
    /// Counts what every segment has.
    pub(super) fn count(&mut self, segment: &Segment, peer: &Self) {
        let counts = &mut self.counts;
        counts.packets += 1;
        counts.wire_bytes += u64::from(segment.wire_len);
        counts.ect_packets += u64::from(matches!(segment.ecn, 1 | 2));
        counts.ce_packets += u64::from(segment.ecn == 3);
        counts.fin_packets += u64::from(segment.is_fin());
        counts.rst_packets += u64::from(segment.is_rst());
        let (ece, cwr) = (segment.flags & Segment::ECE != 0, segment.flags & Segment::CWR != 0);
        if segment.is_syn() {
            let options = segment.options;
            counts.syn = Some(SynOptions {
                mss: options.mss,
                window_scale: options.window_scale,
                sack_permitted: options.sack_permitted,
                timestamps: options.timestamps.is_some(),
                fast_open: options.fast_open,
                payload_bytes: segment.payload,
                multipath: options.multipath,
                ecn: ece && cwr != segment.is_ack(),
            });
        } else {
            counts.ece_packets += u64::from(ece);
            counts.cwr_packets += u64::from(cwr);
        }
        // A reset may carry text for people (RFC 9293 section 3.5.3): nothing that a receiver hands to its application.
        if segment.payload > 0 && !segment.is_rst() {
            counts.payload_bytes += segment.payload;
            counts.data_packets += 1;
            let mss = peer.counts.syn.and_then(|syn| syn.mss).map(u64::from);
            counts.super_packets += u64::from(segment.payload > mss.unwrap_or(JUMBO_MSS));
            let timestamps = if segment.options.timestamps.is_some() { TIMESTAMPS_LEN } else { 0 };
            let room = mss.filter(|mss| *mss > 2 * TIMESTAMPS_LEN).unwrap_or(USUAL_MSS) - timestamps;
            // A whole segment of a jumbo frame is no super-packet, even where the MSS is not known.
            let one = segment.payload <= mss.unwrap_or(JUMBO_MSS);
            counts.data_segments += if one { 1 } else { segment.payload.div_ceil(room) };
        }
    }

    /// Takes what this sender's segment says of the other direction.
    pub(super) fn acknowledge(&mut self, peer: &mut Self, segment: &Segment, now: u64) -> Answer {
        let mut answer = Answer::default();
        let Some(ack) = peer.sequence.place(segment.ack) else { return answer };
        answer.ack = Some(ack);
        let repeated = peer.sequence.acked == Some(ack);
        let same_window = self.window_field == Some(segment.window);
        answer.duplicate = repeated && same_window && segment.is_pure_ack() && peer.sequence.in_flight() > 0;
        self.report_blocks(peer, segment, ack, &mut answer);
        if answer.duplicate {
            self.counts.duplicate_acks += 1;
            peer.duplicates += 1;
        }
        let of_data = peer.sequence.acked < Some(peer.data_end);
        if peer.sequence.acknowledge(ack, now) {
            answer.rtt = peer.time_answer(ack, now);
            peer.duplicates = 0;
            if of_data {
                peer.data_until = peer.data_until.max(now);
            }
            peer.recovery = peer.recovery.filter(|(_, until)| ack < *until);
        }
        peer.answered_at = now;
        if let Some((_, echo)) = segment.options.timestamps {
            answer.rtt_timestamps = peer.echoes.echoed(echo).and_then(|sent| now.checked_sub(sent));
        }
        answer.rtt.into_iter().for_each(|rtt| self.rtt.add(rtt));
        answer.rtt_timestamps.into_iter().for_each(|rtt| self.rtt_timestamps.add(rtt));
        answer
    }

    /// Takes a segment of this sender that lies at these positions. `path` is the round-trip time of the whole path.
    pub(super) fn send(
        &mut self,
        peer: &Self,
        segment: &Segment,
        start: Position,
        end: Position,
        now: u64,
        path: Option<u64>,
    ) -> Role {
        self.take_window(peer, segment);
        let top = self.sequence.top().unwrap_or(start);
        let bare = segment.payload <= 1 && !segment.is_syn() && !segment.is_fin();
        let shut = peer.window_field == Some(0);
        if bare && start + 1 == top && self.sequence.in_flight() == 0 {
            let (role, count) = if shut {
                (Role::WindowProbe, &mut self.counts.window_probes)
            } else {
                (Role::KeepAlive, &mut self.counts.keep_alives)
            };
            *count += 1;
            self.counts.payload_bytes -= segment.payload;
            self.counts.data_packets -= segment.payload;
            self.counts.data_segments -= segment.payload;
            return role;
        }
        if let Some((id, header_len)) = segment.fragment {
            self.fragment = Some(FirstFragment { id, origin: start.saturating_sub(header_len) });
        }
        let role = self.cover(start, end, segment.payload, now, path);
        if end == start {
            return role;
        }
        if let Some((value, _)) = segment.options.timestamps {
            self.echoes.sent(value, now);
        }
        if shut && segment.payload == 1 && role == Role::New {
            self.counts.window_probes += 1;
            return Role::WindowProbe;
        }
        role
    }

    /// Takes the payload of a later fragment.
    pub(super) fn continue_segment(&mut self, peer: &Self, start: Position, end: Position, now: u64) -> Role {
        self.counts.payload_bytes += end - start;
        let path = self.path_rtt(peer);
        self.cover(start, end, end - start, now, path)
    }

    /// Times the handshake when this segment completes a part of it.
    pub(super) fn time_handshake(&mut self, peer: &Self, segment: &Segment, now: u64) {
        if segment.is_syn() {
            let end = self.sequence.place(segment.seq).map_or(0, |start| start + 1);
            self.syn = Some(self.syn.map_or((end, now, 1), |(end, at, times)| (end, at, times + 1)));
        }
        // The first to acknowledge a SYN that was sent once.
        if let Some((end, at, 1)) = peer.syn
            && self.handshake_rtt.is_none()
            && segment.is_ack()
            && peer.sequence.acked == Some(end)
        {
            self.handshake_rtt = now.checked_sub(at);
        }
    }

    /// Whether the other end acknowledged this sender's SYN.
    pub(super) fn syn_acked(&self) -> bool {
        self.syn.is_some_and(|(end, ..)| self.sequence.acked >= Some(end))
    }

    /// The least round-trip time of the whole path, from one end to the other and back.
    pub(super) fn path_rtt(&self, peer: &Self) -> Option<u64> {
        let part = |half: &Self| half.rtt.min().or(half.rtt_timestamps.min()).or(half.handshake_rtt);
        part(self).zip(part(peer)).map(|(a, b)| a + b)
    }

    /// The figures of this sender.
    pub(super) fn finish(self, endpoint: Endpoint) -> EndSummary {
        let counts = self.counts;
        let unique_bytes = counts.payload_bytes.saturating_sub(counts.retransmitted_bytes);
        let span = self.data_from.map_or(0, |from| self.data_until.saturating_sub(from));
        let goodput = (u128::from(unique_bytes) * 8_000_000_000).checked_div(span.into()).filter(|_| unique_bytes > 0);
        EndSummary {
            endpoint: SocketAddr::new(IpAddr::from(endpoint.addr), endpoint.port),
            unique_bytes,
            goodput_bits_per_s: goodput.map(|rate| u64::try_from(rate).unwrap_or(u64::MAX)),
            handshake_rtt_ns: self.handshake_rtt,
            rtt: self.rtt.finish(),
            rtt_timestamps: self.rtt_timestamps.finish(),
            unseen_bytes: self.sequence.unseen(),
            ..counts
        }
    }

    /// Counts SACK blocks. The first block is a D-SACK if it lies below the acknowledgement or within the second
    /// (RFC 2883 section 4).
    fn report_blocks(&mut self, peer: &mut Self, segment: &Segment, ack: Position, answer: &mut Answer) {
        let options = &segment.options;
        let mut second = None;
        // The second block first, since it decides what the first one is.
        for (i, (from, to)) in options.sack[..options.sack_blocks].iter().enumerate().rev() {
            let (Some(from), Some(to)) = (peer.sequence.place(*from), peer.sequence.place(*to)) else { continue };
            if i == 1 {
                second = Some((from, to));
            }
            if i == 0 && (to <= ack || second.is_some_and(|(start, end)| start <= from && to <= end)) {
                self.counts.dsacks += 1;
                continue;
            }
            self.counts.sack_blocks += 1;
            peer.sacked = peer.sacked.max(to);
            answer.sack[answer.sack_blocks] = (from, to);
            answer.sack_blocks += 1;
        }
    }

    /// The time since the segment that ends at `ack` was sent, if it was sent once and nothing before it is in doubt.
    fn time_answer(&mut self, ack: Position, now: u64) -> Option<u64> {
        let mut sent = None;
        while let Some(&(end, at)) = self.outstanding.front().filter(|(end, _)| *end <= ack) {
            self.outstanding.pop_front();
            sent = (end == ack && end > self.ambiguous).then_some(at);
        }
        now.checked_sub(sent?)
    }

    fn take_window(&mut self, peer: &Self, segment: &Segment) {
        self.window_field = Some(segment.window);
        // The window of a SYN is never scaled; scaling needs both ends (RFC 7323 section 2.2).
        let scaled = |half: &Self| half.counts.syn.and_then(|syn| syn.window_scale);
        let shift = match (scaled(self), scaled(peer)) {
            (Some(shift), Some(_)) if !segment.is_syn() => shift,
            _ => 0,
        };
        self.window = u64::from(segment.window) << shift;
        self.counts.window_max_bytes = self.counts.window_max_bytes.max(self.window);
        let plain = !segment.is_syn() && !segment.is_fin();
        self.counts.zero_windows += u64::from(segment.window == 0 && plain);
    }

    /// Takes what lies at these positions, and judges what it is.
    fn cover(&mut self, start: Position, end: Position, payload: u64, now: u64, path: Option<u64>) -> Role {
        let top = self.sequence.top().unwrap_or(start);
        let acked_before = self.sequence.acked.is_some_and(|acked| acked >= end);
        let coverage = self.sequence.see(start, end, now);
        if end == start {
            return Role::Empty;
        }
        self.counts.in_flight_max_bytes = self.counts.in_flight_max_bytes.max(self.sequence.in_flight());
        let late_by = coverage.hole_since.map(|since| now.saturating_sub(since));
        let reordered = coverage.repeated == 0 && late_by.is_some_and(|by| by < path.unwrap_or(USUAL_DISORDER));
        let role = if coverage.repeated == 0 && coverage.filled == 0 {
            Role::New
        } else if reordered {
            Role::OutOfOrder
        } else if acked_before && coverage.filled == 0 {
            Role::Retransmission(Cause::Spurious)
        } else {
            Role::Retransmission(self.cause(start, end, top, now, path))
        };
        if role == Role::New {
            if self.outstanding.len() < MAX_OUTSTANDING {
                self.outstanding.push_back((end, now));
            }
        } else {
            self.ambiguous = self.ambiguous.max(top).max(end);
        }
        match role {
            Role::OutOfOrder => {
                self.counts.out_of_order_packets += 1;
                self.counts.reordering_max_bytes = self.counts.reordering_max_bytes.max(top.saturating_sub(start));
            }
            Role::Retransmission(cause) => {
                let counts = &mut self.counts;
                counts.retransmitted_packets += 1;
                counts.retransmitted_bytes += payload.min(coverage.repeated);
                *match cause {
                    Cause::Fast => &mut counts.fast_retransmits,
                    Cause::Timeout => &mut counts.timeout_retransmits,
                    Cause::Spurious => &mut counts.spurious_retransmits,
                    Cause::Unknown => &mut counts.unknown_retransmits,
                } += 1;
            }
            _ => {}
        }
        if payload > 0 {
            self.data_from.get_or_insert(now);
            self.data_end = self.data_end.max(end);
            if coverage.new + coverage.filled > 0 {
                self.data_until = self.data_until.max(now);
            }
        }
        role
    }

    /// Why what ends at `end` was sent again.
    fn cause(&mut self, start: Position, end: Position, top: Position, now: u64, path: Option<u64>) -> Cause {
        let patience = path.map_or(MIN_RTO, |path| MIN_RTO.min(2 * path));
        // The other end is silent for longer than it takes to answer it: what it reported before cannot be why.
        let silent = now.saturating_sub(self.answered_at) >= path.map_or(MIN_RTO, |path| MIN_RTO.max(path + path / 2));
        let reported = self.duplicates >= DUPLICATE_THRESHOLD || self.sacked > end;
        let cause = match self.recovery {
            Some((cause, _)) if !silent || cause == Cause::Timeout => return cause,
            _ if reported && !silent => Cause::Fast,
            _ => {
                let after = self.outstanding.partition_point(|(sent_to, _)| *sent_to <= start);
                let sent = self.outstanding.get(after).or(self.outstanding.back()).map(|(_, at)| *at);
                match sent.map(|at| now.saturating_sub(at)) {
                    Some(age) if age < patience => return Cause::Unknown,
                    _ => Cause::Timeout,
                }
            }
        };
        self.recovery = Some((cause, top));
        cause
    }
}

fn nothing_sent() -> EndSummary {
    EndSummary {
        endpoint: SocketAddr::from(([0, 0, 0, 0], 0)),
        packets: 0,
        wire_bytes: 0,
        payload_bytes: 0,
        unique_bytes: 0,
        data_packets: 0,
        data_segments: 0,
        super_packets: 0,
        syn: None,
        goodput_bits_per_s: None,
        retransmitted_packets: 0,
        retransmitted_bytes: 0,
        fast_retransmits: 0,
        timeout_retransmits: 0,
        spurious_retransmits: 0,
        unknown_retransmits: 0,
        out_of_order_packets: 0,
        reordering_max_bytes: 0,
        duplicate_acks: 0,
        sack_blocks: 0,
        dsacks: 0,
        zero_windows: 0,
        window_probes: 0,
        keep_alives: 0,
        window_max_bytes: 0,
        in_flight_max_bytes: 0,
        ect_packets: 0,
        ce_packets: 0,
        ece_packets: 0,
        cwr_packets: 0,
        fin_packets: 0,
        rst_packets: 0,
        handshake_rtt_ns: None,
        rtt: Rtt::default(),
        rtt_timestamps: Rtt::default(),
        unseen_bytes: 0,
    }
}

/// What a timestamp option takes with its padding (RFC 7323 appendix A).
const TIMESTAMPS_LEN: u64 = 12;

/// Segments within a super-packet of a connection whose SYN was not seen: Ethernet's.
const USUAL_MSS: u64 = 1460;

/// The largest segment that a network card takes: an MTU of 9,216 bytes less the headers.
const JUMBO_MSS: u64 = 9176;

/// A hole that closes within this many nanoseconds was reordering, where no round-trip time is known: tshark's 3 ms.
const USUAL_DISORDER: u64 = 3_000_000;

/// Linux's TCP_RTO_MIN (include/net/tcp.h) in nanoseconds: no retransmission timer is shorter.
const MIN_RTO: u64 = 200_000_000;

/// RFC 5681 section 3.2.
const DUPLICATE_THRESHOLD: u32 = 3;
