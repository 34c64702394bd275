//! Recovers what is whole of a truncated or damaged file, and says what was lost.
//!
//! An archive's file is a row of gzip members, none of which shares a packet with another: those behind a damaged one are
//! as good as those before it. Of a member that is cut, the whole records at its beginning are kept. Of one whose
//! checksum or coding is wrong nothing is, since any byte of it may be.

use crate::archive::file::ArchiveFile;
use crate::archive::gzip::{self, Encoder};
use crate::archive::metadata::Metadata;
use crate::archive::pcap::{self, PcapFile};
use crate::capture::LinkType;
use crate::capture::file::FileSource;
use crate::capture::{PacketSource, Progress};
use crate::shard::EndReason;
use std::io::{Cursor, Read};
use std::ops::Range;

/// What came of a repair.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repaired {
    /// The new file.
    pub bytes: Vec<u8>,
    /// Packets in it.
    pub packets: u64,
    /// How many the old one said that it had, where it said so.
    pub stated: Option<u64>,
    /// Runs of the old file's bytes that gave nothing, with the reason.
    pub lost: Vec<(Range<usize>, &'static str)>,
}

impl Repaired {
    /// Whether nothing was wrong.
    pub fn was_sound(&self) -> bool {
        self.lost.is_empty() && self.stated.is_none_or(|stated| stated == self.packets)
    }
}

/// Repairs the content of a capture file; `None` if nothing can be recovered. `.pcap.gz` stays that, anything else
/// becomes a plain pcap file.
pub fn repair(name: &str, file: &[u8]) -> Option<Repaired> {
    if file.starts_with(&[0x1f, 0x8b])
        && let Some(repaired) = members(file)
    {
        return Some(repaired);
    }
    capture(name, file)
}

/// A file of gzip members with a pcap file in them; `None` if that is not what it is.
fn members(file: &[u8]) -> Option<Repaired> {
    let metadata = extra(file);
    let mut content = Vec::new();
    let mut lost = Vec::new();
    let mut at = 0;
    while at < file.len() {
        let rest = &file[at..];
        let decoded = gzip::decode(rest).ok()?;
        if decoded.members > 0 {
            content.extend_from_slice(&decoded.bytes);
            at = file.len() - decoded.leftover;
            continue;
        }
        let next = next_member(rest).map_or(file.len(), |offset| at + offset);
        let reason = if rest.starts_with(&[0x1f, 0x8b]) { "a damaged gzip member" } else { "no gzip member" };
        // Only the end of the file can be cut.
        match (next == file.len()).then(|| beginning(rest)).flatten() {
            Some(bytes) => {
                content.extend(bytes);
                lost.push((at..next, "a gzip member that was cut: its last packets"));
            }
            None => lost.push((at..next, reason)),
        }
        at = next;
    }
    let first_lost = lost.first().is_some_and(|(range, _)| range.start == 0);
    let pcap = match PcapFile::parse(&content) {
        Ok(pcap) => pcap,
        // Without the first member there is no file header: that of an archive, then, whose metadata is there.
        Err(_) if first_lost && metadata.is_some() => {
            let header = pcap::file_header(LinkType::Ethernet, pcap::MAX_SNAPLEN);
            PcapFile::parse(&[&header[..], &content].concat()).ok()?
        }
        Err(_) => return None,
    };
    if pcap.leftover > 0 && lost.is_empty() {
        lost.push((file.len()..file.len(), "records that make no sense at the end of the last member"));
    }
    let whole = lost.is_empty();
    let PcapFile { link, snaplen, records, .. } = pcap;
    let packets = pcap::records(&records).count() as u64;
    if packets == 0 {
        return None;
    }
    let mut encoder = Encoder::new();
    let stated = metadata.filter(|m| m.end.is_some()).map(|m| u64::from(m.packets_kept));
    let bytes = match metadata {
        Some(metadata) => {
            let metadata = Some(restate(metadata, &records, whole));
            ArchiveFile { link, snaplen, metadata, records, whole: true }.encode(&mut encoder)
        }
        // Another program's file stays without metadata.
        None => encoder.member(None, &[&pcap::file_header(link, snaplen), &records]).into_vec(),
    };
    Some(Repaired { bytes, packets, stated, lost })
}

