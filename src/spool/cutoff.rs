//! What is kept of each flow: its first bytes and packets, and what it ends with.
//!
//! No I/O, no clock, no thread. A flow's payload is counted by the lengths in its headers, so that the same packets are
//! kept whatever the snap length. A packet that would bring a flow past its limit is the first that is not kept, and
//! nothing follows it but what [`CutoffConfig::keep_ends`] and [`CutoffConfig::tail`] ask for. Frames that are not IP have
//! no flow and are always kept.

use super::Tuple;
use super::filter::{Filter, Matcher};
use super::flows::{At, Flows, Order};
use super::report::Report;
use crate::capture::{Frame, LinkType};
use crate::flow::fragments::Fragments;
use crate::key::{Address, Direction, Endpoint, FlowKey};
use crate::packet::datagram::{Datagram, Fragment, TcpSigns};
use crate::packet::{Tcp, parse};
use crate::time::Timestamp;
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// How much is kept of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Bytes of payload; `None` for all.
    pub bytes: Option<u64>,
    /// Packets; `None` for all.
    pub packets: Option<u64>,
}

/// What a limit is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Both directions of a flow together.
    Connection,
    /// Each direction on its own.
    Direction,
}

/// Flows with limits of their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Class {
    /// Its name, for people.
    pub name: String,
    /// What a flow's first packet must be.
    pub filter: Filter,
    /// What is kept of such a flow.
    pub limits: Limits,
}

/// The whole policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CutoffConfig {
    /// Limits of flows of no class.
    pub limits: Limits,
    /// What limits are for.
    pub scope: Scope,
    /// The first that matches decides.
    pub classes: Vec<Class>,
    /// Whether the headers of FIN and RST are kept behind the cutoff too; at most [`ENDS_KEPT`] of each flow.
    pub keep_ends: bool,
    /// Bytes of the last packets behind the cutoff that are kept when a flow ends; they are held in memory until then.
    pub tail: usize,
    /// How long a flow lives without a packet.
    pub idle: Duration,
    /// Flows at once; one more pushes out the longest idle.
    pub flows: usize,
    /// Bytes of a flow, all packets counted, at which it is told as large, and again at each doubling.
    pub large: Option<u64>,
    /// Whether to count for [`Report`].
    pub report: bool,
}

/// What becomes of a frame. Each is a value of the `outcome` label of `flowarc_capture_frames_total`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// Kept, within the limits.
    Kept,
    /// Kept though behind the cutoff, without its payload: it ends the flow.
    KeptEnd,
    /// Kept though behind the cutoff, which is suspended.
    KeptSuspended,
    /// Behind the cutoff; held, and kept or not when the flow ends.
    Held,
    /// Behind the cutoff, not kept.
    CutOff,
}

/// A frame of a flow's tail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TailFrame {
    /// Its flow.
    pub tuple: Tuple,
    /// When it was captured.
    pub ts: Timestamp,
    /// Its length on the wire.
    pub wire_len: u32,
    /// What its first byte is.
    pub link: LinkType,
    /// Where it was captured.
    pub interface: u32,
    /// What was captured of it.
    pub data: Box<[u8]>,
}

/// What happens to a flow that others want to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowEvent {
    /// Nothing more of it is kept, but for its end; with the scope of a direction, of this direction.
    CutOff(Tuple, Option<Direction>),
    /// It is over, or forgotten.
    Ended(Tuple, FlowEnd, Seen),
    /// It is large, or has doubled since it was told; its first packet went this way.
    Large(Tuple, Direction, Seen),
}

/// Why a flow is no longer followed. Each is a value of the `reason` label of `flowarc_capture_flows_ended_total`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FlowEnd {
    /// FIN both ways or RST, and a while without packets.
    Closed,
    /// No packet for the idle time.
    Idle,
    /// Its ends began anew.
    Reused,
    /// Pushed out for want of room.
    Evicted,
    /// The capture ended.
    Finished,
}

impl FlowEnd {
    /// All reasons.
    pub const ALL: [Self; 5] = [Self::Closed, Self::Idle, Self::Reused, Self::Evicted, Self::Finished];

    /// The label value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Reused => "reused",
            Self::Evicted => "evicted",
            Self::Finished => "finished",
        }
    }
}

