//! Parquet files of any [`Table`]: written in row groups of bounded size, read by column and by ranges of rows.
//!
//! Every file has statistics of row groups and pages, and Bloom filters (Parquet's split block filters) of the columns
//! that are looked up by value, so that a reader finds a row without reading the others.

use super::columns::{Column, Kind, Table, Value};
use super::places::{Pages, check_footer, check_pages};
use bytes::Bytes;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel};
use parquet::bloom_filter::Sbbf;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::page_index::RowGroupPageIndex;
use parquet::file::metadata::{KeyValue, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::properties::{ReaderProperties, ReaderPropertiesPtr, WriterProperties};
use parquet::file::reader::{ChunkReader, RowGroupReader};
use parquet::file::serialized_reader::SerializedRowGroupReader;
use parquet::file::statistics::Statistics;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, Type, TypePtr};
use std::io::Write;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

/// How the files of a table are laid out.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Columns with a Bloom filter.
    pub looked_up: &'static [&'static str],
    /// Columns whose values hardly repeat, for which a dictionary would be in vain.
    pub distinct: &'static [&'static str],
    /// Rows of a row group, which wait in memory while it is written.
    pub group: usize,
}

/// Writes rows to a Parquet file.
pub struct ParquetWriter<T, W: Write + Send> {
    file: SerializedFileWriter<W>,
    columns: Vec<Buffer>,
    rows: usize,
    group: usize,
    table: PhantomData<T>,
}

impl<T: Table, W: Write + Send> ParquetWriter<T, W> {
    /// A file without rows, with notes for who reads its metadata.
    ///
    /// # Errors
    /// Fails where `sink` does.
    pub fn new(sink: W, layout: Layout, notes: &[(&str, String)]) -> Result<Self> {
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
            .set_created_by(format!("flowarc version {}", env!("CARGO_PKG_VERSION")))
            .set_max_row_group_row_count(Some(layout.group))
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_write_batch_size(PAGE_ROWS)
            .set_bloom_filter_for_dictionary_encoded_chunks(true)
            .set_key_value_metadata(Some(notes.iter().map(|(k, v)| KeyValue::new((*k).to_owned(), v.clone())).collect()));
        for name in layout.looked_up {
            let path = ColumnPath::from(*name);
            properties = properties
                .set_column_bloom_filter_enabled(path.clone(), true)
                .set_column_bloom_filter_max_ndv(path.clone(), layout.group as u64)
                .set_column_bloom_filter_fpp(path, FALSE_POSITIVES);
        }
        for name in layout.distinct {
            properties = properties.set_column_dictionary_enabled(ColumnPath::from(*name), false);
        }
        let file = SerializedFileWriter::new(sink, schema::<T>()?, Arc::new(properties.build()))?;
        let columns = T::COLUMNS.iter().map(Buffer::new).collect();
        Ok(Self { file, columns, rows: 0, group: layout.group, table: PhantomData })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// Fails where the sink does.
    pub fn push(&mut self, row: &T) -> Result<()> {
        let mut values = Vec::with_capacity(T::COLUMNS.len());
        row.values(&mut values);
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.push(value);
        }
        self.rows += 1;
        if self.rows >= self.group { self.flush() } else { Ok(()) }
    }

    /// Writes what is missing and gives the sink back.
    ///
    /// # Errors
    /// Fails where the sink does.
    pub fn finish(mut self) -> Result<W> {
        if self.rows > 0 {
            self.flush()?;
        }
        self.file.into_inner()
    }

