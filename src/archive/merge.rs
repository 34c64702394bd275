//! Gives a temporary file its final name; where that name is taken, joins both files' packets first.
//!
//! The same UUID comes twice when the UUID source announces sockets that it announced before: after a restart, mostly.

use super::catalogue::RowSender;
use super::file::ArchiveFile;
use super::gzip::Encoder;
use super::metadata::Metadata;
use super::metrics::ArchiveMetrics;
use super::path::{PlaceError, Placed, Tree, rename_to_new};
use super::pcap::{self, Record};
use super::tcp_info::FinalTcpInfo;
use super::{Refusal, Stage};
use crate::flow::ledger::Ledger;
use crate::identity::Name;
use crate::packet::parse;
use crate::shard::FlowFlags;
use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use tracing::warn;

/// What became of a file that was to be published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Published {
    /// It has its name.
    New,
    /// A file with its packets and those of the one that was there has the name.
    Merged,
    /// It has the name of one that could not be merged, which was moved aside.
    Replaced,
}

/// What publishing needs beside the file.
pub(super) struct Publisher<'a> {
    pub(super) tree: &'a Tree,
    pub(super) encoder: &'a mut Encoder,
    pub(super) ledger: &'a Arc<Ledger>,
    pub(super) metrics: &'a ArchiveMetrics,
    pub(super) fsync: bool,
    pub(super) catalogue: Option<&'a RowSender>,
}

impl Publisher<'_> {
    /// Gives the whole file `temp`, of `len` bytes, its final name; on success `temp` is gone. Returns the final file's size
    /// in bytes too.
    ///
    /// # Errors
    /// Fails with the step that the disk refused; `temp` and any file of the name are then as they were.
    pub(super) fn publish(&mut self, temp: &Path, len: u64, name: &Name) -> Result<(Published, u64), Refusal> {
        // Opened before it has its name: an uploader may take it away as soon as it has.
        let written = self.catalogue.map(|_| fs::File::open(temp));
        let (how, len) = match self.place(temp, name)? {
            Placed::New => (Published::New, len),
            Placed::Exists => {
                let path = self.tree.final_path(name);
                let _lock = self.tree.lock_name(name).map_err(Stage::WriteFinal.on(&path))?;
                self.join_existing(temp, &path, name, len)?
            }
        };
        if self.fsync {
            // The file is there; only whether it outlives a loss of power is open, and writing it again would not help.
            let synced = self.tree.sync_day(name.date);
            synced.unwrap_or_else(|e| warn!(date = %name.date, error = %e, "cannot sync a folder"));
        }
        match how {
            Published::New => self.metrics.files.new.inc(),
            Published::Merged => self.metrics.files.merged.inc(),
            Published::Replaced => self.metrics.files.replaced.inc(),
        }
        self.metrics.bytes.inc_by(len);
        if let (Some(catalogue), Some(written)) = (self.catalogue, written) {
            let file = if how == Published::Merged { fs::File::open(self.tree.final_path(name)) } else { written };
            catalogue.record(&name.to_string(), file);
        }
        Ok((how, len))
    }

    fn place(&self, temp: &Path, name: &Name) -> Result<Placed, Refusal> {
        self.tree.place(temp, name).map_err(|e| match e {
            PlaceError::Mkdir(e) => Stage::Mkdir.on(self.tree.final_path(name))(e),
            PlaceError::Rename(e) => Stage::WriteFinal.on(self.tree.final_path(name))(e),
        })
    }

    fn join_existing(&mut self, temp: &Path, path: &Path, name: &Name, len: u64) -> Result<(Published, u64), Refusal> {
        let refused = |e| Stage::WriteFinal.on(path)(e);
        let ours = fs::read(temp).map_err(refused)?;
        let ours = ArchiveFile::parse(&ours).map_err(|e| refused(io::Error::other(e)))?;
        let mut charge = self.ledger.charge(ours.records.len());
        let existing = match read_regular(path) {
            Ok(bytes) => ArchiveFile::parse(&bytes).map(headers_alone).map_err(|e| e.to_string()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // An uploader took it away meanwhile.
                return match self.place(temp, name)? {
                    Placed::New => Ok((Published::New, len)),
                    Placed::Exists => Err(refused(io::ErrorKind::AlreadyExists.into())),
                };
            }
            // We lack something, the file does not.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => return Err(refused(e)),
            Err(e) => Err(e.to_string()),
        };
        let (kind, reason) = match existing {
            Ok(existing) if existing.link == ours.link => {
                charge.resize(ours.records.len() + 2 * existing.records.len());
                let union = union(&existing, &ours);
                let kind = if union.packets() > existing.packets() { "added" } else { "nothingnew" };
                let len = self.replace_with(&union, path, name)?;
                // A leftover of this would only be merged again, which adds nothing.
                let _ = fs::remove_file(temp);
                self.metrics.merges.with_label_values(&[kind]).inc();
                return Ok((Published::Merged, len));
            }
            Ok(existing) => ("otherlink", format!("its link type is {:?}", existing.link)),
            Err(reason) => ("unreadable", reason),
        };
        move_aside(path).map_err(refused)?;
        let Placed::New = self.place(temp, name)? else { return Err(refused(io::ErrorKind::AlreadyExists.into())) };
        self.metrics.merges.with_label_values(&[kind]).inc();
        warn!(uuid = %name.uuid, reason, "moved a file of the same name aside that could not be merged");
        Ok((Published::Replaced, len))
    }

    /// Writes `file` and renames it over `path`; returns its size.
    fn replace_with(&mut self, file: &ArchiveFile, path: &Path, name: &Name) -> Result<u64, Refusal> {
        let bytes = file.encode(self.encoder);
        let (temp, mut f) = self.tree.create(name)?;
        let written = f
            .write_all(&bytes)
            .and_then(|()| if self.fsync { f.sync_all() } else { Ok(()) })
            .and_then(|()| fs::rename(&temp, path))
            .map_err(Stage::WriteFinal.on(path));
        if written.is_err() {
            let _ = fs::remove_file(&temp);
        }
        written.map(|()| bytes.len() as u64)
    }
}

