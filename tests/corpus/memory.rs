//! The whole way of the data in memory, from a capture file's bytes to archive files, with what must hold of any input.
//!
//! Included by fuzz/ too, where the input is the fuzzer's.

use flowarc::archive::file::ArchiveFile;
use flowarc::archive::gzip::Encoder;
use flowarc::archive::metadata::Metadata;
use flowarc::archive::pcap;
use flowarc::capture::file::FileSource;
use flowarc::capture::{Frame, PacketSource, Progress};
use flowarc::flow::ledger::Ledger;
use flowarc::flow::state::Timers;
use flowarc::packet;
use flowarc::scrub::{Anonymize, Hide, ScrubPolicy, Scrubber};
use flowarc::shard::{
    ArchiveOp, EndReason, FlowLimit, FlowOutcome, FlowSerial, FrameOutcome, Naming, Shard, ShardConfig, ShardStats,
};
use flowarc::time::Timeline;
use std::collections::HashMap;
use std::io::Cursor;
use std::time::Duration;

/// What a replay is told, beside its input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) policy: ScrubPolicy,
    /// Bytes that flows may hold.
    pub(crate) budget: u64,
    /// Flows in their handshake that are held at once.
    pub(crate) half_open_max: usize,
    /// Established flows that are held at once.
    pub(crate) max_flows: u64,
    pub(crate) keep_half_open: bool,
    /// Whether flows are sent to the archive in pieces of a second, as `-stream` does.
    pub(crate) seal: bool,
}

impl Setup {
    /// One of all kinds of setup; `n` says which.
    pub(crate) fn number(n: u8) -> Self {
        let bit = |i: u32| n >> i & 1 == 1;
        Self {
            policy: ScrubPolicy {
                anonymize: if bit(0) { Anonymize::Netblock } else { Anonymize::None },
                keep_linktype: bit(1),
                mac: bit(2),
                ip_id: bit(2),
                tcp_timestamps: bit(3),
                tcp_checksums: bit(3),
            },
            // The least lets nothing but a few small flows in.
            budget: if bit(4) { 200_000 } else { 1 << 30 },
            half_open_max: if bit(5) { 2 } else { 100_000 },
            max_flows: if bit(5) { 3 } else { 0 },
            keep_half_open: bit(6),
            seal: bit(7),
        }
    }

    fn shard(&self) -> ShardConfig {
        let idle = Duration::from_secs(30);
        ShardConfig {
            timers: Timers {
                capture: Duration::from_secs(30),
                uuid_wait: Duration::from_secs(5),
                idle,
                unnamed_idle: idle,
                half_open: idle,
                linger: Duration::from_secs(1),
                seal: self.seal.then_some(Duration::from_secs(1)),
            },
            naming: Naming::Generated { keep_half_open: self.keep_half_open },
            announcement_wait: None,
            half_open_max: self.half_open_max,
            scrub: self.policy,
            deduplicate: true,
            shed: true,
            ask: false,
            compare: false,
            shunt: false,
            idle_bytes: 0,
        }
    }
}

/// What came of a replay.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) stats: ShardStats,
    /// Packets in archive files.
    pub(crate) archived: u64,
    /// Whether the capture could be read to its end.
    pub(crate) whole: bool,
}

