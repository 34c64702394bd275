//! Writes flows and their packets as tables, in a folder for each day.
//!
//! ```text
//! OUT/flows/date=2026-11-21/part-0.parquet
//! OUT/packets/date=2026-11-21/part-0.parquet
//! ```
//!
//! The day is that of the flow's start, UTC. Files are read and analysed in parallel, a batch of bounded size at a time;
//! what waits in memory is a batch, and a row group for each file that is open.

use super::archive::{Archive, ArchiveError, Silent, Watch};
use super::filter::Filter;
use super::get::{GetError, flow};
use super::lines;
use super::packets::{PacketRow, packets};
use super::parallel::parallel;
use crate::archive::catalogue::Row;
use crate::archive::catalogue::columns::{Micros, Table};
use crate::archive::catalogue::folder::LAYOUT;
use crate::archive::catalogue::parquet::{Layout, ParquetWriter};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// How tables are written.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Parquet, zstd
    Parquet,
    /// CSV with a header
    Csv,
    /// A JSON object a line
    Jsonl,
}

/// Which tables are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tables {
    /// A row per flow.
    Flows,
    /// And one per packet.
    FlowsAndPackets,
}

/// How much was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exported {
    /// Rows of flows.
    pub flows: u64,
    /// Rows of packets.
    pub packets: u64,
    /// Whether a flow has an address that lost its host part.
    pub masked: bool,
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A file of the output.
    #[error("write {path}: {source}")]
    Write {
        /// Which one.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The output's folder has something in it.
    #[error("{0} is not empty (choose a new folder, so that no rows of another export are between these)")]
    NotEmpty(String),
}

/// Exports the wanted flows.
///
/// # Errors
/// Fails where the archive cannot be read or the output cannot be written. A flow whose packets cannot be read is told to
/// `watch` and has its row only.
pub fn export(
    archive: &Archive,
    filter: &Filter,
    out: &Path,
    format: Format,
    tables: Tables,
    watch: &dyn Watch,
) -> Result<Exported, ExportError> {
    let failed = |source| ExportError::Write { path: out.display().to_string(), source };
    fs::create_dir_all(out).map_err(failed)?;
    if fs::read_dir(out).map_err(failed)?.next().is_some() {
        return Err(ExportError::NotEmpty(out.display().to_string()));
    }
    let mut export = Export {
        archive,
        watch,
        flows: Partitions::new(out.join("flows"), format, LAYOUT),
        packets: (tables == Tables::FlowsAndPackets).then(|| Partitions::new(out.join("packets"), format, PACKETS)),
        exported: Exported::default(),
    };
    let (mut batch, mut waiting, mut result) = (Vec::new(), 0, Ok(()));
    archive.scan(filter, watch, &mut |row| {
        waiting += row.packets_kept;
        batch.push(row);
        if batch.len() >= BATCH_FLOWS || waiting >= BATCH_PACKETS {
            waiting = 0;
            result = export.write(std::mem::take(&mut batch));
        }
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    result?;
    export.write(batch)?;
    export.flows.finish()?;
    if let Some(packets) = &mut export.packets {
        packets.finish()?;
    }
    Ok(export.exported)
}

struct Export<'a> {
    archive: &'a Archive,
    watch: &'a dyn Watch,
    flows: Partitions<Row>,
    packets: Option<Partitions<PacketRow>>,
    exported: Exported,
}

impl Export<'_> {
    fn write(&mut self, rows: Vec<Row>) -> Result<(), ExportError> {
        for row in &rows {
            self.flows.push(row.start, row)?;
            self.exported.flows += 1;
            self.exported.masked |= row.anonymized && !row.replaced;
        }
        let Some(out) = &mut self.packets else { return Ok(()) };
        // Files in bundles share one file and its index: they are read one after the other.
        let (single, bundled): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| !row.file.contains('!'));
        let read = |row: &&Row| -> Result<Vec<PacketRow>, GetError> {
            let file = flow(self.archive, &row.file, &Silent)?;
            let mut found = Vec::new();
            packets(row, &file, &mut |packet| found.push(packet));
            Ok(found)
        };
        let all = single.iter().zip(parallel(&single, read)).chain(bundled.iter().map(|row| (row, read(row))));
        for (row, found) in all {
            match found {
                Ok(found) => {
                    self.exported.packets += found.len() as u64;
                    found.iter().try_for_each(|packet| out.push(row.start, packet))?;
                }
                Err(error) => self.watch.unreadable(&row.file, &error),
            }
        }
        Ok(())
    }
}

