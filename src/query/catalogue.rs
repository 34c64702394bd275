//! Asks a catalogue: of 5 million rows in a hundred files, those that are wanted, in milliseconds.
//!
//! What is not read is what makes it quick: files by the times in their names, row groups by statistics and Bloom filters,
//! pages by their times, and all but the columns that decide.

use super::filter::{Exact, Filter, Key};
use super::parallel::{cores, parallel};
use crate::archive::catalogue::Row;
use crate::archive::catalogue::columns::Table;
use crate::archive::catalogue::folder::{Folder, Hour, Part, journal_hour};
use crate::archive::catalogue::journal::Rows;
use crate::archive::catalogue::parquet::ParquetReader;
use parquet::errors::Result;
use parquet::file::reader::ChunkReader;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::Path;

/// Why a catalogue cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("catalogue {file}: {source} (flowarc catalog makes it anew)")]
pub struct CatalogueError {
    file: String,
    source: parquet::errors::ParquetError,
}

/// Gives the wanted rows of a catalogue to `sink`, hour by hour, in the order of their starts within an hour.
///
/// # Errors
/// Fails where a file cannot be read or is damaged.
pub fn scan(
    folder: &Folder,
    filter: &Filter,
    exact: Exact,
    sink: &mut dyn FnMut(Row) -> ControlFlow<()>,
) -> std::result::Result<(), CatalogueError> {
    let failed = |path: &Path| {
        let file = path.display().to_string();
        move |source| CatalogueError { file, source }
    };
    let io = |path: &Path| {
        let failed = failed(path);
        move |e: io::Error| failed(e.into())
    };
    // Journals first: a row that is published meanwhile is then seen twice instead of not at all.
    let mut recent: BTreeMap<Hour, Vec<Row>> = BTreeMap::new();
    for path in folder.journals().map_err(io(folder.path()))? {
        let Some(hour) = journal_hour(&path) else { continue };
        if hour.start() > filter.window().1 {
            continue;
        }
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes.map_err(io(&path))?,
        };
        recent.entry(hour).or_default().extend(Rows::<Row>::new(&bytes).filter(|row| filter.matches(&row.into())));
    }
    let (from, to) = filter.window();
    let parts = folder.parts(from, to).map_err(io(folder.path()))?;
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
        let found = parallel(now, |part| rows_of(part, filter, exact));
        let mut by_hour: BTreeMap<Hour, Vec<Row>> = BTreeMap::new();
        for (part, found) in now.iter().zip(found) {
            by_hour.entry(part.hour).or_default().extend(found.map_err(failed(&part.path))?);
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
        let ranges = filter.ranges(&keys, group);
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

fn rows_of(part: &Part, filter: &Filter, exact: Exact) -> Result<Vec<Row>> {
    match File::open(&part.path) {
        Ok(file) => rows(file, filter, exact),
        // Another process makes the catalogue anew; the flows are in its files, too.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e.into()),
    }
}

/// One row per file, that of most packets (a file that was merged has a row from before and one from after), by start.
fn newest(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by(|a, b| (&a.file, b.packets_kept).cmp(&(&b.file, a.packets_kept)));
    rows.dedup_by(|later, kept| later.file == kept.file);
    rows.sort_by(|a, b| (a.start, &a.file).cmp(&(b.start, &b.file)));
    rows
}

fn positions(ranges: &[Range<usize>]) -> impl Iterator<Item = usize> {
    ranges.iter().cloned().flatten()
}

/// Rising positions as ranges.
fn joined(positions: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for position in positions {
        match ranges.last_mut() {
            Some(last) if last.end == position => last.end += 1,
            _ => ranges.push(position..position + 1),
        }
    }
    ranges
}
