//! Makes an archive's catalogue out of its files: what it lacks, or all of it.
//!
//! In parallel, a folder at a time; rows go to journals on disk, so memory holds the names of a folder's files, a hash for
//! each row of three days, and what is published at once.

use super::archive::{Archive, ArchiveError, Watch};
use super::filter::Filter;
use super::parallel::{cores, parallel};
use crate::archive::catalogue::Row;
use crate::archive::catalogue::columns::{Micros, table};
use crate::archive::catalogue::folder::{Collector, Folder, Hour, Part, PublishError, midnight};
use crate::archive::catalogue::journal::Rows;
use crate::archive::catalogue::parquet::ParquetReader;
use crate::archive::catalogue::row::is_capture;
use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::ControlFlow;

/// What a rebuild did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rebuilt {
    /// Files that had a row already.
    pub known: u64,
    /// Rows that were added.
    pub added: u64,
    /// Rows kept of files that the archive no longer has.
    pub gone: u64,
    /// Files that cannot be read.
    pub unreadable: u64,
}

/// Which files are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Those without a row.
    Missing,
    /// All; the rows that were there are replaced.
    All,
}

/// Why a catalogue could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The catalogue's folder.
    #[error("write the catalogue: {0}")]
    Publish(#[from] PublishError),
    /// The catalogue's folder.
    #[error("catalogue: {0}")]
    Io(#[from] io::Error),
}

table! {
    /// What tells that a file has a row.
    struct Known {
        /// As in the row.
        file: String,
    }
}

/// Adds the rows of an archive's files to a catalogue.
///
/// # Errors
/// Fails where the archive cannot be read or the catalogue cannot be written. Files that cannot be read are told to `watch`.
pub fn rebuild(archive: &Archive, folder: &Folder, extent: Extent, watch: &dyn Watch) -> Result<Rebuilt, RebuildError> {
    let mut collector = Collector::new(folder.clone());
    collector.adopt()?;
    collector.publish()?;
    let old = folder.parts(Micros(i64::MIN), Micros(i64::MAX))?;
    let mut rebuilt = Rebuilt::default();
    let mut known = KnownFiles { folder, files: HashSet::new(), loaded: None, hashers: Default::default() };
    let mut failed = None;
    archive.walk(&Filter::default(), &mut |files| {
        let mut step = || -> Result<(), RebuildError> {
            let mut files: Vec<&String> = files.iter().filter(|f| is_capture(f)).collect();
            let before = files.len();
            if extent == Extent::Missing {
                known.load(files.first().map_or("", |f| f.as_str()))?;
                files.retain(|f| !known.has(f));
            }
            rebuilt.known += (before - files.len()) as u64;
            for chunk in files.chunks(CHUNK * cores()) {
                for (file, row) in chunk.iter().zip(parallel(chunk, |f| archive.store().row(f, &Filter::default()))) {
                    match row {
                        Ok(None) => {}
                        Ok(Some(row)) => {
                            collector.add(&row)?;
                            rebuilt.added += 1;
                        }
                        Err(error) => {
                            watch.unreadable(file, &error);
                            rebuilt.unreadable += 1;
                        }
                    }
                }
                collector.flush()?;
                // A full journal is 128 Ki rows; the others wait until the folder is done, which keeps hours together.
                if collector.is_due() {
                    collector.publish_before(Hour(i64::MIN))?;
                }
                watch.files(chunk.len() as u64);
            }
            collector.publish()?;
            Ok(())
        };
        match step() {
            Ok(()) => Ok(ControlFlow::Continue(())),
            Err(e) => {
                failed = Some(e);
                Ok(ControlFlow::Break(()))
            }
        }
    })?;
    if let Some(e) = failed {
        return Err(e);
    }
    if extent == Extent::All {
        for part in old {
            rebuilt.gone += replace(archive, &part, &mut collector)?;
            fs::remove_file(&part.path)?;
        }
    }
    Ok(rebuilt)
}

/// Keeps the rows of an old part whose files the archive has no more: uploaders take files away, their rows stay.
fn replace(archive: &Archive, part: &Part, collector: &mut Collector) -> Result<u64, RebuildError> {
    let reader = ParquetReader::<Row, _>::open(File::open(&part.path)?).map_err(PublishError::from)?;
    let mut kept = 0;
    for group in 0..reader.groups() {
        for row in reader.group(group).map_err(PublishError::from)? {
            if !archive.store().exists(&row.file)? {
                collector.add(&row)?;
                kept += 1;
            }
        }
    }
    collector.publish()?;
    Ok(kept)
}

/// The files that have rows, of the days about one.
struct KnownFiles<'a> {
    folder: &'a Folder,
    files: HashSet<[u64; 2]>,
    /// The day that they were loaded for.
    loaded: Option<String>,
    /// Two of 64 bits each: no two of a day's files share both.
    hashers: [RandomState; 2],
}

impl KnownFiles<'_> {
    fn has(&self, file: &str) -> bool {
        self.files.contains(&self.hash(file))
    }

    fn hash(&self, file: &str) -> [u64; 2] {
        [self.hashers[0].hash_one(file), self.hashers[1].hash_one(file)]
    }

    /// Loads the rows of files in the same folder as `file`.
    fn load(&mut self, file: &str) -> Result<(), RebuildError> {
        let day = file.rsplit_once('/').map_or("", |(day, _)| day);
        if self.loaded.as_deref() == Some(day) {
            return Ok(());
        }
        self.files.clear();
        self.loaded = Some(day.to_owned());
        for path in self.folder.journals()? {
            match fs::read(path) {
                Ok(bytes) => {
                    let rows: Vec<_> = Rows::<Known>::new(&bytes).map(|k| self.hash(&k.file)).collect();
                    self.files.extend(rows);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
        let (from, to) = days_about(day);
        for part in self.folder.parts(Micros(i64::MIN), to)?.iter().filter(|p| p.hour.start() >= from) {
            let reader = ParquetReader::<Known, _>::open(File::open(&part.path)?).map_err(PublishError::from)?;
            for group in 0..reader.groups() {
                let files = reader.group(group).map_err(PublishError::from)?;
                let files: Vec<_> = files.iter().filter(|k| k.file.starts_with(day)).map(|k| self.hash(&k.file)).collect();
                self.files.extend(files);
            }
        }
        Ok(())
    }
}

/// The hours of flows whose files may be in a day's folder: the day is that of the announcement, in its time zone.
fn days_about(folder: &str) -> (Micros, Micros) {
    let mut parts = folder.rsplit('/').map(|p| p.parse::<i64>().ok().filter(|_| p.bytes().all(|b| b.is_ascii_digit())));
    match (parts.next().flatten(), parts.next().flatten(), parts.next().flatten()) {
        (Some(day @ 1..=31), Some(month @ 1..=12), Some(year @ 1970..=9999)) => {
            let midnight = midnight(year, month, day).0;
            (Micros(midnight - 2 * DAY), Micros(midnight + 3 * DAY))
        }
        _ => (Micros(i64::MIN), Micros(i64::MAX)),
    }
}

/// Files that one core reads between two looks at the results.
const CHUNK: usize = 256;

/// Microseconds.
const DAY: i64 = 86_400_000_000;
