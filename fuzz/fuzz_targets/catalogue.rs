//! A file of any bytes in a catalogue's place, Parquet or journal, gives rows or an error.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use flowarc::archive::catalogue::Row;
use flowarc::archive::catalogue::columns::Micros;
use flowarc::archive::catalogue::journal::Rows;
use flowarc::query::catalogue::rows;
use flowarc::query::filter::{Bounds, Exact, Filter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Rows::<Row>::new(data).count();
    let file = Bytes::copy_from_slice(data);
    for filter in FILTERS.iter() {
        for exact in [Exact::Yes, Exact::No] {
            let _ = rows(file.clone(), filter, exact);
        }
    }
});

/// Of each kind of question: everything, by Bloom filter or by the bounds of texts, by the bounds of pages.
static FILTERS: LazyLock<[Filter; 3]> = LazyLock::new(|| {
    [
        Filter::default(),
        Filter { uuids: vec!["testdata_1795262400_0000000000003E7A".to_owned()], ports: vec![443], ..Filter::default() },
        Filter {
            since: Some(Micros(1)),
            until: Some(Micros(i64::MAX)),
            bytes: Bounds { least: Some(1), most: None },
            ..Filter::default()
        },
    ]
});
