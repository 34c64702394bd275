//! `flowarc get`: flows out of an archive, for tcpdump, Wireshark and others.

use super::BadMeaning;
use super::flows::{ArchiveArgs, FilterArgs, Progress, now, tell_masking};
use super::headers::path;
use super::spool;
use crate::archive::catalogue::Row;
use crate::query::archive::Archive;
use crate::query::filter::Filter;
use crate::query::get::{flow, merge, pcap_of};
use anyhow::{Context, Result, bail};
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What was typed for `flowarc get`.
#[derive(Args, Clone, Debug)]
pub struct GetArgs {
    /// Where.
    #[command(flatten)]
    pub archive: ArchiveArgs,

    /// UUIDs, or their beginnings; none where filters say which flows
    #[arg(value_name = "UUID")]
    pub uuids: Vec<String>,

    /// Which.
    #[command(flatten)]
    pub filter: FilterArgs,

    /// File to make, with all flows if it ends in .pcap or .gz (packed then), or folder for a file of each flow; - is standard output [default: -]
    #[arg(short, long, value_name = "FILE|DIR", value_parser = path())]
    pub output: Option<PathBuf>,

    /// Write all packets of all flows to one file, in the order of time, whatever its name; standard output does so always
    #[arg(long)]
    pub merge: bool,
}

/// Writes the flows.
///
/// # Errors
/// Fails where no flow matches, where the archive cannot be read, and where a file of the output exists.
pub fn run(args: &GetArgs) -> Result<()> {
    let dir = &args.archive.archive;
    let is_spool = spool::is_spool(dir);
    let mut filter = args.filter.filter(now(), is_spool)?;
    filter.uuids.extend(args.uuids.iter().cloned());
    if filter == Filter::default() && args.filter.proto.is_none() && args.filter.bpf.is_none() {
        return Err(BadMeaning("which flows? give UUIDs, or filters such as --since 10m".to_owned()).into());
    }
    let output = args.output.as_deref().filter(|path| *path != Path::new("-"));
    if output.is_none() && io::stdout().is_terminal() {
        return Err(BadMeaning(
            "a capture is not for a terminal: add -o FILE, or | tcpdump -r - or | wireshark -k -i -".to_owned(),
        )
        .into());
    }
    if is_spool {
        return spool::get(&args.archive, &args.filter, &filter, output);
    }
    let archive = args.archive.open()?;
    let progress = Progress::new();
    let mut rows: Vec<Row> = Vec::new();
    archive.scan(&filter, &progress, &mut |row| {
        rows.push(row);
        ControlFlow::Continue(())
    })?;
    progress.finish();
    if rows.is_empty() {
        bail!("no flow matches in {}", args.archive.archive.display());
    }
    tell_masking(&filter, rows.iter().any(|row| row.anonymized && !row.replaced));
    let missing: Vec<_> = args.uuids.iter().filter(|u| !rows.iter().any(|row| row.uuid.starts_with(u.as_str()))).collect();
    let writer = Output { archive: &archive, progress: &progress };
    match output {
        None => writer.pcap(rows, BufWriter::new(io::stdout().lock())).context("standard output")?,
        Some(path) if path.is_dir() || ends_with_slash(path) || rows.len() > 1 && !args.merge && !is_capture_name(path) => {
            fs::create_dir_all(path).with_context(|| format!("make folder {}", path.display()))?;
            for row in &rows {
                let name = format!("{}.pcap.gz", row.uuid);
                writer.stored(row, &path.join(if row.file.ends_with(".gz") { name } else { format!("{}.pcap", row.uuid) }))?;
            }
            eprintln!("{} files in {}", rows.len(), path.display());
        }
        Some(path) if is_gzip_name(path) && rows.len() == 1 && rows[0].file.ends_with(".gz") => writer.stored(&rows[0], path)?,
        Some(path) => {
            let file = File::create_new(path).with_context(|| format!("make {}", path.display()))?;
            if is_gzip_name(path) {
                let mut packed = GzEncoder::new(file, Compression::default());
                writer.pcap(rows, BufWriter::new(&mut packed))?;
                packed.finish().with_context(|| format!("write {}", path.display()))?;
            } else {
                writer.pcap(rows, BufWriter::new(file))?;
            }
        }
    }
    if !missing.is_empty() {
        let missing: Vec<&str> = missing.into_iter().map(String::as_str).collect();
        bail!("not in {}: {}", args.archive.archive.display(), missing.join(", "));
    }
    Ok(())
}

struct Output<'a> {
    archive: &'a Archive,
    progress: &'a Progress,
}

impl Output<'_> {
    /// One pcap file that is not compressed.
    fn pcap(&self, rows: Vec<Row>, mut out: impl Write) -> Result<()> {
        match &rows[..] {
            [row] => out.write_all(&pcap_of(&flow(self.archive, &row.file, self.progress)?))?,
            _ => merge(self.archive, rows, self.progress, &mut out)?,
        }
        Ok(out.flush()?)
    }

    /// The file as it is in the archive.
    fn stored(&self, row: &Row, path: &Path) -> Result<()> {
        let bytes = self.archive.read(&row.file, self.progress)?;
        let write = || File::create_new(path)?.write_all(&bytes);
        write().with_context(|| format!("make {}", path.display()))
    }
}

fn is_gzip_name(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "gz")
}

fn is_capture_name(path: &Path) -> bool {
    is_gzip_name(path) || path.extension().is_some_and(|e| e == "pcap")
}

fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}