    /// Writes the rows so far as a row group.
    fn flush(&mut self) -> Result<()> {
        let mut group = self.file.next_row_group()?;
        for (buffer, column) in self.columns.iter_mut().zip(T::COLUMNS) {
            let mut writer = group.next_column()?.ok_or_else(|| ParquetError::General(format!("no column {}", column.name)))?;
            let present: Option<Vec<i16>> = column.optional.then(|| buffer.present.iter().map(|b| i16::from(*b)).collect());
            let present = present.as_deref();
            match &mut buffer.values {
                Values::Text(v) => writer.typed::<ByteArrayType>().write_batch(&v.take(), present, None)?,
                Values::Int(v) => writer.typed::<Int64Type>().write_batch(&v.take(), present, None)?,
                Values::Double(v) => writer.typed::<DoubleType>().write_batch(v, present, None)?,
                Values::Bool(v) => writer.typed::<BoolType>().write_batch(v, present, None)?,
            };
            writer.close()?;
            buffer.clear();
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }
}

/// An open Parquet file with a table's columns; those that it lacks keep their default, those that it has more are not read.
pub struct ParquetReader<T, R> {
    file: Arc<R>,
    metadata: Arc<ParquetMetaData>,
    /// The group whose pages are known: it alone, as a file of one group.
    opened: Option<(usize, Arc<ParquetMetaData>)>,
    /// The file's place of each column of the table.
    places: Vec<Option<usize>>,
    properties: ReaderPropertiesPtr,
    table: PhantomData<T>,
}

impl<T: Table, R: ChunkReader + 'static> ParquetReader<T, R> {
    /// Reads a file's footer.
    ///
    /// # Errors
    /// Fails where the file cannot be read or is no Parquet file.
    pub fn open(file: R) -> Result<Self> {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&file)?;
        check_footer(&metadata, file.len())?;
        let places = places::<T>(&metadata);
        let properties = Arc::new(ReaderProperties::builder().set_read_bloom_filter(false).build());
        Ok(Self { file: Arc::new(file), metadata: Arc::new(metadata), opened: None, places, properties, table: PhantomData })
    }

    /// The same file, read as rows of another table.
    pub fn as_table<U: Table>(&self) -> ParquetReader<U, R> {
        ParquetReader {
            file: Arc::clone(&self.file),
            places: places::<U>(&self.metadata),
            metadata: Arc::clone(&self.metadata),
            opened: self.opened.clone(),
            properties: Arc::clone(&self.properties),
            table: PhantomData,
        }
    }

    /// How many row groups there are.
    pub fn groups(&self) -> usize {
        self.metadata.num_row_groups()
    }

    /// How many rows a group has.
    pub fn rows(&self, group: usize) -> usize {
        usize::try_from(self.metadata.row_group(group).num_rows()).unwrap_or(0)
    }

    /// The least and the greatest value of a column of integers or times within a group, if the file says.
    pub fn bounds(&self, group: usize, column: usize) -> Option<(i64, i64)> {
        match self.metadata.row_group(group).column(self.places[column]?).statistics()? {
            Statistics::Int64(s) => Some((*s.min_opt()?, *s.max_opt()?)),
            _ => None,
        }
    }

    /// Whether a column of a group has a row with `true`; true where the file cannot tell.
    pub fn may_be_true(&self, group: usize, column: usize) -> bool {
        let Some(place) = self.places[column] else { return true };
        match self.metadata.row_group(group).column(place).statistics() {
            Some(Statistics::Boolean(s)) => s.max_opt().copied().unwrap_or(true),
            _ => true,
        }
    }

    /// Whether one of some texts may be among a column's values in a group; true where the file cannot tell.
    ///
    /// # Errors
    /// Fails where the file cannot be read.
    pub fn may_contain(&self, group: usize, column: usize, texts: &[&str]) -> Result<bool> {
        let Some(place) = self.places[column] else { return Ok(true) };
        let chunk = self.metadata.row_group(group).column(place);
        let mut texts = texts.to_vec();
        if let Some(Statistics::ByteArray(s)) = chunk.statistics()
            && s.min_is_exact()
            && s.max_is_exact()
            && let (Some(min), Some(max)) = (s.min_opt(), s.max_opt())
        {
            texts.retain(|text| (min.data()..=max.data()).contains(&text.as_bytes()));
        }
        if texts.is_empty() {
            return Ok(false);
        }
        // The library looks into the first block of all; a damaged filter has none.
        let filter = Sbbf::read_from_column_chunk(chunk, &*self.file)?.filter(|f| f.num_blocks() > 0);
        Ok(filter.is_none_or(|f| texts.iter().any(|text| f.check(*text))))
    }

    /// Whether a column of a group may have a text that begins with one of some texts; true where the file cannot tell.
    pub fn may_begin(&self, group: usize, column: usize, beginnings: &[&str]) -> bool {
        let Some(place) = self.places[column] else { return true };
        match self.metadata.row_group(group).column(place).statistics() {
            Some(Statistics::ByteArray(s)) => match (s.min_opt(), s.max_opt()) {
                (Some(min), Some(max)) => beginnings.iter().any(|text| may_begin(text, min.data(), max.data())),
                _ => true,
            },
            _ => true,
        }
    }

    /// Reads the index of pages for one group: from then on [`Self::pages`] tells, and ranges are read without what lies between.
    ///
    /// # Errors
    /// Fails where the file cannot be read.
    pub fn load_pages(&mut self, group: usize) -> Result<()> {
        let alone = ParquetMetaData::new(self.metadata.file_metadata().clone(), vec![self.metadata.row_group(group).clone()]);
        let mut reader = ParquetMetaDataReader::new_with_metadata(alone).with_page_index_policy(PageIndexPolicy::Optional);
        reader.read_page_indexes(&*self.file)?;
        let alone = reader.finish()?;
        let (index, metadata) = (alone.page_index_for_row_group(0), alone.row_group(0));
        for (place, column) in metadata.columns().iter().enumerate() {
            check_pages(metadata, column, index.page_locations(place).map_or(&[], Vec::as_slice))?;
        }
        self.opened = Some((group, Arc::new(alone)));
        Ok(())
    }

    /// The index of a group's pages; empty unless they were loaded.
    fn page_index(&self, group: usize) -> RowGroupPageIndex {
        let opened = self.opened.as_ref().filter(|(number, _)| *number == group);
        opened.map_or_else(|| RowGroupPageIndex::new(group, None), |(_, alone)| alone.page_index_for_row_group(0))
    }

    /// The pages of a column of integers or times that may hold a value within `range`, as ranges of rows of the group.
    pub fn pages(&self, group: usize, column: usize, range: (i64, i64)) -> Vec<Range<usize>> {
        self.pages_where(group, column, |index, page| match index {
            ColumnIndexMetaData::INT64(bounds) => match (bounds.min_value(page), bounds.max_value(page)) {
                (Some(min), Some(max)) => *min <= range.1 && *max >= range.0,
                _ => true,
            },
            _ => true,
        })
    }

    /// The pages of a column of texts that may hold one that begins with one of some texts, likewise.
    pub fn pages_of_text(&self, group: usize, column: usize, beginnings: &[&str]) -> Vec<Range<usize>> {
        self.pages_where(group, column, |index, page| match index {
            ColumnIndexMetaData::BYTE_ARRAY(bounds) => match (bounds.min_value(page), bounds.max_value(page)) {
                (Some(min), Some(max)) => beginnings.iter().any(|text| may_begin(text, min, max)),
                _ => true,
            },
            _ => true,
        })
    }

    fn pages_where(
        &self,
        group: usize,
        column: usize,
        wanted: impl Fn(&ColumnIndexMetaData, usize) -> bool,
    ) -> Vec<Range<usize>> {
        let all = || std::iter::once(0..self.rows(group)).collect();
        let Some(place) = self.places[column] else { return all() };
        let index = self.page_index(group);
        let (Some(bounds), Some(pages)) = (index.column_index(place), index.page_locations(place)) else { return all() };
        let starts: Vec<usize> = pages.iter().map(|p| usize::try_from(p.first_row_index).unwrap_or(0)).collect();
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for (page, start) in starts.iter().enumerate() {
            let end = starts.get(page + 1).copied().unwrap_or(self.rows(group));
            match ranges.last_mut() {
                _ if !wanted(bounds, page) => {}
                Some(last) if last.end == *start => last.end = end,
                _ => ranges.push(*start..end),
            }
        }
        ranges
    }

    /// Fills some columns of rows that stand for `ranges` of a group, which are in order and do not overlap.
    ///
    /// # Errors
    /// Fails where the file cannot be read or is damaged.
    pub fn fill(&self, group: usize, columns: &[usize], ranges: &[Range<usize>], rows: &mut [T]) -> Result<()> {
        for &column in columns {
            self.visit(group, column, ranges, |at, value| {
                if let Some(row) = rows.get_mut(at) {
                    row.set(column, value);
                }
            })?;
        }
        Ok(())
    }

    /// Gives a column's values in `ranges` of a group to `each`, counted from 0; none where the file lacks the column.
    ///
    /// # Errors
    /// Fails where the file cannot be read or is damaged.
    pub fn visit(
        &self,
        group: usize,
        column: usize,
        ranges: &[Range<usize>],
        mut each: impl FnMut(usize, Value<'_>),
    ) -> Result<()> {
        let Some(place) = self.places[column] else { return Ok(()) };
        let metadata = self.metadata.row_group(group);
        let index = self.page_index(group);
        let reader = SerializedRowGroupReader::new(Arc::clone(&self.file), metadata, index, Arc::clone(&self.properties))?;
        let descriptor = metadata.column(place).column_descr_ptr();
        let visit = Visit { name: T::COLUMNS[column].name, optional: descriptor.max_def_level() > 0, ranges };
        let is_time = T::COLUMNS[column].kind == Kind::Time;
        let pages = Pages { inner: reader.get_column_page_reader(place)?, dictionary: false };
        match get_column_reader(descriptor, Box::new(pages)) {
            ColumnReader::ByteArrayColumnReader(r) => visit.run(r, |at, v: Option<&ByteArray>| {
                each(at, v.map_or(Value::Null, |v| Value::Text(std::str::from_utf8(v.data()).unwrap_or_default())));
            }),
            ColumnReader::Int64ColumnReader(r) => visit.run(r, |at, v: Option<&i64>| {
                each(at, v.map_or(Value::Null, |v| if is_time { Value::Time(*v) } else { Value::Int(*v) }));
            }),
            ColumnReader::DoubleColumnReader(r) => {
                visit.run(r, |at, v: Option<&f64>| each(at, v.map_or(Value::Null, |v| Value::Double(*v))))
            }
            ColumnReader::BoolColumnReader(r) => {
                visit.run(r, |at, v: Option<&bool>| each(at, v.map_or(Value::Null, |v| Value::Bool(*v))))
            }
            _ => Err(ParquetError::General(format!("column {}: a type of no table", visit.name))),
        }
    }

    /// All rows of a group.
    ///
    /// # Errors
    /// Fails where the file cannot be read or is damaged.
    pub fn group(&self, group: usize) -> Result<Vec<T>> {
        let whole = 0..self.rows(group);
        let mut rows: Vec<T> = whole.clone().map(|_| T::default()).collect();
        let columns: Vec<usize> = (0..T::COLUMNS.len()).collect();
        self.fill(group, &columns, &[whole], &mut rows)?;
        Ok(rows)
    }
}

