//! Reads a spool back: which segments hold a flow, and its packets, from the blocks that hold them and no others.
//!
//! Segments that are still being written answer too, from their journals. A segment without an index, because the disk had
//! no room for one, is read whole. What is read cannot be removed by retention meanwhile.

use super::Tuple;
use super::filter::{Filter, Matcher};
use super::format::{Compress, Format};
use super::index::{BlockAt, Index, IndexFile, Row, SegmentHead, read_journal};
use super::retention;
use super::segment::{HIDDEN, index_path};
use crate::archive::priority;
use crate::capture::file::FileSource;
use crate::capture::{Frame, LinkType, PacketSource, Progress};
use crate::flow::fragments::Fragments;
use crate::key::Address;
use crate::packet::datagram::{Datagram, Fragment};
use crate::time::Timestamp;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What is wanted. Everything that is given must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Query {
    /// This flow.
    pub flow: Option<Tuple>,
    /// Flows with an end in each of these networks: an address, and how many of its 128 bits count (IPv4: 96 more than
    /// in its own notation).
    pub networks: Vec<(Address, u8)>,
    /// Flows with each of these ports at an end.
    pub ports: Vec<u16>,
    /// Flows of this IP protocol.
    pub protocol: Option<u16>,
    /// Packets from this time on.
    pub from: Option<Timestamp>,
    /// Packets before this time.
    pub to: Option<Timestamp>,
    /// Packets that this means.
    pub filter: Option<Filter>,
}

/// A flow in a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The segment's file.
    pub segment: PathBuf,
    /// What is known of the flow there.
    pub row: Row,
}

/// What was got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Got {
    /// Packets that were written.
    pub packets: u64,
    /// Segments that were read.
    pub segments: u64,
    /// Blocks that were read.
    pub blocks: u64,
    /// Segments that were removed before they could be read.
    pub vanished: u64,
}

/// Why a spool cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A file or folder cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pcap file has one link type.
    #[error("packets of several link types match, {0:?}: narrow the time or the flow so that one is left")]
    SeveralLinks(Vec<LinkType>),
    /// The output takes no more.
    #[error("write: {0}")]
    Write(io::Error),
}

/// Finds flows, oldest segment first, in each by their keys. The filter of a query is not looked at: it means packets.
///
/// # Errors
/// Fails where a folder, index or segment cannot be read.
pub fn find(dir: &Path, query: &Query) -> Result<Vec<Found>, QueryError> {
    let mut found = Vec::new();
    for plan in plans(dir, query)? {
        found.extend(plan.rows.into_iter().map(|row| Found { segment: plan.path.clone(), row }));
    }
    Ok(found)
}

/// Writes the packets of matching flows as a pcap file, in the order of time.
///
/// # Errors
/// Fails where something cannot be read or written, before the first byte if packets are of several link types.
pub fn get(dir: &Path, query: &Query, out: &mut dyn Write) -> Result<Got, QueryError> {
    let mut plans = plans(dir, query)?;
    let links: BTreeMap<u16, LinkType> = plans.iter().map(|p| (p.head.link.number(), p.head.link)).collect();
    if links.len() > 1 {
        return Err(QueryError::SeveralLinks(links.into_values().collect()));
    }
    let link = links.into_values().next().unwrap_or(LinkType::Ethernet);
    out.write_all(&Format::Pcap.prologue(link, SNAPLEN, None)).map_err(QueryError::Write)?;
    plans.sort_by_key(|p| Reverse(p.first));
    let mut got = Got::default();
    let mut check = Check { query, filter: query.filter.as_ref().map(Filter::matcher), fragments: Fragments::default() };
    let mut cursors: Vec<Cursor> = Vec::new();
    let mut heap: BinaryHeap<Reverse<(Timestamp, usize)>> = BinaryHeap::new();
    let mut record = Vec::new();
    loop {
        // A segment is opened when its time has come.
        while plans.last().is_some_and(|p| heap.peek().is_none_or(|Reverse((ts, _))| p.first <= *ts)) {
            let Some(plan) = plans.pop() else { break };
            let Some(mut cursor) = Cursor::open(plan)? else {
                got.vanished += 1;
                continue;
            };
            got.segments += 1;
            if let Some(ts) = cursor.advance(&mut check, &mut got)? {
                heap.push(Reverse((ts, cursors.len())));
                cursors.push(cursor);
            }
        }
        let Some(Reverse((_, at))) = heap.pop() else { break };
        let frame = cursors[at].frame();
        record.clear();
        Format::Pcap.append(&mut record, &frame);
        out.write_all(&record).map_err(QueryError::Write)?;
        got.packets += 1;
        match cursors[at].advance(&mut check, &mut got)? {
            Some(ts) => heap.push(Reverse((ts, at))),
            // Closes the file.
            None => cursors[at].source = Source::Nothing,
        }
    }
    out.flush().map_err(QueryError::Write)?;
    Ok(got)
}

