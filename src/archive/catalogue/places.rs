//! Whether what a Parquet file says of its own parts can be. The library takes offsets, lengths and counts as the file gives
//! them; where they are wrong it panics, and a release ends at a panic.

use parquet::basic::Encoding;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::page_index::offset_index::PageLocation;
use std::ops::Range;

/// Checks a footer: each column of each group, with what belongs to it, within `len` bytes.
///
/// # Errors
/// Fails where the file is damaged.
pub(super) fn check_footer(metadata: &ParquetMetaData, len: u64) -> Result<()> {
    let columns = metadata.file_metadata().schema_descr().num_columns();
    for group in metadata.row_groups() {
        if !(0..=GROUP_MAX).contains(&group.num_rows()) || group.num_columns() != columns {
            return Err(damaged("a group's rows or columns"));
        }
        for column in group.columns() {
            if column.num_values() != group.num_rows() || pages(column).is_none_or(|pages| pages.end > len) {
                return Err(damaged("a column's place"));
            }
            let parts = [
                (column.bloom_filter_offset(), column.bloom_filter_length()),
                (column.column_index_offset(), column.column_index_length()),
                (column.offset_index_offset(), column.offset_index_length()),
            ];
            for (offset, length) in parts {
                let Some(offset) = offset else { continue };
                let part = range(offset, i64::from(length.unwrap_or(0)));
                if part.is_none_or(|part| part.end > len) {
                    return Err(damaged("the place of an index or a Bloom filter"));
                }
            }
        }
    }
    Ok(())
}

/// Checks where a column's pages are said to be: in order, within its own bytes, with rows of its group.
///
/// # Errors
/// Fails where the file is damaged.
pub(super) fn check_pages(group: &RowGroupMetaData, column: &ColumnChunkMetaData, locations: &[PageLocation]) -> Result<()> {
    let all = pages(column).unwrap_or_default();
    let (mut from, mut row) = (all.start, 0);
    for (number, page) in locations.iter().enumerate() {
        let place = range(page.offset, i64::from(page.compressed_page_size));
        let rows = if number == 0 { 0..=0 } else { row + 1..=group.num_rows() - 1 };
        match place {
            Some(place) if place.start >= from && place.end <= all.end && rows.contains(&page.first_row_index) => {
                (from, row) = (place.end, page.first_row_index);
            }
            _ => return Err(damaged("a page's place")),
        }
    }
    Ok(())
}

/// The pages of a column, as long as they fit together.
pub(super) struct Pages {
    pub(super) inner: Box<dyn PageReader>,
    /// Whether there was one, read or passed over.
    pub(super) dictionary: bool,
}

impl Pages {
    fn check(&mut self, page: &Page) -> Result<()> {
        if let Page::DictionaryPage { .. } = page {
            self.dictionary = true;
        }
        let coded = matches!(page.encoding(), Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY);
        if coded && !self.dictionary {
            return Err(damaged("a page without its dictionary"));
        }
        if !coded && !matches!(page.encoding(), Encoding::PLAIN | Encoding::RLE) {
            return Err(damaged("a page's encoding"));
        }
        match page {
            Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. }
                if u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len) > buf.len() as u64 =>
            {
                Err(damaged("the levels of a page"))
            }
            _ => Ok(()),
        }
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.inner.get_next_page()?;
        page.iter().try_for_each(|page| self.check(page))?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.dictionary |= self.inner.peek_next_page()?.is_some_and(|page| page.is_dict);
        self.inner.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.inner.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        self.inner.take_deferred_dictionary()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.inner.at_record_boundary()
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

/// The bytes of a column, its dictionary included.
fn pages(column: &ColumnChunkMetaData) -> Option<Range<u64>> {
    let data = column.data_page_offset();
    let dictionary = column.dictionary_page_offset().unwrap_or(data);
    let all = range(dictionary, column.compressed_size())?;
    (dictionary <= data && all.contains(&u64::try_from(data).ok()?)).then_some(all)
}

