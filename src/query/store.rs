//! Where an archive's files are: a folder of this host, or an object store.

use super::archive::{ArchiveError, Watch};
use super::bundle::Bundle;
use super::filter::Filter;
use super::parallel::cores;
use crate::archive::catalogue::Row;
use crate::archive::catalogue::row::RowError;
use crate::archive::gzip;
use crate::time::Timestamp;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

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
        self.root.join(path).display().to_string()
    }
}

/// Whether a file's first bytes say that its flow is of another time.
fn is_unwanted(head: &[u8], filter: &Filter) -> bool {
    let metadata = gzip::metadata(head).filter(|m| m.last > Timestamp::ZERO);
    metadata.is_some_and(|m| !filter.wants_time(m.first.into(), m.last.into()))
}

/// Bytes that have the metadata of our files and of most others.
const HEAD: usize = 256;
