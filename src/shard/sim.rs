//! A shard with a virtual clock: written packets in, files out.

use super::*;
use crate::capture::LinkType;
use crate::identity::{Announcement, EventMetrics, EventOutcome, Opened, UuidEvent};
use crate::key::FlowUuid;
use crate::key::{Endpoint, Name, UuidSource};
use crate::metrics::PredecessorMetrics;
use crate::packet::Tcp;
use crate::time::CivilDate;
use std::collections::HashMap;

pub(super) const SYN: u8 = Tcp::SYN;
pub(super) const ACK: u8 = Tcp::ACK;
pub(super) const FIN: u8 = Tcp::FIN;
pub(super) const RST: u8 = Tcp::RST;

pub(super) const CLIENT: Endpoint = Endpoint { addr: Address::v4([192, 0, 2, 7]), port: 50_000 };
pub(super) const OTHER: Endpoint = Endpoint { addr: Address::v4([192, 0, 2, 8]), port: 50_000 };
pub(super) const SERVER: Endpoint = Endpoint { addr: Address::v4([198, 51, 100, 1]), port: 443 };

pub(super) fn at(ms: u64) -> Timestamp {
    Timestamp::from_parts(1_795_218_624, 0) + Duration::from_millis(ms)
}

/// A shard with a virtual clock and a writer that keeps everything.
pub(super) struct Sim {
    pub(super) shard: Shard,
    pub(super) ledger: Arc<Ledger>,
    pub(super) limit: Arc<FlowLimit>,
    pub(super) events: EventMetrics,
    pub(super) interface: u32,
    pub(super) gone: bool,
    pub(super) source: UuidSource,
    pub(super) beat: Option<Duration>,
    pub(super) now: Timestamp,
    pub(super) sent: u64,
    pub(super) segments: usize,
    pub(super) open: HashMap<FlowSerial, Vec<u8>>,
    pub(super) files: Vec<File>,
}

#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) summary: FlowSummary,
    pub(super) records: Vec<u8>,
    pub(super) packets: usize,
}

impl File {
    pub(super) fn facts(&self) -> (Vec<Name>, u8, Timestamp, u64, u16, Vec<u8>) {
        let s = &self.summary;
        (s.names.clone(), s.end as u8, s.first, s.packets_seen, s.flags.0, self.records.clone())
    }
}

