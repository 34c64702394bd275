//! One connection: what is known of it, where it is in its life, and when the next thing happens to it.

use crate::capture::LinkType;
use crate::flow::ledger::Charge;
use crate::flow::outcome::{EndReason, FlowFlags, FlowSerial};
use crate::flow::segment::Chain;
use crate::flow::table::FlowId;
use crate::key::{Direction, Endpoint, FlowKey, FlowUuid, Name, UuidSource};
use crate::packet::Tcp;
use crate::scrub::Hide;
use crate::time::Timestamp;
use std::time::Duration;

/// A connection's record. Kept small: a half-open flow is this, one chunk and its place in the index, 512 bytes in all.
#[derive(Debug)]
pub struct Flow {
    /// Its addresses and ports.
    pub key: FlowKey,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether both ends were seen to take part.
    pub proof: Proof,
    /// What its TCP headers told.
    pub tcp: TcpTrack,
    /// Which of its endpoints are masked in the archive, lower one first. Fixed at the start, so that a file is
    /// consistent when the host's addresses change.
    pub hide: [bool; 2],
    /// What the archive will say of it.
    pub flags: FlowFlags,
    /// Whether a segment of it has left for a writer.
    pub segment_sent: bool,
    /// Number within the process.
    pub serial: FlowSerial,
    /// The link type of its file.
    pub link: LinkType,
    /// Capture time of the first packet.
    pub first: Timestamp,
    /// The latest capture time of a kept packet.
    pub last: Timestamp,
    /// When the capture duration began: the first packet, or an announcement at most a UUID wait before it.
    pub began: Timestamp,
    /// When the first packet was handled.
    pub first_seen: Timestamp,
    /// When the last packet was handled.
    pub last_seen: Timestamp,
    /// When the oldest record of `records` was handled (stream mode seals by it).
    pub unsealed_since: Timestamp,
    /// The packets since the last segment.
    pub records: Chain,
    /// Packets captured while it was open.
    pub seen: u32,
    /// Packets kept.
    pub kept: u32,
    /// The kernel's drop count when it began.
    pub drops_before: u64,
    /// Its names, once announced.
    pub names: Option<Box<Names>>,
    /// The connection before it on the same addresses and ports, if that is still of interest.
    pub older: Option<FlowId>,
    /// The connection after it on the same addresses and ports.
    pub newer: Option<FlowId>,
}

/// Where a flow is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Packets are kept.
    Open,
    /// The UUID wait is over and nobody has named it: it keeps what it has, and little more, for a name that comes late.
    Parked,
    /// The end was seen; packets are kept for the linger, until `at`.
    Closing {
        /// What the end was.
        reason: EndReason,
        /// When the linger is over.
        at: Timestamp,
    },
    /// Ended: later packets of the connection are counted and not kept.
    Ended {
        /// How long the record stays after its last packet.
        keep: Duration,
    },
}

/// Whether both ends were seen to take part in a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// Not yet: a lone SYN, a scan. The first to go when room is short.
    HalfOpen,
    /// Handshake complete, packets in both directions, or announced.
    Established,
}

/// A flow's names: one, or two where both ends are sockets of this host.
#[derive(Debug)]
pub struct Names {
    /// The ends that have names, the first to be named first.
    pub ends: Vec<NamedEnd>,
    /// Their place on the ledger.
    pub charge: Charge,
}

/// A name of a flow, and who told it.
#[derive(Clone, Debug)]
pub struct NamedEnd {
    /// The name.
    pub name: Name,
    /// The announcing socket's own end; `None` for names that nobody announced.
    pub local: Option<Endpoint>,
    /// Who announced it; `None` for names that nobody announced.
    pub source: Option<UuidSource>,
    /// What the other source called it, once it has.
    pub other: Option<FlowUuid>,
}

impl NamedEnd {
    /// Whether this source has told a name for this end.
    pub fn told_by(&self, source: UuidSource) -> bool {
        self.source == Some(source) || self.other.is_some()
    }
}