/// What has passed of a flow, kept or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Packets.
    pub packets: u64,
    /// Bytes of payload.
    pub bytes: u64,
}

impl Seen {
    fn and(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, bytes: self.bytes + other.bytes }
    }
}

/// A flow, or all flows of an address, for [`Cutoff::suspend`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    /// Every flow with this address at an end.
    Address(Address),
    /// One flow.
    Flow(Tuple),
}

/// Decides what is kept.
#[derive(Debug)]
pub struct Cutoff {
    config: CutoffConfig,
    classes: Vec<(Matcher, Limits)>,
    /// Flows begun in each class, those of none last.
    started: Vec<u64>,
    flows: Flows<Record>,
    fragments: Fragments<(Tuple, Direction)>,
    suspended: BTreeSet<Target>,
    tails: VecDeque<TailFrame>,
    events: VecDeque<FlowEvent>,
    report: Report,
}

#[derive(Debug)]
struct Record {
    limits: Limits,
    seen: [Seen; 2],
    /// Which way its first packet went.
    began: Direction,
    /// Who began it and with which sequence number, if its SYN was seen.
    isn: Option<(Direction, u32)>,
    cut: [bool; 2],
    fin: [bool; 2],
    reset: bool,
    ends_kept: u8,
    /// When it is told as large.
    large_at: u64,
    tail: VecDeque<TailFrame>,
    tail_bytes: usize,
}

impl Cutoff {
    /// Knows no flow yet.
    pub fn new(config: CutoffConfig) -> Self {
        Self {
            started: vec![0; config.classes.len() + 1],
            classes: config.classes.iter().map(|class| (class.filter.matcher(), class.limits)).collect(),
            config,
            flows: Flows::new(),
            fragments: Fragments::default(),
            suspended: BTreeSet::new(),
            tails: VecDeque::new(),
            events: VecDeque::new(),
            report: Report::default(),
        }
    }

    /// Decides about a frame, and says whose it is. What time has ended before it is ended first.
    pub fn handle_frame(&mut self, frame: &Frame<'_>, now: Timestamp) -> (Tuple, Verdict) {
        self.advance(now);
        let Some(d) = Datagram::recognise(frame.link, frame.data, frame.wire_len) else {
            return (Tuple::not_ip(), Verdict::Kept);
        };
        let (tuple, direction) = match d.fragment {
            Fragment::Later(id) => self.fragments.find(&id, now).unwrap_or_else(|| Tuple::of(&d)),
            Fragment::First(id) => {
                let of = Tuple::of(&d);
                self.fragments.note(id, of, now);
                of
            }
            Fragment::Whole => Tuple::of(&d),
        };
        let syn = d.tcp.filter(|tcp| tcp.flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN);
        let at = match self.flows.touch(&tuple, now) {
            Some(at) if syn.is_none_or(|tcp| self.flows.at(at).goes_on(direction, tcp)) => at,
            Some(_) => {
                self.end(&tuple, FlowEnd::Reused);
                self.begin(tuple, direction, syn, frame, now)
            }
            None => self.begin(tuple, direction, syn, frame, now),
        };
        let verdict = self.judge(at, &tuple, direction, &d, frame);
        (tuple, verdict)
    }

    /// Ends what time has ended.
    pub fn advance(&mut self, now: Timestamp) {
        for (order, lifetime, reason) in [(Order::Open, self.config.idle, FlowEnd::Idle), (Order::Ended, LINGER, FlowEnd::Closed)]
        {
            while let Some((tuple, touched)) = self.flows.oldest(order)
                && now.since(touched) >= lifetime
            {
                self.end(&tuple, reason);
            }
        }
    }

    /// Ends all flows.
    pub fn finish(&mut self) {
        for order in [Order::Open, Order::Ended] {
            while let Some((tuple, _)) = self.flows.oldest(order) {
                self.end(&tuple, FlowEnd::Finished);
            }
        }
    }

    /// Keeps everything of these flows from now on, if they are cut off or not.
    pub fn suspend(&mut self, target: Target) {
        self.suspended.insert(target);
    }

    /// Lets the cutoff hold again; false if it was not suspended for this target.
    pub fn resume(&mut self, target: Target) -> bool {
        self.suspended.remove(&target)
    }

