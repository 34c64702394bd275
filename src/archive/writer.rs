//! One writer's flows: compresses their segments, and makes a file of each flow that has ended.
//!
//! Does file operations but has no thread and reads no clock: `handle_op` takes work, `advance` tries again what the disk
//! refused, `poll_outcome` tells what became of each flow. Bytes that are not in a file yet stay on the ledger; a finished
//! flow is given up only where the disk refuses while the ledger is over its budget, or after [`Writer::stop_waiting`].

use super::catalogue::RowSender;
use super::file::ArchiveFile;
use super::gzip::{self, EXTRA_OFFSET, Encoder};
use super::merge::{Published, Publisher};
use super::metadata::Metadata;
use super::metrics::ArchiveMetrics;
use super::path::Tree;
use super::pcap::{self, PcapFile};
use super::tcp_info::FinalTcpInfo;
use super::{Refusal, Stage};
use crate::capture::LinkType;
use crate::flow::ledger::{Charge, Ledger};
use crate::flow::segment::Records;
use crate::identity::Name;
use crate::shard::{ArchiveOp, FlowFlags, FlowSerial, FlowSummary};
use crate::time::Timestamp;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// How files are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArchiveConfig {
    /// Where a flow's full segments wait for its end.
    pub mode: Mode,
    /// The snap length in the file headers, bytes.
    pub snaplen: u32,
    /// Whether a file is on the disk, and not only with the kernel, before it appears. Costs milliseconds a file.
    pub fsync: bool,
    /// Whether files have room for the kernel's last word on their connection.
    pub tcp_info: bool,
}

impl ArchiveConfig {
    /// What stands in a file's header until its flow ends.
    fn unfinished(&self) -> Metadata {
        Metadata { tcp_info: self.tcp_info.then(FinalTcpInfo::room), ..Metadata::UNFINISHED }
    }
}

/// Where a flow's full segments wait for its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// In memory, compressed.
    Buffered,
    /// In the flow's temporary file, once it has a name (`-stream`).
    Stream,
}

/// What became of a flow that had ended with a name.
#[derive(Debug)]
pub enum Outcome {
    /// Its file appeared, under all its names.
    Saved {
        /// The file's first name.
        name: Name,
        /// That file's size in bytes.
        bytes: u64,
        /// Whether one of the names was taken and now has both files' packets.
        merged: bool,
    },
    /// It has no file, or not under all its names: the disk refused for longer than the memory lasted.
    GivenUp(Refusal),
}

/// How many writers have something that the disk refuses.
#[derive(Debug, Default)]
pub struct DiskHealth(AtomicUsize);

