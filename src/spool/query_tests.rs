use super::*;
use crate::key::{Endpoint, FlowKey};
use crate::spool::block::{Blocks, SpoolOp};
use crate::spool::segment::{Naming, SegmentConfig, SegmentWriter, Spool};
use std::net::IpAddr;
use std::time::Duration;
use tempfile::TempDir;

#[test]
fn one_flow_comes_from_all_segments_also_the_open_one_and_those_without_index() {
    for format in Format::ALL {
        for compress in Compress::ALL {
            let dir = TempDir::new().unwrap();
            let mut writer = writer(&dir, format, compress);
            for op in ops(format, 600) {
                writer.handle_op(&op).unwrap();
            }
            // The last segment is open, an earlier one has lost its index.
            let published = retention::segments(dir.path()).unwrap();
            assert!(published.len() > 2);
            fs::remove_file(index_path(&published[1].0)).unwrap();
            for port in [1000, 1007] {
                let query = Query { flow: Some(tuple(port)), ..Query::default() };
                let (times, got) = got(&dir, &query);
                let expected: Vec<_> = (0..600).filter(|n| 1000 + n % 10 == u64::from(port)).map(at).collect();
                assert_eq!(times, expected, "{format:?} {compress:?}");
                assert_eq!(got.segments as usize, published.len() + 1);
                let rows = find(dir.path(), &query).unwrap();
                assert_eq!(rows.iter().map(|f| f.row.packets).sum::<u64>(), 60);
            }
        }
    }
}

#[test]
fn only_the_blocks_that_hold_a_flow_are_read() {
    let dir = TempDir::new().unwrap();
    let mut blocks = Blocks::new(Format::Pcap, None);
    for n in 0..1000 {
        let data = packet(if n == 500 { 77 } else { 1000 });
        blocks.handle_frame(&frame(at(n), &data), tuple(if n == 500 { 77 } else { 1000 }), at(n));
    }
    blocks.finish();
    let mut writer = writer(&dir, Format::Pcap, Compress::Zstd);
    while let Some(op) = blocks.poll_op() {
        writer.handle_op(&op).unwrap();
    }
    writer.finish().unwrap();
    let (times, got) = got(&dir, &Query { flow: Some(tuple(77)), ..Query::default() });
    assert_eq!((times, got.blocks), (vec![at(500)], 1));
}

#[test]
fn what_is_got_is_what_a_full_scan_gives() {
    let dir = TempDir::new().unwrap();
    let mut writer = writer(&dir, Format::Pcap, Compress::Zstd);
    ops(Format::Pcap, 600).iter().for_each(|op| {
        writer.handle_op(op).unwrap();
    });
    writer.finish().unwrap();
    let network = |text: &str, bits| (Address::from(text.parse::<IpAddr>().unwrap()), bits);
    let port = |n: u64| 1000 + n % 10;
    type Wanted = Box<dyn Fn(u64) -> bool>;
    let cases: [(Query, Wanted); 7] = [
        (Query::default(), Box::new(|_| true)),
        (Query { ports: vec![1003], ..Query::default() }, Box::new(move |n| port(n) == 1003)),
        (Query { ports: vec![1003, 80], ..Query::default() }, Box::new(move |n| port(n) == 1003)),
        (Query { networks: vec![network("192.0.2.9", 96 + 24)], ..Query::default() }, Box::new(|_| true)),
        (Query { networks: vec![network("192.0.2.9", 128)], ..Query::default() }, Box::new(|_| false)),
        (
            Query { from: Some(at(100)), to: Some(at(200)), protocol: Some(17), ..Query::default() },
            Box::new(|n| (100..200).contains(&n)),
        ),
        (
            Query { filter: Some(Filter::parse("udp src port 1004").unwrap()), ..Query::default() },
            Box::new(move |n| port(n) == 1004),
        ),
    ];
    for (query, is_wanted) in cases {
        let expected: Vec<_> = (0..600).filter(|n| is_wanted(*n)).map(at).collect();
        assert_eq!(got(&dir, &query).0, expected, "{query:?}");
    }
}