/// Whether a text between two others, which may themselves be cut short of the values that they stand for, can begin so.
fn may_begin(beginning: &str, min: &[u8], max: &[u8]) -> bool {
    let beginning = beginning.as_bytes();
    min.get(..beginning.len()).unwrap_or(min) <= beginning && beginning <= max
}

/// One column of some rows, while it is read.
struct Visit<'a> {
    name: &'static str,
    optional: bool,
    ranges: &'a [Range<usize>],
}

impl Visit<'_> {
    fn run<D: DataType>(&self, mut reader: ColumnReaderImpl<D>, mut each: impl FnMut(usize, Option<&D::T>)) -> Result<()> {
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let (mut at, mut row) = (0, 0);
        for range in self.ranges {
            reader.skip_records(range.start - at)?;
            at = range.end;
            let mut left = range.len();
            while left > 0 {
                values.clear();
                levels.clear();
                let (read, ..) =
                    reader.read_records(left.min(PAGE_ROWS), self.optional.then_some(&mut levels), None, &mut values)?;
                if read == 0 {
                    return Err(ParquetError::General(format!("column {} ends too early", self.name)));
                }
                let mut value = values.iter();
                for i in 0..read {
                    let present = !self.optional || levels.get(i).is_some_and(|l| *l > 0);
                    each(row, if present { value.next() } else { None });
                    row += 1;
                }
                left -= read;
            }
        }
        Ok(())
    }
}