    /// Notes that packets of a flow passed that nobody handed in, because the kernel dropped them behind the cutoff.
    pub fn note_unseen(&mut self, tuple: &Tuple, direction: Direction, more: Seen, now: Timestamp) {
        if let Some(at) = self.flows.touch(tuple, now) {
            let record = self.flows.at(at);
            record.seen[direction.index()] = record.seen[direction.index()].and(more);
            self.events.extend(record.large(tuple));
        }
    }

    /// The next frame of the tails of flows that have ended, to be kept.
    pub fn poll_tail(&mut self) -> Option<TailFrame> {
        self.tails.pop_front()
    }

    /// What has happened next.
    pub fn poll_event(&mut self) -> Option<FlowEvent> {
        self.events.pop_front()
    }

    /// Flows that are followed.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Flows begun in each class, in the order of [`CutoffConfig::classes`], those of no class last.
    pub fn started(&self) -> &[u64] {
        &self.started
    }

    /// What cutoffs would keep of the flows that have ended.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The flow that was idle for longest, with the time of its last packet: the next that time ends.
    pub fn oldest(&self) -> Option<(Tuple, Timestamp)> {
        self.flows.oldest(Order::Open)
    }

    fn begin(&mut self, tuple: Tuple, direction: Direction, syn: Option<TcpSigns>, frame: &Frame<'_>, now: Timestamp) -> At {
        if self.flows.len() >= self.config.flows
            && let Some((oldest, _)) = self.flows.oldest(Order::Ended).or_else(|| self.flows.oldest(Order::Open))
        {
            self.end(&oldest, FlowEnd::Evicted);
        }
        let class = self.classes.iter_mut().position(|(m, _)| m.matches(frame.link, frame.data));
        self.started[class.unwrap_or(self.classes.len())] += 1;
        let record = Record {
            limits: class.map_or(self.config.limits, |class| self.classes[class].1),
            seen: [Seen::default(); 2],
            began: direction,
            isn: syn.map(|tcp| (direction, tcp.seq)),
            cut: [false; 2],
            fin: [false; 2],
            reset: false,
            ends_kept: 0,
            large_at: self.config.large.unwrap_or(u64::MAX),
            tail: VecDeque::new(),
            tail_bytes: 0,
        };
        self.flows.insert(tuple, record, now)
    }

    fn judge(&mut self, at: At, tuple: &Tuple, direction: Direction, d: &Datagram, frame: &Frame<'_>) -> Verdict {
        let Self { config, flows, suspended, events, report, .. } = self;
        let record = flows.at(at);
        let way = direction.index();
        let packet = Seen { packets: 1, bytes: d.payload_len.into() };
        let before = record.total();
        record.seen[way] = record.seen[way].and(packet);
        let after = record.total();
        if config.report {
            report.packet(before.bytes, after.bytes);
        }
        events.extend(record.large(tuple));
        let flags = d.tcp.map_or(0, |tcp| tcp.flags);
        let is_end = flags & (Tcp::FIN | Tcp::RST) != 0;
        record.fin[way] |= flags & Tcp::FIN != 0;
        record.reset |= flags & Tcp::RST != 0;
        if is_end && record.is_over() {
            flows.put(at, Order::Ended);
        }
        let record = flows.at(at);

        let counted = if config.scope == Scope::Connection { after } else { record.seen[way] };
        if !record.cut[way] && record.limits.allow(counted) {
            return Verdict::Kept;
        }
        let first = !std::mem::replace(&mut record.cut[way], true);
        if config.scope == Scope::Connection {
            record.cut = [true; 2];
        }
        if is_suspended(suspended, tuple) {
            return Verdict::KeptSuspended;
        }
        if first {
            let side = (config.scope == Scope::Direction).then_some(direction);
            events.push_back(FlowEvent::CutOff(*tuple, side));
        }
        if config.keep_ends && is_end && record.ends_kept < ENDS_KEPT && parse(frame.link, frame.data).is_ok() {
            record.ends_kept += 1;
            return Verdict::KeptEnd;
        }
        if config.tail > 0 && record.hold(tuple, frame, config.tail) { Verdict::Held } else { Verdict::CutOff }
    }