impl Sim {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut ShardConfig)) -> Self {
        Self::with_budget(u64::MAX, change)
    }

    pub(super) fn with_limit(flows: u64) -> Self {
        Self::build(u64::MAX, flows, |_| {})
    }

    pub(super) fn with_budget(budget: u64, change: impl FnOnce(&mut ShardConfig)) -> Self {
        Self::build(budget, 0, change)
    }

    pub(super) fn build(budget: u64, flows: u64, change: impl FnOnce(&mut ShardConfig)) -> Self {
        let mut config = ShardConfig {
            timers: Timers {
                capture: Duration::from_secs(30),
                uuid_wait: Duration::from_secs(5),
                idle: Duration::from_secs(30),
                unnamed_idle: Duration::from_secs(30),
                half_open: Duration::from_secs(5),
                linger: Duration::from_secs(1),
                seal: None,
            },
            naming: Naming::Announced,
            announcement_wait: Some(Duration::from_secs(30)),
            half_open_max: 1_000,
            scrub: ScrubPolicy::default(),
            deduplicate: false,
            shed: true,
            ask: false,
            compare: false,
            shunt: false,
            idle_bytes: 0,
        };
        change(&mut config);
        let (ledger, limit) = (Ledger::new(budget), FlowLimit::new(flows));
        let registry = prometheus::Registry::new();
        Self {
            shard: Shard::new(0, config, Arc::clone(&ledger), Arc::clone(&limit)),
            events: EventMetrics::register(&registry, &PredecessorMetrics::register(&registry)),
            ledger,
            limit,
            interface: 1,
            gone: false,
            source: UuidSource::EventSocket,
            beat: None,
            now: at(0),
            sent: 0,
            segments: 0,
            open: HashMap::new(),
            files: Vec::new(),
        }
    }

    pub(super) fn frame(&mut self, ts: Timestamp, data: &[u8]) {
        self.go_to(ts);
        let frame = Frame { ts, wire_len: data.len() as u32, link: LinkType::Ethernet, interface: self.interface, data };
        self.shard.handle_frame(&frame, self.now);
        self.sent += 1;
        self.collect();
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn send(&mut self, ts: Timestamp, src: Endpoint, dst: Endpoint, flags: u8, seq: u32, ack: u32, payload: usize) {
        let mut f = vec![2; 12];
        f.extend([8, 0, 0x45, 0]);
        f.extend((40 + payload as u16).to_be_bytes());
        f.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        f.extend(src.addr.as_v4().unwrap());
        f.extend(dst.addr.as_v4().unwrap());
        f.extend(src.port.to_be_bytes());
        f.extend(dst.port.to_be_bytes());
        f.extend(seq.to_be_bytes());
        f.extend(ack.to_be_bytes());
        f.extend([0x50, flags, 1, 0, 0, 0, 0, 0]);
        f.extend(vec![b'x'; payload]);
        self.frame(ts, &f);
    }

    pub(super) fn handshake(&mut self, ts: Timestamp, isn: u32) {
        self.handshake_of(ts, CLIENT, SERVER, isn);
    }

    pub(super) fn handshake_of(&mut self, ts: Timestamp, client: Endpoint, server: Endpoint, isn: u32) {
        self.send(ts, client, server, SYN, isn, 0, 0);
        self.send(ts, server, client, SYN | ACK, 500, isn + 1, 0);
        self.send(ts, client, server, ACK, isn + 1, 501, 0);
    }

    /// A whole connection: seven packets in 50 ms.
    pub(super) fn connection(&mut self, ts: Timestamp, isn: u32) {
        self.handshake(ts, isn);
        let ts = ts + Duration::from_millis(50);
        self.send(ts, CLIENT, SERVER, ACK, isn + 1, 501, 100);
        self.send(ts, CLIENT, SERVER, FIN | ACK, isn + 101, 501, 0);
        self.send(ts, SERVER, CLIENT, FIN | ACK, 501, isn + 102, 0);
        self.send(ts, CLIENT, SERVER, ACK, isn + 102, 502, 0);
    }

    pub(super) fn announce(&mut self, now: Timestamp, name: &str, local: Endpoint, remote: Endpoint) {
        self.announce_at(now, now, name, local, remote);
    }

    pub(super) fn announce_at(&mut self, now: Timestamp, noticed: Timestamp, name: &str, local: Endpoint, remote: Endpoint) {
        let name = Name { date: CivilDate::from_utc(noticed), uuid: FlowUuid::parse(name).unwrap() };
        self.event(now, UuidEvent::Open(Opened { name, at: noticed, local, remote, gone: self.gone, source: self.source }));
    }

    pub(super) fn close(&mut self, now: Timestamp, name: &str) {
        self.event(now, UuidEvent::Close { uuid: FlowUuid::parse(name).unwrap(), at: now, last_word: None });
    }

    pub(super) fn event(&mut self, now: Timestamp, event: UuidEvent) {
        self.go_to(now);
        self.shard.handle_event(&Announcement::new(event, &self.events), self.now);
        self.collect();
    }

    /// Lets time pass, at one go or beat by beat, as batches and idle rings do.
    pub(super) fn go_to(&mut self, ts: Timestamp) {
        while let Some(beat) = self.beat
            && self.now + beat < ts
        {
            self.now = self.now + beat;
            self.shard.advance(self.now);
        }
        self.now = self.now.max(ts);
    }

    pub(super) fn pass(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        self.shard.advance(self.now);
        self.collect();
    }

    pub(super) fn end(&mut self) {
        let mut ops = Vec::new();
        self.shard.finish(EndReason::EndOfInput, self.now, |op| ops.push(op));
        ops.into_iter().for_each(|op| self.archive(op));
        self.collect();
    }

    pub(super) fn collect(&mut self) {
        while let Some(op) = self.shard.poll_archive() {
            self.archive(op);
        }
    }

    fn archive(&mut self, op: ArchiveOp) {
        match op {
            ArchiveOp::Segment { flow, records, .. } => {
                self.segments += 1;
                self.open.entry(flow).or_default().extend(records.bytes);
            }
            ArchiveOp::Finish { flow, records, summary } => {
                let mut bytes = self.open.remove(&flow).unwrap_or_default();
                bytes.extend(records.bytes);
                let packets = count(&bytes);
                assert_eq!(summary.packets_kept, packets as u64);
                self.files.push(File { name: summary.names[0].uuid.to_string(), summary, records: bytes, packets });
            }
            ArchiveOp::Discard { flow } => {
                self.open.remove(&flow).expect("only flows with segments are discarded");
            }
        }
    }

    pub(super) fn files(&self) -> Vec<File> {
        self.files.clone()
    }

    pub(super) fn events(&self, outcome: EventOutcome) -> u64 {
        self.events.counted(outcome)
    }

    pub(super) fn check_conservation(&mut self) {
        let live = self.shard.table.ids().iter().filter(|id| self.shard.table.get(**id).unwrap().is_live()).count() as u64;
        let stats = self.shard.stats();
        assert_eq!(stats.frames_total(), self.sent);
        assert_eq!(stats.flows_started, stats.flows_total() + live);
        assert_eq!(stats.flows_with(FlowOutcome::Archived), self.files.len() as u64);
    }
}

fn count(mut records: &[u8]) -> usize {
    let mut n = 0;
    while !records.is_empty() {
        let len = u32::from_le_bytes(records[8..12].try_into().unwrap()) as usize;
        records = &records[16 + len..];
        n += 1;
    }
    n
}
