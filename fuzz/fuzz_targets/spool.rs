//! A spool with any bytes in a segment's place, beside any bytes in its index's or journal's, gives packets or an error. The
//! input: the length of the index in two bytes, one bit for a segment that is still written, the index, the segment. The
//! fuzzer need not find the checksum of an index: it is made to fit.

#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use flowarc::spool::index::{Index, read_journal};
use flowarc::spool::query::{Query, find, get};
use flowarc::spool::segment::{HIDDEN, index_path};
use libdeflater::crc32;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[low, high, open], rest)) = data.split_first_chunk() else { return };
    let (index, segment) = rest.split_at(usize::from(u16::from_le_bytes([low, high])).min(rest.len()));
    let mut index = index.to_vec();
    if let Some((head, tables)) = index.split_at_mut_checked(INDEX_HEAD) {
        head[INDEX_HEAD - 4..].copy_from_slice(&crc32(tables).to_le_bytes());
    }
    let _ = Index::decode(&index);
    let _ = read_journal(&index, |_| true);
    let path = &SEGMENTS[usize::from(open & 1)];
    put(path, &index, segment);
    let everything = Query::default();
    let found = find(&SPOOL, &everything).unwrap_or_default();
    let _ = get(&SPOOL, &everything, &mut std::io::sink());
    if let Some(first) = found.first() {
        let one = Query { flow: Some(first.row.tuple), ..Query::default() };
        let _ = get(&SPOOL, &one, &mut std::io::sink());
    }
    let _ = fs::remove_file(path).and_then(|()| fs::remove_file(index_path(path)));
});

fn put(path: &Path, index: &[u8], segment: &[u8]) {
    fs::write(path, segment).and_then(|()| fs::write(index_path(path), index)).expect("a folder for temporary files");
}

static SPOOL: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("flowarc-fuzz-{}", std::process::id()));
    fs::create_dir_all(folder.join(DAY)).and_then(|()| fs::create_dir_all(folder.join(HIDDEN))).expect("temporary folders");
    folder
});

/// A published segment, and one that is being written.
static SEGMENTS: LazyLock<[PathBuf; 2]> =
    LazyLock::new(|| [DAY, HIDDEN].map(|folder| SPOOL.join(folder).join("2026-11-21T12-00-00-000000000.pcap.zst")));

/// Bytes of an index before its tables, whose checksum is the last four of them (docs/CAPTURE.md).
const INDEX_HEAD: usize = 44;
const DAY: &str = "2026/11/21";