/// Lets capture go first: this process's reads when the disk is idle, its computing when the processor is.
pub fn be_idle() {
    // A refusal leaves things as they were.
    let _ = priority::lower(19);
}

/// What is to be read of a segment.
struct Plan {
    path: PathBuf,
    /// Open already where the file is about to get another name.
    file: Option<File>,
    head: SegmentHead,
    first: Timestamp,
    rows: Vec<Row>,
    blocks: Vec<BlockAt>,
    /// Whether there is no index, so that all of it must be read.
    whole: bool,
}

/// Looks at every segment's index or journal.
fn plans(dir: &Path, query: &Query) -> Result<Vec<Plan>, QueryError> {
    let mut plans = Vec::new();
    // Before the published ones: a segment that is published meanwhile is seen twice, and not missed.
    let mut seen = BTreeSet::new();
    let hidden = dir.join(HIDDEN);
    for entry in fs::read_dir(&hidden).into_iter().flatten().flatten() {
        let path = entry.path();
        if !retention::is_segment(&path) {
            continue;
        }
        // Its names are gone where it was published meanwhile.
        let (Ok(journal), Ok(file)) = (fs::read(index_path(&path)), File::open(&path)) else { continue };
        if let Some(builder) = read_journal(&journal, |_| true) {
            seen.extend(path.file_name().map(ToOwned::to_owned));
            plans.extend(plan(path, Some(file), &builder.build(), query));
        }
    }
    for (path, _) in retention::segments(dir).map_err(|e| unreadable(dir, e))? {
        if path.file_name().is_some_and(|name| seen.contains(name)) {
            continue;
        }
        match IndexFile::open(&index_path(&path)) {
            Ok(index) => plans.extend(from_index(path.clone(), &index, query).map_err(|e| unreadable(&path, e))?),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                plans.extend(without_index(&path, query)?);
            }
            Err(e) => return Err(unreadable(&path, e)),
        }
    }
    plans.sort_by(|a, b| (a.first, &a.path).cmp(&(b.first, &b.path)));
    Ok(plans)
}

fn unreadable(path: &Path, source: io::Error) -> QueryError {
    QueryError::Read { path: path.to_owned(), source }
}

fn from_index(path: PathBuf, index: &IndexFile, query: &Query) -> io::Result<Option<Plan>> {
    let (first, last) = index.span();
    if !query.overlaps(first, last) {
        return Ok(None);
    }
    let Some(tuple) = &query.flow else {
        let Some(whole) = Index::decode(&fs::read(index_path(&path))?) else { return Err(io::ErrorKind::InvalidData.into()) };
        return Ok(plan(path, None, &whole, query));
    };
    let Some(row) = index.find(tuple)?.filter(|row| query.wants(row)) else { return Ok(None) };
    let blocks: Vec<_> = row.blocks.iter().map(|n| index.block(*n)).collect::<io::Result<_>>()?;
    Ok(Some(Plan::new(path, None, index.segment(), vec![row], blocks, query)))
}