/// Durations that rule a flow's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    /// `-captureduration`: from the flow's beginning.
    pub capture: Duration,
    /// `-uuidwaitduration`: from the first packet.
    pub uuid_wait: Duration,
    /// `-idletimeout`: of a named flow.
    pub idle: Duration,
    /// `-flowtimeout`: idle timeout of a flow that nobody named.
    pub unnamed_idle: Duration,
    /// How long a flow that was not completed is kept without a name.
    pub half_open: Duration,
    /// After FIN, RST or Close.
    pub linger: Duration,
    /// Stream mode: the longest that a packet waits before it is on its way to the disk.
    pub seal: Option<Duration>,
}

/// What to do with a flow whose deadline has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Send what it holds to a writer and go on.
    Seal,
    /// The UUID wait is over.
    Park,
    /// End it.
    End(EndReason),
    /// Forget a half-open flow, or a flow that ended long ago.
    Forget,
}

impl Flow {
    /// Whether it has a name.
    pub fn is_named(&self) -> bool {
        self.names.is_some()
    }

    /// Whether this source has told a name for it.
    pub fn told_by(&self, source: UuidSource) -> bool {
        self.names.as_ref().is_some_and(|names| names.ends.iter().any(|end| end.told_by(source)))
    }

    /// Whether packets of it may be kept.
    pub fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Ended { .. })
    }

    /// The next thing that happens to it if no packet and no announcement comes, and when.
    pub fn deadline(&self, t: &Timers) -> (Timestamp, Due) {
        let named = self.is_named();
        let window = (self.began + t.capture, Due::End(EndReason::CaptureWindow));
        match self.phase {
            Phase::Ended { keep } => (self.last_seen + keep, Due::Forget),
            _ if self.proof == Proof::HalfOpen && !named => (self.first_seen + t.half_open, Due::Forget),
            Phase::Closing { reason, at } => {
                let at = if named { at } else { at.max(self.first_seen + t.uuid_wait) };
                self.or_seal(t, earlier((at, Due::End(reason)), window))
            }
            Phase::Open if named => self.or_seal(t, earlier((self.last_seen + t.idle, Due::End(EndReason::Idle)), window)),
            Phase::Open => earlier((self.first_seen + t.uuid_wait, Due::Park), window),
            Phase::Parked => earlier((self.last_seen + t.unnamed_idle, Due::End(EndReason::Idle)), window),
        }
    }

    fn or_seal(&self, t: &Timers, other: (Timestamp, Due)) -> (Timestamp, Due) {
        match t.seal {
            Some(seal) if self.is_named() && !self.records.is_empty() => earlier((self.unsealed_since + seal, Due::Seal), other),
            _ => other,
        }
    }

    /// Which addresses of a packet in this direction are masked.
    pub fn hide(&self, direction: Direction) -> Hide {
        let [lo, hi] = self.hide;
        match direction {
            Direction::LoToHi => Hide { src: lo, dst: hi },
            Direction::HiToLo => Hide { src: hi, dst: lo },
        }
    }
}

fn earlier(a: (Timestamp, Due), b: (Timestamp, Due)) -> (Timestamp, Due) {
    if b.0 < a.0 { b } else { a }
}

/// What a connection's TCP headers have told so far (RFC 9293 section 3.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpTrack {
    /// Initial sequence numbers by direction, where the SYN was seen.
    isn: [u32; 2],
    seen: u16,
}

/// How a packet relates to the connection that its addresses and ports belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// It is a packet of this connection.
    Same,
    /// It begins another connection.
    New,
    /// It claims to begin another connection while this one was not seen to end: true if the other end agrees.
    Contested,
}

impl TcpTrack {
    /// Takes a packet of the connection.
    pub fn observe(&mut self, direction: Direction, tcp: &Tcp) {
        let (d, r) = (direction.index(), direction.reverse().index());
        if tcp.has(Tcp::SYN) {
            if !self.is(SYN[d]) {
                self.isn[d] = tcp.seq;
            }
            self.seen |= SYN[d];
            if tcp.has(Tcp::ACK) && self.is(SYN[r]) && tcp.ack == self.isn[r].wrapping_add(1) {
                self.seen |= SYN_ACKED[r];
            }
        } else if !tcp.has(Tcp::RST) {
            if self.seen & DATA_MANY[d] == DATA_MANY[d] {
            } else if self.is(DATA_ONE[d]) {
                self.seen |= DATA_MANY[d];
            } else {
                self.seen |= DATA_ONE[d];
            }
            if self.is(SYN_ACKED[d]) && tcp.has(Tcp::ACK) && tcp.ack == self.isn[r].wrapping_add(1) {
                self.seen |= HANDSHAKE;
            }
            // An end that sends on has not reset the connection: that reset was somebody else's.
            self.seen &= !RST[d];
        }
        if tcp.has(Tcp::FIN) {
            self.seen |= FIN[d];
        }
        if tcp.has(Tcp::RST) {
            self.seen |= RST[d];
        }
    }