fn range(offset: i64, length: i64) -> Option<Range<u64>> {
    let (start, length) = (u64::try_from(offset).ok()?, u64::try_from(length).ok()?);
    Some(start..start + length)
}

fn damaged(what: &str) -> ParquetError {
    ParquetError::General(format!("damaged: {what}"))
}

/// Rows of a group; other programs' defaults end at a million (2^20).
const GROUP_MAX: i64 = 1 << 22;

#[cfg(test)]
mod tests {
    use super::pages;
    use crate::archive::catalogue::Row;
    use crate::archive::catalogue::parquet::{Layout, ParquetReader, ParquetWriter};
    use bytes::Bytes;
    use parquet::file::metadata::ParquetMetaDataReader;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use std::sync::LazyLock;

    /// Two groups, with indexes of pages and Bloom filters.
    static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let layout = Layout { looked_up: &["uuid"], distinct: &[], group: 30 };
        let mut writer = ParquetWriter::<Row, _>::new(Vec::new(), layout, &[]).unwrap();
        for n in 0..50 {
            writer.push(&Row { uuid: format!("uuid-{n}"), file: format!("{n}.pcap.gz"), ..Row::default() }).unwrap();
        }
        writer.finish().unwrap()
    });

    /// The number of rows that are read; `None` where one refuses.
    fn read(bytes: Vec<u8>) -> Option<usize> {
        let mut reader = ParquetReader::<Row, _>::open(Bytes::from(bytes)).ok()?;
        let mut rows = 0;
        for group in 0..reader.groups() {
            reader.may_contain(group, 0, &["uuid-7"]).ok()?;
            reader.load_pages(group).ok()?;
            rows += reader.group(group).ok()?.len();
        }
        Some(rows)
    }

    #[test]
    fn a_column_begins_and_ends_where_bytes_can_be() {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(FILE.clone())).unwrap();
        let column = metadata.row_group(0).column(0);
        let at = |data, dictionary, len| {
            let column = column.clone().into_builder().set_data_page_offset(data).set_dictionary_page_offset(dictionary);
            pages(&column.set_total_compressed_size(len).build().unwrap())
        };
        assert_eq!(at(8, None, 10), Some(8..18));
        assert_eq!(at(8, Some(4), 10), Some(4..14));
        for (data, dictionary, len) in [(-8, None, 10), (8, None, -10), (8, Some(-4), 10), (8, Some(9), 10), (8, Some(4), 3)] {
            assert_eq!(at(data, dictionary, len), None, "{data} {dictionary:?} {len}");
        }
    }

    #[test]
    fn a_sound_file_is_read() {
        assert_eq!(read(FILE.clone()), Some(50));
    }

    #[test]
    fn a_bloom_filter_that_is_cut_to_its_head_cannot_tell() {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(FILE.clone())).unwrap();
        let length = metadata.row_group(0).column(0).bloom_filter_length().unwrap() as u16;
        // As the footer has it (Thrift's compact protocol): zigzag, seven bits a byte. Blocks are of 32 bytes behind the head.
        let compact = |n: u16| [((2 * n) & 0x7f | 0x80) as u8, ((2 * n) >> 7) as u8];
        assert!((64..1 << 13).contains(&length), "two bytes: {length}");
        let places: Vec<_> = FILE.windows(2).enumerate().filter(|(_, w)| *w == compact(length)).map(|(at, _)| at).collect();
        let cut = places.iter().map(|at| {
            let mut bytes = FILE.clone();
            bytes[*at..at + 2].copy_from_slice(&compact(length % 32));
            read(bytes)
        });
        assert!(cut.filter(|rows| *rows == Some(50)).count() >= 2, "a place in each group");
    }

    proptest! {
        // The same cases in each run; what the library does with others is the fuzzer's to find (fuzz/README.md).
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]
        #[test]
        fn a_damaged_file_gives_rows_or_an_error(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let mut bytes = FILE.clone();
            // In the last half are the places: indexes and footer. What pages hold is the library's to judge.
            let half = bytes.len() / 2;
            for (at, byte) in damage {
                bytes[half + at.index(half)] = byte;
            }
            read(bytes);
        }
    }
}