/// Takes a capture through everything but the disk.
///
/// # Panics
/// Where a frame has no outcome or two, a flow is lost uncounted, bytes stay on the ledger, or an archive file does not read
/// back as it was written.
pub(crate) fn replay(capture: Vec<u8>, setup: Setup) -> Replayed {
    let ledger = Ledger::new(setup.budget);
    let limit = FlowLimit::new(setup.max_flows);
    let mut shard = Shard::new(0, setup.shard(), ledger.clone(), limit.clone());
    let mut archive = Archive::default();
    let mut timeline = Timeline::new();
    let mut frames = 0;
    let mut whole = false;
    if let Ok(mut source) = FileSource::from_reader("memory".to_owned(), Box::new(Cursor::new(capture))) {
        let mut sink = |frame: Frame<'_>| {
            assert!(frame.wire_len as usize >= frame.data.len());
            frames += 1;
            shard.handle_frame(&frame, timeline.observe(frame.ts));
            while let Some(op) = shard.poll_archive() {
                archive.handle_op(op);
            }
        };
        whole = loop {
            match source.next_batch(&mut sink) {
                Ok(Progress::Ended) => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
    }
    shard.finish(EndReason::EndOfInput, timeline.now(), |op| archive.handle_op(op));
    let stats = shard.stats().clone();
    assert_eq!(stats.frames_total(), frames, "every frame has one outcome");
    assert_eq!(stats.flows_total(), stats.flows_started, "every flow has one outcome");
    assert_eq!(stats.flows_with(FlowOutcome::Archived), archive.files, "every archived flow has a file");
    assert!(archive.open.is_empty(), "no segment is left without an end");
    let kept = stats.frames_with(FrameOutcome::Kept);
    if stats.flows_with(FlowOutcome::Archived) == stats.flows_total() {
        assert_eq!(archive.packets, kept, "every kept frame is in a file");
    } else {
        assert!(archive.packets <= kept);
    }
    assert_eq!(limit.held(), 0);
    shard.give_back();
    assert_eq!(ledger.held(), 0, "bytes left on the ledger");
    Replayed { stats, archived: archive.packets, whole }
}

/// Makes files of what a shard hands over.
#[derive(Default)]
struct Archive {
    encoder: Encoder,
    open: HashMap<FlowSerial, Vec<u8>>,
    files: u64,
    packets: u64,
}

impl Archive {
    fn handle_op(&mut self, op: ArchiveOp) {
        match op {
            ArchiveOp::Segment { flow, records, .. } => self.open.entry(flow).or_default().extend(&records.bytes),
            ArchiveOp::Discard { flow } => drop(self.open.remove(&flow).expect("a discarded flow has segments")),
            ArchiveOp::Finish { flow, records, summary } => {
                let mut bytes = self.open.remove(&flow).unwrap_or_default();
                bytes.extend(&records.bytes);
                pcap::sort_by_time(&mut bytes);
                let file = ArchiveFile {
                    link: summary.link,
                    snaplen: pcap::MAX_SNAPLEN,
                    metadata: Some(Metadata::of(&summary)),
                    records: bytes,
                    whole: true,
                };
                assert_eq!(file.packets(), summary.packets_kept);
                let times: Vec<_> = pcap::records(&file.records).map(|r| r.ts()).collect();
                assert!(times.is_sorted() && !times.is_empty());
                assert!(!summary.names.is_empty());
                assert_eq!(ArchiveFile::parse(&file.encode(&mut self.encoder)).as_ref(), Ok(&file));
                self.files += 1;
                self.packets += file.packets();
            }
        }
    }
}

/// Whether what is kept of a frame depends on nothing but its headers: replaces every byte after them and compares.
///
/// # Panics
/// Where another payload gives another result.
pub(crate) fn check_payload_independence(frame: &Frame<'_>, policy: ScrubPolicy) -> bool {
    let Ok(packet) = packet::parse(frame.link, frame.data) else { return false };
    let mut scrubber = Scrubber::new(policy);
    let hide = Hide { src: true, dst: true };
    let mut scrub = |data: &[u8]| {
        let packet = packet::parse(frame.link, data).expect("payload does not matter to the parser");
        let scrubbed = scrubber.scrub(frame.link, data, frame.wire_len, &packet, hide);
        (packet, scrubbed.bytes().to_vec(), scrubbed.wire_len())
    };
    let original = scrub(frame.data);
    let (headers, payload) = frame.data.split_at(packet.header_len);
    let flipped: Vec<u8> = payload.iter().map(|b| !b).collect();
    for other in [flipped, vec![0; payload.len()], vec![0xff; payload.len()]] {
        assert_eq!(scrub(&[headers, &other].concat()), original, "{:?} {packet:?}", frame.link);
    }
    true
}