    /// Whether the three-way handshake was seen whole.
    pub fn handshake(&self) -> bool {
        self.is(HANDSHAKE)
    }

    /// Whether both ends take part: the handshake, or packets both ways.
    pub fn established(&self) -> bool {
        self.handshake() || (self.is(DATA_ONE[0]) && self.is(DATA_ONE[1]))
    }

    /// Whether one end sends on without a SYN: all that is to be seen where the capture sees only that way.
    pub fn one_way(&self) -> bool {
        (0..2).any(|d| self.is(DATA_MANY[d]) && !self.is(SYN[d]))
    }

    /// How the connection was seen to end.
    pub fn end(&self) -> Option<EndReason> {
        if self.is(RST[0]) || self.is(RST[1]) {
            Some(EndReason::Reset)
        } else if self.is(FIN[0]) && self.is(FIN[1]) {
            Some(EndReason::Fin)
        } else {
            None
        }
    }

    /// How a packet with these addresses and ports relates to this connection. `over` says that it was seen to end, or that
    /// its capture has ended.
    pub fn relation(&self, direction: Direction, tcp: &Tcp, over: bool) -> Relation {
        let (d, r) = (direction.index(), direction.reverse().index());
        if !tcp.has(Tcp::SYN) || tcp.has(Tcp::RST) || (self.is(SYN[d]) && self.isn[d] == tcp.seq) {
            return Relation::Same;
        }
        if tcp.has(Tcp::ACK) {
            // An answer to a SYN that the capture missed, if this connection is over.
            return if over && self.is(SYN[d]) { Relation::New } else { Relation::Same };
        }
        if over || !self.established() {
            // Two SYNs that cross are one connection (RFC 9293 figure 7).
            let crossing = !over && !self.is(SYN[d]) && self.is(SYN[r]) && !self.is(DATA_ONE[r]);
            return if crossing { Relation::Same } else { Relation::New };
        }
        Relation::Contested
    }

    /// Whether a packet shows that both ends agree on this connection, which so far is a lone SYN, or is that SYN again.
    pub fn confirms(&self, direction: Direction, tcp: &Tcp) -> bool {
        let (d, r) = (direction.index(), direction.reverse().index());
        let repeated = tcp.has(Tcp::SYN) && self.is(SYN[d]) && self.isn[d] == tcp.seq;
        let answered = tcp.has(Tcp::ACK)
            && (tcp.has(Tcp::SYN) || tcp.has(Tcp::RST))
            && self.is(SYN[r])
            && tcp.ack == self.isn[r].wrapping_add(1);
        repeated || answered
    }

    fn is(&self, bit: u16) -> bool {
        self.seen & bit != 0
    }
}

impl TcpTrack {
    /// The sequence number of the SYN in this direction, if it was seen.
    pub fn isn(&self, direction: Direction) -> Option<u32> {
        self.is(SYN[direction.index()]).then(|| self.isn[direction.index()])
    }
}

