//! `flowarc find`: which flows an archive has.

use super::flows::{ArchiveArgs, FilterArgs, Progress, now, tell_masking};
use super::spool;
use crate::archive::catalogue::Row;
use crate::query::lines;
use anyhow::{Context, Result};
use clap::Args;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::ops::ControlFlow;

/// What was typed for `flowarc find`.
#[derive(Args, Clone, Debug)]
pub struct FindArgs {
    /// Where.
    #[command(flatten)]
    pub archive: ArchiveArgs,

    /// Which.
    #[command(flatten)]
    pub filter: FilterArgs,

    /// Stop after so many flows
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,

    /// Print a JSON object a line, with all columns of the catalogue
    #[arg(long)]
    pub json: bool,
}

/// Prints the flows: as a table on a terminal, else their UUIDs.
///
/// # Errors
/// Fails where the archive cannot be read.
pub fn run(args: &FindArgs) -> Result<()> {
    let dir = &args.archive.archive;
    let filter = args.filter.filter(now(), spool::is_spool(dir))?;
    if spool::is_spool(dir) {
        return spool::find(&args.archive, &args.filter, &filter, args.limit, args.json);
    }
    let archive = args.archive.open()?;
    let form = if args.json {
        Form::Json
    } else if io::stdout().is_terminal() {
        Form::Table
    } else {
        Form::Uuids
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut found, mut masked, mut written) = (0, false, Ok(()));
    let progress = Progress::new();
    let limit = args.limit.unwrap_or(u64::MAX);
    archive.scan(&filter, &progress, &mut |row| {
        if found >= limit {
            return ControlFlow::Break(());
        }
        written = form.write(&mut out, &row, found == 0);
        found += 1;
        masked |= row.anonymized && !row.replaced;
        if written.is_err() || found >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    progress.finish();
    written.and_then(|()| out.flush()).context("write to standard output")?;
    tell_masking(&filter, masked);
    if found == 0 {
        let kept = " (addresses that were kept when others were replaced are asked for without --key)";
        eprintln!("no flow matches{}", if args.filter.key.is_some() { kept } else { "" });
    }
    Ok(())
}

/// How flows are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Table,
    Json,
    Uuids,
}

impl Form {
    fn write(self, out: &mut dyn Write, row: &Row, first: bool) -> io::Result<()> {
        match self {
            Self::Json => writeln!(out, "{}", lines::json(row)),
            Self::Uuids => writeln!(out, "{}", row.uuid),
            Self::Table => {
                if first {
                    writeln!(
                        out,
                        "{:<23} {:>9} {:<28} {:<28} {:>7} {:>8} {:>6} {:<14} UUID",
                        "START (UTC)", "DURATION", "CLIENT", "SERVER", "PACKETS", "BYTES", "RETR", "END"
                    )?;
                }
                let start: String = row.start.to_string().replace('T', " ").chars().take(23).collect();
                writeln!(
                    out,
                    "{start} {:>9} {:<28} {:<28} {:>7} {:>8} {:>5.1}% {:<14} {}",
                    format!("{:.3}s", row.duration_s),
                    end(&row.client_addr, row.client_port),
                    end(&row.server_addr, row.server_port),
                    row.client_packets + row.server_packets,
                    short(row.client_bytes + row.server_bytes),
                    100.0 * row.retransmission_rate,
                    row.end_reason,
                    row.uuid
                )
            }
        }
    }
}

fn end(addr: &str, port: u16) -> String {
    if addr.contains(':') { format!("[{addr}]:{port}") } else { format!("{addr}:{port}") }
}

/// Bytes with three digits or four.
fn short(bytes: i64) -> String {
    let mut n = bytes as f64;
    for unit in ["", "K", "M", "G"] {
        if n < 1_000.0 {
            return if unit.is_empty() { format!("{n}") } else { format!("{n:.1}{unit}") };
        }
        n /= 1_000.0;
    }
    format!("{n:.1}T")
}
