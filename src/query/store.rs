//! Where an archive's files are: a folder of this host, or an object store.

use super::archive::{ArchiveError, Watch};
use super::bundle::Bundle;
use super::filter::Filter;
use super::parallel::cores;
use crate::archive::catalogue::Row;
use crate::archive::catalogue::row::RowError;
use crate::archive::gzip;
use crate::time::Timestamp;
use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Files by their paths below an archive.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The names of files and of folders in a folder; the archive itself is the empty path.
    ///
    /// # Errors
    /// Fails where the folder cannot be read.
    fn list(&self, folder: &str) -> io::Result<Listing>;

    /// Whether there is a file.
    ///
    /// # Errors
    /// Fails where that cannot be found out.
    fn exists(&self, path: &str) -> io::Result<bool>;

    /// All bytes of a file.
    ///
    /// # Errors
    /// Fails with `NotFound` where there is none.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;

    /// A file's row if its flow is wanted. What its first bytes tell is asked first.
    ///
    /// # Errors
    /// Fails where the file cannot be read or is no capture.
    fn row(&self, path: &str, filter: &Filter) -> Result<Option<Row>, RowError>;

    /// A bundle.
    ///
    /// # Errors
    /// Fails where it cannot be read or is damaged.
    fn bundle(&self, path: &str, watch: &dyn Watch) -> Result<Bundle, ArchiveError>;

    /// What messages call a file.
    fn name(&self, path: &str) -> String;

    /// How many threads read files at once.
    fn threads(&self) -> usize {
        cores()
    }
}

/// What is in a folder.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    /// Names of files.
    pub files: Vec<String>,
    /// Names of folders.
    pub folders: Vec<String>,
}

/// Bytes that can be read at any place.
pub trait ReadAt: Send + Sync + std::fmt::Debug {
    /// Reads some bytes from a place on; none at the end.
    ///
    /// # Errors
    /// Fails where they cannot be read.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;

    /// Bytes to ask for where more will be wanted.
    fn request(&self) -> usize {
        8 * 1024
    }
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, at)
    }
}

/// Reads from a place on to the end.
#[derive(Debug)]
pub struct Sequential<'a> {
    /// What is read.
    pub file: &'a dyn ReadAt,
    /// The next place.
    pub at: u64,
}

impl Read for Sequential<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A part of a file, as a Parquet file.
#[derive(Clone, Debug)]
pub struct Section {
    /// What is read.
    pub file: Arc<dyn ReadAt>,
    /// Where the part begins.
    pub at: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl Length for Section {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Section {
    type T = BufReader<Rest>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        let rest = Rest { file: Arc::clone(&self.file), at: self.at + start.min(self.len), end: self.at + self.len };
        Ok(BufReader::with_capacity(self.file.request(), rest))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let short = || ParquetError::EOF(format!("{:?} ends before {start}+{length}", self.file));
        if start.checked_add(length as u64).is_none_or(|end| end > self.len) {
            return Err(short());
        }
        let (mut bytes, mut filled) = (vec![0; length], 0);
        while filled < length {
            match self.file.read_at(&mut bytes[filled..], self.at + start + filled as u64)? {
                0 => return Err(short()),
                n => filled += n,
            }
        }
        Ok(bytes.into())
    }
}

/// Reads a [`Section`] from a place on.
#[derive(Debug)]
pub struct Rest {
    file: Arc<dyn ReadAt>,
    at: u64,
    end: u64,
}

impl Read for Rest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let n = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A folder of this host.
#[derive(Debug)]
pub struct Local {
    /// The folder.
    pub root: PathBuf,
}

impl Store for Local {
    fn list(&self, folder: &str) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for entry in fs::read_dir(self.root.join(folder))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type()?;
            if kind.is_dir() {
                listing.folders.push(name);
            } else if kind.is_file() {
                listing.files.push(name);
            }
        }
        Ok(listing)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        Ok(self.root.join(path).is_file())
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        fs::read(self.root.join(path))
    }

    fn row(&self, path: &str, filter: &Filter) -> Result<Option<Row>, RowError> {
        let mut file = File::open(self.root.join(path))?;
        if filter.since.is_some() || filter.until.is_some() {
            let mut head = [0; HEAD];
            let len = file.read(&mut head)?;
            if is_unwanted(&head[..len], filter) {
                return Ok(None);
            }
            file = File::open(self.root.join(path))?;
        }
        let row = Row::read(path, file)?;
        Ok(filter.matches(&(&row).into()).then_some(row))
    }

    fn bundle(&self, path: &str, watch: &dyn Watch) -> Result<Bundle, ArchiveError> {
        let path = self.root.join(path);
        Ok(Bundle::open(&path, &|| watch.indexing(&path.display().to_string()))?)
    }

    fn name(&self, path: &str) -> String {
        // A file that was named without a folder is called as it was.
        let path = self.root.join(path);
        path.strip_prefix(".").unwrap_or(&path).display().to_string()
    }
}

/// Whether a file's first bytes say that its flow is of another time.
fn is_unwanted(head: &[u8], filter: &Filter) -> bool {
    let metadata = gzip::metadata(head).filter(|m| m.last > Timestamp::ZERO);
    metadata.is_some_and(|m| !filter.wants_time(m.first.into(), m.last.into()))
}

/// Bytes that have the metadata of our files and of most others.
const HEAD: usize = 256;