const SYN: [u16; 2] = [1, 2];
/// The other end acknowledged this direction's SYN with its own.
const SYN_ACKED: [u16; 2] = [1 << 2, 1 << 3];
const FIN: [u16; 2] = [1 << 4, 1 << 5];
const RST: [u16; 2] = [1 << 6, 1 << 7];
/// A packet without SYN and RST.
const DATA_ONE: [u16; 2] = [1 << 8, 1 << 9];
/// More than one of them.
const DATA_MANY: [u16; 2] = [1 << 10, 1 << 11];
const HANDSHAKE: u16 = 1 << 12;

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::key::Address;

    /// A flow whose key differs by `port` only.
    pub(crate) fn flow(port: u16) -> Flow {
        let end = |port| Endpoint { addr: Address::v4([192, 0, 2, 1]), port };
        let t = Timestamp::ZERO;
        Flow {
            key: FlowKey::new(end(port), end(60_000)).0,
            phase: Phase::Open,
            proof: Proof::HalfOpen,
            tcp: TcpTrack::default(),
            hide: [false; 2],
            flags: FlowFlags::default(),
            segment_sent: false,
            serial: FlowSerial(0),
            link: LinkType::Ethernet,
            first: t,
            last: t,
            began: t,
            first_seen: t,
            last_seen: t,
            unsealed_since: t,
            records: Chain::EMPTY,
            seen: 0,
            kept: 0,
            drops_before: 0,
            names: None,
            older: None,
            newer: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{HiToLo, LoToHi};

    fn tcp(flags: u8, seq: u32, ack: u32) -> Tcp {
        Tcp { src_port: 1, dst_port: 2, seq, ack, flags }
    }

    fn track(packets: &[(Direction, Tcp)]) -> TcpTrack {
        let mut t = TcpTrack::default();
        for (d, p) in packets {
            t.observe(*d, p);
        }
        t
    }

    fn handshake() -> Vec<(Direction, Tcp)> {
        vec![(LoToHi, tcp(Tcp::SYN, 100, 0)), (HiToLo, tcp(Tcp::SYN | Tcp::ACK, 900, 101)), (LoToHi, tcp(Tcp::ACK, 101, 901))]
    }

    #[test]
    fn a_flow_record_stays_small() {
        assert!(size_of::<Flow>() <= 224, "{}", size_of::<Flow>());
    }

    #[test]
    fn only_a_matching_acknowledgement_completes_the_handshake() {
        assert!(track(&handshake()).handshake());
        let mut wrong = handshake();
        wrong[2].1.ack = 5;
        assert!(!track(&wrong).handshake());
        assert!(!track(&wrong[..2]).established());
    }

    #[test]
    fn packets_both_ways_establish_a_flow_that_was_met_in_the_middle() {
        assert!(!track(&[(LoToHi, tcp(Tcp::ACK, 1, 1))]).established());
        assert!(track(&[(LoToHi, tcp(Tcp::ACK, 1, 1)), (HiToLo, tcp(Tcp::ACK, 1, 1))]).established());
    }

    #[test]
    fn one_fin_does_not_end_a_connection_and_two_do() {
        let mut p = handshake();
        p.push((LoToHi, tcp(Tcp::FIN | Tcp::ACK, 101, 901)));
        assert_eq!(track(&p).end(), None);
        p.push((HiToLo, tcp(Tcp::FIN | Tcp::ACK, 901, 102)));
        assert_eq!(track(&p).end(), Some(EndReason::Fin));
    }

    #[test]
    fn a_reset_is_not_believed_when_its_sender_goes_on() {
        let mut p = handshake();
        p.push((LoToHi, tcp(Tcp::RST, 101, 0)));
        assert_eq!(track(&p).end(), Some(EndReason::Reset));
        p.push((LoToHi, tcp(Tcp::ACK, 101, 901)));
        assert_eq!(track(&p).end(), None);
    }

    #[test]
    fn a_syn_repeated_is_the_same_connection_and_another_number_is_not() {
        let half_open = track(&handshake()[..1]);
        assert_eq!(half_open.relation(LoToHi, &tcp(Tcp::SYN, 100, 0), false), Relation::Same);
        assert_eq!(half_open.relation(LoToHi, &tcp(Tcp::SYN, 101, 0), false), Relation::New);
        assert_eq!(half_open.relation(HiToLo, &tcp(Tcp::SYN, 7, 0), false), Relation::Same, "simultaneous open");
    }

    #[test]
    fn a_syn_into_a_living_connection_needs_the_other_end_to_agree() {
        let t = track(&handshake());
        assert_eq!(t.relation(LoToHi, &tcp(Tcp::SYN, 5_000, 0), false), Relation::Contested);
        assert_eq!(t.relation(LoToHi, &tcp(Tcp::SYN, 5_000, 0), true), Relation::New);
        let newcomer = track(&[(LoToHi, tcp(Tcp::SYN, 5_000, 0))]);
        assert!(newcomer.confirms(HiToLo, &tcp(Tcp::SYN | Tcp::ACK, 1, 5_001)));
        assert!(!newcomer.confirms(HiToLo, &tcp(Tcp::ACK, 1, 102)), "a challenge ACK is the old connection's");
    }
}