/// What the repaired file says of itself: of the old one, what the packets do not tell.
fn restate(old: Metadata, records: &[u8], whole: bool) -> Metadata {
    let times = || pcap::records(records).map(|r| r.ts());
    let kept = u32::try_from(times().count()).unwrap_or(u32::MAX);
    let unchanged = whole && old.end.is_some() && old.packets_kept == kept;
    let first = times().min().unwrap_or_default();
    Metadata {
        end: if unchanged { old.end } else { Some(EndReason::Salvaged) },
        first: if old.end.is_some() { old.first.min(first) } else { first },
        last: times().max().unwrap_or_default(),
        packets_seen: old.packets_seen.max(kept),
        packets_kept: kept,
        ..old
    }
}

/// What a member that ends too early begins with; `None` if it is damaged before that, or is no member.
fn beginning(member: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = flate2::bufread::GzDecoder::new(member);
    let mut content = Vec::new();
    loop {
        // Byte by byte, because a call that fails gives back nothing of what it unpacked.
        let mut byte = [0];
        match decoder.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) if content.len() as u64 >= gzip::MAX_DECODED => return None,
            Ok(_) => content.push(byte[0]),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof && !content.is_empty() => return Some(content),
            Err(_) => return None,
        }
    }
}

/// Where the next whole member begins, behind the first byte: one as the archive writes them.
fn next_member(file: &[u8]) -> Option<usize> {
    (1..file.len()).find(|&at| {
        let rest = &file[at..];
        rest.starts_with(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]) && gzip::decode(rest).is_ok_and(|decoded| decoded.members > 0)
    })
}

/// The metadata in the first member's header, even if the rest of the member is damaged.
fn extra(file: &[u8]) -> Option<Metadata> {
    let (fixed, rest) = file.split_first_chunk::<12>()?;
    if fixed[3] & 4 == 0 {
        return None;
    }
    Metadata::find(rest.get(..usize::from(u16::from_le_bytes([fixed[10], fixed[11]])))?)
}

