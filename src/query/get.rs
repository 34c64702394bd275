//! Hands flows out: each as its file, or all as one capture in the order of time.

use super::archive::{Archive, ArchiveError, Watch};
use crate::archive::catalogue::Row;
use crate::archive::file::{ArchiveFile, Unreadable};
use crate::archive::pcap::{self, MAX_SNAPLEN};
use crate::capture::file::{FileError, FileSource};
use crate::capture::{LinkType, PacketSource, Progress};
use crate::time::Timestamp;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Cursor, Write};

/// Why flows could not be handed out.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A file that is no capture file.
    #[error("{file}: {source}")]
    Content {
        /// Which one.
        file: String,
        /// Why.
        source: NotCapture,
    },
    /// Files that one capture cannot hold.
    #[error("{file} has packets of link type {other}, the files before it of {first}; a pcap file has one (leave --merge out)")]
    Links {
        /// The first file of another link type.
        file: String,
        /// Its link type's number.
        other: u16,
        /// That of the files before.
        first: u16,
    },
    /// What was written to.
    #[error("write the capture: {0}")]
    Write(#[from] io::Error),
}

/// Bytes that are no capture.
#[derive(Debug, thiserror::Error)]
pub enum NotCapture {
    /// Of the archive's format or pcap.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Of another format.
    #[error(transparent)]
    File(#[from] FileError),
    /// Of a format that can hold several link types, and with more than one.
    #[error(
        "has packets of link types {first} and {other}, and an archive's file has one (split it by interface, as tshark can)"
    )]
    Links {
        /// The first one's number.
        first: u16,
        /// That of a later frame.
        other: u16,
    },
}

/// A file's content, whatever capture format it has; what comes after damage is left out.
///
/// # Errors
/// Fails where it is no capture file, and where it has several link types: read as one of them, others would be taken for what
/// they are not.
pub fn content(name: &str, bytes: Vec<u8>) -> Result<ArchiveFile, NotCapture> {
    match ArchiveFile::parse_any(&bytes) {
        Ok(file) => return Ok(file),
        Err(Unreadable::NotPcap(_)) => {}
        Err(e) => return Err(e.into()),
    }
    let mut source = FileSource::from_reader(name.to_owned(), Box::new(Cursor::new(bytes)))?;
    let mut file =
        ArchiveFile { link: LinkType::Ethernet, snaplen: MAX_SNAPLEN, metadata: None, records: Vec::new(), whole: true };
    let (mut link, mut other) = (None, None);
    loop {
        let batch = source.next_batch(&mut |frame| {
            file.link = *link.get_or_insert(frame.link);
            if frame.link != file.link {
                other.get_or_insert(frame.link);
                return;
            }
            for field in [frame.ts.secs() as u32, frame.ts.subsec_nanos(), frame.data.len() as u32, frame.wire_len] {
                file.records.extend_from_slice(&field.to_le_bytes());
            }
            file.records.extend_from_slice(frame.data);
        });
        if let Some(other) = other {
            return Err(NotCapture::Links { first: file.link.number(), other: other.number() });
        }
        match batch {
            Ok(Progress::Ended) => return Ok(file),
            Ok(_) => {}
            Err(_) => {
                file.whole = false;
                return Ok(file);
            }
        }
    }
}

/// The packets of a flow.
///
/// # Errors
/// Fails where its file is gone or cannot be read.
pub fn flow(archive: &Archive, file: &str, watch: &dyn Watch) -> Result<ArchiveFile, GetError> {
    let bytes = archive.read(file, watch)?;
    content(file, bytes).map_err(|source| GetError::Content { file: file.to_owned(), source })
}

/// A flow as a pcap file that is not compressed.
pub fn pcap_of(flow: &ArchiveFile) -> Vec<u8> {
    [&pcap::file_header(flow.link, flow.snaplen)[..], &flow.records].concat()
}

/// Writes all packets of flows as one capture, in the order of time. Flows wait in memory only while they last.
///
/// # Errors
/// Fails where a file cannot be read, where they have several link types, and where `out` refuses.
pub fn merge(archive: &Archive, mut rows: Vec<Row>, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), GetError> {
    rows.sort_by(|a, b| (a.start, &a.file).cmp(&(b.start, &b.file)));
    let mut link = None;
    let mut open: BinaryHeap<Reverse<Open>> = BinaryHeap::new();
    let mut rows = rows.into_iter().enumerate().peekable();
    loop {
        // A flow is opened when its first packet can be the next.
        while let Some((number, row)) =
            rows.next_if(|(_, row)| open.peek().is_none_or(|Reverse(o)| Timestamp::from(row.start) <= o.ts))
        {
            let mut flow = flow(archive, &row.file, watch)?;
            match link {
                None => out.write_all(&pcap::file_header(*link.insert(flow.link), MAX_SNAPLEN))?,
                Some(first) if first == flow.link => {}
                Some(first) => {
                    let (other, first) = (flow.link.number(), first.number());
                    return Err(GetError::Links { file: row.file, other, first });
                }
            }
            pcap::sort_by_time(&mut flow.records);
            open.extend(Open::at(number, flow.records, 0).map(Reverse));
        }
        let Some(Reverse(Open { number, records, at, .. })) = open.pop() else { return Ok(()) };
        let record = pcap::records(&records[at..]).next().map_or(&[][..], |r| r.bytes);
        out.write_all(record)?;
        let next = at + record.len();
        open.extend(Open::at(number, records, next).map(Reverse));
    }
}

/// A flow of which packets are left, in the order in which its next one is written.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Open {
    ts: Timestamp,
    /// Decides between packets of one time.
    number: usize,
    at: usize,
    records: Vec<u8>,
}

impl Open {
    /// `None` where nothing is left.
    fn at(number: usize, records: Vec<u8>, at: usize) -> Option<Self> {
        let ts = pcap::records(&records[at..]).next()?.ts();
        Some(Self { ts, number, at, records })
    }
}
