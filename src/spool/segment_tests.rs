use super::*;
use crate::capture::file::FileSource;
use crate::capture::{Frame, LinkType, PacketSource, Progress};
use crate::spool::Tuple;
use crate::spool::block::Blocks;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use tempfile::TempDir;

#[test]
fn a_segment_has_no_name_until_it_is_whole_and_then_stock_readers_read_it() {
    for format in Format::ALL {
        for compress in Compress::ALL {
            let dir = TempDir::new().unwrap();
            let mut writer = writer(&dir, SegmentConfig { format, compress, ..config() });
            for op in ops(format, 0..5) {
                writer.handle_op(&op).unwrap();
                assert_eq!(published(&dir), Vec::<String>::new());
            }
            writer.finish().unwrap();
            let name = format!("2026/11/21/2026-11-21T12-00-00-000000000.{}{}", format.extension(), compress.suffix());
            assert_eq!(published(&dir), [name.clone(), format!("{name}.idx")]);
            assert_eq!(read(&dir.path().join(name)), [0, 1, 2, 3, 4]);
            assert_eq!(hidden(&dir), ["lock"]);
        }
    }
}

#[test]
fn a_segment_turns_at_its_size() {
    let dir = TempDir::new().unwrap();
    let mut writer = writer(&dir, SegmentConfig { rotate_bytes: Some(2000), compress: Compress::None, ..config() });
    // Records of 1,016 bytes after a file header of 24: the second block passes the size.
    write(&mut writer, &ops(Format::Pcap, 0..5));
    writer.finish().unwrap();
    let segments: Vec<_> = published(&dir).into_iter().filter(|n| n.ends_with(".pcap")).collect();
    assert_eq!(segments.iter().map(|n| read(&dir.path().join(n)).len()).collect::<Vec<_>>(), [2, 2, 1]);
}

#[test]
fn segments_of_one_second_have_different_names_and_none_is_replaced() {
    let dir = TempDir::new().unwrap();
    for _ in 0..3 {
        let mut writer = writer(&dir, SegmentConfig { naming: Naming::Seconds, shard: Some(1), ..config() });
        write(&mut writer, &ops(Format::Pcap, 0..1));
        writer.finish().unwrap();
    }
    let names: Vec<_> = published(&dir).into_iter().filter(|n| !n.ends_with(".idx")).collect();
    let stem = "2026/11/21/2026-11-21T12-00-00-s1";
    assert_eq!(names, [format!("{stem}-2.pcap.zst"), format!("{stem}-3.pcap.zst"), format!("{stem}.pcap.zst")]);
}

#[test]
fn what_a_crash_left_is_published_up_to_its_last_whole_block() {
    for (damage, packets) in [(Damage::None, 5), (Damage::CutSegment, 4), (Damage::CutJournal, 4), (Damage::Flipped, 2)] {
        let dir = TempDir::new().unwrap();
        let mut dead = writer(&dir, config());
        write(&mut dead, &ops(Format::Pcap, 0..5));
        let (path, blocks) = (dead.open[0].1.path.clone(), dead.open[0].1.index.build().blocks);
        drop(dead);
        let len = |path: &Path| path.metadata().unwrap().size();
        let cut = |path: &Path, by: u64| OpenOptions::new().write(true).open(path).unwrap().set_len(len(path) - by).unwrap();
        match damage {
            Damage::None => {}
            Damage::CutSegment => cut(&path, 1),
            Damage::CutJournal => cut(&index_path(&path), 1),
            Damage::Flipped => {
                OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0xff], blocks[2].offset).unwrap()
            }
        }
        let salvaged = salvage(&Spool::open(dir.path()).unwrap());
        let [Salvaged { segment: Some(segment), packets: found, last, cut }] = &salvaged[..] else { panic!("{salvaged:?}") };
        assert_eq!(*found, packets, "{damage:?}");
        assert_eq!(*last, Some(at(packets - 1)));
        assert_eq!(*cut > 0, !matches!(damage, Damage::None), "{damage:?}");
        assert_eq!(read(segment).len() as u64, packets);
        assert_eq!(Index::decode(&fs::read(index_path(segment)).unwrap()).unwrap().blocks.len() as u64, packets);
        assert_eq!(hidden(&dir), ["lock"], "{damage:?}");
    }
}