/// A column's values of the row group that is being gathered.
struct Buffer {
    values: Values,
    optional: bool,
    /// Where an optional column has a value.
    present: Vec<bool>,
}

enum Values {
    Text(Texts),
    Int(Ints),
    Double(Vec<f64>),
    Bool(Vec<bool>),
}

/// Integers in as few bytes as they need, since most of a hundred columns are small counts: seven bits in each byte, the low
/// ones first, the sign lowest, the high bit set in all but the last.
#[derive(Default)]
struct Ints(Vec<u8>);

impl Ints {
    fn push(&mut self, n: i64) {
        let mut rest = (n << 1 ^ n >> 63) as u64;
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }

    /// All of them; none is left.
    fn take(&mut self) -> Vec<i64> {
        let (mut all, mut n, mut bits) = (Vec::new(), 0u64, 0);
        for byte in self.0.drain(..) {
            n |= u64::from(byte & 0x7f) << bits;
            bits += 7;
            if byte & 0x80 == 0 {
                all.push((n >> 1) as i64 ^ -((n & 1) as i64));
                (n, bits) = (0, 0);
            }
        }
        all
    }
}

/// Texts one behind the other: each by itself would take twice the memory.
#[derive(Default)]
struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    /// All of them; none is left.
    fn take(&mut self) -> Vec<ByteArray> {
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        let all = begins.zip(&self.ends).map(|(begin, end)| bytes.slice(begin..*end).into()).collect();
        self.ends.clear();
        all
    }
}