fn plan(path: PathBuf, file: Option<File>, index: &Index, query: &Query) -> Option<Plan> {
    let rows: Vec<_> = index.rows.iter().filter(|row| query.wants(row)).cloned().collect();
    let numbers: BTreeSet<u32> = rows.iter().flat_map(|row| row.blocks.iter().copied()).collect();
    let blocks = numbers.iter().map(|n| index.blocks[*n as usize]).collect();
    (!rows.is_empty()).then(|| Plan::new(path, file, index.head, rows, blocks, query))
}

impl Plan {
    fn new(path: PathBuf, file: Option<File>, head: SegmentHead, rows: Vec<Row>, blocks: Vec<BlockAt>, query: &Query) -> Self {
        let blocks: Vec<_> = blocks.into_iter().filter(|b| query.overlaps(b.first, b.last)).collect();
        let first = blocks.iter().map(|b| b.first).min().unwrap_or_default();
        Self { path, file, head, first, rows, blocks, whole: false }
    }
}

/// Reads a segment whole to learn what an index would say; its one block stands for all of it.
fn without_index(path: &Path, query: &Query) -> Result<Option<Plan>, QueryError> {
    let failed = |e: crate::capture::file::FileError| QueryError::Read { path: path.to_owned(), source: io::Error::other(e) };
    let mut rows: BTreeMap<[u8; Tuple::LEN], Row> = BTreeMap::new();
    let mut link = LinkType::Ethernet;
    let mut fragments = Fragments::default();
    let mut source = FileSource::open(path).map_err(failed)?;
    let mut take = |frame: Frame<'_>| {
        link = frame.link;
        let tuple = tuple_of(&frame, &mut fragments);
        let new = || Row { tuple, first: frame.ts, last: frame.ts, packets: 0, blocks: vec![0] };
        let row = rows.entry(tuple.encode()).or_insert_with(new);
        row.packets += 1;
        (row.first, row.last) = (row.first.min(frame.ts), row.last.max(frame.ts));
    };
    while source.next_batch(&mut take).map_err(failed)? != Progress::Ended {}
    let rows: Vec<_> = rows.into_values().filter(|row| query.wants(row)).collect();
    let first = rows.iter().map(|r| r.first).min();
    let head = SegmentHead { format: Format::Pcap, compress: Compress::None, link, prologue_len: 0 };
    Ok(first.map(|first| Plan { path: path.to_owned(), file: None, head, first, rows, blocks: Vec::new(), whole: true }))
}

impl Query {
    fn overlaps(&self, first: Timestamp, last: Timestamp) -> bool {
        self.from.is_none_or(|from| last >= from) && self.to.is_none_or(|to| first < to)
    }

    fn wants(&self, row: &Row) -> bool {
        self.overlaps(row.first, row.last) && self.means(&row.tuple)
    }

    /// Whether a flow is one that is wanted.
    fn means(&self, tuple: &Tuple) -> bool {
        self.flow.is_none_or(|flow| flow == *tuple)
            && self.protocol.is_none_or(|p| p == tuple.protocol)
            && self.ports.iter().all(|port| tuple.has_port(*port))
            && self.networks.iter().all(|net| tuple.protocol != Tuple::NOT_IP && ends_in(tuple, *net))
    }
}

fn ends_in(tuple: &Tuple, (address, bits): (Address, u8)) -> bool {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
    let number = |a: Address| u128::from_be_bytes(a.0) & mask;
    [tuple.ends.lo(), tuple.ends.hi()].iter().any(|end| number(end.addr) == number(address))
}

/// The flow of a frame; of a later fragment, that of the first one if that came before.
fn tuple_of(frame: &Frame<'_>, fragments: &mut Fragments<Tuple>) -> Tuple {
    let Some(d) = Datagram::recognise(frame.link, frame.data, frame.wire_len) else { return Tuple::not_ip() };
    let (tuple, _) = Tuple::of(&d);
    match d.fragment {
        Fragment::Whole => tuple,
        Fragment::First(id) => {
            fragments.note(id, tuple, frame.ts);
            tuple
        }
        Fragment::Later(id) => fragments.find(&id, frame.ts).unwrap_or(tuple),
    }
}