/// Gives a file the first free name of those that end in `.replaced`, `.replaced.2` and so on: no reader takes it for a flow,
/// and what is in it is not lost, be it too large to be merged.
fn move_aside(path: &Path) -> io::Result<()> {
    let mut n = 1;
    loop {
        let mut aside = path.as_os_str().to_owned();
        aside.push(if n == 1 { ".replaced".to_owned() } else { format!(".replaced.{n}") });
        match rename_to_new(path, Path::new(&aside)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => n += 1,
            moved => return moved,
        }
    }
}

/// Both files' packets in the order of time, those that are equal in time and content once. Neither the order of the
/// arguments matters nor, of several files, which are joined first; joining the result with one of them again changes nothing.
pub fn union(a: &ArchiveFile, b: &ArchiveFile) -> ArchiveFile {
    let sides = [a, b].map(|file| {
        let mut side: Vec<Record<'_>> = distinct(pcap::records(&file.records)).collect();
        side.sort_by_key(Record::ts);
        side
    });
    let mut all: Vec<Record<'_>> = distinct(sides.iter().flatten().copied()).collect();
    all.sort_by_key(|r| (r.ts(), r.bytes));
    // Packets of one time stand in the order of a file that has all packets. Without one their order is lost: any must do
    // that does not depend on which files met first, and that gives way to a file that has all.
    let whole = sides.into_iter().filter(|side| side.len() == all.len());
    let all = whole.max_by(|x, y| x.iter().map(|r| r.bytes).cmp(y.iter().map(|r| r.bytes))).unwrap_or(all);

    let moved = [a, b].iter().any(|file| !pcap::records(&file.records).is_sorted_by_key(|r| r.ts()));
    let known = [a, b].map(|file| file.metadata.unwrap_or_else(|| of_packets(file)));
    let later = known.iter().max_by_key(|m| (m.last, m.end.map(|end| end as u8))).expect("an array of two");
    let kept = u32::try_from(all.len()).unwrap_or(u32::MAX);
    let unkept = known.iter().map(|m| m.packets_seen.saturating_sub(m.packets_kept)).max().unwrap_or(0);
    let mut flags = later.flags;
    flags.set(known[0].flags.0 | known[1].flags.0 | FlowFlags::MERGED | if moved { FlowFlags::SORTED } else { 0 });
    // What is not true of all packets must not be said of the file.
    flags.0 &= !(FlowFlags::ANONYMIZED | FlowFlags::SCRUBBED) | known[0].flags.0 & known[1].flags.0;
    let metadata = Metadata {
        end: later.end,
        flags,
        tool: Metadata::UNFINISHED.tool,
        first: known[0].first.min(known[1].first),
        last: later.last,
        packets_seen: kept.saturating_add(unkept),
        packets_kept: kept,
        kernel_drops: known[0].kernel_drops.max(known[1].kernel_drops),
        tcp_info: FinalTcpInfo::later(known[0].tcp_info, known[1].tcp_info),
    };
    ArchiveFile {
        link: a.link,
        snaplen: a.snaplen.max(b.snaplen),
        metadata: Some(metadata),
        records: pcap::concat(&all),
        whole: true,
    }
}

