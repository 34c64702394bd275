//! What the archive's tests share.

use super::metrics::ArchiveMetrics;
use super::path::Tree;
use super::writer::{ArchiveConfig, Mode};
use crate::capture::LinkType;
use crate::flow::ledger::Ledger;
use crate::flow::segment::Records;
use crate::identity::{FlowUuid, Name};
use crate::metrics::PredecessorMetrics;
use crate::shard::{ArchiveOp, EndReason, FlowFlags, FlowSerial, FlowSummary};
use crate::time::{CivilDate, Timestamp};
use prometheus::Registry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A canonical record at `nanos` since the epoch.
pub(crate) fn record(nanos: u64, data: &[u8]) -> Vec<u8> {
    let fields = [(nanos / 1_000_000_000) as u32, (nanos % 1_000_000_000) as u32, data.len() as u32, data.len() as u32];
    let mut bytes: Vec<u8> = fields.iter().flat_map(|f| f.to_le_bytes()).collect();
    bytes.extend_from_slice(data);
    bytes
}

/// A name of 21 November 2026.
pub(crate) fn name(uuid: &str) -> Name {
    Name { date: CivilDate { year: 2026, month: 11, day: 21 }, uuid: FlowUuid::parse(uuid).unwrap() }
}

pub(crate) fn metrics() -> ArchiveMetrics {
    let registry = Registry::new();
    ArchiveMetrics::register(&registry, PredecessorMetrics::register(&registry))
}

/// A data folder that is removed after the test, and a ledger that must be empty by then.
pub(crate) struct Bench {
    pub(crate) tree: Arc<Tree>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) metrics: ArchiveMetrics,
    pub(crate) dir: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    pub(crate) fn within(parent: &Path) -> Self {
        let dir = tempfile::tempdir_in(parent).unwrap();
        let tree = Arc::new(Tree::open(&dir.path().join("pcap"), None).unwrap());
        Self { tree, ledger: Ledger::new(1 << 20), metrics: metrics(), dir }
    }

    /// Every file below the data folder and the temporary folder, but for locks.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else if !entry.file_name().to_str().unwrap().starts_with(".lock") {
                    files.push(entry.path());
                }
            }
        }
        files.sort();
        files
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.ledger.held(), 0, "bytes left on the ledger");
        }
    }
}

pub(crate) const BUFFERED: ArchiveConfig = ArchiveConfig { mode: Mode::Buffered, snaplen: 256, fsync: false, tcp_info: false };
pub(crate) const STREAM: ArchiveConfig = ArchiveConfig { mode: Mode::Stream, snaplen: 256, fsync: true, tcp_info: false };

/// Packets by time in nanoseconds and content, charged as a shard does.
pub(crate) fn records(bench: &Bench, packets: &[(u64, &[u8])]) -> Records {
    let bytes: Vec<u8> = packets.iter().flat_map(|(ts, data)| record(*ts, data)).collect();
    let charge = bench.ledger.charge(bytes.len());
    Records { bytes, charge }
}

/// A full segment of a flow.
pub(crate) fn segment(bench: &Bench, flow: u64, uuid: Option<&str>, packets: &[(u64, &[u8])]) -> ArchiveOp {
    let records = records(bench, packets);
    ArchiveOp::Segment { flow: FlowSerial(flow), link: LinkType::Ethernet, name: uuid.map(name), records }
}

/// A flow's end by FIN; the summary counts only these packets.
pub(crate) fn finish(bench: &Bench, flow: u64, uuids: &[&str], packets: &[(u64, &[u8])]) -> ArchiveOp {
    let time = |packet: Option<&(u64, &[u8])>| Timestamp::from_nanos(packet.map_or(0, |(ts, _)| *ts));
    let summary = FlowSummary {
        names: uuids.iter().map(|uuid| name(uuid)).collect(),
        link: LinkType::Ethernet,
        end: EndReason::Fin,
        first: time(packets.first()),
        last: time(packets.last()),
        packets_seen: packets.len() as u64,
        packets_kept: packets.len() as u64,
        kernel_drops: 0,
        flags: FlowFlags(FlowFlags::HANDSHAKE),
        last_word: None,
    };
    ArchiveOp::Finish { flow: FlowSerial(flow), records: records(bench, packets), summary }
}
