//! Asks a catalogue: of 5 million rows in a hundred files, those that are wanted, in milliseconds.
//!
//! What is not read is what makes it quick: files by the times in their names, row groups by statistics and Bloom filters,
//! pages by their times, and all but the columns that decide.

use super::filter::{Exact, Filter, Key, joined, positions};
use super::parallel::{cores, parallel};
use crate::archive::catalogue::Row;
use crate::archive::catalogue::columns::{Micros, Table};
use crate::archive::catalogue::folder::{Folder, Hour, Part, journal_hour};
use crate::archive::catalogue::journal::Rows;
use crate::archive::catalogue::parquet::ParquetReader;
use parquet::errors::Result;
use parquet::file::reader::ChunkReader;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::{ControlFlow, Range};

/// Why a catalogue cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("catalogue {file}: {source} (flowarc catalog makes it anew)")]
pub struct CatalogueError {
    file: String,
    source: parquet::errors::ParquetError,
}

/// The files of a catalogue.
pub trait Parts: Send + Sync + std::fmt::Debug {
    /// The journals of hours that are not over, with the hour of each.
    ///
    /// # Errors
    /// Fails where they cannot be read.
    fn journals(&self) -> io::Result<Vec<(Hour, Vec<u8>)>>;

    /// As [`Folder::parts`].
    ///
    /// # Errors
    /// Fails where the catalogue cannot be listed.
    fn parts(&self, from: Micros, to: Micros) -> io::Result<Vec<Part>>;

    /// The wanted rows of a part.
    ///
    /// # Errors
    /// Fails where it cannot be read or is damaged.
    fn rows(&self, part: &Part, filter: &Filter, exact: Exact) -> Result<Vec<Row>>;

    /// What messages call it.
    fn name(&self) -> String;
}

impl Parts for Folder {
    fn journals(&self) -> io::Result<Vec<(Hour, Vec<u8>)>> {
        let mut journals = Vec::new();
        for path in Folder::journals(self)? {
            let Some(hour) = journal_hour(&path) else { continue };
            match fs::read(&path) {
                Ok(bytes) => journals.push((hour, bytes)),
                // Published meanwhile: its rows are in a part.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(journals)
    }

    fn parts(&self, from: Micros, to: Micros) -> io::Result<Vec<Part>> {
        Folder::parts(self, from, to)
    }

    fn rows(&self, part: &Part, filter: &Filter, exact: Exact) -> Result<Vec<Row>> {
        match File::open(&part.path) {
            Ok(file) => rows(file, filter, exact),
            // Another process makes the catalogue anew; the flows are in its files, too.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }

    fn name(&self) -> String {
        self.path().display().to_string()
    }
}

/// Gives the wanted rows of a catalogue to `sink`, hour by hour, in the order of their starts within an hour.
///
/// # Errors
/// Fails where a file cannot be read or is damaged.
pub fn scan(
    catalogue: &dyn Parts,
    filter: &Filter,
    exact: Exact,
    sink: &mut dyn FnMut(Row) -> ControlFlow<()>,
) -> std::result::Result<(), CatalogueError> {
    let failed = |file: String| move |source| CatalogueError { file, source };
    let unlisted = |e: io::Error| failed(catalogue.name())(e.into());
    let (from, to) = filter.window();
    // Journals first: a row that is published meanwhile is then seen twice instead of not at all.
    let mut recent: BTreeMap<Hour, Vec<Row>> = BTreeMap::new();
    for (hour, bytes) in catalogue.journals().map_err(unlisted)? {
        if hour.start() <= to {
            let rows = Rows::<Row>::new(&bytes).filter(|row| filter.matches(&row.into()));
            recent.entry(hour).or_default().extend(rows);
        }
    }
    let parts = catalogue.parts(from, to).map_err(unlisted)?;
    let mut hours: Vec<Hour> = parts.iter().map(|p| p.hour).chain(recent.keys().copied()).collect();
    hours.sort();
    hours.dedup();
    let (mut hours, mut parts) = (&hours[..], &parts[..]);
    while !hours.is_empty() {
        // Whole hours, until every core has a file: their rows wait in memory for their turn.
        let (mut taken, mut files) = (0, 0);
        while taken < hours.len() && (files < cores() || taken == 0) {
            files += parts[files..].iter().take_while(|p| p.hour == hours[taken]).count();
            taken += 1;
        }
        let (now, later) = parts.split_at(files);
        let found = parallel(now, |part| catalogue.rows(part, filter, exact));
        let mut by_hour: BTreeMap<Hour, Vec<Row>> = BTreeMap::new();
        for (part, found) in now.iter().zip(found) {
            by_hour.entry(part.hour).or_default().extend(found.map_err(failed(part.path.display().to_string()))?);
        }
        for hour in &hours[..taken] {
            let mut rows = by_hour.remove(hour).unwrap_or_default();
            rows.extend(recent.remove(hour).unwrap_or_default());
            for row in newest(rows) {
                if sink(row).is_break() {
                    return Ok(());
                }
            }
        }
        (hours, parts) = (&hours[taken..], later);
    }
    Ok(())
}

/// The wanted rows of a Parquet file.
///
/// # Errors
/// Fails where it cannot be read or is damaged.
pub fn rows<R: ChunkReader + 'static>(file: R, filter: &Filter, exact: Exact) -> Result<Vec<Row>> {
    let mut keys = ParquetReader::<Key, R>::open(file)?;
    let deciding = filter.columns();
    let every: Vec<usize> = (0..Row::COLUMNS.len()).collect();
    let mut found = Vec::new();
    for group in 0..keys.groups() {
        if !filter.may_match(&keys, group, exact)? {
            continue;
        }
        keys.load_pages(group)?;
        let ranges = filter.sieve(&keys, group, filter.ranges(&keys, group))?;
        let mut read: Vec<Key> = Vec::new();
        read.resize_with(ranges.iter().map(Range::len).sum(), Key::default);
        keys.fill(group, &deciding, &ranges, &mut read)?;
        let hits = positions(&ranges).zip(&read).filter(|(_, key)| filter.matches(key)).map(|(position, _)| position);
        let hits = joined(hits);
        drop(read);
        let begin = found.len();
        found.resize_with(begin + hits.iter().map(Range::len).sum::<usize>(), Row::default);
        keys.as_table::<Row>().fill(group, &every, &hits, &mut found[begin..])?;
    }
    Ok(found)
}

/// One row per file, that of most packets (a file that was merged has a row from before and one from after), by start.
fn newest(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by(|a, b| (&a.file, b.packets_kept).cmp(&(&b.file, a.packets_kept)));
    rows.dedup_by(|later, kept| later.file == kept.file);
    rows.sort_by(|a, b| (a.start, &a.file).cmp(&(b.start, &b.file)));
    rows
}