/// Cuts the packets of another program's file to their headers, without those that are no TCP: the predecessor left payload behind
/// some, and what is joined is ours.
fn headers_alone(mut file: ArchiveFile) -> ArchiveFile {
    if file.metadata.is_some() {
        return file;
    }
    let mut records = Vec::with_capacity(file.records.len());
    for record in pcap::records(&file.records) {
        let Ok(packet) = parse(file.link, record.data()) else { continue };
        let data = &record.data()[..packet.header_len.min(record.data().len())];
        records.extend_from_slice(&record.bytes[..8]);
        records.extend((data.len() as u32).to_le_bytes());
        records.extend(record.wire_len().to_le_bytes());
        records.extend_from_slice(data);
    }
    file.records = records;
    file
}

/// What a file's packets alone tell of its flow.
pub(super) fn of_packets(file: &ArchiveFile) -> Metadata {
    let times = || pcap::records(&file.records).map(|r| r.ts());
    let packets = u32::try_from(file.packets()).unwrap_or(u32::MAX);
    Metadata {
        first: times().min().unwrap_or_default(),
        last: times().max().unwrap_or_default(),
        packets_seen: packets,
        packets_kept: packets,
        ..Metadata::UNFINISHED
    }
}

fn distinct<'a>(records: impl Iterator<Item = Record<'a>>) -> impl Iterator<Item = Record<'a>> {
    let mut seen = HashSet::new();
    records.filter(move |r| seen.insert(*r))
}