/// A table in a folder for each day.
struct Partitions<T> {
    folder: PathBuf,
    format: Format,
    layout: Layout,
    open: BTreeMap<String, Part<T>>,
    /// How many parts each day has.
    parts: BTreeMap<String, u64>,
}

struct Part<T> {
    path: PathBuf,
    rows: u64,
    sink: Sink<T>,
}

enum Sink<T> {
    Parquet(Box<ParquetWriter<T, BufWriter<File>>>),
    Csv(BufWriter<File>),
    Jsonl(BufWriter<File>),
}

impl<T: Table> Partitions<T> {
    fn new(folder: PathBuf, format: Format, layout: Layout) -> Self {
        Self { folder, format, layout, open: BTreeMap::new(), parts: BTreeMap::new() }
    }

    fn push(&mut self, start: Micros, row: &T) -> Result<(), ExportError> {
        let day: String = start.to_string().chars().take(10).collect();
        if !self.open.contains_key(&day) {
            // Flows come in the order of days or nearly: the oldest is done.
            if self.open.len() >= MOST_OPEN
                && let Some((_, part)) = self.open.pop_first()
            {
                part.finish()?;
            }
            let number = self.parts.entry(day.clone()).or_default();
            let suffix = match self.format {
                Format::Parquet => "parquet",
                Format::Csv => "csv",
                Format::Jsonl => "jsonl",
            };
            let path = self.folder.join(format!("date={day}/part-{number}.{suffix}"));
            *number += 1;
            self.open.insert(day.clone(), Part::create(path, self.format, self.layout)?);
        }
        let Some(part) = self.open.get_mut(&day) else { return Ok(()) };
        part.push(row)?;
        if part.rows >= MOST_ROWS
            && let Some(part) = self.open.remove(&day)
        {
            part.finish()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ExportError> {
        std::mem::take(&mut self.open).into_values().try_for_each(Part::finish)
    }
}

impl<T: Table> Part<T> {
    /// A new file, under a name that says that it is not whole.
    fn create(path: PathBuf, format: Format, layout: Layout) -> Result<Self, ExportError> {
        let create = || {
            fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            let mut file = BufWriter::new(File::create_new(unfinished(&path))?);
            Ok(match format {
                Format::Parquet => Sink::Parquet(Box::new(ParquetWriter::new(file, layout, &[]).map_err(io::Error::other)?)),
                Format::Csv => {
                    writeln!(file, "{}", lines::csv_header::<T>())?;
                    Sink::Csv(file)
                }
                Format::Jsonl => Sink::Jsonl(file),
            })
        };
        match create() {
            Ok(sink) => Ok(Self { path, rows: 0, sink }),
            Err(source) => Err(failed(&path, source)),
        }
    }

    fn push(&mut self, row: &T) -> Result<(), ExportError> {
        self.rows += 1;
        let written = match &mut self.sink {
            Sink::Parquet(writer) => writer.push(row).map_err(io::Error::other),
            Sink::Csv(file) => writeln!(file, "{}", lines::csv(row)),
            Sink::Jsonl(file) => writeln!(file, "{}", lines::json(row)),
        };
        written.map_err(|source| failed(&self.path, source))
    }

    fn finish(self) -> Result<(), ExportError> {
        let path = self.path;
        let finish = || {
            let mut file = match self.sink {
                Sink::Parquet(writer) => writer.finish().map_err(io::Error::other)?,
                Sink::Csv(file) | Sink::Jsonl(file) => file,
            };
            file.flush()?;
            fs::rename(unfinished(&path), &path)
        };
        finish().map_err(|source| failed(&path, source))
    }
}

fn failed(path: &Path, source: io::Error) -> ExportError {
    ExportError::Write { path: path.display().to_string(), source }
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("part")
}

/// How packets' files are laid out.
const PACKETS: Layout = Layout { looked_up: &["uuid"], distinct: &[], group: 128 * 1024 };

/// Flows, and packets in them, that are read at once: some 100 MB.
const BATCH_FLOWS: usize = 1_024;
const BATCH_PACKETS: i64 = 250_000;

/// Days whose files are open at once.
const MOST_OPEN: usize = 3;

/// Rows of a file.
const MOST_ROWS: u64 = 4_000_000;
