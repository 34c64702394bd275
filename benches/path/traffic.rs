//! Frames of any number of flows, made one after the other without a file: Ethernet, IPv4, TCP with timestamps.

use flowarc::capture::{Frame, LinkType};
use flowarc::identity::{Announcement, EventMetrics, FlowUuid, Name, Opened, UuidEvent, UuidSource};
use flowarc::key::{Address, Endpoint};
use flowarc::metrics::PredecessorMetrics;
use flowarc::time::{CivilDate, Timestamp};
use std::sync::Arc;

/// Packets of a short flow.
pub(crate) const PACKETS: u32 = 20;

/// Flows, and where in their lives they are.
pub(crate) struct Traffic {
    flows: u32,
    /// Changes when all flows are replaced by others.
    generation: u32,
    frames: u64,
    random: u64,
}

/// Which flow is next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// One after the other, and again.
    RoundRobin,
    /// Any.
    Random,
}

impl Traffic {
    pub(crate) fn new(flows: u32) -> Self {
        Self { flows, generation: 0, frames: 0, random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// Other flows from now on.
    pub(crate) fn renew(&mut self) {
        self.generation += 1;
        self.frames = 0;
    }

    /// Packet time: it moves with the frames, by 10 ns each.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_nanos(START + u64::from(self.generation) * 1_000_000_000 + 10 * self.frames)
    }

    /// The ends of a flow, the remote one first.
    fn ends(&self, flow: u32) -> [Endpoint; 2] {
        let id = flow + self.generation * self.flows;
        let remote = Endpoint { addr: Address::v4((0x0a00_0000 + id / 16).to_be_bytes()), port: 1024 + (id % 16) as u16 };
        [remote, Endpoint { addr: Address::v4([192, 0, 2, 1]), port: 443 }]
    }

    /// Gives out the next frame and its time.
    pub(crate) fn next(&mut self, order: Order, sink: impl FnOnce(&Frame<'_>, Timestamp)) {
        let round = (self.frames / u64::from(self.flows)) as u32;
        let flow = match order {
            Order::RoundRobin => (self.frames % u64::from(self.flows)) as u32,
            Order::Random => {
                // Marsaglia, "Xorshift RNGs", 2003.
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                (((self.random >> 32) * u64::from(self.flows)) >> 32) as u32
            }
        };
        self.frames += 1;
        let now = self.now();
        let [remote, local] = self.ends(flow);
        let from_remote = round.is_multiple_of(2);
        let (src, dst) = if from_remote { (remote, local) } else { (local, remote) };
        let mut data = TEMPLATE;
        data[26..30].copy_from_slice(&src.addr.0[12..]);
        data[30..34].copy_from_slice(&dst.addr.0[12..]);
        data[34..36].copy_from_slice(&src.port.to_be_bytes());
        data[36..38].copy_from_slice(&dst.port.to_be_bytes());
        data[18..20].copy_from_slice(&(round as u16).to_be_bytes());
        data[38..42].copy_from_slice(&(flow ^ round.wrapping_mul(1448)).to_be_bytes());
        data[42..46].copy_from_slice(&(flow.wrapping_add(round)).to_be_bytes());
        data[47] = match round {
            0 => SYN,
            1 => SYN | ACK,
            _ => ACK,
        };
        data[58..62].copy_from_slice(&(now.as_nanos() as u32 >> 10).to_be_bytes());
        sink(&Frame { ts: now, wire_len: 66, link: LinkType::Ethernet, interface: 1, data: &data }, now);
    }
}

/// Names the flows as an event source does.
pub(crate) struct Announcer {
    metrics: EventMetrics,
}

impl Announcer {
    pub(crate) fn new() -> Self {
        let registry = prometheus::Registry::new();
        let predecessor = PredecessorMetrics::register(&registry);
        Self { metrics: EventMetrics::register(&registry, &predecessor) }
    }

    pub(crate) fn announce(&self, traffic: &Traffic, flow: u32) -> Arc<Announcement> {
        let [remote, local] = traffic.ends(flow);
        let uuid = FlowUuid::parse(&format!("bench_1700000000_{:016X}", flow + traffic.generation * traffic.flows));
        let name = Name { date: CivilDate { year: 2023, month: 11, day: 14 }, uuid: uuid.expect("fit for a file name") };
        let opened = Opened { name, at: traffic.now(), local, remote, gone: false, source: UuidSource::EventSocket };
        Announcement::new(UuidEvent::Open(opened), &self.metrics)
    }
}

/// 2023-11-14T22:13:20Z.
const START: u64 = 1_700_000_000_000_000_000;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A header with everything that is the same in all frames.
const TEMPLATE: [u8; 66] = {
    let mut frame = [0; 66];
    frame[12] = 0x08;
    frame[14] = 0x45;
    frame[17] = 52;
    frame[20] = 0x40;
    frame[22] = 64;
    frame[23] = 6;
    frame[46] = 0x80;
    frame[48] = 0x01;
    frame[54] = 1;
    frame[55] = 1;
    frame[56] = 8;
    frame[57] = 10;
    frame
};
