//! One archive file as a whole: what merging and salvage read and write.

use super::gzip::{self, Encoder, TooLarge};
use super::metadata::Metadata;
use super::pcap::{self, NotPcap, PcapFile};
use crate::capture::LinkType;
use crate::flow::segment::SEGMENT_LEN;

/// A file's content, by us or by the predecessor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchiveFile {
    /// The link type of all its packets.
    pub link: LinkType,
    /// The snap length that its header states.
    pub snaplen: u32,
    /// What it says of its flow; the predecessor's files say nothing.
    pub metadata: Option<Metadata>,
    /// Its packets as canonical records.
    pub records: Vec<u8>,
    /// Whether everything in it could be read.
    pub whole: bool,
}

impl ArchiveFile {
    /// Reads the whole members at the beginning of a file, and their whole records.
    ///
    /// # Errors
    /// Fails where not even the pcap file header can be read, and where the content is larger than [`gzip::MAX_DECODED`].
    pub fn parse(file: &[u8]) -> Result<Self, Unreadable> {
        Self::parse_within(file, gzip::MAX_DECODED)
    }

    /// As [`Self::parse`], with another limit to the content's bytes.
    pub(super) fn parse_within(file: &[u8], limit: u64) -> Result<Self, Unreadable> {
        let decoded = gzip::decode_within(file, limit)?;
        let PcapFile { link, snaplen, records, leftover } = PcapFile::parse(&decoded.bytes)?;
        let whole = decoded.leftover == 0 && leftover == 0;
        Ok(Self { link, snaplen, metadata: decoded.metadata, records, whole })
    }

    /// Reads a file of the archive's format, or a pcap file that is not compressed.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_any(file: &[u8]) -> Result<Self, Unreadable> {
        if file.starts_with(&[0x1f, 0x8b]) {
            return Self::parse(file);
        }
        let PcapFile { link, snaplen, records, leftover } = PcapFile::parse(file)?;
        Ok(Self { link, snaplen, metadata: None, records, whole: leftover == 0 })
    }

    /// The file's bytes: a member for every [`SEGMENT_LEN`] bytes of packets.
    pub fn encode(&self, encoder: &mut Encoder) -> Vec<u8> {
        let header = pcap::file_header(self.link, self.snaplen);
        let metadata = self.metadata.unwrap_or(Metadata::UNFINISHED);
        let mut chunks = Chunks { rest: &self.records };
        let mut file = encoder.member(Some(&metadata), &[&header, chunks.next().unwrap_or_default()]).into_vec();
        for chunk in chunks {
            file.extend_from_slice(&encoder.member(None, &[chunk]));
        }
        file
    }

    /// How many packets it holds.
    pub fn packets(&self) -> u64 {
        pcap::records(&self.records).count() as u64
    }
}

/// Why nothing of a file can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// Its content is too large.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// It does not begin with a whole gzip member that begins with a pcap file header.
    #[error(transparent)]
    NotPcap(#[from] NotPcap),
}

/// Runs of whole records of at least [`SEGMENT_LEN`] bytes, but for the last.
struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let mut len = 0;
        for record in pcap::records(self.rest) {
            len += record.bytes.len();
            if len >= SEGMENT_LEN {
                break;
            }
        }
        // What is no whole record stays out: the caller gives canonical records only.
        let (chunk, rest) = self.rest.split_at(len);
        self.rest = if len == 0 { &[] } else { rest };
        (len > 0).then_some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::record;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_records_come_back(
            packets in proptest::collection::vec((any::<u32>(), proptest::collection::vec(any::<u8>(), 0..300)), 0..600),
        ) {
            let records = packets.iter().flat_map(|(ts, data)| record((*ts).into(), data)).collect();
            let metadata = Some(Metadata::UNFINISHED);
            let file = ArchiveFile { link: LinkType::Ethernet, snaplen: 256, metadata, records, whole: true };
            let bytes = file.encode(&mut Encoder::new());
            prop_assert_eq!(ArchiveFile::parse(&bytes).unwrap(), file);
        }
    }

    #[test]
    fn a_long_file_has_a_member_per_segment() {
        let records = record(1, &[7; 1008]).repeat(64 * 3 + 1);
        let file = ArchiveFile { link: LinkType::Ethernet, snaplen: 2000, metadata: None, records, whole: true };
        let decoded = gzip::decode(&file.encode(&mut Encoder::new())).unwrap();
        assert_eq!((decoded.members, decoded.bytes.len()), (4, 24 + 1024 * (64 * 3 + 1)));
    }
}
