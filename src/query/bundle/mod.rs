//! Bundles: `.tgz` files of archived files, as uploaders make them. Read from the beginning to the end once; from then on a
//! member is had by reading about a megabyte.
//!
//! What the first reading finds is kept beside the bundle as `BUNDLE.flowarc-index`, or where that cannot be written in the
//! user's cache folder: points at which unpacking can begin (`gzip`), the members (`tar`), and their rows as Parquet.

mod gzip;
mod index;
mod inflate;
mod members;
mod tar;

use super::catalogue::rows;
use super::filter::{Exact, Filter};
use super::store::ReadAt;
use crate::archive::catalogue::Row;
use flate2::bufread::MultiGzDecoder;
use index::Index;
use members::Member;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A bundle with its index.
#[derive(Debug)]
pub struct Bundle {
    file: Box<dyn ReadAt>,
    name: String,
    index: Index,
    /// What was unpacked last, each from an offset of the content on; the newest at the end.
    spans: VecDeque<(u64, Vec<u8>)>,
}

/// Why a bundle cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("bundle {name}: {source}")]
pub struct BundleError {
    name: String,
    source: io::Error,
}

impl Bundle {
    /// Opens a bundle of this host, and makes its index if there is none or the bundle is another since; `on_index` is told so
    /// first.
    ///
    /// # Errors
    /// Fails where the bundle cannot be read or is damaged.
    pub fn open(path: &Path, on_index: &dyn Fn()) -> Result<Self, BundleError> {
        let name = path.display().to_string();
        match File::open(path).and_then(|file| Ok((stamp(&file)?, file))) {
            Ok((stamp, file)) => {
                let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
                let cache = index::in_cache(absolute.as_os_str().as_encoded_bytes());
                let indexes = index::beside(path).into_iter().chain(cache).collect::<Vec<_>>();
                Self::of(name, Box::new(file), stamp, &indexes, on_index)
            }
            Err(source) => Err(BundleError { name, source }),
        }
    }

    /// A bundle that is elsewhere; its index is in the user's cache folder. Another bundle of the name has another `stamp`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn remote(name: String, file: Box<dyn ReadAt>, stamp: [u64; 2], on_index: &dyn Fn()) -> Result<Self, BundleError> {
        let indexes: Vec<_> = index::in_cache(name.as_bytes()).into_iter().collect();
        Self::of(name, file, stamp, &indexes, on_index)
    }

    fn of(
        name: String,
        file: Box<dyn ReadAt>,
        stamp: [u64; 2],
        indexes: &[PathBuf],
        on_index: &dyn Fn(),
    ) -> Result<Self, BundleError> {
        match Index::open(indexes, &*file, stamp, on_index) {
            Ok(index) => Ok(Self { file, name, index, spans: VecDeque::new() }),
            Err(source) => Err(BundleError { name, source }),
        }
    }

    /// The rows of the wanted flows; their files are members' paths.
    ///
    /// # Errors
    /// Fails where the index cannot be read.
    pub fn rows(&self, filter: &Filter) -> Result<Vec<Row>, BundleError> {
        let parquet = self.index.rows();
        let failed = |e| self.failed(io::Error::other(e));
        if !filter.uuids.is_empty() {
            let whole: Vec<Row> = rows(parquet.clone(), filter, Exact::Yes).map_err(failed)?;
            if filter.uuids.iter().all(|u| whole.iter().any(|row| row.uuid == *u)) {
                return Ok(whole.into_iter().filter(|row| filter.uuids.contains(&row.uuid)).collect());
            }
        }
        rows(parquet, filter, Exact::No).map_err(failed)
    }

    /// The members' paths, in the order of their content.
    ///
    /// # Errors
    /// Fails where the index cannot be read.
    pub fn members(&self) -> Result<Vec<String>, BundleError> {
        let members = self.index.members().map(|m| m.into_iter().map(|m| m.path).collect());
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
        let span = match self.spans.iter().position(within).and_then(|i| self.spans.remove(i)) {
            Some(span) => span,
            None => {
                // As far as the next point, so that the members behind it need not be unpacked again.
                let (from, to) = self.index.span(offset);
                let from = from.min(offset);
                let len = to.unwrap_or(0).max(offset + len) - from;
                (from, gzip::read(&*self.file, &self.index, from, len).map_err(|e| self.failed(e))?)
            }
        };
        let content = span.1[(offset - span.0) as usize..][..len as usize].to_vec();
        self.spans.push_back(span);
        if self.spans.len() > SPANS {
            self.spans.pop_front();
        }
        Ok(Some(content))
    }

    fn failed(&self, source: io::Error) -> BundleError {
        BundleError { name: self.name.clone(), source }
    }
}

/// Reads a bundle from its beginning to its end without an index, and gives the path and the content of each file in it to `each`.
///
/// # Errors
/// Fails where it is damaged: checksums of gzip, headers of tar, an end that is missing.
pub fn stream(input: impl BufRead, each: &mut dyn FnMut(String, Vec<u8>)) -> io::Result<()> {
    let (mut input, mut reader) = (MultiGzDecoder::new(input), tar::Reader::new());
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => reader.take(&buffer[..n], &mut |entry| each(entry.path, entry.content))?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    if reader.is_whole() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the tar archive ends within a file"))
    }
}

/// Length and time of change: another bundle of the same name has others.
fn stamp(bundle: &File) -> io::Result<[u64; 2]> {
    let metadata = bundle.metadata()?;
    Ok([metadata.len(), (metadata.mtime() as u64).wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec() as u64)])
}

/// What is kept unpacked, of about a megabyte each: flows that end together lie together, but seldom in the order in which they began.
const SPANS: usize = 32;