/// Blocks hold other flows too, so each packet is looked at.
struct Check<'a> {
    query: &'a Query,
    filter: Option<Matcher>,
    fragments: Fragments<Tuple>,
}

impl Check<'_> {
    fn wants(&mut self, frame: &Frame<'_>) -> bool {
        let tuple = tuple_of(frame, &mut self.fragments);
        self.query.overlaps(frame.ts, frame.ts)
            && self.query.means(&tuple)
            && self.filter.as_mut().is_none_or(|f| f.matches(frame.link, frame.data))
    }
}

/// Goes through what is wanted of a segment.
struct Cursor {
    path: PathBuf,
    head: SegmentHead,
    source: Source,
    /// Records of a block, and where those that are wanted begin, the next one last.
    raw: Vec<u8>,
    wanted: Vec<(Timestamp, usize)>,
    at: usize,
}

enum Source {
    Blocks(File, std::vec::IntoIter<BlockAt>),
    Whole(Box<FileSource>),
    Nothing,
}

impl Cursor {
    /// `None` where the segment is gone.
    fn open(plan: Plan) -> Result<Option<Self>, QueryError> {
        let failed = |source| QueryError::Read { path: plan.path.clone(), source };
        let file = match plan.file.map_or_else(|| File::open(&plan.path), Ok) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let source = if plan.whole {
            let name = plan.path.display().to_string();
            Source::Whole(Box::new(FileSource::from_reader(name, Box::new(file)).map_err(|e| failed(io::Error::other(e)))?))
        } else {
            Source::Blocks(file, plan.blocks.into_iter())
        };
        Ok(Some(Self { path: plan.path, head: plan.head, source, raw: Vec::new(), wanted: Vec::new(), at: 0 }))
    }

    /// Goes to the next packet that is wanted; its time.
    fn advance(&mut self, check: &mut Check<'_>, got: &mut Got) -> Result<Option<Timestamp>, QueryError> {
        while self.wanted.is_empty() {
            if !self.fill(check, got).map_err(|source| QueryError::Read { path: self.path.clone(), source })? {
                return Ok(None);
            }
            // Frames of several rings, and tails, are out of order within a block. Last in, first out.
            self.wanted.sort_by_key(|(ts, at)| Reverse((*ts, *at)));
        }
        Ok(self.wanted.pop().map(|(ts, at)| {
            self.at = at;
            ts
        }))
    }

    /// Reads the next block or batch; false at the end.
    fn fill(&mut self, check: &mut Check<'_>, got: &mut Got) -> io::Result<bool> {
        let Self { head, source, raw, wanted, .. } = self;
        match source {
            Source::Nothing => Ok(false),
            Source::Blocks(file, blocks) => {
                let Some(block) = blocks.next() else { return Ok(false) };
                got.blocks += 1;
                let mut packed = vec![0; block.len as usize];
                file.read_exact_at(&mut packed, block.offset)?;
                *raw = head.compress.unpack(&packed, block.raw_len as usize)?;
                let mut rest = &raw[..];
                while let Some((frame, after)) = head.format.split(rest, head.link) {
                    if check.wants(&frame) {
                        wanted.push((frame.ts, raw.len() - rest.len()));
                    }
                    rest = after;
                }
                Ok(true)
            }
            Source::Whole(file) => {
                raw.clear();
                got.blocks += 1;
                let progress = file.next_batch(&mut |frame| {
                    if check.wants(&frame) {
                        wanted.push((frame.ts, raw.len()));
                        head.format.append(raw, &frame);
                    }
                });
                Ok(progress.map_err(io::Error::other)? != Progress::Ended)
            }
        }
    }

    /// The packet that was gone to.
    fn frame(&self) -> Frame<'_> {
        let (frame, _) = self.head.format.split(&self.raw[self.at..], self.head.link).expect("it was split there before");
        frame
    }
}

/// What our own files state, whatever those say that packets come from.
const SNAPLEN: u32 = 262_144;

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
