//! Masks an archive anew: never less than it was.
//!
//! Every packet goes through the scrubber that the daemon uses, so checksums, options and extension headers are treated
//! alike, and payload that a foreign capture may hold is cut. What cannot be parsed is left out.

use super::archive::{Archive, ArchiveError, Silent, Watch};
use super::get::content;
use super::parallel::{cores, parallel};
use crate::archive::catalogue::row::uuid_of;
use crate::archive::file::ArchiveFile;
use crate::archive::gzip::Encoder;
use crate::archive::metadata::Metadata;
use crate::archive::pcap;
use crate::capture::LinkType;
use crate::identity::generated;
use crate::key::{Address, FlowKey};
use crate::packet::{Tcp, Transport, parse};
use crate::scrub::{Anonymize, CryptoPan, Hide, ScrubPolicy, Scrubber};
use crate::shard::{EndReason, FlowFlags};
use crate::time::Timestamp;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::{Component, Path};

/// How addresses are masked.
#[derive(Debug)]
pub enum Method {
    /// IPv4 addresses lose their last 8 bits, IPv6 addresses their last 80.
    Netblock,
    /// They are replaced one to one.
    CryptoPan(Box<CryptoPan>),
}

/// What is removed.
#[derive(Debug)]
pub struct Masking {
    /// How addresses are masked.
    pub method: Method,
    /// Addresses that stay as they are.
    pub local: HashSet<Address>,
    /// What else is zeroed; how addresses are masked is not looked at.
    pub also: ScrubPolicy,
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Anonymized {
    /// Files written.
    pub files: u64,
    /// Packets in them.
    pub packets: u64,
    /// Packets left out, because their headers cannot be told from payload.
    pub dropped: u64,
    /// Files that could not be read, which are not in the output.
    pub unreadable: u64,
}

/// Why an archive could not be masked.
#[derive(Debug, thiserror::Error)]
pub enum AnonymizeError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The output.
    #[error("write {path}: {source}")]
    Write {
        /// Which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The output's folder has something in it.
    #[error("{0} is not empty (choose a new folder, so that nothing unmasked is among what is masked)")]
    NotEmpty(String),
}

/// Writes every file of an archive, masked, below `out`; a bundle's files too.
///
/// # Errors
/// Fails where the archive cannot be read or the output cannot be written. Files that are no captures are told to `watch`.
pub fn anonymize(archive: &Archive, out: &Path, masking: &Masking, watch: &dyn Watch) -> Result<Anonymized, AnonymizeError> {
    let failed = |source| AnonymizeError::Write { path: out.display().to_string(), source };
    fs::create_dir_all(out).map_err(failed)?;
    if fs::read_dir(out).map_err(failed)?.next().is_some() {
        return Err(AnonymizeError::NotEmpty(out.display().to_string()));
    }
    let (mut done, mut refused) = (Anonymized::default(), None);
    archive.files(watch, &mut |files| {
        for chunk in files.chunks(CHUNK * cores()) {
            let results = parallel(chunk, |file| masked_file(archive, file, out, masking));
            for (file, result) in chunk.iter().zip(results) {
                match result {
                    Ok((packets, dropped)) => {
                        done.files += 1;
                        done.packets += packets;
                        done.dropped += dropped;
                    }
                    Err(Failure::Read(error)) => {
                        watch.unreadable(file, &*error);
                        done.unreadable += 1;
                    }
                    Err(Failure::Write(path, source)) => {
                        refused = Some(AnonymizeError::Write { path, source });
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            watch.files(chunk.len() as u64);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    refused.map_or(Ok(done), Err)
}

enum Failure {
    Read(Box<dyn std::error::Error + Send + Sync>),
    Write(String, io::Error),
}

/// Masks one file; returns the packets that are in its output and those that are not.
fn masked_file(archive: &Archive, file: &str, out: &Path, masking: &Masking) -> Result<(u64, u64), Failure> {
    let bytes = archive.read(file, &Silent).map_err(|e| Failure::Read(e.into()))?;
    let content = content(file, bytes).map_err(|e| Failure::Read(e.into()))?;
    let path = file.rsplit_once('!').map_or(file, |(_, member)| member);
    if !Path::new(path).components().all(|c| matches!(c, Component::Normal(_))) {
        return Err(Failure::Read("its name leads out of the archive".into()));
    }
    let (masked, dropped, name) = mask(&content, uuid_of(path), masking);
    if names_hidden(path, &content, masking) {
        return Err(Failure::Read("its path names an address that is to be masked (rename it)".into()));
    }
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let target = out.join(folder).join(format!("{name}.pcap.gz"));
    let refused = |e| Failure::Write(target.display().to_string(), e);
    let temp = target.with_file_name(format!(".{name}.part"));
    fs::create_dir_all(out.join(folder)).map_err(refused)?;
    let mut written = File::create_new(&temp).map_err(refused)?;
    written.write_all(&masked.encode(&mut Encoder::new())).map_err(refused)?;
    // Two files of one name would be one flow's; the second one must not replace the first.
    fs::hard_link(&temp, &target).and_then(|()| fs::remove_file(&temp)).map_err(refused)?;
    Ok((masked.packets(), dropped))
}

/// A file's content masked, the packets left out, and its name: one that was made of unmasked addresses is made anew.
pub fn mask(content: &ArchiveFile, uuid: &str, masking: &Masking) -> (ArchiveFile, u64, String) {
    let policy = ScrubPolicy { anonymize: Anonymize::Netblock, keep_linktype: true, ..masking.also };
    let mut scrubber = Scrubber::new(policy);
    let mut replaced = BTreeMap::new();
    let (mut records, mut dropped, mut hidden, mut origin) =
        (Vec::with_capacity(content.records.len()), 0, false, Origin::default());
    for record in pcap::records(&content.records) {
        let Ok(packet) = parse(content.link, record.data()) else {
            dropped += 1;
            continue;
        };
        let hide = Hide { src: !masking.local.contains(&packet.src), dst: !masking.local.contains(&packet.dst) };
        hidden |= hide.src || hide.dst;
        let (data, wire) = (record.data(), record.wire_len());
        let scrubbed = match &masking.method {
            Method::Netblock => scrubber.scrub(content.link, data, wire, &packet, hide),
            Method::CryptoPan(pan) => {
                let mut to = |addr: Address, hide| {
                    if hide { *replaced.entry(addr.0).or_insert_with(|| pan.address(addr)) } else { addr }
                };
                let to = [to(packet.src, hide.src), to(packet.dst, hide.dst)];
                scrubber.replace(content.link, data, wire, &packet, hide, to)
            }
        };
        origin.see(content.link, scrubbed.bytes(), record.ts());
        records.extend_from_slice(&record.bytes[..8]);
        records.extend((scrubbed.bytes().len() as u32).to_le_bytes());
        records.extend(scrubbed.wire_len().to_le_bytes());
        records.extend_from_slice(scrubbed.bytes());
    }
    let metadata = content.metadata.unwrap_or_else(|| of_foreign(content));
    let metadata = Some(with_flags(metadata, masking, hidden));
    let renamed = if is_generated(uuid) { origin.name() } else { None };
    let name = renamed.unwrap_or_else(|| uuid.to_owned());
    (ArchiveFile { link: content.link, snaplen: content.snaplen, metadata, records, whole: content.whole }, dropped, name)
}

/// Whether a path spells out an address that is hidden in its packets, with whatever stands between the numbers.
fn names_hidden(path: &str, content: &ArchiveFile, masking: &Masking) -> bool {
    let numbers = |text: &str| text.split(|c: char| !c.is_ascii_hexdigit()).map(str::to_ascii_lowercase).collect::<Vec<_>>();
    let path = numbers(path);
    let packets = pcap::records(&content.records).filter_map(|record| parse(content.link, record.data()).ok());
    let hidden: HashSet<Address> =
        packets.flat_map(|packet| [packet.src, packet.dst]).filter(|addr| !masking.local.contains(addr)).collect();
    hidden.into_iter().any(|addr| {
        let mut spelled = vec![numbers(&IpAddr::from(addr).to_string())];
        spelled.extend(addr.as_v4().map(|v4| vec![v4.iter().map(|b| format!("{b:02x}")).collect()]));
        spelled.iter().any(|address| path.windows(address.len()).any(|part| part == *address))
    })
}

/// What a generated name is made of, as the masked packets tell it.
#[derive(Default)]
struct Origin {
    first: Option<(FlowKey, Timestamp)>,
    /// Of the lower endpoint, then of the higher one.
    isn: [Option<u32>; 2],
}

impl Origin {
    fn see(&mut self, link: LinkType, bytes: &[u8], ts: Timestamp) {
        let Ok(packet) = parse(link, bytes) else { return };
        let (Some((src, dst)), Transport::Tcp { tcp, .. }) = (packet.endpoints(), packet.transport) else { return };
        let (key, direction) = FlowKey::new(src, dst);
        self.first.get_or_insert((key, ts));
        if tcp.has(Tcp::SYN) {
            self.isn[direction.index()].get_or_insert(tcp.seq);
        }
    }

    fn name(&self) -> Option<String> {
        let (key, ts) = self.first?;
        Some(generated::name(&key, [false; 2], ts, self.isn).uuid.to_string())
    }
}

/// Whether a name was made from a flow: a version 5 UUID.
fn is_generated(uuid: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    uuid.len() == 36
        && uuid.bytes().enumerate().all(|(i, b)| if hyphens.contains(&i) { b == b'-' } else { b.is_ascii_hexdigit() })
        && uuid.as_bytes()[14] == b'5'
}

/// What can be said of a file that says nothing of itself: as of a replay, its input ended.
fn of_foreign(content: &ArchiveFile) -> Metadata {
    let times = || pcap::records(&content.records).map(|record| record.ts());
    let kept = || pcap::records(&content.records).filter(|record| parse(content.link, record.data()).is_ok());
    let count = |packets: usize| u32::try_from(packets).unwrap_or(u32::MAX);
    Metadata {
        end: Some(EndReason::EndOfInput),
        first: times().min().unwrap_or_default(),
        last: kept().map(|record| record.ts()).max().unwrap_or_default(),
        packets_seen: count(times().count()),
        packets_kept: count(kept().count()),
        ..Metadata::UNFINISHED
    }
}

fn with_flags(mut metadata: Metadata, masking: &Masking, hidden: bool) -> Metadata {
    if hidden {
        metadata.flags.set(FlowFlags::ANONYMIZED);
        match masking.method {
            Method::CryptoPan(_) => metadata.flags.set(FlowFlags::REPLACED),
            Method::Netblock => metadata.flags.0 &= !FlowFlags::REPLACED,
        }
    }
    let also = &masking.also;
    if also.zeroes() {
        metadata.flags.set(FlowFlags::SCRUBBED);
    }
    metadata
}

/// Files that one core masks between two looks at the results.
const CHUNK: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::IpVersion;
    use crate::packet::testing::{Hidden, Spec};

    const A: &str = "4f1c8f3e-0000-5000-8000-000000000000";

    fn file(version: IpVersion) -> ArchiveFile {
        let frame = Spec::plain(version).build(Hidden { secret: 1, payload: 0xa5 }).0;
        let mut records = Vec::new();
        for field in [7u32, 9, frame.len() as u32, frame.len() as u32] {
            records.extend(field.to_le_bytes());
        }
        records.extend(&frame);
        records.extend([0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3]);
        let metadata = Some(Metadata::UNFINISHED);
        ArchiveFile { link: LinkType::Ethernet, snaplen: 65_535, metadata, records, whole: true }
    }

    fn masking(method: Method, local: &[Address]) -> Masking {
        Masking { method, local: local.iter().copied().collect(), also: ScrubPolicy::default() }
    }

    fn ends(file: &ArchiveFile) -> [Address; 2] {
        let packet = parse(file.link, pcap::records(&file.records).next().unwrap().data()).unwrap();
        [packet.src, packet.dst]
    }

    #[test]
    fn netblock_masks_all_but_local_addresses_and_cuts_payload() {
        for version in [IpVersion::V4, IpVersion::V6] {
            let content = file(version);
            let [src, dst] = ends(&content);
            let (masked, dropped, name) = mask(&content, "x", &masking(Method::Netblock, &[dst]));
            assert_eq!((ends(&masked), dropped, masked.packets(), name.as_str()), ([src.netblock(), dst], 1, 1, "x"));
            assert!(masked.metadata.unwrap().flags.has(FlowFlags::ANONYMIZED));
            assert!(!masked.records.contains(&0xa5), "payload is left");
            let again = mask(&masked, "x", &masking(Method::Netblock, &[]));
            assert_eq!(ends(&again.0), [src.netblock(), dst.netblock()]);
        }
    }

    #[test]
    fn a_file_of_another_program_gets_a_statement_that_is_true() {
        let content = ArchiveFile { metadata: None, ..file(IpVersion::V4) };
        let metadata = mask(&content, "x", &masking(Method::Netblock, &[])).0.metadata.unwrap();
        assert_eq!((metadata.end, metadata.packets_seen, metadata.packets_kept), (Some(EndReason::EndOfInput), 2, 1));
        assert_eq!((metadata.first, metadata.last), (Timestamp::ZERO, Timestamp::from_parts(7, 9)));
        assert!(metadata.flags.has(FlowFlags::ANONYMIZED));
    }

    #[test]
    fn crypto_pan_replaces_addresses_one_to_one_with_a_checksum_that_holds() {
        let pan = || Box::new(CryptoPan::new(&[7; 32]));
        for version in [IpVersion::V4, IpVersion::V6] {
            let content = file(version);
            let expected = ends(&content).map(|addr| pan().address(addr));
            let (masked, ..) = mask(&content, "x", &masking(Method::CryptoPan(pan()), &[]));
            assert_eq!(ends(&masked), expected);
            assert!(masked.metadata.unwrap().flags.has(FlowFlags::ANONYMIZED | FlowFlags::REPLACED));
            let cut = mask(&masked, "x", &masking(Method::Netblock, &[])).0.metadata.unwrap().flags;
            assert!(cut.has(FlowFlags::ANONYMIZED) && !cut.has(FlowFlags::REPLACED), "they have lost bits then");
            let data = pcap::records(&masked.records).next().unwrap().data();
            if version == IpVersion::V4 {
                let sum: u32 = data[14..34].chunks(2).map(|b| u32::from(b[0]) << 8 | u32::from(b[1])).sum();
                assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
                assert_eq!(data[50..52], [0, 0], "the TCP checksum covers the addresses");
            }
        }
    }

    #[test]
    fn a_capture_of_several_link_types_is_not_read_as_one_of_them() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pcapng-links.pcapng");
        let refusal = content("links", fs::read(path).unwrap()).unwrap_err().to_string();
        assert!(refusal.contains("link types 1 and 101"), "{refusal}");
    }

    #[test]
    fn a_path_that_spells_out_a_hidden_address_is_known() {
        let content = file(IpVersion::V4);
        let [src, dst] = ends(&content);
        let all = masking(Method::Netblock, &[]);
        let [text, other] = [src, dst].map(|addr| IpAddr::from(addr).to_string());
        let hex: String = src.as_v4().unwrap().iter().map(|b| format!("{b:02X}")).collect();
        for path in [format!("{text}.pcap"), format!("by/{text}/x.pcap"), format!("a-{}-443.pcap", text.replace('.', "_")), hex] {
            assert!(names_hidden(&path, &content, &all), "{path}");
        }
        let net = text.rsplit_once('.').unwrap().0;
        for path in ["2026/11/21/x.pcap.gz".to_owned(), format!("{net}.pcap"), format!("{net}.0.pcap")] {
            assert!(!names_hidden(&path, &content, &all), "{path}");
        }
        assert!(!names_hidden(&other, &content, &masking(Method::Netblock, &[dst])), "a local one stays");
        let content = file(IpVersion::V6);
        let text = IpAddr::from(ends(&content)[0]).to_string();
        assert!(names_hidden(&format!("x_{}.pcap", text.replace(':', "-").to_uppercase()), &content, &all));
    }

    #[test]
    fn a_name_that_was_made_of_addresses_is_made_of_masked_ones() {
        let content = file(IpVersion::V4);
        let (masked, _, name) = mask(&content, A, &masking(Method::Netblock, &[]));
        assert_ne!(name, A);
        assert!(is_generated(&name));
        let (_, _, again) = mask(&masked, &name, &masking(Method::Netblock, &[]));
        assert_eq!(again, name, "the masked addresses alone decide");
        assert!(!is_generated("host_1795218624_0000000000000004") && !is_generated(&A.replace("-5000", "-4000")));
    }
}