#[test]
fn segments_of_two_shards_are_merged_by_time() {
    let dir = TempDir::new().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    for shard in 0..2 {
        let mut blocks = Blocks::new(Format::Pcap, Some(Duration::from_secs(60)));
        for n in (shard..100).step_by(2) {
            blocks.handle_frame(&frame(at(n), &packet(1000)), tuple(1000), at(n));
        }
        blocks.finish();
        let mut writer = SegmentWriter::new(&spool, config(Format::Pcap, Compress::Gzip, Some(shard as u16))).unwrap();
        while let Some(op) = blocks.poll_op() {
            writer.handle_op(&op).unwrap();
        }
        writer.finish().unwrap();
    }
    assert_eq!(got(&dir, &Query::default()).0, (0..100).map(at).collect::<Vec<_>>());
}

#[test]
fn packets_of_several_link_types_are_refused_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    let mut blocks = Blocks::new(Format::Pcap, None);
    blocks.handle_frame(&frame(at(0), &packet(1)), tuple(1), at(0));
    let raw = packet(1)[14..].to_vec();
    blocks.handle_frame(&Frame { link: LinkType::Raw, ..frame(at(1), &raw) }, tuple(1), at(1));
    blocks.finish();
    let mut writer = writer(&dir, Format::Pcap, Compress::None);
    while let Some(op) = blocks.poll_op() {
        writer.handle_op(&op).unwrap();
    }
    writer.finish().unwrap();
    let mut out = Vec::new();
    assert!(matches!(get(dir.path(), &Query::default(), &mut out), Err(QueryError::SeveralLinks(links)) if links.len() == 2));
    assert!(out.is_empty());
}

#[test]
fn an_empty_spool_gives_an_empty_file() {
    let dir = TempDir::new().unwrap();
    assert_eq!(got(&dir, &Query::default()).0, []);
    assert!(get(Path::new("nowhere"), &Query::default(), &mut Vec::new()).is_err());
}

#[track_caller]
fn got(dir: &TempDir, query: &Query) -> (Vec<Timestamp>, Got) {
    let mut out = Vec::new();
    let got = get(dir.path(), query, &mut out).unwrap();
    let mut source = FileSource::from_reader("got".into(), Box::new(io::Cursor::new(out))).unwrap();
    let mut times = Vec::new();
    while source.next_batch(&mut |frame| times.push(frame.ts)).unwrap() != Progress::Ended {}
    assert_eq!(got.packets as usize, times.len());
    (times, got)
}

/// A frame each second, of ten flows in turn, in segments of a minute.
fn ops(format: Format, frames: u64) -> Vec<SpoolOp> {
    let mut blocks = Blocks::new(format, Some(Duration::from_secs(60)));
    for n in 0..frames {
        let port = 1000 + (n % 10) as u16;
        blocks.handle_frame(&frame(at(n), &packet(port)), tuple(port), at(n));
    }
    blocks.finish();
    std::iter::from_fn(|| blocks.poll_op()).collect()
}

fn writer(dir: &TempDir, format: Format, compress: Compress) -> SegmentWriter {
    SegmentWriter::new(&Spool::open(dir.path()).unwrap(), config(format, compress, None)).unwrap()
}

fn config(format: Format, compress: Compress, shard: Option<u16>) -> SegmentConfig {
    SegmentConfig { format, compress, rotate_bytes: None, snaplen: SNAPLEN, fsync: false, naming: Naming::Nanoseconds, shard }
}

fn frame(ts: Timestamp, data: &[u8]) -> Frame<'_> {
    Frame { ts, wire_len: data.len() as u32, link: LinkType::Ethernet, interface: 0, data }
}

/// UDP from 192.0.2.1 and this port to 192.0.2.2 and port 80.
fn packet(port: u16) -> Vec<u8> {
    let mut data = [&[2; 12][..], &[8, 0, 0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]].concat();
    data.extend(port.to_be_bytes());
    data.extend([0, 80, 0, 12, 0, 0, 1, 2, 3, 4]);
    data
}

fn tuple(port: u16) -> Tuple {
    let end = |last, port| Endpoint { addr: Address::v4([192, 0, 2, last]), port };
    Tuple { ends: FlowKey::new(end(1, port), end(2, 80)).0, protocol: 17 }
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_parts(1_795_262_400, 0) + Duration::from_secs(secs)
}
