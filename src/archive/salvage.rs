//! What a crash left in the temporary folder: published as far as it is whole.

use super::catalogue::RowSender;
use super::file::{ArchiveFile, Unreadable};
use super::gzip::{Encoder, MAX_DECODED};
use super::merge::{Publisher, of_packets};
use super::metadata::Metadata;
use super::metrics::ArchiveMetrics;
use super::path::{Slot, Tree, name_of_temp};
use super::{Refusal, Stage};
use crate::flow::ledger::Ledger;
use crate::identity::Name;
use crate::shard::EndReason;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use tracing::{info, warn};

/// What became of leftovers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Salvaged {
    /// Files that have their names now.
    pub published: u64,
    /// Files with nothing to recover, removed.
    pub empty: u64,
    /// Files that the disk refused or that are too large to be read, left where they are.
    pub failed: u64,
}

/// Publishes what processes that are gone have left for this data folder. Files of processes that live are not touched.
pub fn salvage(tree: &Tree, ledger: &Arc<Ledger>, metrics: &ArchiveMetrics, catalogue: Option<&RowSender>) -> Salvaged {
    salvage_within(MAX_DECODED, tree, ledger, metrics, catalogue)
}

/// `limit` is the most bytes that a file may unpack to.
fn salvage_within(
    limit: u64,
    tree: &Tree,
    ledger: &Arc<Ledger>,
    metrics: &ArchiveMetrics,
    catalogue: Option<&RowSender>,
) -> Salvaged {
    let mut salvaged = Salvaged::default();
    let slots = tree.abandoned().unwrap_or_else(|e| {
        warn!(folder = %tree.temp().display(), error = %e, "cannot look for leftovers");
        Vec::new()
    });
    let mut encoder = Encoder::new();
    let mut publisher = Publisher { tree, encoder: &mut encoder, ledger, metrics, fsync: false, catalogue };
    for slot in slots {
        if let Err(e) = salvage_slot(&mut publisher, &slot, limit, &mut salvaged) {
            warn!(folder = %slot.path.display(), error = %e, "cannot read leftovers");
        }
        // Stays where something is left in it.
        let _ = fs::remove_dir(&slot.path);
    }
    let Salvaged { published, empty, failed } = salvaged;
    for (outcome, count) in [("published", published), ("empty", empty), ("failed", failed)] {
        metrics.salvaged.with_label_values(&[outcome]).inc_by(count);
    }
    if salvaged != Salvaged::default() {
        info!(published, empty, failed, "found files of a process that did not end well");
    }
    salvaged
}

fn salvage_slot(publisher: &mut Publisher<'_>, slot: &Slot, limit: u64, salvaged: &mut Salvaged) -> io::Result<()> {
    let mut paths = fs::read_dir(&slot.path)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    for path in paths {
        // Not ours to judge; it keeps its folder too.
        let Some(name) = name_of_temp(&path) else { continue };
        match salvage_file(publisher, &path, &name, limit) {
            Ok(true) => salvaged.published += 1,
            Ok(false) => salvaged.empty += 1,
            Err(e) => {
                warn!(path = %path.display(), error = %e, "cannot salvage a file; it stays where it is");
                salvaged.failed += 1;
            }
        }
    }
    Ok(())
}

