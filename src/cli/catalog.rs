//! `flowarc catalog`: makes the catalogue of an archive.

use super::flows::Progress;
use super::headers::path;
use crate::archive::catalogue::Folder;
use crate::query::archive::{Archive, beside};
use crate::query::rebuild::{Extent, rebuild};
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;

/// What was typed for `flowarc catalog`.
#[derive(Args, Clone, Debug)]
pub struct CatalogArgs {
    /// Folder of archived files
    #[arg(value_name = "ARCHIVE", value_parser = path())]
    pub archive: PathBuf,

    /// The catalogue's folder [default: ARCHIVE.catalog]
    #[arg(short, long, visible_alias = "catalog", value_name = "DIR", value_parser = path(), env = "FLOWARC_CATALOG", hide_env_values = true)]
    pub output: Option<PathBuf>,

    /// Read every file again, instead of those without a row; rows of files that are gone stay
    #[arg(long)]
    pub all: bool,
}

/// Makes it.
///
/// # Errors
/// Fails where the archive cannot be read or the catalogue cannot be written.
pub fn run(args: &CatalogArgs) -> Result<()> {
    let archive = Archive::open(&args.archive, None)?.without_catalogue();
    let dir = args.output.clone().unwrap_or_else(|| beside(&args.archive));
    let folder = Folder::create(&dir).with_context(|| format!("make catalogue {}", dir.display()))?;
    let progress = Progress::new();
    let extent = if args.all { Extent::All } else { Extent::Missing };
    let done = rebuild(&archive, &folder, extent, &progress)?;
    progress.finish();
    eprintln!(
        "{}: {} rows added, {} files had theirs, {} rows of files that are gone kept, {} files unreadable",
        dir.display(),
        done.added,
        done.known,
        done.gone,
        done.unreadable
    );
    Ok(())
}
