//! `flowarc export`: flows and packets as tables for other programs.

use super::flows::{ArchiveArgs, FilterArgs, Progress, now, tell_masking};
use super::headers::path;
use super::{BadMeaning, spool};
use crate::query::export::{Format, Tables, export};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// What was typed for `flowarc export`.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// Where.
    #[command(flatten)]
    pub archive: ArchiveArgs,

    /// Which.
    #[command(flatten)]
    pub filter: FilterArgs,

    /// What to write
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "parquet")]
    pub format: Format,

    /// Write a table of packets beside that of flows
    #[arg(long)]
    pub packets: bool,

    /// Folder to make: flows/date=YYYY-MM-DD/part-N, and packets/ likewise
    #[arg(short, long, value_name = "DIR", value_parser = path())]
    pub output: PathBuf,
}

/// Exports them.
///
/// # Errors
/// Fails where the archive cannot be read or the output cannot be written.
pub fn run(args: &ExportArgs) -> Result<()> {
    if spool::is_spool(&args.archive.archive) {
        return Err(BadMeaning("a full capture is not exported as tables; flowarc get makes captures of it".to_owned()).into());
    }
    let filter = args.filter.filter(now(), false)?;
    let archive = args.archive.open()?;
    let progress = Progress::new();
    let tables = if args.packets { Tables::FlowsAndPackets } else { Tables::Flows };
    let done = export(&archive, &filter, &args.output, args.format, tables, &progress)?;
    progress.finish();
    tell_masking(&filter, done.masked);
    let packets = if args.packets { format!(" and {} packets", done.packets) } else { String::new() };
    eprintln!("{} flows{packets} in {}", done.flows, args.output.display());
    Ok(())
}