impl Buffer {
    fn new(column: &Column) -> Self {
        let values = match column.kind {
            Kind::Text => Values::Text(Texts::default()),
            Kind::Int | Kind::Time => Values::Int(Ints::default()),
            Kind::Double => Values::Double(Vec::new()),
            Kind::Bool => Values::Bool(Vec::new()),
        };
        Self { values, optional: column.optional, present: Vec::new() }
    }

    fn push(&mut self, value: Value<'_>) {
        if self.optional {
            self.present.push(value != Value::Null);
        }
        match (&mut self.values, value) {
            (Values::Text(v), Value::Text(text)) => {
                v.bytes.extend_from_slice(text.as_bytes());
                v.ends.push(v.bytes.len());
            }
            (Values::Int(v), Value::Int(n) | Value::Time(n)) => v.push(n),
            (Values::Double(v), Value::Double(n)) => v.push(n),
            (Values::Bool(v), Value::Bool(b)) => v.push(b),
            // Null, or a value that is not of its column's kind, which a field cannot give.
            _ => {}
        }
    }

    fn clear(&mut self) {
        self.present.clear();
        match &mut self.values {
            Values::Text(v) => drop(v.take()),
            Values::Int(v) => drop(v.take()),
            Values::Double(v) => v.clear(),
            Values::Bool(v) => v.clear(),
        }
    }
}

/// The file's place of each column of a table.
fn places<T: Table>(metadata: &ParquetMetaData) -> Vec<Option<usize>> {
    let schema = metadata.file_metadata().schema_descr();
    let place = |name: &str, kind| {
        let found = schema.columns().iter().position(|c| c.name() == name)?;
        (schema.column(found).physical_type() == physical(kind)).then_some(found)
    };
    T::COLUMNS.iter().map(|c| place(c.name, c.kind)).collect()
}

fn physical(kind: Kind) -> Physical {
    match kind {
        Kind::Text => Physical::BYTE_ARRAY,
        Kind::Int | Kind::Time => Physical::INT64,
        Kind::Double => Physical::DOUBLE,
        Kind::Bool => Physical::BOOLEAN,
    }
}

fn schema<T: Table>() -> Result<TypePtr> {
    let mut fields = Vec::new();
    for column in T::COLUMNS {
        let logical = match column.kind {
            Kind::Text => Some(LogicalType::String),
            Kind::Time => Some(LogicalType::timestamp(true, TimeUnit::MICROS)),
            Kind::Int | Kind::Double | Kind::Bool => None,
        };
        let repetition = if column.optional { Repetition::OPTIONAL } else { Repetition::REQUIRED };
        let field = Type::primitive_type_builder(column.name, physical(column.kind))
            .with_repetition(repetition)
            .with_logical_type(logical)
            .build()?;
        fields.push(Arc::new(field));
    }
    Ok(Arc::new(Type::group_type_builder("flowarc").with_fields(fields).build()?))
}

/// zstd's default: levels above gain a few percent of a file that is small already.
const ZSTD_LEVEL: i32 = 3;

/// Rows of a page, the least that is read: a lookup unpacks one page of each column.
const PAGE_ROWS: usize = 4096;

/// Of Bloom filters: one group in a thousand is read in vain.
const FALSE_POSITIVES: f64 = 0.001;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_come_back(mut all in proptest::collection::vec(any::<i64>(), 0..50), shift in 0u32..64) {
            all.iter_mut().for_each(|n| *n >>= shift);
            all.extend([0, i64::MIN, i64::MAX, -1]);
            let mut ints = Ints::default();
            all.iter().for_each(|n| ints.push(*n));
            prop_assert_eq!(ints.take(), all);
            prop_assert_eq!(ints.take(), Vec::<i64>::new());
        }
    }
}