    fn end(&mut self, tuple: &Tuple, reason: FlowEnd) {
        if let Some(mut record) = self.flows.remove(tuple) {
            if self.config.report {
                self.report.flow(record.total().bytes);
            }
            self.events.push_back(FlowEvent::Ended(*tuple, reason, record.total()));
            self.tails.append(&mut record.tail);
        }
    }
}

impl FromStr for Target {
    type Err = BadTarget;

    /// Reads an address, or a protocol and two ends: `192.0.2.1`, `tcp 192.0.2.1:80 198.51.100.2:50000`.
    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let words: Vec<_> = text.split_whitespace().collect();
        match words[..] {
            [address] => address.parse::<IpAddr>().map(|ip| Self::Address(ip.into())).map_err(|_| BadTarget),
            [protocol, a, b] => {
                let end = |text: &str| text.parse::<SocketAddr>().map(|s| Endpoint { addr: s.ip().into(), port: s.port() });
                let (a, b) = (end(a).map_err(|_| BadTarget)?, end(b).map_err(|_| BadTarget)?);
                let protocol = Tuple::protocol_number(protocol).ok_or(BadTarget)?;
                Ok(Self::Flow(Tuple { ends: FlowKey::new(a, b).0, protocol }))
            }
            _ => Err(BadTarget),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address:?}"),
            Self::Flow(tuple) => write!(f, "{tuple:?}"),
        }
    }
}

/// A text that is no target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("want an address, such as 192.0.2.1, or a flow, such as tcp 192.0.2.1:80 198.51.100.2:50000")]
pub struct BadTarget;

impl Limits {
    fn allow(&self, seen: Seen) -> bool {
        self.bytes.is_none_or(|most| seen.bytes <= most) && self.packets.is_none_or(|most| seen.packets <= most)
    }
}

impl Record {
    fn total(&self) -> Seen {
        self.seen[0].and(self.seen[1])
    }

    /// Tells the flow if it is large, or has doubled.
    fn large(&mut self, tuple: &Tuple) -> Option<FlowEvent> {
        let total = self.total();
        if total.bytes < self.large_at {
            return None;
        }
        while self.large_at <= total.bytes && self.large_at < u64::MAX {
            self.large_at = self.large_at.saturating_mul(2);
        }
        Some(FlowEvent::Large(*tuple, self.began, total))
    }

    fn is_over(&self) -> bool {
        self.reset || self.fin == [true; 2]
    }

    /// Whether a SYN belongs to the flow, or begins another between the same ends.
    fn goes_on(&self, direction: Direction, syn: TcpSigns) -> bool {
        match self.isn {
            // The other end's own SYN: both open at once (RFC 9293 figure 7).
            Some((by, _)) if by != direction => !self.is_over(),
            Some((_, isn)) => isn == syn.seq,
            None => false,
        }
    }

    /// Holds a frame among the last ones; false if it alone is more than may be held.
    fn hold(&mut self, tuple: &Tuple, frame: &Frame<'_>, most: usize) -> bool {
        if frame.data.len() > most {
            return false;
        }
        self.tail_bytes += frame.data.len();
        while self.tail_bytes > most
            && let Some(oldest) = self.tail.pop_front()
        {
            self.tail_bytes -= oldest.data.len();
        }
        let &Frame { ts, wire_len, link, interface, data } = frame;
        self.tail.push_back(TailFrame { tuple: *tuple, ts, wire_len, link, interface, data: data.into() });
        true
    }
}

impl Target {
    /// Whether a flow is meant.
    pub fn means(&self, tuple: &Tuple) -> bool {
        match self {
            Self::Address(address) => tuple.has_address(*address),
            Self::Flow(flow) => flow == tuple,
        }
    }
}

fn is_suspended(suspended: &BTreeSet<Target>, tuple: &Tuple) -> bool {
    !suspended.is_empty()
        && (suspended.contains(&Target::Flow(*tuple))
            || [tuple.ends.lo(), tuple.ends.hi()].iter().any(|end| suspended.contains(&Target::Address(end.addr))))
}

/// FIN and RST of one flow that are kept behind its cutoff: all that a connection needs with repetitions, and a bound on what
/// a flood of forged ones can write.
pub const ENDS_KEPT: u8 = 8;
/// How long a flow that has ended waits for late packets, after each.
const LINGER: Duration = Duration::from_secs(2);

#[cfg(test)]
#[path = "cutoff_tests.rs"]
mod tests;