/// Any capture file: its frames up to the damage, of the first link type.
fn capture(name: &str, file: &[u8]) -> Option<Repaired> {
    let mut source = FileSource::from_reader(name.to_owned(), Box::new(Cursor::new(file.to_vec()))).ok()?;
    let (mut link, mut records, mut packets, mut other) = (None, Vec::new(), 0, 0u64);
    let damaged = loop {
        let batch = source.next_batch(&mut |frame| {
            if *link.get_or_insert(frame.link) != frame.link {
                other += 1;
                return;
            }
            let secs = u32::try_from(frame.ts.secs()).unwrap_or(u32::MAX);
            for field in [secs, frame.ts.subsec_nanos(), frame.data.len() as u32, frame.wire_len] {
                records.extend_from_slice(&field.to_le_bytes());
            }
            records.extend_from_slice(frame.data);
            packets += 1;
        });
        match batch {
            Ok(Progress::Ended) => break false,
            Ok(_) => {}
            Err(_) => break true,
        }
    };
    let mut lost = Vec::new();
    if damaged {
        lost.push((file.len()..file.len(), "what follows the last whole record"));
    }
    if other > 0 {
        lost.push((0..0, "frames of further link types, for which one pcap file has no room"));
    }
    let longest = pcap::records(&records).map(|r| r.data().len() as u32).max()?;
    let bytes = [&pcap::file_header(link?, longest.max(pcap::MAX_SNAPLEN))[..], &records].concat();
    Some(Repaired { bytes, packets, stated: None, lost })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::FlowFlags;
    use crate::time::Timestamp;
    use proptest::prelude::*;

    /// Records of 1,000 bytes, some hundreds of them, and the file of several members that holds them.
    fn archive(count: u64) -> (Vec<u8>, Vec<u8>) {
        let mut records = Vec::new();
        for i in 0..count {
            for field in [i as u32, 0, 984, 984] {
                records.extend_from_slice(&field.to_le_bytes());
            }
            let mut state = i as u32 + 1;
            records.extend((0..984).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 28) as u8
            }));
        }
        let metadata = Some(Metadata {
            end: Some(EndReason::Fin),
            flags: FlowFlags(FlowFlags::HANDSHAKE),
            last: Timestamp::from_parts(count - 1, 0),
            packets_seen: count as u32,
            packets_kept: count as u32,
            ..Metadata::UNFINISHED
        });
        let file = ArchiveFile { link: LinkType::Ethernet, snaplen: 2000, metadata, records: records.clone(), whole: true };
        (records, file.encode(&mut Encoder::new()))
    }

    fn records_of(repaired: &Repaired) -> (Vec<u8>, Metadata) {
        let file = ArchiveFile::parse(&repaired.bytes).unwrap();
        assert!(file.whole);
        (file.records, file.metadata.unwrap())
    }

    #[test]
    fn a_sound_file_stays_as_it_is() {
        let (_, file) = archive(200);
        let repaired = repair("x", &file).unwrap();
        assert!(repaired.was_sound() && repaired.bytes == file);
    }

    #[test]
    fn of_a_cut_file_every_whole_record_comes_back() {
        let (records, file) = archive(200);
        let repaired = repair("x", &file[..file.len() * 3 / 4]).unwrap();
        let (got, metadata) = records_of(&repaired);
        assert!(records.starts_with(&got) && got.len() % 1000 == 0 && got.len() > 140_000, "{}", got.len());
        assert_eq!(
            (metadata.end, metadata.packets_seen, u64::from(metadata.packets_kept)),
            (Some(EndReason::Salvaged), 200, repaired.packets)
        );
        assert_eq!((repaired.stated, repaired.lost.len()), (Some(200), 1));
    }

    #[test]
    fn a_damaged_member_in_the_middle_or_at_the_start_costs_itself_alone() {
        let (records, file) = archive(200);
        for (at, rest) in [(file.len() / 2, [0..66, 132..200]), (200, [0..0, 66..200])] {
            let mut file = file.clone();
            file[at] ^= 0x10;
            let repaired = repair("x", &file).unwrap();
            let expected: Vec<u8> = rest.iter().flat_map(|r| records[r.start * 1000..r.end * 1000].to_vec()).collect();
            assert!(records_of(&repaired).0 == expected, "{} packets", repaired.packets);
            assert_eq!(repaired.lost.len(), 1);
        }
    }

    #[test]
    fn a_plain_capture_comes_back_up_to_its_last_whole_record() {
        let (records, _) = archive(5);
        let file = [&pcap::file_header(LinkType::Raw, 2000)[..], &records].concat();
        let repaired = repair("x", &file[..file.len() - 1]).unwrap();
        assert_eq!((repaired.packets, repaired.lost.len()), (4, 1));
        assert_eq!(PcapFile::parse(&repaired.bytes).unwrap().records, records[..4000]);
        assert!(repair("x", &file).unwrap().was_sound());
        assert_eq!(repair("x", b"no capture"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_damage_is_survived_and_never_invents_a_packet(at in 0usize..20_000, bit in 0u8..8, cut in 0usize..20_000) {
            let (records, mut file) = archive(40);
            let at = at % file.len();
            file[at] ^= 1 << bit;
            file.truncate(file.len() - cut % file.len());
            if let Some(repaired) = repair("x", &file)
                && let Ok(got) = ArchiveFile::parse(&repaired.bytes)
                && at >= 200
            {
                let cut_in_damage = repaired.lost.iter().any(|(range, _)| range.contains(&at));
                let originals: std::collections::HashSet<_> = pcap::records(&records).collect();
                prop_assert!(cut_in_damage || pcap::records(&got.records).all(|r| originals.contains(&r)));
            }
        }
    }
}