/// Reads a regular file; anything else is an error and is not waited for.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::{Bench, name, record};
    use crate::capture::LinkType;
    use crate::packet::IpVersion;
    use crate::packet::testing::{Hidden, Spec};
    use proptest::prelude::*;

    fn file(records: Vec<u8>) -> ArchiveFile {
        let mut file = ArchiveFile { link: LinkType::Ethernet, snaplen: 256, metadata: None, records, whole: true };
        file.metadata = Some(of_packets(&file));
        file
    }

    fn some_file() -> impl Strategy<Value = ArchiveFile> {
        let packets = proptest::collection::vec((0u64..6, 0u8..4), 0..12);
        (packets, 0u64..3, 0u32..3).prop_map(|(packets, cookie, segs_in)| {
            let mut file = file(packets.iter().flat_map(|&(ts, b)| record(ts, &[b])).collect());
            let info = FinalTcpInfo { cookie, segs_in, ..FinalTcpInfo::default() };
            file.metadata = file.metadata.map(|m| Metadata { tcp_info: Some(info).filter(|_| cookie > 0), ..m });
            file
        })
    }

    #[test]
    fn a_masked_and_an_unmasked_file_make_one_that_does_not_claim_to_be_masked() {
        let with = |flags| {
            let mut file = file(record(1, &[1]));
            file.metadata = file.metadata.map(|m| Metadata { flags: FlowFlags(flags), ..m });
            file
        };
        let flags = |a: &ArchiveFile, b: &ArchiveFile| union(a, b).metadata.unwrap().flags;
        let masked = with(FlowFlags::ANONYMIZED | FlowFlags::SCRUBBED | FlowFlags::HANDSHAKE);
        assert!(flags(&masked, &masked).has(FlowFlags::ANONYMIZED | FlowFlags::SCRUBBED));
        let foreign = ArchiveFile { metadata: None, ..masked.clone() };
        for other in [with(0), foreign] {
            for joined in [flags(&masked, &other), flags(&other, &masked)] {
                assert!(!joined.has(FlowFlags::ANONYMIZED) && !joined.has(FlowFlags::SCRUBBED));
                assert!(joined.has(FlowFlags::MERGED | FlowFlags::HANDSHAKE));
            }
        }
    }

    fn publish(bench: &Bench, bytes: &[u8]) -> (Published, u64) {
        let (temp, mut file) = bench.tree.create(&name("x")).unwrap();
        file.write_all(bytes).unwrap();
        let (tree, ledger, metrics) = (&bench.tree, &bench.ledger, &bench.metrics);
        let published = Publisher { tree, encoder: &mut Encoder::new(), ledger, metrics, fsync: true, catalogue: None }.publish(
            &temp,
            bytes.len() as u64,
            &name("x"),
        );
        let mut files = bench.files();
        files.retain(|file| !file.to_str().unwrap().contains(".pcap.gz.replaced"));
        assert_eq!(files, [tree.final_path(&name("x"))], "no temporary file is left");
        published.unwrap()
    }

    fn published(bench: &Bench) -> ArchiveFile {
        ArchiveFile::parse(&fs::read(bench.tree.final_path(&name("x"))).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn the_order_of_joining_does_not_matter(a in some_file(), b in some_file()) {
            prop_assert_eq!(union(&a, &b), union(&b, &a));
        }

        #[test]
        fn which_files_are_joined_first_does_not_matter(a in some_file(), b in some_file(), c in some_file()) {
            prop_assert_eq!(union(&union(&a, &b), &c), union(&a, &union(&b, &c)));
        }

        #[test]
        fn joining_again_changes_nothing(a in some_file(), b in some_file()) {
            let joined = union(&a, &b);
            for part in [&a, &b, &joined] {
                prop_assert_eq!(&union(&joined, part), &joined);
            }
        }

        #[test]
        fn a_union_holds_every_packet_once_in_order(a in some_file(), b in some_file()) {
            let joined = union(&a, &b);
            let all: Vec<_> = pcap::records(&joined.records).collect();
            prop_assert!(all.is_sorted_by_key(Record::ts));
            let expected: HashSet<_> = pcap::records(&a.records).chain(pcap::records(&b.records)).collect();
            prop_assert_eq!(all.len(), expected.len());
            prop_assert_eq!(all.into_iter().collect::<HashSet<_>>(), expected);
        }
    }

    #[test]
    fn a_second_file_of_the_name_adds_its_packets() {
        let bench = Bench::new();
        let [a, mut b] = [[record(1, b"a"), record(2, b"b")], [record(2, b"b"), record(3, b"c")]].map(|r| file(r.concat()));
        let last_word = Some(FinalTcpInfo { cookie: 4, rtt: 130, ..FinalTcpInfo::default() });
        b.metadata = b.metadata.map(|m| Metadata { tcp_info: last_word, ..m });
        assert_eq!(publish(&bench, &a.encode(&mut Encoder::new())).0, Published::New);
        let (how, len) = publish(&bench, &b.encode(&mut Encoder::new()));
        assert_eq!((how, len), (Published::Merged, fs::metadata(bench.tree.final_path(&name("x"))).unwrap().len()));
        let joined = published(&bench);
        assert_eq!(joined.records, [record(1, b"a"), record(2, b"b"), record(3, b"c")].concat());
        let metadata = joined.metadata.unwrap();
        assert!(metadata.flags.has(FlowFlags::MERGED));
        assert_eq!((metadata.packets_kept, metadata.first.as_nanos(), metadata.last.as_nanos()), (3, 1, 3));
        assert_eq!(metadata.tcp_info, last_word);
        assert_eq!(bench.metrics.merges.with_label_values(&["added"]).get(), 1);
    }

    #[test]
    fn a_file_of_the_predecessor_with_garbage_behind_it_is_merged_and_its_payload_is_not() {
        let bench = Bench::new();
        fs::create_dir_all(bench.tree.final_path(&name("x")).parent().unwrap()).unwrap();
        let (packet, header_len) = Spec::plain(IpVersion::V4).build(Hidden { secret: 1, payload: 0xa5 });
        let records = [record(1_000, &packet), record(1_001, b"no TCP packet")].concat();
        let pcap = [&pcap::file_header(LinkType::Ethernet, 94)[..], &records].concat();
        let member = Encoder::new().member(None, &[&pcap]);
        fs::write(bench.tree.final_path(&name("x")), [&member[..], b"rest of a longer file"].concat()).unwrap();
        assert_eq!(publish(&bench, &file(record(2_000, b"b")).encode(&mut Encoder::new())).0, Published::Merged);
        let joined = published(&bench);
        let lens: Vec<_> = pcap::records(&joined.records).map(|r| (r.ts().as_nanos(), r.data().len(), r.wire_len())).collect();
        assert_eq!(lens, [(1_000, header_len, packet.len() as u32), (2_000, 1, 1)]);
    }

    #[test]
    fn what_cannot_be_merged_is_moved_aside_and_counted() {
        let bench = Bench::new();
        let other = ArchiveFile { link: LinkType::Raw, ..file(record(1, b"a")) }.encode(&mut Encoder::new());
        for (existing, kind, aside) in [
            (&b"\x1f\x8b\x08 stump"[..], "unreadable", "x.pcap.gz.replaced"),
            (b"", "unreadable", "x.pcap.gz.replaced.2"),
            (&other, "otherlink", "x.pcap.gz.replaced.3"),
        ] {
            fs::create_dir_all(bench.tree.final_path(&name("x")).parent().unwrap()).unwrap();
            fs::write(bench.tree.final_path(&name("x")), existing).unwrap();
            let before = bench.metrics.merges.with_label_values(&[kind]).get();
            assert_eq!(publish(&bench, &file(record(2, b"b")).encode(&mut Encoder::new())).0, Published::Replaced);
            assert_eq!(published(&bench).records, record(2, b"b"));
            assert_eq!(bench.metrics.merges.with_label_values(&[kind]).get(), before + 1);
            assert_eq!(fs::read(bench.tree.final_path(&name("x")).with_file_name(aside)).unwrap(), existing);
        }
    }
}