impl DiskHealth {
    /// Whether the disk takes everything.
    pub fn ok(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Notes that a writer's files are refused from now on.
    pub fn refused(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a writer whose files were refused goes on.
    pub fn accepted(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes files of its share of the flows.
#[derive(Debug)]
pub struct Writer {
    config: ArchiveConfig,
    tree: Arc<Tree>,
    ledger: Arc<Ledger>,
    metrics: ArchiveMetrics,
    health: Arc<DiskHealth>,
    encoder: Encoder,
    open: HashMap<FlowSerial, Parts>,
    /// Finished flows that the disk refused, by when to try again.
    waiting: BTreeMap<(Instant, FlowSerial), Finished>,
    outcomes: VecDeque<(FlowSerial, Outcome)>,
    refused: bool,
    /// Whether a file was given up since the disk last took everything.
    gave_up: bool,
    stopping: bool,
    catalogue: Option<RowSender>,
}

impl Writer {
    /// A writer without flows.
    pub fn new(
        config: ArchiveConfig,
        tree: Arc<Tree>,
        ledger: Arc<Ledger>,
        metrics: ArchiveMetrics,
        health: Arc<DiskHealth>,
    ) -> Self {
        Self {
            config,
            tree,
            ledger,
            metrics,
            health,
            encoder: Encoder::new(),
            open: HashMap::new(),
            waiting: BTreeMap::new(),
            outcomes: VecDeque::new(),
            refused: false,
            gave_up: false,
            stopping: false,
            catalogue: None,
        }
    }

    /// The writer with a catalogue of what it publishes.
    pub fn with_catalogue(self, catalogue: Option<RowSender>) -> Self {
        Self { catalogue, ..self }
    }

    /// Does one operation; `now` is only for the time of another attempt where the disk refuses.
    pub fn handle_op(&mut self, op: ArchiveOp, now: Instant) {
        match op {
            ArchiveOp::Segment { flow, link, name, records } => {
                let mut parts = self.open.remove(&flow).unwrap_or_default();
                self.add(&mut parts, link, records);
                if let (Mode::Stream, Some(name)) = (self.config.mode, name) {
                    self.stream(&mut parts, link, &name);
                }
                self.open.insert(flow, parts);
            }
            ArchiveOp::Finish { flow, records, summary } => self.finish_flow(flow, records, summary, now),
            ArchiveOp::Discard { flow } => {
                if let Some(Stored { path, .. }) = self.open.remove(&flow).and_then(|parts| parts.stored) {
                    let _ = fs::remove_file(path);
                }
                self.metrics.flows.discarded.inc();
            }
        }
    }

    /// Tries one file that is due again and says whether there was one. One, because there may be a hundred thousand when
    /// the disk was full for an hour: other work, and a sign of life, must come in between.
    pub fn advance(&mut self, now: Instant) -> bool {
        let due = self.waiting.first_entry().filter(|entry| entry.key().0 <= now || self.stopping);
        let Some(finished) = due.map(|entry| entry.remove()) else { return false };
        self.metrics.waiting.dec();
        self.attempt(finished, now);
        true
    }

    /// From now on whatever the disk refuses is given up at once, and what waits is due for one more attempt.
    pub fn stop_waiting(&mut self) {
        self.stopping = true;
    }

    /// What became of a flow; `None` until another is done with.
    pub fn poll_outcome(&mut self) -> Option<(FlowSerial, Outcome)> {
        self.outcomes.pop_front()
    }

    /// When [`Writer::advance`] has something to try; `None` where nothing waits.
    pub fn next_attempt(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// Compresses records and keeps them as a member of the flow's file.
    fn add(&mut self, parts: &mut Parts, link: LinkType, records: Records) {
        let Records { mut bytes, mut charge } = records;
        parts.moved |= pcap::sort_by_time(&mut bytes);
        let (mut packets, mut first, mut last) = (0, None, parts.last);
        for record in pcap::records(&bytes) {
            first = first.or(Some(record.ts()));
            last = last.max(record.ts());
            packets += 1;
        }
        // Only the whole file can be sorted, at the end.
        parts.disordered |= first.is_some_and(|first| first < parts.last);
        parts.last = last;
        let timer = self.metrics.compress_seconds.start_timer();
        let member = if parts.is_empty() {
            let header = pcap::file_header(link, self.config.snaplen);
            self.encoder.member(Some(&self.config.unfinished()), &[&header, &bytes])
        } else {
            self.encoder.member(None, &[&bytes])
        };
        timer.observe_duration();
        drop(bytes);
        charge.resize(member.len());
        self.metrics.members.inc();
        parts.members.push(Member { bytes: member, packets, _charge: charge });
    }

    /// Moves an open flow's members to its temporary file; where the disk refuses they wait for the next segment, or are
    /// lost if there is no memory for that.
    fn stream(&mut self, parts: &mut Parts, link: LinkType, name: &Name) {
        if let Err(refusal) = self.store(parts, link, name) {
            self.metrics.retries.with_label_values(&[refusal.stage.as_str()]).inc();
            self.note_refusal(&refusal);
            if !self.ledger.fits(0) {
                parts.lost += parts.members.drain(..).map(|m| m.packets).sum::<u64>();
            }
        } else {
            self.note_success();
        }
    }

    fn finish_flow(&mut self, flow: FlowSerial, records: Records, summary: FlowSummary, now: Instant) {
        let mut parts = self.open.remove(&flow).unwrap_or_default();
        if parts.is_empty() || !records.bytes.is_empty() {
            self.add(&mut parts, summary.link, records);
        }
        self.metrics.writing.inc();
        self.attempt(Finished { flow, summary, parts, merged: false, delay: FIRST_DELAY }, now);
    }

    fn attempt(&mut self, mut finished: Finished, now: Instant) {
        let timer = self.metrics.write_seconds.start_timer();
        let result = self.publish(&mut finished);
        timer.observe_duration();
        let outcome = match result {
            Ok((name, bytes)) => {
                self.note_success();
                if finished.parts.moved {
                    self.metrics.sorted.inc();
                }
                self.metrics.lost_packets.inc_by(finished.parts.lost);
                self.metrics.flows.saved.inc();
                Outcome::Saved { name, bytes, merged: finished.merged }
            }
            Err(refusal) => {
                self.metrics.retries.with_label_values(&[refusal.stage.as_str()]).inc();
                self.note_refusal(&refusal);
                if !self.stopping && self.ledger.fits(0) {
                    let due = now + finished.delay;
                    finished.delay = (finished.delay * 2).min(LONGEST_DELAY);
                    self.waiting.insert((due, finished.flow), finished);
                    self.metrics.waiting.inc();
                    return;
                }
                // What a streamed flow has on disk stays there, for the next start's salvage.
                if !self.gave_up {
                    self.gave_up = true;
                    warn!(error = %refusal, "gives up files that the disk refuses; flowarc_archive_flows_total counts them");
                }
                // Who has given up all has nothing that the disk refuses. A host that is not ready may get no traffic, and without it
                // nothing would ever be tried again.
                if self.refused && self.waiting.is_empty() {
                    self.refused = false;
                    self.health.accepted();
                }
                self.metrics.flows.given_up.inc();
                self.metrics.predecessor.saver_errors.with_label_values(&[refusal.stage.as_str()]).inc();
                Outcome::GivenUp(refusal)
            }
        };
        debug!(flow = finished.flow.0, ?outcome, "done with a flow");
        self.metrics.writing.dec();
        self.outcomes.push_back((finished.flow, outcome));
    }

    /// Makes a finished flow's file appear under the names that it does not have yet.
    fn publish(&mut self, finished: &mut Finished) -> Result<(Name, u64), Refusal> {
        let (temp, len) = self.complete(finished)?;
        let result = self.publish_names(finished, &temp, len);
        if result.is_err() && finished.parts.stored.is_none() {
            let _ = fs::remove_file(&temp);
        }
        result
    }

    /// The last name's turn is first, so that the file itself stays in place until all its links have their names.
    fn publish_names(&mut self, finished: &mut Finished, temp: &Path, len: u64) -> Result<(Name, u64), Refusal> {
        loop {
            let [first, others @ ..] = finished.summary.names.as_slice() else {
                return Err(Stage::WriteFinal.on(temp)(io::Error::other("a flow without a name cannot have a file")));
            };
            let name = others.last().unwrap_or(first);
            let link = match others {
                [] => None,
                _ => Some(self.link(temp, name)?),
            };
            let (tree, ledger, metrics) = (&*self.tree, &self.ledger, &self.metrics);
            let (fsync, catalogue) = (self.config.fsync, self.catalogue.as_ref());
            let mut publisher = Publisher { tree, encoder: &mut self.encoder, ledger, metrics, fsync, catalogue };
            let published = publisher.publish(link.as_deref().unwrap_or(temp), len, name);
            if let (Err(_), Some(link)) = (&published, &link) {
                let _ = fs::remove_file(link);
            }
            let (how, bytes) = published?;
            finished.merged |= how == Published::Merged;
            if link.is_none() {
                return Ok((name.clone(), bytes));
            }
            finished.summary.names.pop();
        }
    }

    /// Another temporary name for a file.
    fn link(&self, temp: &Path, name: &Name) -> Result<PathBuf, Refusal> {
        let link = self.tree.temp_path(name);
        // Some file systems have no hard links.
        fs::hard_link(temp, &link).or_else(|_| fs::copy(temp, &link).map(drop)).map_err(Stage::WriteFinal.on(&link))?;
        Ok(link)
    }

    /// Brings a finished flow's whole file to its temporary path; returns its size in bytes too.
    fn complete(&mut self, finished: &mut Finished) -> Result<(PathBuf, u64), Refusal> {
        let Finished { summary, parts, .. } = finished;
        let Some(name) = summary.names.first() else {
            return Err(Stage::WriteFinal.on(self.tree.temp())(io::Error::other("a flow without a name")));
        };
        if parts.disordered {
            self.sort(parts, summary.link)?;
        }
        if parts.stored.is_some() {
            self.store(parts, summary.link, name)?;
        }
        let extra = parts.metadata(summary, self.config).extra_field();
        if let Some(stored) = &parts.stored {
            let patched = OpenOptions::new().write(true).open(&stored.path).and_then(|file| {
                file.write_all_at(extra.as_bytes(), EXTRA_OFFSET as u64)?;
                if self.config.fsync { file.sync_all() } else { Ok(()) }
            });
            return patched.map(|()| (stored.path.clone(), stored.len)).map_err(Stage::WriteFinal.on(&stored.path));
        }
        if let Some(first) = parts.members.first_mut() {
            first.bytes[EXTRA_OFFSET..][..extra.as_bytes().len()].copy_from_slice(extra.as_bytes());
        }
        let (path, mut file) = self.tree.create(name)?;
        let written = parts.write_to(&mut file).and_then(|len| {
            if self.config.fsync {
                file.sync_all()?;
            }
            Ok(len)
        });
        match written {
            Ok(len) => Ok((path, len)),
            Err(e) => {
                let _ = fs::remove_file(&path);
                Err(Stage::WriteFinal.on(path)(e))
            }
        }
    }

    /// Moves the members in memory to the end of the flow's temporary file, making that if there is none.
    fn store(&mut self, parts: &mut Parts, link: LinkType, name: &Name) -> Result<(), Refusal> {
        if let Some(stored) = &parts.stored {
            match fs::metadata(&stored.path) {
                // Somebody cleaned the temporary folder: what was in the file is lost, the rest needs a file header.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    debug!(path = %stored.path.display(), packets = stored.packets, "a temporary file vanished");
                    parts.lost += stored.packets;
                    parts.stored = None;
                    let header = pcap::file_header(link, self.config.snaplen);
                    let bytes = self.encoder.member(Some(&self.config.unfinished()), &[&header]);
                    let charge = self.ledger.charge(bytes.len());
                    parts.members.insert(0, Member { bytes, packets: 0, _charge: charge });
                }
                _ if parts.members.is_empty() => return Ok(()),
                _ => {}
            }
        }
        let (path, opened, len, packets, stage) = match parts.stored.take() {
            Some(Stored { path, len, packets }) => {
                let opened = OpenOptions::new().append(true).open(&path);
                (path, opened, len, packets, Stage::Streaming)
            }
            None => {
                let (path, file) = self.tree.create(name)?;
                (path, Ok(file), 0, 0, Stage::WritePartial)
            }
        };
        let written = opened.map_err(Stage::FileOpen.on(&path)).and_then(|mut file| {
            parts.write_to(&mut file).map_err(|e| {
                // A member that is there in part would hide those that are appended later.
                let _ = file.set_len(len);
                stage.on(&path)(e)
            })
        });
        match written {
            Ok(more) => {
                let packets = packets + parts.members.drain(..).map(|m| m.packets).sum::<u64>();
                parts.stored = Some(Stored { path, len: len + more, packets });
                Ok(())
            }
            Err(refusal) => {
                if len == 0 {
                    let _ = fs::remove_file(&path);
                } else {
                    parts.stored = Some(Stored { path, len, packets });
                }
                Err(refusal)
            }
        }
    }

    /// Brings a flow whose segments overlap in time back into memory, in order.
    fn sort(&mut self, parts: &mut Parts, link: LinkType) -> Result<(), Refusal> {
        let mut file = Vec::new();
        if let Some(stored) = &parts.stored {
            match fs::read(&stored.path) {
                Ok(bytes) => file = bytes,
                // It will be found missing, and counted, when the rest is stored.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    parts.disordered = false;
                    return Ok(());
                }
                Err(e) => return Err(Stage::WriteFinal.on(&stored.path)(e)),
            }
        }
        for member in &parts.members {
            file.extend_from_slice(&member.bytes);
        }
        parts.disordered = false;
        let Some(content) = gzip::decode(&file).ok().and_then(|d| PcapFile::parse(&d.bytes).ok()) else {
            warn!(bytes = file.len(), "a flow is too large to be sorted; its packets stay in the order of capture");
            parts.moved = false;
            return Ok(());
        };
        drop(file);
        let PcapFile { snaplen, mut records, .. } = content;
        let mut charge = self.ledger.charge(2 * records.len());
        parts.moved |= pcap::sort_by_time(&mut records);
        let metadata = Some(self.config.unfinished());
        let sorted = ArchiveFile { link, snaplen, metadata, records, whole: true };
        let packets = sorted.packets();
        let bytes = sorted.encode(&mut self.encoder).into_boxed_slice();
        charge.resize(bytes.len());
        parts.members = vec![Member { bytes, packets, _charge: charge }];
        if let Some(stored) = parts.stored.take() {
            let _ = fs::remove_file(stored.path);
        }
        Ok(())
    }

    fn note_refusal(&mut self, refusal: &Refusal) {
        if !self.refused {
            self.refused = true;
            self.health.refused();
            warn!(error = %refusal, "the disk refuses files; they wait in memory");
        }
    }

    fn note_success(&mut self) {
        if !self.waiting.is_empty() {
            return;
        }
        self.gave_up = false;
        if std::mem::take(&mut self.refused) {
            self.health.accepted();
            info!("the disk takes files again");
        }
    }
}

/// A flow's file so far: what is in its temporary file, then what is in memory.
#[derive(Debug, Default)]
struct Parts {
    stored: Option<Stored>,
    members: Vec<Member>,
    /// The latest packet's time.
    last: Timestamp,
    /// Whether packets came out of time order.
    moved: bool,
    /// Whether a segment has packets older than the one before it.
    disordered: bool,
    /// Packets that were to be in the file and will not be.
    lost: u64,
}

/// The beginning of a file on disk, in whole members.
#[derive(Debug)]
struct Stored {
    path: PathBuf,
    len: u64,
    packets: u64,
}

/// A compressed member, on the ledger.
#[derive(Debug)]
struct Member {
    bytes: Box<[u8]>,
    packets: u64,
    _charge: Charge,
}

/// A flow that has ended and has no file yet.
#[derive(Debug)]
struct Finished {
    flow: FlowSerial,
    /// Its names are those that are still to be published.
    summary: FlowSummary,
    parts: Parts,
    merged: bool,
    delay: Duration,
}

impl Parts {
    /// Whether the next member will be the file's first.
    fn is_empty(&self) -> bool {
        self.stored.is_none() && self.members.is_empty()
    }

    /// Writes the members in memory and returns their length.
    fn write_to(&self, file: &mut File) -> io::Result<u64> {
        let mut len = 0;
        for member in &self.members {
            file.write_all(&member.bytes)?;
            len += member.bytes.len() as u64;
        }
        Ok(len)
    }

    /// What the file is to say, as long as what stands in it now.
    fn metadata(&self, summary: &FlowSummary, config: ArchiveConfig) -> Metadata {
        let mut metadata = Metadata::of(summary);
        metadata.tcp_info = metadata.tcp_info.or(config.unfinished().tcp_info).filter(|_| config.tcp_info);
        if self.moved {
            metadata.flags.set(FlowFlags::SORTED);
        }
        if self.lost > 0 {
            metadata.flags.set(FlowFlags::TRUNCATED);
            metadata.packets_kept = u32::try_from(summary.packets_kept.saturating_sub(self.lost)).unwrap_or(u32::MAX);
        }
        metadata
    }
}

/// Between a refusal and the next attempt; doubles up to [`LONGEST_DELAY`].
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
