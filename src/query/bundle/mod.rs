//! Bundles: `.tgz` files of archived files, as uploaders make them. Read from the beginning to the end once; from then on a
//! member is had by reading about a megabyte.
//!
//! What the first reading finds is kept beside the bundle as `BUNDLE.flowarc-index`, or where that cannot be written in the
//! user's cache folder: points at which unpacking can begin ([`gzip`]), the members ([`tar`]), and their rows as Parquet.

mod gzip;
mod index;
mod inflate;
mod tar;

use super::catalogue::rows;
use super::filter::{Exact, Filter};
use crate::archive::catalogue::Row;
use index::Index;
use std::fs::File;
use std::io;
use std::path::Path;

/// A bundle with its index.
#[derive(Debug)]
pub struct Bundle {
    file: File,
    name: String,
    index: Index,
}

/// Why a bundle cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("bundle {name}: {source}")]
pub struct BundleError {
    name: String,
    source: io::Error,
}

impl Bundle {
    /// Opens a bundle, and makes its index if there is none or the bundle is another since; `on_index` is told so first.
    ///
    /// # Errors
    /// Fails where the bundle cannot be read or is damaged.
    pub fn open(path: &Path, on_index: &dyn Fn()) -> Result<Self, BundleError> {
        let name = path.display().to_string();
        let open = || {
            let file = File::open(path)?;
            let index = Index::open(path, &file, on_index)?;
            Ok((file, index))
        };
        match open() {
            Ok((file, index)) => Ok(Self { file, name, index }),
            Err(source) => Err(BundleError { name, source }),
        }
    }

    /// The rows of the wanted flows; their files are members' paths.
    ///
    /// # Errors
    /// Fails where the index cannot be read.
    pub fn rows(&mut self, filter: &Filter) -> Result<Vec<Row>, BundleError> {
        let parquet = self.index.rows().map_err(|source| self.failed(source))?;
        let failed = |e| self.failed(io::Error::other(e));
        if !filter.uuids.is_empty() {
            let whole: Vec<Row> = rows(parquet.clone(), filter, Exact::Yes).map_err(failed)?;
            if filter.uuids.iter().all(|u| whole.iter().any(|row| row.uuid == *u)) {
                return Ok(whole.into_iter().filter(|row| filter.uuids.contains(&row.uuid)).collect());
            }
        }
        rows(parquet, filter, Exact::No).map_err(failed)
    }

    /// The bytes of a member, by its path; `None` where there is none.
    ///
    /// # Errors
    /// Fails where the bundle cannot be read or is damaged.
    pub fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, BundleError> {
        let found = match self.index.members() {
            Ok(members) => members.iter().find(|m| m.path == path).map(|m| (m.offset, m.len)),
            Err(source) => return Err(self.failed(source)),
        };
        let Some((offset, len)) = found else { return Ok(None) };
        gzip::read(&self.file, &self.index, offset, len).map(Some).map_err(|e| self.failed(e))
    }

    fn failed(&self, source: io::Error) -> BundleError {
        BundleError { name: self.name.clone(), source }
    }
}