/// Says whether there was anything to publish.
fn salvage_file(publisher: &mut Publisher<'_>, path: &Path, name: &Name, limit: u64) -> Result<bool, Refusal> {
    let bytes = fs::read(path).map_err(Stage::FileOpen.on(path))?;
    let mut file = match ArchiveFile::parse_within(&bytes, limit) {
        Ok(file) if !file.records.is_empty() => file,
        Err(Unreadable::TooLarge(large)) => {
            let remedy = format!("{large}, too large to salvage: look at it with gunzip and tcpdump, then remove it");
            return Err(Stage::WriteFinal.on(path)(io::Error::other(remedy)));
        }
        Ok(_) | Err(Unreadable::NotPcap(_)) => {
            return fs::remove_file(path).map(|()| false).map_err(Stage::WriteFinal.on(path));
        }
    };
    let found = of_packets(&file);
    let stated = file.metadata.unwrap_or(Metadata::UNFINISHED);
    if file.whole && stated.end.is_some() && stated.packets_kept == found.packets_kept {
        // Only the rename was missing.
        return publisher.publish(path, bytes.len() as u64, name).map(|_| true);
    }
    file.metadata = Some(Metadata { end: Some(EndReason::Salvaged), flags: stated.flags, tcp_info: stated.tcp_info, ..found });
    let (rewritten, mut target) = publisher.tree.create(name)?;
    let bytes = file.encode(publisher.encoder);
    let written = target.write_all(&bytes).map_err(Stage::WriteFinal.on(&rewritten));
    let result = written.and_then(|()| publisher.publish(&rewritten, bytes.len() as u64, name));
    if result.is_err() {
        let _ = fs::remove_file(&rewritten);
    }
    result?;
    fs::remove_file(path).map(|()| true).map_err(Stage::WriteFinal.on(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::pcap;
    use crate::archive::tcp_info::FinalTcpInfo;
    use crate::archive::testing::{Bench, name, record};
    use crate::capture::LinkType;

    /// What a dead process leaves: its slot with one temporary file.
    fn leave(bench: &Bench, uuid: &str, bytes: &[u8]) {
        let dead = Tree::open(bench.tree.data(), None).unwrap();
        dead.create(&name(uuid)).unwrap().1.write_all(bytes).unwrap();
    }

    /// A streamed file of three members with two packets each, and where each member ends.
    fn streamed() -> (Vec<u8>, Vec<usize>, Vec<u8>) {
        let mut encoder = Encoder::new();
        let (mut file, mut ends, mut records) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..3u64 {
            let segment = [record(2 * i + 1, b"one"), record(2 * i + 2, b"other")].concat();
            let header = pcap::file_header(LinkType::Ethernet, 256);
            let parts: &[&[u8]] = if i == 0 { &[&header, &segment] } else { &[&segment] };
            file.extend_from_slice(&encoder.member((i == 0).then_some(&Metadata::UNFINISHED), parts));
            ends.push(file.len());
            records.extend(segment);
        }
        (file, ends, records)
    }

    #[test]
    fn a_file_cut_anywhere_gives_its_whole_members() {
        let bench = Bench::new();
        let (file, ends, records) = streamed();
        for cut in 0..=file.len() {
            leave(&bench, "x", &file[..cut]);
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            let salvaged = salvage(&bench.tree, &bench.ledger, &bench.metrics, None);
            let path = bench.tree.final_path(&name("x"));
            if whole == 0 {
                assert_eq!(salvaged, Salvaged { empty: 1, ..Default::default() }, "cut at {cut}");
                assert_eq!(bench.files(), [""; 0].map(std::path::PathBuf::from));
                continue;
            }
            assert_eq!(salvaged, Salvaged { published: 1, ..Default::default() }, "cut at {cut}");
            assert_eq!(bench.files(), std::slice::from_ref(&path));
            let found = ArchiveFile::parse(&fs::read(&path).unwrap()).unwrap();
            assert_eq!(found.records, records[..records.len() / 3 * whole], "cut at {cut}");
            let metadata = found.metadata.unwrap();
            assert_eq!((metadata.end, metadata.packets_kept), (Some(EndReason::Salvaged), 2 * whole as u32));
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn what_the_kernel_said_outlives_a_crash() {
        let bench = Bench::new();
        let info = Some(FinalTcpInfo { cookie: 4, rtt: 130, ..FinalTcpInfo::default() });
        let metadata = Some(Metadata { tcp_info: info, ..Metadata::UNFINISHED });
        let file = ArchiveFile { link: LinkType::Ethernet, snaplen: 256, metadata, records: record(5, b"a"), whole: true };
        leave(&bench, "x", &file.encode(&mut Encoder::new()));
        salvage(&bench.tree, &bench.ledger, &bench.metrics, None);
        let found = ArchiveFile::parse(&fs::read(bench.tree.final_path(&name("x"))).unwrap()).unwrap();
        let metadata = found.metadata.unwrap();
        assert_eq!((metadata.end, metadata.tcp_info), (Some(EndReason::Salvaged), info));
    }

    #[test]
    fn a_file_that_lacked_only_its_name_is_published_as_it_is() {
        let bench = Bench::new();
        let mut file =
            ArchiveFile { link: LinkType::Ethernet, snaplen: 256, metadata: None, records: record(5, b"a"), whole: true };
        file.metadata = Some(Metadata { end: Some(EndReason::Fin), kernel_drops: 7, ..of_packets(&file) });
        let bytes = file.encode(&mut Encoder::new());
        leave(&bench, "x", &bytes);
        salvage(&bench.tree, &bench.ledger, &bench.metrics, None);
        assert_eq!(fs::read(bench.tree.final_path(&name("x"))).unwrap(), bytes);
    }

    #[test]
    fn files_of_a_living_process_and_of_others_are_left_alone() {
        let bench = Bench::new();
        let living = Tree::open(bench.tree.data(), None).unwrap();
        let temp = living.temp_path(&name("x"));
        fs::write(&temp, streamed().0).unwrap();
        leave(&bench, "y", b"");
        let strange = bench.tree.abandoned().unwrap()[0].path.join("somebody's notes");
        fs::write(&strange, "").unwrap();
        let salvaged = salvage(&bench.tree, &bench.ledger, &bench.metrics, None);
        assert_eq!(salvaged, Salvaged { empty: 1, ..Default::default() });
        assert!(temp.exists() && strange.exists());
    }

    #[test]
    fn a_leftover_too_large_to_be_read_is_not_removed() {
        let bench = Bench::new();
        let (file, _, records) = streamed();
        let content = (records.len() + pcap::FILE_HEADER_LEN) as u64;
        leave(&bench, "x", &file);
        for _ in 0..2 {
            let salvaged = salvage_within(content - 1, &bench.tree, &bench.ledger, &bench.metrics, None);
            assert_eq!(salvaged, Salvaged { failed: 1, ..Default::default() });
            assert_eq!(fs::read(&bench.files()[0]).unwrap(), file);
        }
        assert_eq!(salvage_within(content, &bench.tree, &bench.ledger, &bench.metrics, None).published, 1);
    }

    #[test]
    fn leftovers_that_the_disk_refuses_stay() {
        let bench = Bench::new();
        fs::write(bench.tree.data().join("2026"), "a file in the folder's place").unwrap();
        leave(&bench, "x", &streamed().0);
        let failed = Salvaged { failed: 1, ..Default::default() };
        assert_eq!(salvage(&bench.tree, &bench.ledger, &bench.metrics, None), failed);
        fs::remove_file(bench.tree.data().join("2026")).unwrap();
        assert_eq!(salvage(&bench.tree, &bench.ledger, &bench.metrics, None).published, 1);
        assert_eq!(bench.files(), [bench.tree.final_path(&name("x"))]);
    }
}