#[test]
fn leftovers_without_a_whole_block_are_removed() {
    let dir = TempDir::new().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    for name in ["a.pcap", "b.pcap.idx", "c.pcap.new"] {
        fs::write(dir.path().join(HIDDEN).join(name), b"x").unwrap();
    }
    let salvaged = salvage(&spool);
    assert_eq!(salvaged, [Salvaged { segment: None, packets: 0, last: None, cut: 1 }]);
    assert_eq!(hidden(&dir), ["lock"]);
}

#[test]
fn a_folder_has_one_writer() {
    let dir = TempDir::new().unwrap();
    let first = Spool::open(dir.path()).unwrap();
    assert!(matches!(Spool::open(dir.path()), Err(SpoolError::Locked(_))));
    drop(first);
    Spool::open(dir.path()).unwrap();
}

#[test]
fn a_block_that_is_refused_leaves_nothing_and_can_be_tried_again() {
    let dir = TempDir::new().unwrap();
    let mut writer = writer(&dir, config());
    let ops = ops(Format::Pcap, 0..3);
    writer.handle_op(&ops[0]).unwrap();
    let path = writer.open[0].1.path.clone();
    let whole = path.metadata().unwrap().size();
    // A descriptor that cannot be written stands for a disk that is full.
    let readable = File::open(&path).unwrap();
    let good = std::mem::replace(&mut writer.open[0].1.file, readable);
    assert!(writer.handle_op(&ops[1]).is_err());
    assert_eq!(path.metadata().unwrap().size(), whole);
    writer.open[0].1.file = good;
    write(&mut writer, &ops[1..]);
    writer.finish().unwrap();
    let name = published(&dir).into_iter().find(|n| n.ends_with(".zst")).unwrap();
    assert_eq!(read(&dir.path().join(name)), [0, 1, 2]);
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    None,
    CutSegment,
    CutJournal,
    Flipped,
}

fn config() -> SegmentConfig {
    SegmentConfig {
        format: Format::Pcap,
        compress: Compress::Zstd,
        rotate_bytes: None,
        snaplen: 262_144,
        fsync: true,
        naming: Naming::Nanoseconds,
        shard: None,
    }
}

fn writer(dir: &TempDir, config: SegmentConfig) -> SegmentWriter {
    SegmentWriter::new(&Spool::open(dir.path()).unwrap(), config).unwrap()
}

fn write(writer: &mut SegmentWriter, ops: &[SpoolOp]) {
    for op in ops {
        writer.handle_op(op).unwrap();
    }
}

/// Blocks of one frame each, a second apart, from noon on.
fn ops(format: Format, frames: std::ops::Range<u64>) -> Vec<SpoolOp> {
    let mut blocks = Blocks::new(format, None);
    for n in frames {
        let mut data = [0xa5; 1000];
        data[..8].copy_from_slice(&n.to_le_bytes());
        let frame = Frame { ts: at(n), wire_len: 1000, link: LinkType::Ethernet, interface: 0, data: &data };
        blocks.handle_frame(&frame, Tuple::not_ip(), at(n));
    }
    blocks.finish();
    std::iter::from_fn(|| blocks.poll_op()).collect()
}

/// The numbers of a file's frames.
fn read(path: &Path) -> Vec<u64> {
    let mut source = FileSource::open(path).unwrap();
    let mut numbers = Vec::new();
    let mut number = |frame: Frame<'_>| numbers.push(u64::from_le_bytes(*frame.data.first_chunk().unwrap()));
    while source.next_batch(&mut number).unwrap() != Progress::Ended {}
    numbers
}

fn published(dir: &TempDir) -> Vec<String> {
    let mut found = Vec::new();
    for day in fs::read_dir(dir.path().join("2026/11/21")).into_iter().flatten().flatten() {
        found.push(day.path().strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned());
    }
    found.sort();
    found
}

fn hidden(dir: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(dir.path().join(HIDDEN)).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_parts(1_795_262_400, 0) + Duration::from_secs(secs)
}

fn salvage(spool: &Spool) -> Vec<Salvaged> {
    spool.leftovers().unwrap().iter().map(|path| spool.salvage(path).unwrap()).collect()
}
