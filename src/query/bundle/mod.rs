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
use index::{Index, Member};
use std::fs::File;
use std::io;
use std::path::Path;

/// A bundle with its index.
#[derive(Debug)]
pub struct Bundle {
    file: File,
    name: String,
    index: Index,
    /// What was unpacked last, from an offset of the content on.
    last: Option<(u64, Vec<u8>)>,
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
            Ok((file, index)) => Ok(Self { file, name, index, last: None }),
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

    /// The members' paths, in their order.
    ///
    /// # Errors
    /// Fails where the index cannot be read.
    pub fn members(&mut self) -> Result<Vec<String>, BundleError> {
        let members = self.index.members().map(|m| m.iter().map(|m| m.path.clone()).collect());
        members.map_err(|e| self.failed(e))
    }

    /// The bytes of a member, by its path; `None` where there is none.
    ///
    /// # Errors
    /// Fails where the bundle cannot be read or is damaged.
    pub fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, BundleError> {
        let found = self.index.find(path).map_err(|e| self.failed(e))?;
        let Some(Member { offset, len, .. }) = found else { return Ok(None) };
        let within = |(from, bytes): &(u64, Vec<u8>)| *from <= offset && offset + len <= from + bytes.len() as u64;
        if !self.last.as_ref().is_some_and(within) {
            // As far as the next point, so that the members behind it need not be unpacked again.
            let (from, to) = self.index.span(offset);
            let from = from.min(offset);
            let len = to.unwrap_or(0).max(offset + len) - from;
            let bytes = gzip::read(&self.file, &self.index, from, len).map_err(|e| self.failed(e))?;
            self.last = Some((from, bytes));
        }
        Ok(self.last.as_ref().map(|(from, bytes)| bytes[(offset - from) as usize..][..len as usize].to_vec()))
    }

    fn failed(&self, source: io::Error) -> BundleError {
        BundleError { name: self.name.clone(), source }
    }
}
